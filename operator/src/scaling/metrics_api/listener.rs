//! The listener of the metrics API: TLS 1.3 with the operator's own certificate. A client certificate is optional, so that
//! whoever comes without one is told so by HTTP; one that is shown must be of the cluster's front-proxy CA. When that CA
//! changes, connections that were let in by the former one end.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router, http::HeaderMap};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{
    RootCertStore, ServerConfig, crypto::aws_lc_rs::default_provider, pki_types::CertificateDer,
    server::WebPkiClientVerifier, version::TLS13,
};
use sluice_process::Shutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::front_proxy::{FrontProxy, NotTheApiServer, User};
use crate::identity::Authority;

/// Connections at a time; API servers keep few.
const MAX_CONNECTIONS: usize = 128;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long an accept that failed is waited for; descriptors may be used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    proxy: Option<Arc<FrontProxy>>,
    certificate: Option<CertificateDer<'static>>,
}

impl Peer {
    /// For whom it asks, if it is the API server.
    pub fn user(&self, headers: &HeaderMap) -> Result<User, NotTheApiServer> {
        match &self.proxy {
            Some(proxy) => proxy.user(self.certificate.as_ref(), headers),
            None => Err(NotTheApiServer::NoCertificate),
        }
    }
}

/// Serves until shutdown.
pub async fn serve(
    listener: TcpListener,
    authority: Arc<Authority>,
    known: watch::Receiver<Option<Arc<FrontProxy>>>,
    routes: Router,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let slot = tokio::select! {
            () = shutdown.begun() => break,
            slot = slots.clone().acquire_owned() => slot?,
        };
        let stream = tokio::select! {
            () = shutdown.begun() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "listener of the metrics API");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (authority, known) = (authority.clone(), known.clone());
        let (routes, shutdown) = (routes.clone(), shutdown.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, &authority, known, routes, shutdown).await {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "connection of the metrics API"
                );
            }
            drop(slot);
        });
    }
    connections.close();
    if timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!("requests to the metrics API were still under way");
    }
    Ok(())
}

fn config(authority: &Authority, proxy: Option<&FrontProxy>) -> anyhow::Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?;
    let builder = match proxy {
        Some(proxy) => {
            let mut roots = RootCertStore::empty();
            for root in &proxy.roots {
                roots.add(root.clone())?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                Arc::new(default_provider()),
            );
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(authority.server_certificate());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would keep a certificate's verdict past a change of the CA.
    config.send_tls13_tickets = 0;
    Ok(config)
}

async fn connection(
    stream: TcpStream,
    authority: &Authority,
    mut known: watch::Receiver<Option<Arc<FrontProxy>>>,
    routes: Router,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let proxy = known.borrow_and_update().clone();
    let acceptor = TlsAcceptor::from(Arc::new(config(authority, proxy.as_deref())?));
    let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|leaf| leaf.clone().into_owned());
    let routes = routes.layer(Extension(Peer { proxy, certificate }));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30));
    let mut served =
        pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)));
    let over = async {
        tokio::select! {
            () = shutdown.begun() => {}
            // Whether it changed or nobody follows it any more: this connection was let in by what was.
            _ = known.changed() => {}
        }
    };
    tokio::select! {
        ended = served.as_mut() => return ended.map_err(|error| anyhow::anyhow!(error)),
        () = over => served.as_mut().graceful_shutdown(),
    }
    served.await.map_err(|error| anyhow::anyhow!(error))
}
