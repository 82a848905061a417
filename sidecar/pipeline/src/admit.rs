//! What a request must be before any policy sees it: well framed, addressed once, of bounded size. Every later decision
//! rests on it. Of HTTP/1.1 [`framing`](crate::framing) asks the same of the bytes themselves; an engine of HTTP/2 refuses
//! much of it too, and is not relied upon.

use sluice_snapshot::unit::route::RequestLimits;

use crate::{Facts, Reject, RejectReason, framing::line};

/// The longest method that is let through, in bytes; the IANA registry's longest has 17.
const MAX_METHOD: usize = 32;

/// The longest authority: a name of 255 bytes (RFC 1035 section 3.1), a colon and a port.
const MAX_AUTHORITY: usize = 255 + 6;

/// Before routing: RFC 9110 and 9112 on method, authority, framing and field lines.
pub fn admit(facts: &impl Facts) -> Result<(), Reject> {
    if facts.is_framed() {
        return Ok(());
    }
    let lines = Lines::of(facts);
    method(facts)
        .and_then(|()| authority(facts, &lines.host))
        .and_then(|()| lines.fault.map_or(Ok(()), Err))
        .and_then(|()| framing(&lines))
        .map_err(refuse)
}

/// What one look at all field lines finds: requests are many, and lines are more.
#[derive(Default)]
struct Lines<'f> {
    host: Said<'f>,
    length: Said<'f>,
    coding: Said<'f>,
    /// What is wrong with the first line that is.
    fault: Option<&'static str>,
}

/// A field that may be said once.
#[derive(Default)]
enum Said<'f> {
    #[default]
    Never,
    Once(&'f [u8]),
    Again,
}

impl<'f> Said<'f> {
    fn say(&mut self, value: &'f [u8]) {
        *self = match self {
            Self::Never => Self::Once(value),
            Self::Once(_) | Self::Again => Self::Again,
        };
    }
}

impl<'f> Lines<'f> {
    fn of(facts: &'f impl Facts) -> Self {
        let mut lines = Self::default();
        for (name, value) in facts.headers() {
            match name {
                "host" => lines.host.say(value),
                "content-length" => lines.length.say(value),
                "transfer-encoding" => lines.coding.say(value),
                _ => {}
            }
            if lines.fault.is_none() {
                lines.fault = field(name, value).err();
            }
        }
        lines
    }
}

/// After routing: the sizes that the route allows. `content_length` is what the head announces; a body without one is
/// counted by the caller. The caller names the route as decider: [`crate::route::Matched::within`] does.
pub fn within(
    limits: &RequestLimits,
    facts: &impl Facts,
    content_length: Option<u64>,
) -> Result<(), Reject> {
    let RequestLimits {
        max_body,
        max_headers,
        max_target,
    } = limits;
    let target = facts.path().len() + facts.query().map_or(0, |query| 1 + query.len());
    if target as u64 > u64::from(*max_target) {
        return Err(Reject::new(RejectReason::TargetTooLong)
            .detail(format!("{target} of {max_target} bytes")));
    }
    let headers: usize = facts
        .headers()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if headers as u64 > u64::from(*max_headers) {
        return Err(Reject::new(RejectReason::HeadersTooLarge)
            .detail(format!("{headers} of {max_headers} bytes")));
    }
    match content_length {
        Some(length) if length > *max_body => {
            Err(Reject::new(RejectReason::BodyTooLarge)
                .detail(format!("{length} of {max_body} bytes")))
        }
        _ => Ok(()),
    }
}

fn refuse(why: &'static str) -> Reject {
    Reject::new(RejectReason::BadRequest).detail(why)
}

/// RFC 9110 section 9.1.
fn method(facts: &impl Facts) -> Result<(), &'static str> {
    match facts.method() {
        method if !is_token(method) || method.len() > MAX_METHOD => {
            Err("the method is not a token")
        }
        "CONNECT" => Err("CONNECT is for proxies"),
        _ => Ok(()),
    }
}

/// RFC 9112 section 3.2 and RFC 9113 section 8.3.1: exactly one authority, and where it is named twice, the same.
fn authority(facts: &impl Facts, host: &Said<'_>) -> Result<(), &'static str> {
    let authority = facts.authority().ok_or("no Host")?;
    if !is_authority(authority) {
        return Err("the authority is malformed");
    }
    match host {
        Said::Again => Err("more than one Host"),
        // Of HTTP/1.1 it is the very same bytes.
        Said::Once(host) if std::ptr::eq(*host, authority.as_bytes()) => Ok(()),
        Said::Once(host) if !host.eq_ignore_ascii_case(authority.as_bytes()) => {
            Err("Host and authority differ")
        }
        Said::Once(_) | Said::Never => Ok(()),
    }
}

/// RFC 9110 section 5: a name is a token, a value holds no control byte but the tab.
fn field(name: &str, value: &[u8]) -> Result<(), &'static str> {
    if !is_token(name) {
        return Err("a field name is not a token");
    }
    if line::has_control(value) {
        return Err("a field value holds a control byte");
    }
    // HTTP/1.1 knows no such value; in HTTP/2 it is malformed (RFC 9113 section 8.2.1).
    if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value {
        return Err("a field value begins or ends with a space");
    }
    Ok(())
}

/// RFC 9112 section 6: where the body ends must be clear to everyone.
fn framing(lines: &Lines<'_>) -> Result<(), &'static str> {
    match lines.length {
        Said::Again => return Err("more than one Content-Length"),
        Said::Once(length) if content_length(length).is_none() => {
            return Err("Content-Length is not a number");
        }
        Said::Once(_) if !matches!(lines.coding, Said::Never) => {
            return Err("Content-Length and Transfer-Encoding");
        }
        Said::Once(_) | Said::Never => {}
    }
    match lines.coding {
        Said::Once(coding) if coding.eq_ignore_ascii_case(b"chunked") => Ok(()),
        Said::Never => Ok(()),
        Said::Once(_) | Said::Again => Err("a transfer coding other than chunked"),
    }
}

/// A Content-Length: digits only, no sign, no list (RFC 9110 section 8.6).
pub fn content_length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

/// A token of RFC 9110 section 5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && line::token_len(text.as_bytes()) == text.len()
}

/// Whether this is an authority of bounded size.
pub(crate) fn is_authority(text: &str) -> bool {
    text.len() <= MAX_AUTHORITY && split_authority(text).is_some()
}

/// Host and port of an authority; none where it is malformed. User information is no part of it (RFC 9110 section
/// 4.2.4). An IPv6 address keeps its brackets.
pub fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            let host = &authority[..address.len() + 2];
            (
                host,
                if after.is_empty() {
                    None
                } else {
                    Some(after.strip_prefix(':')?)
                },
            )
        }
        None => {
            let (host, rest) = authority.split_at(name_len(authority)?);
            let port = match rest.as_bytes() {
                [] => None,
                [b':', ..] => Some(&rest[1..]),
                _ => return None,
            };
            (host, port)
        }
    };
    match port {
        // `host:` is allowed and means the scheme's port (RFC 3986 section 3.2.3).
        None | Some("") => Some((host, None)),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((host, Some(port.parse().ok()?)))
        }
        Some(_) => None,
    }
}

/// How many bytes of a name or an IPv4 address this begins with: labels with dots between, perhaps with the dot of the root
/// at the end. None: a label is empty, or there is none.
fn name_len(text: &str) -> Option<usize> {
    let (mut length, mut before) = (0, b'.');
    for byte in text.bytes().take_while(|byte| line::is_of_name(*byte)) {
        if byte == b'.' && before == b'.' {
            return None;
        }
        (length, before) = (length + 1, byte);
    }
    (length > 0).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decider, facts::StaticFacts};

    fn get() -> StaticFacts {
        StaticFacts::new("GET", "orders.shop:8080", "/v1?x=1")
    }

    fn refused(facts: &StaticFacts) -> String {
        let reject = admit(facts).expect_err("refused");
        assert_eq!(reject.reason, RejectReason::BadRequest);
        assert_eq!(*reject.decider, Decider::default(), "the sidecar itself");
        reject.detail.expect("says why")
    }

    #[test]
    fn ordinary_requests_pass() {
        for facts in [
            get(),
            get().with("Host", "Orders.Shop:8080"),
            get()
                .with("Content-Length", "0")
                .with("X-Bytes", "a\tb \u{e9}"),
            StaticFacts::new("POST", "[::1]:80", "/").with("Transfer-Encoding", "Chunked"),
            StaticFacts::new("PROPFIND", "10.0.0.1", "/"),
            StaticFacts::new("GET", "orders.shop.", "/"),
        ] {
            assert_eq!(admit(&facts), Ok(()), "{facts:?}");
        }
    }

    #[test]
    fn a_method_is_a_token() {
        for method in ["", "GET /", "GE\tT", "GÉT", "CONNECT", &"A".repeat(33)] {
            refused(&StaticFacts::new(method, "orders", "/"));
        }
    }

    #[test]
    fn there_is_one_authority_and_it_is_one() {
        for authority in [
            "",
            ".",
            ".orders",
            "a..b",
            "a b",
            "user@orders",
            "orders:http",
            "orders:70000",
            "orders:80:80",
            "[::1",
            "[::1]80",
            "[x]",
            "orders/x",
            "*",
            "ordérs",
            &"a".repeat(262),
        ] {
            refused(&StaticFacts::new("GET", authority, "/"));
        }
        let mut none = get();
        none.authority = None;
        assert_eq!(refused(&none), "no Host");
        assert_eq!(
            refused(
                &get()
                    .with("Host", "orders.shop:8080")
                    .with("Host", "orders.shop:8080")
            ),
            "more than one Host"
        );
        assert_eq!(
            refused(&get().with("Host", "admin.shop:8080")),
            "Host and authority differ"
        );
    }

    #[test]
    fn the_end_of_the_body_is_clear() {
        for length in ["", "+1", "-1", "1,1", "0x1", "1 1", "18446744073709551616"] {
            assert_eq!(
                refused(&get().with("Content-Length", length)),
                "Content-Length is not a number",
                "{length}"
            );
        }
        assert_eq!(
            refused(
                &get()
                    .with("Content-Length", "1")
                    .with("Content-Length", "1")
            ),
            "more than one Content-Length"
        );
        assert_eq!(
            refused(
                &get()
                    .with("Content-Length", "1")
                    .with("Transfer-Encoding", "chunked")
            ),
            "Content-Length and Transfer-Encoding"
        );
        for coding in ["gzip, chunked", "chunked, chunked", "identity", "xchunked"] {
            refused(&get().with("Transfer-Encoding", coding));
        }
        refused(
            &get()
                .with("Transfer-Encoding", "chunked")
                .with("Transfer-Encoding", "chunked"),
        );
    }

    #[test]
    fn field_lines_hold_no_control_bytes() {
        for value in ["a\r\nX: b", "a\0", "a\n", "\u{7f}"] {
            assert_eq!(
                refused(&get().with("X-A", value)),
                "a field value holds a control byte",
                "{value:?}"
            );
        }
        for value in [" a", "a ", "a\t"] {
            assert_eq!(
                refused(&get().with("X-A", value)),
                "a field value begins or ends with a space",
                "{value:?}"
            );
        }
        assert_eq!(
            refused(&get().with("x a", "b")),
            "a field name is not a token"
        );
    }

    #[test]
    fn sizes_are_counted_to_the_byte() {
        let facts = get().with("X-A", "12345");
        let limits = RequestLimits {
            max_body: 10,
            max_headers: 8,
            max_target: 7,
        };
        assert_eq!(within(&limits, &facts, Some(10)), Ok(()));
        assert_eq!(within(&limits, &facts, None), Ok(()));
        let reason = |limits: RequestLimits, length| {
            within(&limits, &facts, length)
                .expect_err("too large")
                .reason
        };
        assert_eq!(
            reason(
                RequestLimits {
                    max_target: 6,
                    ..limits
                },
                None
            ),
            RejectReason::TargetTooLong
        );
        assert_eq!(
            reason(
                RequestLimits {
                    max_headers: 7,
                    ..limits
                },
                None
            ),
            RejectReason::HeadersTooLarge
        );
        assert_eq!(reason(limits, Some(11)), RejectReason::BodyTooLarge);
    }
}
