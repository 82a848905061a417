//! The objects of the world and the changes that sources report.

use std::sync::Arc;

use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service},
    discovery::v1::EndpointSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_crds::{
    ApiRoute, ApiRouteSpec, RateLimitPolicy, RateLimitPolicySpec, ShardSet, SluiceConfig,
    gateway_api::{
        BackendTlsPolicy, BackendTlsPolicySpec, Gateway, GatewayClass, GrpcRoute, HttpRoute,
        ListenerSet, PolicyTarget, ReferenceGrant, TcpRoute, TlsRoute,
    },
    rate_limit_policy::PolicyTargetRef,
};

use super::{
    claim::{Claim, GatewayApiSpec},
    facts::{
        AuthoritiesFacts, BackendTlsFacts, Custom, Defect, GatewayFacts, HpaFacts, NamespaceFacts,
        PodFacts, PolicyFacts, RouteFacts, SecretFacts, ShardSetFacts,
    },
    gateway_api::{
        GatewayClassFacts, GrantFacts, GrpcRouteFacts, HttpRouteFacts, ListenerSetFacts, Routed,
        TcpRouteFacts, TlsRouteFacts,
    },
    id::{Kind, Meta, ObjectId},
    service::{ServiceFacts, SliceFacts},
};

/// One object, as the world keeps it. Made by `From` of a reference to the Kubernetes object.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // each is documented at its type
pub enum Object {
    ApiRoute(Arc<RouteFacts>),
    RateLimitPolicy(Arc<PolicyFacts>),
    ShardSet(Arc<ShardSetFacts>),
    Service(Arc<ServiceFacts>),
    EndpointSlice(Arc<SliceFacts>),
    Secret(Arc<SecretFacts>),
    Pod(Arc<PodFacts>),
    HorizontalPodAutoscaler(Arc<HpaFacts>),
    ScaledObject(Arc<HpaFacts>),
    TlsSecret(Arc<SecretFacts>),
    ConfigMap(Arc<AuthoritiesFacts>),
    Gateway(Arc<GatewayFacts>),
    BackendTlsPolicy(Arc<BackendTlsFacts>),
    GatewayClass(Arc<GatewayClassFacts>),
    ListenerSet(Arc<ListenerSetFacts>),
    HttpRoute(Arc<HttpRouteFacts>),
    GrpcRoute(Arc<GrpcRouteFacts>),
    TlsRoute(Arc<TlsRouteFacts>),
    TcpRoute(Arc<TcpRouteFacts>),
    ReferenceGrant(Arc<GrantFacts>),
    Namespace(Arc<NamespaceFacts>),
    Config(Arc<SluiceConfig>),
    /// Sidecars, connected or unknown, whose groups hold the RateLimitPolicy of this name.
    Fleet {
        id: ObjectId,
        sessions: u32,
    },
}

/// What a source saw.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object is there, new or changed.
    Upsert(Object),
    /// The object is there and cannot be decoded.
    Undecodable(Undecodable),
    /// The object is gone.
    Delete(ObjectId),
}

/// A stored object that does not decode. What was last good of it stays in force; where there is none, `raw` says what it
/// is about, and that is denied.
#[derive(Debug, Clone)]
pub struct Undecodable {
    /// Its name.
    pub id: ObjectId,
    /// Uid, age, generation.
    pub meta: Meta,
    /// What the decoder said.
    pub message: String,
    /// The whole object, where the source has it.
    pub raw: Option<Value>,
}

impl Object {
    /// The object's name.
    pub fn id(&self) -> ObjectId {
        match self {
            Self::ApiRoute(facts) => facts.id.clone(),
            Self::RateLimitPolicy(facts) => facts.id.clone(),
            Self::ShardSet(facts) => facts.custom.id.clone(),
            Self::Service(facts) => facts.id.clone(),
            Self::EndpointSlice(facts) => facts.id.clone(),
            Self::Secret(facts) | Self::TlsSecret(facts) => facts.id.clone(),
            Self::ConfigMap(facts) => facts.id.clone(),
            Self::Gateway(facts) => facts.id.clone(),
            Self::BackendTlsPolicy(facts) => facts.id.clone(),
            Self::Pod(facts) => facts.id.clone(),
            Self::HorizontalPodAutoscaler(facts) | Self::ScaledObject(facts) => facts.id.clone(),
            Self::GatewayClass(facts) => facts.id.clone(),
            Self::ListenerSet(facts) => facts.id.clone(),
            Self::HttpRoute(facts) => facts.custom.id.clone(),
            Self::GrpcRoute(facts) => facts.custom.id.clone(),
            Self::TlsRoute(facts) => facts.custom.id.clone(),
            Self::TcpRoute(facts) => facts.custom.id.clone(),
            Self::ReferenceGrant(facts) => facts.id.clone(),
            Self::Namespace(facts) => facts.id.clone(),
            Self::Config(_) => ObjectId::config(),
            Self::Fleet { id, .. } => id.clone(),
        }
    }

    /// Uid, age and generation, of our own resources and those of the Gateway API.
    pub fn meta(&self) -> Option<&Meta> {
        match self {
            Self::ApiRoute(facts) => Some(&facts.meta),
            Self::RateLimitPolicy(facts) => Some(&facts.meta),
            Self::ShardSet(facts) => Some(&facts.custom.meta),
            Self::Gateway(facts) => Some(&facts.meta),
            Self::BackendTlsPolicy(facts) => Some(&facts.meta),
            Self::GatewayClass(facts) => Some(&facts.meta),
            Self::ListenerSet(facts) => Some(&facts.meta),
            Self::HttpRoute(facts) => Some(&facts.custom.meta),
            Self::GrpcRoute(facts) => Some(&facts.custom.meta),
            Self::TlsRoute(facts) => Some(&facts.custom.meta),
            Self::TcpRoute(facts) => Some(&facts.custom.meta),
            Self::ReferenceGrant(facts) => Some(&facts.meta),
            Self::Service(_)
            | Self::EndpointSlice(_)
            | Self::Secret(_)
            | Self::Pod(_)
            | Self::HorizontalPodAutoscaler(_)
            | Self::ScaledObject(_)
            | Self::TlsSecret(_)
            | Self::ConfigMap(_)
            | Self::Namespace(_)
            | Self::Config(_)
            | Self::Fleet { .. } => None,
        }
    }

    /// What others see of a route, of whatever kind.
    pub(crate) fn claim(&self) -> Option<Arc<Claim>> {
        match self {
            Self::ApiRoute(facts) => Some(Arc::new(Claim::of(facts))),
            Self::HttpRoute(facts) => Some(facts.claim.clone()),
            Self::GrpcRoute(facts) => Some(facts.claim.clone()),
            Self::TlsRoute(facts) => Some(facts.claim.clone()),
            Self::TcpRoute(facts) => Some(facts.claim.clone()),
            _ => None,
        }
    }

    /// A Secret of type `kubernetes.io/tls`, as listeners take it.
    pub fn tls_secret(secret: &Secret) -> Self {
        Self::TlsSecret(Arc::new(SecretFacts::of(Kind::TlsSecret, secret)))
    }

    /// Fleet facts of the RateLimitPolicy `policy`.
    pub fn fleet(policy: &ObjectId, sessions: u32) -> Self {
        Self::Fleet {
            id: ObjectId {
                kind: Kind::Fleet,
                ..policy.clone()
            },
            sessions,
        }
    }
}

macro_rules! from_kubernetes {
    ($($kind:ident),+) => {$(
        impl From<&$kind> for Object {
            fn from(object: &$kind) -> Self {
                Self::$kind(Arc::new(object.into()))
            }
        }
    )+};
}
from_kubernetes!(
    ApiRoute,
    RateLimitPolicy,
    ShardSet,
    Service,
    EndpointSlice,
    Secret,
    Pod,
    HorizontalPodAutoscaler,
    Namespace,
    ConfigMap,
    Gateway,
    BackendTlsPolicy,
    GatewayClass,
    ListenerSet,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    ReferenceGrant
);

impl From<&SluiceConfig> for Object {
    fn from(config: &SluiceConfig) -> Self {
        Self::Config(Arc::new(config.clone()))
    }
}

impl Undecodable {
    /// The object to keep: `last` as it was, or the outline of what cannot be read. None for kinds that are not ours, of
    /// which nothing is kept.
    pub(super) fn keep(self, last: Option<&Object>) -> Option<Object> {
        let Self {
            id,
            meta,
            message,
            raw,
        } = self;
        let spec = raw.as_ref().and_then(|raw| raw.get("spec"));
        let meta = known_meta(meta, raw.as_ref(), last.and_then(Object::meta));
        match id.kind {
            Kind::ApiRoute => {
                let last = match last {
                    Some(Object::ApiRoute(facts)) => facts.sound().cloned(),
                    _ => None,
                };
                let facts = kept(id, meta, message, last, || route_outline(spec));
                Some(Object::ApiRoute(Arc::new(facts)))
            }
            Kind::RateLimitPolicy => {
                let last = match last {
                    Some(Object::RateLimitPolicy(facts)) => facts.sound().cloned(),
                    _ => None,
                };
                let facts = kept(id, meta, message, last, || policy_outline(spec));
                Some(Object::RateLimitPolicy(Arc::new(facts)))
            }
            Kind::ShardSet => {
                let last = match last {
                    Some(Object::ShardSet(facts)) => Some(ShardSetFacts::clone(facts)),
                    _ => None,
                };
                let (spec, rest) = match last {
                    Some(last) => (last.custom.sound().cloned(), Some(last)),
                    None => (None, None),
                };
                Some(Object::ShardSet(Arc::new(ShardSetFacts {
                    custom: kept(id, meta, message, spec, || None),
                    epoch: rest.as_ref().and_then(|last| last.epoch),
                    placement: rest
                        .as_ref()
                        .map(|last| last.placement.clone())
                        .unwrap_or_default(),
                    moving: rest.and_then(|last| last.moving),
                })))
            }
            // Without its last good form it listens nowhere.
            Kind::Gateway => {
                let last = match last {
                    Some(Object::Gateway(facts)) => facts.sound().cloned(),
                    _ => None,
                };
                let facts = kept(id, meta, message, last, || None);
                Some(Object::Gateway(Arc::new(facts)))
            }
            Kind::BackendTlsPolicy => {
                let last = match last {
                    Some(Object::BackendTlsPolicy(facts)) => facts.sound().cloned(),
                    _ => None,
                };
                let facts = kept(id, meta, message, last, || backend_tls_outline(spec));
                Some(Object::BackendTlsPolicy(Arc::new(facts)))
            }
            // Without its last good form a class is nobody's, a set listens nowhere, a grant grants nothing.
            Kind::GatewayClass => {
                let last = match last {
                    Some(Object::GatewayClass(facts)) => facts.sound().cloned(),
                    _ => None,
                };
                let facts = kept(id, meta, message, last, || None);
                Some(Object::GatewayClass(Arc::new(facts)))
            }
            Kind::ListenerSet => {
                let last = match last {
                    Some(Object::ListenerSet(facts)) => facts.sound().cloned(),
                    _ => None,
                };
                let facts = kept(id, meta, message, last, || None);
                Some(Object::ListenerSet(Arc::new(facts)))
            }
            Kind::ReferenceGrant => {
                let last = match last {
                    Some(Object::ReferenceGrant(facts)) => facts.sound().cloned(),
                    _ => None,
                };
                let facts = kept(id, meta, message, last, || None);
                Some(Object::ReferenceGrant(Arc::new(facts)))
            }
            Kind::HttpRoute => {
                let last = match last {
                    Some(Object::HttpRoute(facts)) => facts.custom.sound().cloned(),
                    _ => None,
                };
                let facts = kept(id, meta, message, last, || gateway_api_outline(spec));
                Some(Object::HttpRoute(Arc::new(Routed::new(facts))))
            }
            Kind::GrpcRoute => {
                let last = match last {
                    Some(Object::GrpcRoute(facts)) => facts.custom.sound().cloned(),
                    _ => None,
                };
                let facts = kept(id, meta, message, last, || gateway_api_outline(spec));
                Some(Object::GrpcRoute(Arc::new(Routed::new(facts))))
            }
            Kind::TlsRoute => {
                let last = match last {
                    Some(Object::TlsRoute(facts)) => facts.custom.sound().cloned(),
                    _ => None,
                };
                let facts = kept(id, meta, message, last, || gateway_api_outline(spec));
                Some(Object::TlsRoute(Arc::new(Routed::new(facts))))
            }
            Kind::TcpRoute => {
                let last = match last {
                    Some(Object::TcpRoute(facts)) => facts.custom.sound().cloned(),
                    _ => None,
                };
                let facts = kept(id, meta, message, last, || gateway_api_outline(spec));
                Some(Object::TcpRoute(Arc::new(Routed::new(facts))))
            }
            Kind::Service
            | Kind::EndpointSlice
            | Kind::Secret
            | Kind::Pod
            | Kind::HorizontalPodAutoscaler
            | Kind::ScaledObject
            | Kind::TlsSecret
            | Kind::ConfigMap
            | Kind::Namespace
            | Kind::Config
            | Kind::Fleet
            | Kind::File => last.cloned(),
        }
    }
}

/// A source that cannot decode an object may not know its age: the object has it, or had it. An elder that breaks must not
/// become the younger.
fn known_meta(meta: Meta, raw: Option<&Value>, last: Option<&Meta>) -> Meta {
    let written = raw.and_then(|raw| raw.get("metadata")).cloned();
    let written = written.and_then(|value| serde_json::from_value::<ObjectMeta>(value).ok());
    let written = written
        .map(|written| Meta::from(&written))
        .unwrap_or_default();
    let last = last.cloned().unwrap_or_default();
    let uids = [meta.uid, written.uid, last.uid];
    Meta {
        uid: uids
            .into_iter()
            .find(|uid| !uid.is_empty())
            .unwrap_or_default(),
        created: meta.created.or(written.created).or(last.created),
        generation: meta.generation.max(written.generation),
    }
}

fn kept<S>(
    id: ObjectId,
    meta: Meta,
    message: String,
    last: Option<S>,
    outline: impl FnOnce() -> Option<S>,
) -> Custom<S> {
    let lost = last.is_none();
    Custom {
        id,
        meta,
        spec: last.or_else(outline),
        defect: Some(Defect {
            message,
            outline: lost,
        }),
    }
}

/// Where the route attaches and what it answers to: enough to deny exactly that.
fn route_outline(spec: Option<&Value>) -> Option<ApiRouteSpec> {
    let part = |name: &str| spec.and_then(|spec| spec.get(name)).cloned();
    let read = |value: Value| serde_json::from_value::<ApiRouteSpec>(value).ok();
    let parents = read(json!({"parentRefs": part("parentRefs")?}))?;
    // Unreadable hostnames mean any: it denies more, never less.
    let hostnames = part("hostnames").and_then(|names| read(json!({"hostnames": names})));
    Some(ApiRouteSpec {
        hostnames: hostnames.unwrap_or_default().hostnames,
        ..parents
    })
}

/// The same of a route of the Gateway API.
fn gateway_api_outline<S: GatewayApiSpec + DeserializeOwned>(spec: Option<&Value>) -> Option<S> {
    let part = |name: &str| spec.and_then(|spec| spec.get(name)).cloned();
    let parents = part("parentRefs")?;
    let read = |value: Value| serde_json::from_value::<S>(value).ok();
    let hostnames = part("hostnames").unwrap_or_else(|| json!([]));
    read(json!({"parentRefs": parents, "hostnames": hostnames}))
        .or_else(|| read(json!({"parentRefs": parents})))
}

/// What the policy is about.
fn policy_outline(spec: Option<&Value>) -> Option<RateLimitPolicySpec> {
    let targets = spec?.get("targetRefs")?.as_array()?;
    Some(RateLimitPolicySpec {
        target_refs: targets.iter().filter_map(target_outline).collect(),
        ..RateLimitPolicySpec::default()
    })
}

/// Whose connections must not be left in the clear.
fn backend_tls_outline(spec: Option<&Value>) -> Option<BackendTlsPolicySpec> {
    let targets = spec?.get("targetRefs")?.as_array()?;
    let read = |target: &Value| serde_json::from_value::<PolicyTarget>(target.clone()).ok();
    Some(BackendTlsPolicySpec {
        target_refs: targets.iter().filter_map(read).collect(),
        ..BackendTlsPolicySpec::default()
    })
}

/// A target whose section cannot be read covers the whole route.
fn target_outline(target: &Value) -> Option<PolicyTargetRef> {
    let read = |value: &Value| serde_json::from_value::<PolicyTargetRef>(value.clone()).ok();
    read(target).or_else(|| {
        let mut target = target.clone();
        target.as_object_mut()?.remove("sectionName");
        read(&target)
    })
}
