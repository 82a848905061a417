//! Answers as a client of HTTP/1.1 gets them: heads, how their bodies are framed (RFC 9112 sections 6 and 7), and writing as
//! much at once as there is.

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{
    HeaderMap, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING},
    response::Parts,
};
use sluice_pipeline::ratelimit::headers::Field;
use tokio::io::AsyncWrite;

use super::{Date, Scratch, write_field, write_fields};

/// Bytes of a body that are copied behind what stands before them, to be written at once; more are written from where
/// they are.
const SMALL: usize = 8 << 10;
/// The end of a body in chunks that has no trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What of a request decides how its answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// It is HEAD.
    pub head: bool,
    /// It is one of HTTP/1.0, whose client knows no chunks.
    pub http10: bool,
    /// The client takes trailers.
    pub trailers: bool,
    /// Another request may follow it.
    pub keep: bool,
}

/// How a body is told apart from what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes are left of it.
    Length(u64),
    /// By chunks.
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

impl Framing {
    /// Of an answer whose body has `exact` bytes, where that is known.
    pub fn of(status: StatusCode, asked: Asked, exact: Option<u64>) -> Self {
        let bodiless = status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        match exact {
            _ if bodiless || asked.head => Self::None,
            Some(length) => Self::Length(length),
            None if asked.http10 => Self::UntilClose,
            None => Self::Chunked,
        }
    }

    /// Whether nothing more is to be sent.
    pub fn is_over(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// Writes a head; false: its connection ends with it. `own_lines` are the limits' field lines, ready: they stand in place of
/// any that the head has.
pub fn write_head(
    out: &mut Vec<u8>,
    head: &Parts,
    own_lines: &[u8],
    framing: Framing,
    asked: Asked,
    date: impl FnOnce() -> Date,
) -> bool {
    let version: &[u8] = if asked.http10 {
        b"HTTP/1.0 "
    } else {
        b"HTTP/1.1 "
    };
    out.extend_from_slice(version);
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(
        head.status
            .canonical_reason()
            .unwrap_or_default()
            .as_bytes(),
    );
    out.extend_from_slice(b"\r\n");
    let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let (mut dated, mut connected, mut closes) = (false, false, false);
    for (name, value) in &head.headers {
        if *name == CONTENT_LENGTH {
            // Of an answer without its body it tells how long that would be.
            let tells = framing == Framing::None && head.status != StatusCode::NO_CONTENT;
            if !tells || head.status.is_informational() {
                continue;
            }
        } else if *name == TRANSFER_ENCODING {
            continue;
        } else if *name == DATE {
            dated = true;
        } else if *name == CONNECTION {
            connected = true;
            closes |= value.as_bytes().eq_ignore_ascii_case(b"close");
        } else if !own_lines.is_empty() && Field::ALL.iter().any(|own| own.name() == *name) {
            continue;
        }
        write_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(own_lines);
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => write_length(out, length),
        Framing::Chunked => write_field(out, b"transfer-encoding", b"chunked"),
    }
    let keep = asked.keep && !closes && framing != Framing::UntilClose;
    if !switches && !connected {
        match (keep, asked.http10) {
            (false, false) => write_field(out, b"connection", b"close"),
            // A client of HTTP/1.0 that asked for it waits for this word.
            (true, true) => write_field(out, b"connection", b"keep-alive"),
            (true, false) | (false, true) => {}
        }
    }
    if !dated {
        write_field(out, b"date", &date());
    }
    out.extend_from_slice(b"\r\n");
    keep
}

/// Writes how many bytes a body has.
pub fn write_length(out: &mut Vec<u8>, length: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    write_field(out, b"content-length", &digits[at..]);
}

/// What could not be written yet.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// A head, or what frames a chunk.
    first: Bytes,
    chunk: Bytes,
    /// What ends the chunk.
    last: Bytes,
}

impl Outgoing {
    /// Adds what is written before an answer begins.
    pub fn push(&mut self, bytes: Vec<u8>) {
        self.first = match self.first.len() {
            0 => bytes.into(),
            _ => [&self.first[..], &bytes].concat().into(),
        };
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.chunk.is_empty() && self.last.is_empty()
    }

    /// Writes what is left.
    pub fn poll_drain(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let slices = [&self.first, &self.chunk, &self.last].map(|bytes| IoSlice::new(bytes));
            let io = Pin::new(&mut *io);
            match ready!(io.poll_write_vectored(context, &slices))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        for bytes in [&mut self.first, &mut self.chunk, &mut self.last] {
            let here = written.min(bytes.len());
            bytes.advance(here);
            written -= here;
            if bytes.is_empty() {
                // Whoever read it may use its memory again.
                *bytes = Bytes::new();
            }
        }
    }

    /// Writes what the socket takes, and keeps the rest: what `write_first` writes, which may be nothing, and a piece of a
    /// body. Only where nothing is left of what came before.
    pub fn send(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
        scratch: &Scratch,
        write_first: impl FnOnce(&mut Vec<u8>),
        piece: Piece,
    ) -> io::Result<()> {
        scratch.write(|out| {
            write_first(out);
            let Piece {
                data,
                chunked,
                ends,
            } = piece;
            let mut last = &b""[..];
            if chunked {
                if !data.is_empty() {
                    // Writing to memory does not fail.
                    let _ = write!(out, "{:x}\r\n", data.len());
                    last = if ends { b"\r\n0\r\n\r\n" } else { b"\r\n" };
                } else if ends {
                    last = LAST_CHUNK;
                }
            }
            if data.len() > SMALL {
                self.first = Bytes::copy_from_slice(out);
                self.chunk = data;
                self.last = Bytes::from_static(last);
                return match self.poll_drain(io, context) {
                    Poll::Ready(done) => done,
                    Poll::Pending => Ok(()),
                };
            }
            out.extend_from_slice(&data);
            out.extend_from_slice(last);
            if out.is_empty() {
                return Ok(());
            }
            let written = match Pin::new(io).poll_write(context, out) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            if written < out.len() {
                self.first = Bytes::copy_from_slice(&out[written..]);
            }
            Ok(())
        })
    }
}

/// A piece of a body.
#[derive(Debug)]
pub struct Piece {
    /// Its bytes.
    pub data: Bytes,
    /// They are a chunk.
    pub chunked: bool,
    /// They are the last.
    pub ends: bool,
}

impl Piece {
    /// No bytes, and no end.
    pub const NOTHING: Self = Self {
        data: Bytes::new(),
        chunked: false,
        ends: false,
    };
}

/// The end of a body in chunks, with trailers (RFC 9112 section 7.1.2).
pub fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    write_fields(out, trailers);
    out.extend_from_slice(b"\r\n");
}
