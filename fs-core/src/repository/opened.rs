//! What a reader is given and what it asks for: opened records, wishes for more, and the pause between the two.
//!
//! A question to a tree is asked of the records in memory. If one is missing, the answer is a [`Pause`] that names it; when it has arrived the question is
//! asked again, with what arrived in its [`Held`]. So nobody who asks ever waits, and nothing that a cache forgets meanwhile is fetched twice.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::ReadError;
use crate::cache::Weight;
use crate::id::RecordId;
use crate::record::{RecordKind, Reference};
use crate::tree::codec::decode_links;
use crate::tree::{LinkRow, List, ListRow, Page, TreeError};

/// Bytes of memory that a cached record takes beside its content.
const OVERHEAD: usize = 160;

/// A record, opened and decoded. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Opened {
    /// A tree page or page index.
    Page(Arc<Page>),
    /// A list of the records of a large file.
    List(Arc<List>),
    /// Rows of a hard-link table.
    Links(Arc<Vec<LinkRow>>),
    /// Content.
    Data(Bytes),
}

impl Opened {
    /// Decodes a plaintext.
    ///
    /// # Errors
    /// [`TreeError`]; never for data.
    pub(super) fn decode(kind: RecordKind, plain: Bytes) -> Result<Self, TreeError> {
        Ok(match kind {
            RecordKind::Tree => Self::Page(Arc::new(Page::decode(&plain)?)),
            RecordKind::List => Self::List(Arc::new(List::decode(&plain)?)),
            RecordKind::Table => Self::Links(Arc::new(decode_links(&plain)?)),
            RecordKind::Data => Self::Data(plain),
        })
    }
}

impl Weight for Opened {
    fn weight(&self) -> usize {
        let content = match self {
            Self::Page(page) => page.memory_size(),
            Self::List(list) => list.rows.len() * size_of::<ListRow>(),
            Self::Links(rows) => rows.len() * size_of::<LinkRow>(),
            Self::Data(bytes) => bytes.len(),
        };
        OVERHEAD + content
    }
}

/// A record that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// What it holds.
    pub kind: RecordKind,
    /// Which it is, and where it should be.
    pub reference: Reference,
}

/// Why a question to the records in memory has no answer yet.
#[derive(Debug)]
pub enum Pause {
    /// These records are needed: ask again when they are there.
    Missing(Vec<Want>),
    /// There will be none.
    Failed(ReadError),
}

impl From<ReadError> for Pause {
    fn from(error: ReadError) -> Self {
        Self::Failed(error)
    }
}

impl From<TreeError> for Pause {
    fn from(error: TreeError) -> Self {
        Self::Failed(error.into())
    }
}

/// Records that a question was given while it was asked again and again. They stay until it is answered, also if the cache lets go of them.
#[derive(Default, Debug)]
pub struct Held(HashMap<RecordId, Opened>);

impl Held {
    /// A record that was given before.
    pub fn get(&self, id: &RecordId) -> Option<&Opened> {
        if self.0.is_empty() { None } else { self.0.get(id) }
    }

    /// Keeps a record.
    pub fn insert(&mut self, id: RecordId, opened: Opened) {
        self.0.insert(id, opened);
    }
}
