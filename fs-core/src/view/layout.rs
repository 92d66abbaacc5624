//! How snapshots become directories: a pure function of the snapshots, the time zone and their slots.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::inode::Inode;
use super::safe_name;
use crate::crypto;
use crate::id::SnapshotId;
use crate::snapshot::Snapshot;
use crate::snapshot::attributes::AttributeNames;
use crate::time::{LocalTime, Timestamp, Zone};
use crate::tree::{POSITION_MAX, ROOT_POSITION};

/// Number of the drive's root.
pub const ROOT: u64 = 1;
/// Cookies of `.` and `..` in every directory are up to this.
pub const DOTS: u64 = 2;

/// What a made-up entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VirtualKind {
    /// A folder.
    Folder(Children),
    /// A symbolic link.
    Link(Vec<u8>),
    /// A small file.
    File(Bytes),
}

/// The lines of a made-up folder, in the order of their cookies. A cookie comes from the name alone: a listing that goes on after the folder has changed
/// neither skips nor repeats a name that was there all the time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Children(BTreeMap<u64, (Vec<u8>, u64)>);

impl Children {
    /// The number behind a name.
    pub fn get(&self, name: &[u8]) -> Option<u64> {
        // Names whose hashes collide stand one after the other.
        (cookie(name)..).map_while(|at| self.0.get(&at)).find(|(known, _)| known == name).map(|(_, number)| *number)
    }

    /// Lines after a cookie, 0 for all: cookie, name and number.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], u64)> {
        self.0.range((Bound::Excluded(cookie), Bound::Unbounded)).map(|(cookie, (name, number))| (*cookie, &name[..], *number))
    }

    fn insert(&mut self, name: &[u8], number: u64) {
        let free = (cookie(name)..).find(|at| self.0.get(at).is_none_or(|(known, _)| known == name));
        free.and_then(|at| self.0.insert(at, (name.to_vec(), number)));
    }
}

/// Above those of `.` and `..`, and positive for those who take it for a signed number.
fn cookie(name: &[u8]) -> u64 {
    (hash_number(&[name]) >> 2).max(DOTS + 1)
}

fn hash_number(parts: &[&[u8]]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = crypto::hash(&parts.concat());
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// A made-up entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder {
    /// Its folder.
    pub parent: u64,
    /// What it is.
    pub kind: VirtualKind,
    /// Its time: that of the newest snapshot it shows.
    pub time: Timestamp,
}

/// Everything that the view makes up.
#[derive(Debug, Default)]
pub struct Virtual {
    entries: HashMap<u64, Folder>,
    /// Files and links of the tree before: whoever has found one just now may still read it.
    former: HashMap<u64, Folder>,
    snapshots: HashMap<u32, (Arc<Snapshot>, u64)>,
    /// Names of the extended attributes that occur in any snapshot; `None` if one does not say.
    pub attribute_names: Option<AttributeNames>,
    /// Bytes and entries of the newest snapshot of every host and set.
    pub totals: (u64, u64),
    /// What the status file says of the tree itself.
    pub about: About,
}

/// What the status file says of the tree itself.
#[derive(Debug, Default)]
pub struct About {
    /// The folder of the status file.
    pub folder: u64,
    /// The repository.
    pub location: String,
    /// Complete snapshots.
    pub sealed: usize,
    /// Others.
    pub incomplete: usize,
    /// When the snapshots were found to be these.
    pub changed: Timestamp,
}

/// The file that says what the drive is doing.
pub const STATUS_NAME: &[u8] = b"status.json";

/// The number of something made up: from its path, and for links and files from what they hold too.
pub fn made_up_number(path: &str, name: &[u8], held: &[u8]) -> u64 {
    (hash_number(&[path.as_bytes(), b"/", name, b"\0", held]) & POSITION_MAX).max(ROOT + 1)
}

impl Virtual {
    /// A made-up entry by its number.
    pub fn get(&self, inode: u64) -> Option<&Folder> {
        self.entries.get(&inode).or_else(|| self.former.get(&inode))
    }

    /// Keeps what the tree before had for those who have found it there. No name leads to it any more.
    pub fn keep_former(&mut self, before: &Self) {
        let gone = before
            .entries
            .iter()
            .filter(|(inode, entry)| !matches!(entry.kind, VirtualKind::Folder(_)) && !self.entries.contains_key(inode));
        self.former = gone.map(|(inode, entry)| (*inode, entry.clone())).collect();
    }

    /// The snapshot in a slot and the folder that shows it.
    pub fn snapshot(&self, slot: u32) -> Option<(&Arc<Snapshot>, u64)> {
        self.snapshots.get(&slot).map(|(snapshot, parent)| (snapshot, *parent))
    }

    /// Numbers of the folders whose lines differ from those before.
    pub fn changed_since(&self, before: &Self) -> Vec<u64> {
        let folders = self.entries.iter().filter(|(_, entry)| matches!(entry.kind, VirtualKind::Folder(_)));
        folders
            .filter(|(inode, entry)| before.entries.get(inode).is_some_and(|old| old.kind != entry.kind))
            .map(|(inode, _)| *inode)
            .collect()
    }

    /// Adds an entry under a path that was not there. Its number comes from the path, and for links and files from what they hold too: what moves or
    /// changes is another entry, because the kernel keeps what it has read of one.
    fn add(&mut self, parent: u64, path: &str, name: &[u8], kind: VirtualKind, time: Timestamp) -> u64 {
        let held: &[u8] = match &kind {
            VirtualKind::Folder(_) => b"",
            VirtualKind::Link(target) => target,
            VirtualKind::File(bytes) => bytes,
        };
        let mut number = made_up_number(path, name, held);
        while self.entries.contains_key(&number) {
            number = (number + 1) & POSITION_MAX;
        }
        self.entries.insert(number, Folder { parent, kind, time });
        self.link(parent, name, number);
        number
    }

    fn link(&mut self, parent: u64, name: &[u8], number: u64) {
        if let Some(Folder { kind: VirtualKind::Folder(children), .. }) = self.entries.get_mut(&parent) {
            children.insert(name, number);
        }
    }

    fn folder(&mut self, parent: u64, path: &str, name: &[u8], time: Timestamp) -> u64 {
        if let Some(Folder { kind: VirtualKind::Folder(children), .. }) = self.entries.get(&parent)
            && let Some(known) = children.get(name)
        {
            return known;
        }
        self.add(parent, path, name, VirtualKind::Folder(Children::default()), time)
    }
}

/// Makes the tree. `slot` gives each snapshot its slot.
pub fn build(
    snapshots: &[Snapshot],
    zone: &Zone,
    slot: &mut dyn FnMut(&SnapshotId) -> Option<u32>,
    location: &str,
    now: Timestamp,
) -> Virtual {
    let newest = snapshots.iter().map(|snapshot| snapshot.manifest.started).max().unwrap_or_default();
    let mut tree = Virtual { attribute_names: attribute_names(snapshots), ..Virtual::default() };
    tree.entries.reserve(snapshots.len());
    tree.snapshots.reserve(snapshots.len());
    tree.entries.insert(ROOT, Folder { parent: ROOT, kind: VirtualKind::Folder(Children::default()), time: newest });
    let mut top = |name: &str| tree.folder(ROOT, "", name.as_bytes(), newest);
    let (latest, all, tags, ids, about) = (top("Latest"), top("Snapshots"), top("Tags"), top("Ids"), top(".yesterdrive"));
    let mut last: BTreeMap<Vec<u8>, (&Snapshot, Vec<u8>)> = BTreeMap::new();
    let hosts = host_folders(snapshots);
    for ((snapshot, name), host) in snapshots.iter().zip(names(snapshots, &hosts, zone)).zip(&hosts) {
        let Some(number) = slot(&snapshot.id) else { continue };
        let time = snapshot.manifest.started;
        let folder = tree.folder(all, "Snapshots", host, newest);
        tree.link(folder, &name, Inode { slot: number, position: ROOT_POSITION }.number());
        tree.snapshots.insert(number, (Arc::new(snapshot.clone()), folder));
        let place = |up: &[u8]| [up, b"Snapshots/", &host[..], b"/", &name[..]].concat();
        tree.add(ids, "Ids", snapshot.id.short().as_bytes(), VirtualKind::Link(place(b"../")), time);
        for tag in &snapshot.manifest.tags {
            let tag = safe_name(tag);
            let folder = tree.folder(tags, "Tags", &tag, newest);
            let path = format!("Tags/{}", String::from_utf8_lossy(&tag));
            let link_name = [&host[..], b" ", &name[..]].concat();
            tree.add(folder, &path, &link_name, VirtualKind::Link(place(b"../../")), time);
        }
        // Snapshots come oldest first: the last one stays.
        if snapshot.sealed {
            last.insert(host.clone(), (snapshot, place(b"../")));
        }
    }
    for (host, (snapshot, target)) in &last {
        tree.totals.0 += snapshot.manifest.stats.byte_count;
        tree.totals.1 += snapshot.manifest.stats.file_count + snapshot.manifest.stats.directory_count + snapshot.manifest.stats.other_count;
        tree.add(latest, "Latest", host, VirtualKind::Link(target.clone()), snapshot.manifest.started);
    }
    tree.add(about, ".yesterdrive", b"README.txt", VirtualKind::File(Bytes::from_static(README.as_bytes())), newest);
    // Its text is made when somebody looks: see `status.rs`.
    tree.add(about, ".yesterdrive", STATUS_NAME, VirtualKind::File(Bytes::new()), newest);
    let sealed = snapshots.iter().filter(|snapshot| snapshot.sealed).count();
    tree.about = About { folder: about, location: location.into(), sealed, incomplete: snapshots.len() - sealed, changed: now };
    tree
}

fn attribute_names(snapshots: &[Snapshot]) -> Option<AttributeNames> {
    snapshots.iter().try_fold(AttributeNames::default(), |mut all, snapshot| {
        all.add(snapshot.manifest.attribute_names.as_ref()?);
        Some(all)
    })
}

/// The folder of each snapshot's host: `HOST`, or `HOST (SET)` for other sets than the default.
fn host_folders(snapshots: &[Snapshot]) -> Vec<Vec<u8>> {
    let mut known: HashMap<(&str, &str), Vec<u8>> = HashMap::new();
    let mut folders = Vec::with_capacity(snapshots.len());
    for snapshot in snapshots {
        let (host, set) = (&*snapshot.manifest.host, &*snapshot.manifest.set);
        let folder = || if set.is_empty() { safe_name(host) } else { safe_name(&format!("{host} ({set})")) };
        folders.push(known.entry((host, set)).or_insert_with(folder).clone());
    }
    folders
}

/// The name of each snapshot in its host's folder: local time without colons; the offset where a clock change makes the time ambiguous, `_2` where two would
/// collide, `_incomplete` while unsealed.
fn names(snapshots: &[Snapshot], hosts: &[Vec<u8>], zone: &Zone) -> Vec<Vec<u8>> {
    let mut taken = HashSet::new();
    let named = snapshots.iter().zip(hosts).map(|(snapshot, host)| {
        let time = snapshot.manifest.started;
        let mut base = zone.local(time).map_or_else(|| time.to_string().replace(':', "-"), |local| time_name(&local));
        if !snapshot.sealed {
            base.push_str("_incomplete");
        }
        let mut name = base.clone();
        let mut number = 1;
        while !taken.insert((host, name.clone())) {
            number += 1;
            name = format!("{base}_{number}");
        }
        name.into_bytes()
    });
    named.collect()
}

fn time_name(local: &LocalTime) -> String {
    let (date, time) = (local.civil.date(), local.civil.time());
    let (year, month, day, hour, minute, second) = (date.year(), date.month(), date.day(), time.hour(), time.minute(), time.second());
    let name = format!("{year:04}-{month:02}-{day:02}_{hour:02}-{minute:02}-{second:02}");
    if !local.ambiguous {
        return name;
    }
    let (sign, minutes) = (if local.offset_seconds < 0 { '-' } else { '+' }, local.offset_seconds.abs() / 60);
    format!("{name}{sign}{:02}{:02}", minutes / 60, minutes % 60)
}

const README: &str = "\
This drive shows the backups in a Yesterdrive repository. It is read-only: copy what you need from it.

Latest/HOST               the newest complete snapshot of a host (HOST (SET) for other sets)
Snapshots/HOST/TIME/...   every snapshot by its time, with the paths as they were saved
Tags/TAG/...              snapshots with a tag
Ids/ID                    snapshots by id
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DeviceId;
    use crate::snapshot::codec::tests::manifest;

    fn snapshot(n: u8, seconds: i64, host: &str, set: &str, sealed: bool) -> Snapshot {
        let mut manifest = manifest(DeviceId::from_bytes([1; 16]), 1);
        manifest.started = Timestamp::new(seconds, 0).unwrap();
        (manifest.host, manifest.set) = (host.into(), set.into());
        Snapshot { id: SnapshotId::from_bytes([n; 32]), manifest: Arc::new(manifest), sealed }
    }

    fn build_utc(snapshots: &[Snapshot]) -> Virtual {
        let mut next = 0;
        let mut slot = |_: &SnapshotId| {
            next += 1;
            Some(next)
        };
        build(snapshots, &Zone::utc(), &mut slot, "/srv/backup", Timestamp::default())
    }

    fn children(tree: &Virtual, path: &[&str]) -> Vec<String> {
        let mut inode = ROOT;
        for part in path {
            let VirtualKind::Folder(folder) = &tree.get(inode).unwrap().kind else { panic!("{part}") };
            inode = folder.get(part.as_bytes()).unwrap();
        }
        match &tree.get(inode).unwrap().kind {
            VirtualKind::Folder(folder) => {
                let mut names: Vec<_> = folder.after(0).map(|(_, name, _)| String::from_utf8(name.to_vec()).unwrap()).collect();
                names.sort();
                names
            }
            VirtualKind::Link(target) => vec![String::from_utf8(target.clone()).unwrap()],
            VirtualKind::File(_) => Vec::new(),
        }
    }

    #[test]
    fn snapshots_stand_under_host_and_time_and_latest_is_sealed() {
        let t = 1_795_271_405;
        let all = [
            snapshot(1, t, "pc", "", true),
            snapshot(2, t, "pc", "", true),
            snapshot(3, t + 9, "pc", "", false),
            snapshot(4, t, "a/b", "db", true),
        ];
        let tree = build_utc(&all);
        assert_eq!(children(&tree, &[]), [".yesterdrive", "Ids", "Latest", "Snapshots", "Tags"]);
        assert_eq!(children(&tree, &["Snapshots"]), ["a_b (db)", "pc"]);
        let expected = ["2026-11-21_14-30-05", "2026-11-21_14-30-05_2", "2026-11-21_14-30-14_incomplete"];
        assert_eq!(children(&tree, &["Snapshots", "pc"]), expected);
        assert_eq!(children(&tree, &["Latest", "pc"]), ["../Snapshots/pc/2026-11-21_14-30-05_2"]);
        assert_eq!(children(&tree, &["Ids", "0404040404040404"]), ["../Snapshots/a_b (db)/2026-11-21_14-30-05"]);
        assert_eq!(children(&tree, &["Tags", "before update"]).len(), 4);
        assert_eq!(tree.totals.1, 6, "three files in the newest of two sets");
    }

    #[test]
    fn a_clock_set_back_gives_two_names() {
        let Some(berlin) = Zone::named("Europe/Berlin") else { return };
        let all = [snapshot(1, 1_792_888_200, "pc", "", true), snapshot(2, 1_792_891_800, "pc", "", true)];
        let names: Vec<_> = names(&all, &host_folders(&all), &berlin).into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
        assert_eq!(names, ["2026-10-25_02-30-00+0200", "2026-10-25_02-30-00+0100"]);
    }

    #[test]
    fn numbers_stay_and_moved_links_get_new_ones() {
        let first = build_utc(&[snapshot(1, 1000, "pc", "", true)]);
        let second = build_utc(&[snapshot(1, 1000, "pc", "", true), snapshot(2, 2000, "pc", "", true)]);
        let number = |tree: &Virtual, folder: &str, name: &str| {
            let VirtualKind::Folder(root) = &tree.get(ROOT).unwrap().kind else { panic!() };
            let VirtualKind::Folder(folder) = &tree.get(root.get(folder.as_bytes()).unwrap()).unwrap().kind else { panic!() };
            folder.get(name.as_bytes()).unwrap()
        };
        assert_eq!(number(&first, "Snapshots", "pc"), number(&second, "Snapshots", "pc"));
        assert_ne!(number(&first, "Latest", "pc"), number(&second, "Latest", "pc"));
        assert_eq!(number(&first, ".yesterdrive", "README.txt"), number(&second, ".yesterdrive", "README.txt"));
        assert!(second.changed_since(&first).contains(&number(&first, "Snapshots", "pc")));
    }
}
