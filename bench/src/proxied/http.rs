//! HTTP/1.1 as the load generator speaks it: requests as bytes, and answers read as far as is needed to tell that they
//! are whole and good.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::poll;
use crate::world::gateway::{HOST, TYPICAL};

/// The longest header of an answer, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// How long a single answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A GET with typical headers and more.
pub fn get(target: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let lines = TYPICAL
        .iter()
        .chain(more)
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    format!(
        "GET {target} HTTP/1.1\r\nhost: {HOST}\r\n{}\r\n",
        lines.collect::<String>()
    )
    .into_bytes()
}

/// Reads one answer after the other.
#[derive(Debug, Default)]
pub struct Reader {
    head: Vec<u8>,
    /// Once the header is there: bytes of the body that are not.
    left: Option<usize>,
}

/// The header of an answer.
#[derive(Debug, Clone)]
pub struct Head(String);

impl Reader {
    /// Takes bytes. None: there is more to come.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Head>> {
        let body = match self.left {
            Some(left) => {
                let left = left
                    .checked_sub(bytes.len())
                    .context("more than one answer to one request")?;
                self.left = Some(left);
                left
            }
            None => match self.begin(bytes)? {
                Some(left) => left,
                None => return Ok(None),
            },
        };
        if body > 0 {
            return Ok(None);
        }
        self.left = None;
        let head = String::from_utf8(std::mem::take(&mut self.head))
            .context("a header that is no text")?;
        Ok(Some(Head(head)))
    }

    /// Reads the header; what is missing of the body once it is whole.
    fn begin(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let searched = self.head.len().saturating_sub(3);
        self.head.extend_from_slice(bytes);
        let Some(end) = self.head[searched..]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        else {
            if self.head.len() > MAX_HEAD {
                bail!("a header without end");
            }
            return Ok(None);
        };
        let end = searched + end + 4;
        let came = self.head.len() - end;
        self.head.truncate(end);
        let length = content_length(&self.head).context("an answer without Content-Length")?;
        let left = length
            .checked_sub(came)
            .context("more than one answer to one request")?;
        self.left = Some(left);
        Ok(Some(left))
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.find(|line| {
        line.get(..NAME.len())
            .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
    })?;
    std::str::from_utf8(&line[NAME.len()..])
        .ok()?
        .trim()
        .parse()
        .ok()
}

impl Head {
    /// The status code; zero where there is none.
    pub fn status(&self) -> u16 {
        self.0
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0)
    }

    /// The value of a header; its name in lower case.
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }
}

/// A connection that waits for nothing for long.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request on a connection of its own.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Result<Head> {
    ask(&mut connect(address)?, request)
}

/// A connection that has been used for one request, answered with 200.
pub fn keep(address: SocketAddr, request: &[u8]) -> Result<TcpStream> {
    let mut stream = connect(address)?;
    used(&mut stream, request)?;
    Ok(stream)
}

/// Uses a connection for one request, which must be answered with 200.
pub fn used(stream: &mut (impl Read + Write), request: &[u8]) -> Result<()> {
    let head = ask(stream, request)?;
    ensure!(
        head.status() == 200,
        "an answer with status {}",
        head.status()
    );
    Ok(())
}

fn ask(stream: &mut (impl Read + Write), request: &[u8]) -> Result<Head> {
    stream.write_all(request)?;
    let (mut reader, mut buffer) = (Reader::default(), vec![0; poll::READ]);
    loop {
        match stream.read(&mut buffer)? {
            0 => bail!("closed before the answer was whole"),
            count => {
                if let Some(head) = reader.feed(&buffer[..count])? {
                    return Ok(head);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\nhello";

    #[test]
    fn an_answer_in_pieces_is_one_answer() {
        for size in 1..=ANSWER.len() {
            let mut reader = Reader::default();
            for _ in 0..2 {
                let mut pieces = ANSWER.chunks(size).peekable();
                while let Some(piece) = pieces.next() {
                    let head = reader.feed(piece).expect("sound");
                    assert_eq!(head.is_some(), pieces.peek().is_none(), "pieces of {size}");
                    if let Some(head) = head {
                        assert_eq!((head.status(), head.value("x")), (200, Some("y")));
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_told_whole_is_an_error() {
        let feed = |bytes: &[u8]| Reader::default().feed(bytes);
        feed(b"HTTP/1.1 200 OK\r\n\r\nhello").expect_err("no length");
        feed(&[ANSWER, b"HTTP/1.1"].concat()).expect_err("a second answer");
        feed(&vec![b'a'; MAX_HEAD + 1]).expect_err("no end");
    }
}
