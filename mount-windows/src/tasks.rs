//! Answers that come later: what waits for the store waits here, and not in a thread of WinFsp.
//!
//! A task runs where it is started, up to the point where something is missing; it goes on in the thread that brings it. There are no threads of its own.
//! When the drive ends, tasks are dropped: the `winfsp` crate then answers each of their requests with "cancelled", so unmounting waits for no store.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use fs_core::repository::Held;
use fs_core::view::error::ViewError;
use fs_core::view::{Answer, View};

type Step = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tasks that are under way.
#[derive(Clone)]
pub struct Tasks(Arc<Running>);

struct Running {
    /// `None` once no more are taken.
    tasks: Mutex<Option<HashMap<u64, Arc<Task>>>>,
    next: AtomicU64,
}

struct Task {
    number: u64,
    step: Mutex<Option<Step>>,
    /// Calls to wake it since somebody began to run it; that one sees to all of them.
    calls: AtomicUsize,
    running: Weak<Running>,
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks").field("count", &self.count()).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// None yet; they are taken.
    pub fn new() -> Self {
        Self(Arc::new(Running { tasks: Mutex::new(Some(HashMap::new())), next: AtomicU64::new(0) }))
    }

    /// Runs a task as far as it goes. After [`Self::end`] it is dropped.
    pub fn start(&self, future: impl Future<Output = ()> + Send + 'static) {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let task = Arc::new(Task {
            number,
            step: Mutex::new(Some(Box::pin(future))),
            calls: AtomicUsize::new(0),
            running: Arc::downgrade(&self.0),
        });
        match &mut *lock(&self.0.tasks) {
            Some(tasks) => drop(tasks.insert(number, Arc::clone(&task))),
            None => return,
        }
        task.run();
    }

    /// How many are under way.
    pub fn count(&self) -> usize {
        lock(&self.0.tasks).as_ref().map_or(0, HashMap::len)
    }

    /// Drops all tasks and takes no more.
    pub fn end(&self) {
        let tasks = lock(&self.0.tasks).take();
        for task in tasks.into_iter().flat_map(HashMap::into_values) {
            let step = lock(&task.step).take();
            drop(step);
        }
    }
}

impl Task {
    fn run(self: Arc<Self>) {
        if self.calls.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        loop {
            let seen = self.calls.load(Ordering::Acquire);
            if self.step() {
                if let Some(running) = self.running.upgrade()
                    && let Some(tasks) = &mut *lock(&running.tasks)
                {
                    tasks.remove(&self.number);
                }
                // No call has any effect from here on.
                return;
            }
            if self.calls.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
        }
    }

    /// Whether it is over. A panic ends it, and the request is answered as cancelled.
    fn step(self: &Arc<Self>) -> bool {
        let mut slot = lock(&self.step);
        let Some(step) = slot.as_mut() else { return true };
        let waker = Waker::from(Arc::clone(self));
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| step.as_mut().poll(&mut Context::from_waker(&waker))));
        if let Ok(Poll::Pending) = polled {
            return false;
        }
        let over = slot.take();
        drop(slot);
        drop(over);
        true
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.run();
    }
}

/// An answer that will come.
#[derive(Debug)]
pub struct Coming<T>(Arc<Mutex<Slot<T>>>);

#[derive(Debug)]
struct Slot<T> {
    answer: Option<Result<T, ViewError>>,
    waiting: Option<Waker>,
    is_lost: bool,
}

/// Gives the answer, or says by being dropped that there is none.
struct Giver<T>(Arc<Mutex<Slot<T>>>);

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        let waiting = {
            let mut slot = lock(&self.0);
            slot.is_lost = true;
            slot.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

impl<T> Future for Coming<T> {
    type Output = Result<T, ViewError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = lock(&self.0);
        match slot.answer.take() {
            Some(answer) => Poll::Ready(answer),
            // The question ended in a panic.
            None if slot.is_lost => Poll::Ready(Err(ViewError::Stale)),
            None => {
                slot.waiting = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Asks a view; the answer is there at once if memory has it.
pub fn ask<T: Send + 'static>(view: &Arc<View>, question: impl Fn(&View, &Held) -> Answer<T> + Send + 'static) -> Coming<T> {
    let slot = Arc::new(Mutex::new(Slot { answer: None, waiting: None, is_lost: false }));
    let giver = Giver(Arc::clone(&slot));
    let asked = AssertUnwindSafe(|| view.ask(question, move |answer| lock(&giver.0).answer = Some(answer)));
    // What the question leaves is a giver that was dropped: an error, and no thread of WinFsp lost.
    drop(std::panic::catch_unwind(asked));
    Coming(slot)
}

/// Runs a future in this thread; `None` if the drive ends meanwhile, which `ending` says by being disconnected.
pub fn wait<T>(future: impl Future<Output = T>, ending: &Receiver<()>) -> Option<T> {
    struct Bell(Sender<()>);
    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            // One call is enough for any number.
            let _ = self.0.try_send(());
        }
    }
    let (call, called) = bounded(1);
    let waker = Waker::from(Arc::new(Bell(call)));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
            return Some(answer);
        }
        select! {
            recv(called) -> _ => {}
            recv(ending) -> _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    struct Noted(Arc<AtomicBool>);

    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn coming() -> (Coming<u8>, Giver<u8>) {
        let slot = Arc::new(Mutex::new(Slot { answer: None, waiting: None, is_lost: false }));
        (Coming(Arc::clone(&slot)), Giver(slot))
    }

    #[test]
    fn a_task_goes_on_where_the_answer_comes_and_waits_in_no_thread() {
        let (tasks, (answer, giver)) = (Tasks::new(), coming());
        let (done, is_done) = bounded(1);
        tasks.start(async move { done.send(answer.await.unwrap()).unwrap() });
        assert_eq!(tasks.count(), 1);
        assert!(is_done.is_empty());
        std::thread::spawn(move || lock(&giver.0).answer = Some(Ok(7))).join().unwrap();
        assert_eq!(is_done.try_recv(), Ok(7));
        assert_eq!(tasks.count(), 0);
    }

    #[test]
    fn the_end_drops_what_waits_and_what_comes_later() {
        let (tasks, (answer, _giver)) = (Tasks::new(), coming());
        let dropped = [Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false))];
        let (first, second) = (Noted(Arc::clone(&dropped[0])), Noted(Arc::clone(&dropped[1])));
        tasks.start(async move {
            let _first = first;
            let _ = answer.await;
        });
        tasks.end();
        assert!(dropped[0].load(Ordering::SeqCst));
        tasks.start(async move { drop(second) });
        assert!(dropped[1].load(Ordering::SeqCst));
    }

    #[test]
    fn a_panic_costs_one_task_and_a_lost_answer_is_an_error() {
        let (tasks, (answer, giver)) = (Tasks::new(), coming());
        tasks.start(async { panic!("on purpose") });
        assert_eq!(tasks.count(), 0);
        let (done, is_done) = bounded(1);
        tasks.start(async move { done.send(answer.await.is_err()).unwrap() });
        drop(giver);
        assert_eq!(is_done.try_recv(), Ok(true));
    }

    #[test]
    fn who_waits_is_let_go_when_the_drive_ends() {
        let (until_end, ending) = bounded::<()>(0);
        let (answer, giver) = coming();
        let waiting = std::thread::spawn(move || wait(answer, &ending));
        drop(until_end);
        assert!(waiting.join().unwrap().is_none());
        drop(giver);
    }
}
