//! A store that shows an older state of the whole repository: nothing in it is damaged, and whoever has seen more notices.

use std::collections::BTreeMap;
use std::path::Path;

use backup_writer::backup::{BackupReport, backup};
use backup_writer::check::{CheckOptions, ReadData, check};
use bytes::Bytes;
use fs_core::key::Role;
use fs_core::observer::Silent;
use fs_core::report::{Finding, Severity};
use fs_core::storage::ObjectName;
use tests::{noise, options};

use super::prune::{DAY, Place};
use super::roles::give;

type Objects = BTreeMap<ObjectName, Bytes>;

fn contents(place: &Place) -> Objects {
    place.memory.contents().into_iter().collect()
}

/// The store shows what it held then, and nothing else.
fn replay(place: &Place, then: &Objects) {
    for (name, _) in place.memory.contents() {
        place.memory.overwrite(&name, None);
    }
    then.iter().for_each(|(name, bytes)| drop(place.memory.overwrite(name, Some(bytes.clone()))));
}

/// A backup as the program makes one, on the machine whose memory is in `state`.
fn save(place: &Place, state: &Path) -> BackupReport {
    place.bench.clock.advance(DAY);
    let repository = place.bench.open_like_the_program(Some(state)).unwrap();
    backup(&repository, &place.bench.store, &options(place.source.path(), Some(&state.join("files"))), &Silent).unwrap()
}

fn checked(place: &Place, state: Option<&Path>, expected: &[&str]) -> Vec<Finding> {
    let repository = place.bench.open_like_the_program(state).unwrap();
    let expected = expected.iter().map(|id| (*id).to_owned()).collect();
    let how = CheckOptions { expected, ..CheckOptions::from(ReadData::None) };
    check(&repository, how, &Silent).unwrap().findings
}

fn tells(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.severity >= Severity::Warning && finding.message.contains("the store has lost")).count()
}

#[test]
fn an_older_state_is_noticed_by_whoever_has_seen_more() {
    let place = Place::new();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    place.write("file", &noise(1, 1000));
    save(&place, one.path());
    let old = contents(&place);
    let second = save(&place, one.path());
    let newer = contents(&place);
    let third = save(&place, two.path());
    let reported = third.snapshot.to_string();
    assert_eq!(checked(&place, Some(one.path()), &[&reported]), []);

    // By the device that saved what is missing: at its next run, in its report, and in every list.
    replay(&place, &old);
    assert_eq!(tells(&checked(&place, Some(one.path()), &[])), 1);
    let listed = place.bench.open_like_the_program(Some(one.path())).unwrap().all_snapshots().unwrap();
    assert!(listed.missing.contains(&second.snapshot) && tells(&listed.findings) == 1, "{:?}", listed.findings);
    assert_eq!(tells(&save(&place, one.path()).findings), 1);

    // By another device: its own manifest names what it has seen, also to somebody who sees the repository for the first time.
    replay(&place, &newer);
    save(&place, two.path());
    for name in contents(&place).keys().filter(|name| name.as_str().ends_with(&second.snapshot.to_string())) {
        place.memory.overwrite(name, None);
    }
    assert!(tells(&checked(&place, None, &[])) >= 1);

    // By somebody who has nothing but the last report.
    replay(&place, &old);
    assert_eq!(tells(&checked(&place, None, &[])), 0, "nobody can tell without having seen more");
    let told = checked(&place, None, &[&reported[..16]]);
    assert!(tells(&told) == 1 && told[0].message.contains(&reported[..16]), "{told:?}");
}

/// Who forgets leaves a tombstone: that is no older state, also when everything is swept.
#[test]
fn what_was_forgotten_and_swept_is_not_missed() {
    let mut place = Place::with_days(4);
    let remembers = tempfile::tempdir().unwrap();
    place.bench.open_like_the_program(Some(remembers.path())).unwrap().all_snapshots().unwrap();
    let ids = place.ids();
    let reported = ids[3].to_string();
    place.forget(&ids[2..]);
    place.prune();
    place.bench.clock.advance(DAY * 8);
    place.prune();
    // The newest manifest of a device stays until there is a newer one: numbers go on from it.
    place.backup();
    place.prune();
    assert!(place.ids().len() == 3 && place.count("snap/") <= 4);
    for state in [None, Some(remembers.path())] {
        assert_eq!(tells(&checked(&place, state, &[&reported])), 0);
    }
}

/// The same for a device that opens no snapshots: it remembers what it sealed itself.
#[test]
fn a_writer_notices_too() {
    let place = give(&Place::new(), 9, Role::Writer, false);
    place.write("file", &noise(1, 1000));
    save(&place, place.state.path());
    let old = contents(&place);
    save(&place, place.state.path());
    replay(&place, &old);
    let report = save(&place, place.state.path());
    assert!(report.findings.iter().any(|finding| finding.message.contains("an older state")), "{:?}", report.findings);
}
