//! Following one other replica: dial, listen, take in; whenever that ends, its sessions are unknown, and it is dialled
//! again.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use prost::Message;
use sluice_process::Clock;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{
    incoming::Incoming,
    metrics::Metrics,
    proto::{FollowRequest, Part, peers_client::PeersClient},
    wire::WireError,
};
use crate::{
    identity::{Authority, CaError},
    stream::SessionTable,
};

/// How long a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(3);
/// A replica that says nothing for as long is lost: six turns.
const SILENCE: Duration = Duration::from_secs(3);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(500);
/// The largest piece: a list of as many units as a sidecar may hold.
const MAX_PART_BYTES: usize = 16 * 1024 * 1024;

/// What every following needs.
#[derive(Debug, Clone)]
pub struct Following {
    /// The name of this life of this replica.
    pub replica: String,
    /// Where sessions go.
    pub table: Arc<SessionTable>,
    /// Makes our certificate, knows theirs.
    pub authority: Arc<Authority>,
    /// Wall clock for certificates.
    pub clock: Clock,
    /// The exchange's metrics.
    pub metrics: Metrics,
}

/// Why the following of a replica ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Certificate(#[from] CaError),
    #[error("it cannot be reached: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("it was not reached in {CONNECT:?}")]
    ConnectTimeout,
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    #[error("it closed the exchange")]
    Closed,
    #[error("it was silent for {SILENCE:?}")]
    Silent,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("it is this replica itself")]
    Ourselves,
}

impl Following {
    /// Follows the replica at `address` until `end`. Each whole turn is told to `heard`, as `pod`.
    pub async fn run(
        self,
        pod: String,
        address: SocketAddr,
        heard: mpsc::Sender<String>,
        end: CancellationToken,
    ) {
        let mut last = String::new();
        loop {
            let mut incoming = Incoming::default();
            let why = tokio::select! {
                why = self.session(&pod, address, &mut incoming, &heard) => why,
                () = end.cancelled() => {
                    self.forget(&incoming);
                    return;
                }
            };
            self.forget(&incoming);
            if let Err(End::Ourselves) = why {
                // An operator that does not know its own pod's name.
                let _ = heard.send(pod.clone()).await;
                end.cancelled().await;
                return;
            }
            if let Err(error) = why {
                let error = error.to_string();
                // Once for each cause: a replica that starts is dialled many times.
                if error != last {
                    tracing::warn!(pod, %address, error, "does not follow another replica; tries on");
                    last = error;
                }
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                () = end.cancelled() => return,
            }
        }
    }

    /// What it told is unknown from now on.
    fn forget(&self, incoming: &Incoming) {
        if let Some(replica) = incoming.replica() {
            self.metrics.followed.dec();
            self.metrics.lost.inc();
            self.table.replica_lost(replica, Instant::now());
        }
    }

    async fn session(
        &self,
        pod: &str,
        address: SocketAddr,
        incoming: &mut Incoming,
        heard: &mpsc::Sender<String>,
    ) -> Result<(), End> {
        let channel = timeout(CONNECT, self.connect(address))
            .await
            .map_err(|_| End::ConnectTimeout)??;
        let mut client = PeersClient::new(channel).max_decoding_message_size(MAX_PART_BYTES);
        let request = FollowRequest {
            replica: self.replica.clone(),
        };
        let status = |status: Status| End::Status(Box::new(status));
        let response = timeout(SILENCE, client.follow(request))
            .await
            .map_err(|_| End::Silent)?;
        let mut parts = response.map_err(status)?.into_inner();
        loop {
            let part: Part = timeout(SILENCE, parts.message())
                .await
                .map_err(|_| End::Silent)?
                .map_err(status)?
                .ok_or(End::Closed)?;
            self.metrics.received.inc_by(part.encoded_len() as u64);
            if part.replica == self.replica {
                return Err(End::Ourselves);
            }
            let is_first = incoming.replica().is_none();
            let turn = incoming.part(part, Instant::now())?;
            let Some(replica) = incoming.replica() else {
                continue;
            };
            if is_first {
                self.metrics.followed.inc();
                tracing::info!(pod, %address, replica, "follows");
            }
            if let Some(turn) = turn {
                self.table.merge(replica, turn);
                // Nobody listens any more when the process ends.
                let _ = heard.send(pod.to_owned()).await;
            }
        }
    }

    async fn connect(&self, address: SocketAddr) -> Result<Channel, End> {
        let (config, name) = self.authority.towards_replica(self.clock.wall_s())?;
        let tls = TlsConnector::from(config);
        let connect = tower::service_fn(move |_| {
            let (tls, name) = (tls.clone(), name.clone());
            async move {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
            }
        });
        Ok(Endpoint::from_static("http://replica")
            .connect_with_connector(connect)
            .await?)
    }
}
