//! Who is behind the connection, by what proxies in front say in `X-Forwarded-For` or `Forwarded` (RFC 7239). Only what
//! trusted proxies appended is read: it stands at the right end, where no client can write.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::Facts;

/// The list that most proxies write: addresses, the nearest last.
pub const X_FORWARDED_FOR: &str = "x-forwarded-for";
/// The scheme by which the client reached the proxies.
pub const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
/// The list of RFC 7239.
pub const FORWARDED: &str = "forwarded";

/// What the trusted proxies say of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Believed {
    /// Its address.
    pub address: IpAddr,
    /// `http` or `https`, where they say by which it reached them.
    pub scheme: Option<&'static str>,
}

/// The client behind `trusted` proxies, each of which appended the address it was reached from. None: the connection's
/// own peer is the client, because nobody is trusted, or because what is there is not what that many proxies write.
///
/// Where both fields are there and name different addresses, a client wrote one of them; which, nobody can tell.
pub fn client(facts: &impl Facts, trusted: u8) -> Option<Believed> {
    let back = usize::from(trusted).checked_sub(1)?;
    let plain = plain(facts, back);
    let standard = standard(facts, back);
    let address = match (&plain, &standard) {
        (Said::Address(address), Said::Nothing) | (Said::Nothing, Said::Address(address)) => {
            *address
        }
        (Said::Address(one), Said::Address(other)) if one == other => *one,
        _ => return None,
    };
    Some(Believed {
        address,
        scheme: scheme(facts),
    })
}

/// What is kept of a list for the next hop: the elements that trusted proxies appended. Empty: there is no list.
pub fn kept<'f>(facts: &'f impl Facts, field: &'f str, trusted: u8) -> Vec<&'f str> {
    let mut all = elements(facts, field).unwrap_or_default();
    let cut = all.len().saturating_sub(usize::from(trusted));
    all.drain(..cut);
    all
}

/// What one field says of the client.
enum Said {
    /// It is not there.
    Nothing,
    Address(IpAddr),
    /// It is there, and holds no address at that place.
    Else,
}

impl From<Option<IpAddr>> for Said {
    fn from(address: Option<IpAddr>) -> Self {
        address.map_or(Self::Else, Self::Address)
    }
}

fn plain(facts: &impl Facts, back: usize) -> Said {
    if facts.header(X_FORWARDED_FOR).next().is_none() {
        return Said::Nothing;
    }
    let all = elements(facts, X_FORWARDED_FOR).unwrap_or_default();
    all.iter()
        .rev()
        .nth(back)
        .and_then(|text| node(text))
        .into()
}

fn standard(facts: &impl Facts, back: usize) -> Said {
    if facts.header(FORWARDED).next().is_none() {
        return Said::Nothing;
    }
    let all = elements(facts, FORWARDED).unwrap_or_default();
    let element = all.iter().rev().nth(back);
    element
        .and_then(|element| parameter(element, "for"))
        .and_then(node)
        .into()
}

/// The scheme, where it is said once.
fn scheme(facts: &impl Facts) -> Option<&'static str> {
    let mut said = facts.header(X_FORWARDED_PROTO);
    match (said.next()?, said.next()) {
        (b"https", None) => Some("https"),
        (b"http", None) => Some("http"),
        _ => None,
    }
}

/// The elements of a list over all its lines; none where one of them is no text, or where it is `Forwarded` and a quote
/// is not closed: then nobody can say what the elements are.
fn elements<'f>(facts: &'f impl Facts, field: &'f str) -> Option<Vec<&'f str>> {
    let mut all = Vec::new();
    for line in facts.header(field) {
        let line = std::str::from_utf8(line).ok()?;
        let parts = split(line, b',', field == FORWARDED)?;
        all.extend(parts.into_iter().filter(|part| !part.is_empty()));
    }
    Some(all)
}

/// Splits at a separator, where there are quoted strings (RFC 9110 section 5.6.4) outside of them, and trims.
fn split(text: &str, separator: u8, quotes: bool) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if quotes => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(text[start..at].trim_matches([' ', '\t']));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim_matches([' ', '\t']));
    (!quoted).then_some(parts)
}

/// The value of a parameter that stands exactly once in an element of `Forwarded` (RFC 7239 section 4).
fn parameter<'e>(element: &'e str, name: &str) -> Option<&'e str> {
    let pairs = split(element, b';', true)?;
    let mut values = pairs.into_iter().filter_map(|pair| {
        let (known, value) = pair.split_once('=')?;
        known.eq_ignore_ascii_case(name).then_some(value)
    });
    match (values.next()?, values.next()) {
        (value, None) => match value.strip_prefix('"') {
            // An address needs no escape: what has one is none.
            Some(quoted) => quoted.strip_suffix('"'),
            None => Some(value),
        },
        _ => None,
    }
}

/// The address of a node: with or without a port, IPv6 in brackets or, as many write it in `X-Forwarded-For`, bare.
fn node(text: &str) -> Option<IpAddr> {
    let bracketed = || -> Option<IpAddr> {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    };
    let with_port = || text.parse().ok().map(|socket: SocketAddr| socket.ip());
    let address = text.parse().ok().or_else(bracketed).or_else(with_port)?;
    // A policy by address must not see one client as two.
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::StaticFacts;

    fn request(lines: &[(&str, &str)]) -> StaticFacts {
        let get = StaticFacts::new("GET", "a.example", "/");
        lines
            .iter()
            .fold(get, |facts, (name, value)| facts.with(name, value))
    }

    fn of(trusted: u8, lines: &[(&str, &str)]) -> Option<String> {
        client(&request(lines), trusted).map(|client| client.address.to_string())
    }

    const XFF: &str = "X-Forwarded-For";

    #[test]
    fn the_client_is_as_many_places_from_the_right_as_proxies_are_trusted() {
        let list = [(XFF, "198.51.100.1, 192.0.2.7 ,, 203.0.113.9")];
        assert_eq!(of(0, &list), None);
        assert_eq!(of(1, &list).as_deref(), Some("203.0.113.9"));
        assert_eq!(of(2, &list).as_deref(), Some("192.0.2.7"));
        assert_eq!(of(3, &list).as_deref(), Some("198.51.100.1"));
        assert_eq!(of(4, &list), None, "fewer than that many proxies wrote it");
        let lines = [(XFF, "198.51.100.1"), (XFF, "192.0.2.7, 203.0.113.9")];
        assert_eq!(of(2, &lines).as_deref(), Some("192.0.2.7"));
    }

    #[test]
    fn what_a_client_writes_itself_is_left_of_that_and_not_read() {
        for forged in ["10.0.0.1", "10.0.0.1, 10.0.0.1", "\"", "x, , ;=", "unknown"] {
            let line = format!("{forged}, 192.0.2.7");
            let seen = of(1, &[(XFF, &line)]);
            assert_ne!(seen.as_deref(), Some("10.0.0.1"), "{forged}");
            let lines = [("Forwarded", forged), (XFF, "192.0.2.7")];
            assert_ne!(of(1, &lines).as_deref(), Some("10.0.0.1"), "{forged}");
        }
        let both = |forwarded: &str| of(1, &[(XFF, "192.0.2.7"), ("Forwarded", forwarded)]);
        assert_eq!(both("for=10.0.0.1"), None, "one of them was forged");
        assert_eq!(both("for=192.0.2.7").as_deref(), Some("192.0.2.7"));
        assert_eq!(
            both("for=192.0.2.8, For=\"192.0.2.7:80\"").as_deref(),
            Some("192.0.2.7")
        );
    }

    #[test]
    fn nodes_are_read_in_every_shape_they_are_written_in() {
        for (text, address) in [
            ("192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7:4711", Some("192.0.2.7")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:4711", Some("2001:db8::1")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("unknown", None),
            ("_hidden", None),
            ("[192.0.2.7]", None),
            ("192.0.2.7x", None),
            ("0192.0.2.7", None),
        ] {
            assert_eq!(of(1, &[(XFF, text)]).as_deref(), address, "{text}");
            let quoted = format!("by=_me; for=\"{text}\";host=\"a, b\"");
            assert_eq!(
                of(1, &[("Forwarded", &quoted)]).as_deref(),
                address,
                "{quoted}"
            );
        }
        for malformed in [
            "for=\"192.0.2.7",
            "for=192.0.2.7;for=192.0.2.7",
            "by=192.0.2.7",
            "for=\"\\192.0.2.7\"",
        ] {
            assert_eq!(of(1, &[("Forwarded", malformed)]), None, "{malformed}");
        }
    }

    #[test]
    fn the_scheme_is_believed_with_the_address_and_where_it_is_said_once() {
        let scheme = |trusted, lines: &[(&str, &str)]| {
            client(&request(lines), trusted).and_then(|client| client.scheme)
        };
        let (address, https) = ((XFF, "192.0.2.7"), ("X-Forwarded-Proto", "https"));
        assert_eq!(scheme(1, &[address, https]), Some("https"));
        assert_eq!(scheme(0, &[address, https]), None);
        assert_eq!(scheme(1, &[https]), None);
        assert_eq!(scheme(1, &[address, https, https]), None);
        assert_eq!(scheme(1, &[address, ("X-Forwarded-Proto", "gopher")]), None);
    }

    #[test]
    fn only_what_trusted_proxies_wrote_is_kept() {
        let facts = request(&[(XFF, "10.0.0.1, 192.0.2.7"), (XFF, "203.0.113.9")]);
        let kept = |trusted| kept(&facts, X_FORWARDED_FOR, trusted).join(", ");
        assert_eq!(kept(0), "");
        assert_eq!(kept(2), "192.0.2.7, 203.0.113.9");
        assert_eq!(kept(9), "10.0.0.1, 192.0.2.7, 203.0.113.9");
    }
}
