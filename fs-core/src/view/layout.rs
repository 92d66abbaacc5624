//! How snapshots become directories: a pure function of the snapshots, the time zone and their slots.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::by_time::{ByTime, Shown};
use super::inode::Inode;
use super::safe_name;
use crate::crypto;
use crate::id::SnapshotId;
use crate::snapshot::attributes::AttributeNames;
use crate::snapshot::{Series, Snapshot};
use crate::time::{Timestamp, Zone};
use crate::tree::POSITION_MAX;

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

/// What a made-up folder shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Children {
    /// These lines.
    Lines(Lines),
    /// The snapshots of a host.
    Snapshots(usize),
    /// Links to snapshots, which are made when somebody looks; so many folders are among them.
    Links(u64),
}

/// The lines of a made-up folder, in the order of their cookies. A cookie comes from the name alone: a listing that goes on after the folder has changed
/// neither skips nor repeats a name that was there all the time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lines(BTreeMap<u64, (Vec<u8>, u64)>);

impl Lines {
    fn get(&self, name: &[u8]) -> Option<u64> {
        // Names whose hashes collide stand one after the other.
        (cookie(name)..).map_while(|at| self.0.get(&at)).find(|(known, _)| known == name).map(|(_, number)| *number)
    }

    fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, Vec<u8>, u64)> {
        self.0.range((Bound::Excluded(cookie), Bound::Unbounded)).map(|(cookie, (name, number))| (*cookie, name.clone(), *number))
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

/// Made-up entries by their numbers.
#[derive(Debug, Default)]
struct Entries {
    by_number: HashMap<u64, Folder>,
    /// Set in the numbers that are given here.
    mark: u64,
}

/// Everything that the view makes up.
#[derive(Debug, Default)]
pub struct Virtual {
    /// What there is of every repository: it grows with the hosts and not with the snapshots.
    front: Entries,
    /// `Ids`, `Tags` and what is in them, made when somebody looks there.
    links: OnceLock<Entries>,
    /// Their folders.
    links_in: LinkFolders,
    /// Files and links of the tree before: whoever has found one just now may still read it.
    former: HashMap<u64, Folder>,
    by_time: ByTime,
    /// Numbers of the hosts' folders.
    hosts: Vec<u64>,
    /// Names of the extended attributes that occur in any snapshot; `None` if one does not say.
    pub attribute_names: Option<AttributeNames>,
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

/// The folders that are filled when somebody looks.
#[derive(Clone, Copy, Debug, Default)]
struct LinkFolders {
    tags: u64,
    ids: u64,
}

/// Set in the numbers of what is made when somebody looks: all others are known without making it.
const MADE_LATER: u64 = 1 << 43;

/// The number of something made up: from its path, and for links and files from what they hold too.
pub fn made_up_number(path: &str, name: &[u8], held: &[u8]) -> u64 {
    (hash_number(&[path.as_bytes(), b"/", name, b"\0", held]) & (POSITION_MAX >> 1)).max(ROOT + 1)
}

impl Entries {
    /// Adds an entry under a path that was not there. Its number comes from the path, and for links and files from what they hold too: what moves or
    /// changes is another entry, because the kernel keeps what it has read of one.
    fn add(&mut self, parent: u64, path: &str, name: &[u8], kind: VirtualKind, time: Timestamp) -> u64 {
        let held: &[u8] = match &kind {
            VirtualKind::Folder(_) => b"",
            VirtualKind::Link(target) => target,
            VirtualKind::File(bytes) => bytes,
        };
        let mut number = made_up_number(path, name, held) | self.mark;
        while self.by_number.contains_key(&number) {
            number = (number + 1) & (POSITION_MAX >> 1) | self.mark;
        }
        self.by_number.insert(number, Folder { parent, kind, time });
        if let Some(Folder { kind: VirtualKind::Folder(Children::Lines(lines)), .. }) = self.by_number.get_mut(&parent) {
            lines.insert(name, number);
        }
        number
    }

    /// A folder that may be there.
    fn folder(&mut self, parent: u64, path: &str, name: &[u8], time: Timestamp) -> u64 {
        let known = match self.by_number.get(&parent) {
            Some(Folder { kind: VirtualKind::Folder(Children::Lines(lines)), .. }) => lines.get(name),
            _ => None,
        };
        known.unwrap_or_else(|| self.add(parent, path, name, empty(), time))
    }
}

fn empty() -> VirtualKind {
    VirtualKind::Folder(Children::Lines(Lines::default()))
}

impl Virtual {
    /// A made-up entry by its number.
    pub fn get(&self, inode: u64) -> Option<&Folder> {
        if !Inode::from_number(inode).is_made_up() {
            return None;
        }
        let now = if inode & MADE_LATER == 0 { &self.front } else { self.links() };
        now.by_number.get(&inode).or_else(|| self.former.get(&inode))
    }

    /// Keeps what the tree before had for those who have found it there. No name leads to it any more.
    pub fn keep_former(&mut self, before: &Self) {
        let found = before.front.by_number.iter().chain(before.links.get().into_iter().flat_map(|links| &links.by_number));
        let gone = found.filter(|(inode, entry)| !matches!(entry.kind, VirtualKind::Folder(_)) && self.get(**inode).is_none());
        self.former = gone.map(|(inode, entry)| (*inode, entry.clone())).collect();
    }

    /// The snapshot in a slot and the folder that shows it.
    pub fn snapshot(&self, slot: u32) -> Option<(&Snapshot, u64)> {
        let (snapshot, host) = self.by_time.in_slot(slot)?;
        Some((snapshot, *self.hosts.get(host)?))
    }

    /// Whether it is a tree that was made, and not the nothing before the first one.
    pub fn is_made(&self) -> bool {
        self.front.by_number.contains_key(&ROOT)
    }

    /// Whether the tree shows these snapshots.
    pub fn is_of(&self, snapshots: &[Snapshot]) -> bool {
        let shown = self.by_time.iter().map(|shown| (shown.snapshot.id, shown.snapshot.sealed));
        shown.eq(snapshots.iter().map(|snapshot| (snapshot.id, snapshot.sealed)))
    }

    /// The newest complete snapshot of every host and set.
    pub fn newest(&self) -> Vec<&Snapshot> {
        self.by_time.newest().into_iter().map(|shown| &shown.snapshot).collect()
    }

    /// The number behind a name in a made-up folder.
    pub fn child(&self, folder: u64, children: &Children, name: &[u8]) -> Option<u64> {
        match children {
            Children::Lines(lines) => lines.get(name),
            Children::Snapshots(host) => self.by_time.find(*host, name),
            Children::Links(_) => self.links_of(folder)?.get(name),
        }
    }

    /// Lines of a made-up folder after a cookie, 0 for all: cookie, name and number.
    pub fn lines<'a>(&'a self, folder: u64, children: &'a Children, after: u64) -> Box<dyn Iterator<Item = (u64, Vec<u8>, u64)> + 'a> {
        match children {
            Children::Lines(lines) => Box::new(lines.after(after)),
            Children::Snapshots(host) => Box::new(self.by_time.lines(*host, after)),
            Children::Links(_) => Box::new(self.links_of(folder).into_iter().flat_map(move |lines| lines.after(after))),
        }
    }

    /// How many folders are in a made-up one.
    pub fn folder_count(&self, children: &Children) -> u64 {
        match children {
            // A folder has a name for each subfolder's `..`; what is no made-up link or file is one.
            Children::Lines(Lines(lines)) => {
                let is_folder = |child: u64| self.get(child).is_none_or(|entry| matches!(entry.kind, VirtualKind::Folder(_)));
                lines.values().filter(|(_, child)| is_folder(*child)).count() as u64
            }
            Children::Snapshots(host) => self.by_time.count(*host) as u64,
            Children::Links(folder_count) => *folder_count,
        }
    }

    /// Numbers of the folders whose lines differ from those before. What nobody has looked at has not changed.
    pub fn changed_since(&self, before: &Self) -> Vec<u64> {
        let differs = |entry: &Folder, old: &Folder| match (&entry.kind, &old.kind) {
            (VirtualKind::Folder(Children::Snapshots(now)), VirtualKind::Folder(Children::Snapshots(old))) => {
                !self.by_time.is_same(*now, &before.by_time, *old)
            }
            (VirtualKind::Folder(now), VirtualKind::Folder(old)) => now != old,
            _ => false,
        };
        let pairs = [Some((&self.front, &before.front)), before.links.get().map(|links| (self.links(), links))];
        let both = pairs
            .into_iter()
            .flatten()
            .flat_map(|(now, old)| now.by_number.iter().filter_map(|(inode, entry)| Some((*inode, entry, old.by_number.get(inode)?))));
        let mut changed: Vec<_> = both.filter(|(_, entry, old)| differs(entry, old)).map(|(inode, _, _)| inode).collect();
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    fn links_of(&self, folder: u64) -> Option<&Lines> {
        match &self.links().by_number.get(&folder)?.kind {
            VirtualKind::Folder(Children::Lines(lines)) => Some(lines),
            _ => None,
        }
    }

    fn links(&self) -> &Entries {
        self.links.get_or_init(|| {
            let mut made = Entries { mark: MADE_LATER, ..Entries::default() };
            let LinkFolders { tags, ids } = self.links_in;
            for folder in [tags, ids] {
                let time = self.front.by_number.get(&folder).map(|folder| folder.time).unwrap_or_default();
                made.by_number.insert(folder, Folder { parent: ROOT, kind: empty(), time });
            }
            for shown in self.by_time.iter() {
                let (snapshot, time) = (&shown.snapshot, shown.snapshot.started());
                let target = VirtualKind::Link(self.by_time.path(b"../", shown));
                made.add(ids, "Ids", snapshot.id.short().as_bytes(), target, time);
                snapshot.tags().iter().for_each(|tag| self.add_tag(&mut made, shown, tag));
            }
            made
        })
    }

    fn add_tag(&self, made: &mut Entries, shown: &Shown, tag: &str) {
        let (tag, time) = (safe_name(tag), shown.snapshot.started());
        let tags = self.links_in.tags;
        let newest = made.by_number.get(&tags).map(|folder| folder.time).unwrap_or_default();
        let folder = made.folder(tags, "Tags", &tag, newest);
        let path = format!("Tags/{}", String::from_utf8_lossy(&tag));
        let link_name = [self.by_time.host_of(shown), b" ", &self.by_time.name(shown)].concat();
        made.add(folder, &path, &link_name, VirtualKind::Link(self.by_time.path(b"../../", shown)), time);
    }
}

/// Makes the tree of snapshots, the oldest first. `slot` gives each snapshot its slot.
pub fn build(
    snapshots: Vec<Snapshot>,
    zone: &Zone,
    slot: &mut dyn FnMut(&SnapshotId) -> Option<u32>,
    location: &str,
    now: Timestamp,
) -> Virtual {
    let newest = snapshots.iter().map(Snapshot::started).max().unwrap_or_default();
    let sealed = snapshots.iter().filter(|snapshot| snapshot.sealed).count();
    let about = About { folder: 0, location: location.into(), sealed, incomplete: snapshots.len() - sealed, changed: now };
    let (attribute_names, tag_count) = summary(&snapshots);
    let by_time = ByTime::new(snapshots, zone, slot);
    let mut front = Entries::default();
    front.by_number.insert(ROOT, Folder { parent: ROOT, kind: empty(), time: newest });
    let mut top = |name: &str, children| front.add(ROOT, "", name.as_bytes(), VirtualKind::Folder(children), newest);
    let lines = || Children::Lines(Lines::default());
    let (latest, all, own) = (top("Latest", lines()), top("Snapshots", lines()), top(".yesterdrive", lines()));
    let links_in = LinkFolders { tags: top("Tags", Children::Links(tag_count)), ids: top("Ids", Children::Links(0)) };
    let mut folder = |(at, host): (usize, &[u8])| front.add(all, "Snapshots", host, VirtualKind::Folder(Children::Snapshots(at)), newest);
    let hosts = by_time.hosts().enumerate().map(&mut folder).collect();
    for shown in by_time.newest() {
        let target = VirtualKind::Link(by_time.path(b"../", shown));
        front.add(latest, "Latest", by_time.host_of(shown), target, shown.snapshot.started());
    }
    front.add(own, ".yesterdrive", b"README.txt", VirtualKind::File(Bytes::from_static(README.as_bytes())), newest);
    // Its text is made when somebody looks: see `status.rs`.
    front.add(own, ".yesterdrive", STATUS_NAME, VirtualKind::File(Bytes::new()), newest);
    Virtual { front, links_in, by_time, hosts, attribute_names, about: About { folder: own, ..about }, ..Virtual::default() }
}

/// The attributes that occur in any snapshot, if all say so, and how many tags there are.
fn summary(snapshots: &[Snapshot]) -> (Option<AttributeNames>, u64) {
    let series: HashMap<*const Series, &Series> =
        snapshots.iter().map(|snapshot| &snapshot.outline.series).map(|series| (Arc::as_ptr(series), &**series)).collect();
    let attribute_names = series.values().try_fold(AttributeNames::default(), |mut all, series| {
        all.add(series.attribute_names.as_ref()?);
        Some(all)
    });
    let tags: BTreeSet<_> = series.values().flat_map(|series| &series.tags).map(|tag| safe_name(tag)).collect();
    (attribute_names, tags.len() as u64)
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
        Snapshot::new(SnapshotId::from_bytes([n; 32]), &manifest, sealed)
    }

    fn build_utc(snapshots: &[Snapshot]) -> Virtual {
        let mut next = 0;
        let mut slot = |_: &SnapshotId| {
            next += 1;
            Some(next)
        };
        build(snapshots.to_vec(), &Zone::utc(), &mut slot, "/srv/backup", Timestamp::default())
    }

    fn step(tree: &Virtual, folder: u64, name: &str) -> u64 {
        let VirtualKind::Folder(children) = &tree.get(folder).unwrap().kind else { panic!("{name}") };
        tree.child(folder, children, name.as_bytes()).unwrap()
    }

    fn children(tree: &Virtual, path: &[&str]) -> Vec<String> {
        let inode = path.iter().fold(ROOT, |folder, name| step(tree, folder, name));
        match &tree.get(inode).unwrap().kind {
            VirtualKind::Folder(children) => {
                let lines: Vec<_> = tree.lines(inode, children, 0).collect();
                assert!(lines.is_sorted_by(|a, b| a.0 < b.0) && lines.iter().all(|line| line.0 > DOTS));
                let mut names: Vec<_> = lines.into_iter().map(|(_, name, _)| String::from_utf8(name).unwrap()).collect();
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
        let newest: Vec<_> = tree.newest().into_iter().map(|snapshot| snapshot.id.as_bytes()[0]).collect();
        assert!(newest.len() == 2 && newest.contains(&2) && newest.contains(&4), "{newest:?}");
    }

    #[test]
    fn numbers_stay_and_moved_links_get_new_ones() {
        let first = build_utc(&[snapshot(1, 1000, "pc", "", true)]);
        let second = build_utc(&[snapshot(1, 1000, "pc", "", true), snapshot(2, 2000, "pc", "", true)]);
        let number = |tree: &Virtual, folder: &str, name: &str| step(tree, step(tree, ROOT, folder), name);
        assert_eq!(number(&first, "Snapshots", "pc"), number(&second, "Snapshots", "pc"));
        assert_ne!(number(&first, "Latest", "pc"), number(&second, "Latest", "pc"));
        assert_eq!(number(&first, ".yesterdrive", "README.txt"), number(&second, ".yesterdrive", "README.txt"));
        assert!(second.changed_since(&first).contains(&number(&first, "Snapshots", "pc")));
    }

    /// What grows with the snapshots is made when somebody looks, and only there.
    #[test]
    fn links_are_made_for_those_who_look() {
        let (one, two) = ([snapshot(1, 1000, "pc", "", true)], [snapshot(1, 1000, "pc", "", true), snapshot(2, 2000, "pc", "", true)]);
        let (first, mut second) = (build_utc(&one), build_utc(&two));
        for path in [&["Latest", "pc"][..], &["Snapshots", "pc"], &[".yesterdrive"]] {
            assert!(!children(&first, path).is_empty());
        }
        let VirtualKind::Folder(tags) = &first.get(step(&first, ROOT, "Tags")).unwrap().kind else { panic!() };
        assert_eq!(first.folder_count(tags), 1);
        assert!(first.changed_since(&build_utc(&[])).contains(&step(&first, ROOT, "Snapshots")));
        let ids = step(&second, ROOT, "Ids");
        assert!(!second.changed_since(&first).contains(&ids), "nobody has seen what it was");
        second.keep_former(&first);
        assert!(first.links.get().is_none() && second.links.get().is_none());

        let link = step(&first, ids, "0101010101010101");
        assert!(first.links.get().is_some() && first.get(link).is_some());
        assert!(second.changed_since(&first).contains(&ids));
        let mut none = build_utc(&[]);
        none.keep_former(&first);
        assert_eq!(none.get(link), first.get(link), "who has found it may still read it");
    }
}
