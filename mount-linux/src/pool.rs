//! The threads that wait for the store, so that the kernel's threads never do. Demand goes before fetching ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select_biased, unbounded};

use crate::STOP_WITHIN;

/// Threads: enough to keep a slow store busy; they mostly wait.
const THREADS: usize = 8;
/// Jobs that fetch ahead and wait. More are dropped: whoever needs the bytes asks for them.
const AHEAD_MAX: usize = 128;

type Job = Box<dyn FnOnce() + Send>;

/// A pool of waiting threads. The demand queue is bounded by the kernel, which has a bounded number of requests open. When the pool is dropped nothing
/// that still waits in a queue is begun, and threads are joined unless they hang in the store.
#[derive(Debug)]
pub(crate) struct Pool {
    demand: Option<Sender<Job>>,
    ahead: Option<Sender<Job>>,
    is_closing: Arc<AtomicBool>,
    /// Disconnected when all threads have ended.
    ended: Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads.
    pub(crate) fn new() -> Arc<Self> {
        let (demand, wanted) = unbounded::<Job>();
        let (ahead, later) = bounded::<Job>(AHEAD_MAX);
        let is_closing = Arc::new(AtomicBool::new(false));
        let (until_ended, ended) = bounded::<()>(0);
        let threads = (0..THREADS)
            .map(|_| {
                let (wanted, later): (Receiver<Job>, Receiver<Job>) = (wanted.clone(), later.clone());
                let (is_closing, until_ended) = (Arc::clone(&is_closing), until_ended.clone());
                std::thread::spawn(move || {
                    serve(&wanted, &later, &is_closing);
                    drop(until_ended);
                })
            })
            .collect();
        Arc::new(Self { demand: Some(demand), ahead: Some(ahead), is_closing, ended, threads })
    }

    /// Somebody waits for this.
    pub(crate) fn demand(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(demand) = &self.demand {
            // The threads live as long as the pool.
            let _ = demand.send(Box::new(job));
        }
    }

    /// Somebody may want this soon; dropped if too much waits already.
    pub(crate) fn ahead(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(ahead) = &self.ahead {
            let _ = ahead.try_send(Box::new(job));
        }
    }
}

fn serve(wanted: &Receiver<Job>, later: &Receiver<Job>, is_closing: &AtomicBool) {
    loop {
        let job = select_biased! {
            recv(wanted) -> job => job,
            recv(later) -> job => job,
        };
        match job {
            // The reply object answers with an error when it is dropped.
            Ok(job) if is_closing.load(Ordering::Relaxed) => drop(job),
            // A panic in one answer must not take the drive down.
            Ok(job) => drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job))),
            Err(_) => return,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.is_closing.store(true, Ordering::Relaxed);
        (self.demand, self.ahead) = (None, None);
        if self.ended.recv_timeout(STOP_WITHIN) == Err(RecvTimeoutError::Disconnected) {
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_hangs_keeps_nobody_from_leaving() {
        let pool = Pool::new();
        let (open, gate) = bounded::<()>(0);
        let (begin, begun) = bounded::<()>(THREADS);
        for _ in 0..THREADS {
            let (gate, begin) = (gate.clone(), begin.clone());
            pool.demand(move || {
                let _ = begin.send(());
                let _ = gate.recv();
            });
        }
        (0..THREADS).for_each(|_| begun.recv().unwrap());
        let (late, was_begun) = bounded::<()>(1);
        pool.demand(move || late.send(()).unwrap());
        drop(pool);
        drop(open);
        assert!(was_begun.recv().is_err(), "what was not begun never is");
    }
}
