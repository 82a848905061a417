//! Frames of HTTP/2 written by hand (RFC 9113 section 4), so that what no library would send can be sent; and the little
//! that is to be read back.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// SETTINGS with nothing in it.
pub fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

/// A whole header block in one frame.
pub fn headers(flags: u8, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, 1, &block(fields))
}

pub fn data(flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, bytes)
}

/// Literal fields, never indexed, without Huffman's code (RFC 7541 section 6.2.3).
fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// A number in seven bits and more (RFC 7541 section 5.1).
fn length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(length as u8);
        return;
    }
    block.push(127);
    let mut left = length - 127;
    while left >= 128 {
        block.push((left % 128) as u8 | 128);
        left /= 128;
    }
    block.push(left as u8);
}

/// What became of stream 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with this status.
    Status(u16),
    /// Reset, or the connection ended.
    Reset,
}

/// Sends frames on a new connection and waits for what becomes of stream 1.
pub async fn exchange(address: SocketAddr, frames: &[u8], patience: Duration) -> Result<Outcome> {
    let mut stream = timeout(patience, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    let opening = [PREFACE, &settings(), frames].concat();
    // The other end may have closed already: what it said is read.
    let _ = timeout(patience, stream.write_all(&opening)).await;
    let mut buffer = Vec::new();
    let mut status = None;
    loop {
        while let Some((kind, flags, id, payload)) = next(&mut buffer) {
            match (kind, id) {
                (HEADERS, 1) if status.is_none() => {
                    status = Some(status_of(&payload).context("no :status")?);
                }
                (RST_STREAM, 1) | (GOAWAY, _) => return Ok(Outcome::Reset),
                _ => {}
            }
            if let (HEADERS | DATA, 1, Some(status)) = (kind, id, status)
                && flags & END_STREAM != 0
            {
                return Ok(Outcome::Status(status));
            }
        }
        let read = timeout(patience, stream.read_buf(&mut buffer)).await;
        if read.context("silence")?.unwrap_or(0) == 0 {
            return Ok(Outcome::Reset);
        }
    }
}

fn next(buffer: &mut Vec<u8>) -> Option<(u8, u8, u32, Vec<u8>)> {
    let head: [u8; 9] = buffer.get(..9)?.try_into().ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let payload = buffer.get(9..9 + length)?.to_vec();
    buffer.drain(..9 + length);
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], id, payload))
}

/// The `:status` that a header block begins with (RFC 7541 appendix A).
fn status_of(block: &[u8]) -> Option<u16> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [indexed @ 0x88..=0x8e, ..] => Some(INDEXED[usize::from(indexed - 0x88)]),
        // A literal with the name of the table's eighth entry, in one of three kinds.
        [0x08 | 0x18 | 0x48, length, text @ ..] if length & 0x80 == 0 => {
            std::str::from_utf8(text.get(..usize::from(*length))?)
                .ok()?
                .parse()
                .ok()
        }
        [0x08 | 0x18 | 0x48, length, text @ ..] => digits(text.get(..usize::from(length & 0x7f))?),
        _ => None,
    }
}

/// Three digits in Huffman's code (RFC 7541 appendix B): 0, 1 and 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> Option<u16> {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let number = |bits: &[u8]| {
        bits.iter()
            .fold(0_u16, |sum, bit| sum << 1 | u16::from(*bit))
    };
    let (mut at, mut value) = (0, 0);
    for _ in 0..3 {
        let five = number(bits.get(at..at + 5)?);
        let digit = if five < 3 {
            at += 5;
            five
        } else {
            let six = number(bits.get(at..at + 6)?);
            at += 6;
            six.checked_sub(0b01_1001 - 3)?
        };
        value = value * 10 + digit;
    }
    Some(value)
}
