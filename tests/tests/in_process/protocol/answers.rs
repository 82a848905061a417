//! RFC 9112, the other direction: what an upstream answers. A bad answer becomes 502, or is left visibly incomplete; it is
//! never completed, and what came after it is nobody's answer.

use super::origin::Scripted;

/// One row.
#[derive(Debug, Clone)]
pub struct AnswerCase {
    pub section: &'static str,
    pub what: &'static str,
    /// The method that asks.
    pub method: &'static str,
    pub scripted: Scripted,
    pub meant: Meant,
    /// Whether the upstream's connection must not be used again.
    pub fresh: bool,
}

/// What the client must see.
#[derive(Debug, Clone, Copy)]
pub enum Meant {
    /// This status, with this body.
    Passes(u16, &'static str),
    /// 502.
    BadGateway,
    /// 200 and less than was announced.
    Incomplete,
    /// 502, or the answer of another connection: a safe request may be sent again where none has come (RFC 9110 section
    /// 9.2.2), which is done where the connection had been idle.
    BadOrAgain,
    /// Either: it depends on how much had come before the fault.
    Spoilt,
}

impl AnswerCase {
    /// The upstream closes after its bytes.
    fn closing(mut self) -> Self {
        self.scripted.closes = true;
        self
    }

    /// It answers HEAD.
    fn of_head(mut self) -> Self {
        self.method = "HEAD";
        self
    }

    /// Its connection must not be used again.
    fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }
}

fn row(
    section: &'static str,
    what: &'static str,
    bytes: impl AsRef<[u8]>,
    meant: Meant,
) -> AnswerCase {
    AnswerCase {
        section,
        what,
        method: "GET",
        scripted: Scripted {
            bytes: bytes.as_ref().into(),
            closes: false,
        },
        meant,
        fresh: false,
    }
}

fn passes(
    section: &'static str,
    what: &'static str,
    bytes: impl AsRef<[u8]>,
    status: u16,
    body: &'static str,
) -> AnswerCase {
    row(section, what, bytes, Meant::Passes(status, body))
}

fn bad(section: &'static str, what: &'static str, bytes: impl AsRef<[u8]>) -> AnswerCase {
    row(section, what, bytes, Meant::BadGateway).fresh()
}

fn broken(section: &'static str, what: &'static str, bytes: impl AsRef<[u8]>) -> AnswerCase {
    row(section, what, bytes, Meant::BadOrAgain).fresh()
}

fn spoilt(section: &'static str, what: &'static str, bytes: impl AsRef<[u8]>) -> AnswerCase {
    row(section, what, bytes, Meant::Spoilt).fresh()
}

fn cut(section: &'static str, what: &'static str, bytes: impl AsRef<[u8]>) -> AnswerCase {
    row(section, what, bytes, Meant::Incomplete).fresh()
}

/// 200 with these field lines and a body.
fn ok(lines: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}")
}

fn sized(lines: &str) -> String {
    ok(&format!("Content-Length: 3\r\n{lines}"), "abc")
}

fn chunked(body: &str) -> String {
    ok("Transfer-Encoding: chunked\r\n", body)
}

pub fn cases() -> Vec<AnswerCase> {
    [framed(), heads(), bodies(), chunks()].concat()
}

fn framed() -> Vec<AnswerCase> {
    vec![
        passes("9112 6.3", "a length", sized(""), 200, "abc"),
        passes(
            "9112 7.1",
            "chunks",
            chunked("3\r\nabc\r\n0\r\n\r\n"),
            200,
            "abc",
        ),
        passes(
            "9112 7.1.1",
            "an extension is not passed on",
            chunked("3;a=b\r\nabc\r\n0\r\n\r\n"),
            200,
            "abc",
        ),
        passes(
            "9112 7.1.2",
            "a trailer",
            chunked("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"),
            200,
            "abc",
        ),
        passes(
            "9112 6.3",
            "until the connection ends",
            ok("", "abc"),
            200,
            "abc",
        )
        .closing()
        .fresh(),
        passes(
            "9112 6.3",
            "an answer of HTTP/1.0",
            ok("", "abc").replace("1.1", "1.0"),
            200,
            "abc",
        )
        .closing()
        .fresh(),
        passes(
            "9110 15.2",
            "an interim answer before the answer",
            format!(
                "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{}",
                sized("")
            ),
            200,
            "abc",
        ),
        passes(
            "9110 15.3.5",
            "204",
            "HTTP/1.1 204 No Content\r\n\r\n",
            204,
            "",
        ),
        passes(
            "9110 15.4.5",
            "304 tells the length it has not",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
            304,
            "",
        ),
        passes(
            "9110 9.3.2",
            "an answer to HEAD tells the length it has not",
            ok("Content-Length: 3\r\n", ""),
            200,
            "",
        )
        .of_head(),
        passes(
            "9112 4",
            "a status line without a reason",
            sized("").replace(" OK", " "),
            200,
            "abc",
        ),
    ]
}

fn heads() -> Vec<AnswerCase> {
    vec![
        bad(
            "9112 6.3",
            "two lengths that differ",
            sized("Content-Length: 4\r\n"),
        ),
        bad(
            "9112 6.3",
            "two lengths that agree",
            sized("Content-Length: 3\r\n"),
        ),
        bad(
            "9112 6.3",
            "a list of lengths",
            sized("").replace(": 3", ": 3, 3"),
        ),
        bad(
            "9112 6.3",
            "a length that is no number",
            sized("").replace(": 3", ": x"),
        ),
        bad(
            "9112 6.3",
            "a negative length",
            sized("").replace(": 3", ": -3"),
        ),
        bad(
            "9112 6.1",
            "a length and a coding",
            ok(
                "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
        bad(
            "9112 6.1",
            "a coding that is not chunked",
            ok("Transfer-Encoding: gzip\r\n", "abc"),
        )
        .closing(),
        bad(
            "9112 6.1",
            "chunked is not the last coding",
            ok("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
        )
        .closing(),
        bad(
            "9112 6.1",
            "a coding in HTTP/1.0",
            chunked("0\r\n\r\n").replace("1.1", "1.0"),
        )
        .closing(),
        bad(
            "9112 6.1",
            "204 with a coding",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        bad(
            "9110 8.6",
            "204 with a length",
            "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
        ),
        bad(
            "9112 2.2",
            "lines that end in LF",
            sized("").replace("\r\n", "\n"),
        ),
        bad(
            "9112 2.2",
            "one line that ends in LF",
            sized("X-A: b\nX-B: c\r\n"),
        ),
        bad(
            "9112 2.2",
            "a bare CR in a value",
            sized("X-A: b\rX-B: c\r\n"),
        ),
        bad("9112 5.2", "obs-fold", sized("X-A: b\r\n c\r\n")),
        bad("9112 5.1", "a space before the colon", sized("X-A : b\r\n")),
        bad("9112 5", "no colon", sized("X-A\r\n")),
        bad("9110 5.5", "a NUL in a value", sized("X-A: b\0\r\n")),
        bad(
            "9110 5.5",
            "an escape in a value",
            sized("X-A: \x1b[2J\r\n"),
        ),
        bad("9112 4", "another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n").closing(),
        bad(
            "9112 4",
            "a status of two digits",
            sized("").replace("200", "20"),
        ),
        bad(
            "9112 4",
            "a status that is no number",
            sized("").replace("200", "2xx"),
        ),
        bad(
            "9112 2.3",
            "HTTP/2.0 in the form of HTTP/1",
            sized("").replace("1.1", "2.0"),
        ),
        broken(
            "9112 8",
            "a head that is cut",
            "HTTP/1.1 200 OK\r\nContent-Le",
        )
        .closing(),
        broken("9112 8", "nothing at all", "").closing(),
        bad(
            "9112 5",
            "a head of 80,000 bytes",
            sized(&format!("X-A: {}\r\n", "a".repeat(10_000)).repeat(8)),
        ),
    ]
}

fn bodies() -> Vec<AnswerCase> {
    vec![
        cut(
            "9112 8",
            "a body that is cut",
            ok("Content-Length: 10\r\n", "abc"),
        )
        .closing(),
        passes(
            "9112 9.2",
            "bytes behind a body",
            sized("") + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
            200,
            "abc",
        )
        .fresh(),
        passes(
            "9112 6.3",
            "a body behind 204",
            "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
            204,
            "",
        )
        .fresh(),
        passes(
            "9112 6.3",
            "a body behind 304",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\nabc",
            304,
            "",
        )
        .fresh(),
        passes(
            "9112 6.3",
            "a body behind an answer to HEAD",
            sized(""),
            200,
            "",
        )
        .of_head()
        .fresh(),
    ]
}

fn chunks() -> Vec<AnswerCase> {
    let begun = |rest: &str| format!("{}{rest}", chunked("3\r\nabc\r\n"));
    vec![
        cut("9112 8", "chunks that are cut", begun("3\r\nab")).closing(),
        cut("9112 8", "no last chunk", begun("")).closing(),
        cut("9112 8", "a last chunk without its end", begun("0\r\n")).closing(),
        spoilt("9112 7.1", "a bad size", begun("x\r\nabc\r\n0\r\n\r\n")),
        spoilt(
            "9112 7.1",
            "a size of more than 64 bits",
            begun("10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ),
        spoilt(
            "9112 7.1",
            "a size that ends in LF",
            begun("3\nabc\r\n0\r\n\r\n"),
        ),
        spoilt(
            "9112 7.1",
            "a chunk without its end",
            begun("3\r\nabcd\r\n0\r\n\r\n"),
        ),
        spoilt(
            "9112 7.1.2",
            "a length among the trailers",
            begun("0\r\nContent-Length: 3\r\n\r\n"),
        ),
    ]
}
