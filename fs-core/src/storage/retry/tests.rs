use super::*;
use crate::storage::memory::MemoryStore;
use crate::testing::{CallKind, Fault, FaultyStore, Rule, SlowStore, contract};

fn retried(rules: impl IntoIterator<Item = Rule>) -> (MemoryStore, Arc<FaultyStore>, RetryStore) {
    let memory = MemoryStore::new();
    contract::put(&memory, "old/a", b"0123456789").unwrap();
    let faulty = FaultyStore::new(Arc::new(memory.clone()), rules);
    (memory, Arc::clone(&faulty), RetryStore::new(faulty))
}

async fn put(store: &RetryStore, name: &str, bytes: &'static [u8]) -> Result<(), StoreError> {
    store.put_new(&ObjectName::new(name), Bytes::from_static(bytes), &contract::checksum(bytes)).await
}

fn old() -> ObjectName {
    ObjectName::new("old/a")
}

#[test]
fn keeps_the_contract() {
    contract::run(|| Arc::new(RetryStore::new(Arc::new(MemoryStore::new()))));
}

#[test]
fn every_kind_of_call_survives_failures_that_pass() {
    for fault in [Fault::ErrorBefore, Fault::ErrorAfterEffect, Fault::Timeout] {
        let (memory, faulty, store) = retried([]);
        let strike = |kind| (1..=3).for_each(|n| faulty.add(Rule::nth(n, fault).kind(kind)));
        without_waiting(async {
            [CallKind::Get, CallKind::GetRange, CallKind::Stat, CallKind::List, CallKind::ServerTime].into_iter().for_each(strike);
            assert_eq!(store.get(&old()).await.unwrap(), "0123456789");
            assert_eq!(store.get_range(&old(), 2..4).await.unwrap(), "23");
            assert_eq!(store.stat(&old()).await.unwrap().size, 10);
            assert_eq!(store.list("", None).await.unwrap().len(), 1);
            assert!(store.server_time().await.unwrap().is_some());
            [CallKind::Put, CallKind::Delete].into_iter().for_each(strike);
            put(&store, "new/a", b"x").await.unwrap();
            store.delete(&old()).await.unwrap();
        });
        assert!(faulty.struck().len() >= 7, "{fault:?}: {:?}", faulty.struck());
        assert_eq!(memory.contents().len(), 1, "{fault:?}");
    }
}

#[test]
fn what_stays_wrong_is_not_tried_again() {
    let (_, faulty, store) = retried([Rule::nth(1, Fault::Full).kind(CallKind::Put)]);
    without_waiting(async {
        assert!(matches!(put(&store, "new/a", b"x").await, Err(StoreError::Full { .. })));
        assert!(
            matches!(put(&store, "old/a", b"0123456789").await, Err(StoreError::AlreadyExists { .. })),
            "the first try is no lost reply"
        );
        assert!(matches!(store.get(&ObjectName::new("old/b")).await, Err(StoreError::NotFound { .. })));
        assert!(matches!(store.get_range(&old(), 5..11).await, Err(StoreError::WrongSize { .. })));
        let wrong = store.put_new(&ObjectName::new("new/a"), Bytes::from_static(b"x"), &contract::checksum(b"y")).await;
        assert!(matches!(wrong, Err(StoreError::Failed { .. })), "{wrong:?}");
    });
    assert_eq!(faulty.calls(), 5);
}

#[test]
fn a_put_whose_reply_was_lost_has_succeeded() {
    let (memory, _, store) = retried([Rule::nth(1, Fault::ErrorAfterEffect).kind(CallKind::Put)]);
    without_waiting(put(&store, "new/a", b"ours")).unwrap();
    assert_eq!(memory.contents()[0].1, "ours");
}

#[test]
fn a_retried_put_does_not_take_the_object_of_another_for_its_own() {
    let (memory, faulty, store) = retried([Rule::nth(1, Fault::ErrorBefore).kind(CallKind::Put)]);
    // The comparison itself may have to be repeated.
    faulty.add(Rule::nth(1, Fault::Timeout).kind(CallKind::Get));
    let result = without_waiting(put(&store, "old/a", b"ours"));
    assert!(matches!(result, Err(StoreError::AlreadyExists { .. })), "{result:?}");
    assert_eq!(memory.contents()[0].1, "0123456789");
}

#[test]
fn tries_are_bounded_and_end_before_the_caller_does() {
    let (_, faulty, store) = retried([Rule::every(Fault::ErrorBefore)]);
    let begun_at = |calls| faulty.calls() - calls;
    without_waiting(async {
        let begun = Instant::now();
        assert!(matches!(store.stat(&old()).await, Err(StoreError::Failed { .. })));
        assert_eq!(begun_at(0), u64::from(RETRIES_OF_READ) + 1);
        assert!(begun.elapsed() < CALL_DEADLINE);
        let (begun, calls) = (Instant::now(), faulty.calls());
        assert!(put(&store, "new/a", b"x").await.is_err());
        assert!((2..=u64::from(RETRIES_OF_PUT) + 1).contains(&begun_at(calls)));
        assert!(begun.elapsed() < put_deadline(1));
    });
}

#[test]
fn a_black_hole_gets_a_second_chance() {
    let (memory, _, _) = retried([]);
    let slow = SlowStore::new(Arc::new(memory));
    let store = RetryStore::new(Arc::clone(&slow) as Arc<dyn WriteStore>);
    for long in [false, true] {
        slow.close(None);
        let (read, ()) = without_waiting(async {
            let read = async { if long { store.get(&old()).await } else { store.get_range(&old(), 0..10).await } };
            // The first attempt hangs; the line is back when the second one begins.
            let repair = async {
                sleep(if long { Patience::LONG.attempt } else { ATTEMPT_MAX } - Duration::from_millis(1)).await;
                assert_eq!(slow.waiting().len(), 1);
                slow.close(Some(CallKind::Delete));
            };
            tokio::join!(read, repair)
        });
        assert_eq!(read.unwrap(), "0123456789");
    }
}

#[test]
fn after_a_deadline_reads_fail_at_once_until_somebody_answers() {
    let (memory, ..) = retried([]);
    let slow = SlowStore::new(Arc::new(memory));
    let store = RetryStore::new(Arc::clone(&slow) as Arc<dyn WriteStore>);
    slow.close(None);
    without_waiting(async {
        let begun = Instant::now();
        assert!(matches!(store.stat(&old()).await, Err(StoreError::Timeout { .. })));
        assert!((ATTEMPT_MAX..CALL_DEADLINE).contains(&begun.elapsed()));
        for seconds in [0, 2, 4] {
            let begun = Instant::now();
            let error = store.get(&old()).await.unwrap_err();
            let StoreError::Failed { source, .. } = &error else { panic!("{error:?}") };
            assert_eq!(source.to_string(), format!("it is not reachable, last tried {seconds} s ago"));
            assert_eq!(begun.elapsed(), Duration::ZERO);
            sleep(Duration::from_secs(2)).await;
        }
        // One goes to look, the others need not wait for it. It finds nobody.
        let name = old();
        let (probe, other) = tokio::join!(store.stat(&name), store.stat(&name));
        assert!(matches!(probe, Err(StoreError::Timeout { .. })), "{probe:?}");
        assert!(matches!(other, Err(StoreError::Failed { .. })), "{other:?}");
        assert!(matches!(store.stat(&old()).await, Err(StoreError::Failed { .. })));
        // A caller that gives up on its probe leaves the way free for the next.
        sleep(FAIL_FAST).await;
        assert!(timeout(Duration::from_secs(1), store.stat(&old())).await.is_err());
        slow.open();
        assert!(store.stat(&old()).await.is_ok());
        assert!(store.get(&old()).await.is_ok(), "an answer clears it");
    });
}

#[test]
fn writes_are_tried_even_while_reads_fail_at_once() {
    let (memory, ..) = retried([]);
    let slow = SlowStore::new(Arc::new(memory));
    let store = RetryStore::new(Arc::clone(&slow) as Arc<dyn WriteStore>);
    slow.close(None);
    without_waiting(async {
        assert!(store.list("", None).await.is_err());
        assert!(matches!(store.list("", None).await, Err(StoreError::Failed { .. })));
        slow.open();
        put(&store, "new/a", b"x").await.unwrap();
        assert_eq!(store.list("", None).await.unwrap().len(), 2, "its answer counts for reads too");
    });
}

#[test]
fn one_hanging_object_does_not_stop_the_others() {
    let (memory, ..) = retried([]);
    let slow = SlowStore::new(Arc::new(memory));
    let store = RetryStore::new(Arc::clone(&slow) as Arc<dyn WriteStore>);
    slow.close(Some(CallKind::GetRange));
    without_waiting(async {
        let others = async {
            sleep(ATTEMPT_MAX).await;
            store.stat(&old()).await.unwrap();
        };
        let name = old();
        let (range, ()) = tokio::join!(store.get_range(&name, 0..1), others);
        assert!(matches!(range, Err(StoreError::Timeout { .. })));
        assert!(store.stat(&old()).await.is_ok());
    });
}

#[test]
fn pauses_double_and_spread() {
    assert_eq!(pause_before(0, u64::MAX), PAUSE_FIRST);
    assert_eq!(pause_before(3, u64::MAX), PAUSE_FIRST * 8);
    assert_eq!(pause_before(40, u64::MAX), PAUSE_MAX);
    assert_eq!(pause_before(3, 0), Duration::ZERO);
    assert!(pause_before(3, u64::MAX / 2) <= PAUSE_FIRST * 4);
}
