//! The first bytes of a connection from a proxy.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_pipeline::proxy_protocol::{MAX_BYTES, Progress, parse};

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Progress::Whole { from, length }) => {
            assert!(length <= bytes.len() && length <= MAX_BYTES);
            // The same without what follows, and not before its last byte.
            assert_eq!(
                parse(&bytes[..length]),
                Ok(Progress::Whole { from, length })
            );
            assert_eq!(parse(&bytes[..length - 1]), Ok(Progress::More));
            #[cfg(feature = "planted-panic")]
            if let sluice_pipeline::proxy_protocol::Origin::Client(client) = from {
                assert!(client.port() >> 8 != 0x5a || !client.is_ipv6(), "planted");
            }
        }
        Ok(Progress::More) => assert!(bytes.len() < MAX_BYTES),
        Ok(Progress::Absent) | Err(_) => {}
    }
});
