//! The listener of the webhooks: TLS 1.3 with the operator's own certificate, which is replaced without a restart. Whoever
//! reaches it may ask; answers hold nothing that the asker did not send, but for the public roots.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use rustls::{ServerConfig, crypto::aws_lc_rs::default_provider, version::TLS13};
use sluice_process::Shutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::identity::Authority;

/// Connections at a time; API servers keep few.
const MAX_CONNECTIONS: usize = 128;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long an accept that failed is waited for; descriptors may be used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until shutdown.
pub async fn serve(
    listener: TcpListener,
    authority: &Authority,
    routes: Router,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(config(authority)?));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = Arc::new(GracefulShutdown::new());
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
                    tracing::warn!(%error, "webhook listener");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (acceptor, routes, watcher) = (acceptor.clone(), routes.clone(), graceful.watcher());
        tokio::spawn(async move {
            if let Err(error) = connection(stream, acceptor, routes, watcher).await {
                tracing::debug!(error = format!("{error:#}"), "webhook connection");
            }
            drop(slot);
        });
    }
    if let Some(graceful) = Arc::into_inner(graceful)
        && timeout(DRAIN, graceful.shutdown()).await.is_err()
    {
        tracing::warn!("webhook requests were still under way");
    }
    Ok(())
}

fn config(authority: &Authority) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(authority.server_certificate());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    routes: Router,
    watcher: hyper_util::server::graceful::Watcher,
) -> anyhow::Result<()> {
    let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30));
    let served = builder
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .into_owned();
    watcher
        .watch(served)
        .await
        .map_err(|error| anyhow::anyhow!(error))
}
