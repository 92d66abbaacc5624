//! The contract against real servers. `tests/run stores` starts them and says in the environment where they are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use fs_core::storage::address::Address;
use fs_core::storage::{self, RemoteOptions};
use fs_core::testing::contract;

static NEXT: AtomicU32 = AtomicU32::new(0);

fn setting(name: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "tests/run hands over where its servers listen")]
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run 'tests/run stores', which starts the servers"))
}

/// Runs the contract; `%` in the address is replaced, so that every store is new and empty.
fn keeps_the_contract(address: &str, variables: &[(&str, &str)]) {
    let pattern = setting(address);
    let variables: BTreeMap<_, _> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let ssh_folder = address.ends_with("SFTP").then(|| setting("YESTERDRIVE_TEST_SSH").into());
    let options = RemoteOptions { variables, ssh_folder, ..RemoteOptions::default() };
    contract::run(|| {
        let place = format!("contract-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let address = Address::parse(&pattern.replace('%', &place)).unwrap();
        storage::create(&address, &options).unwrap()
    });
}

#[test]
#[ignore = "needs a server: tests/run stores"]
fn s3_keeps_the_contract() {
    let keys = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test-secret")];
    keeps_the_contract("YESTERDRIVE_TEST_S3", &keys);
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
