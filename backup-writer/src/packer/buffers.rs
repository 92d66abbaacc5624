//! Buffers that are used again: memory that is new to a process has to be cleared by the system first, and that costs more than what is then done with it.

use std::sync::{Mutex, PoisonError};

/// Buffers that wait to be used again. Shared between threads.
#[derive(Debug)]
pub(super) struct Buffers {
    spare: Mutex<Vec<Vec<u8>>>,
    count_max: usize,
}

impl Buffers {
    /// Keeps at most so many.
    pub(super) const fn new(count_max: usize) -> Self {
        Self { spare: Mutex::new(Vec::new()), count_max }
    }

    /// An empty buffer, with room if there is one to be used again.
    pub(super) fn take(&self) -> Vec<u8> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Gives a buffer back, whatever is in it.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.capacity() > 0 && spare.len() < self.count_max {
            spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_few_are_kept() {
        let buffers = Buffers::new(1);
        assert_eq!(buffers.take().capacity(), 0);
        buffers.give(b"used".to_vec());
        buffers.give(b"one too many".to_vec());
        let again = buffers.take();
        assert!(again.is_empty() && again.capacity() == 4);
        assert_eq!(buffers.take().capacity(), 0);
    }
}
