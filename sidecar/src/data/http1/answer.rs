//! The body of an upstream's answer in HTTP/1.1 as it comes, and the end of its exchange: a connection on which all has been
//! said goes back, any other ends.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use sluice_pipeline::framing::{self, Fault, Lines, Read, Reader};
use tokio::task::{JoinHandle, spawn_local};
use tokio_util::io::poll_read_buf;

use super::{Scratch, asking::Asking, client::Broken, fields};
use crate::data::upstream::{Lease, UpstreamStream, take_leave};

/// Room for what comes of a body at once: as much as is known to come, within these bounds.
const LEAST: usize = 16 << 10;
const MOST: usize = 64 << 10;
/// With less room than that left, other room is looked for.
const SPARE: usize = 4 << 10;

/// An answer whose head is known.
pub struct Arrived {
    /// Stands behind the head.
    pub reader: Reader,
    /// How the body is framed.
    pub body: framing::Body,
    /// What came behind the head.
    pub rest: Bytes,
    /// Where the rest comes from.
    pub way: Way,
    /// Where the connection goes afterwards; none: it ends.
    pub lease: Option<Lease>,
}

/// The body of an answer.
pub struct Answer {
    reader: Reader,
    way: Way,
    lease: Option<Lease>,
    /// What was read and is not used up; its first bytes are known to be body.
    held: Bytes,
    ready: usize,
    /// What is read next. Its memory is used again once what came in it before has gone.
    room: BytesMut,
    /// Bytes of the body that are still to be given, where that is known.
    left: Option<u64>,
    until_close: bool,
    /// All of it has been read.
    whole: bool,
    trailers: Option<Box<HeaderMap>>,
    broken: Option<Broken>,
}

/// A connection under way.
pub enum Way {
    /// Its request is sent.
    Own(UpstreamStream),
    /// A task sends the rest of the request: a client may read nothing before it has sent everything.
    Shared(Rc<Shared>, JoinHandle<()>),
    /// There is none any more.
    Gone,
}

/// A connection on which the request is still sent while its answer is read. Nobody holds it across a wait.
pub struct Shared {
    io: RefCell<UpstreamStream>,
    /// The request is sent.
    sent: Cell<bool>,
    /// Why it never will be: the answer is not to be read to its end then.
    broken: Cell<Option<Broken>>,
    /// Who reads.
    reading: Cell<Option<Waker>>,
}

impl Way {
    /// Has a task send the rest of a request.
    pub fn shared(io: UpstreamStream, mut asking: Asking, scratch: Rc<Scratch>) -> Self {
        let shared = Rc::new(Shared {
            io: RefCell::new(io),
            sent: Cell::new(false),
            broken: Cell::new(None),
            reading: Cell::new(None),
        });
        let own = Rc::clone(&shared);
        let task = spawn_local(async move {
            let sent = poll_fn(|context| asking.poll(&mut *own.io.borrow_mut(), &scratch, context));
            match sent.await {
                Ok(()) => own.sent.set(true),
                // What the upstream has to say may be said all the same.
                Err(Broken::Io(_)) => {}
                Err(error) => {
                    own.broken.set(Some(error));
                    if let Some(reading) = own.reading.take() {
                        reading.wake();
                    }
                }
            }
        });
        Self::Shared(shared, task)
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        room: &mut BytesMut,
    ) -> Poll<Result<usize, Broken>> {
        match self {
            Self::Own(io) => poll_read_buf(Pin::new(io), context, room).map_err(Broken::from),
            Self::Shared(shared, _) => {
                if let Some(error) = shared.broken.take() {
                    return Poll::Ready(Err(error));
                }
                shared.reading.set(Some(context.waker().clone()));
                let io = &mut *shared.io.borrow_mut();
                poll_read_buf(Pin::new(io), context, room).map_err(Broken::from)
            }
            Self::Gone => Poll::Ready(Err(Broken::Cut)),
        }
    }

    /// The connection, where nobody needs it any more.
    fn ended(&mut self) -> Option<UpstreamStream> {
        match std::mem::replace(self, Self::Gone) {
            Self::Own(io) => Some(io),
            Self::Shared(shared, _) if shared.sent.get() => {
                Some(Rc::into_inner(shared)?.io.into_inner())
            }
            // The answer has ended before its request: what is left of that nobody wants.
            Self::Shared(_, task) => {
                task.abort();
                None
            }
            Self::Gone => None,
        }
    }
}

impl Answer {
    /// The body behind a head; its end is seen where it is there already.
    pub fn new(arrived: Arrived) -> Self {
        let Arrived {
            reader,
            body,
            rest,
            way,
            lease,
        } = arrived;
        let left = match body {
            framing::Body::None => Some(0),
            framing::Body::Length(length) => Some(length),
            _ => None,
        };
        let mut answer = Self {
            reader,
            way,
            lease,
            held: rest,
            ready: 0,
            room: BytesMut::new(),
            left,
            until_close: body == framing::Body::UntilClose,
            whole: false,
            trailers: None,
            broken: None,
        };
        answer.advance();
        answer
    }

    /// Why it is not to be believed, as far as it is there: then nobody is to see a part of it.
    pub fn broken(&mut self) -> Option<Broken> {
        self.broken.take()
    }

    /// The whole body, where all of it is there: then the connection is elsewhere already.
    pub fn whole(&mut self) -> Option<Bytes> {
        let there = self.left == Some(self.ready as u64) && self.broken.is_none();
        if !there {
            return None;
        }
        let bytes = self.piece();
        debug_assert!(self.whole, "its length is all that ends it");
        Some(bytes)
    }

    /// What comes next of the body.
    pub fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if let Some(error) = self.broken.take() {
                self.end(None);
                return Poll::Ready(Some(Err(error)));
            }
            if self.ready > 0 {
                return Poll::Ready(Some(Ok(Frame::data(self.piece()))));
            }
            if self.whole {
                let trailers = self.trailers.take();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))));
            }
            match ready!(self.poll_more(context)) {
                Ok(0) if self.until_close => {
                    self.whole = true;
                    self.end(None);
                }
                Ok(0) => self.broken = Some(Broken::Cut),
                Ok(_) => {
                    self.held = self.room.split().freeze();
                    self.advance();
                }
                Err(error) => self.broken = Some(error),
            }
        }
    }

    /// Whether nothing more will come.
    pub fn is_end_stream(&self) -> bool {
        self.whole && self.ready == 0 && self.trailers.is_none()
    }

    /// How much is still to come.
    pub fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    fn piece(&mut self) -> Bytes {
        let piece = self.held.split_to(self.ready);
        self.ready = 0;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(piece.len() as u64);
        }
        self.advance();
        piece
    }

    /// Reads what is held up to the next bytes of the body, or to the end.
    fn advance(&mut self) {
        let mut lines = Lines::default();
        while self.ready == 0 && !self.whole && self.broken.is_none() {
            match self.reader.read(&self.held, &mut lines) {
                Ok(Read::Needed) => return,
                Ok(Read::Data(bytes)) => self.ready = bytes,
                Ok(Read::Skip(used)) => self.held.advance(used),
                Ok(Read::Trailer(used)) => {
                    let line = self.held.split_to(used);
                    match fields(&line, &lines.fields) {
                        Ok(more) => self.trailers.get_or_insert_default().extend(more),
                        Err(fault) => self.broken = Some(Broken::Fault(fault)),
                    }
                }
                Ok(Read::End(used)) => {
                    self.held.advance(used);
                    self.whole = true;
                    // More than the answer, nobody asked for.
                    let lease = self.lease.take().filter(|_| self.held.is_empty());
                    self.end(lease);
                }
                // Neither is within a body.
                Ok(Read::Head(_) | Read::Http2) => {
                    self.broken = Some(Broken::Fault(Fault::Unasked));
                }
                Err(fault) => self.broken = Some(Broken::Fault(fault)),
            }
        }
    }

    /// The exchange is over.
    fn end(&mut self, lease: Option<Lease>) {
        self.lease = None;
        self.room = BytesMut::new();
        match (self.way.ended(), lease) {
            (Some(io), Some(lease)) => lease.give_back(io),
            (Some(mut io), None) if self.whole => take_leave(&mut io),
            (_, _) => {}
        }
    }

    /// Reads more behind what is held and not understood yet.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        if !self.held.is_empty() {
            self.room.extend_from_slice(&self.held);
            self.held = Bytes::new();
        }
        let spare = self.room.capacity() - self.room.len();
        let known = self.left.map_or(LEAST, |left| {
            usize::try_from(left).unwrap_or(MOST).clamp(LEAST, MOST)
        });
        if spare < SPARE.min(known) {
            self.room.reserve(known);
        }
        self.way.poll_read(context, &mut self.room)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Nobody wants the rest of it.
        self.end(None);
    }
}
