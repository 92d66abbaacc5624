//! Large objects, a part after the other: a pack over a slow line takes longer than one call may, and who only adds up a hash need not hold all of it.

use super::{ObjectName, ReadStore, StoreError, wait};
use bytes::Bytes;

/// Bytes of one part: a line of a quarter of a megabyte per second brings them inside one attempt.
pub const PART: u64 = 4 << 20;

/// Hands the first `size` bytes of an object to `each`, in order and [`PART`] at a time; stops when it says no. Returns whether all was handed over.
///
/// # Errors
/// The store's; `WrongSize` if the object is shorter.
pub fn read_in_parts(store: &dyn ReadStore, name: &ObjectName, size: u64, each: &mut dyn FnMut(Bytes) -> bool) -> Result<bool, StoreError> {
    let mut at = 0;
    while at < size {
        let end = size.min(at + PART);
        if !each(wait(name.as_str(), store.get_range(name, at..end))?) {
            return Ok(false);
        }
        at = end;
    }
    Ok(true)
}
