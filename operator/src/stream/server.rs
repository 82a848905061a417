//! The gRPC service: proof of identity, then a session. A proof is the token in `authorization: Bearer`, or the client
//! certificate of the connection; both yield a Principal, and only a pod of the operator's own store gets a stream.

use std::{io, sync::Arc, time::Duration};

use sluice_process::{Clock, Shutdown};
use sluice_snapshot::stream::{
    Down, Up,
    config_server::{Config, ConfigServer},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap, transport::Server};

use super::{
    listener::{self, Connection, Peer},
    metrics::Metrics,
    published::{Feed, Published, Refusal},
    session,
    table::SessionTable,
};
use crate::{
    identity::{
        Authority, Principal,
        token::{MAX_TOKEN_BYTES, TokenError, Tokens},
    },
    peers::{self, proto::peers_server::PeersServer},
};

/// The largest message a sidecar may send, in bytes: a Hello that names some ten thousand units.
const MAX_UP_BYTES: usize = 2 * 1024 * 1024;
/// Messages to a sidecar that wait in the process; the rest waits where it is.
const QUEUE: usize = 4;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams of one connection: one, and one that replaces it.
const MAX_STREAMS: u32 = 4;

/// What sessions share.
pub struct Context {
    /// What every group must hold.
    pub published: Arc<Published>,
    /// Who holds what.
    pub table: Arc<SessionTable>,
    /// Signs, and knows certificates.
    pub authority: Arc<Authority>,
    /// Knows tokens.
    pub tokens: Arc<dyn Tokens>,
    /// The stream's metrics.
    pub metrics: Metrics,
    /// Wall clock for certificates.
    pub clock: Clock,
    /// Ends sessions.
    pub shutdown: Shutdown,
}

/// Serves the stream on `listener` until shutdown, and returns when the last session has ended.
///
/// `peers` is told to other replicas on the same listener, where there may be any.
pub async fn serve(
    context: Arc<Context>,
    listener: TcpListener,
    peers: Option<peers::Service>,
) -> anyhow::Result<()> {
    let (connections, accepted) = mpsc::channel::<io::Result<Connection>>(64);
    let accepting = listener::accept(
        listener,
        context.authority.clone(),
        context.metrics.clone(),
        connections,
        context.shutdown.clone(),
    );
    let sessions = TaskTracker::new();
    let service = ConfigServer::new(Service {
        context: context.clone(),
        sessions: sessions.clone(),
    })
    .max_decoding_message_size(MAX_UP_BYTES);
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(2 * MAX_TOKEN_BYTES as u32)
        .add_service(service)
        .add_optional_service(peers.map(PeersServer::new))
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted), context.shutdown.begun());
    let (accepting, serving) = tokio::join!(accepting, serving);
    accepting?;
    serving?;
    sessions.close();
    sessions.wait().await;
    Ok(())
}

struct Service {
    context: Arc<Context>,
    sessions: TaskTracker,
}

#[tonic::async_trait]
impl Config for Service {
    type StreamStream = ReceiverStream<Result<Down, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<Up>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .cloned()
            .ok_or_else(|| Status::internal("no connection information"))?;
        let (principal, feed) = self.admit(request.metadata(), &peer).await?;
        peer.set_proven();
        let (outgoing, messages) = mpsc::channel(QUEUE);
        self.sessions.spawn(session::run(
            self.context.clone(),
            principal,
            feed,
            request.into_inner(),
            outgoing,
        ));
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Service {
    /// Proof, then the operator's own store.
    async fn admit(
        &self,
        metadata: &MetadataMap,
        peer: &Peer,
    ) -> Result<(Principal, watch::Receiver<Feed>), Status> {
        let admitted = match self.prove(metadata, peer).await {
            Ok(principal) => match self.context.published.admit(&principal) {
                Ok(feed) => return Ok((principal, feed)),
                Err(refusal @ Refusal::Starting) => {
                    Refused::new("starting", Status::unavailable(refusal.to_string()))
                }
                Err(refusal) => Refused::new(
                    "unknown-pod",
                    Status::permission_denied(format!("{principal}: {refusal}")),
                ),
            },
            Err(refused) => refused,
        };
        let Refused { reason, status } = admitted;
        self.context
            .metrics
            .refused
            .with_label_values(&[reason])
            .inc();
        tracing::warn!(address = %peer.address, reason, message = status.message(), "stream refused");
        Err(status)
    }

    async fn prove(&self, metadata: &MetadataMap, peer: &Peer) -> Result<Principal, Refused> {
        if let Some(value) = metadata.get("authorization") {
            let token = value
                .to_str()
                .ok()
                .and_then(|value| value.strip_prefix("Bearer "))
                .filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN_BYTES)
                .ok_or_else(|| {
                    Refused::new(
                        "token",
                        Status::unauthenticated("authorization is not `Bearer <token>`"),
                    )
                })?;
            return self
                .context
                .tokens
                .principal(token)
                .await
                .map_err(|error| match error {
                    TokenError::Refused(_) => {
                        Refused::new("token", Status::unauthenticated(error.to_string()))
                    }
                    TokenError::Unavailable(_) => {
                        Refused::new("token-review", Status::unavailable(error.to_string()))
                    }
                });
        }
        let Some(certificate) = &peer.certificate else {
            return Err(Refused::new(
                "no-proof",
                Status::unauthenticated("neither a token nor a client certificate was presented"),
            ));
        };
        self.context
            .authority
            .principal(certificate)
            .map_err(|error| {
                Refused::new("certificate", Status::unauthenticated(error.to_string()))
            })
    }
}

/// A refusal and its metric label.
struct Refused {
    reason: &'static str,
    status: Status,
}

impl Refused {
    fn new(reason: &'static str, status: Status) -> Self {
        Self { reason, status }
    }
}
