//! The threads that wait for the store, so that the kernel's threads never do. Demand goes before fetching ahead.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, select_biased, unbounded};

/// Threads: enough to keep a slow store busy; they mostly wait.
const THREADS: usize = 8;
/// Jobs that fetch ahead and wait. More are dropped: whoever needs the bytes asks for them.
const AHEAD_MAX: usize = 128;

type Job = Box<dyn FnOnce() + Send>;

/// A pool of waiting threads, joined when dropped. The demand queue is bounded by the kernel, which has a bounded number of requests open.
#[derive(Debug)]
pub(crate) struct Pool {
    demand: Option<Sender<Job>>,
    ahead: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads.
    pub(crate) fn new() -> Arc<Self> {
        let (demand, wanted) = unbounded::<Job>();
        let (ahead, later) = bounded::<Job>(AHEAD_MAX);
        let threads = (0..THREADS)
            .map(|_| {
                let (wanted, later): (Receiver<Job>, Receiver<Job>) = (wanted.clone(), later.clone());
                std::thread::spawn(move || serve(&wanted, &later))
            })
            .collect();
        Arc::new(Self { demand: Some(demand), ahead: Some(ahead), threads })
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

fn serve(wanted: &Receiver<Job>, later: &Receiver<Job>) {
    loop {
        let job = select_biased! {
            recv(wanted) -> job => job,
            recv(later) -> job => job,
        };
        match job {
            // A panic in one answer must not take the drive down; the reply object answers with an error when it is dropped.
            Ok(job) => drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job))),
            Err(_) => return,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        (self.demand, self.ahead) = (None, None);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
