//! Clients that do what no library would: bytes by hand, of HTTP/1.1 and HTTP/2, and a look at how their connections end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// How long anything may take that is not measured.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How a connection ended.
#[derive(Debug)]
pub struct End {
    /// When, since it was asked for.
    pub after: Duration,
    /// What came before.
    pub read: Vec<u8>,
}

impl End {
    /// The status of the answer that came, 0 without one.
    pub fn status(&self) -> u16 {
        let text = String::from_utf8_lossy(&self.read);
        let status = text
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3));
        status.and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// What came, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

/// A connection.
pub async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that can take little before it is read.
pub async fn connect_narrow(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    Ok(tokio::time::timeout(PATIENCE, socket.connect(address)).await??)
}

/// Sends `first`, then `drip` again and again, until the other end has had enough.
pub async fn drip(address: SocketAddr, first: &[u8], drip: &[u8], every: Duration) -> Result<End> {
    let mut stream = connect(address).await?;
    let began = Instant::now();
    stream.write_all(first).await?;
    let mut read = Vec::new();
    let mut due = tokio::time::interval(every);
    loop {
        ensure!(began.elapsed() < PATIENCE, "it was never closed");
        tokio::select! {
            // A write that fails says what the next read says too.
            _ = due.tick() => drop(stream.write_all(drip).await),
            came = stream.read_buf(&mut read) => match came {
                Ok(0) | Err(_) => return Ok(End { after: began.elapsed(), read }),
                Ok(_) => {}
            }
        }
    }
}

/// Asks, then reads `bytes` of the answer every so often, if any at all, until the connection is reset.
pub async fn sip(address: SocketAddr, ask: &[u8], bytes: usize, every: Duration) -> Result<End> {
    let mut stream = connect_narrow(address).await?;
    let began = Instant::now();
    stream.write_all(ask).await?;
    let mut read = vec![0; bytes];
    loop {
        ensure!(began.elapsed() < PATIENCE, "it was never closed");
        tokio::time::sleep(every).await;
        if let Some(error) = stream.take_error()? {
            ensure!(
                error.kind() == std::io::ErrorKind::ConnectionReset,
                "{error}"
            );
            let after = began.elapsed();
            return Ok(End { after, read });
        }
        if bytes > 0 {
            match stream.try_read(&mut read) {
                Ok(0) => bail!("it was ended as if the answer were whole"),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    let after = began.elapsed();
                    return Ok(End { after, read });
                }
            }
        }
    }
}

/// Sends bytes and reads until the other end closes.
pub async fn last_answer(mut stream: TcpStream, bytes: &[u8]) -> Result<End> {
    let began = Instant::now();
    // A refusal may be there already.
    let _ = stream.write_all(bytes).await;
    let mut read = Vec::new();
    let reading = async { while !matches!(stream.read_buf(&mut read).await, Ok(0) | Err(_)) {} };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .context("it was never closed")?;
    let after = began.elapsed();
    Ok(End { after, read })
}

/// What a client of HTTP/2 sends first, with empty settings.
pub fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes
}

/// A frame (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET /` of `open.example` as a header block, all of it from the static table but the authority (RFC 7541).
pub fn header_block() -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84, 0x41];
    let authority = b"open.example";
    block.push(authority.len() as u8);
    block.extend(authority);
    block
}

/// The error codes of the GOAWAY frames among the bytes a server sent.
pub fn goaways(mut bytes: &[u8]) -> Vec<u32> {
    let mut codes = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some(payload) = rest.get(..length) else {
            break;
        };
        if let (7, Some(code)) = (head[3], payload.get(4..8)) {
            codes.push(u32::from_be_bytes(code.try_into().expect("four bytes")));
        }
        bytes = &rest[length..];
    }
    codes
}
