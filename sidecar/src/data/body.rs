//! The bodies that pass through: concrete types, so that no chunk is boxed. A response's body ends its request: when the
//! last byte has left, or when the client went away, the request is settled.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::request::Parts;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use sluice_pipeline::framing;

use super::{
    cache::Fill,
    grpc_web::{self, Decoder, Format, NotBase64},
    http1,
    mirror::Copied,
    pace::Pace,
    record::Settle,
    upstream::UpstreamBody,
};
use crate::shards::Flight;

/// Why a request's body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// It is larger than the route allows.
    #[error("the body is larger than the route's maxBodySize allows")]
    TooLarge,
    /// It is not in the encoding that it says.
    #[error(transparent)]
    Encoding(#[from] NotBase64),
    /// It came to a standstill.
    #[error("the client sends its body too slowly")]
    Stalled,
    /// The client broke off.
    #[error("the client broke off: {0}")]
    Client(#[from] hyper::Error),
    /// The client broke off, or framed it in a way that is refused.
    #[error("the client's body: {0}")]
    Framing(#[from] http1::BodyError),
}

/// A request as it arrived. Its head is large and goes from hand to hand: it has a place of its own.
#[derive(Debug)]
pub struct Arrived {
    /// Its head.
    pub parts: Box<Parts>,
    /// Its body, to come.
    pub body: ClientBody,
}

/// A request as it is sent on.
#[derive(Debug)]
pub struct Leaving {
    /// Its head, in the place where it arrived.
    pub parts: Box<Parts>,
    /// Its body, to come.
    pub body: RequestBody,
}

/// A request's body as its client sends it.
#[derive(Debug)]
pub enum ClientBody {
    /// None.
    Empty,
    /// Over HTTP/1.1.
    Http1(http1::Body),
    /// Over HTTP/2.
    Http2(Incoming),
}

impl HttpBody for ClientBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => body.poll_frame(context).map_err(RequestBodyError::from),
            Self::Http2(incoming) => Pin::new(incoming)
                .poll_frame(context)
                .map_ok(without_forbidden)
                .map_err(RequestBodyError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.left() == Some(0),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body
                .left()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}

/// A frame without the trailers that must not be any. Of HTTP/1.1 they are refused as they are read; HTTP/2 leaves them be.
fn without_forbidden(frame: Frame<Bytes>) -> Frame<Bytes> {
    let mut trailers = match frame.into_trailers() {
        Ok(trailers) => trailers,
        Err(frame) => return frame,
    };
    let names = trailers.keys();
    let forbidden = names.filter(|name| !framing::may_trail_request(name.as_str().as_bytes()));
    for name in forbidden.cloned().collect::<Vec<_>>() {
        trailers.remove(name);
    }
    Frame::trailers(trailers)
}

/// What is seen of a body while it passes.
#[derive(Debug)]
pub struct Meter {
    bytes: Cell<u64>,
    max: u64,
    too_large: Cell<bool>,
    broken: Cell<bool>,
    stalled: Cell<bool>,
    /// How fast it must come; none: as it likes.
    pace: RefCell<Option<Box<Pace>>>,
}

impl Meter {
    /// A meter that lets `max` bytes pass.
    pub fn new(max: u64) -> Rc<Self> {
        Rc::new(Self {
            bytes: Cell::new(0),
            max,
            too_large: Cell::new(false),
            broken: Cell::new(false),
            stalled: Cell::new(false),
            pace: RefCell::default(),
        })
    }

    /// Has the body come at this pace.
    pub fn keep(&self, pace: Pace) {
        *self.pace.borrow_mut() = Some(Box::new(pace));
    }

    /// Nobody waits for the body any more: an answer has begun, and both sides may speak as they like.
    pub fn release(&self) {
        *self.pace.borrow_mut() = None;
    }

    /// Whether the client came to a standstill.
    pub fn stalled(&self) -> bool {
        self.stalled.get()
    }

    /// Whether everybody waits for the client now.
    pub fn is_waited_for(&self) -> bool {
        let pace = self.pace.borrow();
        pace.as_ref().is_some_and(|pace| pace.is_waited_for())
    }

    /// Looks at what came of the body, or did not.
    pub fn paced<E>(
        &self,
        polled: Poll<Option<Result<Frame<Bytes>, E>>>,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>>
    where
        RequestBodyError: From<E>,
    {
        let mut pace = self.pace.borrow_mut();
        match (polled, pace.as_mut()) {
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Pending, Some(pace)) => {
                if !pace.waits(context.waker()) {
                    return Poll::Pending;
                }
                self.stalled.set(true);
                Poll::Ready(Some(Err(RequestBodyError::Stalled)))
            }
            (Poll::Ready(came), pace) => {
                if let Some(pace) = pace {
                    let data = came
                        .as_ref()
                        .and_then(|came| came.as_ref().ok()?.data_ref());
                    pace.came(data.map_or(0, Bytes::len));
                }
                Poll::Ready(came.map(|came| came.map_err(RequestBodyError::from)))
            }
        }
    }

    /// Bytes that passed.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether the body was cut off because of its size.
    pub fn too_large(&self) -> bool {
        self.too_large.get()
    }

    /// Whether the client broke off.
    pub fn broken(&self) -> bool {
        self.broken.get()
    }

    /// Counts bytes; false: too many.
    pub fn pass(&self, bytes: usize) -> bool {
        self.bytes
            .set(self.bytes.get().saturating_add(bytes as u64));
        let fits = self.bytes.get() <= self.max;
        self.too_large.set(self.too_large.get() || !fits);
        fits
    }
}

/// A request's body on its way to an upstream.
#[derive(Debug)]
pub enum RequestBody {
    /// None.
    Empty,
    /// Held in memory: it was verified.
    Full(Bytes),
    /// As it comes.
    Stream(ClientBody, Rc<Meter>),
    /// As it comes, out of the text format of gRPC-Web.
    Text(Box<(ClientBody, Rc<Meter>, Decoder)>),
    /// With a copy for mirrors made as it passes.
    Copied(Box<Copied>),
}

impl RequestBody {
    /// A copy, where it can be sent again.
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Full(bytes) => Some(Self::Full(bytes.clone())),
            Self::Stream(..) | Self::Text(_) | Self::Copied(_) => None,
        }
    }

    /// The same body out of the text format of gRPC-Web.
    pub fn decoded(self) -> Result<Self, NotBase64> {
        Ok(match self {
            Self::Full(text) => {
                let mut decoder = Decoder::default();
                let bytes = decoder.push(&text)?;
                decoder.end()?;
                Self::Full(bytes)
            }
            Self::Stream(incoming, meter) => {
                Self::Text(Box::new((incoming, meter, Decoder::default())))
            }
            // What is decoded here is not what came: mirrors get nothing of it.
            Self::Copied(copied) => return copied.uncopied().decoded(),
            other => other,
        })
    }
}

/// What comes of a client's body, counted.
fn metered(
    incoming: &mut ClientBody,
    meter: &Meter,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
    let polled = Pin::new(incoming).poll_frame(context);
    Poll::Ready(match ready!(meter.paced(polled, context)) {
        Some(Ok(frame)) if frame.data_ref().is_some_and(|data| !meter.pass(data.len())) => {
            Some(Err(RequestBodyError::TooLarge))
        }
        Some(Ok(frame)) => Some(Ok(frame)),
        Some(Err(error)) => {
            meter.broken.set(true);
            Some(Err(error))
        }
        None => None,
    })
}

/// The same, out of base64. What is none is broken: the upstream never sees a whole body.
fn decoded(
    incoming: &mut ClientBody,
    meter: &Meter,
    decoder: &mut Decoder,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
    loop {
        let outcome = match ready!(metered(incoming, meter, context)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(text) => decoder.push(&text),
                // gRPC-Web has no trailers of requests.
                Err(_) => continue,
            },
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => match decoder.end() {
                Ok(()) => return Poll::Ready(None),
                Err(error) => Err(error),
            },
        };
        match outcome {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Err(error) => {
                meter.broken.set(true);
                return Poll::Ready(Some(Err(error.into())));
            }
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(incoming, meter) => metered(incoming, meter, context),
            Self::Text(text) => {
                let (incoming, meter, decoder) = &mut **text;
                decoded(incoming, meter, decoder, context)
            }
            Self::Copied(copied) => copied.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream(incoming, _) => incoming.is_end_stream(),
            Self::Text(text) => text.0.is_end_stream() && text.2.end().is_ok(),
            Self::Copied(copied) => copied.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(incoming, _) => incoming.size_hint(),
            Self::Text(_) => SizeHint::default(),
            Self::Copied(copied) => copied.size_hint(),
        }
    }
}

/// A response's body on its way to the client.
pub struct Body {
    source: Source,
    settle: Option<Settle>,
    /// The client has to read before more is asked for.
    unread: bool,
    /// It has reached its end, which a body of unknown length tells by nothing else.
    over: bool,
}

/// Where it comes from.
enum Source {
    /// Memory: a stored answer, a problem, nothing.
    Memory(Bytes),
    /// An upstream.
    Upstream(Box<Passing>),
}

/// An upstream's body as it passes.
pub struct Passing {
    /// The body.
    pub incoming: UpstreamBody,
    /// Where it is stored as it passes.
    pub fill: Option<Box<Fill>>,
    /// The request's place on its shard slot: it ends with the body.
    pub flight: Option<Flight>,
    /// How a client of gRPC-Web wants it.
    pub web: Option<Format>,
}

impl Body {
    /// A body from memory.
    pub fn memory(bytes: Bytes) -> Self {
        Self {
            source: Source::Memory(bytes),
            settle: None,
            unread: false,
            over: false,
        }
    }

    /// A body that passes.
    pub fn passing(mut passing: Passing) -> Self {
        if passing.incoming.is_end_stream() {
            passing.finish();
            return Self::memory(Bytes::new());
        }
        if let (UpstreamBody::Whole(bytes), None, None) =
            (&mut passing.incoming, &passing.flight, &passing.web)
        {
            let bytes = std::mem::take(bytes);
            if let Some(fill) = &mut passing.fill {
                fill.push(&bytes);
            }
            passing.finish();
            return Self::memory(bytes);
        }
        Self {
            source: Source::Upstream(Box::new(passing)),
            settle: None,
            unread: false,
            over: false,
        }
    }

    /// The same body, which settles its request at its end.
    #[must_use]
    pub fn settling(mut self, settle: Settle) -> Self {
        self.settle = Some(settle);
        self.waits_for_reader(!self.is_end_stream());
        self
    }

    /// Field lines of its head that are written as they are.
    pub fn own_lines(&mut self) -> Vec<u8> {
        let settle = self.settle.as_mut();
        settle.map_or_else(Vec::new, |settle| std::mem::take(&mut settle.own_lines))
    }

    fn waits_for_reader(&mut self, waits: bool) {
        if let Some(settle) = &self.settle
            && self.unread != waits
        {
            self.unread = waits;
            settle.connection.waits_for_reader(waits);
        }
    }
}

impl Passing {
    /// The body has ended well.
    fn finish(&mut self) {
        if let Some(fill) = self.fill.take() {
            fill.finish();
        }
        self.flight = None;
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = http1::Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, http1::Broken>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Memory(bytes) if bytes.is_empty() => None,
            Source::Memory(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Source::Upstream(passing) => {
                let polled = Pin::new(&mut passing.incoming).poll_frame(context);
                let Poll::Ready(frame) = polled else {
                    this.waits_for_reader(false);
                    return Poll::Pending;
                };
                match &frame {
                    Some(Ok(frame)) => {
                        if let (Some(fill), Some(data)) = (&mut passing.fill, frame.data_ref()) {
                            fill.push(data);
                        }
                        // Trailers are the last that comes.
                        this.over = passing.incoming.is_end_stream() || frame.is_trailers();
                    }
                    Some(Err(_)) => {}
                    None => this.over = true,
                }
                if this.over {
                    passing.finish();
                }
                match passing.web {
                    None => frame,
                    Some(format) => {
                        frame.map(|frame| frame.map(|frame| grpc_web::answer(frame, format)))
                    }
                }
            }
        };
        this.waits_for_reader(frame.is_some());
        if let Some(settle) = &mut this.settle
            && let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            settle.sent(data.len());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Memory(bytes) => bytes.is_empty(),
            Source::Upstream(passing) => passing.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Memory(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Upstream(passing) if passing.web.is_some() => SizeHint::default(),
            Source::Upstream(passing) => passing.incoming.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // The engine drops a body when it has ended, when the client went away and when the upstream broke off.
        let ended = self.over || self.is_end_stream();
        if let Source::Upstream(passing) = &mut self.source
            && ended
        {
            passing.finish();
        }
        self.waits_for_reader(false);
        if let Some(settle) = self.settle.take() {
            settle.end(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_lets_pass_what_fits_and_not_a_byte_more() {
        let meter = Meter::new(10);
        assert!(meter.pass(4) && meter.pass(6));
        assert!(!meter.too_large());
        assert!(!meter.pass(1));
        assert!(meter.too_large());
        assert_eq!(meter.bytes(), 11);
    }
}
