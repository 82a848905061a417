//! What stands before every phase: the reader of a connection's bytes, however they are cut, and the checks of a request's
//! head as the phases see it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_pipeline::{
    admit,
    facts::StaticFacts,
    framing::{Fault, Lines, Read, Reader},
    target,
};

/// Shows the bytes to a reader in pieces of at most `cut`, each with what was not used up before: how many it used up, and
/// what it refused.
fn read(bytes: &[u8], cut: usize) -> (usize, Option<Fault>) {
    let (mut reader, mut lines) = (Reader::requests(), Lines::default());
    let (mut used, mut shown) = (0, 0);
    while shown < bytes.len() {
        shown = bytes.len().min(shown.saturating_add(cut));
        loop {
            let rest = &bytes[used..shown];
            let more = match reader.read(rest, &mut lines) {
                Ok(Read::Needed) => break,
                Ok(Read::Http2) => return (bytes.len(), None),
                Ok(Read::Head(whole)) => {
                    for line in &lines.fields {
                        assert!(!line.name.of(rest).is_empty(), "a line without a name");
                        assert!(!line.value.of(rest).contains(&b'\n'), "more than a value");
                    }
                    whole.bytes
                }
                Ok(
                    Read::Skip(bytes) | Read::Data(bytes) | Read::Trailer(bytes) | Read::End(bytes),
                ) => bytes,
                Err(fault) => return (used, Some(fault)),
            };
            assert!(more <= rest.len(), "more than was shown");
            used += more;
        }
    }
    (used, None)
}

/// The first head as the phases would see it, as far as lines and colons make one.
fn facts(bytes: &[u8]) -> Option<StaticFacts> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let fields = lines.take_while(|line| !line.is_empty());
    let mut facts = StaticFacts::new(method, "", target);
    for (name, value) in fields.filter_map(|line| line.split_once(':')) {
        facts = facts.with(name, value.trim());
    }
    let host = facts.headers.iter().find(|(name, _)| name == "host");
    facts.authority = host.and_then(|(_, value)| String::from_utf8(value.clone()).ok());
    Some(facts)
}

fuzz_target!(|bytes: &[u8]| {
    let (whole, fault) = read(bytes, usize::MAX);
    // What it decides does not depend on how the bytes arrive; how much it passes on before, may.
    let cut = bytes
        .first()
        .map_or(1, |first| usize::from(*first) % 16 + 1);
    let (pieces, fault_in_pieces) = read(bytes, cut);
    assert_eq!(fault, fault_in_pieces);
    if fault.is_none() {
        assert_eq!(whole, pieces);
    }

    let Some(facts) = facts(bytes) else { return };
    let admitted = admit::admit(&facts);
    if let (Ok(()), Ok(target)) = (&admitted, target::normalise(&facts)) {
        assert!(
            target.path.starts_with('/') || target.path == "*",
            "{target:?}"
        );
    }
    #[cfg(feature = "planted-panic")]
    if admitted.is_ok() && facts.method.starts_with('F') {
        assert!(facts.headers.len() < 3, "planted");
    }
});
