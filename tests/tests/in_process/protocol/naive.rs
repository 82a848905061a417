//! A proxy as one writes it in an hour: it finds the end of a head and the first length, passes the bytes on as they are and
//! trusts both ends. It shows that the table can fail: what it lets through is what the sidecar must not.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Starts one in front of `origin`. It ends with its runtime.
pub async fn start(origin: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // How a connection ends is the table's to see.
            tokio::spawn(async move { serve(client, origin).await });
        }
    });
    Ok(address)
}

async fn serve(mut client: TcpStream, origin: SocketAddr) -> Result<()> {
    let mut buffer = Vec::new();
    loop {
        let request = message(&mut client, &mut buffer).await?;
        let mut upstream = TcpStream::connect(origin).await?;
        upstream.write_all(&request).await?;
        let mut answers = Vec::new();
        let answer = message(&mut upstream, &mut answers).await?;
        client.write_all(&answer).await?;
    }
}

/// The bytes of one message.
async fn message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Vec<u8>> {
    let end = loop {
        let ends = [b"\n\r\n".as_slice(), b"\n\n"];
        let found = ends.iter().filter_map(|end| {
            let at = buffer
                .windows(end.len())
                .position(|window| window == *end)?;
            Some(at + end.len())
        });
        if let Some(end) = found.min() {
            break end;
        }
        more(stream, buffer).await?;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let value = |name: &str| {
        let mut lines = head.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .map(|value| value.trim().to_owned())
    };
    let whole = if let Some(length) = value("content-length:") {
        end + length.parse::<usize>().unwrap_or(0)
    } else if value("transfer-encoding:").is_some_and(|coding| coding.contains("chunked")) {
        loop {
            let last = b"0\r\n\r\n";
            if let Some(at) = buffer[end..]
                .windows(last.len())
                .position(|window| window == last)
            {
                break end + at + last.len();
            }
            more(stream, buffer).await?;
        }
    } else {
        end
    };
    while buffer.len() < whole {
        more(stream, buffer).await?;
    }
    Ok(buffer.drain(..whole).collect())
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<()> {
    let read = stream.read_buf(buffer).await?;
    (read > 0).then_some(()).context("the connection ended")
}
