//! How records come from the store into memory: nobody who asks waits. Few threads open what arrives; the network has its own.
//!
//! A wish becomes a flight (`flights`), wishes become requests (`plan`), a request is answered from sealed bytes at hand (`sealed`) or by the store, and
//! what arrives is opened by the workers: what somebody waits for goes first. What is fetched ahead has a share of memory and of the line, and what
//! exceeds it is not fetched: whoever needs it will ask.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::flights::{Joined, Urgency, Waiter};
use super::opened::{Held, Opened, Want};
use super::plan::{Part, plan};
use super::worker::{Job, Reserved, Shared, Step, given_up, serve, slice};
use super::{ReadError, Repository, lock, malformed};
use crate::object::{ObjectKind, pack_name};
use crate::pack::pack_kind;
use crate::record::{RecordKind, Reference};
use crate::report::chain;
use crate::storage::{self, CALL_DEADLINE, StoreError};
use crate::time::Timestamp;

/// Largest request for several records that somebody waits for.
pub const PART_MAX: u64 = 1 << 20;
/// How often it is looked whether somebody has waited too long.
const TICK: Duration = Duration::from_secs(1);
/// How long closing waits for a worker that waits for a store.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What the fetching of records is doing and has done.
#[derive(Clone, Debug, Default)]
pub struct FetchStatus {
    /// Bytes of opened and sealed records in memory.
    pub memory_used: u64,
    /// Most bytes that reading may take.
    pub memory_max: u64,
    /// Records on their way.
    pub in_flight: u64,
    /// Requests that wait for their turn.
    pub queued: u64,
    /// Requests sent to the store.
    pub requests: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Bytes per second of late, if more than a little was fetched.
    pub bytes_per_second: Option<u64>,
    /// Milliseconds that a small request takes of late.
    pub latency_ms: Option<u64>,
    /// The last failure and when it was.
    pub last_error: Option<(Timestamp, String)>,
}

/// The threads and queues of one repository.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) shared: Arc<Shared>,
    threads: OnceLock<(Vec<JoinHandle<()>>, Receiver<()>)>,
    /// Bytes that may be on their way ahead of demand.
    ahead_max: u64,
}

impl Fetcher {
    pub(super) fn new(ahead_max: usize) -> Self {
        Self { shared: Arc::default(), threads: OnceLock::new(), ahead_max: ahead_max as u64 }
    }

    fn start(&self, repository: &Arc<Repository>) {
        self.threads.get_or_init(|| {
            let (until_ended, ended) = bounded(0);
            let worker = |_| {
                let (shared, until_ended) = (Arc::clone(&self.shared), until_ended.clone());
                let serving = move || {
                    serve(&shared);
                    drop(until_ended);
                };
                std::thread::Builder::new().name("opener".into()).spawn(serving)
            };
            let count = std::thread::available_parallelism().map_or(4, |cores| (cores.get() * 2).clamp(4, 16));
            watch(Arc::downgrade(&self.shared), repository.store().location());
            ((0..count).filter_map(|n| worker(n).ok()).collect(), ended)
        });
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::Relaxed);
        let abandoned = lock(&self.shared.queues).empty();
        self.shared.work.notify_all();
        drop(abandoned);
        let Some((threads, ended)) = self.threads.take() else { return };
        let me = std::thread::current().id();
        let is_worker = threads.iter().any(|thread| thread.thread().id() == me);
        // The last to hold a repository may be a worker; it does not wait for itself.
        if !is_worker && ended.recv_timeout(STOP_WITHIN) == Err(RecvTimeoutError::Disconnected) {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}

/// Fails what somebody has waited for too long, whatever the threads are doing.
fn watch(shared: Weak<Shared>, place: String) {
    let age_max = u32::try_from(CALL_DEADLINE.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
    storage::every(TICK, move || {
        let Some(shared) = shared.upgrade() else { return false };
        shared.flights.tick(age_max, || StoreError::Timeout { place: place.clone(), after: CALL_DEADLINE }.into());
        true
    });
}

impl Repository {
    /// Fetches records that somebody waits for. `done` gets all of them or the first error, on a thread of ours; it must not wait.
    pub fn fetch(self: &Arc<Self>, wants: &[Want], mut held: Held, done: impl FnOnce(Result<Held, ReadError>) + Send + 'static) {
        struct Gathering<F> {
            held: Held,
            left: usize,
            done: Option<F>,
        }
        if wants.is_empty() {
            return done(Ok(held));
        }
        if let [want] = wants {
            let id = want.reference.id;
            let waiter: Waiter = Box::new(move |result| {
                done(result.map(|opened| {
                    held.insert(id, opened);
                    held
                }));
            });
            return self.request(vec![(*want, Some(waiter))], Urgency::Demand, PART_MAX);
        }
        let gathering = Arc::new(Mutex::new(Gathering { held, left: wants.len(), done: Some(done) }));
        let waiter = |want: &Want| -> Waiter {
            let (gathering, id) = (Arc::clone(&gathering), want.reference.id);
            Box::new(move |result| {
                let mut all = lock(&gathering);
                all.left -= 1;
                let outcome = match result {
                    Ok(opened) => {
                        all.held.insert(id, opened);
                        if all.left > 0 {
                            return;
                        }
                        Ok(std::mem::take(&mut all.held))
                    }
                    Err(error) => Err(error),
                };
                let done = all.done.take();
                drop(all);
                if let Some(done) = done {
                    done(outcome);
                }
            })
        };
        let requests = wants.iter().map(|want| (*want, Some(waiter(want)))).collect();
        self.request(requests, Urgency::Demand, PART_MAX);
    }

    /// Fetches records with as few requests as `part_max` bytes each allow, and tells the waiters. What is only wanted ahead is left out where memory
    /// or queues are full; its waiters are then told nothing.
    pub fn request(self: &Arc<Self>, requests: Vec<(Want, Option<Waiter>)>, urgency: Urgency, part_max: u64) {
        let fetcher = &self.fetcher;
        let shared = &fetcher.shared;
        let (mut begun, mut planned) = (Vec::new(), 0);
        for (want, waiter) in requests {
            let id = want.reference.id;
            if let Some(opened) = self.memory.get(&id) {
                if let Some(waiter) = waiter {
                    waiter(Ok(opened));
                }
                continue;
            }
            let is_ahead = urgency == Urgency::Ahead;
            if is_ahead
                && !shared.flights.has(&id)
                && shared.ahead.load(Ordering::Relaxed) + planned + want.reference.cost() > fetcher.ahead_max
            {
                continue;
            }
            match shared.flights.join(id, urgency, waiter) {
                Joined::Waiting => {}
                Joined::Raised => shared.raise(&want),
                Joined::Begun => {
                    // Between the look and the flight somebody else's may have landed.
                    if let Some(opened) = self.memory.get(&id) {
                        shared.flights.land(&id, Ok(opened));
                        continue;
                    }
                    planned += want.reference.cost();
                    begun.push(want);
                }
            }
        }
        if begun.is_empty() {
            return;
        }
        fetcher.start(self);
        let limits = lock(&shared.line).limits(part_max);
        let job = |part: Part| {
            let reserved =
                (urgency == Urgency::Ahead).then(|| Reserved::new(shared, part.wants.iter().map(|want| want.reference.cost()).sum()));
            Job { repository: Arc::clone(self), part, step: Step::Fetch, reserved, on_line: None }
        };
        shared.push(plan(begun, limits).into_iter().map(job));
    }

    /// Bytes that may be asked for ahead of demand now, sealed and opened taken together.
    pub fn ahead_room(&self) -> u64 {
        self.fetcher.ahead_max.saturating_sub(self.fetcher.shared.ahead.load(Ordering::Relaxed))
    }

    /// Opens a record of a tree if its sealed bytes are in memory; whether it is there now.
    pub fn open_at_hand(&self, want: &Want) -> bool {
        let sealed = lock(&self.extents).get(&want.reference.pack, &want.reference.place());
        let plain = sealed.and_then(|sealed| self.open_record(want.kind, &want.reference, sealed).ok());
        plain.is_some_and(|plain| self.decode_and_keep(want, plain).is_ok() && self.memory.contains(&want.reference.id))
    }

    /// A record for a caller who waits for it here.
    pub(super) fn load(&self, kind: RecordKind, reference: &Reference) -> Result<Opened, ReadError> {
        let (id, want) = (reference.id, Want { kind, reference: *reference });
        if let Some(opened) = self.memory.get(&id) {
            return Ok(opened);
        }
        if let Some(opened) = self.of_past(kind, &id) {
            return opened.inspect(|opened| self.memory.insert(id, opened.clone()));
        }
        let shared = &self.fetcher.shared;
        let (arrived, arrival) = bounded(1);
        let waiter: Waiter = Box::new(move |result| drop(arrived.send(result)));
        match shared.flights.join(id, Urgency::Demand, Some(waiter)) {
            Joined::Waiting => {}
            Joined::Raised => shared.raise(&want),
            Joined::Begun => {
                let mut landing = Landing { shared, want, result: None };
                landing.result = Some(self.bring(&want));
            }
        }
        // Every flight lands or is given up; the limit is for the case that nobody is there to give it up.
        let late = || StoreError::Timeout { place: id.to_string(), after: CALL_DEADLINE };
        arrival.recv_timeout(CALL_DEADLINE + 3 * TICK).unwrap_or_else(|_| Err(late().into()))
    }

    /// Reads and opens one record on this thread.
    fn bring(&self, want: &Want) -> Result<Opened, ReadError> {
        let part = Part { kind: pack_kind(want.kind), pack: want.reference.pack, range: want.reference.place(), wants: [*want].into() };
        if let Some(bytes) = self.at_hand(&part, &part.range) {
            return self.open_or_read(want, bytes);
        }
        let range = self.widened(&part);
        let name = pack_name(part.kind, &part.pack);
        match storage::wait(name.as_str(), self.store().get_range(&name, range.clone())) {
            Ok(bytes) => {
                self.keep_sealed(&part, range.start, &bytes);
                let sealed = slice(&bytes, range.start, &part.range).unwrap_or_default();
                drop(bytes);
                self.open_or_read(want, sealed)
            }
            Err(error) if error.is_of_object() => self.read_and_decode(want),
            Err(error) => Err(self.noted(error.into())),
        }
    }

    /// What fetching is doing.
    pub fn fetch_status(&self) -> FetchStatus {
        let shared = &self.fetcher.shared;
        let line = *lock(&shared.line);
        let queues = lock(&shared.queues);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate for people")]
        let bytes_per_second = line.bandwidth().map(|rate| rate as u64);
        FetchStatus {
            memory_used: (self.memory.used() + lock(&self.extents).used()) as u64,
            memory_max: self.memory_max as u64,
            in_flight: shared.flights.count() as u64,
            queued: (queues.demand.len() + queues.ahead.len()) as u64,
            requests: shared.requests.load(Ordering::Relaxed),
            bytes: shared.bytes.load(Ordering::Relaxed),
            bytes_per_second,
            latency_ms: line.latency().map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
            last_error: lock(&shared.last_error).clone(),
        }
    }

    /// Remembers a failure for the status.
    pub(super) fn noted(&self, error: ReadError) -> ReadError {
        *lock(&self.fetcher.shared.last_error) = Some((self.clock().now(), chain(&error)));
        error
    }

    /// Sealed bytes that were fetched before.
    pub(super) fn at_hand(&self, part: &Part, range: &Range<u64>) -> Option<Bytes> {
        if part.kind == ObjectKind::MetaPack
            && let Some(bytes) = lock(&self.extents).get(&part.pack, range)
        {
            return Some(bytes);
        }
        self.disk.as_ref()?.get(&part.pack, range.clone())
    }

    pub(super) fn keep_sealed(&self, part: &Part, start: u64, bytes: &Bytes) {
        self.fetcher.shared.requests.fetch_add(1, Ordering::Relaxed);
        self.fetcher.shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if part.kind == ObjectKind::MetaPack {
            lock(&self.extents).insert(part.pack, start, bytes.clone());
        }
        if let Some(disk) = &self.disk {
            disk.put(&part.pack, start, bytes);
        }
    }

    /// The range to ask for: of trees with their neighbourhood.
    pub(super) fn widened(&self, part: &Part) -> Range<u64> {
        match part.kind {
            ObjectKind::MetaPack => lock(&self.neighbourhoods).widen(&part.pack, &part.range, &lock(&self.extents)),
            _ => part.range.clone(),
        }
    }

    /// Opens a record from sealed bytes; where that fails it is read again from wherever it can be found.
    pub(super) fn open_or_read(&self, want: &Want, sealed: Bytes) -> Result<Opened, ReadError> {
        let plain = match self.open_record(want.kind, &want.reference, sealed) {
            Ok(plain) => plain,
            Err(error @ ReadError::Key { .. }) => return Err(error),
            Err(_) => {
                lock(&self.extents).forget(&want.reference.pack, &want.reference.place());
                if let Some(disk) = &self.disk {
                    disk.forget(&want.reference.pack, want.reference.place());
                }
                return self.read_and_decode(want);
            }
        };
        self.decode_and_keep(want, plain)
    }

    fn read_and_decode(&self, want: &Want) -> Result<Opened, ReadError> {
        let plain = self.read_record(want.kind, &want.reference).map_err(|error| self.noted(error))?;
        self.decode_and_keep(want, plain)
    }

    fn decode_and_keep(&self, want: &Want, plain: Bytes) -> Result<Opened, ReadError> {
        let opened = Opened::decode(want.kind, plain).map_err(malformed(&want.reference)).map_err(|error| self.noted(error))?;
        if let Opened::Page(page) = &opened {
            let mut neighbourhoods = lock(&self.neighbourhoods);
            page.metadata_references().for_each(|reference| neighbourhoods.note(&reference.pack, reference.place().end));
        }
        self.memory.insert(want.reference.id, opened.clone());
        Ok(opened)
    }
}

/// Ends a flight, also when bringing the record panicked.
struct Landing<'a> {
    shared: &'a Shared,
    want: Want,
    result: Option<Result<Opened, ReadError>>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.shared.flights.land(&self.want.reference.id, self.result.take().unwrap_or_else(|| Err(given_up(&self.want))));
    }
}
