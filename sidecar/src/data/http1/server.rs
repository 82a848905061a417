//! The connection of a client that speaks HTTP/1.1, from its first byte to its last: one request after the other is read,
//! answered and settled, all of it by the connection's own task. What a request means is not its concern.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, EXPECT, TE},
    response::Parts,
};
use http_body::Body as _;
use sluice_pipeline::framing::{self, Fault, Whole};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    fields,
    incoming::{Next, Shared},
    outgoing::{Asked, Framing, Outgoing, Piece, write_head, write_trailers},
    switched::switched,
};
use crate::data::{
    body::{Arrived, Body, ClientBody},
    connection::Connection,
    headers::has_token,
    serve::InFlight,
    thread::Thread,
};

/// Bytes that are read and forgotten when a connection is ended: unread, they would let the system reset the connection,
/// and the answer be lost (RFC 9112 section 9.6).
const MAX_FORGOTTEN: usize = 256 << 10;
/// How long that may take where a message was refused of which more may come.
const LINGER: Duration = Duration::from_secs(2);

/// What a connection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It speaks HTTP/2.
    Http2,
    /// It is over, or speaks another protocol.
    Over,
}

/// What follows an answer.
enum Then {
    Next,
    HangUp,
    /// Nothing can be written any more.
    Drop,
}

/// A request as it is to be answered.
struct Read {
    arrived: Arrived,
    asked: Asked,
    refused: Option<Fault>,
}

/// Serves the connection to its end. `answer` answers one request; of one that is refused it is told why.
pub async fn serve<S, A, F>(
    thread: &Thread,
    connection: &Connection,
    shared: &Shared<S>,
    answer: A,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    A: Fn(Arrived, Option<Fault>) -> F,
    F: Future<Output = Response<Body>>,
{
    loop {
        let next = poll_fn(|context| shared.borrow().poll_next(context)).await;
        let read = match next {
            Next::Http2 => return Ended::Http2,
            Next::End => break,
            Next::Refused(fault, line) => refused(fault, line),
            Next::Request(head, whole) => read(shared, head, whole),
        };
        let Read {
            arrived,
            asked,
            refused,
        } = read;
        let answering = InFlight::new(|| answer(arrived, refused));
        match exchange(thread, connection, shared, answering, asked).await {
            Then::Next => {}
            Then::HangUp => break,
            Then::Drop => return Ended::Over,
        }
    }
    hang_up(thread, connection, shared).await;
    Ended::Over
}

/// A request out of its head.
fn read<S>(shared: &Shared<S>, head: Bytes, whole: Whole) -> Read
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut incoming = shared.borrow();
    let lines = &incoming.lines;
    let method = Method::from_bytes(lines.method.of(&head));
    let uri = Uri::from_maybe_shared(head.slice(lines.target.range()));
    let (Ok(method), Ok(uri), Ok(fields)) = (method, uri, fields(&head, &lines.fields)) else {
        // What is sound can be read, or is one of the few targets that no type here can hold.
        let line = framing::origin_form(&head).map(Bytes::copy_from_slice);
        return refused(Fault::TargetForm, line);
    };
    let http10 = whole.http10;
    let has = |name, token| has_token(&fields, name, token);
    let (mut connected, mut takes, mut expects) = (false, false, false);
    for line in &lines.fields {
        let is = |name: &[u8]| line.name.of(&head).eq_ignore_ascii_case(name);
        match line.name.to - line.name.from {
            2 => takes |= is(b"te"),
            6 => expects |= is(b"expect"),
            10 => connected |= is(b"connection"),
            _ => {}
        }
    }
    let asked = Asked {
        head: method == Method::HEAD,
        http10,
        trailers: !http10 && takes && has(&TE, "trailers"),
        keep: match http10 {
            true => connected && has(&CONNECTION, "keep-alive"),
            false => !(connected && has(&CONNECTION, "close")),
        },
    };
    let awaits_leave = !http10 && expects && has(&EXPECT, "100-continue");
    let body = if incoming.begin_body(awaits_leave) {
        ClientBody::Empty
    } else {
        drop(incoming);
        ClientBody::Http1(shared.body(match whole.body {
            framing::Body::Length(length) => Some(length),
            _ => None,
        }))
    };
    let mut parts = Box::new(Request::new(()).into_parts().0);
    parts.method = method;
    parts.uri = uri;
    parts.version = if http10 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    parts.headers = fields;
    Read {
        arrived: Arrived { parts, body },
        asked,
        refused: None,
    }
}

/// A request in the place of one that is refused, of which only the line may be shown: `METHOD TARGET`.
fn refused(fault: Fault, line: Option<Bytes>) -> Read {
    let shown = line.as_ref().and_then(|line| {
        let at = line.iter().position(|byte| *byte == b' ')?;
        let method = Method::from_bytes(&line[..at]).ok()?;
        Some((method, Uri::from_maybe_shared(line.slice(at + 1..)).ok()?))
    });
    let mut parts = Box::new(Request::new(()).into_parts().0);
    (parts.method, parts.uri) = shown.unwrap_or_else(|| {
        let none = Method::from_bytes(b"-").unwrap_or_default();
        (none, Uri::from_static("*"))
    });
    let asked = Asked {
        head: false,
        http10: false,
        trailers: false,
        keep: false,
    };
    let body = ClientBody::Empty;
    Read {
        arrived: Arrived { parts, body },
        asked,
        refused: Some(fault),
    }
}

/// Waits for the answer of one request, and sends it.
async fn exchange<S, F>(
    thread: &Thread,
    connection: &Connection,
    shared: &Shared<S>,
    mut answering: InFlight<F>,
    asked: Asked,
) -> Then
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Future<Output = Response<Body>>,
{
    let mut outgoing = Outgoing::default();
    let answered = poll_fn(|context| {
        if let Poll::Ready(answer) = Pin::new(&mut answering).poll(context) {
            return Poll::Ready(Some(answer));
        }
        let mut incoming = shared.borrow();
        // Only while no answer is under way: else they would stand within it.
        if let Some(interim) = connection.interims.take() {
            outgoing.push(interim);
        }
        if let Ok(io) = incoming.io()
            && outgoing.poll_drain(io, context).is_pending()
        {
            return Poll::Pending;
        }
        incoming.poll_gone(context).map(|()| None)
    })
    .await;
    drop(answering);
    let Some(answer) = answered else {
        return Then::Drop;
    };
    // They came with it.
    if let Some(interim) = connection.interims.take() {
        outgoing.push(interim);
    }
    let (head, mut body) = answer.into_parts();
    let own_lines = body.own_lines();
    let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let mut sending = Sending {
        framing: Framing::of(head.status, asked, body.size_hint().exact()),
        head: Some(head),
        own_lines,
        body: Some(body),
        asked,
        keep: false,
        outgoing,
    };
    let sent = poll_fn(|context| sending.poll(thread, shared, context)).await;
    let keep = sending.keep;
    // What did not come to its end is settled here.
    drop(sending);
    let mut incoming = shared.borrow();
    if sent.is_err() {
        return Then::Drop;
    }
    if switches {
        let (io, first) = incoming.give_away();
        if let (Some(io), Some(switching)) = (io, connection.switching.take()) {
            // Whoever waited for it may have given up.
            let _ = switching.send(switched(io, first));
        }
        return Then::Drop;
    }
    incoming.pass_over();
    if keep && incoming.goes_on() {
        Then::Next
    } else {
        Then::HangUp
    }
}

/// An answer on its way.
struct Sending {
    /// Until it is written.
    head: Option<Parts>,
    /// Lines of the head that are written as they are.
    own_lines: Vec<u8>,
    /// Until it has ended: its request is settled with it, before the client can know.
    body: Option<Body>,
    framing: Framing,
    asked: Asked,
    /// Another request may follow.
    keep: bool,
    outgoing: Outgoing,
}

impl Sending {
    /// Sends on; an error: it cannot be sent to its end, and the client must see that.
    fn poll<S>(
        &mut self,
        thread: &Thread,
        shared: &Shared<S>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        loop {
            ready!(self.outgoing.poll_drain(shared.borrow().io()?, context))?;
            if self.head.is_some() && self.framing.is_over() {
                self.body = None;
                self.send(thread, shared, context, Piece::NOTHING, None)?;
                continue;
            }
            let Some(body) = &mut self.body else {
                return Pin::new(shared.borrow().io()?).poll_flush(context);
            };
            // Whoever is asked for the body may read what the client sends: its stream is free meanwhile.
            match Pin::new(body).poll_frame(context) {
                Poll::Pending if self.head.is_some() => {
                    self.send(thread, shared, context, Piece::NOTHING, None)?;
                }
                Poll::Pending => {
                    let mut incoming = shared.borrow();
                    ready!(Pin::new(incoming.io()?).poll_flush(context))?;
                    ready!(incoming.poll_gone(context));
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        let piece = self.piece(data)?;
                        self.send(thread, shared, context, piece, None)?;
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.end(thread, shared, context, Some(&trailers))?;
                    }
                },
                Poll::Ready(None) => self.end(thread, shared, context, None)?,
                Poll::Ready(Some(Err(_))) => {
                    // What there is of it goes out before the connection ends: it shows that it is not whole.
                    self.send(thread, shared, context, Piece::NOTHING, None)?;
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    }

    /// Data as a piece of the framed body.
    fn piece(&mut self, data: Bytes) -> io::Result<Piece> {
        let chunked = self.framing == Framing::Chunked;
        let ends = match &mut self.framing {
            Framing::Length(left) => {
                // More than was announced would be read as another answer.
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or(io::ErrorKind::InvalidData)?;
                *left == 0
            }
            // Trailers may follow where it does not say that it has ended.
            Framing::Chunked => self.body.as_ref().is_none_or(Body::is_end_stream),
            Framing::None | Framing::UntilClose => false,
        };
        if ends {
            self.body = None;
        }
        Ok(Piece {
            data,
            chunked,
            ends,
        })
    }

    /// The body has ended.
    fn end<S>(
        &mut self,
        thread: &Thread,
        shared: &Shared<S>,
        context: &mut Context<'_>,
        trailers: Option<&HeaderMap>,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.body = None;
        let trailers = trailers.filter(|_| self.asked.trailers);
        match (self.framing, trailers) {
            (Framing::Length(1..), _) => Err(io::ErrorKind::UnexpectedEof.into()),
            (Framing::Chunked, Some(_)) => {
                self.send(thread, shared, context, Piece::NOTHING, trailers)
            }
            (framing, _) => {
                let piece = Piece {
                    data: Bytes::new(),
                    chunked: framing == Framing::Chunked,
                    ends: true,
                };
                self.send(thread, shared, context, piece, None)
            }
        }
    }

    /// Gives a piece to the socket, with the head where that was not written yet.
    fn send<S>(
        &mut self,
        thread: &Thread,
        shared: &Shared<S>,
        context: &mut Context<'_>,
        piece: Piece,
        trailers: Option<&HeaderMap>,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (head, framing, asked) = (self.head.take(), self.framing, self.asked);
        let framing = match framing {
            // The head tells of all of it.
            Framing::Length(left) => Framing::Length(left + piece.data.len() as u64),
            framing => framing,
        };
        let (keep, own_lines) = (&mut self.keep, &self.own_lines);
        let write_first = |out: &mut Vec<u8>| {
            if let Some(head) = &head {
                let date = || thread.scratch.date(thread.clock().wall_s());
                *keep = write_head(out, head, own_lines, framing, asked, date);
            }
            if let Some(trailers) = trailers {
                write_trailers(out, trailers);
            }
        };
        let mut incoming = shared.borrow();
        let io = incoming.io()?;
        self.outgoing
            .send(io, context, &thread.scratch, write_first, piece)
    }
}

/// Ends the connection so that the client gets what was written: what it has sent is read and forgotten first.
async fn hang_up<S>(thread: &Thread, connection: &Connection, shared: &Shared<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let shut = poll_fn(|context| match shared.borrow().io() {
        Ok(io) => Pin::new(io).poll_shutdown(context),
        Err(gone) => Poll::Ready(Err(gone)),
    });
    if shut.await.is_err() {
        return;
    }
    let lingers = connection.fault.get().is_some();
    let mut forgotten = 0;
    let forget = poll_fn(|context| {
        while forgotten < MAX_FORGOTTEN {
            match shared.borrow().poll_forget(context) {
                Poll::Ready(0) => break,
                Poll::Ready(bytes) => forgotten += bytes,
                Poll::Pending if lingers => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    });
    let deadline_ms = thread.clock().now_ms() + LINGER.as_millis() as u64;
    // A client that goes on sending has had its answer.
    let _ = thread.ticker.within(deadline_ms, forget).await;
}
