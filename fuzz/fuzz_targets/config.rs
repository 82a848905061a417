//! Configuration as it comes over the stream: a unit's name on the first line, its body behind it. What decodes must encode
//! to what decodes to the same, and must compile or be refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_pipeline::compile_unit;
use sluice_snapshot::{Unit, UnitName};

fuzz_target!(|bytes: &[u8]| {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let name = std::str::from_utf8(&bytes[..end]).map(str::parse::<UnitName>);
    let Ok(Ok(name)) = name else { return };
    let Ok(unit) = Unit::decode(&name, &bytes[end + 1..]) else {
        return;
    };
    assert_eq!(unit.kind(), name.kind());
    let encoded = unit.encode();
    let again = Unit::decode(&name, &encoded).expect("what was encoded decodes");
    assert_eq!(again.encode(), encoded);
    let compiled = compile_unit(&name, &unit);
    let _ = unit.needs();
    #[cfg(feature = "planted-panic")]
    if let Unit::Fleet(fleet) = &unit {
        assert!(fleet.sessions < 50, "planted");
    }
    drop(compiled);
});
