//! Several threads that work on one list, and one that takes what they have done.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::bounded;

/// Does something with each item, so many at a time, and takes the results here, in the order in which they come. After an error nothing more is begun.
///
/// # Errors
/// The first that `each` returns.
pub(crate) fn side_by_side<T: Sync, R: Send, E>(
    worker_count: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut each: impl FnMut(&T, R) -> Result<(), E>,
) -> Result<(), E> {
    let (next, is_stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (sender, receiver) = bounded(worker_count);
        for _ in 0..worker_count.min(items.len()) {
            let (sender, next, is_stopped, work) = (sender.clone(), &next, &is_stopped, &work);
            scope.spawn(move || {
                while !is_stopped.load(Ordering::Relaxed) {
                    let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    if sender.send((item, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut result = Ok(());
        for (item, done) in receiver {
            let told = each(item, done);
            if result.is_ok() && told.is_err() {
                is_stopped.store(true, Ordering::Relaxed);
                result = told;
            }
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKERS: usize = 8;

    #[test]
    fn after_an_error_nothing_more_is_begun() {
        let items: Vec<u32> = (0..1000).collect();
        let begun = AtomicUsize::new(0);
        let work = |item: &u32| {
            begun.fetch_add(1, Ordering::Relaxed);
            *item
        };
        let result = side_by_side(WORKERS, &items, work, |_, item| if item == 3 { Err("stop") } else { Ok(()) });
        assert!(result.is_err() && begun.load(Ordering::Relaxed) < 500, "{begun:?}");
        let mut all = Vec::new();
        let each = |_: &u32, item| {
            all.push(item);
            Ok::<_, &str>(())
        };
        side_by_side(WORKERS, &items, |item| *item, each).unwrap();
        all.sort_unstable();
        assert_eq!(all, items);
    }
}
