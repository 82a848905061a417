//! Connections of clients: accepted, led to their application, told apart (a port with a route speaks HTTP, any other
//! passes), served with HTTP/1.1 or cleartext HTTP/2, and ended when they stand still or the process goes away.

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, pending},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::{
    HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, UPGRADE},
};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::spawn_local,
};

use super::{
    body::Body,
    passthrough, request,
    thread::Thread,
    wire::{Guard, Wire},
};
use crate::{
    capture::origin::{Origins, Refused},
    cli::Inbound,
};

/// How long a connection may stand without a request.
const IDLE_MS: u64 = 75_000;
/// How long a connection may take until its first request's head is whole: half-sent heads do not pile up.
const FIRST_HEAD_MS: u64 = 10_000;
/// The largest head of a request; a route's own limits come on top, once the route is known.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Header lines of a request.
const MAX_HEADERS: usize = 128;
/// Streams of one HTTP/2 connection that may be open.
const MAX_STREAMS: u32 = 128;

/// The connection ends after this answer (RFC 9112 section 9.6).
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Runs tasks on the thread's own set: nothing here needs to be `Send`.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// A connection of a client.
#[derive(Debug)]
pub struct Connection {
    /// The client.
    pub peer: SocketAddr,
    /// The port it arrived for.
    pub inbound: Inbound,
    /// What is known of the bytes it sends.
    pub guard: Arc<Guard>,
    /// Requests that run.
    busy: Cell<u32>,
    /// Whether any request has come.
    used: Cell<bool>,
    /// Told once a request came over HTTP/2.
    http2: Notify,
    /// Since when nothing runs, in monotonic milliseconds.
    idle_since_ms: Cell<u64>,
}

impl Connection {
    fn new(peer: SocketAddr, inbound: Inbound, now_ms: u64) -> Rc<Self> {
        Rc::new(Self {
            peer,
            inbound,
            guard: Arc::default(),
            busy: Cell::new(0),
            used: Cell::new(false),
            http2: Notify::new(),
            idle_since_ms: Cell::new(now_ms),
        })
    }

    /// A request begins.
    pub fn begin(&self) {
        self.used.set(true);
        self.busy.set(self.busy.get() + 1);
    }

    /// A request that began at `began_us` and took `duration_us` has ended.
    pub fn end(&self, duration_us: u64, began_us: u64) {
        self.busy.set(self.busy.get().saturating_sub(1));
        self.idle_since_ms.set((began_us + duration_us) / 1000);
    }

    /// Until when it may stand as it stands now; none: it is busy.
    fn deadline_ms(&self) -> Option<u64> {
        let longest = if self.used.get() {
            IDLE_MS
        } else {
            FIRST_HEAD_MS
        };
        (self.busy.get() == 0).then(|| self.idle_since_ms.get() + longest)
    }

    /// Ends when the connection has stood still for too long.
    async fn stood_still(&self, thread: &Thread) {
        loop {
            let now = thread.clock().now_ms();
            let deadline = self.deadline_ms().unwrap_or(now + FIRST_HEAD_MS);
            if deadline <= now {
                return;
            }
            // Looked at now and then, not at each request.
            let _ = thread
                .ticker
                .within(deadline.max(now + FIRST_HEAD_MS / 2), pending::<()>())
                .await;
        }
    }
}

/// What a listener is for.
#[derive(Debug)]
pub enum Entrance {
    /// One port of the application.
    Port(Inbound),
    /// Whatever the packet filter redirected.
    Capture(Origins),
}

impl Entrance {
    /// The application that a connection is for.
    fn inbound(&self, stream: &TcpStream, peer: SocketAddr) -> Result<Inbound, Refused> {
        match self {
            Self::Port(inbound) => Ok(*inbound),
            Self::Capture(origins) => origins.of(stream, peer.ip()),
        }
    }
}

/// Accepts connections for as long as the thread lives.
pub async fn accept(thread: Rc<Thread>, listener: TcpListener, entrance: Entrance) {
    let seldom = Seldom::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                thread.tally.accepted();
                // A client of IPv4 has an IPv4 address, whatever the listener is: policies compare it.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let led = entrance.inbound(&stream, peer);
                if let Entrance::Capture(_) = entrance {
                    thread.tally.captured(led);
                }
                let now_ms = thread.clock().now_ms();
                match led {
                    Ok(inbound) => {
                        let connection = Connection::new(peer, inbound, now_ms);
                        spawn_local(serve(Rc::clone(&thread), connection, stream));
                    }
                    Err(refused) => {
                        if let Some(unsaid) = seldom.turn(now_ms) {
                            tracing::warn!(%peer, reason = refused.name(), unsaid, "a connection to the capture port is for no application");
                        }
                    }
                }
            }
            Err(error) => {
                // Out of descriptors, or a client that went away before it was accepted.
                tracing::warn!(%error, listen = ?listener.local_addr(), "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Lets a line be written once a second: whoever causes it may do so as often as they like.
#[derive(Debug, Default)]
struct Seldom {
    next_ms: Cell<u64>,
    unsaid: Cell<u64>,
}

impl Seldom {
    /// Whether it is time to write; how many lines were not written before.
    fn turn(&self, now_ms: u64) -> Option<u64> {
        if now_ms < self.next_ms.get() {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.next_ms.set(now_ms + 1_000);
        Some(self.unsaid.take())
    }
}

async fn serve(thread: Rc<Thread>, connection: Rc<Connection>, stream: TcpStream) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let port = connection.inbound.listen.port();
    if thread.shared.live.peek().program.table(port).is_none() {
        return passthrough::pass(thread, connection, stream).await;
    }
    serve_http(thread, connection, stream).await;
}

/// Answers one request. While draining, the answer tells a client of HTTP/1.1 to go elsewhere with its next one.
async fn answer(
    thread: Rc<Thread>,
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let http1 = request.version() < Version::HTTP_2;
    if !http1 && !connection.used.get() {
        connection.http2.notify_one();
    }
    let guard = Arc::clone(&connection.guard);
    let asks_for_another = http1 && request.headers().contains_key(UPGRADE);
    let answer = request::handle(Rc::clone(&thread), connection, request);
    let mut answer = answer.await?;
    if asks_for_another {
        match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => guard.opaque(),
            _ => guard.stay(),
        }
    }
    if http1 && (thread.shutdown.draining() || guard.is_last()) {
        answer.headers_mut().insert(CONNECTION, CLOSE);
    }
    Ok(answer)
}

/// Ends when the connection has to be told. One of HTTP/2 gets its GOAWAY once this pod drains (RFC 9113 section 6.8). One
/// of HTTP/1.1 hears it with its next answer and is closed only at the end: closed while it is idle, it would meet the
/// request that its client sends this moment.
async fn told(thread: &Thread, connection: &Connection, ending: bool) {
    let goaway = async {
        thread.shutdown.announced().await;
        connection.http2.notified().await;
    };
    tokio::select! {
        biased;
        () = thread.shutdown.begun(), if !ending => {}
        () = goaway => {}
    }
}

async fn serve_http(thread: Rc<Thread>, connection: Rc<Connection>, stream: TcpStream) {
    let service = service_fn({
        let (thread, connection) = (Rc::clone(&thread), Rc::clone(&connection));
        move |request: Request<Incoming>| {
            answer(Rc::clone(&thread), Rc::clone(&connection), request)
        }
    });
    let wire = Wire::client(stream, Arc::clone(&connection.guard));
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        // One write for a head and its small body.
        .writev(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES as u32);
    let mut http = pin!(builder.serve_connection(TokioIo::new(wire), service));
    let mut still = pin!(connection.stood_still(&thread));
    let mut told = pin!(told(&thread, &connection, thread.shutdown.has_begun()));
    tokio::select! {
        biased;
        // How a client ends its connection is its own affair.
        _ = http.as_mut() => return,
        () = still.as_mut() => return,
        () = told.as_mut() => http.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        biased;
        _ = http => {}
        () = still => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connection_without_a_request_has_a_deadline() {
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        let connection = Connection::new(
            address,
            Inbound {
                listen: address,
                app: address,
            },
            5,
        );
        assert_eq!(connection.deadline_ms(), Some(5 + FIRST_HEAD_MS));
        connection.begin();
        connection.begin();
        connection.end(2_000, 9_000);
        assert_eq!(connection.deadline_ms(), None);
        connection.end(2_000, 9_000);
        assert_eq!(connection.deadline_ms(), Some(11 + IDLE_MS));
    }

    #[test]
    fn a_line_a_second_says_how_many_were_not_written() {
        let seldom = Seldom::default();
        let turns = [0, 1, 999, 1_000, 1_001, 5_000].map(|now_ms| seldom.turn(now_ms));
        assert_eq!(turns, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
