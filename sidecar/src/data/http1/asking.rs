//! A request on its way to an upstream of HTTP/1.1: its head, how its body is framed (RFC 9112 sections 6 and 7), and sending it
//! as it comes. What the upstream answers is not looked at.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::Body as _;
use tokio::io::AsyncWrite;

use super::{
    Scratch,
    client::Broken,
    outgoing::{Framing, Outgoing, Piece, write_length, write_trailers},
    write_field,
};
use crate::data::{
    body::{Leaving, RequestBody},
    headers::has_token,
};

/// What of a request is not sent yet.
#[derive(Debug)]
pub struct Asking {
    body: RequestBody,
    framing: Framing,
    /// The trailers that the head told of: only those may come (RFC 9110 section 6.6.2).
    announced: HeaderMap,
    outgoing: Outgoing,
    /// All of it is in `outgoing`, or written.
    over: bool,
}

/// What comes next of a body.
enum Step {
    Piece(Piece),
    Trailers(HeaderMap),
}

/// Sends the head and what there is of the body, at once. None: that was all. The request stays in its place where not a byte
/// of it was sent and it can be sent as it was.
pub fn begin(
    io: &mut (impl AsyncWrite + Unpin),
    scratch: &Scratch,
    request: &mut Option<Leaving>,
    context: &mut Context<'_>,
) -> Result<Option<Asking>, Broken> {
    let Leaving { parts, body } = request.take().ok_or(Broken::Unsent)?;
    let untouched = body.again();
    let mut asking = Asking::new(body, &parts);
    let framing = asking.framing;
    // Whoever is asked for the body may use the room to write in.
    let step = match asking.over {
        true => Step::Piece(Piece::NOTHING),
        false => asking.step(context)?.unwrap_or(Step::Piece(Piece::NOTHING)),
    };
    let head = |out: &mut Vec<u8>| write_head(out, &parts, framing);
    match (asking.send(io, scratch, context, head, step), untouched) {
        (Err(error), Some(body)) if asking.outgoing.is_empty() => {
            *request = Some(Leaving { parts, body });
            return Err(error.into());
        }
        (sent, _) => sent?,
    }
    match asking.poll(io, scratch, context) {
        Poll::Ready(Ok(())) => Ok(None),
        // What was sent may be enough for an answer: that is looked at first.
        Poll::Pending | Poll::Ready(Err(Broken::Io(_))) => Ok(Some(asking)),
        Poll::Ready(Err(error)) => Err(error),
    }
}

impl Asking {
    fn new(body: RequestBody, parts: &Parts) -> Self {
        let over = body.is_end_stream();
        let framing = match body.size_hint().exact() {
            _ if over => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let mut announced = HeaderMap::new();
        if framing == Framing::Chunked {
            for names in parts.headers.get_all(TRAILER) {
                announced.append(TRAILER, names.clone());
            }
        }
        Self {
            body,
            framing,
            announced,
            outgoing: Outgoing::default(),
            over,
        }
    }

    /// Sends on. An error of the stream is one that the answer may explain.
    pub fn poll(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        scratch: &Scratch,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.outgoing.poll_drain(io, context))?;
            if self.over {
                return Pin::new(io).poll_flush(context).map_err(Broken::from);
            }
            let Some(step) = self.step(context)? else {
                ready!(Pin::new(io).poll_flush(context))?;
                return Poll::Pending;
            };
            self.send(io, scratch, context, |_| {}, step)?;
        }
    }

    fn send(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        scratch: &Scratch,
        context: &mut Context<'_>,
        head: impl FnOnce(&mut Vec<u8>),
        step: Step,
    ) -> std::io::Result<()> {
        let (piece, trailers) = match step {
            Step::Piece(piece) => (piece, None),
            Step::Trailers(trailers) => (Piece::NOTHING, Some(trailers)),
        };
        let first = |out: &mut Vec<u8>| {
            head(out);
            if let Some(trailers) = &trailers {
                write_trailers(out, trailers);
            }
        };
        self.outgoing.send(io, context, scratch, first, piece)
    }

    /// What comes next of the body; none: nothing yet.
    fn step(&mut self, context: &mut Context<'_>) -> Result<Option<Step>, Broken> {
        let chunked = self.framing == Framing::Chunked;
        let data = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => return Ok(None),
            Poll::Ready(Some(Err(error))) => return Err(Broken::Request(error)),
            Poll::Ready(None) => {
                self.over = true;
                Bytes::new()
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    self.over = self.body.is_end_stream();
                    data
                }
                Err(frame) => {
                    self.over = true;
                    let trailers = frame.into_trailers().unwrap_or_default();
                    if chunked {
                        return Ok(Some(Step::Trailers(self.allowed(trailers))));
                    }
                    Bytes::new()
                }
            },
        };
        if let Framing::Length(left) = &mut self.framing {
            // More would be another request, and less the beginning of one.
            *left = left.checked_sub(data.len() as u64).ok_or(Broken::Length)?;
            if self.over && *left > 0 {
                return Err(Broken::Length);
            }
        }
        Ok(Some(Step::Piece(Piece {
            data,
            chunked,
            ends: self.over,
        })))
    }

    /// Of the trailers those that were announced.
    fn allowed(&self, trailers: HeaderMap) -> HeaderMap {
        let mut allowed = HeaderMap::new();
        for (name, value) in &trailers {
            if has_token(&self.announced, &TRAILER, name.as_str()) {
                allowed.append(name, value.clone());
            }
        }
        allowed
    }
}

/// Writes the head of a request, in origin form.
fn write_head(out: &mut Vec<u8>, parts: &Parts, framing: Framing) {
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    if !target.starts_with('/') && target != "*" {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut told = false;
    for (name, value) in &parts.headers {
        if *name == CONTENT_LENGTH {
            told = true;
        } else if *name != TRANSFER_ENCODING {
            write_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    match framing {
        Framing::Length(length) => write_length(out, length),
        Framing::Chunked => write_field(out, b"transfer-encoding", b"chunked"),
        Framing::None | Framing::UntilClose if told => write_length(out, 0),
        Framing::None | Framing::UntilClose => {}
    }
    out.extend_from_slice(b"\r\n");
}
