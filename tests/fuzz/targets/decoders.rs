//! Feeds one decoder, named by YESTERDRIVE_DECODER, with what libFuzzer thinks of.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static DECODER: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("YESTERDRIVE_DECODER").expect("YESTERDRIVE_DECODER names the decoder");
    let found = tests::decoders::DECODERS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("there is no decoder {wanted}")).1
});

fuzz_target!(|bytes: &[u8]| DECODER(bytes));
