//! What objects are called, and which of two is the elder.

use std::{fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sluice_snapshot::unit::ObjectRef;

/// The kinds of object that translation reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `sluice.dev/v1alpha1`.
    ApiRoute,
    /// `sluice.dev/v1alpha1`.
    RateLimitPolicy,
    /// `sluice.dev/v1alpha1`.
    ShardSet,
    /// Core.
    Service,
    /// `discovery.k8s.io/v1`.
    EndpointSlice,
    /// Core; only those labelled `sluice.dev/use` matter.
    Secret,
    /// Core.
    Pod,
    /// `autoscaling/v2`.
    HorizontalPodAutoscaler,
    /// `keda.sh/v1alpha1`, where KEDA is installed.
    ScaledObject,
    /// Core, of type `kubernetes.io/tls`: for listeners only. By the kind it is told from what labels allow.
    TlsSecret,
    /// Core; only its entry `ca.crt` matters.
    ConfigMap,
    /// `gateway.networking.k8s.io/v1`, where it is installed.
    Gateway,
    /// `gateway.networking.k8s.io/v1`, where it is installed.
    BackendTlsPolicy,
    /// `gateway.networking.k8s.io/v1`, where it is installed; of no namespace itself.
    GatewayClass,
    /// `gateway.networking.k8s.io/v1`, where it is installed.
    ListenerSet,
    /// `gateway.networking.k8s.io/v1`, where it is installed.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1`, where it is installed.
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1`, where it is installed.
    TlsRoute,
    /// `gateway.networking.k8s.io/v1`, where it is installed.
    TcpRoute,
    /// `gateway.networking.k8s.io/v1`, or `v1beta1`, where it is installed.
    ReferenceGrant,
    /// Core; of no namespace itself.
    Namespace,
    /// SluiceConfig: at most one, of no namespace.
    Config,
    /// How many sidecars hold a RateLimitPolicy, by that policy's name.
    Fleet,
    /// A manifest file. Never an object of the world: only sources' own findings are about it.
    File,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 24] = [
        Self::ApiRoute,
        Self::RateLimitPolicy,
        Self::ShardSet,
        Self::Service,
        Self::EndpointSlice,
        Self::Secret,
        Self::Pod,
        Self::HorizontalPodAutoscaler,
        Self::ScaledObject,
        Self::TlsSecret,
        Self::ConfigMap,
        Self::Gateway,
        Self::BackendTlsPolicy,
        Self::GatewayClass,
        Self::ListenerSet,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::ReferenceGrant,
        Self::Namespace,
        Self::Config,
        Self::Fleet,
        Self::File,
    ];

    /// The kind as manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApiRoute => "ApiRoute",
            Self::RateLimitPolicy => "RateLimitPolicy",
            Self::ShardSet => "ShardSet",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Secret => "Secret",
            Self::Pod => "Pod",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::ScaledObject => "ScaledObject",
            Self::TlsSecret => "TlsSecret",
            Self::ConfigMap => "ConfigMap",
            Self::Gateway => "Gateway",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::GatewayClass => "GatewayClass",
            Self::ListenerSet => "ListenerSet",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Namespace => "Namespace",
            Self::Config => "SluiceConfig",
            Self::Fleet => "Fleet",
            Self::File => "File",
        }
    }
}

/// The name of an object. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty where the kind has none.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectId {
    /// An object of a kind.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The one SluiceConfig.
    pub fn config() -> Self {
        Self::new(Kind::Config, "", "sluice")
    }

    /// The object as units, status and logs name it.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(self.kind.as_str(), &self.namespace, &self.name)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.is_empty() {
            true => write!(f, "{} {}", self.kind.as_str(), self.name),
            false => write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name),
        }
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What of an object's metadata translation reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// The object's uid; empty where a file gives none.
    pub uid: String,
    /// creationTimestamp in seconds since 1970; none where a file gives none.
    pub created: Option<i64>,
    /// The generation of the spec; 0 where there is none.
    pub generation: i64,
}

impl From<&ObjectMeta> for Meta {
    fn from(meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            created: meta
                .creation_timestamp
                .as_ref()
                .map(|time| time.0.as_second()),
            generation: meta.generation.unwrap_or_default(),
        }
    }
}

/// Orders objects elder first: by creation, then namespace and name. What has no creation time is younger than what has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    created: i64,
    namespace: Arc<str>,
    name: Arc<str>,
    /// Two kinds may have an object of one name and second.
    kind: Kind,
}

impl Age {
    /// The age of an object.
    pub fn of(id: &ObjectId, meta: &Meta) -> Self {
        Self {
            created: meta.created.unwrap_or(i64::MAX),
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            kind: id.kind,
        }
    }

    /// When the object was created, in seconds since 1970; none is younger than all.
    pub fn created(&self) -> Option<i64> {
        Some(self.created).filter(|created| *created != i64::MAX)
    }
}

/// The id of an object of a kind, by its metadata.
pub(super) fn id_of(kind: Kind, meta: &ObjectMeta) -> ObjectId {
    ObjectId::new(
        kind,
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}
