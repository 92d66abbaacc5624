//! `cat`

use std::sync::Arc;

use backup_writer::what::entry_at;
use fs_core::reader::ContentReader;
use fs_core::tree::EntryKind;

use crate::args::{Cat, Global};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::session;

/// Bytes read and written at a time.
const STEP: u64 = 4 << 20;

pub(crate) fn run(global: &Global, options: &Cat, output: &Output) -> Result<Exit, Failure> {
    let (wanted, path) = session::parse_what(&options.what)?;
    let (repository, _) = session::open_contents(global)?;
    let snapshot = session::snapshot(&repository, &wanted, &options.select)?;
    let entry = entry_at(&repository, &snapshot, &path)?;
    let entry = entry.ok_or_else(|| Failure::new(Exit::Failed, format!("snapshot {} has no {path}", snapshot.id.short())))?;
    if entry.kind != EntryKind::File {
        return Err(Failure::new(Exit::Usage, format!("{path} is no regular file")));
    }
    let reader = ContentReader::of_file(Arc::clone(&repository), &entry);
    let mut at = 0;
    while at < reader.size() {
        let bytes = reader.read(at, STEP)?;
        output.raw(&bytes);
        at += bytes.len() as u64;
    }
    Ok(Exit::Done)
}
