//! A row of the table: what a client sends, and what must become of it.

/// One row.
#[derive(Debug, Clone)]
pub struct Case {
    /// The section it is written from.
    pub section: &'static str,
    /// What it is about.
    pub what: &'static str,
    /// The bytes. `/N` becomes a path that no other row has.
    pub sent: Vec<u8>,
    /// What reaches the origin, each as `METHOD TARGET`, with ` BODY` where there is one; nothing else may.
    pub reaches: Vec<String>,
    /// What the sidecar answers itself, after the answers of the origin.
    pub then: Option<u16>,
    /// Whether the connection ends there.
    pub closes: bool,
    /// Field lines that the last request at the origin has, lower-case names: `name: value`.
    pub shows: Vec<&'static str>,
    /// Names of fields that it has not.
    pub hides: Vec<&'static str>,
}

impl Case {
    /// The row with the number in the place of `N`.
    pub fn numbered(&self, number: usize) -> Self {
        let path = format!("/case{number}");
        let mut sent = Vec::new();
        let mut rest = self.sent.as_slice();
        while let Some(at) = rest.windows(2).position(|two| two == b"/N") {
            sent.extend_from_slice(&rest[..at]);
            sent.extend_from_slice(path.as_bytes());
            rest = &rest[at + 2..];
        }
        sent.extend_from_slice(rest);
        let reaches = self.reaches.iter().map(|seen| seen.replace("/N", &path));
        Self {
            sent,
            reaches: reaches.collect(),
            ..self.clone()
        }
    }

    /// The last request has this line at the origin.
    pub fn shows(mut self, line: &'static str) -> Self {
        self.shows.push(line);
        self
    }

    /// It has no such field.
    pub fn hides(mut self, name: &'static str) -> Self {
        self.hides.push(name);
        self
    }

    /// The sidecar's answer has another status than 400.
    pub fn status(mut self, status: u16) -> Self {
        self.then = Some(status);
        self
    }

    /// The connection ends after the answers.
    pub fn closes(mut self) -> Self {
        self.closes = true;
        self
    }
}

/// A row whose requests reach the origin, each once.
pub fn forwarded(
    section: &'static str,
    what: &'static str,
    sent: impl AsRef<[u8]>,
    reaches: &[&str],
) -> Case {
    Case {
        section,
        what,
        sent: sent.as_ref().into(),
        reaches: reaches.iter().map(ToString::to_string).collect(),
        then: None,
        closes: false,
        shows: Vec::new(),
        hides: Vec::new(),
    }
}

/// A row of which nothing reaches the origin: 400, and the connection ends.
pub fn refused(section: &'static str, what: &'static str, sent: impl AsRef<[u8]>) -> Case {
    refused_after(section, what, sent, &[])
}

/// The same, after requests that do reach it.
pub fn refused_after(
    section: &'static str,
    what: &'static str,
    sent: impl AsRef<[u8]>,
    reaches: &[&str],
) -> Case {
    forwarded(section, what, sent, reaches).status(400).closes()
}

/// A row that the sidecar answers itself; the connection may go on.
pub fn answered(
    section: &'static str,
    what: &'static str,
    sent: impl AsRef<[u8]>,
    status: u16,
) -> Case {
    forwarded(section, what, sent, &[]).status(status)
}

/// `GET /N` with these field lines, each with its CR LF.
pub fn get(lines: &str) -> String {
    format!("GET /N HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")
}

/// `POST /N` with these field lines and a body.
pub fn post(lines: &str, body: &str) -> String {
    format!("POST /N HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n{body}")
}

/// `POST /N` in chunks.
pub fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}
