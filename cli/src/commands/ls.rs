//! `ls`

use backup_writer::what::{entry_at, for_each_entry};
use fs_core::path::TreePath;
use fs_core::time::Zone;
use fs_core::tree::{Entry, EntryKind};
use serde_json::json;

use crate::args::{Global, Ls};
use crate::error::{Exit, Failure};
use crate::output::{Output, put_bytes};
use crate::session;

pub(crate) fn run(global: &Global, options: &Ls, output: &Output) -> Result<Exit, Failure> {
    let (wanted, path) = session::parse_what(&options.what)?;
    let (repository, _) = session::open_cached(global)?;
    let snapshot = session::snapshot(&repository, &wanted, &options.select)?;
    let not_there = || Failure::new(Exit::Failed, format!("snapshot {} has no {path}", snapshot.id.short()));
    let top = entry_at(&repository, &snapshot, &path)?.ok_or_else(not_there)?;
    let lister = Lister { output, long: options.long, zone: Zone::system() };
    if top.subtree.is_none() {
        lister.show(&path, &top);
        return Ok(Exit::Done);
    }
    let mut open = vec![(path, top)];
    while let Some((path, directory)) = open.pop() {
        let mut below = Vec::new();
        for_each_entry::<Failure>(&repository, &directory, |entry| {
            let Some(name) = entry.name.clone() else { return Ok(()) };
            let place = path.join(name);
            lister.show(&place, entry);
            if options.recursive && entry.subtree.is_some() {
                below.push((place, entry.clone()));
            }
            Ok(())
        })?;
        open.extend(below.into_iter().rev());
    }
    Ok(Exit::Done)
}

struct Lister<'a> {
    output: &'a Output,
    long: bool,
    zone: Zone,
}

impl Lister<'_> {
    fn show(&self, path: &TreePath, entry: &Entry) {
        self.output.show(|| if self.long { self.long_line(path, entry) } else { path.to_string() }, || record(path, entry));
    }

    fn long_line(&self, path: &TreePath, entry: &Entry) -> String {
        let kind = match entry.kind {
            EntryKind::File => '-',
            EntryKind::Directory => 'd',
            EntryKind::Symlink => 'l',
            EntryKind::Fifo => 'p',
            EntryKind::Socket => 's',
            EntryKind::CharDevice => 'c',
            EntryKind::BlockDevice => 'b',
        };
        let owner = entry.user.clone().or(entry.uid.map(|uid| uid.to_string())).unwrap_or_default();
        let group = entry.group.clone().or(entry.gid.map(|gid| gid.to_string())).unwrap_or_default();
        let time = entry.mtime.and_then(|time| self.zone.local(time)).map(|local| local.civil.strftime("%Y-%m-%d %H:%M").to_string());
        let target = entry.target.as_ref().map(|target| format!(" -> {}", fs_core::path::display(target)));
        let (size, time) = (entry.size, time.unwrap_or_default());
        format!("{kind}{:04o} {owner:>8} {group:>8} {size:>12} {time:>16} {path}{}", entry.mode, target.unwrap_or_default())
    }
}

fn record(path: &TreePath, entry: &Entry) -> serde_json::Value {
    let mut record = json!({
        "type": "entry", "kind": entry.kind.as_str(), "mode": entry.mode, "uid": entry.uid, "gid": entry.gid,
        "user": entry.user, "group": entry.group, "size": entry.size, "mtime": entry.mtime.map(|time| time.to_string()),
    });
    put_bytes(&mut record, "path", &path.to_bytes());
    if let Some(target) = &entry.target {
        put_bytes(&mut record, "target", target);
    }
    record
}
