//! Accepting connections: TLS with the configuration in force at that moment, handshakes beside the accept loop, and an
//! end for connections that do not prove who they are. (tonic's own TLS takes one fixed identity.)

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustls::{ServerConfig, pki_types::CertificateDer};
use sluice_process::Shutdown;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::metrics::Metrics;
use crate::{identity::Authority, tls_listener};

/// How long a connection may stand without a proof that was accepted.
const PROOF_TIMEOUT: Duration = Duration::from_secs(15);
/// Handshakes at a time; later connections wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 4096;
/// Connections at a time, proven or not.
const MAX_CONNECTIONS: usize = 32_768;

/// What a request learns about its connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The other end.
    pub address: SocketAddr,
    /// The leaf of the client's chain, verified against our roots; `None` where it showed none.
    pub certificate: Option<CertificateDer<'static>>,
    proven: Arc<AtomicBool>,
}

impl Peer {
    /// The connection proved who it is and may stay.
    pub fn set_proven(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }
}

/// A connection after its handshake.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Runs out unless the connection proves who it is.
    deadline: Option<Pin<Box<Sleep>>>,
    _slot: OwnedSemaphorePermit,
}

/// Accepts until shutdown. The receiver is the stream of connections for tonic.
pub async fn accept(
    listener: TcpListener,
    authority: Arc<Authority>,
    metrics: Metrics,
    connections: mpsc::Sender<io::Result<Connection>>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permits = async {
            (
                slots.clone().acquire_owned().await,
                handshakes.clone().acquire_owned().await,
            )
        };
        let (slot, handshake) = tokio::select! {
            () = shutdown.begun() => return Ok(()),
            permits = permits => match permits {
                (Ok(slot), Ok(handshake)) => (slot, handshake),
                _ => anyhow::bail!("a semaphore of the listener was closed"),
            },
        };
        let Some((stream, address)) = tls_listener::accept(&listener, "stream", &shutdown).await
        else {
            return Ok(());
        };
        let config = authority.server_config();
        let (connections, metrics) = (connections.clone(), metrics.clone());
        tokio::spawn(async move {
            let _handshake = handshake;
            match shake(config, stream, address, slot).await {
                // Refused only when the server is gone.
                Ok(connection) => drop(connections.send(Ok(connection)).await),
                Err(error) => {
                    metrics.refused.with_label_values(&["handshake"]).inc();
                    tracing::debug!(%address, %error, "handshake failed");
                }
            }
        });
    }
}

async fn shake(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    address: SocketAddr,
    slot: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    let (stream, certificate) = tls_listener::handshake(stream, config).await?;
    Ok(Connection {
        stream,
        peer: Peer {
            address,
            certificate,
            proven: Arc::default(),
        },
        deadline: Some(Box::pin(sleep(PROOF_TIMEOUT))),
        _slot: slot,
    })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connection {
    /// Whether the time for a proof has run out.
    fn is_overdue(&mut self, context: &mut Context<'_>) -> bool {
        let Some(deadline) = &mut self.deadline else {
            return false;
        };
        if self.peer.proven.load(Ordering::Relaxed) {
            self.deadline = None;
            return false;
        }
        deadline.as_mut().poll(context).is_ready()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/2 reads all the time, so this is asked when the deadline's timer fires.
        if self.is_overdue(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
