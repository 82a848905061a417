//! What translation keeps of an object: the part that it reads and no more. An update that changes nothing here (a
//! status, a managed field) changes nothing at all.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::{
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{ConfigMap, Namespace, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use serde_json::Value;
use sluice_crds::{
    ApiRoute, ApiRouteSpec, GROUP, RateLimitPolicy, RateLimitPolicySpec, ShardSet, ShardSetSpec,
    gateway_api::{BackendTlsPolicy, BackendTlsPolicySpec, Gateway, GatewaySpec},
    shard_set::{MoveStatus, Placement},
};
use sluice_snapshot::SecretBytes;

use super::{
    id::{Age, Kind, Meta, ObjectId, id_of},
    service::port_number,
};
use crate::edge;

/// The label of a Secret that says what it may be used for.
pub const USE_LABEL: &str = "sluice.dev/use";
/// The annotation of a Secret that names its consumer.
pub const SUBJECT_ANNOTATION: &str = "sluice.dev/subject";
/// Before the name of an attribute in a Secret's annotations.
pub const ATTRIBUTE_PREFIX: &str = "attributes.sluice.dev/";
/// The label of a pod that wants no sidecar.
pub const INJECT_LABEL: &str = "sluice.dev/inject";
/// The label of a namespace whose pods get sidecars.
pub const INJECTION_LABEL: &str = "sluice.dev/injection";
/// The container that serves in an injected pod.
pub const SIDECAR_CONTAINER: &str = "sluice";
/// The annotation of what kubelet shows of a static pod.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// The label by which a namespace says what its pods may do.
const POD_SECURITY_LABEL: &str = "pod-security.kubernetes.io/enforce";
/// The label by which a pod belongs to a Gateway (GEP-1762).
pub const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// The entry of a ConfigMap that holds authorities, as PEM.
const AUTHORITIES_ENTRY: &str = "ca.crt";
/// The name of the port at which an injected sidecar takes hops.
const HOP_PORT_NAME: &str = "sluice-hop";

/// Why a stored object could not be read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// What the decoder said.
    pub message: String,
    /// Whether `spec` is only what could be made out of it (targets, hostnames), so that it must deny. Otherwise `spec` is
    /// the last good one and stays in force.
    pub outline: bool,
}

/// One of our three resources.
#[derive(Debug, Clone, PartialEq)]
pub struct Custom<S> {
    /// Its name.
    pub id: ObjectId,
    /// Uid, age, generation.
    pub meta: Meta,
    /// What the user wrote; none where nothing of it could be read.
    pub spec: Option<S>,
    /// Why it could not be read whole.
    pub defect: Option<Defect>,
}

impl<S> Custom<S> {
    /// Its place among elder and younger.
    pub fn age(&self) -> Age {
        Age::of(&self.id, &self.meta)
    }

    /// The spec, where it may be taken at its word: read whole, or the last good one.
    pub fn sound(&self) -> Option<&S> {
        match &self.defect {
            Some(Defect { outline: true, .. }) => None,
            _ => self.spec.as_ref(),
        }
    }

    /// What the decoder said, where what is left of the object must deny.
    pub fn unreadable(&self) -> Option<&str> {
        self.defect
            .as_ref()
            .filter(|defect| defect.outline)
            .map(|defect| defect.message.as_str())
    }
}

/// An ApiRoute.
pub type RouteFacts = Custom<ApiRouteSpec>;
/// A RateLimitPolicy.
pub type PolicyFacts = Custom<RateLimitPolicySpec>;

/// A Gateway.
pub type GatewayFacts = Custom<GatewaySpec>;
/// A BackendTLSPolicy.
pub type BackendTlsFacts = Custom<BackendTlsPolicySpec>;

/// A ShardSet with the part of its status that is the truth.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardSetFacts {
    /// Name, metadata and spec.
    pub custom: Custom<ShardSetSpec>,
    /// The epoch in force; none before the operator wrote one.
    pub epoch: Option<i64>,
    /// The placement in force; empty before the operator wrote one.
    pub placement: Vec<Placement>,
    /// The move under way.
    pub moving: Option<MoveStatus>,
}

impl From<&ApiRoute> for RouteFacts {
    fn from(route: &ApiRoute) -> Self {
        custom(Kind::ApiRoute, &route.metadata, &route.spec)
    }
}

impl From<&RateLimitPolicy> for PolicyFacts {
    fn from(policy: &RateLimitPolicy) -> Self {
        custom(Kind::RateLimitPolicy, &policy.metadata, &policy.spec)
    }
}

impl From<&Gateway> for GatewayFacts {
    fn from(gateway: &Gateway) -> Self {
        custom(Kind::Gateway, &gateway.metadata, &gateway.spec)
    }
}

impl From<&BackendTlsPolicy> for BackendTlsFacts {
    fn from(policy: &BackendTlsPolicy) -> Self {
        custom(Kind::BackendTlsPolicy, &policy.metadata, &policy.spec)
    }
}

/// What is kept of a ConfigMap: authorities, and parameters of an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthoritiesFacts {
    /// Its name.
    pub id: ObjectId,
    /// Certificates as PEM, its entry `ca.crt`; none where it has no such entry.
    pub pem: Option<String>,
    /// Its entries that are about an edge.
    pub edge: BTreeMap<String, String>,
}

impl From<&ConfigMap> for AuthoritiesFacts {
    fn from(map: &ConfigMap) -> Self {
        let entry = |name: &str| map.data.as_ref().and_then(|data| data.get(name)).cloned();
        let edge = edge::ENTRIES
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), entry(name)?)))
            .collect();
        Self {
            id: id_of(Kind::ConfigMap, &map.metadata),
            pem: entry(AUTHORITIES_ENTRY),
            edge,
        }
    }
}

impl From<&ShardSet> for ShardSetFacts {
    fn from(set: &ShardSet) -> Self {
        let status = set.status.clone().unwrap_or_default();
        Self {
            custom: custom(Kind::ShardSet, &set.metadata, &set.spec),
            epoch: status.epoch,
            placement: status.placement,
            moving: status.moving,
        }
    }
}

pub(super) fn custom<S: Clone>(
    kind: Kind,
    meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    spec: &S,
) -> Custom<S> {
    Custom {
        id: id_of(kind, meta),
        meta: meta.into(),
        spec: Some(spec.clone()),
        defect: None,
    }
}

/// A Secret. Its bytes are compared only to see whether anything changed.
#[derive(Debug, Clone)]
pub struct SecretFacts {
    /// Its name.
    pub id: ObjectId,
    /// Uid, age.
    pub meta: Meta,
    /// The Secret's `type`.
    pub kind: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The consumer's name, where the Secret gives one.
    pub subject: Option<String>,
    /// The consumer's attributes.
    pub attributes: BTreeMap<String, String>,
    /// Entry -> value.
    pub entries: BTreeMap<String, SecretBytes>,
}

impl SecretFacts {
    /// The purpose its label names.
    pub fn purpose(&self) -> Option<&str> {
        self.labels.get(USE_LABEL).map(String::as_str)
    }

    /// Its place among elder and younger.
    pub fn age(&self) -> Age {
        Age::of(&self.id, &self.meta)
    }
}

impl PartialEq for SecretFacts {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            id,
            meta,
            kind,
            labels,
            subject,
            attributes,
            entries,
        } = self;
        let same = |(a, b): ((&String, &SecretBytes), (&String, &SecretBytes))| {
            a.0 == b.0 && a.1.expose() == b.1.expose()
        };
        *id == other.id
            && *meta == other.meta
            && *kind == other.kind
            && *labels == other.labels
            && *subject == other.subject
            && *attributes == other.attributes
            && entries.len() == other.entries.len()
            && entries.iter().zip(&other.entries).all(same)
    }
}

impl From<&Secret> for SecretFacts {
    fn from(secret: &Secret) -> Self {
        Self::of(Kind::Secret, secret)
    }
}

impl SecretFacts {
    /// A Secret, under the kind that says what it is read for.
    pub(super) fn of(kind: Kind, secret: &Secret) -> Self {
        let annotations = secret.annotations();
        let mut entries: BTreeMap<String, SecretBytes> = BTreeMap::new();
        for (id, ByteString(bytes)) in secret.data.iter().flatten() {
            entries.insert(id.clone(), SecretBytes::new(bytes.clone()));
        }
        // Written only, and folded into `data` by an API server; files are read by no API server.
        for (id, text) in secret.string_data.iter().flatten() {
            entries.insert(id.clone(), SecretBytes::new(text.clone().into_bytes()));
        }
        Self {
            id: id_of(kind, &secret.metadata),
            meta: Meta::from(&secret.metadata),
            kind: secret.type_.clone().unwrap_or_default(),
            labels: secret.labels().clone(),
            subject: annotations.get(SUBJECT_ANNOTATION).cloned(),
            attributes: annotations
                .iter()
                .filter_map(|(key, value)| {
                    let name = key.strip_prefix(ATTRIBUTE_PREFIX)?;
                    Some((name.to_owned(), value.clone()))
                })
                .collect(),
            entries,
        }
    }
}

/// A Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Its name.
    pub id: ObjectId,
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The account it runs under.
    pub service_account: String,
    /// Named TCP ports of its containers, for Services that name a targetPort.
    pub ports: BTreeMap<String, u16>,
    /// Whether it has its sidecar.
    pub sidecar: Sidecar,
    /// The port at which its sidecar takes hops.
    pub hop: Option<u16>,
    /// Being deleted, or done for good.
    pub terminating: bool,
    /// Ready now, or once since it was made.
    pub was_ready: bool,
}

/// Whether a pod has its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sidecar {
    /// It has.
    Injected,
    /// It has none.
    Absent,
    /// It has none and is not meant to: it opted out, is on the host's network, or is a static pod's mirror.
    Unwanted,
}

impl Sidecar {
    fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else {
            return Self::Unwanted;
        };
        let mut first = spec.init_containers.iter().flatten();
        if first.any(|container| container.name == SIDECAR_CONTAINER) {
            return Self::Injected;
        }
        let opted_out = pod.labels().get(INJECT_LABEL).map(String::as_str) == Some("false");
        let of_the_host = spec.host_network == Some(true);
        match opted_out || of_the_host || pod.annotations().contains_key(MIRROR_ANNOTATION) {
            true => Self::Unwanted,
            false => Self::Absent,
        }
    }
}

/// The port at which the injected sidecar takes hops; none: it is of a build that takes none, or there is none.
fn hop_port(pod: &Pod) -> Option<u16> {
    let containers = pod.spec.as_ref()?.init_containers.iter().flatten();
    let mut sidecar = containers.filter(|container| container.name == SIDECAR_CONTAINER);
    let mut ports = sidecar.next()?.ports.iter().flatten();
    let port = ports.find(|port| port.name.as_deref() == Some(HOP_PORT_NAME))?;
    port_number(port.container_port)
}

/// Ports that Services may name, as Kubernetes looks for them: in the containers, then in the native sidecars among the
/// init containers; the first of a name counts.
fn named_ports(pod: &Pod) -> BTreeMap<String, u16> {
    let Some(spec) = &pod.spec else {
        return BTreeMap::new();
    };
    let native = spec.init_containers.iter().flatten();
    let native = native.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut named = BTreeMap::new();
    let ports = spec
        .containers
        .iter()
        .chain(native)
        .flat_map(|container| container.ports.iter().flatten());
    for port in ports.filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP"))) {
        if let (Some(name), Some(number)) = (&port.name, port_number(port.container_port)) {
            named.entry(name.clone()).or_insert(number);
        }
    }
    named
}

impl From<&Pod> for PodFacts {
    fn from(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().flatten();
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        Self {
            id: id_of(Kind::Pod, &pod.metadata),
            uid: pod.uid().unwrap_or_default(),
            labels: pod.labels().clone(),
            service_account: spec
                .and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_else(|| "default".into()),
            ports: named_ports(pod),
            sidecar: Sidecar::of(pod),
            hop: hop_port(pod),
            terminating: pod.metadata.deletion_timestamp.is_some() || over,
            was_ready: ready
                .into_iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        }
    }
}

/// What the labels of a namespace say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its name.
    pub id: ObjectId,
    /// Whether its pods are to get sidecars.
    pub injection: bool,
    /// What it enforces of the Pod Security Standards.
    pub pod_security: Option<String>,
    /// All of them, for listeners that select namespaces.
    pub labels: BTreeMap<String, String>,
}

impl From<&Namespace> for NamespaceFacts {
    fn from(namespace: &Namespace) -> Self {
        let labels = namespace.labels();
        Self {
            id: id_of(Kind::Namespace, &namespace.metadata),
            injection: labels.get(INJECTION_LABEL).map(String::as_str) == Some("enabled"),
            pod_security: labels.get(POD_SECURITY_LABEL).cloned(),
            labels: labels.clone(),
        }
    }
}

/// A HorizontalPodAutoscaler, or KEDA's ScaledObject, which stands for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HpaFacts {
    /// Its name.
    pub id: ObjectId,
    /// Kind of what it scales.
    pub target_kind: String,
    /// Name of what it scales.
    pub target_name: String,
    /// Whether an ApiRoute owns it: then it is one of ours.
    pub ours: bool,
}

impl From<&HorizontalPodAutoscaler> for HpaFacts {
    fn from(hpa: &HorizontalPodAutoscaler) -> Self {
        let owners = hpa.metadata.owner_references.iter().flatten();
        Self {
            id: id_of(Kind::HorizontalPodAutoscaler, &hpa.metadata),
            target_kind: hpa.spec.scale_target_ref.kind.clone(),
            target_name: hpa.spec.scale_target_ref.name.clone(),
            ours: owners.into_iter().any(|owner| {
                owner.kind == Kind::ApiRoute.as_str()
                    && owner.api_version.split('/').next() == Some(GROUP)
            }),
        }
    }
}

impl HpaFacts {
    /// Of a ScaledObject, as JSON: we have no type of KEDA's. `None`: it names no workload.
    pub fn of_scaled_object(meta: &ObjectMeta, object: &Value) -> Option<Self> {
        let text = |field: &str| {
            let found = object.pointer(&format!("/spec/scaleTargetRef/{field}"));
            found.and_then(Value::as_str).map(str::to_owned)
        };
        Some(Self {
            id: id_of(Kind::ScaledObject, meta),
            // KEDA's own default.
            target_kind: text("kind").unwrap_or_else(|| "Deployment".into()),
            target_name: text("name")?,
            ours: false,
        })
    }
}
