//! Header fields that belong to one connection and not to the message (RFC 9110 section 7.6.1), and those an
//! intermediary adds: `Via`, `traceparent`. Edits that a rule asks for are here too.

use std::str::FromStr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{CONNECTION, COOKIE, EXPECT, TE, TRANSFER_ENCODING, UPGRADE, VIA},
};
use sluice_snapshot::unit::route::HeaderEdits;

use super::{dice::Dice, hop::way::HOP, upgrade};

/// What delivery to the own application, and every answer, says in `Via` of a message that came by HTTP/1.1.
const VIA_HTTP1: HeaderValue = HeaderValue::from_static("1.1 sluice");
/// And of one that came by HTTP/2.
const VIA_HTTP2: HeaderValue = HeaderValue::from_static("2.0 sluice");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const TE_OPTION: HeaderValue = HeaderValue::from_static("te");

/// The fields that belong to a connection. `Expect` is of requests, and this hop has answered it.
const OF_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
    EXPECT,
    // Of one hop between sidecars: whoever else sends it says nothing.
    HOP,
];

/// What a client asked of this connection, which is now between this hop and the next one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// It takes trailers.
    pub trailers: bool,
    /// It would speak the WebSocket protocol instead (RFC 6455).
    pub websocket: bool,
}

/// Removes what belongs to the connection a message came over, including what `Connection` names. What every recipient
/// needs stays, whatever `Connection` says: else a client could take from a request what policy or framing rest on.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) -> Asked {
    // One look at each line; most messages have nothing to remove.
    let mut found = 0_u16;
    for name in headers.keys() {
        if let Some(place) = of_connection(name.as_str()) {
            found |= 1 << place;
        }
    }
    if found == 0 {
        return Asked::default();
    }
    let asked = Asked {
        trailers: has_token(headers, &TE, "trailers"),
        websocket: has_token(headers, &CONNECTION, "upgrade")
            && has_token(headers, &UPGRADE, upgrade::WEBSOCKET),
    };
    if found & 1 != 0 {
        for name in named(headers) {
            headers.remove(name);
        }
    }
    for (place, name) in OF_CONNECTION.iter().enumerate() {
        if found & (1 << place) != 0 {
            headers.remove(name);
        }
    }
    asked
}

/// The place in [`OF_CONNECTION`].
fn of_connection(name: &str) -> Option<u8> {
    Some(match name {
        "connection" => 0,
        "keep-alive" => 1,
        "proxy-connection" => 2,
        "te" => 3,
        "transfer-encoding" => 4,
        "upgrade" => 5,
        "http2-settings" => 6,
        "expect" => 7,
        sluice_pipeline::hop::HEADER => 8,
        _ => return None,
    })
}

/// The fields that `Connection` names and may name.
fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    tokens(headers, &CONNECTION)
        .filter_map(|token| HeaderName::from_str(token).ok())
        .filter(|name| !is_for_all(name.as_str()))
        .collect()
}

/// Fields that are for every recipient: a sender must not name them in `Connection` (RFC 9110 section 7.6.1).
fn is_for_all(name: &str) -> bool {
    const NAMES: [&str; 24] = [
        "accept",
        "age",
        "authorization",
        "cache-control",
        "cookie",
        "date",
        "etag",
        "expires",
        "forwarded",
        "host",
        "last-modified",
        "location",
        "origin",
        "pragma",
        "range",
        "set-cookie",
        "signature",
        "signature-input",
        "traceparent",
        "tracestate",
        "trailer",
        "vary",
        "via",
        "www-authenticate",
    ];
    let families = ["content-", "if-", "x-forwarded-", "sec-", "grpc-"];
    NAMES.contains(&name) || families.iter().any(|family| name.starts_with(family))
}

/// The elements of a list of tokens.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter();
    let values = values.filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether a list has a token, parameters and versions aside.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|known| {
        let known = known.split([';', '/']).next().unwrap_or_default();
        known.trim().eq_ignore_ascii_case(token)
    })
}

/// Says to the next hop that the client takes trailers. HTTP/1.1 has it named in `Connection` too (RFC 9110 section
/// 10.1.4).
pub fn take_trailers(headers: &mut HeaderMap, http1: bool) {
    headers.insert(TE, TRAILERS);
    if http1 {
        headers.insert(CONNECTION, TE_OPTION);
    }
}

/// What this hop says of a message in `Via`, by the version it came in (RFC 9110 section 7.6.3).
pub fn via(version: Version) -> HeaderValue {
    if version == Version::HTTP_2 {
        VIA_HTTP2
    } else {
        VIA_HTTP1
    }
}

/// Adds this hop to `Via`.
pub fn add_via(headers: &mut HeaderMap, via: HeaderValue) {
    headers.append(VIA, via);
}

/// The trace a request belongs to (W3C Trace Context level 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub u128);

/// Begins a trace, where `given` names none that goes on: see [`trace_given`].
pub fn trace(headers: &mut HeaderMap, given: Option<TraceId>, dice: &Dice) -> TraceId {
    if let Some(id) = given {
        return id;
    }
    let id = (u128::from(dice.roll()) << 64) | u128::from(dice.roll()).max(1);
    let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(&mut parent[3..35], id);
    write_hex(&mut parent[36..52], dice.roll().max(1).into());
    if let Ok(value) = HeaderValue::from_bytes(&parent) {
        headers.insert(TRACEPARENT, value);
    }
    // A state without its parent means nothing (section 3.3).
    headers.remove(TRACESTATE);
    TraceId(id)
}

/// The lowest digits of a number, as many as there is room for: an even count.
fn write_hex(room: &mut [u8], number: u128) {
    let digit = |byte: u8| b"0123456789abcdef"[usize::from(byte & 15)];
    for (two, byte) in room.rchunks_exact_mut(2).zip(number.to_le_bytes()) {
        two.copy_from_slice(&[digit(byte >> 4), digit(byte)]);
    }
}

/// The trace that a request says it belongs to, if what it says is valid.
pub fn trace_given(headers: &HeaderMap) -> Option<TraceId> {
    trace_id(headers.get(&TRACEPARENT)?.as_bytes())
}

/// The trace id of `version-traceid-parentid-flags`; later versions may be longer.
fn trace_id(value: &[u8]) -> Option<TraceId> {
    let text = std::str::from_utf8(value).ok()?;
    let mut parts = text.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, digits: usize| {
        text.len() == digits
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let shape =
        hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && version != "ff";
    let ends = version != "00" || parts.next().is_none();
    let id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
    (shape && ends && parent.bytes().any(|byte| byte != b'0')).then_some(TraceId(id))
}

/// Makes one line of the cookies that HTTP/2 sends in several (RFC 9113 section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let mut all = Vec::new();
    for value in headers.get_all(COOKIE) {
        if !all.is_empty() {
            all.extend_from_slice(b"; ");
        }
        all.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(COOKIE, value);
    }
}

/// Applies a rule's edits: remove, set, add. Names and values were checked when the unit was compiled; what is no header
/// after all is skipped.
pub fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) {
    let HeaderEdits { remove, set, add } = edits;
    for name in remove {
        headers.remove(name.as_str());
    }
    for (name, value) in set {
        if let Some((name, value)) = field(name, value) {
            headers.insert(name, value);
        }
    }
    for (name, value) in add {
        if let Some((name, value)) = field(name, value) {
            headers.append(name, value);
        }
    }
}

fn field(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((
        HeaderName::from_str(name).ok()?,
        HeaderValue::from_str(value).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn what_belongs_to_the_connection_is_removed_also_where_connection_names_it() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "x-other, upgrade, te"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "deflate;q=0.5, trailers"),
            ("expect", "100-continue"),
            ("upgrade", "h2c, WebSocket"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("transfer-encoding", "chunked"),
            ("x-kept", "1"),
        ]);
        let asked = remove_hop_by_hop(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-kept"]);
        assert!(asked.trailers && asked.websocket);
        for lines in [
            [("connection", "upgrade"), ("upgrade", "h2c")],
            [("connection", "close"), ("upgrade", "websocket")],
        ] {
            assert_eq!(remove_hop_by_hop(&mut map(&lines)), Asked::default());
        }
    }

    #[test]
    fn connection_takes_nothing_that_is_for_every_recipient() {
        let names = [
            "host",
            "content-length",
            "authorization",
            "x-forwarded-for",
            "forwarded",
            "cookie",
            "signature-input",
            "via",
            "sec-websocket-key",
            "if-match",
        ];
        let mut headers = HeaderMap::new();
        for name in names {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        let all = HeaderValue::try_from(names.join(",")).expect("names");
        headers.insert(CONNECTION, all);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), names.len(), "{headers:?}");
    }

    #[test]
    fn every_field_of_a_connection_has_its_place() {
        for (place, name) in OF_CONNECTION.iter().enumerate() {
            assert_eq!(of_connection(name.as_str()).map(usize::from), Some(place));
        }
    }

    #[test]
    fn a_valid_trace_goes_on_and_any_other_begins_anew() {
        let dice = Dice::seeded(1);
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut headers = map(&[("traceparent", parent), ("tracestate", "a=b")]);
        let given = trace_given(&headers);
        assert_eq!(
            trace(&mut headers, given, &dice),
            TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736)
        );
        assert_eq!(headers[&TRACEPARENT], parent);
        assert!(headers.contains_key("tracestate"));
        for bad in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            let mut headers = map(&[("traceparent", bad), ("tracestate", "a=b")]);
            let given = trace_given(&headers);
            let id = trace(&mut headers, given, &dice);
            assert_eq!(
                trace_id(headers[&TRACEPARENT].as_bytes()),
                Some(id),
                "{bad}"
            );
            assert_ne!(headers[&TRACEPARENT], bad);
            assert!(!headers.contains_key("tracestate"));
        }
    }

    #[test]
    fn cookies_become_one_line() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut headers);
        assert_eq!(
            headers.get_all(COOKIE).iter().collect::<Vec<_>>(),
            ["a=1; b=2"]
        );
    }

    #[test]
    fn edits_remove_then_set_then_add() {
        let mut headers = map(&[("x-a", "1"), ("x-b", "1")]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        edit(
            &mut headers,
            &HeaderEdits {
                remove: vec!["x-a".into()],
                set: vec![pair("x-b", "2"), pair("x-c", "1")],
                add: vec![pair("x-c", "2")],
            },
        );
        assert!(!headers.contains_key("x-a"));
        assert_eq!(headers["x-b"], "2");
        assert_eq!(
            headers.get_all("x-c").iter().collect::<Vec<_>>(),
            ["1", "2"]
        );
    }
}
