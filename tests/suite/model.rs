//! Random questions to the view, compared with what the source was when it was saved. Without a kernel, but asked as the adapter asks.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fs_core::crypto::RandomSource as _;
use fs_core::repository::{Held, OpenOptions, Repository};
use fs_core::storage::ReadStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::SeededRandom;
use fs_core::tree::EntryKind;
use fs_core::view::attr::Attr;
use fs_core::view::error::ViewError;
use fs_core::view::layout::ROOT;
use fs_core::view::{Answer, Listed, View};
use rustix::fs::XattrFlags;
use tests::driven::is_long;
use tests::picture::{Picture, Thing};
use tests::remote::RemoteStore;
use tests::{Bench, acl, noise};

use super::mount::view_of;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
/// A folder of so many files has several pages.
const MANY: u64 = 5500;
/// How long an answer takes at most: longer than a store may, so that nobody who is told nothing is taken for slow.
const TOLD_WITHIN: Duration = Duration::from_secs(90);
/// Times that a question is asked over a line that fails.
const TRIES: usize = 100;

/// Chance with a seed.
struct Dice(Arc<SeededRandom>);

impl Dice {
    fn below(&self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit.max(1)
    }

    fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn one_of<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len() as u64) as usize)
    }
}

/// A repository with three snapshots of a folder that changed in between, and what it was each time.
struct World {
    bench: Bench,
    /// The first two snapshots; all three.
    stores: [MemoryStore; 2],
    pictures: Vec<Picture>,
    folder: PathBuf,
}

static WORLD: LazyLock<World> = LazyLock::new(|| World::new().unwrap());

impl World {
    fn new() -> Result<Self> {
        let place = tempfile::tempdir()?;
        let folder = place.path().to_path_buf();
        let store = MemoryStore::new();
        let bench = Bench::new(Arc::new(store.clone()))?;
        fill(&folder)?;
        let mut pictures = vec![Picture::take(&folder)?];
        bench.backup(&folder, None)?;
        change(&folder)?;
        pictures.push(Picture::take(&folder)?);
        bench.backup(&folder, None)?;
        let two = store.fork();
        change_again(&folder)?;
        pictures.push(Picture::take(&folder)?);
        bench.backup(&folder, None)?;
        Ok(Self { bench, stores: [two, store], pictures, folder })
    }
}

/// Everything that was ever hard to get right.
fn fill(folder: &Path) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes);
    std::fs::create_dir_all(folder.join("deep/er/and/deeper"))?;
    std::fs::create_dir(folder.join("empty"))?;
    std::fs::create_dir(folder.join("many"))?;
    for number in 0..MANY {
        write(&format!("many/{number:05}"), &noise(number, (number % 7) as usize * 11))?;
    }
    for size in [0, 1, 4095, 4097, 65_535, 65_536, 65_537, 262_144, 1_048_577] {
        write(&format!("deep/{size}"), &noise(size as u64, size))?;
    }
    // More than 32 records, which takes a list, and the same record again and again.
    write("list", &noise(1, 14_000_003))?;
    write("zeros", &vec![0; 3_000_000])?;
    write("text", &b"the same line again\n".repeat(90_000))?;
    let sparse = std::fs::File::create(folder.join("deep/er/sparse"))?;
    for (number, offset) in [65_536u64, 1_048_576, 2_999_808].into_iter().enumerate() {
        sparse.write_all_at(&noise(number as u64, 70_001), offset)?;
    }
    sparse.set_len(4_000_003)?;
    std::fs::File::create(folder.join("only a hole"))?.set_len(1_000_000)?;
    for number in 0..20u8 {
        let name = [b"\xff \n\"", &[b'a' + number][..], b"\xc3\xa4"].concat();
        std::fs::write(folder.join("deep/er/and").join(std::ffi::OsStr::from_bytes(&name)), name)?;
    }
    for (target, name) in [("../nowhere/\u{e4}", "dangling"), ("/etc/hostname", "absolute"), ("list", "to the list")] {
        std::os::unix::fs::symlink(target, folder.join(name))?;
    }
    std::fs::hard_link(folder.join("text"), folder.join("deep/er/and/deeper/hard link"))?;
    std::fs::hard_link(folder.join("deep/1"), folder.join("a hard link"))?;
    std::fs::hard_link(folder.join("deep/1"), folder.join("many/0a hard link"))?;
    for (path, name, value) in
        [("list", "user.comment", b"short".to_vec()), ("list", "user.long", noise(5, 2000)), ("deep", "user.of a folder", noise(6, 300))]
    {
        rustix::fs::lsetxattr(folder.join(path), name, &value, XattrFlags::empty())?;
    }
    rustix::fs::lsetxattr(folder.join("text"), "system.posix_acl_access", &acl(1234), XattrFlags::empty())?;
    Ok(())
}

fn change(folder: &Path) -> Result<()> {
    let list = std::fs::File::options().write(true).open(folder.join("list"))?;
    list.write_all_at(b"in the middle", 7_000_000)?;
    list.set_len(15_000_000)?;
    for number in (0..MANY).step_by(97) {
        std::fs::remove_file(folder.join(format!("many/{number:05}")))?;
        std::fs::write(folder.join(format!("many/{number:05} new")), noise(number, 300))?;
    }
    std::fs::rename(folder.join("deep/er/and"), folder.join("moved"))?;
    std::fs::remove_file(folder.join("a hard link"))?;
    Ok(())
}

fn change_again(folder: &Path) -> Result<()> {
    std::fs::remove_file(folder.join("list"))?;
    // What was a file is a folder now, and the other way round.
    std::fs::create_dir(folder.join("list"))?;
    std::fs::write(folder.join("list/within"), noise(9, 500_000))?;
    std::fs::remove_dir(folder.join("empty"))?;
    std::fs::write(folder.join("empty"), "a file")?;
    std::fs::remove_file(folder.join("zeros"))?;
    Ok(())
}

/// How a run reads.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    memory_max: usize,
    /// Whether answers come later, and one in how many never comes.
    remote: Option<u64>,
    has_disk: bool,
}

/// A view that is questioned.
struct Questioned {
    way: Way,
    store: MemoryStore,
    state: tempfile::TempDir,
    view: Arc<View>,
    /// The saved folder of each snapshot.
    roots: Vec<u64>,
    /// Numbers that entries were seen under: by snapshot and first path, and the other way round.
    known: Mutex<Numbers>,
}

#[derive(Default)]
struct Numbers {
    by_place: HashMap<(usize, PathBuf), u64>,
    by_number: HashMap<u64, (usize, PathBuf)>,
}

/// An entry of one of the snapshots.
#[derive(Clone, Copy)]
struct Place {
    snapshot: usize,
    path: &'static Path,
    thing: &'static Thing,
}

fn open(way: Way, store: &MemoryStore, state: &Path) -> Result<Arc<View>> {
    let store: Arc<dyn ReadStore> = match way.remote {
        Some(fails_every) => RemoteStore::new(Arc::new(store.clone()), fails_every),
        None => Arc::new(store.clone()),
    };
    let options = OpenOptions {
        memory_max: way.memory_max,
        cache_size: if way.has_disk { 32 << 20 } else { 0 },
        state: way.has_disk.then(|| state.into()),
        ..OpenOptions::default()
    };
    let repository = Repository::open(store, &WORLD.bench.credential, &options)?;
    Ok(view_of(Arc::new(repository), way.has_disk.then_some(state)))
}

impl Questioned {
    fn new(way: Way, dice: &Dice) -> Result<Self> {
        let (store, state) = (WORLD.stores[0].fork(), tempfile::tempdir()?);
        let view = open(way, &store, state.path())?;
        let mut new = Self { way, store, state, view, roots: Vec::new(), known: Mutex::default() };
        new.find_roots(dice)?;
        ensure!(new.roots.len() == 2, "two snapshots are shown");
        Ok(new)
    }

    /// The third snapshot is made by somebody else while the view is there.
    fn grow(&mut self, dice: &Dice) -> Result<()> {
        WORLD.stores[1].contents().into_iter().for_each(|(name, bytes)| drop(self.store.overwrite(&name, Some(bytes))));
        ensure!(!self.view.refresh()?.is_empty(), "something has changed");
        let before = self.roots.clone();
        self.find_roots(dice)?;
        ensure!(self.roots[..2] == before && self.roots.len() == 3, "numbers stay");
        Ok(())
    }

    /// Another process, later.
    fn reopen(&mut self, dice: &Dice) -> Result<()> {
        self.view = open(self.way, &self.store, self.state.path())?;
        let before = self.roots.clone();
        self.find_roots(dice)?;
        ensure!(self.roots == before, "numbers are the same after a remount");
        Ok(())
    }

    fn find_roots(&mut self, dice: &Dice) -> Result<()> {
        let step = |parent, name: &[u8]| -> Result<u64> {
            let name = name.to_vec();
            Ok(self.answer(dice, move |view, held| view.lookup(held, parent, &name))??.0.inode)
        };
        let host = step(step(ROOT, b"Snapshots")?, b"host")?;
        let mut names: Vec<_> = self.list(dice, host, 2, usize::MAX)?.into_iter().map(|line| line.name).collect();
        names.sort();
        let mut roots = Vec::new();
        for name in names {
            let above = WORLD.folder.strip_prefix("/")?.iter().map(OsStrExt::as_bytes);
            roots.push(above.fold(step(host, &name), |parent, name| step(parent?, name))?);
        }
        self.roots = roots;
        Ok(())
    }

    /// Asks in one of the two ways, again while the line fails.
    fn answer<T: Send + 'static>(
        &self,
        dice: &Dice,
        question: impl Fn(&View, &Held) -> Answer<T> + Clone + Send + 'static,
    ) -> Result<Result<T, ViewError>> {
        for _ in 0..TRIES {
            let answer = if dice.one_in(2) {
                self.view.wait(&question)
            } else {
                let (tell, told) = channel();
                self.view.ask(question.clone(), move |answer| drop(tell.send(answer)));
                told.recv_timeout(TOLD_WITHIN).context("everybody is told")?
            };
            let may_fail = self.way.remote.is_some_and(|fails_every| fails_every > 0);
            if !(may_fail && matches!(answer, Err(ViewError::Unreachable(_)))) {
                return Ok(answer);
            }
        }
        bail!("the line fails now and then, not always");
    }

    fn list(&self, dice: &Dice, inode: u64, offset: u64, count: usize) -> Result<Vec<Listed>> {
        let question = move |view: &View, held: &Held| {
            let mut lines = Vec::new();
            view.readdir(held, inode, offset, &mut |line| {
                lines.push(line);
                lines.len() < count
            })?;
            Ok(lines)
        };
        Ok(self.answer(dice, question)??)
    }

    /// One of the entries, those in the largest folder less often than there are.
    fn place(&self, dice: &Dice) -> Result<Place> {
        let snapshot = dice.below(self.roots.len() as u64) as usize;
        let picture = WORLD.pictures.get(snapshot).context("each snapshot has a picture")?;
        let (mut path, mut names) = (PathBuf::new(), &picture.names);
        loop {
            path.push(std::ffi::OsStr::from_bytes(dice.one_of(names).context("it is not empty")?));
            let (path, thing) = picture.things.get_key_value(&path).context("what has a name is there")?;
            if thing.names.is_empty() || dice.one_in(4) {
                return Ok(Place { snapshot, path, thing });
            }
            names = &thing.names;
        }
    }

    /// The number of an entry, as it was seen before or by its path.
    fn number(&self, dice: &Dice, at: Place) -> Result<u64> {
        let known = self.known.lock().unwrap().by_place.get(&(at.snapshot, at.thing.first_path.clone())).copied();
        match known {
            Some(number) if !dice.one_in(3) => Ok(number),
            _ => self.walk(dice, at),
        }
    }

    /// Walks to an entry and compares what lies on the way.
    fn walk(&self, dice: &Dice, at: Place) -> Result<u64> {
        let (mut parent, mut path) = (self.roots[at.snapshot], PathBuf::new());
        for name in at.path {
            let bytes = name.as_bytes().to_vec();
            path.push(name);
            let (attr, moves) = self.answer(dice, move |view, held| view.lookup(held, parent, &bytes))??;
            ensure!(!moves, "a snapshot never changes");
            self.compare(at.snapshot, &path, &attr)?;
            parent = attr.inode;
        }
        Ok(parent)
    }

    /// What `stat` tells is what it told of the source, and one number means one entry.
    fn compare(&self, snapshot: usize, path: &Path, attr: &Attr) -> Result<()> {
        let thing = WORLD.pictures[snapshot].things.get(path).with_context(|| format!("{} should not be there", path.display()))?;
        let (seen, shown) = (&thing.seen, path.display());
        ensure!((attr.mode, attr.uid, attr.gid) == (seen.mode & 0o7777, seen.owner.0, seen.owner.1), "{shown}: {attr:?}");
        let kind = [(DIRECTORY, EntryKind::Directory), (FILE, EntryKind::File), (LINK, EntryKind::Symlink)];
        ensure!(kind.iter().any(|(bits, kind)| thing.is(*bits) && attr.kind == *kind), "{shown}: {attr:?}");
        ensure!((attr.mtime.seconds(), i64::from(attr.mtime.nanos())) == seen.mtime, "{shown}: {attr:?}");
        ensure!(attr.size == seen.size, "{shown}: {attr:?}");
        let folders = || thing.names.iter().filter(|name| self.is_folder(snapshot, &path.join(std::ffi::OsStr::from_bytes(name)))).count();
        let links = if thing.is(DIRECTORY) { 2 + folders() as u64 } else { seen.links };
        ensure!(attr.link_count == links, "{shown}: {links} {attr:?}");
        if thing.is(FILE) {
            ensure!(attr.allocated == thing.extents.iter().map(|(_, length)| length).sum::<u64>(), "{shown}: {attr:?}");
        }
        let own = (snapshot, thing.first_path.clone());
        let mut known = self.known.lock().unwrap();
        let number = *known.by_place.entry(own.clone()).or_insert(attr.inode);
        let place = known.by_number.entry(attr.inode).or_insert_with(|| own.clone());
        ensure!(number == attr.inode && *place == own, "{shown}: {number} or {} is {place:?} too", attr.inode);
        Ok(())
    }

    fn is_folder(&self, snapshot: usize, path: &Path) -> bool {
        WORLD.pictures[snapshot].things.get(path).is_some_and(|thing| thing.is(DIRECTORY))
    }

    /// One random question.
    fn step(&self, dice: &Dice) -> Result<()> {
        let at = self.place(dice)?;
        let here = || format!("{} in snapshot {}", at.path.display(), at.snapshot);
        match dice.below(16) {
            0 => drop(self.walk(dice, at).with_context(here)?),
            1 => self.look_for_what_is_not_there(dice, at).with_context(here)?,
            2 => {
                let number = self.number(dice, at).with_context(here)?;
                let attr = self.answer(dice, move |view, held| view.getattr(held, number)).with_context(here)??;
                self.compare(at.snapshot, at.path, &attr)?;
            }
            3 | 4 => self.read_folder(dice, at).with_context(here)?,
            5 => self.read_link(dice, at).with_context(here)?,
            6 => self.read_attributes(dice, at).with_context(here)?,
            7 => self.seek(dice, at).with_context(here)?,
            8 => self.look_at_dots(dice, at).with_context(here)?,
            _ => self.read(dice, at).with_context(here)?,
        }
        let fetch = self.view.repository().fetch_status();
        ensure!(fetch.memory_used <= self.way.memory_max as u64, "{fetch:?}");
        Ok(())
    }

    fn look_for_what_is_not_there(&self, dice: &Dice, at: Place) -> Result<()> {
        let number = self.number(dice, at)?;
        let near = dice.one_of(&at.thing.names).cloned().unwrap_or_default();
        let name = dice.one_of(&[[&near[..], b"\0"].concat(), [b"\x01", &near[..]].concat(), b"~".to_vec()]).context("three")?.clone();
        match self.answer(dice, move |view, held| view.lookup(held, number, &name))? {
            Err(ViewError::NotFound) if at.thing.is(DIRECTORY) => Ok(()),
            Err(ViewError::NotDirectory) if !at.thing.is(DIRECTORY) => Ok(()),
            answer => bail!("{answer:?}"),
        }
    }

    fn look_at_dots(&self, dice: &Dice, at: Place) -> Result<()> {
        let number = self.number(dice, at)?;
        let attr = self.answer(dice, move |view, held| view.lookup(held, number, b"."))??.0;
        self.compare(at.snapshot, at.path, &attr)?;
        let above = self.answer(dice, move |view, held| view.lookup(held, number, b".."))?;
        match (at.path.parent(), above) {
            (_, Err(ViewError::NotDirectory)) if !at.thing.is(DIRECTORY) => Ok(()),
            (Some(parent), Ok((attr, _))) if parent == Path::new("") => {
                ensure!(attr.inode == self.roots[at.snapshot]);
                Ok(())
            }
            (Some(parent), Ok((attr, _))) => self.compare(at.snapshot, parent, &attr),
            (_, above) => bail!("{above:?}"),
        }
    }

    /// Lines from a random place on, in pieces.
    fn read_folder(&self, dice: &Dice, at: Place) -> Result<()> {
        let number = self.number(dice, at)?;
        if !at.thing.is(DIRECTORY) {
            let answer = self.answer(dice, move |view, held| view.readdir(held, number, 0, &mut |_| true))?;
            ensure!(matches!(answer, Err(ViewError::NotDirectory)), "{answer:?}");
            return Ok(());
        }
        let whole: Vec<&[u8]> = [&b"."[..], b".."].into_iter().chain(at.thing.names.iter().map(Vec::as_slice)).collect();
        let mut offset = dice.below(whole.len() as u64 + 2);
        for _ in 0..=dice.below(4) {
            let count = 1 + dice.below(if dice.one_in(4) { MANY * 2 } else { 200 }) as usize;
            let lines = self.list(dice, number, offset, count)?;
            ensure!(!lines.is_empty() || offset as usize >= whole.len(), "it ends at {offset} of {}", whole.len());
            for line in lines {
                ensure!(whole.get(offset as usize) == Some(&&line.name[..]), "{} at {offset}", line.name.escape_ascii());
                if offset >= 2 {
                    self.compare(at.snapshot, &at.path.join(std::ffi::OsStr::from_bytes(&line.name)), &line.attr)?;
                }
                ensure!(line.next == offset + 1);
                offset = line.next;
            }
        }
        Ok(())
    }

    fn read_link(&self, dice: &Dice, at: Place) -> Result<()> {
        let number = self.number(dice, at)?;
        match self.answer(dice, move |view, held| view.readlink(held, number))? {
            Ok(target) if at.thing.is(LINK) && target == at.thing.seen.bytes => Ok(()),
            Err(ViewError::Invalid) if !at.thing.is(LINK) => Ok(()),
            answer => bail!("{answer:?}"),
        }
    }

    fn read_attributes(&self, dice: &Dice, at: Place) -> Result<()> {
        let (number, saved) = (self.number(dice, at)?, &at.thing.seen.attributes);
        let mut names = self.answer(dice, move |view, held| view.xattr_names(held, number))??;
        names.sort();
        ensure!(names.iter().eq(saved.keys()), "{names:?}");
        for (name, value) in saved {
            let name = name.clone();
            let shown = self.answer(dice, move |view, held| view.xattr(held, number, &name))??;
            ensure!(shown == value[..]);
        }
        for absent in [&b"user.absent"[..], b"user.comment"].into_iter().filter(|name| !saved.contains_key(*name)) {
            let answer = self.answer(dice, move |view, held| view.xattr(held, number, absent))?;
            ensure!(matches!(answer, Err(ViewError::NoAttribute)), "{answer:?}");
        }
        Ok(())
    }

    fn seek(&self, dice: &Dice, at: Place) -> Result<()> {
        let (number, to_data) = (self.number(dice, at)?, dice.one_in(2));
        if !at.thing.is(FILE) {
            return Ok(());
        }
        let offset = dice.below(at.thing.seen.size + 3);
        match (self.answer(dice, move |view, held| view.seek(held, number, offset, to_data))?, at.thing.seek(offset, to_data)) {
            (Ok(found), Some(expected)) if found == expected => Ok(()),
            (Err(ViewError::NoMoreData), None) => Ok(()),
            (answer, expected) => bail!("{answer:?} and not {expected:?} from {offset}, {to_data}"),
        }
    }

    /// Bytes at a random place, as the kernel makes the adapter read: now and then one piece after the other.
    fn read(&self, dice: &Dice, at: Place) -> Result<()> {
        let (number, size) = (self.number(dice, at)?, at.thing.seen.size);
        let edge = dice.one_of(&[0, 1, 4096, 65_536, 262_144, 1_048_576, size]).copied().unwrap_or(0);
        let mut offset = if dice.one_in(3) { edge.saturating_sub(dice.below(2)) } else { dice.below(size + 10) };
        let length = *dice.one_of(&[1, 4096, 4096, 131_072, 131_072, 1 + dice.below(2_000_000)]).context("six")?;
        for _ in 0..if dice.one_in(4) { 12 } else { 1 } {
            self.view.read_ahead(number, offset, length);
            let answer = self.answer(dice, move |view, held| view.read(held, number, offset, length))?;
            match answer {
                Ok(bytes) if at.thing.is(FILE) => {
                    ensure!(bytes == at.thing.bytes(offset, length), "{length} bytes at {offset} differ");
                }
                Err(ViewError::IsDirectory) if at.thing.is(DIRECTORY) => {}
                Err(ViewError::Invalid) if at.thing.is(LINK) => {}
                answer => bail!("{answer:?}"),
            }
            offset += length;
        }
        Ok(())
    }

    /// Everything that was begun ends: a record that is on its way for ever would never be fetched again.
    fn settle(&self) -> Result<()> {
        let now = || rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
        let deadline = now() + TOLD_WITHIN.as_secs().cast_signed();
        while self.view.repository().fetch_status().in_flight > 0 {
            ensure!(now() < deadline, "{:?}", self.view.repository().fetch_status());
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// So many random questions, some of them by several at once, while the repository grows.
fn questions(way: Way, seed: u64, count: u64) -> Result<()> {
    let dice = Dice(SeededRandom::shared(seed));
    let mut asked = Questioned::new(way, &dice)?;
    for step in 0..count {
        let said = || format!("{}: seed {seed}, step {step}", way.name);
        if step == count / 2 {
            asked.grow(&dice).with_context(said)?;
        }
        if way.has_disk && step % (count / 4) == count / 8 {
            asked.reopen(&dice).with_context(said)?;
        }
        if dice.one_in(100) {
            asked.view.refresh()?;
        }
        if dice.one_in(40) {
            let shared = &asked;
            let together = |reader: u64| {
                let dice = Dice(SeededRandom::shared(seed ^ step << 32 ^ reader << 56));
                (0..10).try_for_each(|_| shared.step(&dice))
            };
            std::thread::scope(|scope| {
                let readers: Vec<_> = (1..=4).map(|reader| scope.spawn(move || together(reader))).collect();
                readers.into_iter().try_for_each(|reader| reader.join().unwrap())
            })
            .with_context(said)?;
        }
        asked.step(&dice).with_context(said)?;
    }
    asked.settle()?;
    let (repository, fetch) = (asked.view.repository(), asked.view.repository().fetch_status());
    ensure!(way.remote.is_none() || fetch.latency_ms.is_some(), "answers came later: {fetch:?}");
    ensure!(way.remote != Some(0) || fetch.last_error.is_none(), "{fetch:?}");
    ensure!(!way.has_disk || repository.disk().is_some_and(|disk| disk.status().hits > 0), "the disk was of use");
    Ok(())
}

fn check(way: Way, seed: u64) {
    let rounds = if is_long() { 10 } else { 1 };
    (0..rounds).for_each(|round| questions(way, seed + 1000 * round, 800).unwrap());
}

const PLENTY: Way = Way { name: "plenty", memory_max: 64 << 20, remote: None, has_disk: false };

#[test]
fn with_plenty_of_memory_every_answer_is_right() {
    check(PLENTY, 1);
}

#[test]
fn with_hardly_any_memory_every_answer_is_right() {
    check(Way { name: "little memory", memory_max: 100_000, ..PLENTY }, 2);
}

#[test]
fn over_a_network_every_answer_is_right() {
    check(Way { name: "network", memory_max: 8 << 20, remote: Some(0), ..PLENTY }, 3);
}

#[test]
fn over_a_line_that_fails_every_answer_is_right_or_an_error() {
    check(Way { name: "bad line", memory_max: 4 << 20, remote: Some(7), ..PLENTY }, 4);
}

#[test]
fn with_a_disk_cache_every_answer_is_right() {
    check(Way { name: "disk cache", memory_max: 2 << 20, remote: Some(0), has_disk: true }, 5);
}
