//! A hop assertion as it arrives: whatever it is, it is read or refused, and what was read is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_pipeline::hop::{Assertion, Hop, Peer};

fuzz_target!(|bytes: &[u8]| {
    let peer = Peer::parse("spiffe://shop.example/ns/shop/sa/default").expect("an id");
    let lines = || bytes.split(|byte| *byte == b'\n');
    if let Ok(Some(hop)) = Hop::arrived(&peer, 8080, lines()) {
        assert_eq!(hop.assertion.port, 8080);
        assert!(lines().nth(1).is_none());
        if let Some(again) = hop.assertion.encode() {
            assert_eq!(
                Assertion::decode(again.as_bytes()).expect("our own"),
                Some(hop.assertion)
            );
        }
    } else {
        #[cfg(feature = "planted-panic")]
        if bytes.starts_with(b"1.") {
            panic!("planted");
        }
    }
});
