//! The PROXY protocol: what a proxy in front says in the first bytes of a connection about the client it stands for, as
//! text (version 1) or binary (version 2), by the HAProxy specification `proxy-protocol.txt`. Bytes in, addresses out: how
//! they are read, and whether a connection may come without them, is the caller's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest line of version 1 with its line end, in bytes (section 2.1).
const MAX_LINE: usize = 107;
/// What follows the fixed part of version 2 at most, in bytes: addresses and TLVs. The field allows 65,535; real ones, a
/// client certificate's names included, stay far below.
const MAX_REST: usize = 4096;
/// The most bytes that are ever needed before a header is whole.
pub const MAX_BYTES: usize = FIXED + MAX_REST;

/// How every header of version 1 begins.
const LINE_START: &[u8] = b"PROXY ";
/// How every header of version 2 begins: no protocol's first bytes (section 2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED: usize = SIGNATURE.len() + 4;

/// What the bytes so far say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// They begin a header that is not whole yet: ask again with more.
    More,
    /// They are no header and will not become one.
    Absent,
    /// The first `length` bytes are a header; what follows is the client's.
    Whole {
        /// Whom the connection is from.
        from: Origin,
        /// Bytes of the header.
        length: usize,
    },
}

/// Whom a connection is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The one who connected: a proxy's own connection (a health check), or a client that it cannot name.
    Itself,
    /// This client of the proxy. Where it connected to is checked and not kept: nothing is decided by it.
    Client(SocketAddr),
}

/// A header that is none the specification allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Version 1: no line end within its bound.
    #[error("a PROXY line of more than {MAX_LINE} bytes; does the proxy send version 1 as text?")]
    LineTooLong,
    /// Version 1: not `PROXY TCP4|TCP6 source destination port port`.
    #[error("a PROXY line that is not `PROXY TCP4|TCP6 source destination port port`")]
    Line,
    /// Version 2: a version or a command that does not exist.
    #[error("a version or command of PROXY version 2 that does not exist")]
    Command,
    /// Version 2: a family or a transport that does not exist.
    #[error("an address family or transport of PROXY version 2 that does not exist")]
    Family,
    /// Version 2: too short for its addresses.
    #[error("a PROXY version 2 header that is too short for its addresses")]
    TooShort,
    /// Version 2: longer than is read.
    #[error(
        "a PROXY version 2 header of more than {MAX_BYTES} bytes; which TLVs does the proxy add?"
    )]
    TooLong,
}

/// Looks at the first bytes of a connection; never at more than [`MAX_BYTES`] of them.
pub fn parse(bytes: &[u8]) -> Result<Progress, Malformed> {
    if begins(bytes, SIGNATURE) {
        version2(bytes)
    } else if begins(bytes, LINE_START) {
        version1(bytes)
    } else {
        Ok(Progress::Absent)
    }
}

/// Whether the bytes begin with `mark`, as far as they go.
fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    let both = bytes.len().min(mark.len());
    bytes[..both] == mark[..both]
}

fn version1(bytes: &[u8]) -> Result<Progress, Malformed> {
    let seen = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() < MAX_LINE {
            Ok(Progress::More)
        } else {
            Err(Malformed::LineTooLong)
        };
    };
    let line = std::str::from_utf8(&seen[..end]).map_err(|_| Malformed::Line)?;
    Ok(Progress::Whole {
        from: line_from(line).ok_or(Malformed::Line)?,
        length: end + 2,
    })
}

/// The line without its end. What follows `UNKNOWN` is ignored, as the specification demands.
fn line_from(line: &str) -> Option<Origin> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Origin::Itself);
    }
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, _destination) = (address()?, address()?);
    let mut port = || words.next().and_then(decimal);
    let (port, _to) = (port()?, port()?);
    words.next().is_none().then(|| client(source, port))
}

/// A port without sign and leading zeros.
fn decimal(word: &str) -> Option<u16> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let plain = word == "0" || !word.starts_with('0');
    word.parse().ok().filter(|_| digits && plain)
}

fn version2(bytes: &[u8]) -> Result<Progress, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Progress::More);
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_REST {
        return Err(Malformed::TooLong);
    }
    let proxied = match command {
        0x20 => false,
        0x21 => true,
        _ => return Err(Malformed::Command),
    };
    let (family, transport) = (family >> 4, family & 0xf);
    if family > 3 || transport > 2 {
        return Err(Malformed::Family);
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(Progress::More);
    };
    // A local command says nothing of a client. Neither do families and transports of no use here: to be treated as
    // unspecified (section 2.2).
    let from = match (proxied, family, transport) {
        (true, 1, 1) => addresses::<4>(rest)?,
        (true, 2, 1) => addresses::<16>(rest)?,
        _ => Origin::Itself,
    };
    Ok(Progress::Whole {
        from,
        length: FIXED + length,
    })
}

/// Source, destination, and their ports; the TLVs that follow are skipped.
fn addresses<const N: usize>(rest: &[u8]) -> Result<Origin, Malformed>
where
    IpAddr: From<[u8; N]>,
{
    let short = Malformed::TooShort;
    let (source, rest) = rest.split_first_chunk::<N>().ok_or(short)?;
    let (_destination, rest) = rest.split_first_chunk::<N>().ok_or(short)?;
    let (ports, _tlvs) = rest.split_first_chunk::<4>().ok_or(short)?;
    let [high, low, ..] = *ports;
    Ok(client(
        IpAddr::from(*source),
        u16::from_be_bytes([high, low]),
    ))
}

/// A client of IPv4 has an IPv4 address, however it is written: policies compare it.
fn client(source: IpAddr, port: u16) -> Origin {
    Origin::Client(SocketAddr::new(source.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n";

    fn from(source: &str) -> Origin {
        Origin::Client(source.parse().expect("an address"))
    }

    /// A header of version 2.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    const INET: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

    #[test]
    fn a_line_names_the_client_and_what_follows_is_the_clients() {
        let whole = Progress::Whole {
            from: from("192.0.2.1:56324"),
            length: 45,
        };
        assert_eq!(parse(LINE), Ok(whole));
        assert_eq!(&LINE[45..48], b"GET");
        let six = b"PROXY TCP6 2001:db8::1 ::ffff:198.51.100.1 0 65535\r\n";
        assert_eq!(
            parse(six),
            Ok(Progress::Whole {
                from: from("[2001:db8::1]:0"),
                length: six.len()
            })
        );
        for unknown in [
            &b"PROXY UNKNOWN\r\n"[..],
            b"PROXY UNKNOWN ffff:f...f:ffff whatever 1\r\n",
        ] {
            let whole = Progress::Whole {
                from: Origin::Itself,
                length: unknown.len(),
            };
            assert_eq!(parse(unknown), Ok(whole));
        }
    }

    #[test]
    fn a_line_is_what_the_grammar_says_and_nothing_else() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +6324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 056324 443\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 2001:db8::1 198.51.100.1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 h\u{f6}st 198.51.100.1 56324 443\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Malformed::Line), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE));
        assert_eq!(parse(long.as_bytes()), Err(Malformed::LineTooLong));
        assert_eq!(parse(&long.as_bytes()[..MAX_LINE - 1]), Ok(Progress::More));
    }

    #[test]
    fn binary_headers_name_the_client_and_tlvs_are_skipped() {
        let tlvs = [&INET[..], &[0x03, 0, 4, 1, 2, 3, 4, 0xee]].concat();
        for rest in [&INET[..], &tlvs] {
            let bytes = binary(0x21, 0x11, rest);
            let whole = Progress::Whole {
                from: from("192.0.2.1:56324"),
                length: bytes.len(),
            };
            assert_eq!(parse(&bytes), Ok(whole));
            assert_eq!(parse(&[&bytes[..], b"more"].concat()), Ok(whole));
        }
        let six = [
            Ipv4Addr::new(192, 0, 2, 9).to_ipv6_mapped().octets(),
            Ipv6Addr::LOCALHOST.octets(),
        ];
        let six = [&six.concat()[..], &[0, 1, 0, 2]].concat();
        let bytes = binary(0x21, 0x21, &six);
        assert_eq!(
            parse(&bytes),
            Ok(Progress::Whole {
                from: from("192.0.2.9:1"),
                length: bytes.len()
            })
        );
    }

    #[test]
    fn a_binary_header_without_a_client_of_use_is_of_the_connection_itself() {
        for (command, family, rest) in [
            (0x20, 0x00, &[][..]),
            (0x20, 0x11, &INET),
            (0x21, 0x00, &[]),
            (0x21, 0x12, &INET),
            (0x21, 0x31, &[0; 216]),
        ] {
            let bytes = binary(command, family, rest);
            let whole = Progress::Whole {
                from: Origin::Itself,
                length: bytes.len(),
            };
            assert_eq!(parse(&bytes), Ok(whole), "{command:x} {family:x}");
        }
    }

    #[test]
    fn binary_headers_are_bounded_and_of_known_kinds() {
        for (bytes, malformed) in [
            (binary(0x11, 0x11, &INET), Malformed::Command),
            (binary(0x22, 0x11, &INET), Malformed::Command),
            (binary(0x21, 0x41, &INET), Malformed::Family),
            (binary(0x21, 0x13, &INET), Malformed::Family),
            (binary(0x21, 0x11, &INET[..11]), Malformed::TooShort),
            (binary(0x21, 0x21, &INET), Malformed::TooShort),
            (binary(0x20, 0x00, &[0; MAX_REST + 1]), Malformed::TooLong),
        ] {
            assert_eq!(parse(&bytes), Err(malformed));
        }
        let largest = binary(0x20, 0x00, &[0; MAX_REST]);
        assert_eq!(largest.len(), MAX_BYTES);
        assert!(
            matches!(parse(&largest), Ok(Progress::Whole { length, .. }) if length == MAX_BYTES)
        );
    }

    #[test]
    fn what_cannot_become_a_header_is_known_at_once() {
        for bytes in [
            &b"G"[..],
            b"PRI * HTTP/2.0\r\n",
            b"PROPFIND / ",
            b"PROXY-",
            b"\r\nG",
            b"\r\n\r\n\0\r\nQUIT\r",
        ] {
            assert_eq!(parse(bytes), Ok(Progress::Absent), "{bytes:?}");
        }
        assert_eq!(parse(b""), Ok(Progress::More));
    }

    proptest! {
        /// However the bytes are cut, the answer is the same, and nothing is decided too early.
        #[test]
        fn a_header_may_come_in_any_pieces(rest in proptest::collection::vec(any::<u8>(), 12..64), text in any::<bool>()) {
            let bytes = if text { LINE[..45].to_vec() } else { binary(0x21, 0x11, &rest) };
            for end in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..end]), Ok(Progress::More));
            }
            let whole = matches!(parse(&bytes), Ok(Progress::Whole { length, .. }) if length == bytes.len());
            prop_assert!(whole);
        }

        #[test]
        fn any_bytes_have_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for start in [&b""[..], LINE_START, SIGNATURE] {
                let bytes = [start, &bytes].concat();
                if let Ok(Progress::Whole { length, .. }) = parse(&bytes) {
                    prop_assert!(length <= bytes.len());
                }
            }
        }
    }
}
