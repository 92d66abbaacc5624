//! Round trips of everything, and bytes that are nothing.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::path::TreePath;
use crate::report::{Finding, Severity};
use crate::time::Timestamp;
use crate::tree::{Acl, EntryKind, Extent, LinkRow, Stream};

pub(crate) fn reference(seed: u8) -> Reference {
    Reference {
        id: RecordId::from_bytes([seed; 32]),
        plain_len: u32::from(seed) * 1000 + 1,
        stored_len: u32::from(seed) * 700 + 41,
        offset: 48,
        codec: if seed.is_multiple_of(2) { Codec::Zstd } else { Codec::Raw },
        pack: PackId::from_bytes([seed / 4; 16]),
        session: SessionKeyRef { epoch: 1, enc: [seed / 8; 32] },
    }
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        vec(any::<u8>(), 0..4).prop_map(|seeds| Content::Inline(seeds.into_iter().map(reference).collect())),
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
    proptest::option::of((any::<i64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).unwrap()))
}

prop_compose! {
    fn entry()(
        kind in 0..7usize, mode in 0..0o10000u32, ids in any::<(Option<u32>, Option<u32>)>(), times in (time(), time(), time()),
        size in any::<u64>(), content in content(), names in any::<(Option<String>, Option<String>)>(), hash in any::<Option<[u8; 32]>>(),
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
        entry.acl = Acl { access: blobs.2.clone(), default: blobs.2 };
        entry.streams = streams.into_iter().map(|(name, size, content)| Stream { name, size, content }).collect();
        entry.security_descriptor = descriptor;
        let mut end = 0;
        entry.sparse = extents.map(|extents| extents.into_iter().map(|(gap, length)| {
            let offset = end + gap;
            end = offset + length;
            Extent { offset, length }
        }).collect());
        if let Some(subtree) = &mut entry.subtree {
            subtree.page = seed.map(reference);
            (subtree.position_count, subtree.directory_count, subtree.byte_count, subtree.file_count) = counts;
        }
        entry
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
    fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = (Page::decode(&bytes), List::decode(&bytes), decode_links(&bytes), decode_findings(&bytes));
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
fn keys_of_later_versions_survive_a_rewrite() {
    let mut entry = Entry::new(Some(Name::new(&b"a"[..]).unwrap()), EntryKind::File);
    entry.unknown = vec![(40, vec![0x82, 1, 2]), (1000, vec![0x43, 1, 2, 3])];
    let page = Page::Leaf(Leaf::new(vec![entry]));
    assert_eq!(Page::decode(&page.encode()), Ok(page));
}
