//! RFC 9112: the messages of HTTP/1.1 that a client sends.

use super::case::{Case, answered, chunked, forwarded, get, post, refused, refused_after};

pub fn cases() -> Vec<Case> {
    [
        message(),
        request_line(),
        target(),
        fields(),
        body(),
        chunks(),
        connection(),
    ]
    .concat()
}

/// Section 2: lines, and what stands around messages.
fn message() -> Vec<Case> {
    vec![
        forwarded("9112 2.1", "a request", get(""), &["GET /N"]),
        forwarded(
            "9112 2.2",
            "one empty line before a request is ignored",
            format!("\r\n{}", get("")),
            &["GET /N"],
        ),
        refused(
            "9112 2.2",
            "two empty lines before a request",
            format!("\r\n\r\n{}", get("")),
        ),
        refused(
            "9112 2.2",
            "a bare LF before a request",
            format!("\n{}", get("")),
        ),
        refused(
            "9112 2.2",
            "a space before a request",
            format!(" {}", get("")),
        ),
        refused(
            "9112 2.2",
            "a NUL before a request",
            format!("\0{}", get("")),
        ),
        refused(
            "9112 2.2",
            "a byte order mark before a request",
            format!("\u{feff}{}", get("")),
        ),
        refused(
            "9112 2.2",
            "every line ends in LF",
            get("").replace("\r\n", "\n"),
        ),
        refused(
            "9112 2.2",
            "the request line ends in LF",
            get("").replacen("\r\n", "\n", 1),
        ),
        refused(
            "9112 2.2",
            "a field line ends in LF",
            get("X-A: b\nX-B: c\r\n"),
        ),
        refused(
            "9112 2.2",
            "the head ends in CR LF LF",
            "GET /N HTTP/1.1\r\nHost: a.example\r\n\n",
        ),
        refused(
            "9112 2.2",
            "the head ends in LF CR LF",
            "GET /N HTTP/1.1\r\nHost: a.example\n\r\n",
        ),
        refused(
            "9112 2.2",
            "a bare CR in a value",
            get("X-A: b\rX-B: c\r\n"),
        ),
        refused(
            "9112 2.2",
            "a bare CR ends the request line",
            get("").replacen("\r\n", "\r", 1),
        ),
        refused("9112 2.2", "CR CR LF", get("X-A: b\r\r\n")),
        refused(
            "9112 2.2",
            "a bare CR in the request line",
            get("").replace("/N", "/N\r"),
        ),
        refused(
            "9112 2.2",
            "white space between the request line and the first field",
            "GET /N HTTP/1.1\r\n Host: a.example\r\n\r\n",
        ),
        refused(
            "9112 2.2",
            "a tab between the request line and the first field",
            "GET /N HTTP/1.1\r\n\tX: y\r\nHost: a.example\r\n\r\n",
        ),
        refused(
            "9112 2.2",
            "the greeting of another protocol",
            "EHLO a.example\r\n",
        ),
        refused(
            "9112 2.2",
            "a TLS hello on a port without TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        ),
        forwarded(
            "9112 2.3",
            "HTTP/1.0 with a Host",
            "GET /N HTTP/1.0\r\nHost: a.example\r\n\r\n",
            &["GET /N"],
        )
        .closes(),
        refused("9112 2.3", "HTTP/1.2", get("").replace("1.1", "1.2")),
        refused(
            "9112 2.3",
            "HTTP/2.0 in the form of HTTP/1",
            get("").replace("1.1", "2.0"),
        ),
        refused("9112 2.3", "HTTP/0.9", "GET /N\r\n\r\n"),
        refused(
            "9112 2.3",
            "the version in lower case",
            get("").replace("HTTP/1.1", "http/1.1"),
        ),
        refused(
            "9112 2.3",
            "a version of two digits",
            get("").replace("1.1", "1.10"),
        ),
        refused(
            "9112 2.3",
            "a version without a minor",
            get("").replace("1.1", "1"),
        ),
        refused(
            "9112 2.3",
            "another protocol's version",
            get("").replace("HTTP/1.1", "RTSP/1.0"),
        ),
        refused(
            "9112 2.3",
            "a preface of HTTP/2 that breaks off",
            "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        ),
    ]
}

/// Section 3.
fn request_line() -> Vec<Case> {
    vec![
        refused(
            "9112 3",
            "two spaces after the method",
            get("").replace("GET ", "GET  "),
        ),
        refused(
            "9112 3",
            "two spaces before the version",
            get("").replace(" HTTP", "  HTTP"),
        ),
        refused(
            "9112 3",
            "a tab after the method",
            get("").replace("GET ", "GET\t"),
        ),
        refused(
            "9112 3",
            "a tab before the version",
            get("").replace(" HTTP", "\tHTTP"),
        ),
        refused(
            "9112 3",
            "a space after the version",
            get("").replace("HTTP/1.1", "HTTP/1.1 "),
        ),
        refused(
            "9112 3",
            "a word after the version",
            get("").replace("HTTP/1.1", "HTTP/1.1 x"),
        ),
        refused("9112 3", "no target", get("").replace("/N ", "")),
        refused(
            "9112 3",
            "a vertical tab after the method",
            get("").replace("GET ", "GET\u{b}"),
        ),
        refused(
            "9112 3",
            "a form feed in the target",
            get("").replace("/N", "/N\u{c}"),
        ),
        refused(
            "9112 3",
            "a request line of 40,000 bytes",
            get("").replace("/N", &format!("/N{}", "a".repeat(40_000))),
        )
        .status(414),
        refused(
            "9112 3.1",
            "a method that is no token",
            get("").replace("GET", "G{T"),
        ),
        refused("9112 3.1", "an empty method", get("").replace("GET", "")),
        refused(
            "9112 3.1",
            "a colon in the method",
            get("").replace("GET", "GET:"),
        ),
        refused(
            "9112 3.1",
            "a method of 40 bytes",
            get("").replace("GET", &"G".repeat(40)),
        ),
        refused(
            "9112 3.1",
            "a method that is not ASCII",
            get("").replace("GET", "G\u{c9}T"),
        ),
        forwarded(
            "9112 3.1",
            "a method that nobody knows",
            get("").replace("GET", "BREW"),
            &["BREW /N"],
        ),
        forwarded(
            "9112 3.1",
            "methods have case",
            get("").replace("GET", "get"),
            &["get /N"],
        ),
    ]
}

/// Section 3.2: targets and Host.
fn target() -> Vec<Case> {
    let host = |host: &str| get("").replace("a.example", host);
    let absolute = |authority: &str| get("").replace("/N", &format!("http://{authority}/N"));
    vec![
        forwarded(
            "9112 3.2.1",
            "origin form with a query",
            get("").replace("/N", "/N?a=b&c=%2F"),
            &["GET /N?a=b&c=%2F"],
        ),
        forwarded(
            "9112 3.2.1",
            "an empty query",
            get("").replace("/N", "/N?"),
            &["GET /N?"],
        ),
        refused(
            "9112 3.2.1",
            "a path that does not begin with a slash",
            get("").replace("/N", "N/N"),
        ),
        forwarded(
            "9112 3.2.2",
            "absolute form that agrees with Host",
            absolute("a.example"),
            &["GET /N"],
        )
        .shows("host: a.example"),
        forwarded(
            "9112 3.2.2",
            "absolute form in another case",
            absolute("A.Example"),
            &["GET /N"],
        ),
        refused(
            "9112 3.2.2",
            "absolute form that disagrees with Host",
            absolute("b.example"),
        ),
        refused(
            "9112 3.2.2",
            "absolute form with another port than Host",
            absolute("a.example:81"),
        ),
        refused(
            "9112 3.2.2",
            "absolute form without Host",
            "GET http://a.example/N HTTP/1.1\r\n\r\n",
        ),
        refused(
            "9112 3.2.2",
            "absolute form with user information",
            absolute("u:p@a.example"),
        ),
        refused(
            "9112 3.2.2",
            "absolute form without an authority",
            absolute(""),
        ),
        refused(
            "9112 3.2.2",
            "absolute form of another scheme",
            absolute("a.example").replace("http:", "ftp:"),
        ),
        refused(
            "9112 3.2.2",
            "absolute form with a fragment",
            absolute("a.example").replace("/N", "/N#x"),
        ),
        refused(
            "9112 3.2.3",
            "CONNECT",
            "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
        ),
        refused(
            "9112 3.2.3",
            "CONNECT to a path",
            get("").replace("GET", "CONNECT"),
        ),
        refused(
            "9112 3.2.3",
            "authority form with GET",
            get("").replace("/N", "a.example:80"),
        ),
        answered(
            "9112 3.2.4",
            "asterisk form with OPTIONS is nobody's path here",
            "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
            404,
        ),
        refused(
            "9112 3.2.4",
            "asterisk form with GET",
            get("").replace("/N", "*"),
        ),
        refused(
            "9112 3.2.4",
            "asterisk form with more",
            get("").replace("GET /N", "OPTIONS *x"),
        ),
        refused("9112 3.2", "no Host", "GET /N HTTP/1.1\r\n\r\n"),
        refused(
            "9112 3.2",
            "no Host in HTTP/1.0: nothing says whose it is",
            "GET /N HTTP/1.0\r\n\r\n",
        ),
        refused("9112 3.2", "two Hosts", get("Host: b.example\r\n")),
        refused(
            "9112 3.2",
            "the same Host twice",
            get("Host: a.example\r\n"),
        ),
        refused(
            "9112 3.2",
            "two Hosts, written apart",
            get("X-A: b\r\nhOST: b.example\r\n"),
        ),
        refused("9112 3.2", "an empty Host", host("")),
        refused("9112 3.2", "a list of Hosts", host("a.example, b.example")),
        refused("9112 3.2", "a Host with a path", host("a.example/x")),
        refused(
            "9112 3.2",
            "a Host with user information",
            host("u@a.example"),
        ),
        refused("9112 3.2", "a Host with a space", host("a.example b")),
        refused(
            "9112 3.2",
            "a Host with a port that is none",
            host("a.example:http"),
        ),
        refused(
            "9112 3.2",
            "a Host with a port too high",
            host("a.example:65536"),
        ),
        refused("9112 3.2", "a Host with two ports", host("a.example:80:80")),
        refused("9112 3.2", "a Host in broken brackets", host("[::1")),
        refused(
            "9112 3.2",
            "a Host that is not ASCII",
            host("\u{e4}.example"),
        ),
        forwarded(
            "9112 3.2",
            "a Host with a port",
            host("a.example:8080"),
            &["GET /N"],
        ),
        answered(
            "9112 3.2",
            "a Host that nobody serves",
            host("c.example"),
            404,
        ),
        refused(
            "9112 3.2",
            "a fragment in the target",
            get("").replace("/N", "/N#x"),
        ),
        refused(
            "9112 3.2",
            "bytes above ASCII in the target",
            get("").replace("/N", "/N\u{e9}"),
        ),
        refused(
            "9112 3.2",
            "a quotation mark in the query",
            get("").replace("/N", "/N?a=\"b\""),
        ),
        refused(
            "9112 3.2",
            "angle brackets in the target",
            get("").replace("/N", "/N<x>"),
        ),
        refused(
            "9112 3.2",
            "a NUL in the target",
            get("").replace("/N", "/N\0"),
        ),
        refused(
            "9112 3.2",
            "a DEL in the target",
            get("").replace("/N", "/N\x7f"),
        ),
        refused(
            "9112 3.2",
            "a space in the target",
            get("").replace("/N", "/N x"),
        ),
    ]
}

/// Section 5.
fn fields() -> Vec<Case> {
    vec![
        forwarded(
            "9112 5",
            "no space after the colon",
            get("X-A:b\r\n"),
            &["GET /N"],
        )
        .shows("x-a: b"),
        forwarded(
            "9112 5",
            "spaces and tabs around a value",
            get("X-A: \t b c \t\r\n"),
            &["GET /N"],
        )
        .shows("x-a: b c"),
        forwarded("9112 5", "an empty value", get("X-A:\r\n"), &["GET /N"]).shows("x-a: "),
        refused("9112 5", "no colon", get("X-A\r\n")),
        refused("9112 5", "an empty name", get(": b\r\n")),
        refused("9112 5", "a name in quotes", get("\"X-A\": b\r\n")),
        refused("9112 5", "a name with a slash", get("X/A: b\r\n")),
        refused("9112 5", "a name that is not ASCII", get("X-\u{e9}: b\r\n")),
        refused("9112 5", "a name with a NUL", get("X-A\0: b\r\n")),
        refused("9112 5.1", "a space before the colon", get("X-A : b\r\n")),
        refused("9112 5.1", "a tab before the colon", get("X-A\t: b\r\n")),
        refused(
            "9112 5.1",
            "a space before the colon of Content-Length",
            post("Content-Length : 3\r\n", "abc"),
        ),
        refused(
            "9112 5.1",
            "a space before the colon of Transfer-Encoding",
            post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ),
        refused("9112 5.1", "a space in a name", get("X A: b\r\n")),
        refused("9112 5.2", "obs-fold", get("X-A: b\r\n c\r\n")),
        refused("9112 5.2", "obs-fold with a tab", get("X-A: b\r\n\tc\r\n")),
        refused(
            "9112 5.2",
            "obs-fold that hides a coding",
            post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        ),
        refused(
            "9112 5.2",
            "obs-fold that hides a length",
            post("X-A: b\r\n Content-Length: 3\r\n", "abc"),
        ),
        refused("9112 5.2", "an empty fold", get("X-A: b\r\n \r\n")),
        refused("9112 5", "101 field lines", get(&"X-A: b\r\n".repeat(100))).status(431),
        refused(
            "9112 5",
            "a field line of 40,000 bytes",
            get(&format!("X-A: {}\r\n", "a".repeat(40_000))),
        )
        .status(431),
        refused(
            "9112 5",
            "a head of 80,000 bytes",
            get(&format!("X-A: {}\r\n", "a".repeat(10_000)).repeat(8)),
        )
        .status(431),
    ]
}

/// Section 6.
fn body() -> Vec<Case> {
    let smuggled = "GET /N/smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let inner = "GET /inner HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let length = |lines: &str| post(lines, "abc");
    vec![
        forwarded(
            "9112 6.2",
            "a body of a length",
            length("Content-Length: 3\r\n"),
            &["POST /N abc"],
        ),
        forwarded(
            "9112 6.2",
            "a length with a leading zero",
            length("Content-Length: 03\r\n"),
            &["POST /N abc"],
        ),
        forwarded(
            "9112 6.3",
            "a length of zero",
            post("Content-Length: 0\r\n", ""),
            &["POST /N"],
        ),
        forwarded(
            "9112 6.3",
            "a POST without a length has no body",
            post("", ""),
            &["POST /N"],
        ),
        forwarded(
            "9112 6.3",
            "a GET with a body",
            get("Content-Length: 3\r\n") + "abc",
            &["GET /N abc"],
        ),
        forwarded(
            "9112 6.3",
            "a body that looks like a request is a body",
            post(&format!("Content-Length: {}\r\n", inner.len()), inner),
            &[&format!("POST /N {inner}")],
        ),
        refused(
            "9112 6.3",
            "two lengths that differ",
            length("Content-Length: 3\r\nContent-Length: 4\r\n"),
        ),
        refused(
            "9112 6.3",
            "two lengths that agree",
            length("Content-Length: 3\r\nContent-Length: 3\r\n"),
        ),
        refused(
            "9112 6.3",
            "a list of lengths",
            length("Content-Length: 3, 3\r\n"),
        ),
        refused(
            "9112 6.3",
            "a list of lengths that differ",
            length("Content-Length: 3, 4\r\n"),
        ),
        refused(
            "9112 6.3",
            "a length with a sign",
            length("Content-Length: +3\r\n"),
        ),
        refused(
            "9112 6.3",
            "a negative length",
            length("Content-Length: -3\r\n"),
        ),
        refused(
            "9112 6.3",
            "a hexadecimal length",
            length("Content-Length: 0x3\r\n"),
        ),
        refused(
            "9112 6.3",
            "a length with a fraction",
            length("Content-Length: 3.0\r\n"),
        ),
        refused("9112 6.3", "an empty length", length("Content-Length:\r\n")),
        refused(
            "9112 6.3",
            "a length in words",
            length("Content-Length: three\r\n"),
        ),
        refused(
            "9112 6.3",
            "a length of two words",
            length("Content-Length: 3 3\r\n"),
        ),
        refused(
            "9112 6.3",
            "a length in quotes",
            length("Content-Length: \"3\"\r\n"),
        ),
        refused(
            "9112 6.3",
            "a length of 2^63",
            length("Content-Length: 9223372036854775808\r\n"),
        ),
        refused(
            "9112 6.3",
            "a length of 2^64 + 3",
            length("Content-Length: 18446744073709551619\r\n"),
        ),
        refused(
            "9112 6.1",
            "a length and a coding",
            post(
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                &format!("0\r\n\r\n{smuggled}"),
            ),
        ),
        refused(
            "9112 6.1",
            "a coding and a length",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                &format!("0\r\n\r\n{smuggled}"),
            ),
        ),
        refused(
            "9112 6.1",
            "a length of zero and a coding",
            post(
                "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
        refused(
            "9112 6.1",
            "chunked twice in a list",
            post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
        ),
        refused(
            "9112 6.1",
            "chunked twice in two lines",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
        refused(
            "9112 6.1",
            "chunked is not the last coding",
            post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
        ),
        refused(
            "9112 6.1",
            "another coding before chunked",
            post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ),
        refused(
            "9112 6.1",
            "another coding in a line before",
            post(
                "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
        refused(
            "9112 6.1",
            "identity",
            post("Transfer-Encoding: identity\r\n", ""),
        ),
        refused(
            "9112 6.1",
            "identity before chunked",
            post("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"),
        ),
        refused(
            "9112 6.1",
            "a coding that nobody knows",
            post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ),
        refused(
            "9112 6.1",
            "an empty coding",
            post("Transfer-Encoding:\r\n", ""),
        ),
        refused(
            "9112 6.1",
            "an empty item beside chunked",
            post("Transfer-Encoding: , chunked\r\n", "0\r\n\r\n"),
        ),
        refused(
            "9112 6.1",
            "a parameter of chunked",
            post("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"),
        ),
        refused(
            "9112 6.1",
            "chunked in quotes",
            post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
        ),
        refused(
            "9112 6.1",
            "a vertical tab before chunked",
            post("Transfer-Encoding: \u{b}chunked\r\n", "0\r\n\r\n"),
        ),
        refused(
            "9112 6.1",
            "a no-break space before chunked",
            post("Transfer-Encoding: \u{a0}chunked\r\n", "0\r\n\r\n"),
        ),
        refused(
            "9112 6.1",
            "a coding in HTTP/1.0",
            chunked("0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"),
        ),
        refused(
            "9112 6.1",
            "a coding of a GET that is none",
            get("Transfer-Encoding: cow\r\n"),
        ),
        forwarded(
            "9112 6.1",
            "chunked in another case",
            post("Transfer-Encoding: Chunked\r\n", "0\r\n\r\n"),
            &["POST /N"],
        ),
        forwarded(
            "9112 6.1",
            "chunked with spaces around it",
            post("Transfer-Encoding:  chunked \r\n", "3\r\nabc\r\n0\r\n\r\n"),
            &["POST /N abc"],
        ),
    ]
}

/// Section 7.
fn chunks() -> Vec<Case> {
    let then = get("").replace("/N", "/N/next");
    vec![
        forwarded(
            "9112 7.1",
            "one chunk",
            chunked("3\r\nabc\r\n0\r\n\r\n"),
            &["POST /N abc"],
        ),
        forwarded(
            "9112 7.1",
            "chunks, and a request behind them",
            chunked("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n") + &then,
            &["POST /N abcde", "GET /N/next"],
        ),
        forwarded(
            "9112 7.1",
            "sizes in either case, with leading zeros",
            chunked("00a\r\n0123456789\r\n00B\r\n0123456789a\r\n000\r\n\r\n"),
            &["POST /N 01234567890123456789a"],
        ),
        forwarded(
            "9112 7.1",
            "a chunk that looks like the end",
            chunked("5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
            &["POST /N 0\r\n\r\n"],
        ),
        refused("9112 7.1", "no size", chunked("\r\nabc\r\n0\r\n\r\n")),
        refused(
            "9112 7.1",
            "a size that is no number",
            chunked("g\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "a size with 0x",
            chunked("0x3\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "a size with a sign",
            chunked("+3\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "a negative size",
            chunked("-3\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "a size of more than 64 bits",
            chunked("10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "a size of 20 zeros",
            chunked("00000000000000000003\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "a space before the size",
            chunked(" 3\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "a space after the size",
            chunked("3 \r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "an underscore in the size",
            chunked("0_3\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "the size ends in LF",
            chunked("3\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "the size ends in CR",
            chunked("3\rabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "the chunk ends in LF",
            chunked("3\r\nabc\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "the chunk has no end",
            chunked("3\r\nabc0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "the chunk is longer than its size",
            chunked("2\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "two bytes that are no CR LF after the chunk",
            chunked("3\r\nabcXX0\r\n\r\n"),
        ),
        refused(
            "9112 7.1",
            "the last chunk ends in LF",
            chunked("3\r\nabc\r\n0\n\n"),
        ),
        refused(
            "9112 7.1",
            "the body ends in LF",
            chunked("3\r\nabc\r\n0\r\n\n"),
        ),
        refused(
            "9112 7.1.1",
            "an extension",
            chunked("3;a=b\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1.1",
            "an extension without a value",
            chunked("3;a\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1.1",
            "an extension with a LF in it",
            chunked("3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ),
        refused(
            "9112 7.1.1",
            "an extension of the last chunk",
            chunked("3\r\nabc\r\n0;a=b\r\n\r\n"),
        ),
        refused(
            "9112 7.1.1",
            "an endless extension",
            chunked(&format!("3;{}", "a".repeat(70_000))),
        ),
        forwarded(
            "9112 7.1.2",
            "a trailer",
            chunked("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"),
            &["POST /N abc"],
        )
        .hides("x-sum"),
        refused(
            "9112 7.1.2",
            "a length among the trailers",
            chunked("0\r\nContent-Length: 3\r\n\r\n"),
        ),
        refused(
            "9112 7.1.2",
            "a coding among the trailers",
            chunked("0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ),
        refused(
            "9112 7.1.2",
            "a trailer with a space before its colon",
            chunked("0\r\nX-Sum : 1\r\n\r\n"),
        ),
        refused(
            "9112 7.1.2",
            "a trailer without a colon",
            chunked("0\r\nX-Sum\r\n\r\n"),
        ),
        refused(
            "9112 7.1.2",
            "a folded trailer",
            chunked("0\r\nX-Sum: 1\r\n 2\r\n\r\n"),
        ),
        refused(
            "9112 7.1.2",
            "a trailer that ends in LF",
            chunked("0\r\nX-Sum: 1\n\r\n"),
        ),
        refused(
            "9112 7.1.2",
            "a trailer with a NUL",
            chunked("0\r\nX-Sum: \0\r\n\r\n"),
        ),
        refused(
            "9112 7.1.2",
            "trailers of 70,000 bytes",
            chunked(&format!("0\r\nX-Sum: {}\r\n\r\n", "a".repeat(70_000))),
        ),
        refused(
            "9112 7.1.2",
            "a hundred trailers",
            chunked(&format!("0\r\n{}\r\n", "X-Sum: 1\r\n".repeat(100))),
        ),
    ]
}

/// Section 9.
fn connection() -> Vec<Case> {
    let next = |n: u8| get("").replace("/N", &format!("/N/{n}"));
    let bad = get("X-A : b\r\n").replace("/N", "/N/bad");
    vec![
        forwarded(
            "9112 9.3.2",
            "five requests at once are answered in order",
            next(1) + &next(2) + &next(3) + &next(4) + &next(5),
            &["GET /N/1", "GET /N/2", "GET /N/3", "GET /N/4", "GET /N/5"],
        ),
        forwarded(
            "9112 9.3.2",
            "a body between two requests",
            next(1) + &post("Content-Length: 3\r\n", "abc") + &next(2),
            &["GET /N/1", "POST /N abc", "GET /N/2"],
        ),
        refused_after(
            "9112 9.3.2",
            "a bad request behind two good ones",
            next(1) + &next(2) + &bad + &next(3),
            &["GET /N/1", "GET /N/2"],
        ),
        refused_after(
            "9112 9.3.2",
            "more behind a body than its length",
            post("Content-Length: 3\r\n", "abcd\r\n") + &next(1),
            &["POST /N abc"],
        ),
        refused_after(
            "9112 9.3.2",
            "garbage behind the last chunk",
            chunked("0\r\n\r\n") + "X\r\n\r\n",
            &["POST /N"],
        ),
        forwarded(
            "9112 9.6",
            "nothing is read after Connection: close",
            get("Connection: close\r\n") + &next(1),
            &["GET /N"],
        )
        .closes()
        .hides("connection"),
        forwarded(
            "9112 9.6",
            "nothing is read after HTTP/1.0",
            get("").replace("1.1", "1.0") + &next(1),
            &["GET /N"],
        )
        .closes(),
        forwarded(
            "9112 9.3",
            "HTTP/1.0 with keep-alive goes on",
            get("Connection: keep-alive\r\n").replace("1.1", "1.0") + &next(1),
            &["GET /N", "GET /N/1"],
        ),
    ]
}
