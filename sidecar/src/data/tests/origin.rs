//! A strict origin: it refuses what a sidecar must never send, remembers what it was sent, and answers as it is told.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What the origin does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Status line, header lines and body; the length is added.
    Answer(&'static str, Vec<String>, String),
    /// The same once the origin's gate lets one pass.
    Gated(&'static str, Vec<String>, String),
    /// Raw bytes.
    Raw(String),
    /// Closes without a byte.
    Close,
    /// Never answers.
    Silence,
}

impl Reply {
    pub fn ok(body: &str) -> Self {
        Self::Answer("200 OK", Vec::new(), body.into())
    }

    pub fn with(line: &str, body: &str) -> Self {
        Self::Answer("200 OK", vec![line.into()], body.into())
    }
}

type Behave = dyn Fn(&Seen, usize) -> Reply + Send + Sync;

pub struct Origin {
    pub address: SocketAddr,
    /// Gated answers pass as it has permits.
    pub gate: Arc<Semaphore>,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// An origin that answers by `behave(request, number of the request on its connection)`.
    pub async fn start(behave: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let (seen, gate) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(Semaphore::new(0)),
        );
        let behave: Arc<Behave> = Arc::new(behave);
        let (log, permits) = (Arc::clone(&seen), Arc::clone(&gate));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(
                    stream,
                    Arc::clone(&behave),
                    Arc::clone(&log),
                    Arc::clone(&permits),
                ));
            }
        });
        Self {
            address,
            gate,
            seen,
            task,
        }
    }

    /// Everything it was sent.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    /// Waits until it was sent `count` requests.
    pub async fn wait_for(&self, count: usize) {
        for _ in 0..2000 {
            if self.seen().len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("only {} requests came", self.seen().len());
    }
}

async fn serve(
    mut stream: TcpStream,
    behave: Arc<Behave>,
    seen: Arc<Mutex<Vec<Seen>>>,
    gate: Arc<Semaphore>,
) {
    let mut buffer = Vec::new();
    let mut number = 0;
    loop {
        let request = match read(&mut stream, &mut buffer).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(why) => {
                let body = format!("strict origin: {why}");
                let answer = format!(
                    "HTTP/1.1 400 Bad\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                drop(stream.write_all(answer.as_bytes()).await);
                return;
            }
        };
        number += 1;
        let head = request.method == "HEAD";
        let reply = behave(&request, number);
        seen.lock().expect("no panic").push(request);
        let (status, lines, body) = match reply {
            Reply::Answer(status, lines, body) => (status, lines, body),
            Reply::Gated(status, lines, body) => {
                gate.acquire().await.expect("open").forget();
                (status, lines, body)
            }
            Reply::Raw(text) => {
                drop(stream.write_all(text.as_bytes()).await);
                continue;
            }
            Reply::Close => return,
            Reply::Silence => std::future::pending().await,
        };
        let mut answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
        for line in lines {
            answer.push_str(&line);
            answer.push_str("\r\n");
        }
        answer.push_str("\r\n");
        if !head {
            answer.push_str(&body);
        }
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads one request; `Err`: what no sidecar may send.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Seen>, String> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if !more(stream, buffer).await {
            return if buffer.is_empty() {
                Ok(None)
            } else {
                Err("half a head".into())
            };
        }
    };
    let head: Vec<u8> = buffer.drain(..end).collect();
    let head = String::from_utf8(head).map_err(|_| "a head that is no text")?;
    let mut lines = head.lines();
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = line[..] else {
        return Err(format!("request line {line:?}"));
    };
    if !target.starts_with('/') && target != "*" {
        return Err(format!("target {target} is not in origin form"));
    }
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let count = |name: &str| headers.iter().filter(|(known, _)| known == name).count();
    if count("host") != 1 {
        return Err(format!("{} Host lines", count("host")));
    }
    let options = headers.iter().filter(|(name, _)| name == "connection");
    if options.clone().any(|(_, value)| value != "te") {
        return Err("a connection option of another hop".into());
    }
    for name in ["keep-alive", "proxy-connection", "upgrade", "expect"] {
        if count(name) > 0 {
            return Err(format!("hop-by-hop header {name}"));
        }
    }
    if count("content-length") > 1
        || (count("content-length") == 1 && count("transfer-encoding") > 0)
    {
        return Err("ambiguous framing".into());
    }
    let mut seen = Seen {
        method: method.into(),
        target: target.into(),
        headers,
        body: String::new(),
    };
    let body = if seen.header("transfer-encoding") == Some("chunked") {
        chunked(stream, buffer).await.ok_or("half a body")?
    } else {
        let length = seen
            .header("content-length")
            .map_or(0, |length| length.parse().expect("a number"));
        take(stream, buffer, length).await.ok_or("half a body")?
    };
    seen.body = String::from_utf8(body).map_err(|_| "a body that is no text")?;
    Ok(Some(seen))
}

async fn chunked(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(2).position(|window| window == b"\r\n") {
                break at + 2;
            }
            if !more(stream, buffer).await {
                return None;
            }
        };
        let line = take(stream, buffer, end).await?;
        let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
        body.extend(take(stream, buffer, size).await?);
        take(stream, buffer, 2).await?;
        if size == 0 {
            return Some(body);
        }
    }
}

async fn take(stream: &mut TcpStream, buffer: &mut Vec<u8>, count: usize) -> Option<Vec<u8>> {
    while buffer.len() < count {
        if !more(stream, buffer).await {
            return None;
        }
    }
    Some(buffer.drain(..count).collect())
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 4096];
    match stream.read(&mut chunk).await {
        Ok(count) if count > 0 => {
            buffer.extend_from_slice(&chunk[..count]);
            true
        }
        _ => false,
    }
}
