//! Copies of requests for those who only watch: RequestMirror. A copy is made of what is sent anyway, as it passes; its
//! answer is read by nobody. It never delays the request, and what is too large, too much or fails is counted and gone.

use std::{
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http_body::{Body as _, Frame, SizeHint};
use sluice_pipeline::{
    dispatch, mirror,
    program::{Backend, Extras},
    target::Target,
};
use tokio::task::spawn_local;

use super::{
    body::{Leaving, RequestBody, RequestBodyError},
    forward,
    headers::Asked,
    record::Settle,
    thread::{Thread, WaitingPlace},
    upstream::UpstreamBody,
};
use crate::metrics::Mirrored;

/// The largest body that is copied, in bytes.
const MAX_BODY: usize = 64 << 10;
/// Copies of one data thread that may be under way at a time.
const MAX_UNDER_WAY: usize = 256;
/// How long a mirror may take, in milliseconds: nobody waits for it, but its connection does.
const LONGEST_MS: u64 = 15_000;
/// How much of a mirror's answer is read so that its connection can be used again, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// A copy whose body is still to come.
struct Copy {
    thread: Rc<Thread>,
    body: BytesMut,
    /// Until the body is whole, or too large.
    receivers: Vec<Receiver>,
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (bytes, receivers) = (self.body.len(), self.receivers.len());
        write!(f, "Copy of {bytes} bytes for {receivers}")
    }
}

/// A mirror and the head it gets.
struct Receiver {
    backend: Arc<Backend>,
    address: SocketAddr,
    head: Box<Parts>,
    _place: WaitingPlace,
}

/// A body that is copied as it passes.
#[derive(Debug)]
pub struct Copied {
    body: RequestBody,
    copy: Copy,
}

/// Begins the copies of a request that is about to be sent; gives its body back. What was `forwarded` to us is forwarded no
/// further, as a copy neither.
pub fn begin(
    settle: &mut Settle,
    extras: &Extras,
    forwarded: bool,
    sent: (&Parts, &Target, Asked),
    body: RequestBody,
) -> RequestBody {
    let thread = Rc::clone(&settle.thread);
    let (parts, target, asked) = sent;
    let mut receivers = Vec::new();
    for spec in &extras.mirrors {
        let Some(chosen) = mirror::choose(spec, thread.dice.roll32()) else {
            continue;
        };
        let Some(backend) = chosen.ok().filter(|_| !forwarded) else {
            thread.tally.edge.mirrored(Mirrored::Unavailable);
            continue;
        };
        let Some(address) = dispatch::endpoint(backend, thread.dice.roll32()) else {
            thread.tally.edge.mirrored(Mirrored::Unavailable);
            continue;
        };
        let Some(place) = thread.mirroring_place(MAX_UNDER_WAY) else {
            thread.tally.edge.mirrored(Mirrored::TooMany);
            continue;
        };
        match forward::head_for(settle, parts, target, (backend, address), asked) {
            Ok(head) => receivers.push(Receiver {
                backend: Arc::clone(backend),
                address,
                head,
                _place: place,
            }),
            Err(_) => thread.tally.edge.mirrored(Mirrored::Failed),
        }
    }
    if receivers.is_empty() {
        return body;
    }
    let mut copy = Copy {
        thread,
        body: BytesMut::new(),
        receivers,
    };
    match body {
        RequestBody::Empty => {
            copy.send();
            RequestBody::Empty
        }
        RequestBody::Full(bytes) => {
            copy.push(&bytes);
            copy.send();
            RequestBody::Full(bytes)
        }
        body => RequestBody::Copied(Box::new(Copied { body, copy })),
    }
}

impl Copied {
    /// The body alone: its copy is given up.
    pub fn uncopied(self) -> RequestBody {
        let Self { body, copy: _ } = self;
        body
    }

    /// See [`http_body::Body::poll_frame`].
    pub fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.copy.push(data);
                }
                // The engine asks no further where it can tell the end.
                if self.body.is_end_stream() {
                    self.copy.send();
                }
            }
            // The upstream gets no whole body, and neither does a mirror.
            Some(Err(_)) => self.copy.give_up(Mirrored::Incomplete),
            None => self.copy.send(),
        }
        Poll::Ready(frame)
    }

    /// See [`http_body::Body::is_end_stream`].
    pub fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// See [`http_body::Body::size_hint`].
    pub fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Copy {
    fn push(&mut self, data: &[u8]) {
        if self.receivers.is_empty() {
            return;
        }
        if self.body.len() + data.len() > MAX_BODY {
            self.give_up(Mirrored::TooLarge);
            return;
        }
        self.body.extend_from_slice(data);
    }

    fn give_up(&mut self, why: Mirrored) {
        self.body = BytesMut::new();
        for _ in self.receivers.drain(..) {
            self.thread.tally.edge.mirrored(why);
        }
    }

    /// The body is whole.
    fn send(&mut self) {
        let body = std::mem::take(&mut self.body).freeze();
        for receiver in self.receivers.drain(..) {
            let body = match body.len() {
                0 => RequestBody::Empty,
                _ => RequestBody::Full(body.clone()),
            };
            spawn_local(show(Rc::clone(&self.thread), receiver, body));
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // The request ended before its body did.
        self.give_up(Mirrored::Incomplete);
    }
}

/// Sends a copy and reads its answer away.
async fn show(thread: Rc<Thread>, receiver: Receiver, body: RequestBody) {
    let Receiver {
        backend,
        address,
        head,
        _place,
    } = receiver;
    let deadline_ms = thread.clock().now_ms() + LONGEST_MS;
    let answered = async {
        let pool = forward::pool_of(&backend, &thread)?;
        let mut request = Some(Leaving { parts: head, body });
        let sent = pool.send(address, backend.protocol, &mut request, deadline_ms, None);
        sent.await
    };
    match Box::pin(answered).await {
        Ok(response) => {
            thread.tally.edge.mirrored(Mirrored::Sent);
            let read = read(response.into_body());
            // An answer that does not end in time ends with its connection.
            let _ = thread.ticker.within(deadline_ms, read).await;
        }
        Err(error) => {
            thread.tally.edge.mirrored(Mirrored::Failed);
            tracing::debug!(backend = %backend.name, %error, "a copy of a request was not sent");
        }
    }
}

/// Reads an answer to its end: its connection can then be used again.
async fn read(mut body: UpstreamBody) {
    let mut bytes = 0;
    while let Some(Ok(frame)) =
        std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > MAX_ANSWER {
            return;
        }
    }
}
