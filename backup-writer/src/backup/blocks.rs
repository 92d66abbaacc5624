//! Reading in blocks of one size, for what changes in place: disk images, databases, block devices.
//!
//! Blocks lie at multiples of their size in the file, whatever holes it has: a hole that is filled changes the blocks it touches and no other.
//! Long runs of zeros become holes.

use fs_core::tree::Extent;

use super::read::{FileJob, FileReader, ReadStop, WholeHash};
use crate::source::SourceFile;

/// What is read at a time: as many blocks as fit, at least one.
const STEP: usize = 1 << 20;
/// Shorter runs of zeros are saved as they are: each hole costs a line in the entry of the file.
const HOLE_MIN: u64 = 1 << 20;
/// Zeros become no more holes than this.
const HOLES_MAX: usize = 10_000;

/// What was read.
pub(super) struct Blocks {
    /// Size of the file as far as it was there.
    pub size: u64,
    /// The parts that are present; `None` if all.
    pub sparse: Option<Vec<Extent>>,
}

/// Parts of a file, widened to whole blocks and joined where they touch.
fn aligned(parts: &[Extent], block: u64, size: u64) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for part in parts {
        let start = part.offset - part.offset % block;
        let end = (part.offset + part.length).div_ceil(block).saturating_mul(block).min(size);
        match ranges.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => ranges.push((start, end)),
        }
    }
    ranges
}

impl FileReader<'_> {
    /// Reads the parts of a file that are present, cuts, hashes and seals them.
    pub(super) fn read_blocks(
        &mut self,
        file: &SourceFile,
        (block, size): (u32, u64),
        parts: Option<&[Extent]>,
        job: &FileJob,
        hash: &mut WholeHash,
    ) -> Result<Blocks, ReadStop> {
        let block = usize::try_from(block).unwrap_or(STEP).max(1);
        let whole = [Extent { offset: 0, length: size }];
        let (mut extents, mut zeros_from): (Vec<Extent>, Option<u64>) = (Vec::new(), None);
        let zeros = vec![0; block];
        let mut buffer = vec![0; (STEP / block).max(1) * block];
        let mut end_of_file = size;
        for (start, end) in aligned(parts.unwrap_or(&whole), block as u64, size) {
            let mut at = start;
            while at < end {
                let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
                let count = file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at)?;
                for bytes in buffer.get(..count).unwrap_or_default().chunks(block) {
                    if zeros.starts_with(bytes) {
                        zeros_from.get_or_insert(at);
                    } else {
                        if let Some(mut from) = zeros_from.take().filter(|from| at - from < HOLE_MIN || extents.len() >= HOLES_MAX) {
                            while from < at {
                                self.put_block(&zeros, &mut from, &mut extents, (job, hash))?;
                            }
                        }
                        let mut place = at;
                        self.put_block(bytes, &mut place, &mut extents, (job, hash))?;
                    }
                    at += bytes.len() as u64;
                }
                if count < wanted {
                    end_of_file = at;
                    break;
                }
            }
            // Zeros before a hole, or before the end, belong to it.
            zeros_from = None;
            if end_of_file < size {
                break;
            }
        }
        let whole = [Extent { offset: 0, length: end_of_file }];
        let sparse = (end_of_file > 0 && extents != whole).then_some(extents);
        if let Some(extents) = &sparse {
            hash.add_map(extents, end_of_file);
        }
        Ok(Blocks { size: end_of_file, sparse })
    }

    fn put_block(
        &mut self,
        bytes: &[u8],
        at: &mut u64,
        extents: &mut Vec<Extent>,
        (job, hash): (&FileJob, &mut WholeHash),
    ) -> Result<(), ReadStop> {
        let length = bytes.len() as u64;
        match extents.last_mut() {
            Some(last) if last.offset + last.length == *at => last.length += length,
            _ => extents.push(Extent { offset: *at, length }),
        }
        *at += length;
        self.put(bytes, false, job, hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_widened_to_blocks() {
        let part = |offset, length| Extent { offset, length };
        assert_eq!(aligned(&[part(5, 1), part(17, 2), part(48, 10)], 16, 60), [(0, 32), (48, 60)]);
        assert_eq!(aligned(&[part(0, 60)], 16, 60), [(0, 60)]);
        assert_eq!(aligned(&[], 16, 60), []);
    }
}
