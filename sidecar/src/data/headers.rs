//! Header fields that belong to one connection and not to the message (RFC 9110 section 7.6.1), and those an
//! intermediary adds: `Via`, `X-Forwarded-For`, `traceparent`. Edits that a rule asks for are here too.

use std::{fmt::Write, net::IpAddr, str::FromStr};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, COOKIE, EXPECT, TE, TRANSFER_ENCODING, UPGRADE, VIA},
};
use sluice_snapshot::unit::route::HeaderEdits;

use super::dice::Dice;

/// What delivery to the own application says in `Via`.
pub const VIA_APP: HeaderValue = HeaderValue::from_static("1.1 sluice");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Removes what belongs to the connection a message came over, including what `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|token| HeaderName::from_str(token.trim()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &TE,
        &TRANSFER_ENCODING,
        &UPGRADE,
        &HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
}

/// The same for a request. `Expect` goes too: this hop has answered it. `TE: trailers` is kept where it was sent.
pub fn remove_hop_by_hop_of_request(headers: &mut HeaderMap) {
    let trailers = headers
        .get(TE)
        .is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove_hop_by_hop(headers);
    headers.remove(EXPECT);
    if trailers {
        headers.insert(TE, TRAILERS);
    }
}

/// Adds what the next hop should know of this one.
pub fn add_hop(headers: &mut HeaderMap, via: HeaderValue, peer: IpAddr) {
    headers.append(VIA, via);
    let address = match headers.get(&X_FORWARDED_FOR) {
        None => HeaderValue::from_str(&peer.to_string()),
        Some(_) => {
            // One line, as most applications read only one; what is no text was no address.
            let mut all = String::new();
            for value in headers
                .get_all(&X_FORWARDED_FOR)
                .iter()
                .filter_map(|value| value.to_str().ok())
            {
                all.push_str(value);
                all.push_str(", ");
            }
            // Writing to a String cannot fail.
            let _ = write!(all, "{peer}");
            HeaderValue::from_str(&all)
        }
    };
    if let Ok(address) = address {
        headers.insert(X_FORWARDED_FOR, address);
    }
}

/// The trace a request belongs to (W3C Trace Context level 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub u128);

/// Passes the trace context on, or begins a trace where there is none that is valid.
pub fn trace(headers: &mut HeaderMap, dice: &Dice) -> TraceId {
    if let Some(id) = trace_given(headers) {
        return id;
    }
    let id = (u128::from(dice.roll()) << 64) | u128::from(dice.roll()).max(1);
    let parent = format!("00-{id:032x}-{:016x}-00", dice.roll().max(1));
    if let Ok(value) = HeaderValue::try_from(parent) {
        headers.insert(TRACEPARENT, value);
    }
    // A state without its parent means nothing (section 3.3).
    headers.remove("tracestate");
    TraceId(id)
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
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("x-kept", "1"),
        ]);
        remove_hop_by_hop_of_request(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-kept"]);
    }

    #[test]
    fn the_clients_address_is_appended() {
        let mut headers = map(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2"),
        ]);
        add_hop(&mut headers, VIA_APP, IpAddr::from([192, 0, 2, 3]));
        assert_eq!(headers[&X_FORWARDED_FOR], "192.0.2.1, 192.0.2.2, 192.0.2.3");
        assert_eq!(headers[VIA], "1.1 sluice");
    }

    #[test]
    fn a_valid_trace_goes_on_and_any_other_begins_anew() {
        let dice = Dice::seeded(1);
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut headers = map(&[("traceparent", given), ("tracestate", "a=b")]);
        assert_eq!(
            trace(&mut headers, &dice),
            TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736)
        );
        assert_eq!(headers[&TRACEPARENT], given);
        assert!(headers.contains_key("tracestate"));
        for bad in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            let mut headers = map(&[("traceparent", bad), ("tracestate", "a=b")]);
            let id = trace(&mut headers, &dice);
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
