//! Connections of a Gateway's listeners that do not speak HTTP here: TLS that passes by its server name, TLS that ends here,
//! and plain bytes. Each goes to one endpoint of the backend that its route chose, byte for byte, until both sides have
//! ended, nothing has come for long, or the process ends.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use sluice_pipeline::{
    Reject, RejectReason, dispatch,
    program::{Backend, EdgePort, Listener},
    stream,
};
use sluice_process::Clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, copy_bidirectional};

use super::{
    connection::Connection,
    deadline::Elapsed,
    edge::Door,
    forward,
    thread::Thread,
    upstream::{Pool, UpstreamError, UpstreamStream},
};
use crate::metrics::Streamed;

/// The most that a client may say before its server name is known, in bytes: the largest record of TLS with its header
/// (RFC 8446 section 5.1).
const MAX_HELLO: usize = (16 << 10) + 5;
/// After how long without a byte from either side a connection is ended, in milliseconds.
const IDLE_MS: u64 = 3_600_000;
/// Endpoints that are tried for one connection.
const MAX_TRIES: u32 = 3;
/// How long one of them may take, in milliseconds.
const CONNECT_MS: u64 = 2_000;

/// A first flight that names nobody.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The client's, or the network's.
    #[error("the connection ended before its server name: {0}")]
    Io(#[from] io::Error),
    /// It is no ClientHello.
    #[error("it does not begin as TLS does: {0}")]
    Malformed(rustls::Error),
    /// It does not end.
    #[error("a ClientHello of more than {MAX_HELLO} bytes")]
    TooLong,
}

/// A ClientHello as it came.
pub struct Hello {
    /// The server name, in lower case (RFC 6066 section 3).
    pub server_name: Option<Box<str>>,
    /// Every byte that was read: they pass, too.
    pub bytes: Bytes,
}

/// Reads as much as it takes to know the server name. How long that may take is the caller's. `first` was read already.
pub async fn hello(
    stream: &mut (impl AsyncRead + Unpin),
    first: Bytes,
) -> Result<Hello, HelloError> {
    let mut acceptor = Acceptor::default();
    let mut bytes = BytesMut::from(first);
    let mut seen = 0;
    loop {
        while seen < bytes.len() {
            let fresh = acceptor.read_tls(&mut &bytes[seen..])?;
            if fresh == 0 {
                return Err(HelloError::TooLong);
            }
            seen += fresh;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return Ok(Hello {
                        server_name: hello.server_name().map(lower_case),
                        bytes: bytes.freeze(),
                    });
                }
                Err((error, _alert)) => return Err(HelloError::Malformed(error)),
            }
        }
        if bytes.len() >= MAX_HELLO {
            return Err(HelloError::TooLong);
        }
        let mut more = (&mut *stream).take((MAX_HELLO - bytes.len()) as u64);
        bytes.reserve(2048);
        if more.read_buf(&mut bytes).await? == 0 {
            return Err(HelloError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// A server name as listeners and routes are asked for it.
pub fn lower_case(name: &str) -> Box<str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.to_ascii_lowercase().into()
}

/// Which listener of the port a connection came by.
pub enum Told<'n> {
    /// The one of TCP.
    Tcp,
    /// The one of this server name; none: the client gave none.
    Name(Option<&'n str>),
}

impl Told<'_> {
    fn server_name(&self) -> Option<&str> {
        match self {
            Self::Tcp => None,
            Self::Name(name) => *name,
        }
    }

    fn listener<'p>(&self, port: &'p EdgePort) -> Option<&'p Listener> {
        match self {
            Self::Tcp => port.tcp(),
            Self::Name(name) => port.listener(name.unwrap_or_default()),
        }
    }
}

/// Gives the bytes of a connection to who its route names. `first` is theirs, too.
pub async fn pass<S>(
    thread: Rc<Thread>,
    connection: &Connection,
    door: &Door,
    told: Told<'_>,
    mut client: S,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (backend, through) = match chosen(&thread, connection, &told) {
        Ok(chosen) => chosen,
        Err(reject) => {
            thread.tally.edge.streamed(Streamed::of(reject.reason));
            let (reason, detail) = (reject.reason.describe().name, reject.detail.as_deref());
            let decider = reject.decider.path();
            tracing::debug!(peer = %connection.peer, reason, decider, detail, "a connection is closed");
            return;
        }
    };
    let mut upstream = match connect(&thread, &backend, through).await {
        Ok(upstream) => upstream,
        Err(error) => {
            thread.tally.edge.streamed(Streamed::Unreachable);
            tracing::debug!(peer = %connection.peer, backend = %backend.name, %error, "a connection is closed");
            return;
        }
    };
    thread.tally.edge.streamed(Streamed::Passed);
    let _open = thread.tally.edge.streaming();
    let heard = Heard::now(thread.clock());
    let mut client = Heeded(&mut client, heard.clone());
    let mut upstream = Heeded(&mut upstream, heard.clone());
    tokio::select! {
        // How either side ends is the other's to see; an end of one direction is passed on and leaves the other open.
        _ = copy_bidirectional(&mut client, &mut upstream) => {}
        () = heard.silence(&thread) => {}
        () = door.gone.cancelled() => {}
    }
}

/// Whether the bytes were TLS of the client's own: they are not put in TLS a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    AsTheyAre,
    AsAsked,
}

fn chosen(
    thread: &Thread,
    connection: &Connection,
    told: &Told<'_>,
) -> Result<(Arc<Backend>, Through), Reject> {
    let force = thread.shared.live.load();
    let port = connection.inbound.listen.port();
    let gone = || Reject::new(RejectReason::NoRoute);
    let port = force.program.edge().and_then(|edge| edge.port(port));
    let listener = port.and_then(|port| told.listener(port)).ok_or_else(gone)?;
    let names = listener.streams.as_ref().ok_or_else(gone)?;
    let chosen = stream::choose(names, told.server_name(), thread.dice.roll32())?;
    let through = match listener.passes_tls() {
        true => Through::AsTheyAre,
        false => Through::AsAsked,
    };
    Ok((Arc::clone(chosen.backend), through))
}

/// A connection to one of the backend's endpoints.
async fn connect(
    thread: &Rc<Thread>,
    backend: &Backend,
    through: Through,
) -> Result<UpstreamStream, UpstreamError> {
    let pool = match through {
        Through::AsTheyAre => thread.pool.clone(),
        Through::AsAsked => forward::pool_of(backend, thread)?,
    };
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let first = dispatch::endpoint(backend, thread.dice.roll32());
    let mut address = first.unwrap_or(nowhere);
    let mut tries = 1;
    loop {
        let connected = match first {
            Some(_) => dial(thread, &pool, address).await,
            None => Err(UpstreamError::Connect(
                nowhere,
                io::ErrorKind::AddrNotAvailable.into(),
            )),
        };
        match connected {
            Err(_) if tries < MAX_TRIES && first.is_some() => {
                tries += 1;
                address = forward::another(backend, address, thread.dice.roll32());
            }
            done => return done,
        }
    }
}

async fn dial(
    thread: &Thread,
    pool: &Pool,
    address: SocketAddr,
) -> Result<UpstreamStream, UpstreamError> {
    let deadline_ms = thread.clock().now_ms() + CONNECT_MS;
    Box::pin(pool.connect(address, deadline_ms)).await
}

/// When a byte came last.
#[derive(Clone)]
struct Heard {
    clock: Clock,
    last_ms: Rc<Cell<u64>>,
}

impl Heard {
    fn now(clock: Clock) -> Self {
        let last_ms = Rc::new(Cell::new(clock.now_ms()));
        Self { clock, last_ms }
    }

    /// Ends once nothing has come for long.
    async fn silence(&self, thread: &Thread) {
        loop {
            let until_ms = self.last_ms.get() + IDLE_MS;
            let waiting = thread.ticker.within(until_ms, std::future::pending::<()>());
            if let Err(Elapsed) = waiting.await
                && self.last_ms.get() + IDLE_MS <= self.clock.now_ms()
            {
                return;
            }
        }
    }
}

/// A stream that notes when a byte came of it.
struct Heeded<'s, S>(&'s mut S, Heard);

impl<S: AsyncRead + Unpin> AsyncRead for Heeded<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut *self.0).poll_read(context, buffer))?;
        self.1.last_ms.set(self.1.clock.now_ms());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heeded<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// A ClientHello of rustls.
    fn client_hello(name: &'static str) -> Vec<u8> {
        let provider = crate::data::tls::provider();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name).expect("a name");
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("memory");
        bytes
    }

    async fn of(pieces: Vec<Vec<u8>>, first: &[u8]) -> Result<Hello, HelloError> {
        let (mut client, mut server) = duplex(64 << 10);
        let writing = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await.expect("fits");
                tokio::task::yield_now().await;
            }
        });
        let hello = hello(&mut server, Bytes::copy_from_slice(first)).await;
        writing.await.expect("no panic");
        hello
    }

    #[tokio::test]
    async fn the_server_name_is_seen_and_no_byte_is_lost() {
        let whole = client_hello("A.Example");
        for cut in [0, 1, 5, 40, whole.len() - 1] {
            let (first, rest) = whole.split_at(cut);
            let pieces = rest.chunks(97).map(<[u8]>::to_vec).collect();
            let hello = of(pieces, first).await.expect("a ClientHello");
            assert_eq!(hello.server_name.as_deref(), Some("a.example"));
            assert!(whole.starts_with(&hello.bytes) && hello.bytes.len() == whole.len());
        }
    }

    #[tokio::test]
    async fn what_is_no_hello_or_does_not_end_is_refused() {
        let http = of(vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()], b"").await;
        assert!(matches!(http, Err(HelloError::Malformed(_))));
        let short = of(vec![client_hello("a.example")[..50].to_vec()], b"").await;
        assert!(matches!(short, Err(HelloError::Io(_))));
        // A handshake message that says it is longer than what may be said before the server name.
        let mut record = vec![22, 3, 1, 0x3f, 0xff, 1, 0, 0xff, 0xff];
        record.resize(5 + 0x3fff, 0);
        let long = of(vec![record.clone(), record], b"").await;
        assert!(
            matches!(long, Err(HelloError::TooLong | HelloError::Malformed(_))),
            "it ends"
        );
    }
}
