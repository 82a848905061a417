//! The doors of an edge: one for each port of its Gateway's listeners, opened and closed as they come and go. A door of
//! HTTPS listeners speaks TLS first; which listener a request belongs to, the routing phase says. What does not speak HTTP
//! goes on in `l4`.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sluice_pipeline::{
    Facts, Reject, RejectReason,
    program::{EdgePort, Listener, Table},
    route,
};
use sluice_process::Condition;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, spawn_local},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, last_words::ClientStream},
    l4::{self, Told},
    preceded::Preceded,
    serve::{self, Entrance},
    thread::Thread,
    tls::server::{self, Greeting, HandshakeError},
};
use crate::{
    cli::Inbound,
    listeners,
    metrics::{Closing, Handshaken, Streamed},
    shared::InForce,
};

/// How long a port that could not be had waits for the next try.
const RETRY: Duration = Duration::from_secs(1);
/// Handshakes of one data thread that may be under way: each costs a signature.
const MAX_HANDSHAKES: usize = 512;

/// What the connections of one door share.
#[derive(Debug, Default)]
pub struct Door {
    /// Its port has no listener any more.
    pub gone: CancellationToken,
    handshakes: Arc<AtomicUsize>,
}

/// A handshake under way.
#[derive(Debug)]
pub struct Handshake(Arc<AtomicUsize>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Door {
    /// A place for one more handshake; none: too many are under way.
    pub fn handshake(&self) -> Option<Handshake> {
        // The doors of one data thread share the count: nothing comes between these two.
        (self.handshakes.load(Ordering::Relaxed) < MAX_HANDSHAKES).then(|| {
            self.handshakes.fetch_add(1, Ordering::Relaxed);
            Handshake(Arc::clone(&self.handshakes))
        })
    }
}

/// How a connection came through a door.
#[derive(Debug)]
pub struct Arrival {
    /// The door.
    pub door: Arc<Door>,
    /// What the client asked for, where it speaks TLS.
    pub greeting: OnceCell<Greeting>,
}

impl Arrival {
    /// Through this door.
    pub fn through(door: &Arc<Door>) -> Self {
        Self {
            door: Arc::clone(door),
            greeting: OnceCell::new(),
        }
    }

    /// `http` or `https`, as the client sees the connection.
    pub fn scheme(&self) -> &'static str {
        match self.greeting.get() {
            Some(_) => "https",
            None => "http",
        }
    }

    /// What the listener of a request serves.
    pub fn table<'p>(
        &self,
        force: &'p InForce,
        port: u16,
        facts: &impl Facts,
    ) -> Result<&'p Table, Reject> {
        if has_passed(force, facts) {
            return Err(Reject::new(RejectReason::Loop));
        }
        let edge = force.program.edge();
        let port = edge
            .and_then(|edge| edge.port(port))
            .ok_or_else(|| Reject::new(RejectReason::NoRoute).detail("the listener is gone"))?;
        let greeting = self.greeting.get();
        // A port changes its protocol with its listeners, a connection does not.
        if port.is_tls() != greeting.is_some() {
            return Err(Reject::new(RejectReason::Misdirected));
        }
        route::at_edge(
            port,
            greeting.and_then(|greeting| greeting.server_name.as_deref()),
            facts,
        )
    }
}

/// Whether this edge has forwarded the request before.
fn has_passed(force: &InForce, facts: &impl Facts) -> bool {
    let own = force.via_forward.as_bytes();
    let member = |line: &[u8]| {
        let mut members = line.split(|byte| *byte == b',');
        members.any(|member| member.trim_ascii().eq_ignore_ascii_case(own))
    };
    facts.header("via").any(member)
}

/// A port that is listened on.
struct Open {
    door: Arc<Door>,
    accepting: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.accepting.abort();
        self.door.gone.cancel();
    }
}

/// Keeps the doors of one data thread at what the program says, for as long as the thread lives. `listening` holds while
/// every one of them is open.
pub async fn keep(thread: Rc<Thread>, ip: IpAddr, listening: Condition) {
    let handshakes = Arc::<AtomicUsize>::default();
    let mut changes = thread.shared.live.subscribe();
    let mut doors: BTreeMap<u16, Open> = BTreeMap::new();
    loop {
        changes.mark_unchanged();
        let force = thread.shared.live.load();
        let edge = force.program.edge();
        let wanted: BTreeSet<u16> = edge.into_iter().flat_map(|edge| edge.ports()).collect();
        doors.retain(|port, _| wanted.contains(port));
        let mut failed = None;
        for port in wanted {
            if doors.contains_key(&port) {
                continue;
            }
            match open(&thread, SocketAddr::new(ip, port), &handshakes) {
                Ok(door) => drop(doors.insert(port, door)),
                Err(error) => failed = Some(error.to_string()),
            }
        }
        match (&failed, edge.is_some()) {
            (Some(error), _) => {
                tracing::warn!(error, "a listener's port cannot be had; it is tried again");
                listening.unmet(error.clone());
            }
            (None, false) => {
                listening.unmet("its Gateway has no listeners: is it of class sluice?")
            }
            (None, true) => listening.met(),
        }
        drop(force);
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    // Nothing can change any more: the process is ending.
                    std::future::pending::<()>().await;
                }
            }
            () = tokio::time::sleep(RETRY), if failed.is_some() => {}
        }
    }
}

fn open(
    thread: &Rc<Thread>,
    address: SocketAddr,
    handshakes: &Arc<AtomicUsize>,
) -> io::Result<Open> {
    let socket = listeners::bind_shared(address).map_err(io::Error::other)?;
    let listener = TcpListener::from_std(socket)?;
    let door = Arc::new(Door {
        gone: CancellationToken::new(),
        handshakes: Arc::clone(handshakes),
    });
    let entrance = Entrance::Edge(Arc::clone(&door));
    tracing::info!(%address, "a listener's port is open");
    Ok(Open {
        accepting: spawn_local(serve::accept(Rc::clone(thread), listener, entrance)),
        door,
    })
}

/// The place of a connection of an edge. Behind it is no application: nobody can be dialled there.
pub fn inbound(stream: &TcpStream) -> Inbound {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    Inbound {
        listen: stream.local_addr().unwrap_or(nowhere),
        app: nowhere,
    }
}

/// Serves a connection, over TLS where the listeners of its port want it. `first` was read of it already.
pub async fn serve(
    thread: Rc<Thread>,
    connection: Rc<Connection>,
    door: &Arc<Door>,
    stream: TcpStream,
    first: Bytes,
) {
    connection.arrival.get_or_init(|| Arrival::through(door));
    let port = connection.inbound.listen.port();
    let spoken = {
        let force = thread.shared.live.peek();
        let listeners = force.program.edge().and_then(|edge| edge.port(port));
        listeners.map(Spoken::by)
    };
    let stream = Preceded { first, stream };
    match spoken {
        // Its listeners went in this moment.
        None => {}
        Some(Spoken::Http) => {
            let Preceded { first, stream } = stream;
            Box::pin(serve::serve_http(thread, connection, stream, first)).await;
        }
        Some(Spoken::Tls) => Box::pin(serve_tls(thread, connection, door, stream)).await,
        Some(Spoken::NamedTls) => {
            Box::pin(serve_named(thread, connection, door, stream)).await;
        }
        Some(Spoken::Bytes) => {
            Box::pin(l4::pass(thread, &connection, door, Told::Tcp, stream)).await;
        }
    }
}

/// What clients of a port speak.
enum Spoken {
    Http,
    /// TLS that ends here.
    Tls,
    /// TLS that ends here or passes, by its server name.
    NamedTls,
    Bytes,
}

impl Spoken {
    fn by(port: &EdgePort) -> Self {
        if port.tcp().is_some() {
            Self::Bytes
        } else if port.may_pass_tls() {
            Self::NamedTls
        } else if port.is_tls() {
            Self::Tls
        } else {
            Self::Http
        }
    }
}

/// Ends TLS, and serves what is in it.
async fn serve_tls(
    thread: Rc<Thread>,
    connection: Rc<Connection>,
    door: &Arc<Door>,
    stream: Preceded<TcpStream>,
) {
    let secured = Box::pin(secured(&thread, &connection, door, stream));
    let Some((stream, greeting)) = secured.await else {
        return;
    };
    let name = greeting.server_name.clone();
    let is_stream = {
        let force = thread.shared.live.peek();
        let port = connection.inbound.listen.port();
        let port = force.program.edge().and_then(|edge| edge.port(port));
        let listener = port.and_then(|port| port.listener(name.as_deref().unwrap_or_default()));
        listener.is_some_and(|listener| listener.streams.is_some())
    };
    if let Some(arrival) = connection.arrival.get() {
        let _ = arrival.greeting.set(greeting);
    }
    if is_stream {
        let told = Told::Name(name.as_deref());
        Box::pin(l4::pass(thread, &connection, door, told, stream)).await;
    } else {
        // Large, and else moved into each layer around it.
        let stream = Box::new(stream);
        Box::pin(serve::serve_http(thread, connection, stream, Bytes::new())).await;
    }
}

/// Sees the server name first: TLS of some listeners of the port passes as it is.
async fn serve_named(
    thread: Rc<Thread>,
    connection: Rc<Connection>,
    door: &Arc<Door>,
    stream: Preceded<TcpStream>,
) {
    let Preceded { first, mut stream } = stream;
    let deadline_ms = thread.clock().now_ms() + thread.limits.head_ms;
    let hello = {
        let Some(_place) = door.handshake() else {
            thread.tally.edge.handshaken(Handshaken::TooMany);
            return;
        };
        let hello = l4::hello(&mut stream, first);
        thread.ticker.within(deadline_ms, hello).await
    };
    let l4::Hello { server_name, bytes } = match hello {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => {
            thread.tally.edge.streamed(Streamed::Malformed);
            tracing::debug!(peer = %connection.peer, %error, "a connection is closed");
            return;
        }
        Err(_) => {
            thread.tally.edge.streamed(Streamed::Timeout);
            thread.tally.closings.count(Closing::HeadTimeout);
            return;
        }
    };
    let passes = {
        let force = thread.shared.live.peek();
        let port = connection.inbound.listen.port();
        let port = force.program.edge().and_then(|edge| edge.port(port));
        let name = server_name.as_deref().unwrap_or_default();
        port.and_then(|port| port.listener(name))
            .map(Listener::passes_tls)
    };
    let stream = Preceded {
        first: bytes,
        stream,
    };
    match passes {
        None => thread.tally.edge.streamed(Streamed::NoRoute),
        Some(false) => serve_tls(thread, connection, door, stream).await,
        Some(true) => {
            let told = Told::Name(server_name.as_deref());
            l4::pass(thread, &connection, door, told, stream).await;
        }
    }
}

/// The stream once the handshake is done; none: it came to nothing.
async fn secured(
    thread: &Rc<Thread>,
    connection: &Connection,
    door: &Door,
    stream: Preceded<TcpStream>,
) -> Option<(TlsStream<Preceded<TcpStream>>, Greeting)> {
    let tally = &thread.tally.edge;
    let Some(_place) = door.handshake() else {
        tally.handshaken(Handshaken::TooMany);
        return None;
    };
    let port = connection.inbound.listen.port();
    let terms = |server_name: Option<&str>| {
        let force = thread.shared.live.peek();
        force.terminators.terms(&force.program, port, server_name)
    };
    let deadline_ms = thread.clock().now_ms() + thread.limits.head_ms;
    let accepted = Box::pin(server::accept(stream, terms));
    match thread.ticker.within(deadline_ms, accepted).await {
        Ok(Ok(secured)) => {
            tally.handshaken(Handshaken::Done);
            Some(secured)
        }
        Ok(Err(error)) => {
            tally.handshaken(match &error {
                HandshakeError::NoListener(_) => Handshaken::NoListener,
                HandshakeError::Io(_) => Handshaken::Failed,
            });
            tracing::debug!(peer = %connection.peer, port, %error, "a handshake came to nothing");
            None
        }
        Err(_) => {
            tally.handshaken(Handshaken::Timeout);
            thread.tally.closings.count(Closing::HeadTimeout);
            None
        }
    }
}

impl ClientStream for Box<TlsStream<Preceded<TcpStream>>> {
    fn tcp(&self) -> &TcpStream {
        &self.get_ref().0.stream
    }
}
