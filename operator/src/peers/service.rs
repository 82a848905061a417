//! Telling other replicas of this one's sessions: the gRPC service, on the stream's listener.

use std::{sync::Arc, time::Duration};

use prost::Message;
use sluice_process::Shutdown;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    INTERVAL,
    metrics::Metrics,
    outgoing::Outgoing,
    proto::{self, peers_server::Peers},
};
use crate::{
    identity::replica::is_replica,
    stream::{SessionTable, listener::Peer},
};

/// Turns follow each other no sooner, however much there is to tell.
const SHORTEST: Duration = Duration::from_millis(50);
/// How long a follower may take to read a piece.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Pieces that wait for a follower.
const QUEUE: usize = 4;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    /// The name of this life of this replica.
    pub replica: String,
    /// Its sessions.
    pub table: Arc<SessionTable>,
    /// The exchange's metrics.
    pub metrics: Metrics,
    /// Ends what is told.
    pub shutdown: Shutdown,
}

#[tonic::async_trait]
impl Peers for Service {
    type FollowStream = ReceiverStream<Result<proto::Part, Status>>;

    async fn follow(
        &self,
        request: Request<proto::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .ok_or_else(|| Status::internal("no connection information"))?;
        if !peer.certificate.as_ref().is_some_and(is_replica) {
            self.metrics.refused.inc();
            tracing::warn!(address = %peer.address, "somebody who is no replica asks for what replicas tell each other");
            return Err(Status::permission_denied(
                "only replicas of the operator may ask this",
            ));
        }
        peer.set_proven();
        tracing::info!(follower = request.get_ref().replica, address = %peer.address, "is followed");
        let (outgoing, parts) = mpsc::channel(QUEUE);
        tokio::spawn(self.clone().tell(outgoing));
        Ok(Response::new(ReceiverStream::new(parts)))
    }
}

impl Service {
    /// Tells one follower until either side ends.
    async fn tell(self, outgoing: mpsc::Sender<Result<proto::Part, Status>>) {
        let mut told = Outgoing::new(&self.replica);
        let mut settlings = self.table.settlings();
        loop {
            let began = Instant::now();
            settlings.borrow_and_update();
            for part in told.turn(&self.table, began) {
                self.metrics.sent.inc_by(part.encoded_len() as u64);
                // One that is gone or does not read finds everything anew when it comes back.
                if !matches!(
                    timeout(SEND_TIMEOUT, outgoing.send(Ok(part))).await,
                    Ok(Ok(()))
                ) {
                    return;
                }
            }
            // Requests are held until the leader hears of the last Settled.
            let hurried = async {
                sleep_until(began + SHORTEST).await;
                let _ = settlings.changed().await;
            };
            tokio::select! {
                () = self.shutdown.begun() => {
                    let end = Status::unavailable("the operator is shutting down");
                    let _ = timeout(Duration::from_secs(1), outgoing.send(Err(end))).await;
                    return;
                }
                () = outgoing.closed() => return,
                () = sleep_until(began + INTERVAL) => {}
                () = hurried => {}
            }
        }
    }
}
