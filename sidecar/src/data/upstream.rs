//! Connections to upstreams, kept for one data thread: no lock, no look at another thread's. A connection is driven by a
//! task of its own; its sender is leased to one request at a time and comes back when the answer's body has ended.

use std::{
    cell::RefCell,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{Method, Request, Response, request::Parts};
use http_body::{Body as _, Frame};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use sluice_pipeline::quick::QuickMap;
use sluice_process::Clock;
use sluice_snapshot::unit::backend::BackendProtocol;
use tokio::{net::TcpStream, task::spawn_local};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{
    aside::{Aside, Bell},
    body::RequestBody,
    deadline::Ticker,
    interim::{Hearer, Interims},
    serve::LocalExecutor,
    tls::{TlsError, client::Client},
    wire::{Guard, Wire},
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
    Broken(SocketAddr, hyper::Error),
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

/// A connection to an upstream, in the clear or over TLS.
pub type UpstreamStream = Either<TcpStream, TlsStream<TcpStream>>;

/// The connections of one data thread. Cheap to clone.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    clock: Clock,
    ticker: Ticker,
    /// Speaks TLS on each connection; none: they are in the clear.
    tls: Option<Rc<Client>>,
    /// The port that is dialled instead of the endpoint's own.
    hop: Option<u16>,
    idle: RefCell<QuickMap<SocketAddr, Vec<Idle>>>,
    multiplexed: RefCell<QuickMap<SocketAddr, http2::SendRequest<RequestBody>>>,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    guard: Arc<Guard>,
    bell: Arc<Bell>,
    since_ms: u64,
}

/// A connection that serves one request.
pub struct Lease {
    pool: Pool,
    address: SocketAddr,
    sender: http1::SendRequest<RequestBody>,
    /// What is known of the bytes it answers.
    guard: Arc<Guard>,
    /// What wakes the connection's task.
    bell: Arc<Bell>,
}

/// An answer's head, with its body to come.
pub struct Answered {
    /// The answer.
    pub response: Response<Incoming>,
    /// The connection to give back after the body.
    pub lease: Option<Lease>,
}

impl Pool {
    /// No connections yet.
    pub fn new(clock: Clock, ticker: Ticker) -> Self {
        Self::of(clock, ticker, None, None)
    }

    /// No connections yet; each will speak TLS as `client` does.
    pub fn over_tls(clock: Clock, ticker: Ticker, client: Rc<Client>) -> Self {
        Self::of(clock, ticker, Some(client), None)
    }

    /// No connections yet; each will be one to the sidecar of its endpoint, which takes hops at port `hop`.
    pub fn over_hops(clock: Clock, ticker: Ticker, client: Rc<Client>, hop: u16) -> Self {
        Self::of(clock, ticker, Some(client), Some(hop))
    }

    fn of(clock: Clock, ticker: Ticker, tls: Option<Rc<Client>>, hop: Option<u16>) -> Self {
        let (idle, multiplexed) = (RefCell::default(), RefCell::default());
        Self(Rc::new(Inner {
            clock,
            ticker,
            tls,
            hop,
            idle,
            multiplexed,
        }))
    }

    /// Sends a request and waits for the head of its answer, until `deadline_ms` on the monotonic clock. The request is
    /// still in its place after a failure in which not a byte of it was sent. `interims`: where the upstream's interim answers
    /// go.
    pub async fn send(
        &self,
        address: SocketAddr,
        protocol: BackendProtocol,
        request: &mut Option<Request<RequestBody>>,
        deadline_ms: u64,
        interims: Option<&Arc<Interims>>,
    ) -> Result<Answered, UpstreamError> {
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
        request: &mut Option<Request<RequestBody>>,
        deadline_ms: u64,
        interims: Option<&Arc<Interims>>,
    ) -> Result<Answered, UpstreamError> {
        while let Some(Idle {
            sender,
            guard,
            bell,
            since_ms,
        }) = self.take(address)
        {
            if !sender.is_ready() {
                // Its task may not yet have seen that the last body ended. One that still sends a body is of no use.
                tokio::task::yield_now().await;
                if !sender.is_ready() {
                    continue;
                }
            }
            let idle_ms = self.0.clock.now_ms().saturating_sub(since_ms);
            let spare = if idle_ms >= STALE_AFTER_MS {
                request.as_ref().and_then(spare)
            } else {
                None
            };
            if spare.is_none() && idle_ms >= RISKY_AFTER_MS {
                continue;
            }
            let lease = Lease {
                pool: self.clone(),
                address,
                sender,
                guard,
                bell,
            };
            match (lease.send(request, interims).await, spare) {
                (Ok(answered), _) => return Ok(answered),
                // It closed in between, and nothing was sent.
                (Err(_), _) if request.is_some() => {}
                // Something was. Only the copy of an idempotent request is sent a second time.
                (Err(UpstreamError::Broken(_, cause)), Some(spare))
                    if broke_before_answer(&cause) =>
                {
                    *request = Some(*spare);
                    break;
                }
                (Err(error), _) => return Err(error),
            }
        }
        let lease = Box::pin(self.connect_http1(address, deadline_ms)).await?;
        lease.send(request, interims).await
    }

    async fn send_http2(
        &self,
        address: SocketAddr,
        request: &mut Option<Request<RequestBody>>,
        deadline_ms: u64,
    ) -> Result<Answered, UpstreamError> {
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
        let Some(taken) = request.take() else {
            return Err(UpstreamError::Taken(address));
        };
        match sender.try_send_request(taken).await {
            Ok(response) => Ok(Answered {
                response,
                lease: None,
            }),
            Err(mut failed) => {
                *request = failed.take_message();
                self.0.multiplexed.borrow_mut().remove(&address);
                Err(UpstreamError::Broken(address, failed.into_error()))
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
            Ok(Ok(stream)) => Ok(Either::Right(stream)),
            Ok(Err(error)) => Err(UpstreamError::Connect(address, error)),
            Err(_) => Err(UpstreamError::ConnectTimeout(address)),
        }
    }

    async fn connect_http1(
        &self,
        address: SocketAddr,
        deadline_ms: u64,
    ) -> Result<Lease, UpstreamError> {
        let stream = self.connect(address, deadline_ms).await?;
        let guard = Arc::<Guard>::default();
        let io = TokioIo::new(Wire::upstream(stream, Arc::clone(&guard)));
        let (sender, connection) = http1::Builder::new()
            // One write for a head and its small body.
            .writev(false)
            .handshake(io)
            .await
            .map_err(|error| UpstreamError::Broken(address, error))?;
        // Its error reaches the request that it concerns.
        let connection = Aside::new(connection.with_upgrades().map(drop));
        let bell = connection.bell();
        spawn_local(connection);
        Ok(Lease {
            pool: self.clone(),
            address,
            sender,
            guard,
            bell,
        })
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
            .map_err(|error| UpstreamError::Broken(address, error))?;
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
        while let Some(found) = idle.pop() {
            if !found.sender.is_closed() {
                return Some(found);
            }
        }
        None
    }

    /// Closes what has been idle for too long; called now and then.
    pub fn purge(&self) {
        let now = self.0.clock.now_ms();
        self.0.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| {
                !idle.sender.is_closed() && now.saturating_sub(idle.since_ms) < IDLE_MS
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
    async fn send(
        mut self,
        request: &mut Option<Request<RequestBody>>,
        interims: Option<&Arc<Interims>>,
    ) -> Result<Answered, UpstreamError> {
        let Some(taken) = request.take() else {
            return Err(UpstreamError::Taken(self.address));
        };
        let hearer = match interims {
            Some(interims) => Some(Hearer::of_this_task(interims).await),
            None => None,
        };
        self.guard.expect(taken.method() == Method::HEAD, hearer);
        match self.sender.try_send_request(taken).await {
            Ok(response) => Ok(Answered {
                response,
                lease: Some(self),
            }),
            Err(mut failed) => {
                *request = failed.take_message();
                Err(UpstreamError::Broken(self.address, failed.into_error()))
            }
        }
    }

    /// Looks at what came of an answer's body. Taking it wakes the connection's task, to read on: where the body has
    /// ended there is nothing to read, and the task is let be.
    pub fn take(
        &self,
        body: &mut Incoming,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let held = self.bell.hold();
        let polled = Pin::new(&mut *body).poll_frame(context);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) && body.is_end_stream() {
            held.forget();
        }
        polled
    }

    /// The answer's body has ended: another request may use the connection.
    pub fn give_back(self) {
        let Self {
            pool,
            address,
            sender,
            guard,
            bell,
        } = self;
        if sender.is_closed() || guard.is_refused() {
            return;
        }
        let since_ms = pool.0.clock.now_ms();
        let mut idle = pool.0.idle.borrow_mut();
        let idle = idle.entry(address).or_default();
        if idle.len() < MAX_IDLE {
            idle.push(Idle {
                sender,
                guard,
                bell,
                since_ms,
            });
        }
    }
}

/// Whether the connection ended without a byte of an answer.
fn broke_before_answer(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_closed() || error.is_canceled() || {
        let io = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<std::io::Error>());
        io.is_some_and(|io| {
            matches!(
                io.kind(),
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
            )
        })
    }
}

/// A copy of a request that may be sent twice (RFC 9110 section 9.2.2).
fn spare(request: &Request<RequestBody>) -> Option<Box<Request<RequestBody>>> {
    let idempotent = [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
    ];
    if !idempotent.contains(request.method()) {
        return None;
    }
    let body = request.body().again()?;
    let mut copy = Request::new(body);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    Some(Box::new(copy))
}

/// Closes idle connections in the background, for as long as the thread lives.
pub async fn keep_tidy(pool: Pool) {
    loop {
        tokio::time::sleep(Duration::from_millis(IDLE_MS / 4)).await;
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
