//! Round trips of everything, and bytes that are nothing.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::compress::Codec;
use crate::id::{PackId, RecordId};
use crate::path::TreePath;
use crate::record::{OVERHEAD, Reference, SessionKeyRef};
use crate::report::{Finding, Severity};
use crate::time::Timestamp;
use crate::tree::change::{Change, ChangeKind};
use crate::tree::{Acl, Content, EntryKind, Extent, LinkRow, Stream, Value};
use crate::wire::{CborReader, CborWriter};

pub(crate) fn reference(seed: u8) -> Reference {
    let plain_len = u32::from(seed) * 1000 + 1;
    let (codec, stored_len) = match seed % 2 {
        0 => (Codec::Zstd, u32::from(seed) * 700 + 41),
        _ => (Codec::Raw, plain_len + u32::try_from(OVERHEAD).unwrap()),
    };
    Reference {
        id: RecordId::from_bytes([seed; 32]),
        plain_len,
        stored_len,
        offset: 48,
        codec,
        pack: PackId::from_bytes([seed / 4; 16]),
        session: SessionKeyRef { epoch: 1, enc: [seed / 8; 32] },
    }
}

/// References of one pack that follow one another.
fn in_a_row(seeds: Vec<u8>) -> Vec<Reference> {
    let mut offset = 48;
    let row = seeds.into_iter().map(|seed| {
        let next = Reference { offset, pack: PackId::from_bytes([1; 16]), session: reference(1).session, ..reference(seed) };
        offset += next.stored_len;
        next
    });
    row.collect()
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        vec(any::<u8>(), 0..4).prop_map(|seeds| Content::Inline(seeds.into_iter().map(reference).collect())),
        vec(any::<u8>(), 0..4).prop_map(|seeds| Content::Inline(in_a_row(seeds))),
        (1..=DEPTH_MAX, any::<u8>()).prop_map(|(depth, seed)| Content::List { depth, reference: reference(seed) }),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        vec(any::<u8>(), 0..50).prop_map(Value::Inline),
        (any::<u64>(), content()).prop_map(|(size, content)| Value::Stored { size, content }),
    ]
}

fn time() -> impl Strategy<Value = Option<Timestamp>> {
    let seconds = prop_oneof![any::<i64>(), 1_700_000_000..1_700_000_010i64, Just(i64::MIN), Just(i64::MAX)];
    proptest::option::of((seconds, 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).unwrap()))
}

prop_compose! {
    fn entry()(
        kind in 0..7usize, mode in 0..0o10000u32, ids in any::<(Option<u32>, Option<u32>)>(), times in (time(), time(), time()),
        size in any::<u64>(), content in content(), says_its_size in any::<bool>(), names in any::<(Option<String>, Option<String>)>(), hash in any::<Option<[u8; 32]>>(),
        numbers in any::<(Option<u64>, Option<u64>, Option<u32>, Option<u32>, Option<(u32, u32)>, Option<u64>)>(), seed in any::<Option<u8>>(),
        xattrs in vec((vec(any::<u8>(), 1..20), value()), 0..3), blobs in any::<(Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>)>(),
        streams in vec((vec(any::<u8>(), 1..20), any::<u64>(), content()), 0..2), descriptor in proptest::option::of(value()),
        counts in (1..1000u64, any::<u64>(), any::<u64>(), any::<u64>()), extents in proptest::option::of(vec((1..100u64, 1..100u64), 0..4)),
    ) -> Entry {
        let mut entry = Entry::new(None, EntryKind::ALL[kind].1);
        (entry.mode, entry.uid, entry.gid) = (mode, ids.0, ids.1);
        (entry.mtime, entry.ctime, entry.btime) = times;
        (entry.size, entry.content) = (size | 1 << 40, content);
        (entry.user, entry.group, entry.file_hash) = (names.0, names.1, hash);
        (entry.link_group, entry.link_count, entry.windows_attributes, entry.block_size, entry.device, entry.placeholder) = numbers;
        entry.xattrs = xattrs;
        (entry.target, entry.reparse) = (blobs.0, blobs.1);
        entry.flags = ids.0.map(|id| id ^ 1);
        entry.acl = Acl { access: blobs.2.clone(), default: blobs.2 };
        entry.streams = streams.into_iter().map(|(name, size, content)| Stream { name, value: Value::Stored { size, content } }).collect();
        entry.security_descriptor = descriptor;
        let mut end = 0;
        entry.sparse = extents.map(|extents| extents.into_iter().map(|(gap, length)| {
            let offset = end + gap;
            end = offset + length;
            Extent { offset, length }
        }).collect());
        entry.size = entry.implied_size().filter(|_| !says_its_size && entry.sparse.is_none()).unwrap_or(entry.size);
        if let (EntryKind::File, Some(seed), None, Some(_)) = (entry.kind, seed, &entry.sparse, entry.file_hash) {
            // Few different records, so that neighbours share them.
            let record = reference(seed % 4 + 8);
            let start = mode % record.plain_len;
            (entry.content, entry.size) = (Content::Fragment { start, reference: record }, (record.plain_len - start).into());
        }
        if let Some(subtree) = &mut entry.subtree {
            subtree.page = seed.map(reference);
            (subtree.position_count, subtree.directory_count, subtree.byte_count, subtree.file_count) = counts;
        }
        entry
    }
}

prop_compose! {
    fn change()(
        kind in 0..5usize, entry_kind in proptest::option::of(0..7usize), names in vec(vec(48..=255u8, 1..9), 0..5),
        sizes in any::<(Option<u64>, Option<u64>)>(), mtime in time(),
    ) -> Change {
        Change {
            path: names.into_iter().filter_map(|name| Name::new(name).ok()).collect(),
            kind: ChangeKind::ALL[kind].1,
            entry_kind: entry_kind.map(|kind| EntryKind::ALL[kind].1),
            size: sizes.0,
            size_before: sizes.1,
            mtime,
        }
    }
}

fn leaf() -> impl Strategy<Value = Page> {
    proptest::collection::btree_map(vec(1..=46u8, 1..20), entry(), 0..6).prop_map(|entries| {
        let named = entries.into_iter().filter_map(|(name, mut entry)| {
            entry.name = Some(Name::new(name).ok()?);
            Some(entry)
        });
        Page::Leaf(Leaf::new(named.collect()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pages_round_trip(page in leaf()) {
        let plain = page.encode();
        prop_assert_eq!(Page::decode(&plain).unwrap().encode(), plain.clone());
        prop_assert_eq!(Page::decode(&plain), Ok(page.clone()));
        prop_assert!(page.entries().iter().map(Entry::encoded_size_max).sum::<usize>() + 64 + page.entries().len() * 16 * 64 >= plain.len());
    }

    #[test]
    fn changed_pages_never_panic(page in leaf(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut plain = page.encode();
        let at = at.index(plain.len());
        plain[at] = byte;
        if let Ok(read) = Page::decode(&plain) {
            prop_assert_eq!(Page::decode(&read.encode()), Ok(read));
        }
        prop_assert!(Page::decode(&plain[..at]).is_err());
    }

    #[test]
    fn changes_round_trip_and_changed_ones_never_panic(changes in vec(change(), 0..6), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut plain = encode_changes(&changes);
        prop_assert_eq!(decode_changes(&plain), Ok(changes));
        let at = at.index(plain.len());
        plain[at] = byte;
        if let Ok(read) = decode_changes(&plain) {
            prop_assert_eq!(decode_changes(&encode_changes(&read)), Ok(read));
        }
        prop_assert!(decode_changes(&plain[..at]).is_err());
        prop_assert!(decode_findings(&plain).is_err() || at < 3, "a table of one kind is none of another");
    }

    #[test]
    fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = (Page::decode(&bytes), List::decode(&bytes), decode_links(&bytes), decode_findings(&bytes), decode_changes(&bytes));
    }
}

#[test]
fn indexes_lists_links_and_findings_round_trip() {
    let row = |n: u8| PageRow {
        first_name: Name::new([n]).unwrap(),
        entry_end: n.into(),
        position_end: u64::from(n) * 2,
        reference: reference(n),
    };
    let page = Page::Index((1..40).map(row).collect());
    assert_eq!(Page::decode(&page.encode()), Ok(page));
    let list = List { depth: 2, rows: (1..100).map(|n| ListRow { end: u64::from(n) * 7, reference: reference(n) }).collect() };
    assert_eq!(List::decode(&list.encode()), Ok(list));
    let links = [(2, 2), (5, 2), (9, 9)].map(|(position, leader)| LinkRow { position, leader, link_count: 2 });
    assert_eq!(decode_links(&encode_links(&links)), Ok(links.to_vec()));
    let finding = Finding::at(Severity::Warning, TreePath::parse(b"a/\xff").unwrap(), "permission denied");
    assert_eq!(decode_findings(&encode_findings(std::slice::from_ref(&finding))), Ok(vec![finding]));
}

#[test]
fn what_breaks_a_rule_is_refused() {
    let named = |name: &[u8]| Entry::new(Some(Name::new(name).unwrap()), EntryKind::File);
    let leaf = |entries| Page::decode(&Page::Leaf(Leaf::new(entries)).encode());
    assert!(leaf(vec![named(b"a"), named(b"b")]).is_ok());
    assert!(leaf(vec![named(b"b"), named(b"a")]).is_err(), "order");
    assert!(leaf(vec![named(b"a"), named(b"a")]).is_err(), "twins");
    assert!(leaf(vec![Entry::new(None, EntryKind::File)]).is_err(), "no name");
    let mut sparse = named(b"a");
    (sparse.size, sparse.sparse) = (10, Some(vec![Extent { offset: 5, length: 6 }]));
    assert!(leaf(vec![sparse]).is_err(), "an extent beyond the end");
    let mut directory = Entry::new(Some(Name::new(&b"d"[..]).unwrap()), EntryKind::Directory);
    directory.subtree.as_mut().unwrap().position_count = 0;
    assert!(leaf(vec![directory]).is_err(), "no position");
    assert!(List::decode(&List { depth: 1, rows: vec![] }.encode()).is_err());
    assert!(List::decode(&List { depth: 9, rows: vec![ListRow { end: 1, reference: reference(1) }] }.encode()).is_err());
}

#[test]
fn what_follows_from_the_rest_costs_nothing() {
    let row = |count: u8| {
        let entry = |(n, reference): (u8, Reference)| {
            let mut entry = Entry::new(Some(Name::new([b'a' + n]).unwrap()), EntryKind::File);
            (entry.size, entry.content) = (reference.plain_len.into(), Content::Inline(vec![reference]));
            entry.mtime = Timestamp::new(1_700_000_000 + i64::from(n), 999_999_999);
            entry.ctime = Timestamp::new(1_700_000_001 + i64::from(n), 3);
            entry.btime = entry.mtime;
            entry
        };
        (0..).zip(in_a_row((0..count).map(|n| 2 * n).collect())).map(entry).collect::<Vec<_>>()
    };
    let page = |count| Page::Leaf(Leaf::new(row(count)));
    assert_eq!(Page::decode(&page(20).encode()), Ok(page(20)));
    let of_one = page(20).encode().len() - page(19).encode().len();
    assert!(of_one < 32 + 40, "{of_one} bytes: an id, a name, three times and two lengths");
}

/// A page index of one row whose reference is what `write` writes.
fn with_reference(write: impl Fn(&mut CborWriter)) -> Result<Page, TreeError> {
    let mut writer = CborWriter::new();
    writer.map(|map| {
        map.key(0).u64(INDEX);
        map.key(1).array(1).array(3).bytes(&[1; 16]).u64(1).bytes(&[2; 32]);
        write(map.key(2).array(1).array(4).bytes(b"a").u64(1).u64(1));
    });
    Page::decode(&writer.finish())
}

#[test]
fn a_reference_that_contradicts_itself_is_refused() {
    let (id, raw) = ([3; 32], |writer: &mut CborWriter| drop_ref(writer.null()));
    let whole = |length: u64, stored: Option<u64>, place: u64, offset: u64| {
        with_reference(|w| {
            w.array(5).bytes(&id).u64(length).optional(stored, |w, stored| drop_ref(w.u64(stored))).u64(place).u64(offset);
        })
    };
    assert!(whole(100, Some(60), 0, 48).is_ok());
    let Ok(Page::Index(rows)) = whole(100, None, 0, 48) else { panic!("a raw record") };
    assert_eq!((rows[0].reference.stored_len, rows[0].reference.codec), (140, Codec::Raw));
    let broken = |what| Err(TreeError::Broken(what));
    assert_eq!(whole(100, Some(60), 1, 48), broken("a reference names no place"));
    assert_eq!(whole(100, Some(60), u64::MAX, 48), broken("a reference names no place"));
    assert_eq!(whole((16 << 20) + 1, None, 0, 48), broken("a reference is longer than a record"));
    assert_eq!(whole(100, Some(60), 0, u64::from(u32::MAX) - 59), broken("a reference reaches beyond every pack"));
    assert_eq!(whole(100, None, 0, u64::from(u32::MAX) - 139), broken("a reference reaches beyond every pack"));
    assert!(whole(100, Some(1 << 32), 0, 48).is_err() && whole(100, Some(60), 0, 1 << 32).is_err());
    let follows_none = broken("a reference follows none");
    assert_eq!(with_reference(|w| drop_ref(w.array(2).bytes(&id).u64(100))), follows_none);
    assert_eq!(with_reference(|w| drop_ref(w.array(3).bytes(&id).u64(100).u64(60))), follows_none);
    assert!(with_reference(|w| raw(w.array(3).bytes(&id).u64(100))).is_err(), "raw, said twice");
    assert!(with_reference(|w| drop_ref(w.array(4).bytes(&id).u64(100).u64(60).u64(0))).is_err(), "a place without an offset");
    assert!(with_reference(|w| drop_ref(w.array(6).bytes(&id).u64(100).u64(60).u64(0).u64(48).u64(2))).is_err(), "a later codec");
}

/// A page of one entry named `a` of this kind, with what `write` adds.
fn with_entry(kind: u64, write: impl Fn(&mut crate::wire::MapWriter<'_>)) -> Result<Page, TreeError> {
    let mut writer = CborWriter::new();
    writer.map(|map| {
        map.key(0).u64(LEAF);
        map.key(1).array(1).array(3).bytes(&[1; 16]).u64(1).bytes(&[2; 32]);
        map.key(2).array(1).map(|map| {
            map.key(0).bytes(b"a");
            map.key(1).u64(kind);
            write(map);
        });
    });
    Page::decode(&writer.finish())
}

#[test]
fn an_entry_that_leaves_out_what_nothing_else_says_is_refused() {
    let (file, symlink, time) = (1, 3, Timestamp::new(5, 6).unwrap());
    let whole = |writer: &mut CborWriter| drop_ref(writer.array(5).bytes(&[3; 32]).u64(100).null().u64(0).u64(48));
    let size = |page: Result<Page, TreeError>| page.map(|page| page.entries()[0].size);
    assert_eq!(size(with_entry(file, |_| ())), Ok(0));
    assert_eq!(size(with_entry(file, |map| whole(map.key(10).array(1)))), Ok(100));
    assert_eq!(size(with_entry(symlink, |map| drop_ref(map.key(13).bytes(b"there")))), Ok(5));
    let unsaid = Err(TreeError::Broken("an entry does not say its size"));
    assert_eq!(size(with_entry(symlink, |_| ())), unsaid);
    assert_eq!(size(with_entry(file, |map| whole(map.key(11).array(2).u64(1)))), unsaid);
    assert_eq!(size(with_entry(file, |map| drop_ref(map.key(19).array(0)))), unsaid);
    let both = with_entry(file, |map| {
        whole(map.key(10).array(1));
        whole(map.key(11).array(2).u64(1));
    });
    assert_eq!(both, Err(TreeError::Broken("an entry has two contents")));

    let times = |difference: i64| {
        with_entry(file, |map| {
            map.key(5).time(time);
            map.key(6).i64(difference);
        })
    };
    assert_eq!(times(-7).unwrap().entries()[0].ctime, Timestamp::new(4, 999_999_999));
    assert!(times(i64::MAX).is_ok() && times(i64::MIN).is_ok());
    let no_base = Err(TreeError::Broken("a time counts from one that is not there"));
    assert_eq!(with_entry(file, |map| drop_ref(map.key(6).i64(1))), no_base);
    let birth = with_entry(file, |map| {
        map.key(5).time(time);
        map.key(8).i64(1);
    });
    assert_eq!(birth, no_base, "birth counts from the time of change");
    let beyond = with_entry(file, |map| {
        map.key(5).time(Timestamp::new(i64::MAX, 999_999_999).unwrap());
        map.key(6).u64(1);
    });
    assert_eq!(beyond, Err(TreeError::Broken("a time is out of range")));
}

#[test]
fn the_second_fragment_of_a_record_does_not_name_it_again() {
    let fragment = |name: u8, seed: u8, start: u32| {
        let mut entry = Entry::new(Some(Name::new([name]).unwrap()), EntryKind::File);
        (entry.size, entry.file_hash) = (100, Some([name; 32]));
        entry.content = Content::Fragment { start, reference: reference(seed) };
        entry
    };
    let mut large = Entry::new(Some(Name::new(b"c".as_slice()).unwrap()), EntryKind::File);
    large.content = Content::Inline(vec![reference(9)]);
    large.size = large.implied_size().unwrap();
    let entries = vec![fragment(b'a', 4, 0), fragment(b'b', 4, 100), large, fragment(b'd', 4, 3901), fragment(b'e', 6, 0)];
    let page = |entries: &[Entry]| Page::Leaf(Leaf::new(entries.to_vec()));
    assert_eq!(Page::decode(&page(&entries).encode()), Ok(page(&entries)));
    let length = |count| page(&entries[..count]).encode().len();
    assert!(length(2) - length(1) <= 50, "a name, a hash, a size and a start: {}", length(2) - length(1));
}

#[test]
fn a_fragment_that_is_no_part_of_one_record_is_refused() {
    let record = |writer: &mut CborWriter| drop_ref(writer.array(5).bytes(&[3; 32]).u64(100).null().u64(0).u64(48));
    let with = |kind: u64, size: Option<u64>, records: usize, has_hash: bool, start: u64| {
        with_entry(kind, |map| {
            map.optional(7, size, |w, size| drop_ref(w.u64(size)));
            if records > 0 {
                let writer = map.key(10).array(records);
                (0..records).for_each(|_| record(writer));
            }
            map.optional(23, has_hash.then_some([5; 32]), |w, hash| drop_ref(w.bytes(&hash)));
            map.key(32).u64(start);
        })
    };
    let (file, symlink, broken) = (1, 3, |what| Err(TreeError::Broken(what)));
    assert!(with(file, Some(60), 1, true, 40).is_ok());
    assert_eq!(with(file, Some(61), 1, true, 40), broken("a fragment reaches beyond its record"));
    assert_eq!(with(file, Some(u64::MAX), 1, true, 40), broken("a fragment reaches beyond its record"));
    assert_eq!(with(file, None, 1, true, 40), broken("a fragment reaches beyond its record"));
    assert_eq!(with(file, Some(60), 0, true, 40), broken("a fragment of no record or of several"));
    assert_eq!(with(file, Some(60), 2, true, 40), broken("a fragment of no record or of several"));
    assert_eq!(with(file, Some(60), 1, false, 40), broken("what is no plain file with its hash is a fragment"));
    assert_eq!(with(symlink, Some(60), 1, true, 40), broken("what is no plain file with its hash is a fragment"));
}

#[test]
fn parts_of_a_record_are_read_by_themselves() {
    let mut places = Places::default();
    let row = in_a_row(vec![2, 4]);
    let parts = row.iter().map(|reference| {
        let mut writer = CborWriter::new();
        places.begin_part();
        places.encode_reference(&mut writer, reference);
        writer.finish()
    });
    let parts: Vec<_> = parts.collect();
    for (part, reference) in parts.iter().zip(&row).rev() {
        assert_eq!(places.references().decode_reference(&mut CborReader::new(part)), Ok(*reference));
    }
}

#[test]
fn keys_of_later_versions_survive_a_rewrite() {
    let mut entry = Entry::new(Some(Name::new(&b"a"[..]).unwrap()), EntryKind::File);
    entry.unknown = vec![(40, vec![0x82, 1, 2]), (1000, vec![0x43, 1, 2, 3])];
    let page = Page::Leaf(Leaf::new(vec![entry]));
    assert_eq!(Page::decode(&page.encode()), Ok(page));
}
