//! Lines of a head: where they end, and which bytes they are made of. One look at each byte, sixteen at a time where
//! the processor can.

use super::Fault;

/// Where a line ends: its bytes are before `end`, the next line begins at `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub end: usize,
    pub next: usize,
}

/// Whether any control byte but the tab is among these.
pub(crate) fn has_control(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut found = words
        .iter()
        .fold(0, |found, word| found | controls(u64::from_le_bytes(*word)));
    found |= match bytes.last_chunk::<8>() {
        Some(last) => controls(u64::from_le_bytes(*last)),
        None => u64::from(rest.iter().any(u8::is_ascii_control)),
    };
    // The tab is one too.
    found != 0
        && bytes
            .iter()
            .any(|byte| byte.is_ascii_control() && *byte != b'\t')
}

/// How many control bytes but the tab are among these.
pub(super) fn controls_in(bytes: &[u8]) -> usize {
    let is_control = |byte: u8| u8::from((byte < b' ') & (byte != b'\t') | (byte == 0x7f));
    // So few that a byte holds their number: so the processor counts sixteen at a time.
    let count = |bytes: &[u8]| {
        let counted = bytes
            .iter()
            .fold(0_u8, |count, byte| count + is_control(*byte));
        usize::from(counted)
    };
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks
        .iter()
        .fold(count(rest), |found, block| found + count(block))
}

/// Finds the end of the line that goes on at `from`. None: it has not come yet, and `from` is where to go on looking.
/// No control byte but the tab stands in a line, and nothing but CR LF ends one (RFC 9112 section 2.2).
#[inline(always)]
pub(super) fn end(bytes: &[u8], from: &mut usize) -> Result<Option<Ended>, Fault> {
    loop {
        let Some(found) = special(&bytes[*from..]) else {
            *from = bytes.len();
            return Ok(None);
        };
        let at = *from + found;
        match (bytes[at], bytes.get(at + 1)) {
            (b'\t', _) => *from = at + 1,
            (b'\r', Some(b'\n')) => {
                return Ok(Some(Ended {
                    end: at,
                    next: at + 2,
                }));
            }
            (b'\r', Some(_)) => return Err(Fault::BareCarriageReturn),
            (b'\r', None) => {
                *from = at;
                return Ok(None);
            }
            (b'\n', _) => return Err(Fault::BareLineFeed),
            _ => return Err(Fault::ControlByte),
        }
    }
}

/// The first control byte.
#[inline(always)]
fn special(bytes: &[u8]) -> Option<usize> {
    let (blocks, rest) = bytes.as_chunks::<16>();
    for (index, block) in blocks.iter().enumerate() {
        if let Some(at) = in_block(block) {
            return Some(index * 16 + at);
        }
    }
    let from = blocks.len() * 16;
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        if let Some(at) = in_word(u64::from_le_bytes(*word)) {
            return Some(from + at);
        }
    }
    let at = rest.iter().position(u8::is_ascii_control)?;
    Some(from + words.len() * 8 + at)
}

/// The first control byte of sixteen. The look at all at once becomes one of vector instructions.
#[inline(always)]
fn in_block(block: &[u8; 16]) -> Option<usize> {
    let found = block.iter().fold(0, |found, byte| {
        found | u8::from(*byte < b' ') | u8::from(*byte == 0x7f)
    });
    if found == 0 {
        return None;
    }
    let number = u128::from_le_bytes(*block);
    in_word(number as u64).or_else(|| Some(8 + in_word((number >> 64) as u64)?))
}

/// The first control byte of eight.
#[inline(always)]
const fn in_word(word: u64) -> Option<usize> {
    match controls(word) {
        0 => None,
        found => Some((found.trailing_zeros() / 8) as usize),
    }
}

/// The highest bit of each control byte of a word; above the lowest such byte others may be marked too.
const fn controls(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = ONES << 7;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    let is_delete = delete.wrapping_sub(ONES) & !delete;
    (below_space | is_delete) & HIGH
}

/// The bytes of a token (RFC 9110 section 5.6.2).
static TOKEN: [bool; 256] = table(b"!#$%&'*+-.^_`|~");

/// The bytes of a host's name, and the dot between its labels.
static NAME: [bool; 256] = table(b"-._");

/// The bytes of a path that are let through: what a URI has (RFC 3986 section 3.3), and what clients leave unescaped
/// although they should not; normalising escapes or refuses those.
static PATH: [bool; 256] = table(b"-._~!$&'()*+,;=:@/%\"\\^{|}[]");

/// The same for a query (RFC 3986 section 3.4).
static QUERY: [bool; 256] = table(b"-._~!$&'()*+,;=:@/%\\^{|}[]?`");

/// Letters, digits and `more`.
pub(crate) const fn table(more: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < more.len() {
        table[more[at] as usize] = true;
        at += 1;
    }
    table
}

/// How many bytes of a token these begin with.
#[inline(always)]
pub(crate) fn token_len(bytes: &[u8]) -> usize {
    prefix_len(bytes, &TOKEN)
}

/// Whether a host's name may have this byte.
#[inline(always)]
pub(crate) fn is_of_name(byte: u8) -> bool {
    NAME[usize::from(byte)]
}

/// How many bytes these begin with that the table has.
#[inline(always)]
fn prefix_len(bytes: &[u8], table: &[bool; 256]) -> usize {
    let has = |byte: &u8| table[usize::from(*byte)];
    let (fours, _) = bytes.as_chunks::<4>();
    let whole = fours
        .iter()
        .take_while(|[a, b, c, d]| has(a) & has(b) & has(c) & has(d))
        .count();
    let from = whole * 4;
    let rest = bytes[from..].iter().take_while(|byte| has(byte));
    from + rest.count()
}

/// Whether these bytes are a path, perhaps with a query.
pub(super) fn is_path_and_query(bytes: &[u8]) -> bool {
    let fits =
        |bytes: &[u8], table: &[bool; 256]| bytes.iter().all(|byte| table[usize::from(*byte)]);
    match bytes.iter().position(|byte| *byte == b'?') {
        None => fits(bytes, &PATH),
        Some(at) => fits(&bytes[..at], &PATH) && fits(&bytes[at + 1..], &QUERY),
    }
}

/// Without the spaces and tabs around it (RFC 9112 section 5).
pub(super) fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_in_cr_lf_and_in_nothing_else() {
        let look = |bytes: &[u8]| {
            let mut from = 0;
            end(bytes, &mut from).map(|ended| (ended.map(|ended| ended.end), from))
        };
        let long = [b'a'; 40];
        assert_eq!(look(b"a: b\r\nc"), Ok((Some(4), 0)));
        assert_eq!(look(b"a:\tb\r\n").map(|(end, _)| end), Ok(Some(4)));
        assert_eq!(look(b"a: b\r"), Ok((None, 4)));
        assert_eq!(look(b""), Ok((None, 0)));
        assert_eq!(look(&[&long[..], b"\r\n"].concat()), Ok((Some(40), 0)));
        assert_eq!(look(&long), Ok((None, 40)));
        assert_eq!(look(b"a\nb\r\n"), Err(Fault::BareLineFeed));
        assert_eq!(look(b"a\rb\r\n"), Err(Fault::BareCarriageReturn));
        for byte in (0..=255).filter(u8::is_ascii_control) {
            let framed = [&long[..17], &[byte], b"x\r\n"].concat();
            assert_eq!(look(&framed).is_ok(), byte == b'\t', "{byte:#x}");
        }
        assert!(look(b"\x80\xff \r\n").is_ok());
    }

    #[test]
    fn the_first_control_byte_is_found_wherever_it_stands() {
        for byte in 0..=255_u8 {
            for at in 0..20 {
                let mut bytes = [b'a'; 24];
                bytes[at] = byte;
                let found = byte.is_ascii_control().then_some(at);
                assert_eq!(special(&bytes), found, "{byte:#x} at {at}");
                // What follows it changes nothing.
                bytes[at + 1..].fill(0x80);
                assert_eq!(special(&bytes), found, "{byte:#x} at {at}");
            }
        }
    }

    #[test]
    fn a_control_byte_is_seen_wherever_it_stands() {
        for length in 1..40 {
            for at in 0..length {
                for byte in 0..=255_u8 {
                    let mut bytes = vec![b'\t'; length];
                    bytes[at] = byte;
                    let is_control = byte.is_ascii_control() && byte != b'\t';
                    assert_eq!(has_control(&bytes), is_control, "{byte:#x} at {at}");
                    assert_eq!(controls_in(&bytes), usize::from(is_control));
                    bytes.fill(b'a');
                    bytes[at] = byte;
                    assert_eq!(has_control(&bytes), is_control, "{byte:#x} at {at}");
                }
            }
        }
        assert!(!has_control(b""));
    }

    #[test]
    fn spaces_around_a_value_are_no_part_of_it() {
        for (value, trim) in [(" a b\t", "a b"), ("", ""), (" \t ", ""), ("a", "a")] {
            assert_eq!(trimmed(value.as_bytes()), trim.as_bytes());
        }
    }
}
