//! The custom metrics API (`custom.metrics.k8s.io/v1beta2`): what HorizontalPodAutoscalers ask for the load of pods,
//! through the API server's aggregation layer. Every replica serves it.
//!
//! One request: [`listener`] terminates TLS, [`front_proxy`] says for whom the API server asks, [`access`] whether that
//! user may, [`documents`] what the answer looks like. Whoever is not the API server gets a 401 and nothing else.

pub mod access;
pub mod documents;
pub mod front_proxy;
pub mod listener;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use kube::core::{Selector, SelectorExt};
use prometheus::{IntCounterVec, Opts, Registry};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    METRICS_GROUP, METRICS_VERSION,
    metric::Metric,
    pods::{Pick, Pods},
    selector,
};
use access::{Access, Reviews};
use front_proxy::User;
use listener::Peer;

/// How long one answer may take; the API server itself waits longer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The metrics of this API.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: IntCounterVec,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "sluice_operator_metrics_api_requests_total",
            "Requests to the custom metrics API, by status code",
        );
        let requests = IntCounterVec::new(opts, &["code"])?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self { requests })
    }
}

/// What the API answers from.
pub struct MetricsServer {
    pods: Pods,
    reviews: Reviews,
    metrics: Metrics,
}

impl MetricsServer {
    /// Serves the loads of `pods` to users that `reviews` lets in.
    pub fn new(pods: Pods, reviews: Reviews, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            pods,
            reviews,
            metrics,
        })
    }
}

/// Every path; what there is under it is `Asked`'s.
pub fn routes(server: Arc<MetricsServer>) -> Router {
    Router::new().fallback(answer).with_state(server)
}

/// Why there is no answer. Each becomes a `Status` of the API machinery.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "only the API server is answered, with its front-proxy certificate: ask it for /apis/custom.metrics.k8s.io ({0})"
    )]
    Unauthorized(front_proxy::NotTheApiServer),
    #[error("{user:?} may not {access}: give it a Role with these words")]
    Forbidden { user: String, access: Access },
    #[error("only GET is answered")]
    Method,
    #[error("this server has no {0}")]
    NotFound(String),
    #[error("only application/json is given")]
    NotAcceptable,
    #[error("{parameter}: {source}")]
    Selector {
        parameter: &'static str,
        source: selector::SelectorError,
    },
    #[error("the question whether the user may ask was not answered: {0}")]
    Review(#[from] access::ReviewError),
    #[error("the operator is ending")]
    Ending,
    #[error("no answer in time")]
    Timeout,
}

impl Refusal {
    /// HTTP status, and the machine's word for it.
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::Forbidden { .. } => (StatusCode::FORBIDDEN, "Forbidden"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "NotFound"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "NotAcceptable"),
            Self::Selector { .. } => (StatusCode::BAD_REQUEST, "BadRequest"),
            Self::Review(_) | Self::Ending => {
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
            }
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "Timeout"),
        }
    }
}

/// What a path stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group,
    /// `/apis/GROUP/VERSION`.
    Resources,
    /// `/apis/GROUP/VERSION/namespaces/NAMESPACE/pods/POD/METRIC`; `*` stands for all pods.
    Values(Access),
    /// Anything else.
    Unknown(String),
}

impl Asked {
    fn of(path: &str) -> Self {
        let unknown = || Self::Unknown(path.to_owned());
        let Some(segments) = path
            .trim_start_matches('/')
            .split('/')
            .map(front_proxy::decoded)
            .collect::<Option<Vec<String>>>()
        else {
            return unknown();
        };
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments[..] {
            ["apis"] => Self::Groups,
            ["apis", METRICS_GROUP] => Self::Group,
            ["apis", METRICS_GROUP, METRICS_VERSION] => Self::Resources,
            [
                "apis",
                METRICS_GROUP,
                METRICS_VERSION,
                "namespaces",
                namespace,
                "pods",
                pod,
                metric,
            ] => Self::Values(Access {
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
                metric: metric.to_owned(),
            }),
            _ => unknown(),
        }
    }
}

async fn answer(State(server): State<Arc<MetricsServer>>, request: Request) -> Response {
    // A body says nothing to this API.
    let (request, _) = request.into_parts();
    let answered = match timeout(TIMEOUT, server.answer(&request)).await {
        Ok(answered) => answered,
        Err(_) => Err(Refusal::Timeout),
    };
    let (code, body) = match answered {
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) => {
            let (code, reason) = refusal.status();
            if code.is_server_error() {
                tracing::warn!(%refusal, "custom metrics API");
            }
            let body = documents::status(code.as_u16(), reason, &refusal.to_string());
            (code, body)
        }
    };
    server
        .metrics
        .requests
        .with_label_values(&[code.as_str()])
        .inc();
    (code, Json(body)).into_response()
}

impl MetricsServer {
    async fn answer(&self, request: &Parts) -> Result<Value, Refusal> {
        let user = caller(request)?;
        if request.method != Method::GET {
            return Err(Refusal::Method);
        }
        if !takes_json(&request.headers) {
            return Err(Refusal::NotAcceptable);
        }
        // Discovery is for everybody for whom the API server asks: its own discovery has no right of any Role, and one
        // that fails blocks the deletion of every namespace.
        match Asked::of(request.uri.path()) {
            Asked::Groups => Ok(documents::groups()),
            Asked::Group => Ok(documents::group()),
            Asked::Resources => Ok(documents::resources()),
            Asked::Values(access) => {
                if !self.reviews.allow(&user, &access).await? {
                    return Err(Refusal::Forbidden {
                        user: user.name,
                        access,
                    });
                }
                let query = request.uri.query().unwrap_or_default();
                self.values(&access, query).await
            }
            Asked::Unknown(path) => Err(Refusal::NotFound(format!("path {path}"))),
        }
    }

    async fn values(&self, access: &Access, query: &str) -> Result<Value, Refusal> {
        let Access {
            namespace,
            pod,
            metric,
        } = access;
        let metric =
            Metric::of(metric).ok_or_else(|| Refusal::NotFound(format!("metric {metric}")))?;
        let pick = match pod.as_str() {
            "*" => Pick::Labelled(selecting(query, "labelSelector")?),
            name => Pick::Named(name.to_owned()),
        };
        // Our metrics have no labels of their own, so this selects all or nothing.
        let labels = selecting(query, "metricLabelSelector")?;
        let found = self.pods.find(namespace, pick).await;
        let mut loads = found.map_err(|_| Refusal::Ending)?.loads;
        if !labels.matches(&std::collections::BTreeMap::new()) {
            loads.clear();
        }
        if loads.is_empty() && pod != "*" {
            let what = format!("{} of pod {namespace}/{pod}", metric.as_str());
            return Err(Refusal::NotFound(what));
        }
        Ok(documents::values(metric, &loads, &documents::Now::read()))
    }
}

/// For whom the API server asks.
fn caller(request: &Parts) -> Result<User, Refusal> {
    let unproven = front_proxy::NotTheApiServer::NoCertificate;
    let peer = request.extensions.get::<Peer>();
    peer.ok_or(unproven)
        .and_then(|peer| peer.user(&request.headers))
        .map_err(Refusal::Unauthorized)
}

/// Discovery in the aggregated form is asked for by media type, without plain JSON beside it; the caller falls back to the
/// plain form when it is refused.
fn takes_json(headers: &HeaderMap) -> bool {
    let mut accepts = headers.get_all(header::ACCEPT).iter().peekable();
    if accepts.peek().is_none() {
        return true;
    }
    accepts
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let plain = parts.all(|parameter| !parameter.starts_with("as="));
            plain && matches!(media, "application/json" | "application/*" | "*/*")
        })
}

/// The selector of a query parameter; absent, everything.
fn selecting(query: &str, parameter: &'static str) -> Result<Selector, Refusal> {
    let value = form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == parameter)
        .map(|(_, value)| value)
        .unwrap_or_default();
    selector::parse(&value).map_err(|source| Refusal::Selector { parameter, source })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn paths_are_what_the_api_machinery_asks() {
        let values = |pod: &str| {
            Asked::Values(Access {
                namespace: "shop".into(),
                pod: pod.into(),
                metric: "sluice_in_flight".into(),
            })
        };
        let base = "/apis/custom.metrics.k8s.io/v1beta2";
        assert_eq!(Asked::of("/apis"), Asked::Groups);
        assert_eq!(Asked::of("/apis/custom.metrics.k8s.io"), Asked::Group);
        assert_eq!(Asked::of(base), Asked::Resources);
        for (path, pod) in [("*", "*"), ("%2A", "*"), ("web-0", "web-0")] {
            let path = format!("{base}/namespaces/shop/pods/{path}/sluice_in_flight");
            assert_eq!(Asked::of(&path), values(pod));
        }
        for path in [
            "/",
            "/openapi/v2",
            "/apis/custom.metrics.k8s.io/v1beta1",
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/metrics/x",
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/pods/web-0",
            "/apis/%FF",
        ] {
            assert_eq!(Asked::of(path), Asked::Unknown(path.into()));
        }
    }

    #[test]
    fn the_aggregated_form_of_discovery_is_refused_and_plain_json_is_not() {
        let takes = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            takes_json(&headers)
        };
        assert!(takes_json(&HeaderMap::new()));
        assert!(takes("application/json, */*"));
        assert!(takes(
            "application/vnd.kubernetes.protobuf,application/json"
        ));
        assert!(!takes(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
        ));
    }

    #[test]
    fn a_selector_that_cannot_be_read_is_the_callers_fault() {
        let error =
            selecting("labelSelector=app%3D%3D%3Dweb", "labelSelector").expect_err("refused");
        assert_eq!(error.status().0, StatusCode::BAD_REQUEST);
        assert!(
            selecting("x=y", "labelSelector")
                .expect("absent")
                .selects_all()
        );
    }
}
