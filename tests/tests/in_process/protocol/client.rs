//! A client of raw bytes, and what it reads back.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Lower-case names and values.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    ended: bool,
    patience: Duration,
}

impl Client {
    pub async fn connect(address: SocketAddr, patience: Duration) -> Result<Self> {
        let stream = timeout(patience, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            ended: false,
            patience,
        })
    }

    /// Sends pieces, each in a write of its own. That the other end has closed already is seen in what it answered.
    pub async fn send(&mut self, pieces: &[&[u8]]) {
        for piece in pieces {
            let _ = timeout(self.patience, self.stream.write_all(piece)).await;
            tokio::task::yield_now().await;
        }
    }

    /// The next final answer to `method`; none: the connection ended before one was whole, and what there is of it is left.
    pub async fn answer(&mut self, method: &str) -> Result<Option<Answer>> {
        loop {
            if let Some((answer, end)) = parse(&self.buffer, method, self.ended)? {
                self.buffer.drain(..end);
                if (100..200).contains(&answer.status) {
                    continue;
                }
                return Ok(Some(answer));
            }
            if self.ended {
                return Ok(None);
            }
            self.more().await?;
        }
    }

    /// Waits for the end of the connection: nothing may come before it.
    pub async fn ended(&mut self) -> Result<()> {
        while !self.ended {
            self.more().await.context("the connection does not end")?;
        }
        if !self.buffer.is_empty() {
            bail!("then {:?}", String::from_utf8_lossy(&self.buffer));
        }
        Ok(())
    }

    /// What came and is no whole answer.
    pub fn rest(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    async fn more(&mut self) -> Result<()> {
        let read = timeout(self.patience, self.stream.read_buf(&mut self.buffer)).await;
        let read = read.with_context(|| format!("silence after {:?}", self.rest()))?;
        // A reset ends a connection too.
        self.ended = read.unwrap_or(0) == 0;
        Ok(())
    }
}

/// An answer, and where it ends.
fn parse(bytes: &[u8], method: &str, ended: bool) -> Result<Option<(Answer, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status: u16 = status.with_context(|| format!("an answer that begins {head:?}"))?;
    let fields: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer {
        status,
        fields,
        body: Vec::new(),
    };
    let rest = &bytes[end + 4..];
    let bodiless = method == "HEAD" || matches!(status, 100..=199 | 204 | 304);
    let used = if bodiless {
        Some(0)
    } else if answer.field("transfer-encoding").is_some() {
        chunks(rest, &mut answer.body)?
    } else if let Some(length) = answer.field("content-length") {
        let length: usize = length.parse()?;
        (rest.len() >= length).then(|| {
            answer.body = rest[..length].to_vec();
            length
        })
    } else {
        ended.then(|| {
            answer.body = rest.to_vec();
            rest.len()
        })
    };
    Ok(used.map(|used| (answer, end + 4 + used)))
}

fn chunks(bytes: &[u8], body: &mut Vec<u8>) -> Result<Option<usize>> {
    let line = |from: usize| {
        let found = bytes[from..].windows(2).position(|two| two == b"\r\n");
        found.map(|at| (&bytes[from..from + at], from + at + 2))
    };
    let mut at = 0;
    body.clear();
    loop {
        let Some((digits, next)) = line(at) else {
            return Ok(None);
        };
        let size = usize::from_str_radix(std::str::from_utf8(digits)?, 16)?;
        if size == 0 {
            at = next;
            break;
        }
        if bytes.len() < next + size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&bytes[next..next + size]);
        at = next + size + 2;
    }
    loop {
        match line(at) {
            None => return Ok(None),
            Some(([], next)) => return Ok(Some(next)),
            Some((_, next)) => at = next,
        }
    }
}
