//! KEDA's external scaler (gRPC): for clusters whose custom metrics API is somebody else's. A trigger names a Service, a
//! metric and a target per pod; the value is the sum over the Service's pods. Sidecars count the requests, so a workload
//! without pods is never active: it cannot be woken from here.
//!
//! It speaks in the clear and tells no more than the sidecars' own metrics pages do. It writes nothing.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use sluice_crds::common::Quantity;
use sluice_process::Shutdown;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::interval,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, transport::Server};

use super::{
    metric::Metric,
    pods::{Found, Pick, Pods},
};

#[allow(missing_docs, clippy::all)] // generated; the proto says what it is
mod wire {
    tonic::include_proto!("externalscaler");
}

use wire::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec,
    MetricValue, ScaledObjectRef,
    external_scaler_server::{ExternalScaler, ExternalScalerServer},
};

/// Words of a trigger's metadata.
const SERVICE: &str = "service";
const METRIC: &str = "metric";
const TARGET: &str = "target";
/// KEDA adds words of its own; more than this is no trigger.
const MAX_WORDS: usize = 64;
/// The longest value of ours, in bytes: the name of a Service.
const MAX_VALUE: usize = 253;
const MAX_MESSAGE: usize = 64 * 1024;
/// Requests of one connection at a time, and streams of all.
const MAX_REQUESTS: usize = 256;
const MAX_STREAMS: usize = 1_024;
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a stream looks.
const LOOK: Duration = Duration::from_secs(1);

/// A trigger, read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trigger {
    namespace: String,
    service: String,
    metric: Metric,
    /// Per pod, in thousandths.
    target_milli: u64,
}

/// A trigger that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum TriggerError {
    #[error("the ScaledObject has no namespace")]
    NoNamespace,
    #[error("the trigger's metadata has more than {MAX_WORDS} entries")]
    TooMuch,
    #[error(
        "the trigger's metadata needs {0}: write service (a Service of the ScaledObject's namespace), metric (RequestsPerSecond or InFlight) and target (per pod, such as \"150\")"
    )]
    Missing(&'static str),
    #[error("metric {0:?} is unknown: RequestsPerSecond or InFlight")]
    Metric(String),
    #[error("target: {0}; it must be above 0")]
    Target(String),
}

impl Trigger {
    fn read(reference: &ScaledObjectRef) -> Result<Self, TriggerError> {
        let ScaledObjectRef {
            name: _,
            namespace,
            scaler_metadata,
        } = reference;
        if namespace.is_empty() || namespace.len() > MAX_VALUE {
            return Err(TriggerError::NoNamespace);
        }
        if scaler_metadata.len() > MAX_WORDS {
            return Err(TriggerError::TooMuch);
        }
        let metric = match word(scaler_metadata, METRIC)? {
            "RequestsPerSecond" => Metric::RequestsPerSecond,
            "InFlight" => Metric::InFlight,
            other => return Err(TriggerError::Metric(other.to_owned())),
        };
        let target = word(scaler_metadata, TARGET)?;
        let quantity: Quantity =
            target
                .parse()
                .map_err(|error: sluice_crds::common::QuantityError| {
                    TriggerError::Target(error.to_string())
                })?;
        match quantity.milli_value() {
            0 => Err(TriggerError::Target(target.to_owned())),
            target_milli => Ok(Self {
                namespace: namespace.clone(),
                service: word(scaler_metadata, SERVICE)?.to_owned(),
                metric,
                target_milli,
            }),
        }
    }
}

fn word<'m>(
    metadata: &'m HashMap<String, String>,
    key: &'static str,
) -> Result<&'m str, TriggerError> {
    let value = metadata.get(key).map(String::as_str).unwrap_or_default();
    match (1..=MAX_VALUE).contains(&value.len()) {
        true => Ok(value),
        false => Err(TriggerError::Missing(key)),
    }
}

/// The sum over the pods that report. Pods that serve and of which none reports are no zero: a replica that has just
/// started knows no load yet, and a zero would scale down.
fn sum(metric: Metric, found: &Found) -> Option<f64> {
    match found.loads.is_empty() && found.serving > 0 {
        true => None,
        false => Some(found.loads.iter().map(|load| metric.value(load)).sum()),
    }
}

/// Whole numbers for a KEDA that reads no fractions: rounded up, so that little is not nothing.
fn whole(value: f64) -> i64 {
    // Saturates, and is never NaN: loads are bounded.
    value.ceil() as i64
}

/// The scaler.
#[derive(Clone)]
struct Scaler {
    pods: Pods,
    streams: Arc<Semaphore>,
}

impl Scaler {
    async fn value(&self, trigger: &Trigger) -> Result<f64, Status> {
        let pick = Pick::OfService(trigger.service.clone());
        let found = self
            .pods
            .find(&trigger.namespace, pick)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        sum(trigger.metric, &found).ok_or_else(|| {
            Status::unavailable(format!(
                "none of the {} pods of Service {}/{} has reported in the last seconds",
                found.serving, trigger.namespace, trigger.service
            ))
        })
    }
}

fn read(reference: Option<&ScaledObjectRef>) -> Result<Trigger, Status> {
    let reference = reference.ok_or_else(|| Status::invalid_argument("no ScaledObject"))?;
    Trigger::read(reference).map_err(|error| Status::invalid_argument(error.to_string()))
}

#[tonic::async_trait]
impl ExternalScaler for Scaler {
    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        let trigger = read(Some(request.get_ref()))?;
        let result = self.value(&trigger).await? > 0.0;
        Ok(Response::new(IsActiveResponse { result }))
    }

    type StreamIsActiveStream =
        Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let trigger = read(Some(request.get_ref()))?;
        let slot = self.streams.clone().try_acquire_owned();
        let slot = slot.map_err(|_| Status::resource_exhausted("too many streams"))?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(tell(self.clone(), trigger, sender, slot));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        let trigger = read(Some(request.get_ref()))?;
        let target = trigger.target_milli as f64 / 1e3;
        Ok(Response::new(GetMetricSpecResponse {
            metric_specs: vec![MetricSpec {
                metric_name: trigger.metric.as_str().to_owned(),
                target_size: whole(target),
                target_size_float: target,
            }],
        }))
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        let GetMetricsRequest {
            scaled_object_ref,
            metric_name,
        } = request.get_ref();
        let trigger = read(scaled_object_ref.as_ref())?;
        let value = self.value(&trigger).await?;
        if metric_name.len() > MAX_VALUE {
            return Err(Status::invalid_argument("the metric's name is too long"));
        }
        Ok(Response::new(GetMetricsResponse {
            metric_values: vec![MetricValue {
                metric_name: metric_name.clone(),
                metric_value: whole(value),
                metric_value_float: value,
            }],
        }))
    }
}

/// Tells a stream at once, and whenever it changes. What is not known is no change.
async fn tell(
    scaler: Scaler,
    trigger: Trigger,
    sender: mpsc::Sender<Result<IsActiveResponse, Status>>,
    _slot: OwnedSemaphorePermit,
) {
    let mut looks = interval(LOOK);
    let mut told = None;
    loop {
        tokio::select! {
            () = sender.closed() => return,
            _ = looks.tick() => {}
        }
        let Ok(value) = scaler.value(&trigger).await else {
            continue;
        };
        let result = value > 0.0;
        if told.replace(result) != Some(result)
            && sender.send(Ok(IsActiveResponse { result })).await.is_err()
        {
            return;
        }
    }
}

/// Serves until shutdown.
pub async fn serve(listener: TcpListener, pods: Pods, shutdown: Shutdown) -> anyhow::Result<()> {
    let scaler = Scaler {
        pods,
        streams: Arc::new(Semaphore::new(MAX_STREAMS)),
    };
    let service = ExternalScalerServer::new(scaler).max_decoding_message_size(MAX_MESSAGE);
    let serving = Server::builder()
        .concurrency_limit_per_connection(MAX_REQUESTS)
        .timeout(TIMEOUT)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    // Streams never end by themselves: the connections are dropped, and KEDA asks another replica.
    tokio::select! {
        () = shutdown.begun() => Ok(()),
        ended = serving => Ok(ended?),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::load::PodLoad;

    fn reference(words: &[(&str, &str)]) -> ScaledObjectRef {
        ScaledObjectRef {
            name: "orders".into(),
            namespace: "shop".into(),
            scaler_metadata: words
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    const GOOD: [(&str, &str); 4] = [
        ("scalerAddress", "sluice-operator.sluice-system.svc:9445"),
        ("service", "orders"),
        ("metric", "InFlight"),
        ("target", "1500m"),
    ];

    #[test]
    fn a_trigger_names_service_metric_and_target() {
        let read = Trigger::read(&reference(&GOOD)).expect("readable");
        let trigger = Trigger {
            namespace: "shop".into(),
            service: "orders".into(),
            metric: Metric::InFlight,
            target_milli: 1_500,
        };
        assert_eq!(read, trigger);
    }

    #[test]
    fn what_is_no_trigger_is_refused_and_says_why() {
        let with = |key: &str, value: &str| {
            let mut reference = reference(&GOOD);
            reference.scaler_metadata.insert(key.into(), value.into());
            Trigger::read(&reference).expect_err(value).to_string()
        };
        let long = "x".repeat(MAX_VALUE + 1);
        for (key, value, says) in [
            ("service", "", "needs service"),
            ("metric", "cpu", "\"cpu\" is unknown"),
            ("target", "0", "above 0"),
            ("target", "many", "no quantity"),
        ] {
            let error = with(key, value);
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(
            with("service", &long),
            TriggerError::Missing(SERVICE).to_string()
        );
        let mut crowded = reference(&GOOD);
        for n in 0..MAX_WORDS {
            crowded.scaler_metadata.insert(n.to_string(), String::new());
        }
        assert_eq!(Trigger::read(&crowded), Err(TriggerError::TooMuch));
        let homeless = ScaledObjectRef {
            namespace: String::new(),
            ..reference(&GOOD)
        };
        assert_eq!(Trigger::read(&homeless), Err(TriggerError::NoNamespace));
    }

    #[test]
    fn silence_is_no_zero_and_a_little_is_not_nothing() {
        let load = |requests_per_second| PodLoad {
            namespace: "shop".into(),
            pod: "web-0".into(),
            uid: "u".into(),
            requests_per_second,
            in_flight: 0.0,
            latency_p95_us: 0,
            at: Instant::now(),
        };
        let found = |serving, loads: &[f64]| Found {
            serving,
            loads: loads.iter().map(|rate| load(*rate)).collect(),
        };
        let sum = |found: &Found| sum(Metric::RequestsPerSecond, found);
        assert_eq!(sum(&found(2, &[10.5, 20.0])), Some(30.5));
        assert_eq!(sum(&found(2, &[0.0])), Some(0.0), "idle, and it says so");
        assert_eq!(sum(&found(2, &[])), None, "a replica that has just started");
        assert_eq!(sum(&found(0, &[])), Some(0.0), "there is nobody to be busy");
        assert_eq!((whole(0.2), whole(30.0)), (1, 30));
    }
}
