//! What stands before every phase: the scanner of a connection's bytes, however they are cut, and the checks of a request's
//! head as the phases see it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_pipeline::{
    admit,
    facts::StaticFacts,
    framing::{Refused, Scanner},
    target,
};

/// Shows the bytes to a scanner in pieces of at most `cut`, each with what was not understood before: how many it
/// understood, or what it refused, counted from the first byte.
fn scan(bytes: &[u8], cut: usize) -> Result<usize, (usize, String)> {
    let mut scanner = Scanner::requests();
    let (mut understood, mut shown) = (0, 0);
    while shown < bytes.len() {
        shown = bytes.len().min(shown + cut);
        let piece = &bytes[understood..shown];
        match scanner.advance(piece) {
            Ok(more) => {
                assert!(more <= piece.len(), "more than was shown");
                understood += more;
            }
            Err(Refused { fault, sound, .. }) => {
                assert!(sound <= piece.len(), "more than was shown");
                return Err((understood + sound, format!("{fault:?}")));
            }
        }
    }
    Ok(understood)
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
    let whole = scan(bytes, usize::MAX);
    // What it decides does not depend on how the bytes arrive; how much it passes on before, may.
    let cut = bytes
        .first()
        .map_or(1, |first| usize::from(*first) % 16 + 1);
    let pieces = scan(bytes, cut);
    assert_eq!(
        whole.as_ref().map_err(|(_, fault)| fault),
        pieces.as_ref().map_err(|(_, fault)| fault)
    );

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
