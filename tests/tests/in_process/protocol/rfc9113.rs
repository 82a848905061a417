//! RFC 9113: what comes over HTTP/2 and would mean something else, or nothing, in HTTP/1.1. Stream errors and 400 are alike
//! to the table: nothing reaches the origin.

use super::frames::{END_HEADERS, END_STREAM, Outcome, data, frame, headers};

type Fields = Vec<(&'static [u8], &'static [u8])>;

/// One row.
#[derive(Debug, Clone)]
pub struct FrameCase {
    pub section: &'static str,
    pub what: &'static str,
    /// Of the number of the row: its path has no other row.
    fields: Fields,
    /// Frames after the header block; none: it ends the stream.
    more: Vec<u8>,
    pub meant: Meant,
    pub shows: Vec<&'static str>,
    pub hides: Vec<&'static str>,
}

/// What must become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meant {
    /// It reaches the origin once, as `METHOD /N BODY`.
    Forwarded(&'static str),
    /// It does not: the stream is reset, or answered with 4xx.
    Refused,
}

impl FrameCase {
    /// The frames, with the row's own path.
    pub fn frames(&self, number: usize) -> Vec<u8> {
        let path = format!("/case{number}");
        let fields: Vec<(&[u8], &[u8])> = self
            .fields
            .iter()
            .map(|(name, value)| {
                (
                    *name,
                    if *value == b"/N" {
                        path.as_bytes()
                    } else {
                        *value
                    },
                )
            })
            .collect();
        let end = if self.more.is_empty() { END_STREAM } else { 0 };
        [headers(end, &fields), self.more.clone()].concat()
    }

    /// Whether this is what is meant.
    pub fn allows(&self, outcome: Outcome) -> bool {
        match (self.meant, outcome) {
            (Meant::Forwarded(_), Outcome::Status(200)) => true,
            (Meant::Refused, Outcome::Reset | Outcome::Status(400..500)) => true,
            (Meant::Forwarded(_) | Meant::Refused, _) => false,
        }
    }

    fn shows(mut self, line: &'static str) -> Self {
        self.shows.push(line);
        self
    }

    fn hides(mut self, name: &'static str) -> Self {
        self.hides.push(name);
        self
    }
}

fn row(
    section: &'static str,
    what: &'static str,
    fields: Fields,
    more: Vec<u8>,
    meant: Meant,
) -> FrameCase {
    FrameCase {
        section,
        what,
        fields,
        more,
        meant,
        shows: Vec::new(),
        hides: Vec::new(),
    }
}

const METHOD: (&[u8], &[u8]) = (b":method", b"GET");
const SCHEME: (&[u8], &[u8]) = (b":scheme", b"http");
const AUTHORITY: (&[u8], &[u8]) = (b":authority", b"a.example");
const PATH: (&[u8], &[u8]) = (b":path", b"/N");

/// A GET with more fields.
fn get(fields: &[(&'static [u8], &'static [u8])]) -> Fields {
    [&[METHOD, SCHEME, AUTHORITY, PATH], fields].concat()
}

/// A POST with more fields.
fn post(fields: &[(&'static [u8], &'static [u8])]) -> Fields {
    [
        &[
            (b":method".as_slice(), b"POST".as_slice()),
            SCHEME,
            AUTHORITY,
            PATH,
        ],
        fields,
    ]
    .concat()
}

fn forwarded(
    section: &'static str,
    what: &'static str,
    name: &'static str,
    value: &'static str,
) -> FrameCase {
    row(
        section,
        what,
        get(&[(name.as_bytes(), value.as_bytes())]),
        Vec::new(),
        Meant::Forwarded("GET /N"),
    )
}

fn refused(
    section: &'static str,
    what: &'static str,
    name: &'static str,
    value: &'static str,
) -> FrameCase {
    odd(section, what, get(&[(name.as_bytes(), value.as_bytes())]))
}

fn odd(section: &'static str, what: &'static str, fields: Fields) -> FrameCase {
    row(section, what, fields, Vec::new(), Meant::Refused)
}

fn body(what: &'static str, length: &'static str, more: Vec<u8>, meant: Meant) -> FrameCase {
    row(
        "9113 8.1.1",
        what,
        post(&[(b"content-length", length.as_bytes())]),
        more,
        meant,
    )
}

pub fn cases() -> Vec<FrameCase> {
    [fields(), pseudo(), bodies(), frames()].concat()
}

/// Section 8.2.
fn fields() -> Vec<FrameCase> {
    vec![
        forwarded("9113 8.2", "a field", "x-a", "b").shows("x-a: b"),
        forwarded("9113 8.2.1", "an empty value", "x-a", "").shows("x-a: "),
        forwarded("9113 8.2.2", "te: trailers", "te", "trailers"),
        row(
            "9113 8.2.3",
            "cookies become one line",
            get(&[(b"cookie", b"a=1"), (b"cookie", b"b=2")]),
            Vec::new(),
            Meant::Forwarded("GET /N"),
        )
        .shows("cookie: a=1; b=2"),
        refused("9113 8.2.1", "an upper-case name", "X-A", "b"),
        refused("9113 8.2.1", "an empty name", "", "b"),
        refused("9113 8.2.1", "a space in a name", "x a", "b"),
        refused("9113 8.2.1", "a colon in a name", "x:a", "b"),
        refused("9113 8.2.1", "a CR LF in a name", "x\r\ny", "b"),
        refused("9113 8.2.1", "a NUL in a name", "x\0", "b"),
        refused("9113 8.2.1", "a CR LF in a value", "x-a", "b\r\nx-b: c"),
        refused("9113 8.2.1", "a LF in a value", "x-a", "b\nx-b: c"),
        refused("9113 8.2.1", "a CR in a value", "x-a", "b\rc"),
        refused("9113 8.2.1", "a NUL in a value", "x-a", "b\0c"),
        refused(
            "9113 8.2.1",
            "another control byte in a value",
            "x-a",
            "b\x1bc",
        ),
        refused("9113 8.2.1", "a DEL in a value", "x-a", "b\x7fc"),
        refused(
            "9113 8.2.1",
            "a whole request in a value",
            "x-a",
            "b\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n",
        ),
        refused("9113 8.2.1", "a space before a value", "x-a", " b"),
        refused("9113 8.2.1", "a space after a value", "x-a", "b "),
        refused("9113 8.2.1", "a tab after a value", "x-a", "b\t"),
        refused("9113 8.2.2", "connection", "connection", "close"),
        refused(
            "9113 8.2.2",
            "connection that names a field",
            "connection",
            "x-a",
        ),
        refused("9113 8.2.2", "keep-alive", "keep-alive", "timeout=5"),
        refused(
            "9113 8.2.2",
            "proxy-connection",
            "proxy-connection",
            "keep-alive",
        ),
        refused(
            "9113 8.2.2",
            "transfer-encoding",
            "transfer-encoding",
            "chunked",
        ),
        refused("9113 8.2.2", "upgrade", "upgrade", "h2c"),
        refused("9113 8.2.2", "te that is not trailers", "te", "gzip"),
        forwarded(
            "9110 7.8",
            "http2-settings is not passed on",
            "http2-settings",
            "AAMAAABk",
        )
        .hides("http2-settings"),
    ]
}

/// Section 8.3.
fn pseudo() -> Vec<FrameCase> {
    let with = |field: (&'static [u8], &'static [u8])| get(&[field]);
    let path = |path: &'static [u8]| vec![METHOD, SCHEME, AUTHORITY, (b":path".as_slice(), path)];
    let method =
        |method: &'static [u8]| vec![(b":method".as_slice(), method), SCHEME, AUTHORITY, PATH];
    let authority = |authority: &'static [u8]| {
        vec![METHOD, SCHEME, (b":authority".as_slice(), authority), PATH]
    };
    vec![
        row(
            "9113 8.3.1",
            "host in the place of :authority",
            vec![METHOD, SCHEME, PATH, (b"host", b"a.example")],
            Vec::new(),
            Meant::Forwarded("GET /N"),
        )
        .shows("host: a.example"),
        row(
            "9113 8.3.1",
            "host that agrees with :authority",
            with((b"host", b"a.example")),
            Vec::new(),
            Meant::Forwarded("GET /N"),
        )
        .shows("host: a.example"),
        odd(
            "9113 8.3.1",
            "host that disagrees with :authority",
            with((b"host", b"b.example")),
        ),
        odd(
            "9113 8.3.1",
            "neither host nor :authority",
            vec![METHOD, SCHEME, PATH],
        ),
        odd(
            "9113 8.3.1",
            "two hosts",
            vec![
                METHOD,
                SCHEME,
                PATH,
                (b"host", b"a.example"),
                (b"host", b"b.example"),
            ],
        ),
        odd("9113 8.3.1", "an empty :authority", authority(b"")),
        odd(
            "9113 8.3.1",
            "user information in :authority",
            authority(b"u@a.example"),
        ),
        odd(
            "9113 8.3.1",
            "a path in :authority",
            authority(b"a.example/x"),
        ),
        odd(
            "9113 8.3.1",
            "a space in :authority",
            authority(b"a.example b"),
        ),
        odd(
            "9113 8.3.1",
            "a CR LF in :authority",
            authority(b"a.example\r\nx: y"),
        ),
        odd("9113 8.3.1", "no :method", vec![SCHEME, AUTHORITY, PATH]),
        odd("9113 8.3.1", "no :scheme", vec![METHOD, AUTHORITY, PATH]),
        odd("9113 8.3.1", "no :path", vec![METHOD, SCHEME, AUTHORITY]),
        odd("9113 8.3.1", "an empty :path", path(b"")),
        odd(
            "9113 8.3.1",
            "a :path that does not begin with a slash",
            path(b"x"),
        ),
        odd("9113 8.3.1", "an asterisk with GET", path(b"*")),
        odd("9113 8.3.1", "a space in :path", path(b"/x HTTP/1.1")),
        odd(
            "9113 8.3.1",
            "a CR LF in :path",
            path(b"/x HTTP/1.1\r\nx: y\r\n\r\n"),
        ),
        odd("9113 8.3.1", "a NUL in :path", path(b"/x\0")),
        odd(
            "9113 8.3.1",
            "a space in :method",
            method(b"GET / HTTP/1.1"),
        ),
        odd("9113 8.3.1", "a CR LF in :method", method(b"GET\r\nx")),
        odd("9113 8.3.1", "an empty :method", method(b"")),
        odd(
            "9113 8.5",
            "CONNECT",
            vec![(b":method", b"CONNECT"), AUTHORITY],
        ),
        odd("9113 8.5", "CONNECT with a path", method(b"CONNECT")),
        odd(
            "8441 4",
            "an extended CONNECT that nobody offered",
            [method(b"CONNECT"), vec![(b":protocol", b"websocket")]].concat(),
        ),
        odd("9113 8.3", "two :method", with(METHOD)),
        odd("9113 8.3", "two :path", with(PATH)),
        odd("9113 8.3", "two :scheme", with(SCHEME)),
        odd("9113 8.3", "two :authority", with(AUTHORITY)),
        odd(
            "9113 8.3",
            "a pseudo-field that nobody knows",
            with((b":x", b"y")),
        ),
        odd(
            "9113 8.3",
            "a pseudo-field of answers",
            with((b":status", b"200")),
        ),
        odd(
            "9113 8.3",
            "a pseudo-field after a field",
            vec![METHOD, SCHEME, AUTHORITY, (b"x-a", b"b"), PATH],
        ),
    ]
}

/// Section 8.1.
fn bodies() -> Vec<FrameCase> {
    let trailers = |name: &[u8], value: &[u8]| {
        [data(0, b"abc"), headers(END_STREAM, &[(name, value)])].concat()
    };
    let ends = |name: &'static [u8], what: &'static str, meant: Meant| {
        row("9113 8.1", what, post(&[]), trailers(name, b"1"), meant)
    };
    vec![
        body(
            "a body of its length",
            "3",
            data(END_STREAM, b"abc"),
            Meant::Forwarded("POST /N abc"),
        ),
        row(
            "9113 8.1",
            "a body without a length",
            post(&[]),
            data(END_STREAM, b"abc"),
            Meant::Forwarded("POST /N abc"),
        ),
        ends(b"x-sum", "a trailer", Meant::Forwarded("POST /N abc")),
        body(
            "less than the length",
            "5",
            data(END_STREAM, b"abc"),
            Meant::Refused,
        ),
        body(
            "more than the length",
            "2",
            data(END_STREAM, b"abc"),
            Meant::Refused,
        ),
        body(
            "a length and no body",
            "3",
            data(END_STREAM, b""),
            Meant::Refused,
        ),
        body(
            "a length that is no number",
            "x",
            data(END_STREAM, b"abc"),
            Meant::Refused,
        ),
        body(
            "a length with a sign",
            "+3",
            data(END_STREAM, b"abc"),
            Meant::Refused,
        ),
        row(
            "9113 8.1.1",
            "two lengths",
            post(&[(b"content-length", b"3"), (b"content-length", b"4")]),
            data(END_STREAM, b"abc"),
            Meant::Refused,
        ),
        // Malformed by the letter; h2 drops such a field instead, and so it decides nothing.
        row(
            "9113 8.1",
            "a pseudo-field among the trailers is not passed on",
            post(&[]),
            trailers(b":path", b"/x"),
            Meant::Forwarded("POST /N abc"),
        )
        .hides(":path"),
        row(
            "9113 8.2.1",
            "an upper-case trailer",
            post(&[]),
            trailers(b"X-Sum", b"1"),
            Meant::Refused,
        ),
        row(
            "9113 8.2.1",
            "a CR LF in a trailer",
            post(&[]),
            trailers(b"x-sum", b"1\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
            Meant::Refused,
        ),
    ]
}

/// Sections 4 to 6, as far as they decide what a request is.
fn frames() -> Vec<FrameCase> {
    let then = |what: &'static str, section: &'static str, more: Vec<u8>| {
        row(section, what, post(&[]), more, Meant::Refused)
    };
    vec![
        then(
            "a second header block that does not end the stream",
            "9113 8.1",
            [data(0, b"abc"), headers(0, &[(b"x-a", b"b")])].concat(),
        ),
        then(
            "a frame of another stream within a header block",
            "9113 4.3",
            [frame(1, 0, 3, &[]), frame(0, END_STREAM, 1, b"abc")].concat(),
        ),
        then(
            "a frame that is larger than it may be",
            "9113 4.2",
            data(END_STREAM, &[b'a'; 20_000]),
        ),
        then(
            "padding that is longer than its frame",
            "9113 6.1",
            frame(0, END_STREAM | 8, 1, &[200, b'a']),
        ),
        then(
            "CONTINUATION without HEADERS",
            "9113 6.10",
            frame(9, END_HEADERS, 1, &[]),
        ),
        then(
            "a header block that cannot be decoded",
            "9113 4.3",
            frame(
                1,
                END_STREAM | END_HEADERS,
                1,
                &[0xff, 0xff, 0xff, 0xff, 0xff],
            ),
        ),
        then(
            "a stream that depends on nothing it could be",
            "9113 5.1.1",
            frame(1, END_STREAM | END_HEADERS, 2, &[0x82]),
        ),
    ]
}
