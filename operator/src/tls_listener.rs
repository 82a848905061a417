//! What the operator's TLS listeners have in common: accepting that outlives a failed accept, a handshake of bounded
//! time, and HTTP for the few clients that ask over it (API servers), bounded in number, its requests under way finished
//! at the end. Which certificates are trusted and what is answered is the callers'.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{ServerConfig, pki_types::CertificateDer};
use sluice_process::Shutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;

/// HTTP connections of one listener at a time; API servers keep few.
pub const MAX_CONNECTIONS: usize = 128;
/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long an accept that failed is waited for; descriptors may be used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The next connection of the listener called `name`; `None` once the shutdown has begun.
pub async fn accept(
    listener: &TcpListener,
    name: &str,
    shutdown: &Shutdown,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            () = shutdown.begun() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            // A client that went away, or no descriptors left: the next one may fare better.
            Err(error) => {
                tracing::warn!(listener = name, %error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The stream after its handshake, and the leaf of the client's chain where it showed one that `config` trusts.
pub async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<(TlsStream<TcpStream>, Option<CertificateDer<'static>>)> {
    stream.set_nodelay(true)?;
    let shaken = TlsAcceptor::from(config).accept(stream);
    let stream = timeout(HANDSHAKE_TIMEOUT, shaken).await??;
    let (_, connection) = stream.get_ref();
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    let leaf = leaf.map(|leaf| leaf.clone().into_owned());
    Ok((stream, leaf))
}

/// Accepts [`MAX_CONNECTIONS`] at a time until shutdown, and does with each what `connection` says; those that stand then
/// have 5 s to end.
pub async fn serve<F>(
    listener: TcpListener,
    name: &'static str,
    shutdown: Shutdown,
    connection: impl Fn(TcpStream) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let slot = tokio::select! {
            () = shutdown.begun() => break,
            slot = slots.clone().acquire_owned() => slot?,
        };
        let Some((stream, _)) = accept(&listener, name, &shutdown).await else {
            break;
        };
        let served = connection(stream);
        connections.spawn(async move {
            if let Err(error) = served.await {
                let error = format!("{error:#}");
                tracing::debug!(listener = name, error, "connection");
            }
            drop(slot);
        });
    }
    connections.close();
    if timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!(listener = name, "requests were still under way");
    }
    Ok(())
}

/// Answers the requests of one connection. When `over` is, those under way are finished and no more are taken.
pub async fn http(
    stream: TlsStream<TcpStream>,
    routes: Router,
    over: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL);
    let service = TowerToHyperService::new(routes);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = served.as_mut() => return ended.map_err(anyhow::Error::from_boxed),
        () = over => served.as_mut().graceful_shutdown(),
    }
    served.await.map_err(anyhow::Error::from_boxed)
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs::default_provider,
        pki_types::{ServerName, pem::PemObject},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
        time::Instant,
    };
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::identity::{Authority, CaMaterial};

    const NAME: &str = "sluice-operator.sluice-system.svc";

    /// A listener whose answers wait to be let go.
    struct Rig {
        address: SocketAddr,
        authority: Arc<Authority>,
        /// A permit for each request that has come.
        came: Arc<Semaphore>,
        /// A permit lets one answer go.
        go: Arc<Semaphore>,
        shutdown: Shutdown,
        serving: JoinHandle<anyhow::Result<()>>,
    }

    impl Rig {
        async fn start() -> Self {
            let now_s = sluice_process::Clock::start().wall_s();
            let material = CaMaterial::generate(now_s).expect("a CA");
            let authority = Authority::new(material, NAME, "shop.example", now_s);
            let authority = Arc::new(authority.expect("an authority"));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            let address = listener.local_addr().expect("bound");
            let (came, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
            let (told, let_go) = (came.clone(), go.clone());
            let answer = move || async move {
                told.add_permits(1);
                let_go.acquire().await.expect("open").forget();
                "done"
            };
            let routes = Router::new().route("/", get(answer));
            let config = Arc::new(authority.https_config(None).expect("a configuration"));
            let shutdown = Shutdown::default();
            let begun = shutdown.clone();
            let serving = serve(listener, "test", shutdown.clone(), move |stream| {
                let (routes, config, over) = (routes.clone(), config.clone(), begun.begun());
                async move {
                    let (stream, _) = handshake(stream, config).await?;
                    http(stream, routes, over).await
                }
            });
            Self {
                address,
                authority,
                came,
                go,
                shutdown,
                serving: tokio::spawn(serving),
            }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.expect("connects")
        }

        async fn ask(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
            let roots_pem = self.authority.roots().borrow().to_string();
            let mut roots = RootCertStore::empty();
            for root in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
                roots.add(root.expect("PEM")).expect("a root");
            }
            let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
            let name = ServerName::try_from(NAME).expect("a name");
            let connector = TlsConnector::from(Arc::new(config));
            let shaken = connector.connect(name, self.connect().await).await;
            let mut stream = shaken.expect("shakes hands");
            let request = b"GET / HTTP/1.1\r\nhost: sluice\r\n\r\n";
            stream.write_all(request).await.expect("writes");
            stream
        }
    }

    async fn answer(mut stream: tokio_rustls::client::TlsStream<TcpStream>) -> String {
        let mut bytes = Vec::new();
        // Without close_notify at the end it is an error, after all bytes.
        let _ = stream.read_to_end(&mut bytes).await;
        String::from_utf8(bytes).expect("text")
    }

    /// Whether the other end closes it, however: by an end or a reset.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_finish_its_handshake_is_closed() {
        let rig = Rig::start().await;
        let before = Instant::now();
        let mut silent = rig.connect().await;
        assert!(is_closed(&mut silent).await);
        assert!(before.elapsed() >= HANDSHAKE_TIMEOUT);
        assert!(before.elapsed() < 2 * HANDSHAKE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn more_connections_than_there_are_slots_wait() {
        let rig = Rig::start().await;
        let before = Instant::now();
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(rig.connect().await);
        }
        // No slot is free before the first of them is given up.
        let stream = rig.ask().await;
        assert!(before.elapsed() >= HANDSHAKE_TIMEOUT);
        let came = rig.came.acquire().await;
        assert!(came.is_ok());
        drop(stream);
    }

    #[tokio::test]
    async fn a_request_under_way_is_answered_after_the_shutdown_has_begun() {
        let rig = Rig::start().await;
        let asking = [rig.ask().await, rig.ask().await];
        let came = rig.came.acquire_many(2).await;
        assert!(came.is_ok());
        rig.shutdown.begin("test");
        rig.go.add_permits(2);
        for stream in asking {
            let answer = answer(stream).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
            assert!(answer.ends_with("done"), "{answer:?}");
        }
        rig.serving.await.expect("joins").expect("ends well");
    }
}
