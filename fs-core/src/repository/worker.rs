//! The queues and threads that bring records: a request, its answer, and the opening of what came.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;

use super::flights::{Flights, Urgency};
use super::opened::Want;
use super::plan::{Line, Part};
use super::{ReadError, Repository, lock};
use crate::object::pack_name;
use crate::storage::{self, Begun, StoreError};
use crate::time::Timestamp;

/// Requests on the line for what nobody waits for yet.
const AHEAD_ON_LINE_MAX: usize = 8;
/// Records that are opened in one go: a large answer is shared between the workers.
const OPEN_SIZE: u64 = 512 << 10;

/// What the threads share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) flights: Flights,
    pub(super) queues: Mutex<Queues>,
    pub(super) work: Condvar,
    pub(super) is_closing: AtomicBool,
    /// Bytes asked for ahead of demand and not opened yet.
    pub(super) ahead: AtomicU64,
    /// Whether the store was seen to answer later than at once.
    pub(super) is_far: AtomicBool,
    pub(super) requests: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) line: Mutex<Line>,
    pub(super) last_error: Mutex<Option<(Timestamp, String)>>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) demand: VecDeque<Job>,
    pub(super) ahead: VecDeque<Job>,
    ahead_on_line: usize,
}

impl Queues {
    /// All that waits. What is on the line still is, and gives its place back when it comes.
    pub(super) fn empty(&mut self) -> [VecDeque<Job>; 2] {
        [std::mem::take(&mut self.demand), std::mem::take(&mut self.ahead)]
    }
}

/// A request on its way through the queues. Whatever happens to it, nobody who waits for its records is forgotten.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) repository: Arc<Repository>,
    /// Its wants are taken out as they land.
    pub(super) part: Part,
    pub(super) step: Step,
    /// Memory set aside, if nobody waited for it at first.
    pub(super) reserved: Option<Reserved>,
    /// Its place on the line, likewise.
    pub(super) on_line: Option<OnLine>,
}

/// What is to be done next with a request.
#[derive(Debug)]
pub(super) enum Step {
    /// Ask for the bytes.
    Fetch,
    /// Look at what the store has answered for the bytes from this offset of the pack.
    Arrived(u64, Result<Bytes, StoreError>),
    /// Open the records in these bytes from this offset of the pack.
    Open(u64, Bytes),
}

impl Drop for Job {
    fn drop(&mut self) {
        for want in &self.part.wants {
            self.repository.fetcher.shared.flights.land(&want.reference.id, Err(given_up(want)));
        }
    }
}

/// A share of the memory for what is fetched ahead, given back when dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Reserved {
    pub(super) fn new(shared: &Arc<Shared>, bytes: u64) -> Self {
        shared.ahead.fetch_add(bytes, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), bytes }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shared.ahead.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One of the few places on the line for what is fetched ahead, given back when dropped.
#[derive(Debug)]
pub(super) struct OnLine(Arc<Shared>);

impl Drop for OnLine {
    fn drop(&mut self) {
        lock(&self.0.queues).ahead_on_line -= 1;
        self.0.work.notify_one();
    }
}

impl Shared {
    pub(super) fn push(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut queues = lock(&self.queues);
        let mut more = 0;
        for job in jobs {
            more += 1;
            // Looked at under the lock that `raise` takes: who comes to wait before finds the job here, who came earlier has left a mark.
            match self.urgency(&job.part) {
                Urgency::Demand => queues.demand.push_back(job),
                Urgency::Ahead => queues.ahead.push_back(job),
            }
        }
        drop(queues);
        (0..more).for_each(|_| self.work.notify_one());
    }

    /// Somebody now waits for what was only fetched ahead.
    pub(super) fn raise(&self, want: &Want) {
        let mut queues = lock(&self.queues);
        let at = queues.ahead.iter().position(|job| job.part.wants.iter().any(|other| other.reference.id == want.reference.id));
        if let Some(job) = at.and_then(|at| queues.ahead.remove(at)) {
            queues.demand.push_back(job);
            drop(queues);
            self.work.notify_one();
        }
    }

    /// The next job: what somebody waits for first, then what has arrived, then what is asked for ahead while the line has room.
    fn next(self: &Arc<Self>) -> Option<Job> {
        let mut queues = lock(&self.queues);
        loop {
            if self.is_closing.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(job) = queues.demand.pop_front() {
                return Some(job);
            }
            let has_room = queues.ahead_on_line < AHEAD_ON_LINE_MAX;
            let at = queues.ahead.iter().position(|job| has_room || !matches!(job.step, Step::Fetch));
            if let Some(mut job) = at.and_then(|at| queues.ahead.remove(at)) {
                if matches!(job.step, Step::Fetch) {
                    queues.ahead_on_line += 1;
                    job.on_line = Some(OnLine(Arc::clone(self)));
                }
                return Some(job);
            }
            queues = self.work.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How urgent a part is by now.
    fn urgency(&self, part: &Part) -> Urgency {
        let is_demanded = part.wants.iter().any(|want| self.flights.is_demanded(&want.reference.id));
        if is_demanded { Urgency::Demand } else { Urgency::Ahead }
    }
}

/// A worker: until the queues are closed.
pub(super) fn serve(shared: &Arc<Shared>) {
    while let Some(mut job) = shared.next() {
        // A panic in one answer must not take the drive down; the job tells those who wait.
        let run = AssertUnwindSafe(|| match std::mem::replace(&mut job.step, Step::Fetch) {
            Step::Fetch => fetch(shared, job),
            Step::Arrived(start, result) => arrived(shared, job, start, result),
            Step::Open(start, bytes) => open(shared, job, start, bytes),
        });
        drop(std::panic::catch_unwind(run));
    }
}

/// Asks for the bytes of a part. A store over a network answers later, on its own thread; a local one at once.
fn fetch(shared: &Arc<Shared>, mut job: Job) {
    open_at_hand(shared, &mut job);
    let Some(core) = job.part.core() else { return };
    job.part.range = core;
    let range = job.repository.widened(&job.part);
    let (store, name, start) = (Arc::clone(job.repository.store()), pack_name(job.part.kind, &job.part.pack), range.start);
    let place = name.as_str().to_owned();
    match storage::begin(place, async move { store.get_range(&name, range).await }) {
        Begun::Done(result) => arrived(shared, job, start, result),
        Begun::Pending(call) => {
            let shared = Arc::clone(shared);
            call.then(move |result, took| {
                drop(job.on_line.take());
                if let Ok(bytes) = &result {
                    lock(&shared.line).note(bytes.len() as u64, took);
                }
                job.step = Step::Arrived(start, result);
                shared.push([job]);
            });
        }
    }
}

/// Opens those records of a part whose sealed bytes are here already.
fn open_at_hand(shared: &Arc<Shared>, job: &mut Job) {
    let repository = Arc::clone(&job.repository);
    for _ in 0..job.part.wants.len() {
        let Some(want) = job.part.wants.front().copied() else { return };
        // Should looking or opening panic, it still is among those that will be told.
        let opened = repository.at_hand(&job.part, &want.reference.place()).map(|sealed| repository.open_or_read(&want, sealed));
        match opened {
            Some(opened) => {
                job.part.wants.pop_front();
                shared.flights.land(&want.reference.id, opened);
            }
            None => job.part.wants.rotate_left(1),
        }
    }
}

fn arrived(shared: &Arc<Shared>, mut job: Job, start: u64, result: Result<Bytes, StoreError>) {
    match result {
        Ok(bytes) => {
            job.repository.keep_sealed(&job.part, start, &bytes);
            open(shared, job, start, bytes);
        }
        // The hint may be out of date for one of them: each is looked for by itself.
        Err(error) if error.is_of_object() => open(shared, job, start, Bytes::new()),
        Err(error) => {
            let error = Arc::new(job.repository.noted(error.into()));
            for want in std::mem::take(&mut job.part.wants) {
                shared.flights.land(&want.reference.id, Err(ReadError::Shared(Arc::clone(&error))));
            }
        }
    }
}

/// Opens the records of a part and tells who waits for them. Of a large answer the rest is left to the other workers.
fn open(shared: &Arc<Shared>, mut job: Job, start: u64, mut bytes: Bytes) {
    if let Some(wants) = job.part.split_off(OPEN_SIZE) {
        let part = Part { kind: job.part.kind, pack: job.part.pack, range: job.part.range.clone(), wants };
        let (repository, reserved) = (Arc::clone(&job.repository), job.reserved.take());
        shared.push([Job { repository, part, step: Step::Open(start, bytes.clone()), reserved, on_line: None }]);
    }
    let repository = Arc::clone(&job.repository);
    while let Some(want) = job.part.wants.front().copied() {
        let sealed = slice(&bytes, start, &want.reference.place()).unwrap_or_default();
        if job.part.wants.len() == 1 && sealed.len() > bytes.len() / 2 {
            // The last one may be opened in place. A small one would keep memory that nobody counts: that of the whole answer.
            bytes = Bytes::new();
        }
        let opened = repository.open_or_read(&want, sealed);
        job.part.wants.pop_front();
        shared.flights.land(&want.reference.id, opened);
    }
}

/// What those are told whose record was given up half-way: it may come another time.
pub(super) fn given_up(want: &Want) -> ReadError {
    let source = std::io::Error::other("it was given up");
    StoreError::Failed { place: want.reference.id.to_string(), source }.into()
}

/// A range of a pack out of bytes that begin at `start` of it.
pub(super) fn slice(bytes: &Bytes, start: u64, range: &Range<u64>) -> Option<Bytes> {
    let from = usize::try_from(range.start.checked_sub(start)?).ok()?;
    let to = usize::try_from(range.end.checked_sub(start)?).ok()?;
    (from <= to && to <= bytes.len()).then(|| bytes.slice(from..to))
}
