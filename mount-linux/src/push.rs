//! Gives the kernel files before anybody has asked for them: small ones that came with their neighbours. Each saves a message, and a wait where lines are long.
//!
//! Only this thread pushes and it owes nobody a reply: the kernel makes it wait for pages that are being read. A file that the kernel does not know is refused,
//! which is fine.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use fs_core::view::PageCache;
use fuser::{INodeNo, Notifier};

use crate::STOP_WITHIN;

/// Bytes that may wait to be pushed; more are left out.
const QUEUED_MAX: usize = 16 << 20;

/// The way to the pushing thread.
#[derive(Debug)]
pub(crate) struct Pusher {
    queue: Mutex<Option<Sender<(u64, Bytes)>>>,
    queued: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: Mutex<Option<(JoinHandle<()>, Receiver<()>)>>,
}

impl Pusher {
    /// Starts the thread.
    pub(crate) fn start(notifier: Notifier) -> Arc<Self> {
        let (queue, files) = unbounded::<(u64, Bytes)>();
        let queued = Arc::new(AtomicUsize::new(0));
        let (until_ended, ended) = bounded(0);
        let is_over = Arc::new(AtomicBool::new(false));
        let (counter, is_stopped) = (Arc::clone(&queued), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            let _until_ended = until_ended;
            for (inode, bytes) in files {
                counter.fetch_sub(bytes.len(), Ordering::Relaxed);
                if is_stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = notifier.store(INodeNo(inode), 0, &bytes) {
                    // Files are read in the ordinary way then.
                    tracing::debug!(%error, inode, "the kernel does not take a file");
                }
            }
        });
        Arc::new(Self { queue: Mutex::new(Some(queue)), queued, is_over, thread: Mutex::new(Some((thread, ended))) })
    }

    /// Ends the thread: what waits is left out.
    pub(crate) fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((thread, ended)) = thread
            && ended.recv_timeout(STOP_WITHIN) == Err(RecvTimeoutError::Disconnected)
        {
            let _ = thread.join();
        }
    }
}

impl PageCache for Pusher {
    fn push(&self, inode: u64, bytes: Bytes) {
        if self.queued.load(Ordering::Relaxed) + bytes.len() > QUEUED_MAX {
            return;
        }
        if let Some(queue) = &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            self.queued.fetch_add(bytes.len(), Ordering::Relaxed);
            let _ = queue.send((inode, bytes));
        }
    }
}
