//! RFC 9110: what requests mean, whatever carries them.

use super::case::{Case, chunked, forwarded, get, post, refused};

pub fn cases() -> Vec<Case> {
    [values(), trailers(), hops(), methods(), paths()].concat()
}

/// Section 5.5: field values.
fn values() -> Vec<Case> {
    let mut cases = vec![
        forwarded(
            "9110 5.5",
            "a tab within a value",
            get("X-A: b\tc\r\n"),
            &["GET /N"],
        )
        .shows("x-a: b\tc"),
        forwarded(
            "9110 5.5",
            "bytes above ASCII in a value",
            b"GET /N HTTP/1.1\r\nHost: a.example\r\nX-A: \xe9\r\n\r\n",
            &["GET /N"],
        )
        .shows("x-a: \u{e9}"),
        forwarded(
            "9110 5.3",
            "a field twice stays twice, in order",
            get("X-A: 1\r\nX-A: 2\r\n"),
            &["GET /N"],
        )
        .shows("x-a: 1")
        .shows("x-a: 2"),
        forwarded(
            "9110 5.1",
            "a name that nobody knows",
            get("X-!#$%&'*+.^_`|~: b\r\n"),
            &["GET /N"],
        )
        .shows("x-!#$%&'*+.^_`|~: b"),
        forwarded(
            "9110 10.1.1",
            "Expect is answered here",
            post("Content-Length: 3\r\nExpect: 100-continue\r\n", "abc"),
            &["POST /N abc"],
        )
        .hides("expect"),
    ];
    for (what, byte) in [
        ("a NUL in a value", '\0'),
        ("a SOH in a value", '\x01'),
        ("a BEL in a value", '\x07'),
        ("a backspace in a value", '\x08'),
        ("a vertical tab in a value", '\x0b'),
        ("a form feed in a value", '\x0c'),
        ("an escape in a value", '\x1b'),
        ("a unit separator in a value", '\x1f'),
        ("a DEL in a value", '\x7f'),
    ] {
        cases.push(refused(
            "9110 5.5",
            what,
            get(&format!("X-A: b{byte}c\r\n")),
        ));
    }
    cases
}

/// Section 6.5.1: what must not come after the content.
fn trailers() -> Vec<Case> {
    [
        ("Host", "Host: b.example"),
        ("Authorization", "Authorization: Bearer x"),
        ("Cookie", "Cookie: a=b"),
        ("Content-Encoding", "Content-Encoding: gzip"),
        ("Content-Type", "Content-Type: text/html"),
        ("Content-Range", "Content-Range: bytes 0-1/2"),
        ("Connection", "Connection: close"),
        ("Trailer", "Trailer: x"),
        ("X-Forwarded-For", "X-Forwarded-For: 10.0.0.1"),
        ("Forwarded", "Forwarded: for=10.0.0.1"),
    ]
    .map(|(_, line)| {
        let body = format!("3\r\nabc\r\n0\r\n{line}\r\n\r\n");
        refused("9110 6.5.1", line, chunked(&body))
    })
    .into()
}

/// Section 7.6: what belongs to one connection.
fn hops() -> Vec<Case> {
    vec![
        forwarded("9110 7.6.1", "what Connection names goes", get("Connection: X-A, x-b\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n"), &["GET /N"]).hides("x-a").hides("x-b").shows("x-c: 3").hides("connection"),
        forwarded("9110 7.6.1", "Connection in two lines", get("Connection: X-A\r\nX-A: 1\r\nConnection: X-B\r\nX-B: 2\r\n"), &["GET /N"]).hides("x-a").hides("x-b"),
        forwarded("9110 7.6.1", "Keep-Alive goes", get("Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n"), &["GET /N"]).hides("keep-alive"),
        forwarded("9110 7.6.1", "Keep-Alive goes where nobody names it", get("Keep-Alive: timeout=5\r\n"), &["GET /N"]).hides("keep-alive"),
        forwarded("9110 7.6.1", "Proxy-Connection goes", get("Proxy-Connection: keep-alive\r\n"), &["GET /N"]).hides("proxy-connection"),
        forwarded("9110 10.1.4", "TE goes, but for trailers", get("Connection: TE\r\nTE: gzip\r\n"), &["GET /N"]).hides("te"),
        forwarded("9110 7.8", "an upgrade to h2c is not passed on", get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"), &["GET /N"]).hides("upgrade").hides("http2-settings").hides("connection"),
        forwarded("9110 7.8", "nor one among others", get("Connection: Upgrade\r\nUpgrade: foo, h2c\r\n"), &["GET /N"]).hides("upgrade"),
        forwarded("9110 7.8", "nor HTTP2-Settings that Connection does not name", get("HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"), &["GET /N"]).hides("http2-settings"),
        forwarded("9110 7.8", "a request behind an upgrade that was not granted", get("Connection: Upgrade\r\nUpgrade: h2c\r\n") + &get("").replace("/N", "/N/next"), &["GET /N", "GET /N/next"]),
        forwarded("9110 7.6.3", "Via says who passed it on", get("Via: 1.0 x\r\n"), &["GET /N"]).shows("via: 1.0 x"),
    ]
}

/// Section 9.
fn methods() -> Vec<Case> {
    let method = |name: &str| get("").replace("GET", name);
    vec![
        forwarded("9110 9.3.2", "HEAD", method("HEAD"), &["HEAD /N"]),
        forwarded(
            "9110 9.3.4",
            "PUT",
            post("Content-Length: 3\r\n", "abc").replace("POST", "PUT"),
            &["PUT /N abc"],
        ),
        forwarded("9110 9.3.5", "DELETE", method("DELETE"), &["DELETE /N"]),
        forwarded(
            "9110 9.3.7",
            "OPTIONS of a path",
            method("OPTIONS"),
            &["OPTIONS /N"],
        ),
        forwarded("9110 9.3.8", "TRACE", method("TRACE"), &["TRACE /N"]),
        forwarded(
            "5789 2",
            "PATCH",
            post("Content-Length: 3\r\n", "abc").replace("POST", "PATCH"),
            &["PATCH /N abc"],
        ),
    ]
}

/// Section 4.2.3: the target is normalised once, and what was matched is what is sent (RFC 3986 section 6.2.2).
fn paths() -> Vec<Case> {
    let path = |path: &str| get("").replace("/N", path);
    vec![
        forwarded("9110 4.2.3", "dot segments", path("/x/../N"), &["GET /N"]),
        forwarded(
            "9110 4.2.3",
            "escaped dot segments",
            path("/x/%2e%2E/N"),
            &["GET /N"],
        ),
        forwarded("9110 4.2.3", "empty segments", path("//N"), &["GET /N"]),
        forwarded(
            "9110 4.2.3",
            "escapes of what needs none",
            path("/N/%61"),
            &["GET /N/a"],
        ),
        forwarded(
            "9110 4.2.3",
            "escapes in lower case",
            path("/N/%c3%a9"),
            &["GET /N/%C3%A9"],
        ),
        forwarded(
            "9110 4.2.3",
            "an escaped percent stays one",
            path("/N/%252e"),
            &["GET /N/%252e"],
        ),
        forwarded(
            "9110 4.2.3",
            "a query is not touched",
            path("/N?a=../%2e"),
            &["GET /N?a=../%2e"],
        ),
        answered_400("an escaped NUL", path("/N/%00")),
        answered_400("an escaped CR LF", path("/N/%0d%0aX")),
        answered_400("a broken escape", path("/N/%zz")),
        answered_400("a backslash", path("/N\\x")),
        answered_400("an escaped backslash", path("/N%5cx")),
        answered_400("dots behind an escaped slash", path("/N/..%2fx")),
    ]
}

fn answered_400(what: &'static str, sent: String) -> Case {
    super::case::answered("9110 4.2.3", what, sent, 400)
}
