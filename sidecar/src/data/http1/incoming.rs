//! What a client sends on a connection of HTTP/1.1: heads, one after the other, and the body of the one that is being
//! answered. Whoever wants bytes reads them from the socket; nobody else does, so a client is read no faster than its
//! requests are.

use std::{
    cell::{Cell, RefCell, RefMut},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use sluice_pipeline::framing::{self, Fault, Lines, Read, Reader, Whole};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::{Scratch, fields};

/// Room for the bytes of a body that goes on behind what came with its head.
const BODY: usize = 16 << 10;
/// Bytes that are read before they are asked for: behind them, whether the client is still there is not seen.
const AHEAD: usize = 16 << 10;
/// What a client that waits for leave to send its body is told (RFC 9110 section 15.2.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection is not what it has to be.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is framed in a way that is refused.
    #[error("{}", .0.what())]
    Refused(Fault),
    /// The connection ended before the body did.
    #[error("the connection ended within the body")]
    Cut,
    /// The request of this body is over.
    #[error("its request is over")]
    Over,
}

/// What comes next on a connection.
#[derive(Debug)]
pub enum Next {
    /// A request: its head, whose lines are in [`Incoming::lines`].
    Request(Bytes, Whole),
    /// A head that is refused; with its request line where that may be shown.
    Refused(Fault, Option<Bytes>),
    /// Not HTTP/1.
    Http2,
    /// Nothing: the client has gone, or the connection was left.
    End,
}

/// The stream of a client, and where in its messages it stands.
pub struct Incoming<S> {
    /// None: it was given away.
    io: Option<S>,
    scratch: Rc<Scratch>,
    reader: Reader,
    /// The lines of the last head.
    pub lines: Lines,
    /// Bytes that were read and are not used up.
    held: BytesMut,
    /// Grows with each request: a body is of one of them.
    turn: u64,
    body: Progress,
    trailers: Option<Box<HeaderMap>>,
    /// What the last body was refused for, where its connection sees it.
    fault: Rc<Cell<Option<Fault>>>,
    /// The client sends no body before it has heard so.
    awaits_leave: bool,
    /// The rest of what it is to hear.
    leave: &'static [u8],
    /// No request is waited for any more.
    leaving: bool,
    /// Who waits for the body, and who for its end.
    reading: Option<Waker>,
    watching: Option<Waker>,
}

/// How far the body of the request that is being answered came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Going,
    Whole,
    Broken(Fault),
    /// It ended with the connection.
    Cut,
}

impl<S> Incoming<S> {
    /// The stream of a client that has sent nothing that was looked at.
    pub fn new(io: S, scratch: Rc<Scratch>, fault: Rc<Cell<Option<Fault>>>) -> Self {
        Self {
            io: Some(io),
            scratch,
            reader: Reader::requests(),
            lines: Lines::default(),
            held: BytesMut::new(),
            turn: 0,
            body: Progress::Whole,
            trailers: None,
            fault,
            awaits_leave: false,
            leave: b"",
            leaving: false,
            reading: None,
            watching: None,
        }
    }

    /// Its stream, and what was read of it and not used up. Whoever reads a body finds it cut.
    pub fn give_away(&mut self) -> (Option<S>, Bytes) {
        self.turn += 1;
        if let Some(reading) = self.reading.take() {
            reading.wake();
        }
        (self.io.take(), std::mem::take(&mut self.held).freeze())
    }

    /// Takes no further request.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether it takes further requests: none after a body that nobody can tell from what follows it.
    pub fn goes_on(&self) -> bool {
        !self.leaving && self.body == Progress::Whole
    }

    /// Uses up the first bytes.
    fn take(&mut self, bytes: usize) -> Bytes {
        let taken = self.held.split_to(bytes).freeze();
        if self.held.is_empty() {
            // What is taken is alone in its memory then.
            self.held = BytesMut::new();
        }
        taken
    }

    fn broke(&mut self, fault: Fault) -> BodyError {
        self.body = Progress::Broken(fault);
        self.fault.set(Some(fault));
        BodyError::Refused(fault)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Incoming<S> {
    /// The stream, to write to.
    pub fn io(&mut self) -> io::Result<&mut S> {
        self.io.as_mut().ok_or_else(gone)
    }

    /// Reads more behind what is held, through the thread's room: a message that comes whole gets memory of its size.
    /// Zero: the client sends no more.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Err(gone()));
        };
        let held = &mut self.held;
        self.scratch.read(|room| {
            let mut room = ReadBuf::new(room);
            ready!(Pin::new(io).poll_read(context, &mut room))?;
            held.extend_from_slice(room.filled());
            Poll::Ready(Ok(room.filled().len()))
        })
    }

    /// The next request.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        loop {
            match self.reader.read(&self.held, &mut self.lines) {
                Ok(Read::Head(whole)) => {
                    self.turn += 1;
                    self.body = Progress::Going;
                    return Poll::Ready(Next::Request(self.take(whole.bytes), whole));
                }
                Ok(Read::Http2) => return Poll::Ready(Next::Http2),
                // Behind the last message, of which nothing is left.
                Ok(Read::Skip(used) | Read::Data(used) | Read::Trailer(used) | Read::End(used)) => {
                    self.take(used);
                }
                Ok(Read::Needed) => {
                    // A head that has begun is heard to its end.
                    if self.leaving && self.held.is_empty() {
                        return Poll::Ready(Next::End);
                    }
                    match ready!(self.poll_more(context)) {
                        Ok(0) | Err(_) => return Poll::Ready(Next::End),
                        Ok(_) => {}
                    }
                }
                Err(fault) => {
                    let line = framing::origin_form(&self.held).map(Bytes::copy_from_slice);
                    self.body = Progress::Broken(fault);
                    return Poll::Ready(Next::Refused(fault, line));
                }
            }
        }
    }

    /// What of the last head's body is there without waiting: most have none.
    pub fn begin_body(&mut self, awaits_leave: bool) -> bool {
        self.awaits_leave = awaits_leave;
        if let Ok(Read::End(used)) = self.peek_end() {
            self.take(used);
            self.body = Progress::Whole;
            self.awaits_leave = false;
        }
        self.body == Progress::Whole
    }

    /// The end of a message without a body.
    fn peek_end(&mut self) -> Result<Read, Fault> {
        match self.reader.is_within() {
            true => Ok(Read::Needed),
            false => self.reader.read(&self.held, &mut self.lines),
        }
    }

    /// What comes next of the body of turn `turn`.
    fn poll_body(
        &mut self,
        turn: u64,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if turn != self.turn {
            return Poll::Ready(Some(Err(BodyError::Over)));
        }
        if std::mem::take(&mut self.awaits_leave) {
            self.leave = CONTINUE;
        }
        loop {
            match self.body {
                Progress::Going => {}
                Progress::Whole => return Poll::Ready(None),
                Progress::Broken(fault) => {
                    return Poll::Ready(Some(Err(BodyError::Refused(fault))));
                }
                Progress::Cut => return Poll::Ready(Some(Err(BodyError::Cut))),
            }
            if let Err(error) = ready!(self.poll_leave(context)) {
                self.body = Progress::Cut;
                return Poll::Ready(Some(Err(error.into())));
            }
            match self.reader.read(&self.held, &mut self.lines) {
                Ok(Read::Data(bytes)) => {
                    // Its memory is read to again once it has gone; the end of the body lets go of it.
                    let data = self.held.split_to(bytes).freeze();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Read::Skip(used)) => {
                    self.take(used);
                }
                Ok(Read::Trailer(bytes)) => {
                    let line = self.take(bytes);
                    match fields(&line, &self.lines.fields) {
                        Ok(more) => self.trailers.get_or_insert_default().extend(more),
                        Err(fault) => return Poll::Ready(Some(Err(self.broke(fault)))),
                    }
                }
                Ok(Read::End(used)) => {
                    self.take(used);
                    self.body = Progress::Whole;
                    if let Some(watching) = self.watching.take() {
                        watching.wake();
                    }
                    let trailers = self.trailers.take();
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))));
                }
                // Neither is within a body.
                Ok(Read::Head(_) | Read::Http2) => {
                    return Poll::Ready(Some(Err(BodyError::Over)));
                }
                Ok(Read::Needed) => match self.poll_body_bytes(context) {
                    Poll::Ready(Ok(0)) => self.body = Progress::Cut,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => {
                        self.body = Progress::Cut;
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    Poll::Pending => {
                        self.reading = Some(context.waker().clone());
                        return Poll::Pending;
                    }
                },
                Err(fault) => return Poll::Ready(Some(Err(self.broke(fault)))),
            }
        }
    }

    /// Reads more of a body, into memory that is used again once what was read before has gone.
    fn poll_body_bytes(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Err(gone()));
        };
        self.held.reserve(BODY);
        poll_read_buf(Pin::new(io), context, &mut self.held)
    }

    /// Tells the client that its body may come, where it waits for that.
    fn poll_leave(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Err(gone()));
        };
        while !self.leave.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(context, self.leave))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.leave = &self.leave[written..],
            }
            if self.leave.is_empty() {
                ready!(Pin::new(&mut *io).poll_flush(context))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends when the client goes away while it is answered.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.body != Progress::Whole {
            // Who reads the body sees it. Once that has ended, it is seen here.
            let known = self.watching.as_ref();
            if self.body == Progress::Going
                && !known.is_some_and(|it| it.will_wake(context.waker()))
            {
                self.watching = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        while self.held.len() < AHEAD {
            match ready!(self.poll_more(context)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    /// Looks once for the rest of a body that nobody wants: a client that has sent it may stay.
    pub fn pass_over(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let mut passed = 0;
        while self.body == Progress::Going && !self.awaits_leave && passed < AHEAD {
            match self.poll_body(self.turn, &mut context) {
                Poll::Ready(Some(Ok(frame))) => {
                    passed += frame.data_ref().map_or(0, Bytes::len);
                }
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
    }

    /// Reads what the client has sent, and forgets it; true: there may be more.
    pub fn poll_forget(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        self.held = BytesMut::new();
        let read = ready!(self.poll_more(context)).unwrap_or(0);
        self.held = BytesMut::new();
        Poll::Ready(read)
    }
}

/// Nobody reads a stream after it was given away.
fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// What a body reads from.
trait Source {
    fn poll_body(
        &self,
        turn: u64,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>;
}

/// A client's stream as the tasks of its connection share it. Nobody holds it across a wait.
pub struct Shared<S>(Rc<RefCell<Incoming<S>>>);

impl<S> Shared<S> {
    /// The stream is this connection's.
    pub fn new(incoming: Incoming<S>) -> Self {
        Self(Rc::new(RefCell::new(incoming)))
    }

    /// For one step.
    pub fn borrow(&self) -> RefMut<'_, Incoming<S>> {
        self.0.borrow_mut()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Shared<S> {
    /// The body of the request under way, of `length` bytes where that is known.
    pub fn body(&self, length: Option<u64>) -> Body {
        Body {
            turn: self.borrow().turn,
            source: Rc::clone(&self.0) as Rc<dyn Source>,
            left: length,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Source for RefCell<Incoming<S>> {
    fn poll_body(
        &self,
        turn: u64,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.borrow_mut().poll_body(turn, context)
    }
}

/// The body of one request.
pub struct Body {
    source: Rc<dyn Source>,
    turn: u64,
    left: Option<u64>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let left = &self.left;
        f.debug_struct("Body")
            .field("left", left)
            .finish_non_exhaustive()
    }
}

impl Body {
    /// Bytes that are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// See [`http_body::Body::poll_frame`].
    pub fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(self.source.poll_body(self.turn, context));
        match (&frame, &mut self.left) {
            (Some(Ok(frame)), Some(left)) => {
                *left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
                if *left == 0 {
                    // Its end is noted, which nobody may come to ask for.
                    let _ = self.source.poll_body(self.turn, context);
                }
            }
            (None, left) => *left = Some(0),
            (Some(_), _) => {}
        }
        Poll::Ready(frame)
    }
}
