//! The connection to an upstream that speaks HTTP/1.1, for one request: it is sent, and what is answered is read, by the
//! request's own task. A connection is nothing but its stream: between two requests nothing is known of it, and nothing kept.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Response, StatusCode, Version, header::CONNECTION};
use sluice_pipeline::framing::{Body, Fault, Lines, Read, Reader, Whole};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::{
    Scratch,
    answer::{Answer, Arrived, Way},
    asking::{self, Asking},
    fields,
    switched::switched,
};
use crate::data::{
    body::{Leaving, RequestBodyError},
    headers::has_token,
    interim::{Hearer, Interims},
    upstream::{Lease, UpstreamBody, UpstreamStream},
};

/// Bytes of a head that are read behind the part of it that is there.
const MORE: usize = 4 << 10;

/// Why an exchange with an upstream came to no end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Not a byte of an answer came.
    #[error("it closed the connection before it answered")]
    Unanswered,
    /// The connection ended where an answer had not.
    #[error("it closed the connection within its answer")]
    Cut,
    /// The connection is not what it has to be.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The answer is none that may be believed.
    #[error("{}", .0.what())]
    Fault(Fault),
    /// The request could not be read to its end.
    #[error("the request did not come whole: {0}")]
    Request(RequestBodyError),
    /// The request is not as long as it said.
    #[error("the request's body is not as long as announced")]
    Length,
    /// There was no request: a fault of the caller.
    #[error("there is no request to send")]
    Unsent,
    /// In HTTP/2.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

/// What the exchanges of one thread use, one after the other.
#[derive(Debug, Default)]
pub struct Room {
    scratch: Rc<Scratch>,
    lines: RefCell<Lines>,
}

impl Room {
    /// With the thread's room to read and write in.
    pub fn new(scratch: Rc<Scratch>) -> Self {
        Self {
            scratch,
            lines: RefCell::default(),
        }
    }

    /// The thread's room to read and write in.
    pub fn scratch(&self) -> &Rc<Scratch> {
        &self.scratch
    }
}

/// Whether the other end of an idle connection is still there and has nothing to say, as far as is known without asking the
/// system.
pub fn is_idle(io: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut byte = [0];
    let mut read = ReadBuf::new(&mut byte);
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(io).poll_read(&mut context, &mut read).is_pending()
}

/// Sends a request over an idle connection, and waits for the head of its answer. The connection goes back by `lease` once
/// the answer has ended well. The request stays in its place where not a byte of it was sent.
pub async fn exchange(
    room: &Room,
    lease: Lease,
    mut io: UpstreamStream,
    request: &mut Option<Leaving>,
    interims: Option<&Rc<Interims>>,
) -> Result<Response<UpstreamBody>, Broken> {
    let bodiless = request
        .as_ref()
        .is_some_and(|request| request.parts.method == Method::HEAD);
    let asking = poll_fn(|context| {
        let begun = asking::begin(&mut io, &room.scratch, request, context);
        Poll::Ready(begun)
    })
    .await
    .map_err(|error| match error {
        Broken::Io(error) if is_gone(&error) => Broken::Unanswered,
        error => error,
    })?;
    let mut reader = Reader::responses();
    reader.expect(bodiless);
    let mut waiting = Waiting {
        room,
        reader,
        held: BytesMut::new(),
        asking,
        failed: false,
        begun: false,
        interims,
    };
    let head = poll_fn(|context| waiting.poll(&mut io, context)).await?;
    answered(waiting, lease, io, head)
}

/// A request that waits for the head of its answer.
struct Waiting<'r> {
    room: &'r Room,
    reader: Reader,
    /// A head that came in part.
    held: BytesMut,
    /// What of the request is not sent yet.
    asking: Option<Asking>,
    /// The rest of the request could not be sent.
    failed: bool,
    /// A byte of an answer came.
    begun: bool,
    interims: Option<&'r Rc<Interims>>,
}

/// A whole head.
struct Head {
    whole: Whole,
    /// From its first byte on, with what came behind it.
    bytes: Bytes,
    fields: HeaderMap,
    status: StatusCode,
}

impl Waiting<'_> {
    /// Sends what is left to send, and reads to the end of the head.
    fn poll(
        &mut self,
        io: &mut UpstreamStream,
        context: &mut Context<'_>,
    ) -> Poll<Result<Head, Broken>> {
        if let Some(asking) = &mut self.asking {
            match asking.poll(io, &self.room.scratch, context) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.asking = None,
                // It may have been answered all the same, which says more.
                Poll::Ready(Err(Broken::Io(_))) => {
                    self.asking = None;
                    self.failed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        loop {
            let looked = if self.held.is_empty() {
                self.room.scratch.read(|room| {
                    let mut read = ReadBuf::new(room);
                    let polled = ready!(Pin::new(&mut *io).poll_read(context, &mut read));
                    Poll::Ready(self.came(polled, read.filled(), context))
                })
            } else {
                self.held.reserve(MORE);
                let polled = ready!(poll_read_buf(Pin::new(&mut *io), context, &mut self.held));
                let held = match &polled {
                    Ok(1..) => std::mem::take(&mut self.held),
                    Ok(0) | Err(_) => BytesMut::new(),
                };
                Poll::Ready(self.came(polled.map(drop), &held, context))
            };
            if let Some(head) = ready!(looked)? {
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// Looks at what came; nothing is the end.
    fn came(
        &mut self,
        polled: io::Result<()>,
        bytes: &[u8],
        context: &Context<'_>,
    ) -> Result<Option<Head>, Broken> {
        match polled {
            Err(error) if self.begun || !is_gone(&error) => return Err(error.into()),
            Err(_) => return Err(Broken::Unanswered),
            Ok(()) if !bytes.is_empty() => {}
            Ok(()) if self.begun => return Err(Broken::Cut),
            Ok(()) => return Err(Broken::Unanswered),
        }
        self.begun = true;
        let mut lines = self.room.lines.borrow_mut();
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            match self.reader.read(rest, &mut lines).map_err(Broken::Fault)? {
                Read::Needed => {
                    self.held.extend_from_slice(rest);
                    return Ok(None);
                }
                Read::Head(whole) if whole.body == Body::Interim => {
                    if let Some(interims) = self.interims {
                        Hearer::new(interims, context.waker()).hear(&rest[..whole.bytes]);
                    }
                    at += whole.bytes;
                }
                Read::Head(whole) => {
                    let bytes = Bytes::copy_from_slice(rest);
                    let fields = fields(&bytes, &lines.fields).map_err(Broken::Fault)?;
                    let status = StatusCode::from_u16(whole.status)
                        .map_err(|_| Broken::Fault(Fault::StatusLine))?;
                    return Ok(Some(Head {
                        whole,
                        bytes,
                        fields,
                        status,
                    }));
                }
                // An answer begins with a head.
                Read::Http2 | Read::Skip(_) | Read::Data(_) | Read::Trailer(_) | Read::End(_) => {
                    return Err(Broken::Fault(Fault::Unasked));
                }
            }
        }
    }
}

/// Whether the other end has gone.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

/// The answer with this head: its body comes by the connection, if it is not there already.
fn answered(
    waiting: Waiting<'_>,
    lease: Lease,
    io: UpstreamStream,
    head: Head,
) -> Result<Response<UpstreamBody>, Broken> {
    let Waiting {
        room,
        reader,
        asking,
        failed,
        ..
    } = waiting;
    let Head {
        whole,
        mut bytes,
        fields,
        status,
    } = head;
    let rest = bytes.split_off(whole.bytes);
    let body = if whole.body == Body::Switched {
        UpstreamBody::Switched(switched(io, rest))
    } else {
        let has = |token| has_token(&fields, &CONNECTION, token);
        let lasts = match whole.http10 {
            true => has("keep-alive"),
            false => !has("close"),
        };
        let reusable = lasts && !failed && whole.body != Body::UntilClose;
        let way = match asking {
            None => Way::Own(io),
            Some(asking) => Way::shared(io, asking, Rc::clone(&room.scratch)),
        };
        let mut answer = Answer::new(Arrived {
            reader,
            body: whole.body,
            rest,
            way,
            lease: reusable.then_some(lease),
        });
        if let Some(broken) = answer.broken() {
            return Err(broken);
        }
        match answer.whole() {
            Some(bytes) => UpstreamBody::Whole(bytes),
            None => UpstreamBody::Http1(Box::new(answer)),
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    if whole.http10 {
        *response.version_mut() = Version::HTTP_10;
    }
    Ok(response)
}
