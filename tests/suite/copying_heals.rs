//! What a copy does about what is damaged, missing, or gone on one of its sides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backup_writer::copy::{CopyOptions, CopyReport, copy};
use fs_core::object::ObjectKind;
use fs_core::observer::Silent;
use fs_core::report::{Severity, is_incomplete};
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, WriteStore};
use fs_core::testing::{Fault, FaultyStore, Rule};
use tests::driven::is_long;
use tests::hooked::HookedStore;

use super::copying::{Pair, worst};
use super::prune::DAY;

/// Days after which something goes from a copy.
const AFTER: Duration = Duration::from_secs(30 * 86_400);

/// One object of each kind.
fn one_of_each(store: &MemoryStore) -> BTreeMap<&'static str, ObjectName> {
    let contents = store.contents();
    let first = |prefix: &'static str| contents.iter().map(|(name, _)| name).find(|name| name.as_str().starts_with(prefix)).cloned();
    ObjectKind::ALL.into_iter().filter_map(|(_, _, prefix)| Some((prefix, first(prefix)?))).collect()
}

#[test]
fn each_side_heals_the_other() {
    let pair = Pair::new();
    pair.copy();
    let kinds = one_of_each(&pair.place.memory);
    assert_eq!(kinds.len(), 11, "all but catalogues");
    for (kind, name) in kinds {
        for is_there in [false, true] {
            let when = format!("{kind} on side {is_there}");
            let store = if is_there { &pair.there } else { &pair.place.memory };
            let healed = |report: &CopyReport| (report.healed.count, report.healed_in_copy.count, report.damaged);
            let expected = if is_there { (0, 1, 0) } else { (1, 0, 0) };
            // Its content: of sessions only the header can be compared.
            Pair::damage(store, &name, |bytes| {
                let at = if kind == "sess/" { 20 } else { bytes.len() / 2 };
                bytes[at] ^= 1;
            });
            assert_eq!(pair.copy().findings, [], "{when}: who does not look sees nothing");
            let told = pair.copy_with(&CopyOptions { heal: false, ..pair.verifying() }).unwrap();
            assert_eq!(healed(&told), (0, 0, 1), "{when}: {:?}", told.findings);
            let report = pair.copy_with(&pair.verifying()).unwrap();
            assert_eq!((healed(&report), worst(&report)), (expected, Some(Severity::Warning)), "{when}: {:?}", report.findings);
            pair.expect_equal(&when);
            // Its size, which is listed.
            Pair::damage(store, &name, |bytes| bytes.truncate(bytes.len() / 2));
            let report = pair.copy();
            assert_eq!(healed(&report), expected, "{when}, cut: {:?}", report.findings);
            pair.expect_equal(&format!("{when}, cut"));
        }
    }
}

/// Whatever happens to the calls of a run that heals, on one side there is always a sound object, and the next run makes both so.
#[test]
fn every_store_call_of_a_healing_may_fail_in_every_way() {
    let all = Pair::new();
    all.copy();
    let sound = all.place.memory.contents();
    let packs: Vec<_> = sound.iter().map(|(name, _)| name.clone()).filter(|name| name.as_str().starts_with("pack/")).collect();
    Pair::damage(&all.place.memory, &packs[0], |bytes| bytes[100] ^= 1);
    Pair::damage(&all.there, &packs[1], |bytes| bytes[100] ^= 1);
    Pair::damage(&all.place.memory, &packs[2], |bytes| bytes.truncate(100));
    let mut struck = 0;
    for is_there in [false, true] {
        for fault in Fault::ALL {
            for call in 1.. {
                if !is_long() && !(call + fault as u64).is_multiple_of(3) {
                    continue;
                }
                let pair = all.fork();
                let faulty =
                    FaultyStore::new(if is_there { Arc::new(pair.there.clone()) } else { Arc::clone(&pair.place.bench.store) }, []);
                faulty.add(Rule::nth(call, fault));
                let (here, there): (Arc<dyn WriteStore>, Arc<dyn WriteStore>) = match is_there {
                    true => (Arc::clone(&pair.place.bench.store), faulty.clone()),
                    false => (faulty.clone(), Arc::new(pair.there.clone())),
                };
                let result = copy(&*here, &*there, &pair.verifying(), &Silent);
                if faulty.struck().is_empty() {
                    assert!(result.is_ok());
                    break;
                }
                struck += 1;
                let when = format!("{fault:?} at call {call} on side {is_there}: {result:?}");
                let (left, right) = (pair.place.memory.contents(), pair.there.contents());
                assert!(sound.iter().all(|object| left.contains(object) || right.contains(object)), "{when}");
                // One run puts back what is missing, and heals what is damaged on both by turns.
                pair.copy_with(&CopyOptions { bring_back: true, ..pair.verifying() }).unwrap();
                pair.expect_equal(&when);
                assert!(pair.there.contents() == sound, "{when}");
            }
        }
    }
    assert!(struck > 100, "{struck} faults");
}

#[test]
fn what_is_missing_is_copied_or_told_and_brought_back() {
    let pair = Pair::new();
    pair.copy();
    for (kind, name) in one_of_each(&pair.place.memory) {
        let bytes = pair.there.overwrite(&name, None).unwrap();
        assert_eq!(pair.copy().copied.count, 1, "{kind}");
        pair.expect_equal(kind);
        pair.place.memory.overwrite(&name, None);
        let told = pair.copy();
        assert_eq!((told.missing.count, told.brought_back.count), (1, 0), "{kind}: {told:?}");
        assert!(told.findings.iter().any(|finding| finding.message.contains(name.as_str())), "{kind}: {:?}", told.findings);
        let back = pair.copy_with(&CopyOptions { bring_back: true, ..pair.options() }).unwrap();
        assert_eq!(back.brought_back.count, 1, "{kind}: of the only key too");
        assert_eq!(pair.place.memory.contents().into_iter().find(|(found, _)| *found == name).map(|(_, bytes)| bytes), Some(bytes));
        pair.expect_equal(kind);
    }
}

#[test]
fn a_removed_key_does_not_come_back() {
    let pair = Pair::new();
    let slot = pair.place.named("keys/").remove(0);
    let other = ObjectName::new(format!("keys/{}", "ab".repeat(16)));
    // A slot of another name, that only the copy has.
    pair.copy();
    pair.there.overwrite(&other, Some(slot.1));
    let back = pair.copy_with(&CopyOptions { bring_back: true, ..pair.options() }).unwrap();
    assert_eq!((back.missing.count, back.brought_back.count, pair.place.count("keys/")), (1, 0, 1));
    let told = pair.copy();
    assert!(told.findings.iter().any(|finding| finding.message.contains("still open the copy")), "{:?}", told.findings);
}

#[test]
fn what_is_damaged_on_both_sides_stays_and_is_named() {
    let pair = Pair::new();
    pair.copy();
    let name = one_of_each(&pair.place.memory)["pack/"].clone();
    for store in [&pair.there, &pair.place.memory] {
        Pair::damage(store, &name, |bytes| bytes[100] ^= 1);
    }
    let before = (pair.there.contents(), pair.place.memory.contents());
    let report = pair.copy_with(&pair.verifying()).unwrap();
    assert_eq!((report.damaged, worst(&report)), (1, Some(Severity::Error)));
    assert!(before == (pair.there.contents(), pair.place.memory.contents()), "nobody deletes what cannot be replaced");
}

/// Snapshots that may need what did not arrive wait, unless somebody says otherwise.
#[test]
fn new_snapshots_wait_for_what_they_may_need() {
    let pair = Pair::new();
    for kind in ["pack/", "meta/", "idx/", "drop/", "dev/"] {
        let pair = pair.fork();
        let name = one_of_each(&pair.place.memory)[kind].clone();
        Pair::damage(&pair.place.memory, &name, |bytes| bytes[100] ^= 1);
        let report = pair.copy();
        assert!(report.held_back.count > 0 && report.damaged == 1 && worst(&report) == Some(Severity::Error), "{kind}: {report:?}");
        assert_eq!(pair.expect_sound(kind), 0, "{kind}: it shows nothing yet");
        let anyway = pair.copy_with(&CopyOptions { despite_damage: true, ..pair.options() }).unwrap();
        assert!(anyway.held_back.count == 0 && anyway.copied.count > 0, "{kind}: {anyway:?}");
        assert_eq!(pair.there.contents().len() + 1, pair.place.memory.contents().len(), "{kind}");
    }
    // Nothing needs these.
    for kind in ["sess/", "keys/"] {
        let pair = pair.fork();
        let name = one_of_each(&pair.place.memory)[kind].clone();
        Pair::damage(&pair.place.memory, &name, |bytes| bytes[20] ^= 1);
        let report = pair.copy();
        assert_eq!((report.held_back.count, report.damaged), (0, 1), "{kind}");
    }
}

#[test]
fn a_copy_that_knows_more_is_told() {
    let mut pair = Pair::new();
    let before = pair.place.memory.contents();
    pair.place.write("new", b"new");
    pair.place.backup();
    pair.copy();
    // The repository is put back to what it was.
    for (name, _) in pair.place.memory.contents() {
        pair.place.memory.overwrite(&name, None);
    }
    before.into_iter().for_each(|(name, bytes)| _ = pair.place.memory.overwrite(&name, Some(bytes)));
    let report = pair.copy();
    let told = report.findings.iter().find(|finding| finding.severity == Severity::Warning).unwrap();
    assert!(told.message.contains("put back to an earlier state"), "{told}");
    let state = tempfile::tempdir().unwrap();
    let deleting = CopyOptions { delete_after: Some(AFTER), state: Some(state.path().into()), ..pair.options() };
    pair.copy_with(&deleting).unwrap();
    pair.place.bench.clock.advance(2 * AFTER);
    let kept = pair.copy_with(&deleting).unwrap();
    assert_eq!(kept.deleted.count, 0);
    assert!(kept.deletions_waiting > 0);
    pair.copy_with(&CopyOptions { bring_back: true, ..pair.options() }).unwrap();
    pair.expect_equal("brought back");
    pair.place.expect_whole("brought back");
}

#[test]
fn what_is_gone_here_goes_there_late_and_little_at_a_time() {
    let pair = Pair::new();
    pair.copy();
    pair.place.bench.clock.advance(8 * DAY);
    assert!(pair.place.prune().swept.count > 0);
    let state = tempfile::tempdir().unwrap();
    let deleting = CopyOptions { delete_after: Some(AFTER), state: Some(state.path().into()), ..pair.options() };
    let none = pair.copy_with(&CopyOptions { state: None, ..deleting.clone() }).unwrap();
    assert!(none.deleted.count == 0 && is_incomplete(&none.findings), "{none:?}");
    let first = pair.copy_with(&deleting).unwrap();
    assert!(first.missing.count > 2 && first.deleted.count == 0 && first.deletions_waiting == first.missing.count, "{first:?}");
    pair.place.bench.clock.advance(29 * DAY);
    assert_eq!(pair.copy_with(&deleting).unwrap().deleted.count, 0);
    // Another machine, or one that has lost what it knew, waits anew.
    pair.place.bench.clock.advance(2 * DAY);
    let elsewhere = tempfile::tempdir().unwrap();
    let other = CopyOptions { state: Some(elsewhere.path().into()), ..deleting.clone() };
    assert_eq!(pair.copy_with(&other).unwrap().deleted.count, 0);
    // A store that lets go of nothing.
    let locked = HookedStore::locked(Arc::new(pair.there.clone()));
    let refused = copy(&*pair.place.bench.store, &*locked, &deleting, &Silent).unwrap();
    assert!(refused.deleted.count == 0 && worst(&refused) == Some(Severity::Note), "{refused:?}");
    let mut runs = 0;
    loop {
        let before = pair.there.contents().len() as u64;
        let report = pair.copy_with(&deleting).unwrap();
        assert!(report.deleted.count <= before / 5 && report.deleted.count > 0, "{report:?}");
        pair.opened().expect_readable(&pair.opened().bench.open().unwrap(), "meanwhile");
        runs += 1;
        if report.deletions_waiting == 0 {
            break;
        }
    }
    assert!(runs < 10);
    pair.expect_equal("in the end");
    // A repository that shows nothing takes nothing along.
    let bare = pair.fork();
    for (name, _) in bare.place.memory.contents() {
        if !["repo/", "keys/"].iter().any(|kind| name.as_str().starts_with(kind)) {
            bare.place.memory.overwrite(&name, None);
        }
    }
    let deleting = CopyOptions { delete_after: Some(AFTER), state: Some(state.path().into()), ..bare.options() };
    bare.copy_with(&deleting).unwrap();
    bare.place.bench.clock.advance(2 * AFTER);
    assert_eq!(bare.copy_with(&deleting).unwrap().deleted.count, 0);
}
