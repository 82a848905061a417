//! The webhooks that the API server calls over TLS: `/validate` for our kinds, `/inject` for Pods. What they answer is
//! decided in [`validate`] and [`inject`]; here is the way in: bounded bodies, bounded time, bounded connections.

pub mod ca_bundle;
pub mod inject;
pub mod review;
pub mod validate;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::post,
};
use prometheus::{IntCounterVec, Opts, Registry};
use serde_json::Value;
use sluice_crds::sluice_config::Injection as InjectionConfig;
use sluice_process::Shutdown;
use sluice_translate::{
    View,
    world::{ServiceFacts, Settings, TargetPort},
};
use tokio::{net::TcpListener, sync::watch};

use crate::{engine::Handle, identity::Authority, tls_listener};
use inject::{Injection, Place, Target};
use review::Review;
use validate::Verdict;

/// The largest review that is read, in bytes: an object and its former self, each at most what etcd stores.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// The webhooks' metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    reviews: IntCounterVec,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "sluice_operator_webhook_reviews_total",
            "Reviews that were answered",
        );
        let reviews = IntCounterVec::new(opts, &["webhook", "answer"])?;
        registry.register(Box::new(reviews.clone()))?;
        Ok(Self { reviews })
    }

    fn count(&self, webhook: &str, answer: &str) {
        self.reviews.with_label_values(&[webhook, answer]).inc();
    }
}

/// What of an injected container is given by flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// The image.
    pub image: String,
    /// `host:port` of the stream server, as pods reach it.
    pub operator: String,
    /// The name in the server's certificate.
    pub operator_name: String,
}

/// What the webhooks work with.
pub struct Hooks {
    engine: Handle,
    settings: Settings,
    sidecar: Sidecar,
    roots: watch::Receiver<Arc<str>>,
    metrics: Metrics,
}

impl Hooks {
    /// Webhooks that check against `engine`'s world and inject `sidecar` with the roots in force.
    pub fn new(
        engine: Handle,
        settings: Settings,
        sidecar: Sidecar,
        roots: watch::Receiver<Arc<str>>,
        metrics: Metrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            engine,
            settings,
            sidecar,
            roots,
            metrics,
        })
    }

    /// What is injected now, and what a namespace enforces of the Pod Security Standards. A namespace that is not known
    /// yet is taken to enforce nothing: the API server itself refuses what it does not allow, in other words.
    async fn injection(&self, namespace: &str) -> (Injection, Option<String>) {
        let name = namespace.to_owned();
        let read = self.engine.read(move |engine| {
            let config = View::new(engine.world()).config();
            let namespace = engine.world().namespace(&name);
            (
                config,
                namespace.and_then(|facts| facts.pod_security.clone()),
            )
        });
        // An engine that is gone knows neither.
        let (config, pod_security) = read.await.unwrap_or_default();
        let configured = config.and_then(|config| config.injection.clone());
        let configured = configured.unwrap_or_default();
        let (capture, app_stop_delay_s) = (
            configured.effective_capture(),
            configured.effective_app_stop_delay_s(),
        );
        let Sidecar {
            image,
            operator,
            operator_name,
        } = self.sidecar.clone();
        let InjectionConfig {
            data_threads,
            resources,
            log_level,
            capture: _,
            app_stop_delay: _,
            image_pull_policy,
        } = configured;
        let injection = Injection {
            image,
            image_pull_policy,
            operator,
            operator_name,
            roots: self.roots.borrow().to_string(),
            data_threads,
            log_level,
            resources,
            capture,
            app_stop_delay_s,
        };
        (injection, pod_security)
    }

    /// Where the Services lead that select a Pod which is not there yet, as far as they are known.
    async fn targets(&self, namespace: &str, pod: &Value) -> Vec<Target> {
        let (namespace, labels) = (namespace.to_owned(), labels(pod));
        let read = self.engine.read(move |engine| {
            let services = engine.world().services_selecting(&namespace, &labels);
            services.flat_map(targets_of).collect()
        });
        // An engine that is gone knows none.
        read.await.unwrap_or_default()
    }
}

fn targets_of(service: &ServiceFacts) -> impl Iterator<Item = Target> + '_ {
    service.ports.iter().map(|port| Target {
        service: service.id.name.to_string(),
        name: match &port.target {
            TargetPort::Name(name) => Some(name.clone()),
            TargetPort::Number(_) => None,
        },
    })
}

/// The labels of an object as JSON.
fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    labels
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Serves until shutdown, with the operator's own certificate. Whoever reaches it may ask; answers hold nothing that the
/// asker did not send, but for the public roots.
pub async fn serve(
    listener: TcpListener,
    authority: &Authority,
    routes: Router,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let config = Arc::new(authority.https_config(None)?);
    let begun = shutdown.clone();
    let connection = move |stream| {
        let (config, routes, over) = (config.clone(), routes.clone(), begun.begun());
        async move {
            let (stream, _) = tls_listener::handshake(stream, config).await?;
            tls_listener::http(stream, routes, over).await
        }
    };
    tls_listener::serve(listener, "webhooks", shutdown, connection).await
}

/// The two paths.
pub fn routes(hooks: Arc<Hooks>) -> Router {
    Router::new()
        .route("/validate", post(validating))
        .route("/inject", post(injecting))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(hooks)
}

type Answer = Result<Json<Value>, (StatusCode, String)>;

fn unreadable(error: review::ReviewError) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, error.to_string())
}

async fn validating(State(hooks): State<Arc<Hooks>>, body: Bytes) -> Answer {
    let review = Review::read(&body).map_err(unreadable)?;
    let verdict = validate::judge(&hooks.engine, &hooks.settings, &review).await;
    Ok(Json(match verdict {
        Verdict::Allowed(warnings) => {
            hooks.metrics.count("validate", "allowed");
            review.allowed(&warnings)
        }
        Verdict::Denied(message) => {
            hooks.metrics.count("validate", "denied");
            review.denied(422, "Invalid", &message)
        }
    }))
}

async fn injecting(State(hooks): State<Arc<Hooks>>, body: Bytes) -> Answer {
    let review = Review::read(&body).map_err(unreadable)?;
    let (injection, pod_security) = hooks.injection(&review.namespace).await;
    let place = Place {
        namespace: &review.namespace,
        pod_security: pod_security.as_deref(),
    };
    let targets = hooks.targets(&review.namespace, &review.object).await;
    let warning = inject::warning(&review.object, &injection, &targets);
    if let Some(warning) = &warning {
        // Controllers make most Pods, and show nobody what they are told.
        let pod = review.object.pointer("/metadata/generateName");
        let pod = pod.or(review.object.pointer("/metadata/name"));
        let (namespace, pod) = (&review.namespace, pod.and_then(Value::as_str));
        tracing::warn!(namespace, pod, warning, "a Pod is injected to no use");
    }
    let warnings = Vec::from_iter(warning);
    Ok(Json(
        match inject::inject(&review.object, &injection, place) {
            Ok(patch) if patch.0.is_empty() => {
                hooks.metrics.count("inject", "unchanged");
                review.allowed(&warnings)
            }
            Ok(patch) => {
                hooks.metrics.count("inject", "injected");
                review.patched(&patch, &warnings)
            }
            Err(error) => {
                hooks.metrics.count("inject", "denied");
                review.denied(422, "Invalid", &error.to_string())
            }
        },
    ))
}
