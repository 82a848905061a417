//! The APIService that leads HorizontalPodAutoscalers to our metrics API. The leader makes it where the whole group is
//! free, and only once the API answers; somebody else's is never touched. An APIService whose pods are gone blocks the
//! deletion of every namespace of the cluster, so it goes with us: by its owner (a ClusterRole of the chart), and by each
//! replica that ends because its Deployment does.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::ValueEnum;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::{apps::v1::Deployment, rbac::v1::ClusterRole},
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use prometheus::{IntGaugeVec, Opts, Registry};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use sluice_process::Shutdown;
use sluice_translate::View;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::{METRICS_GROUP, METRICS_VERSION, MetricsApi};
use crate::{
    children::hpa::MANAGED_BY,
    engine::Handle,
    leader::{Leadership, NotLeader},
    status::store::FIELD_MANAGER,
};

/// The versions that anything asks for: an APIService of one of them takes the whole group, because whoever asks for
/// metrics prefers the newest version there is.
const VERSIONS: [&str; 2] = ["v1beta1", METRICS_VERSION];
/// The operator's Deployment, Service and ClusterRole have one name.
const OPERATOR: &str = "sluice-operator";
/// The Service's port of the metrics API, and its name in EndpointSlices.
const PORT: u16 = 9444;
const PORT_NAME: &str = "metrics-api";
/// How often the APIService is looked at.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long one look may take, and the farewell.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether to register the metrics API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Mode {
    /// Where the group is free.
    #[default]
    Auto,
    /// Never; one that was made before is removed.
    Off,
}

/// What the keeper works with.
pub struct Wiring {
    /// The API server.
    pub client: Client,
    /// Where the operator's own EndpointSlices are seen.
    pub engine: Handle,
    /// Whether to write.
    pub leadership: Leadership,
    /// The roots that sign our certificate.
    pub roots: watch::Receiver<Arc<str>>,
    /// The name in our certificate.
    pub server_name: String,
    /// The operator's own namespace.
    pub namespace: String,
    /// Where this replica serves the metrics API.
    pub listens: SocketAddr,
    /// Whether to register it.
    pub mode: Mode,
    /// Who is told of the state.
    pub state: watch::Sender<MetricsApi>,
    /// The keeper's metrics.
    pub metrics: Metrics,
}

/// The keeper's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    state: IntGaugeVec,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "sluice_operator_metrics_api",
            "Who serves custom.metrics.k8s.io: 1 for unknown, ours or elsewhere",
        );
        let state = IntGaugeVec::new(opts, &["state"])?;
        registry.register(Box::new(state.clone()))?;
        Ok(Self { state })
    }

    fn show(&self, now: &MetricsApi) {
        let now = word(now);
        for state in ["unknown", "ours", "elsewhere"] {
            let is = i64::from(state == now);
            self.state.with_label_values(&[state]).set(is);
        }
    }
}

fn word(state: &MetricsApi) -> &'static str {
    match state {
        MetricsApi::Unknown => "unknown",
        MetricsApi::Ours => "ours",
        MetricsApi::Elsewhere(_) => "elsewhere",
    }
}

/// What is to be done about the APIServices that were found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// None is there: make ours.
    Make,
    /// Ours is there, and not as it should be.
    Mend,
    /// Ours is there as it should be.
    Keep,
    /// Somebody's is there; ours, if it is there too, must go. The name of theirs.
    Taken { theirs: String, ours: bool },
}

/// Keeps the APIService until shutdown, and removes it at the end where the Deployment ends as well.
pub async fn keep(wiring: Wiring, shutdown: Shutdown) -> anyhow::Result<()> {
    let keeper = Keeper::new(wiring);
    tokio::select! {
        () = shutdown.begun() => {}
        ended = keeper.run() => return ended,
    }
    match timeout(TIMEOUT, keeper.farewell()).await {
        Ok(Ok(true)) => tracing::info!("the operator ends for good: its APIService is removed"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => tracing::warn!(
            error = format!("{error:#}"),
            "the APIService stays; should namespaces hang in Terminating: kubectl delete apiservice {}",
            name_of(METRICS_VERSION)
        ),
        Err(_) => tracing::warn!("the APIService stays: the API server did not answer in time"),
    }
    Ok(())
}

struct Keeper {
    wiring: Wiring,
    services: Api<APIService>,
}

impl Keeper {
    fn new(wiring: Wiring) -> Self {
        Self {
            services: Api::all(wiring.client.clone()),
            wiring,
        }
    }

    /// Every replica looks, so that each knows; only the leader writes.
    async fn run(&self) -> anyhow::Result<()> {
        let mut roots = self.wiring.roots.clone();
        loop {
            let bundle = STANDARD.encode(roots.borrow_and_update().as_bytes());
            match timeout(TIMEOUT, self.look(&bundle)).await {
                Ok(Ok(state)) => self.say(state),
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "APIService of the metrics API"
                    );
                }
                Err(_) => tracing::warn!("APIService: the API server did not answer in time"),
            }
            tokio::select! {
                changed = roots.changed() => changed.context("nobody knows the roots any more")?,
                () = sleep(INTERVAL) => {}
            }
        }
    }

    fn say(&self, state: MetricsApi) {
        self.wiring.metrics.show(&state);
        self.wiring.state.send_if_modified(|known| {
            let differs = *known != state;
            if differs {
                match &state {
                    MetricsApi::Elsewhere(what) => tracing::warn!(what, "custom metrics API"),
                    state => tracing::info!(state = word(state), "custom metrics API"),
                }
                *known = state;
            }
            differs
        });
    }

    async fn look(&self, bundle: &str) -> anyhow::Result<MetricsApi> {
        let mut found = Vec::new();
        for version in VERSIONS {
            found.extend(self.services.get_opt(&name_of(version)).await?);
        }
        let Wiring {
            namespace, mode, ..
        } = &self.wiring;
        let verdict = judge(&found, namespace, bundle);
        if *mode == Mode::Off {
            if let Some(ours) = found.iter().find(|found| is_ours(found, namespace)) {
                self.remove(ours).await?;
            }
            let what = match verdict {
                Verdict::Taken { theirs, .. } => taken(&theirs),
                Verdict::Make | Verdict::Mend | Verdict::Keep => {
                    "nobody serves custom.metrics.k8s.io, and --metrics-api-service=off forbids us to".into()
                }
            };
            return Ok(MetricsApi::Elsewhere(what));
        }
        match verdict {
            Verdict::Keep => Ok(MetricsApi::Ours),
            Verdict::Taken { theirs, ours } => {
                if let Some(found) = found.iter().find(|found| is_ours(found, namespace))
                    && ours
                {
                    self.remove(found).await?;
                }
                Ok(MetricsApi::Elsewhere(taken(&theirs)))
            }
            Verdict::Make | Verdict::Mend if !self.wiring.leadership.is_held() => {
                Ok(MetricsApi::Unknown)
            }
            Verdict::Make | Verdict::Mend => {
                self.answers().await?;
                self.write(bundle, verdict == Verdict::Make).await?;
                Ok(MetricsApi::Ours)
            }
        }
    }

    /// Whether the API server would find an answer: an endpoint of our Service is ready, and this replica answers as
    /// whoever is not the API server is answered.
    async fn answers(&self) -> anyhow::Result<()> {
        let namespace = self.wiring.namespace.clone();
        let ready = self
            .wiring
            .engine
            .read(move |engine| {
                let view = View::new(engine.world());
                let slices = view.slices_of(&namespace, OPERATOR);
                slices.iter().any(|slice| {
                    view.slice(&namespace, slice).is_some_and(|slice| {
                        slice.ports.contains_key(PORT_NAME)
                            && slice.endpoints.iter().any(|endpoint| endpoint.ready)
                    })
                })
            })
            .await?;
        anyhow::ensure!(
            ready,
            "no endpoint of Service {}/{OPERATOR} with a port named {PORT_NAME} is ready yet",
            self.wiring.namespace
        );
        let code = self.ask_ourselves().await.context("asking ourselves")?;
        anyhow::ensure!(
            code == StatusCode::UNAUTHORIZED,
            "our own metrics API answers {code} to a stranger"
        );
        Ok(())
    }

    async fn ask_ourselves(&self) -> anyhow::Result<StatusCode> {
        let Wiring {
            roots,
            server_name,
            listens,
            ..
        } = &self.wiring;
        let mut address = *listens;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let mut trusted = RootCertStore::empty();
        let roots = roots.borrow().clone();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            trusted.add(root?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(server_name.clone())?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        let (mut sender, connection) =
            http1::handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream)).await?;
        let asked = Request::get("/apis").header("host", server_name);
        let answer = async {
            let answer = sender.send_request(asked.body(Empty::new())?).await?;
            anyhow::Ok(answer.status())
        };
        tokio::select! {
            answer = answer => answer,
            ended = connection => anyhow::bail!("the connection ended: {ended:?}"),
        }
    }

    async fn write(&self, bundle: &str, make: bool) -> anyhow::Result<()> {
        let roles: Api<ClusterRole> = Api::all(self.wiring.client.clone());
        let owner = roles.get_opt(OPERATOR).await?.with_context(|| {
            format!("ClusterRole {OPERATOR} is not there: without an owner the APIService would outlive the chart")
        })?;
        let object = build(&self.wiring.namespace, bundle, &owner);
        let name = name_of(METRICS_VERSION);
        self.wiring.leadership.check()?;
        match make {
            // A creation, so that what somebody makes in between is not taken over.
            true => {
                let params = PostParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PostParams::default()
                };
                let object: APIService = serde_json::from_value(object)?;
                self.services.create(&params, &object).await?;
                tracing::info!(
                    name,
                    "APIService made: HorizontalPodAutoscalers find our metrics"
                );
            }
            false => {
                let params = PatchParams::apply(FIELD_MANAGER).force();
                let patch = Patch::Apply(&object);
                self.services.patch(&name, &params, &patch).await?;
                tracing::info!(name, "APIService mended");
            }
        }
        Ok(())
    }

    /// As the leader. The farewell is every replica's.
    async fn remove(&self, found: &APIService) -> anyhow::Result<()> {
        match self.wiring.leadership.check() {
            Ok(()) => self.delete(found).await,
            Err(NotLeader) => Ok(()),
        }
    }

    /// Exactly the one that was looked at.
    async fn delete(&self, found: &APIService) -> anyhow::Result<()> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: found.uid(),
                resource_version: found.resource_version(),
            }),
            ..DeleteParams::default()
        };
        match self.services.delete(&found.name_any(), &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the APIService was removed, because nothing will answer for it.
    async fn farewell(&self) -> anyhow::Result<bool> {
        let Wiring {
            client, namespace, ..
        } = &self.wiring;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let ends = ends(deployments.get_opt(OPERATOR).await?.as_ref());
        if !ends {
            return Ok(false);
        }
        let found = self.services.get_opt(&name_of(METRICS_VERSION)).await?;
        match found.filter(|found| is_ours(found, namespace)) {
            Some(ours) => self.delete(&ours).await.map(|()| true),
            None => Ok(false),
        }
    }
}

/// Whether no pod will follow this one: the Deployment is gone, goes, or is scaled to nothing.
fn ends(deployment: Option<&Deployment>) -> bool {
    let Some(deployment) = deployment else {
        return true;
    };
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    deployment.metadata.deletion_timestamp.is_some() || replicas == Some(0)
}

fn name_of(version: &str) -> String {
    format!("{version}.{METRICS_GROUP}")
}

fn taken(theirs: &str) -> String {
    format!(
        "APIService {theirs} belongs to somebody else and is left alone; let KEDA or a Prometheus adapter give the metrics, see docs/scaling.md"
    )
}

/// Made by us and still leading to us. The label alone is not enough: whoever applies over it keeps our label.
fn is_ours(found: &APIService, namespace: &str) -> bool {
    let labelled = found
        .labels()
        .get(MANAGED_BY)
        .is_some_and(|by| by == FIELD_MANAGER);
    let service = found.spec.as_ref().and_then(|spec| spec.service.as_ref());
    labelled
        && service.is_some_and(|service| {
            service.name.as_deref() == Some(OPERATOR)
                && service.namespace.as_deref() == Some(namespace)
        })
}

fn judge(found: &[APIService], namespace: &str, bundle: &str) -> Verdict {
    let (ours, theirs): (Vec<_>, Vec<_>) =
        found.iter().partition(|found| is_ours(found, namespace));
    if let Some(theirs) = theirs.first() {
        return Verdict::Taken {
            theirs: theirs.name_any(),
            ours: !ours.is_empty(),
        };
    }
    let Some(ours) = ours.first() else {
        return Verdict::Make;
    };
    let spec = ours.spec.clone().unwrap_or_default();
    let port = spec.service.and_then(|service| service.port);
    let has = spec
        .ca_bundle
        .is_some_and(|bytes| STANDARD.encode(bytes.0) == bundle);
    match has && port == Some(i32::from(PORT)) && !ours.owner_references().is_empty() {
        true => Verdict::Keep,
        false => Verdict::Mend,
    }
}

fn build(namespace: &str, bundle: &str, owner: &ClusterRole) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {
            "name": name_of(METRICS_VERSION),
            "labels": {MANAGED_BY: FIELD_MANAGER},
            "ownerReferences": [{
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "name": owner.name_any(),
                "uid": owner.uid(),
            }],
        },
        "spec": {
            "group": METRICS_GROUP,
            "version": METRICS_VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"namespace": namespace, "name": OPERATOR, "port": PORT},
            "caBundle": bundle,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: &str = "sluice-system";

    fn ours(bundle: &str) -> APIService {
        let owner: ClusterRole =
            serde_json::from_value(json!({"metadata": {"name": OPERATOR, "uid": "u"}}))
                .expect("a role");
        serde_json::from_value(build(NAMESPACE, bundle, &owner)).expect("an APIService")
    }

    fn judged(found: &[APIService]) -> Verdict {
        judge(found, NAMESPACE, "bmV3")
    }

    #[test]
    fn it_is_made_where_the_group_is_free_and_mended_where_it_is_ours() {
        assert_eq!(judged(&[]), Verdict::Make);
        assert_eq!(judged(&[ours("bmV3")]), Verdict::Keep);
        assert_eq!(
            judged(&[ours("b2xk")]),
            Verdict::Mend,
            "the roots were replaced"
        );
        let mut orphan = ours("bmV3");
        orphan.metadata.owner_references = None;
        assert_eq!(
            judged(&[orphan]),
            Verdict::Mend,
            "it would outlive the chart"
        );
    }

    #[test]
    fn somebody_elses_is_never_ours_whatever_labels_it_has_kept() {
        let mut applied_over = ours("bmV3");
        let service = applied_over
            .spec
            .as_mut()
            .and_then(|spec| spec.service.as_mut());
        service.expect("a service").name = Some("prometheus-adapter".into());
        let taken = |ours| Verdict::Taken {
            theirs: "v1beta2.custom.metrics.k8s.io".into(),
            ours,
        };
        assert_eq!(judged(&[applied_over]), taken(false));
        let mut unlabelled = ours("bmV3");
        unlabelled.metadata.labels = None;
        assert_eq!(judged(&[unlabelled]), taken(false));
        // The older version takes the group as well: with ours beside it, everybody would ask us.
        let mut older = ours("bmV3");
        older.metadata.name = Some("v1beta1.custom.metrics.k8s.io".into());
        older.metadata.labels = None;
        let verdict = Verdict::Taken {
            theirs: "v1beta1.custom.metrics.k8s.io".into(),
            ours: true,
        };
        assert_eq!(judged(&[older, ours("bmV3")]), verdict);
    }

    #[test]
    fn only_an_end_for_good_is_an_end() {
        let deployment =
            |value: Value| -> Deployment { serde_json::from_value(value).expect("a Deployment") };
        let spec = |replicas: Value| json!({"replicas": replicas, "selector": {}, "template": {}});
        assert!(ends(None), "gone");
        assert!(ends(Some(&deployment(json!({"spec": spec(json!(0))})))));
        let going = json!({"metadata": {"deletionTimestamp": "2026-11-22T10:00:00Z"}, "spec": spec(json!(2))});
        assert!(ends(Some(&deployment(going))));
        assert!(
            !ends(Some(&deployment(json!({"spec": spec(json!(2))})))),
            "a rolling update"
        );
        assert!(
            !ends(Some(&deployment(json!({"spec": spec(Value::Null)})))),
            "one, by default"
        );
    }
}
