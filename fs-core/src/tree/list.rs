//! Where the bytes of a large file are: list records with a fan-out of 4096. Layout: docs/FORMAT.md, section 10.

use super::{Content, INLINE_REFERENCES_MAX, LIST_ROWS_MAX, List, ListRow};
use crate::record::Reference;

/// Stores a finished list record.
pub type StoreList<'a, E> = &'a mut dyn FnMut(List) -> Result<Reference, E>;

/// Gathers the chunks of one file. Holds at most one list for each level, however large the file is.
#[derive(Debug, Default)]
pub struct ListBuilder {
    levels: Vec<Vec<ListRow>>,
}

impl ListBuilder {
    /// Appends a chunk.
    ///
    /// # Errors
    /// Those of `store`.
    pub fn push<E>(&mut self, chunk: Reference, store: StoreList<'_, E>) -> Result<(), E> {
        self.push_at(0, chunk, chunk.plain_len.into(), store)
    }

    /// The content of the file: its references if they are few, else the top of its lists.
    ///
    /// # Errors
    /// Those of `store`.
    pub fn finish<E>(mut self, store: StoreList<'_, E>) -> Result<Content, E> {
        if let [rows] = &self.levels[..]
            && rows.len() <= INLINE_REFERENCES_MAX
        {
            return Ok(Content::Inline(rows.iter().map(|row| row.reference).collect()));
        }
        let mut level = 0;
        while let Some(rows) = self.levels.get_mut(level).map(std::mem::take) {
            let is_top = level + 1 == self.levels.len();
            if let ([row], true, Some(depth)) = (&rows[..], is_top, u8::try_from(level).ok().filter(|&depth| depth > 0)) {
                return Ok(Content::List { depth, reference: row.reference });
            }
            if let Some(last) = rows.last() {
                let length = last.end;
                let depth = u8::try_from(level + 1).expect("six levels hold more than any file");
                let reference = store(List { depth, rows })?;
                if is_top {
                    return Ok(Content::List { depth, reference });
                }
                self.push_at(level + 1, reference, length, store)?;
            }
            level += 1;
        }
        Ok(Content::EMPTY)
    }

    fn push_at<E>(&mut self, level: usize, reference: Reference, length: u64, store: StoreList<'_, E>) -> Result<(), E> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let Some(rows) = self.levels.get_mut(level) else { return Ok(()) };
        let end = rows.last().map_or(0, |row| row.end) + length;
        rows.push(ListRow { end, reference });
        if rows.len() < LIST_ROWS_MAX {
            return Ok(());
        }
        let rows = std::mem::take(rows);
        let depth = u8::try_from(level + 1).expect("six levels hold more than any file");
        let reference = store(List { depth, rows })?;
        self.push_at(level + 1, reference, end, store)
    }
}

/// The row of a list that holds the byte at `offset`, and where the row begins.
pub fn locate(list: &List, offset: u64) -> Option<(ListRow, u64)> {
    let at = list.rows.partition_point(|row| row.end <= offset);
    let row = list.rows.get(at)?;
    let start = at.checked_sub(1).and_then(|at| list.rows.get(at)).map_or(0, |row| row.end);
    Some((*row, start))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::id::RecordId;
    use crate::tree::codec::tests::reference;

    fn chunk(n: usize) -> Reference {
        let id = RecordId::from_bytes(crate::crypto::hash(&n.to_le_bytes()));
        Reference { id, plain_len: 10 + u32::try_from(n % 3).unwrap(), ..reference(1) }
    }

    #[test]
    fn every_byte_is_found_at_every_size() {
        for count in [0, 1, 32, 33, 4095, 4096, 4097, 8192, 20_000] {
            let (mut lists, mut builder) = (HashMap::new(), ListBuilder::default());
            let mut store = |list: List| {
                let id = RecordId::from_bytes(crate::crypto::hash(&list.encode()));
                lists.insert(id, list);
                Ok::<_, ()>(Reference { id, ..reference(2) })
            };
            for n in 0..count {
                builder.push(chunk(n), &mut store).unwrap();
            }
            let content = builder.finish(&mut store).unwrap();
            let mut offset = 0;
            for n in 0..count {
                let found = match &content {
                    Content::Inline(_) | Content::Fragment { .. } => content.references()[n],
                    Content::List { depth, reference } => {
                        let (mut depth, mut reference, mut rest) = (*depth, *reference, offset);
                        while depth > 0 {
                            let list = &lists[&reference.id];
                            assert_eq!(list.depth, depth);
                            let (row, start) = locate(list, rest).unwrap();
                            (reference, rest, depth) = (row.reference, rest - start, depth - 1);
                        }
                        reference
                    }
                };
                assert_eq!(found.id, chunk(n).id, "{n} of {count}");
                offset += u64::from(chunk(n).plain_len);
            }
            assert_eq!(matches!(content, Content::Inline(_)), count <= INLINE_REFERENCES_MAX);
        }
    }
}
