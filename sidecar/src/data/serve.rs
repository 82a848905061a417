//! Connections of clients: accepted, led to their application, told apart (a port with a route speaks HTTP, any other
//! passes), served with HTTP/1.1 or cleartext HTTP/2, and ended when they stand still or the process goes away.

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    io::ErrorKind,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderValue, Response, StatusCode, Version, header::CONNECTION};
use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;
use sluice_pipeline::framing::Fault;
use sluice_snapshot::unit::settings::ProxyProtocol;
use tokio::{
    net::{TcpListener, TcpStream},
    task::spawn_local,
};

use super::{
    aside::Aside,
    body::{Arrived, Body, ClientBody},
    connection::{
        ConnectionPlace,
        last_words::{self, ClientStream},
        traffic::{Returned, Watched},
    },
    edge::{self, Door},
    hop,
    http1::{self, Ended},
    passthrough,
    proxy_protocol::{self, Introduced},
    request,
    thread::Thread,
};
use crate::{
    capture::origin::{Origins, Refused},
    cli::Inbound,
    metrics::Closing,
};

pub use super::connection::Connection;

/// The largest head that the engine of HTTP/2 holds, in bytes; what is too large is refused before, by the bounds of
/// connections or the route.
const MAX_HEAD_BYTES: u32 = 64 << 10;
/// The pause after a connection could not be accepted: descriptors and memory come back when others end.
const PAUSE: Duration = Duration::from_millis(50);

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

/// What a listener is for.
#[derive(Debug)]
pub enum Entrance {
    /// One port of the application.
    Port(Inbound),
    /// Whatever the packet filter redirected.
    Capture(Origins),
    /// A port of a Gateway's listeners.
    Edge(Arc<Door>),
    /// The port of hops.
    Hop(Arc<Door>),
}

impl Entrance {
    /// The application that a connection is for.
    fn inbound(&self, stream: &TcpStream, peer: SocketAddr) -> Result<Inbound, Refused> {
        match self {
            Self::Port(inbound) => Ok(*inbound),
            Self::Capture(origins) => origins.of(stream, peer.ip()),
            // Which port a hop is for, its handshake says.
            Self::Edge(_) | Self::Hop(_) => Ok(edge::inbound(stream)),
        }
    }
}

/// Accepts connections for as long as the thread lives.
pub async fn accept(thread: Rc<Thread>, listener: TcpListener, entrance: Entrance) {
    let (misled, unaccepted, crowded) = (Seldom::default(), Seldom::default(), Seldom::default());
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Of one client, which went away before: the next may be waiting.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // Out of descriptors or memory. Who waits in the kernel's queue is accepted later.
                thread.tally.unaccepted();
                if let Some(unsaid) = unaccepted.turn(thread.clock().now_ms()) {
                    tracing::warn!(%error, listen = ?listener.local_addr(), unsaid, "connections cannot be accepted; is the limit of open files (RLIMIT_NOFILE) reached?");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        thread.tally.accepted();
        // A client of IPv4 has an IPv4 address, whatever the listener is: policies compare it.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let led = entrance.inbound(&stream, peer);
        if let Entrance::Capture(_) = entrance {
            thread.tally.captured(led);
        }
        match (led, thread.connection_place()) {
            (Ok(_), Some(place)) if let Entrance::Hop(door) = &entrance => {
                let thread = Rc::clone(&thread);
                spawn_local(hop::server::serve(
                    thread,
                    stream,
                    peer,
                    place,
                    Arc::clone(door),
                ));
            }
            (Ok(inbound), Some(place)) => {
                let served = match &entrance {
                    Entrance::Edge(door) => Some(Arc::clone(door)),
                    Entrance::Port(_) | Entrance::Capture(_) | Entrance::Hop(_) => None,
                };
                spawn_local(serve(
                    Rc::clone(&thread),
                    stream,
                    peer,
                    inbound,
                    place,
                    served,
                ));
            }
            (Ok(inbound), None) => {
                thread.tally.closings.count(Closing::TooMany);
                if let Some(unsaid) = crowded.turn(thread.clock().now_ms()) {
                    tracing::warn!(%peer, unsaid, "a connection is refused: --max-connections is reached");
                }
                // Bytes that only pass have no word for it.
                let is_edge = matches!(entrance, Entrance::Edge(_) | Entrance::Hop(_));
                let place = thread
                    .refusing_place()
                    .filter(|_| !is_edge && speaks_http(&thread, inbound));
                if let Some(place) = place {
                    let refused = last_words::refuse(Rc::clone(&thread), stream, peer, inbound);
                    spawn_local(async move {
                        let _place = place;
                        refused.await;
                    });
                }
            }
            (Err(refused), _) => {
                if let Some(unsaid) = misled.turn(thread.clock().now_ms()) {
                    tracing::warn!(%peer, reason = refused.name(), unsaid, "a connection to the capture port is for no application");
                }
            }
        }
    }
}

/// Whether the port has a route.
fn speaks_http(thread: &Thread, inbound: Inbound) -> bool {
    let force = thread.shared.live.peek();
    force.program.table(inbound.listen.port()).is_some()
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

async fn serve(
    thread: Rc<Thread>,
    mut stream: TcpStream,
    peer: SocketAddr,
    inbound: Inbound,
    place: ConnectionPlace,
    door: Option<Arc<Door>>,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    if door.is_none() && !speaks_http(&thread, inbound) {
        let connection = thread.connect(peer, inbound, place);
        // Each is boxed: a connection is one of them, and would else be as large as the largest.
        return Box::pin(passthrough::pass(thread, connection, stream)).await;
    }
    let Some(Introduced { peer, rest }) = introduced(&thread, peer, &mut stream).await else {
        return;
    };
    let connection = thread.connect(peer, inbound, place);
    match door {
        None => Box::pin(serve_http(thread, connection, stream, rest)).await,
        Some(door) => Box::pin(edge::serve(thread, connection, &door, stream, rest)).await,
    }
}

/// Whom the connection is from; none: it does not say so as it must, and ends.
async fn introduced(
    thread: &Thread,
    peer: SocketAddr,
    stream: &mut TcpStream,
) -> Option<Introduced> {
    let expected = thread.shared.live.peek().program.settings().proxy_protocol;
    let rest = Bytes::new();
    if expected == ProxyProtocol::Disabled {
        return Some(Introduced { peer, rest });
    }
    let deadline_ms = thread.clock().now_ms() + thread.limits.head_ms;
    let introduced = Box::pin(proxy_protocol::introduce(expected, peer, stream));
    let closing = match thread.ticker.within(deadline_ms, introduced).await {
        Ok(Ok(introduced)) => return Some(introduced),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a connection is ended in its first bytes");
            error.closing()
        }
        Err(_) => Some(Closing::HeadTimeout),
    };
    if let Some(closing) = closing {
        thread.tally.closings.count(closing);
    }
    None
}

/// Answers one request; `refused`: why nobody may see it. While draining, the answer tells a client of HTTP/1.1 to go
/// elsewhere with its next one.
async fn answer(
    thread: Rc<Thread>,
    connection: Rc<Connection>,
    arrived: Arrived,
    refused: Option<Fault>,
) -> Response<Body> {
    let http1 = arrived.parts.version < Version::HTTP_2;
    let answer = request::handle(Rc::clone(&thread), Rc::clone(&connection), arrived, refused);
    let mut answer = answer.await;
    connection.interims.close();
    let leaving = || thread.shutdown.draining() || connection.is_leaving();
    let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    if http1 && !switches && (connection.fault.get().is_some() || leaving()) {
        answer.headers_mut().insert(CONNECTION, CLOSE);
    }
    answer
}

/// Work in a place of its own.
pub struct InFlight<F>(Pin<Box<Option<F>>>);

impl<F> InFlight<F> {
    /// The place is made first, by `default`, which fills it where it is: so the work is made there, and not moved to it.
    pub fn new(work: impl FnOnce() -> F) -> Self {
        let mut place = Box::into_pin(Box::<Option<F>>::default());
        place.set(Some(work()));
        Self(place)
    }
}

impl<F: Future> Future for InFlight<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match self.0.as_mut().as_pin_mut() {
            Some(work) => work.poll(context),
            // It is there from the beginning.
            None => Poll::Pending,
        }
    }
}

/// Ends when the connection has to be told. One of HTTP/2 gets its GOAWAY once this pod drains (RFC 9113 section 6.8). One
/// of HTTP/1.1 hears it with its next answer and is closed only at the end: closed while it is idle, it would meet the
/// request that its client sends this moment.
async fn told(thread: &Thread, connection: &Connection, ending: bool) {
    let gone = async {
        match connection.arrival.get() {
            Some(arrival) => arrival.door.gone.cancelled().await,
            None => std::future::pending().await,
        }
    };
    let goaway = async {
        thread.shutdown.announced().await;
        connection.http2.notified().await;
    };
    tokio::select! {
        biased;
        () = thread.shutdown.begun(), if !ending => {}
        () = goaway => {}
        // An idle one is closed, a busy one after its answer: nothing is served there any more.
        () = gone => {}
    }
}

/// Serves HTTP on a stream of which `first` was read already.
pub async fn serve_http<S: ClientStream>(
    thread: Rc<Thread>,
    connection: Rc<Connection>,
    stream: S,
    first: Bytes,
) {
    let returned = Returned::default();
    let traffic = Rc::clone(&connection.traffic);
    let watched = Watched::new(stream, first, traffic, Rc::clone(&returned));
    let closing = match serve_http1(&thread, &connection, watched).await {
        Served::Http1(closing) => closing,
        Served::Http2(watched) => Box::pin(serve_http2(&thread, &connection, watched)).await,
    };
    let stream = returned.take();
    if let (Some(closing), Some(stream)) = (closing, stream) {
        Box::pin(last_words::close(&thread, &connection, stream, closing)).await;
    }
}

/// How serving HTTP/1.1 went.
enum Served<S> {
    /// To its end; with why, where it did not end by itself.
    Http1(Option<Closing>),
    /// The client speaks HTTP/2, from its first byte on.
    Http2(Watched<S>),
}

async fn serve_http1<S: ClientStream>(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    watched: Watched<S>,
) -> Served<S> {
    let (scratch, fault) = (Rc::clone(&thread.scratch), Rc::clone(&connection.fault));
    let shared = http1::Shared::new(http1::Incoming::new(watched, scratch, fault));
    let answer =
        |arrived, refused| answer(Rc::clone(thread), Rc::clone(connection), arrived, refused);
    let mut http = pin!(http1::serve(thread, connection, &shared, answer));
    let mut told = Aside::new(told(thread, connection, thread.shutdown.has_begun()));
    let mut closes = Aside::new(connection.closes());
    let mut was_told = false;
    let closing = loop {
        tokio::select! {
            biased;
            ended = http.as_mut() => match ended {
                // How a client ends its connection is its own affair.
                Ended::Over => break None,
                Ended::Http2 => {
                    let (watched, held) = shared.borrow().give_away();
                    let Some(mut watched) = watched else { break None };
                    watched.give_back(held);
                    return Served::Http2(watched);
                }
            },
            closing = &mut closes => break Some(closing),
            () = &mut told, if !was_told => {
                was_told = true;
                shared.borrow().leave();
            }
        }
    };
    // Whoever still reads from it has no say in when it ends.
    drop(shared.borrow().give_away());
    Served::Http1(closing)
}

/// Has the engine serve the connection to its end; with why, where it did not end by itself.
async fn serve_http2<S: ClientStream>(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    watched: Watched<S>,
) -> Option<Closing> {
    let service = service_fn({
        let (thread, connection) = (Rc::clone(thread), Rc::clone(connection));
        move |request: Request<Incoming>| {
            let (parts, body) = request.map(ClientBody::Http2).into_parts();
            let parts = Box::new(parts);
            let arrived = Arrived { parts, body };
            let answer =
                InFlight::new(|| answer(Rc::clone(&thread), Rc::clone(&connection), arrived, None));
            answer.map(Ok::<_, Infallible>)
        }
    });
    let mut engine = http2::Builder::new(LocalExecutor);
    engine
        .max_concurrent_streams(thread.limits.max_streams)
        .max_header_list_size(MAX_HEAD_BYTES);
    let mut http = pin!(engine.serve_connection(TokioIo::new(watched), service));
    let mut told = Aside::new(told(thread, connection, thread.shutdown.has_begun()));
    let mut closes = Aside::new(connection.closes());
    let mut was_told = false;
    loop {
        tokio::select! {
            biased;
            // How a client ends its connection is its own affair; how a flood ends is not.
            _ = http.as_mut() => return connection.traffic.is_flooding().then_some(Closing::Flood),
            closing = &mut closes => {
                if !closing.lets_requests_end() {
                    return Some(closing);
                }
                closes = Aside::new(connection.closes());
                thread.tally.closings.count(closing);
                http.as_mut().graceful_shutdown();
            }
            () = &mut told, if !was_told => {
                was_told = true;
                http.as_mut().graceful_shutdown();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_second_says_how_many_were_not_written() {
        let seldom = Seldom::default();
        let turns = [0, 1, 999, 1_000, 1_001, 5_000].map(|now_ms| seldom.turn(now_ms));
        assert_eq!(turns, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
