//! The contract against real servers. `tests/run stores` starts them and says in the environment where they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fs_core::storage::address::Address;
use fs_core::storage::probe::probe;
use fs_core::storage::{self, ObjectName, RemoteOptions, StoreError, WriteStore, wait};
use fs_core::testing::{SeededRandom, contract};
use fs_core::time::SystemClock;
use tests::driven::{Driven, is_long};
use tests::noise;

static NEXT: AtomicU32 = AtomicU32::new(0);

fn setting(name: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "tests/run hands over where its servers listen")]
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run 'tests/run stores', which starts the servers"))
}

/// Makes stores at the address that stands in the environment.
fn maker(address: &str, variables: &[(&str, &str)]) -> impl Fn() -> Arc<dyn WriteStore> + use<> {
    maker_of(setting(address), variables, address.ends_with("SFTP").then(|| setting("YESTERDRIVE_TEST_SSH").into()))
}

/// Makes stores; `%` in the address is replaced, so that every one is new and empty.
fn maker_of(pattern: String, variables: &[(&str, &str)], ssh_folder: Option<PathBuf>) -> impl Fn() -> Arc<dyn WriteStore> + use<> {
    let variables: BTreeMap<_, _> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = RemoteOptions { variables, ssh_folder, ..RemoteOptions::default() };
    move || {
        let place = format!("contract-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let address = Address::parse(&pattern.replace('%', &place)).unwrap();
        storage::create(&address, &options).unwrap()
    }
}

/// The keys that the server of S3 takes.
const S3: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test-secret")];

/// Runs the contract, and what `init` finds out about such a store.
fn keeps_the_contract(address: &str, variables: &[(&str, &str)]) {
    let make = maker(address, variables);
    contract::run(&make);
    let report = probe(&*make(), &SystemClock, &*SeededRandom::shared(u64::from(NEXT.fetch_add(1, Ordering::Relaxed)))).unwrap();
    assert!(report.is_usable() && report.deletes && report.clock_ahead_s.is_some(), "{report:?}");
    assert!(report.create_only || !make().capabilities().create_only, "{report:?}");
}

#[test]
#[ignore = "needs a server: tests/run stores"]
fn s3_keeps_the_contract() {
    keeps_the_contract("YESTERDRIVE_TEST_S3", &S3);
}

#[test]
#[ignore = "needs a server: tests/run stores"]
fn azure_keeps_the_contract() {
    // The emulator's published key.
    let key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    keeps_the_contract("YESTERDRIVE_TEST_AZURE", &[("AZURE_STORAGE_ACCOUNT_KEY", key)]);
}

#[test]
#[ignore = "needs a server: tests/run stores"]
fn sftp_keeps_the_contract() {
    keeps_the_contract("YESTERDRIVE_TEST_SFTP", &[]);
}

#[test]
#[ignore = "needs a server: tests/run stores"]
fn webdav_keeps_the_contract() {
    keeps_the_contract("YESTERDRIVE_TEST_WEBDAV", &[("YESTERDRIVE_WEBDAV_PASSWORD", "secret")]);
}

const GOOGLE: [(&str, &str); 1] = [("GOOGLE_BEARER_TOKEN", "token-for-tests")];

#[test]
#[ignore = "needs a server: tests/run stores"]
fn google_keeps_the_contract() {
    keeps_the_contract("YESTERDRIVE_TEST_GCS", &GOOGLE);
}

#[test]
#[ignore = "needs a server: tests/run stores"]
fn a_service_that_refuses_and_loses_answers_loses_nothing() {
    let store = maker("YESTERDRIVE_TEST_UNSTEADY", &GOOGLE)();
    let names: Vec<_> = (0..96).map(|number| format!("pack/{number:02}")).collect();
    std::thread::scope(|scope| {
        for part in names.chunks(12) {
            let store = &store;
            scope.spawn(move || part.iter().for_each(|name| contract::put(&**store, name, name.as_bytes()).unwrap()));
        }
    });
    let listed: Vec<_> = wait("", store.list("", None)).unwrap().into_iter().map(|meta| meta.name.to_string()).collect();
    assert_eq!(listed, names);
    for name in &names {
        assert_eq!(wait(name, store.get(&ObjectName::new(name.as_str()))).unwrap(), name);
        let other = contract::put(&*store, name, b"of somebody else");
        assert!(matches!(other, Err(StoreError::AlreadyExists { .. })), "{other:?}");
        wait(name, store.delete(&ObjectName::new(name.as_str()))).unwrap();
    }
    assert_eq!(wait("", store.list("", None)).unwrap(), []);
}

/// A store whose objects are to be kept for so long.
fn keeping(address: &str, retention: &str) -> Arc<dyn WriteStore> {
    maker_of(format!("{}&retention={retention}", setting(address)), &S3, None)()
}

#[test]
#[ignore = "needs a server: tests/run stores"]
fn a_locked_bucket_keeps_what_it_is_given() {
    let store = keeping("YESTERDRIVE_TEST_S3_LOCKED", "1h");
    let name = ObjectName::new("pack/a-b");
    contract::put(&*store, name.as_str(), b"kept").unwrap();
    assert_eq!(wait("", store.get(&name)).unwrap(), "kept");
    assert!(matches!(contract::put(&*store, name.as_str(), b"other"), Err(StoreError::AlreadyExists { .. })));
    let refused = wait("", store.delete(&name)).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Denied { source, .. } if source.to_string().starts_with("the service answered 403")),
        "{refused:?}"
    );
    let now = wait("", store.server_time()).unwrap().unwrap();
    for hours in [5, 2, 9] {
        wait("", store.retain(&name, now.saturating_add(Duration::from_secs(hours * 3600)))).unwrap();
    }
    assert!(matches!(wait("", store.retain(&ObjectName::new("pack/none"), now)), Err(StoreError::NotFound { .. })));
    assert_eq!(wait("", store.get(&name)).unwrap(), "kept");
    wait("", store.delete(&ObjectName::new("pack/none"))).unwrap();
    let report = probe(&*store, &SystemClock, &*SeededRandom::shared(1)).unwrap();
    assert!(report.is_usable() && report.deletes && report.findings.len() == 1, "{report:?}");
    // The same service without Object Lock: it says so before anything is kept there.
    let plain = keeping("YESTERDRIVE_TEST_S3", "1h");
    let failed = contract::put(&*plain, "pack/a", b"x").and_then(|()| wait("", plain.delete(&ObjectName::new("pack/a")))).unwrap_err();
    assert!(matches!(failed, StoreError::Failed { .. }), "{failed:?}");
    let plain = setting("YESTERDRIVE_TEST_S3").replace('%', &format!("no-lock-{}", std::process::id())) + "&retention=1h";
    let driven = Driven::new("unused").unwrap();
    let mut command = driven.command(&["--repository", &plain, "init", "--new-key-file", "key", "--accept-loss"]);
    let output = command.envs(S3).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.contains("how the place is set up")), (Some(1), true), "{said}");
}

#[test]
#[ignore = "needs a server: tests/run stores"]
fn what_a_locked_bucket_kept_is_deleted_when_its_time_is_over() {
    let store = keeping("YESTERDRIVE_TEST_S3_LOCKED", "2s");
    let name = ObjectName::new("pack/a");
    contract::put(&*store, name.as_str(), b"kept").unwrap();
    assert!(matches!(wait("", store.delete(&name)), Err(StoreError::Denied { .. })));
    let is_refused = || match wait("", store.delete(&name)) {
        Err(StoreError::Denied { .. }) => true,
        result => {
            result.unwrap();
            false
        }
    };
    let now = || wait("", store.server_time()).unwrap().unwrap();
    let begun = now();
    // The server's clock is what counts, and nobody can set it: asked until it says so.
    while is_refused() {
        assert!(now().since(begun) < Duration::from_secs(60), "it is kept for ever");
    }
    assert!(matches!(wait("", store.stat(&name)), Err(StoreError::NotFound { .. })));
    assert_eq!(wait("", store.list("", None)).unwrap(), []);
    contract::put(&*store, name.as_str(), b"again").unwrap();
}

#[test]
#[ignore = "needs a server: tests/run stores"]
fn what_a_service_says_is_one_sentence_without_addresses() {
    let denied = wait("", maker("YESTERDRIVE_TEST_GCS", &[("GOOGLE_BEARER_TOKEN", "wrong")])().list("", None)).unwrap_err();
    let StoreError::Denied { source, .. } = &denied else { panic!("{denied:?}") };
    assert_eq!(source.to_string(), "the service answered 401 AuthenticationRequired: Authentication required");
    let options =
        RemoteOptions { variables: GOOGLE.map(|(key, value)| (key.to_owned(), value.to_owned())).into(), ..RemoteOptions::default() };
    let no_bucket = setting("YESTERDRIVE_TEST_GCS").replace("steady", "missing");
    let store = storage::open(&Address::parse(&no_bucket).unwrap(), &options).unwrap();
    let failed = wait("", store.list("", None)).unwrap_err();
    let StoreError::Failed { source, .. } = &failed else { panic!("{failed:?}") };
    assert_eq!(source.to_string(), "the service answered 404 NoSuchBucket: The specified bucket does not exist");
}

/// Filled on a disk, carried, loaded into a service, gone on with, carried home again: a gibibyte if there is time.
#[test]
#[ignore = "needs a server: tests/run stores"]
fn a_seed_by_disk_goes_on_with_changes_only() {
    const FILE: usize = 16 << 20;
    let driven = Driven::new("disk").unwrap();
    let count = if is_long() { 64 } else { 4 };
    (0..count).for_each(|n| std::fs::write(driven.source().join(format!("file {n}")), noise(n, FILE)).unwrap());
    driven.save().unwrap();
    let far = setting("YESTERDRIVE_TEST_S3").replace('%', &format!("seed-{}", std::process::id()));
    let run = |line: &[&str]| -> serde_json::Value {
        let mut command = driven.command(&["--key-file", "key", "--json", "--repository", &far]);
        let output = command.args(line).envs(S3).output().unwrap();
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(String::from_utf8_lossy(&output.stdout).lines().last().unwrap()).unwrap()
    };
    let imported = run(&["seed", "import", "disk"]);
    assert!(imported["copied"]["bytes"].as_u64().unwrap() > count * FILE as u64, "{imported}");
    assert_eq!(run(&["seed", "import", "disk"])["copied"]["count"], 0);
    // Half a mebibyte in the middle of one file.
    let mut changed = noise(0, FILE);
    changed[FILE / 2..][..512 << 10].copy_from_slice(&noise(1000, 512 << 10));
    std::fs::write(driven.source().join("file 0"), &changed).unwrap();
    let next = run(&["backup", "source"]);
    let sent = next["sent_bytes"].as_u64().unwrap();
    println!("imported {} bytes; the next backup sent {sent} and read {}", imported["copied"]["bytes"], next["read_bytes"]);
    assert!(sent < 4 << 20 && next["unchanged"].as_u64() == Some(count - 1), "{next}");
    let exported = run(&["seed", "export", "return"]);
    assert_eq!(exported["copied"]["count"], exported["objects"]["count"]);
    let drive = driven.mount("drive", &["--repository", "return"]).unwrap();
    assert!(std::fs::read(drive.shown.join("file 0")).unwrap() == changed);
    assert!(std::fs::read(drive.shown.join("file 1")).unwrap() == noise(1, FILE));
}

/// Against servers that only a long run starts.
mod long {
    use super::*;

    #[test]
    #[ignore = "needs a server: tests/run --long stores"]
    fn garage_keeps_the_contract_and_is_seen_to_overwrite() {
        let (id, key) = (setting("YESTERDRIVE_TEST_GARAGE_ID"), setting("YESTERDRIVE_TEST_GARAGE_KEY"));
        let keys = [("AWS_ACCESS_KEY_ID", id.as_str()), ("AWS_SECRET_ACCESS_KEY", key.as_str())];
        keeps_the_contract("YESTERDRIVE_TEST_GARAGE", &keys);
        let report = probe(&*maker("YESTERDRIVE_TEST_GARAGE", &keys)(), &SystemClock, &*SeededRandom::shared(1)).unwrap();
        assert!(!report.create_only, "{report:?}");
    }
}
