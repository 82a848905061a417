//! The gRPC health check (`grpc.health.v1.Health/Check`): its two messages are written out here, so that no code is
//! generated for them.

use http::{HeaderValue, uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::{Request, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

use super::Failure;

const CHECK: PathAndQuery = PathAndQuery::from_static("/grpc.health.v1.Health/Check");

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Asks over this connection whether `service` serves, without TLS, as the kubelet does.
pub async fn perform(stream: TcpStream, service: &str, agent: &HeaderValue) -> Result<(), Failure> {
    let unreachable = |error: &dyn std::fmt::Display| Failure::Unreachable(error.to_string());
    let authority = stream.peer_addr().map_err(|error| unreachable(&error))?;
    let mut stream = Some(TokioIo::new(stream));
    let connect = tower::service_fn(move |_| {
        let stream = stream
            .take()
            .ok_or_else(|| std::io::Error::other("it closed the connection"));
        async move { stream }
    });
    let channel = Endpoint::from_shared(format!("http://{authority}"))
        .and_then(|endpoint| endpoint.user_agent(agent.clone()))
        .map_err(|error| unreachable(&error))?
        .connect_with_connector(connect)
        .await
        .map_err(|error| unreachable(&error))?;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| unreachable(&error))?;
    let request = Request::new(HealthCheckRequest {
        service: service.to_owned(),
    });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let answer = grpc
        .unary(request, CHECK, codec)
        .await
        .map_err(|status| Failure::NotServing(format!("{:?}", status.code())))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(Failure::NotServing(format!("{other:?}"))),
    }
}
