//! A raw HTTP/1.1 client: sends bytes, reads one answer.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The last segment of the problem type.
    pub fn problem(&self) -> &str {
        let start = self.body.find("problems/").map_or(0, |at| at + 9);
        self.body[start..].split('"').next().unwrap_or_default()
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = timeout(PATIENCE, TcpStream::connect(address))
            .await
            .expect("in time")
            .expect("connects");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("writes");
    }

    /// Sends a head without a body and reads the answer. `lines` are header lines.
    pub async fn ask(&mut self, method: &str, target: &str, lines: &[&str]) -> Answer {
        self.send(method, target, lines, "").await
    }

    pub async fn send(&mut self, method: &str, target: &str, lines: &[&str], body: &str) -> Answer {
        let mut request = format!("{method} {target} HTTP/1.1\r\n");
        if !lines
            .iter()
            .any(|line| line.to_ascii_lowercase().starts_with("host:"))
        {
            request.push_str("host: a.example\r\n");
        }
        for line in lines {
            request.push_str(line);
            request.push_str("\r\n");
        }
        if !body.is_empty() {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(body);
        self.write(request.as_bytes()).await;
        self.answer(method).await
    }

    /// Reads an answer to `method`.
    pub async fn answer(&mut self, method: &str) -> Answer {
        timeout(PATIENCE, self.read(method))
            .await
            .expect("an answer in time")
    }

    /// Whether the other end has closed the connection, without a byte more.
    pub async fn is_closed(&mut self) -> bool {
        matches!(
            timeout(PATIENCE, self.stream.read(&mut [0; 16])).await,
            Ok(Ok(0) | Err(_))
        )
    }

    /// Reads exactly `count` bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            self.more().await;
        }
        self.buffer.drain(..count).collect()
    }

    async fn read(&mut self, method: &str) -> Answer {
        let head_end = loop {
            if let Some(at) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break at + 4;
            }
            self.more().await;
        };
        let head = String::from_utf8(self.bytes(head_end).await).expect("text");
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .expect("a status line");
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer {
            status,
            headers,
            body: String::new(),
        };
        if method != "HEAD" && status != 204 && status != 304 {
            let body = if answer.header("transfer-encoding") == Some("chunked") {
                self.chunked().await
            } else {
                let length = answer
                    .header("content-length")
                    .map_or(0, |length| length.parse().expect("a number"));
                self.bytes(length).await
            };
            answer.body = String::from_utf8(body).expect("text");
        }
        answer
    }

    async fn chunked(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                    break at + 2;
                }
                self.more().await;
            };
            let line = self.bytes(end).await;
            let size = usize::from_str_radix(std::str::from_utf8(&line).expect("text").trim(), 16)
                .expect("a size");
            body.extend(self.bytes(size).await);
            assert_eq!(self.bytes(2).await, b"\r\n");
            if size == 0 {
                return body;
            }
        }
    }

    async fn more(&mut self) {
        let mut chunk = [0; 4096];
        let count = self.stream.read(&mut chunk).await.expect("reads");
        assert!(
            count > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&self.buffer)
        );
        self.buffer.extend_from_slice(&chunk[..count]);
    }
}
