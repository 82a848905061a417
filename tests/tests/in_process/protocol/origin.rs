//! The strict origin: it reads requests by the letter of RFC 9112, writes down what it saw, and holds against the sender
//! whatever could be read in two ways. It answers `ok`, or the bytes that a row gives it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    /// Lower-case names and values, in order.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The number of its connection.
    pub connection: usize,
}

impl Seen {
    /// `METHOD TARGET`, with ` BODY` where there is one.
    pub fn line(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let space = if body.is_empty() { "" } else { " " };
        format!("{} {}{space}{body}", self.method, self.target)
    }
}

/// The raw bytes of the next answer.
#[derive(Debug, Clone)]
pub struct Scripted {
    pub bytes: Vec<u8>,
    /// Whether the connection ends after them.
    pub closes: bool,
}

#[derive(Debug, Default)]
struct State {
    seen: Vec<Seen>,
    violations: Vec<String>,
    all: Vec<Seen>,
    violated: usize,
    connections: usize,
    next: Option<Scripted>,
}

/// A running origin. It ends with its runtime.
#[derive(Debug, Clone)]
pub struct Origin {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Origin {
    pub async fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let origin = Self {
            address: listener.local_addr()?,
            state: Arc::default(),
        };
        let accepting = origin.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let origin = accepting.clone();
                tokio::spawn(async move { origin.serve(stream).await });
            }
        });
        Ok(origin)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came since the last look; an error where some of it was not as it must be.
    pub fn take(&self) -> Result<Vec<Seen>> {
        let mut state = self.state();
        let violations = std::mem::take(&mut state.violations);
        let seen = std::mem::take(&mut state.seen);
        ensure!(
            violations.is_empty(),
            "at the origin: {}",
            violations.join("; ")
        );
        Ok(seen)
    }

    /// All that ever came; an error where some of it was not as it must be.
    pub fn all(&self) -> Result<Vec<Seen>> {
        let state = self.state();
        ensure!(state.violated == 0, "{} violations", state.violated);
        Ok(state.all.clone())
    }

    /// The next request gets this answer.
    pub fn script(&self, answer: Scripted) {
        self.state().next = Some(answer);
    }

    async fn serve(&self, mut stream: TcpStream) {
        let connection = {
            let mut state = self.state();
            state.connections += 1;
            state.connections
        };
        let mut buffer = Vec::new();
        loop {
            match read(&mut stream, &mut buffer).await {
                Ok(Some(mut seen)) => {
                    seen.connection = connection;
                    let is_head = seen.method == "HEAD";
                    let scripted = {
                        let mut state = self.state();
                        state.all.push(seen.clone());
                        state.seen.push(seen);
                        state.next.take()
                    };
                    let answer = scripted.unwrap_or_else(|| Scripted {
                        bytes: [
                            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".as_slice(),
                            if is_head { b"" } else { b"ok" },
                        ]
                        .concat(),
                        closes: false,
                    });
                    if stream.write_all(&answer.bytes).await.is_err() || answer.closes {
                        return;
                    }
                }
                // The sender broke off: visibly incomplete.
                Ok(None) => return,
                Err(violation) => {
                    let mut state = self.state();
                    state.violated += 1;
                    state.violations.push(format!("{violation:#}"));
                    return;
                }
            }
        }
    }
}

/// Reads one request. None: the connection ended before its end.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Seen>> {
    let Some(head) = until(stream, buffer, b"\r\n\r\n").await else {
        return Ok(None);
    };
    let mut seen = head_of(&head)?;
    let value = |name: &str| {
        let mut found = seen.fields.iter().filter(|(known, _)| known == name);
        (found.next().map(|(_, value)| value.clone()), found.count())
    };
    let (length, coding, host) = (
        value("content-length"),
        value("transfer-encoding"),
        value("host"),
    );
    ensure!(host.0.is_some() && host.1 == 0, "not one Host: {seen:?}");
    ensure!(length.1 == 0 && coding.1 == 0, "framed twice: {seen:?}");
    match (length.0, coding.0) {
        (Some(_), Some(_)) => bail!("a length and a coding: {seen:?}"),
        (Some(length), None) => {
            ensure!(
                !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()),
                "length {length:?}"
            );
            let Some(body) = exactly(stream, buffer, length.parse()?).await else {
                return Ok(None);
            };
            seen.body = body;
        }
        (None, Some(coding)) => {
            ensure!(coding == "chunked", "coding {coding:?}");
            let Some(body) = chunks(stream, buffer).await? else {
                return Ok(None);
            };
            seen.body = body;
        }
        (None, None) => {}
    }
    Ok(Some(seen))
}

/// The bytes of a head, taken apart by the letter.
fn head_of(head: &[u8]) -> Result<Seen> {
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let mut lines = text
        .strip_suffix("\r\n\r\n")
        .context("no end")?
        .split("\r\n");
    for line in lines.clone() {
        ensure!(
            !line
                .bytes()
                .any(|byte| byte.is_ascii_control() && byte != b'\t'),
            "a control byte in {line:?}"
        );
    }
    let line = lines.next().context("no line")?;
    let words: Vec<_> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        bail!("the request line is {line:?}");
    };
    ensure!(is_token(method), "the method of {line:?}");
    ensure!(
        (target.starts_with('/') || target == "*" && method == "OPTIONS")
            && target
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'#'),
        "the target of {line:?}"
    );
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .with_context(|| format!("the line {line:?}"))?;
        ensure!(is_token(name), "the name of {line:?}");
        let name = name.to_ascii_lowercase();
        let value = value.trim_matches([' ', '\t']).to_owned();
        // What belongs to one connection (RFC 9110 section 7.6.1), except for an upgrade that may be passed on.
        let hop = match name.as_str() {
            "keep-alive" | "proxy-connection" | "http2-settings" => true,
            "upgrade" => value.contains("h2c"),
            "te" => value != "trailers",
            "connection" => {
                !["close", "keep-alive", "upgrade", "te"].contains(&&*value.to_ascii_lowercase())
            }
            _ => false,
        };
        ensure!(!hop, "a field of another connection: {line:?}");
        fields.push((name, value));
    }
    Ok(Seen {
        method: method.into(),
        target: target.into(),
        fields,
        body: Vec::new(),
        connection: 0,
    })
}

/// The content of a chunked body.
async fn chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(line) = until(stream, buffer, b"\r\n").await else {
            return Ok(None);
        };
        let digits = std::str::from_utf8(&line[..line.len() - 2])?;
        ensure!(
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "the chunk size {digits:?}"
        );
        let size = usize::from_str_radix(digits, 16)?;
        if size == 0 {
            break;
        }
        let Some(chunk) = exactly(stream, buffer, size + 2).await else {
            return Ok(None);
        };
        ensure!(chunk.ends_with(b"\r\n"), "a chunk without its end");
        body.extend_from_slice(&chunk[..size]);
    }
    loop {
        let Some(line) = until(stream, buffer, b"\r\n").await else {
            return Ok(None);
        };
        if line == b"\r\n" {
            return Ok(Some(body));
        }
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        ensure!(
            is_token(&name) && !["content-length", "transfer-encoding", "host"].contains(&&*name),
            "the trailer {name:?}"
        );
    }
}

fn is_token(text: &str) -> bool {
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(tchar)
}

/// The bytes up to and with `end`.
async fn until(stream: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = buffer.windows(end.len()).position(|window| window == end) {
            return Some(buffer.drain(..at + end.len()).collect());
        }
        more(stream, buffer).await?;
    }
}

async fn exactly(stream: &mut TcpStream, buffer: &mut Vec<u8>, count: usize) -> Option<Vec<u8>> {
    while buffer.len() < count {
        more(stream, buffer).await?;
    }
    Some(buffer.drain(..count).collect())
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let read = stream.read_buf(buffer).await.ok()?;
    (read > 0).then_some(())
}
