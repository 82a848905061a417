//! The listener of the metrics API: TLS 1.3 with the operator's own certificate. A client certificate is optional, so that
//! whoever comes without one is told so by HTTP; one that is shown must be of the cluster's front-proxy CA. When that CA
//! changes, connections that were let in by the former one end.

use std::sync::Arc;

use axum::{Extension, Router, http::HeaderMap};
use rustls::pki_types::CertificateDer;
use sluice_process::Shutdown;
use tokio::{net::TcpListener, sync::watch};

use super::front_proxy::{FrontProxy, NotTheApiServer, User};
use crate::{identity::Authority, tls_listener};

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
    let begun = shutdown.clone();
    let connection = move |stream| {
        let (authority, mut known) = (authority.clone(), known.clone());
        let (routes, begun) = (routes.clone(), begun.begun());
        async move {
            let proxy = known.borrow_and_update().clone();
            let roots = proxy.as_deref().map(|proxy| proxy.roots.as_slice());
            let config = Arc::new(authority.https_config(roots)?);
            let (stream, certificate) = tls_listener::handshake(stream, config).await?;
            let routes = routes.layer(Extension(Peer { proxy, certificate }));
            let over = async {
                tokio::select! {
                    () = begun => {}
                    // Whether it changed or nobody follows it any more: this connection was let in by what was.
                    _ = known.changed() => {}
                }
            };
            tls_listener::http(stream, routes, over).await
        }
    };
    tls_listener::serve(listener, "metrics API", shutdown, connection).await
}
