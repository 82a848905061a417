//! Connections to upstreams, kept for one data thread: no lock, no look at another thread's. One of HTTP/1.1 is lent to one
//! request at a time and comes back when the answer's body has ended; one of HTTP/2 has a task of its own.

use std::{
    cell::RefCell,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, request::Parts};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::TokioIo;
use sluice_pipeline::quick::QuickMap;
use sluice_process::Clock;
use sluice_snapshot::unit::backend::BackendProtocol;
use tokio::{io::AsyncWrite as _, net::TcpStream, task::spawn_local};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{
    body::{Leaving, RequestBody},
    deadline::Ticker,
    http1::{self, Broken, Scratch, Switched},
    interim::Interims,
    serve::LocalExecutor,
    tls::{TlsError, client::Client},
};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT_MS: u64 = 2_000;
/// How long a connection is kept without a request.
const IDLE_MS: u64 = 60_000;
/// Connections kept without a request, for each upstream.
const MAX_IDLE: usize = 256;
/// A connection that was idle for longer may have been closed by its other end while we look: requests that may be sent
/// again keep a copy of their head. Below, the copy would cost more than the chance is worth.
const STALE_AFTER_MS: u64 = 20;
/// A request that may not be sent twice does not use a connection that was idle for longer: a new one costs less than a
/// failure that nobody can mend.
const RISKY_AFTER_MS: u64 = 1_000;
/// How often idle connections are looked at: one that its other end has closed holds a descriptor until then.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection; nothing was sent.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// The connection was not made in time.
    #[error("no connection to {0} within its time")]
    ConnectTimeout(SocketAddr),
    /// It broke off, or does not speak HTTP.
    #[error("{0} broke off or did not answer in HTTP: {1}")]
    Broken(SocketAddr, Broken),
    /// It did not answer in time.
    #[error("{0} did not answer in time")]
    Timeout(SocketAddr),
    /// Connections cannot be made as a BackendTLSPolicy asks.
    #[error("{policy} cannot be honoured: {cause}")]
    Policy {
        /// The policy.
        policy: String,
        /// Why.
        cause: TlsError,
    },
    /// The request was sent before: a fault of the caller.
    #[error("the request to {0} was sent before")]
    Taken(SocketAddr),
}

/// A connection to an upstream, in the clear or over TLS. It is moved with each request: what is large is boxed.
pub type UpstreamStream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The connections of one data thread. Cheap to clone.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    clock: Clock,
    ticker: Ticker,
    room: http1::Room,
    /// Speaks TLS on each connection; none: they are in the clear.
    tls: Option<Rc<Client>>,
    /// The port that is dialled instead of the endpoint's own.
    hop: Option<u16>,
    idle: RefCell<QuickMap<SocketAddr, Vec<Idle>>>,
    multiplexed: RefCell<QuickMap<SocketAddr, http2::SendRequest<RequestBody>>>,
}

struct Idle {
    io: UpstreamStream,
    since_ms: u64,
}

/// Where a connection goes that served one request.
pub struct Lease {
    pool: Pool,
    address: SocketAddr,
}

/// The body of an upstream's answer.
pub enum UpstreamBody {
    /// All of it came with its head.
    Whole(Bytes),
    /// It comes over HTTP/1.1.
    Http1(Box<http1::Answer>),
    /// It comes over HTTP/2.
    Http2(Incoming),
    /// There is none: what follows is no HTTP.
    Switched(Switched),
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Http1(answer) => answer.poll_frame(context),
            Self::Http2(incoming) => Pin::new(incoming).poll_frame(context).map_err(Broken::from),
            Self::Switched(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Http1(answer) => answer.is_end_stream(),
            Self::Http2(incoming) => incoming.is_end_stream(),
            Self::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(answer) => answer.size_hint(),
            Self::Http2(incoming) => incoming.size_hint(),
            Self::Switched(_) => SizeHint::with_exact(0),
        }
    }
}

impl Pool {
    /// No connections yet.
    pub fn new(clock: Clock, ticker: Ticker, scratch: Rc<Scratch>) -> Self {
        Self::of(clock, ticker, scratch, None, None)
    }

    /// No connections yet; each will speak TLS as `client` does.
    #[must_use]
    pub fn over_tls(&self, client: Rc<Client>) -> Self {
        self.beside(client, None)
    }

    /// No connections yet; each will be one to the sidecar of its endpoint, which takes hops at port `hop`.
    #[must_use]
    pub fn over_hops(&self, client: Rc<Client>, hop: u16) -> Self {
        self.beside(client, Some(hop))
    }

    /// Another pool of the same thread.
    fn beside(&self, client: Rc<Client>, hop: Option<u16>) -> Self {
        let Inner {
            clock,
            ticker,
            room,
            ..
        } = &*self.0;
        let scratch = Rc::clone(room.scratch());
        Self::of(*clock, ticker.clone(), scratch, Some(client), hop)
    }

    fn of(
        clock: Clock,
        ticker: Ticker,
        scratch: Rc<Scratch>,
        tls: Option<Rc<Client>>,
        hop: Option<u16>,
    ) -> Self {
        let (idle, multiplexed) = (RefCell::default(), RefCell::default());
        Self(Rc::new(Inner {
            clock,
            ticker,
            room: http1::Room::new(scratch),
            tls,
            hop,
            idle,
            multiplexed,
        }))
    }

    /// The thread's clock.
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// Sends a request and waits for the head of its answer, until `deadline_ms` on the monotonic clock. The request is
    /// still in its place after a failure in which not a byte of it was sent. `interims`: where the upstream's interim answers
    /// go.
    pub async fn send(
        &self,
        address: SocketAddr,
        protocol: BackendProtocol,
        request: &mut Option<Leaving>,
        deadline_ms: u64,
        interims: Option<&Rc<Interims>>,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let exchange = pin!(async {
            match protocol {
                BackendProtocol::Http1 => {
                    self.send_http1(address, request, deadline_ms, interims)
                        .await
                }
                BackendProtocol::H2c => {
                    Box::pin(self.send_http2(address, request, deadline_ms)).await
                }
            }
        });
        self.0
            .ticker
            .within(deadline_ms, exchange)
            .await
            .unwrap_or(Err(UpstreamError::Timeout(address)))
    }

    async fn send_http1(
        &self,
        address: SocketAddr,
        request: &mut Option<Leaving>,
        deadline_ms: u64,
        interims: Option<&Rc<Interims>>,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        while let Some(Idle { io, since_ms }) = self.take(address) {
            let idle_ms = self.0.clock.now_ms().saturating_sub(since_ms);
            let spare = if idle_ms >= STALE_AFTER_MS {
                request.as_ref().and_then(spare)
            } else {
                None
            };
            if spare.is_none() && idle_ms >= RISKY_AFTER_MS {
                continue;
            }
            match (self.exchange(address, io, request, interims).await, spare) {
                (Ok(response), _) => return Ok(response),
                // It closed in between, and nothing was sent.
                (Err(_), _) if request.is_some() => {}
                // Something was. Only the copy of an idempotent request is sent a second time.
                (Err(Broken::Unanswered), Some(spare)) => {
                    *request = Some(spare);
                    break;
                }
                (Err(error), _) => return Err(UpstreamError::Broken(address, error)),
            }
        }
        let io = Box::pin(self.connect(address, deadline_ms)).await?;
        self.exchange(address, io, request, interims)
            .await
            .map_err(|error| UpstreamError::Broken(address, error))
    }

    /// One request over a connection that is idle.
    async fn exchange(
        &self,
        address: SocketAddr,
        io: UpstreamStream,
        request: &mut Option<Leaving>,
        interims: Option<&Rc<Interims>>,
    ) -> Result<Response<UpstreamBody>, Broken> {
        let pool = self.clone();
        let lease = Lease { pool, address };
        http1::exchange(&self.0.room, lease, io, request, interims).await
    }

    async fn send_http2(
        &self,
        address: SocketAddr,
        request: &mut Option<Leaving>,
        deadline_ms: u64,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let known = self
            .0
            .multiplexed
            .borrow()
            .get(&address)
            .filter(|sender| !sender.is_closed())
            .cloned();
        let mut sender = match known {
            Some(sender) => sender,
            None => self.connect_http2(address, deadline_ms).await?,
        };
        let Some(Leaving { parts, body }) = request.take() else {
            return Err(UpstreamError::Taken(address));
        };
        let taken = Request::from_parts(*parts, body);
        match sender.try_send_request(taken).await {
            Ok(response) => Ok(response.map(UpstreamBody::Http2)),
            Err(mut failed) => {
                *request = failed.take_message().map(|unsent| {
                    let (parts, body) = unsent.into_parts();
                    let parts = Box::new(parts);
                    Leaving { parts, body }
                });
                self.0.multiplexed.borrow_mut().remove(&address);
                Err(UpstreamError::Broken(address, failed.into_error().into()))
            }
        }
    }

    /// A connection that is nobody's yet.
    pub async fn connect(
        &self,
        address: SocketAddr,
        deadline_ms: u64,
    ) -> Result<UpstreamStream, UpstreamError> {
        let deadline_ms = deadline_ms.min(self.0.clock.now_ms() + CONNECT_TIMEOUT_MS);
        let dialled = SocketAddr::new(address.ip(), self.0.hop.unwrap_or(address.port()));
        let stream = match self
            .0
            .ticker
            .within(deadline_ms, TcpStream::connect(dialled))
            .await
        {
            Ok(connected) => connected.map_err(|error| UpstreamError::Connect(address, error))?,
            Err(_) => return Err(UpstreamError::ConnectTimeout(address)),
        };
        stream
            .set_nodelay(true)
            .map_err(|error| UpstreamError::Connect(address, error))?;
        let Some(client) = &self.0.tls else {
            return Ok(Either::Left(stream));
        };
        let secured = Box::pin(client.connect(stream));
        match self.0.ticker.within(deadline_ms, secured).await {
            Ok(Ok(stream)) => Ok(Either::Right(Box::new(stream))),
            Ok(Err(error)) => Err(UpstreamError::Connect(address, error)),
            Err(_) => Err(UpstreamError::ConnectTimeout(address)),
        }
    }

    async fn connect_http2(
        &self,
        address: SocketAddr,
        deadline_ms: u64,
    ) -> Result<http2::SendRequest<RequestBody>, UpstreamError> {
        let io = TokioIo::new(self.connect(address, deadline_ms).await?);
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .handshake(io)
            .await
            .map_err(|error| UpstreamError::Broken(address, error.into()))?;
        spawn_local(async move {
            let _ = connection.await;
        });
        self.0
            .multiplexed
            .borrow_mut()
            .insert(address, sender.clone());
        Ok(sender)
    }

    /// The connection that was used last: the others may grow old and go.
    fn take(&self, address: SocketAddr) -> Option<Idle> {
        let mut pool = self.0.idle.borrow_mut();
        let idle = pool.get_mut(&address)?;
        while let Some(mut found) = idle.pop() {
            if http1::is_idle(&mut found.io) {
                return Some(found);
            }
            take_leave(&mut found.io);
        }
        None
    }

    /// Closes what has been idle for too long, or was closed by its other end; called now and then.
    pub fn purge(&self) {
        let now = self.0.clock.now_ms();
        self.0.idle.borrow_mut().retain(|_, idle| {
            idle.retain_mut(|idle| {
                let stays =
                    now.saturating_sub(idle.since_ms) < IDLE_MS && http1::is_idle(&mut idle.io);
                if !stays {
                    take_leave(&mut idle.io);
                }
                stays
            });
            !idle.is_empty()
        });
        self.0
            .multiplexed
            .borrow_mut()
            .retain(|_, sender| !sender.is_closed());
    }
}

impl Lease {
    /// The answer has ended, and nothing behind it: another request may use the connection.
    pub fn give_back(self, mut io: UpstreamStream) {
        let Self { pool, address } = self;
        let since_ms = pool.0.clock.now_ms();
        let mut idle = pool.0.idle.borrow_mut();
        let idle = idle.entry(address).or_default();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { io, since_ms });
        } else {
            take_leave(&mut io);
        }
    }
}

/// Says that nothing more will be sent, before a connection is closed on which all has been said: TLS has a word for it
/// (RFC 9112 section 9.8).
pub fn take_leave(io: &mut UpstreamStream) {
    if let Either::Right(tls) = io {
        let mut context = Context::from_waker(Waker::noop());
        // What the socket does not take at once is not waited for.
        let _ = Pin::new(tls).poll_shutdown(&mut context);
    }
}

/// A copy of a request that may be sent twice (RFC 9110 section 9.2.2).
fn spare(request: &Leaving) -> Option<Leaving> {
    let idempotent = [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
    ];
    if !idempotent.contains(&request.parts.method) {
        return None;
    }
    let body = request.body.again()?;
    let parts = request.parts.clone();
    Some(Leaving { parts, body })
}

/// Closes idle connections in the background, for as long as the thread lives.
pub async fn keep_tidy(pool: Pool) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        pool.purge();
    }
}

/// The version a request is sent with, whatever it came by.
pub fn set_version(parts: &mut Parts, protocol: BackendProtocol) {
    parts.version = match protocol {
        BackendProtocol::Http1 => http::Version::HTTP_11,
        BackendProtocol::H2c => http::Version::HTTP_2,
    };
}
