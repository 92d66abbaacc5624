use std::path::Path;

use fs_core::compress::Compression;
use fs_core::key::slot::{Credential, PasswordCost};
use fs_core::observer::Silent;
use fs_core::path::Name;
use fs_core::repository::{OpenOptions, Repository};
use fs_core::storage::WriteStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{ManualClock, SeededRandom};
use fs_core::time::Zone;
use fs_core::tree::Content;
use fs_core::view::{Links, Owner, ViewOptions};

use super::*;
use crate::backup::{BackupOptions, backup};
use crate::create::{NewKey, create};
use crate::pause::Pauses;
use crate::source::rules::Rules;
use crate::system::shown_bytes;
use crate::what::entry_at;

fn how(folder: &Path) -> BackupOptions {
    BackupOptions {
        paths: vec![folder.into()],
        shown_as: Vec::new(),
        devices: Vec::new(),
        streams: Vec::new(),
        host: "host".into(),
        set: None,
        tags: Vec::new(),
        rules: Rules::default(),
        never: Vec::new(),
        state: None,
        gentle: false,
        shadow_copies: false,
        reread: false,
        compression: Compression::Auto,
        pauses: Pauses::default(),
        utc_offset_minutes: 0,
        tool_version: "test".into(),
        keep_changes: false,
    }
}

fn saved(folder: &Path) -> (Arc<View>, SnapshotId) {
    let store: Arc<dyn WriteStore> = Arc::new(MemoryStore::new());
    let (clock, random): (_, fs_core::crypto::SharedRandom) = (ManualClock::shared() as _, SeededRandom::shared(7));
    let credential = Credential::KeyFile(Key::from_bytes([42; 32]));
    create(&*store, &[NewKey { credential: credential.clone(), label: "test".into(), cost: PasswordCost::LEAST }], &clock, &random)
        .unwrap();
    let options = OpenOptions { clock, random, ..OpenOptions::default() };
    let repository = Arc::new(Repository::open(Arc::clone(&store).as_read(), &credential, &options).unwrap());
    let snapshot = backup(&repository, &store, &how(folder), &Silent).unwrap().snapshot;
    let shown = ViewOptions { owner: Owner::AsSaved, links: Links::Raw, mounter: (0, 0), zone: Zone::utc() };
    (Arc::new(View::new(repository, None, shown).unwrap()), snapshot)
}

/// The drive shows what was saved; the entry says that something else was.
#[test]
fn whatever_differs_from_what_was_recorded_is_no_proof() {
    let place = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; 3_000_000];
    fs_core::crypto::RandomSource::fill(&*SeededRandom::shared(1), &mut bytes);
    std::fs::write(place.path().join("large"), &bytes).unwrap();
    std::fs::write(place.path().join("small"), "small").unwrap();
    std::fs::write(place.path().join("empty"), "").unwrap();
    let (view, snapshot) = saved(place.path());
    let path_of = |name: &str| {
        let path = TreePath::parse(&shown_bytes(place.path())).unwrap();
        path.join(Name::new(name.as_bytes()).unwrap())
    };
    let found = view.repository().snapshots().unwrap().pop().unwrap();
    let entry_of = |name: &str| entry_at(view.repository(), &found, &path_of(name)).unwrap().unwrap();
    let outcome = |name: &str, entry: &Entry| prove(&view, &snapshot, &path_of(name), entry, &mut Draw::new(3));
    let why = |name: &str, change: &dyn Fn(&mut Entry)| {
        let mut entry = entry_of(name);
        change(&mut entry);
        match outcome(name, &entry) {
            Err(Failure::Differs(message)) => message,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(outcome("large", &entry_of("large")).unwrap(), Outcome::Proven);
    assert_eq!(outcome("small", &entry_of("small")).unwrap(), Outcome::Proven);
    assert_eq!(outcome("empty", &entry_of("empty")).unwrap(), Outcome::Empty);
    assert!(why("large", &|entry| entry.file_hash = Some([7; 32])).contains("do not have the hash"));
    assert!(why("small", &|entry| entry.file_hash = Some([7; 32])).contains("do not have the hash"));
    assert!(why("large", &|entry| entry.size -= 1).contains("another size"));
    assert!(why("large", &|entry| entry.mode ^= 1).contains("another size, kind or mode"));
    let hole = |start| move |entry: &mut Entry| entry.sparse = Some(vec![Extent { offset: start, length: entry.size - start }]);
    assert!(why("large", &hole(9)).contains("at byte 0 the drive gives other bytes"), "a hole that reads as data");
    assert!(why("large", &hole(0)).contains("do not have the hash"), "the map belongs to the hash");
    let mut entry = entry_of("large");
    (entry.file_hash, entry.content) = (None, Content::EMPTY);
    assert_eq!(outcome("large", &entry).unwrap(), Outcome::Unproven, "without a hash nothing is proven, and nothing is said to be");
    assert!(matches!(
        prove(&view, &SnapshotId::from_bytes([0; 32]), &path_of("small"), &entry_of("small"), &mut Draw::new(1)),
        Err(Failure::Differs(_))
    ));
    assert!(
        matches!(prove(&view, &snapshot, &path_of("other"), &entry_of("small"), &mut Draw::new(1)), Err(Failure::Differs(message)) if message.contains("no such entry"))
    );
}

#[test]
fn what_was_read_here_and_there_must_be_what_is_read_in_order() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("file"), vec![5; 300_000]).unwrap();
    let (view, snapshot) = saved(place.path());
    let path = TreePath::parse(&shown_bytes(place.path())).unwrap().join(Name::new(&b"file"[..]).unwrap());
    let found = view.repository().snapshots().unwrap().pop().unwrap();
    let entry = entry_at(view.repository(), &found, &path).unwrap().unwrap();
    let inode = find(&view, &snapshot, &path, &entry).unwrap();
    for (start, wrong) in [(0, 0), (99, 70_000), (131_071, 2), (299_990, 9)] {
        let mut before = vec![5; 70_001.min(300_000 - start)];
        before[wrong] = 6;
        let hash = StreamHash::plain();
        let scattered = VecDeque::from([(start as u64, Bytes::from(before))]);
        let mut reading = Reading { view: &view, inode, hash, scattered, open: VecDeque::new(), step: 0 };
        assert!(
            matches!(reading.whole(&entry), Err(Failure::Differs(message)) if message.contains("gives other bytes")),
            "{start} {wrong}"
        );
    }
}
