//! The objects that manifests can describe.

use std::fmt;

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    ApiRoute, RateLimitPolicy, ShardSet, SluiceConfig,
    gateway_api::{
        BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, ReferenceGrant,
        TcpRoute, TlsRoute,
    },
    validation::Violation,
};

/// The namespace of an object that names none, as kubectl has it.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// An object and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// The object.
    pub object: ManifestObject,
    /// The file's name as it was given.
    pub file: String,
    /// The line its document begins at, counted from 1.
    pub line: u64,
}

/// An object that a manifest described. Namespaced ones carry their namespace, and every one but SluiceConfig a name.
#[derive(Clone, PartialEq)]
pub enum ManifestObject {
    /// An ApiRoute, without status.
    ApiRoute(Box<ApiRoute>),
    /// A RateLimitPolicy, without status.
    RateLimitPolicy(Box<RateLimitPolicy>),
    /// A ShardSet, without status.
    ShardSet(Box<ShardSet>),
    /// The platform's file.
    SluiceConfig(Box<SluiceConfig>),
    /// A Service, its ports' defaults applied.
    Service(Box<Service>),
    /// A Secret, its `stringData` folded into `data`.
    Secret(Box<Secret>),
    /// Where a Service's traffic goes, and which pods those are.
    EndpointSlice(Box<EndpointSlice>),
    /// Authorities, for whom to trust.
    ConfigMap(Box<ConfigMap>),
    /// A Gateway, without status.
    Gateway(Box<Gateway>),
    /// A BackendTLSPolicy, without status.
    BackendTlsPolicy(Box<BackendTlsPolicy>),
    /// A GatewayClass, without status.
    GatewayClass(Box<GatewayClass>),
    /// A ListenerSet, without status.
    ListenerSet(Box<ListenerSet>),
    /// An HTTPRoute, without status.
    HttpRoute(Box<HttpRoute>),
    /// A GRPCRoute, without status.
    GrpcRoute(Box<GrpcRoute>),
    /// A TLSRoute, without status.
    TlsRoute(Box<TlsRoute>),
    /// A TCPRoute, without status.
    TcpRoute(Box<TcpRoute>),
    /// A ReferenceGrant.
    ReferenceGrant(Box<ReferenceGrant>),
}

impl ManifestObject {
    /// The kind as a manifest writes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ApiRoute(_) => "ApiRoute",
            Self::RateLimitPolicy(_) => "RateLimitPolicy",
            Self::ShardSet(_) => "ShardSet",
            Self::SluiceConfig(_) => "SluiceConfig",
            Self::Service(_) => "Service",
            Self::Secret(_) => "Secret",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::ConfigMap(_) => "ConfigMap",
            Self::Gateway(_) => "Gateway",
            Self::BackendTlsPolicy(_) => "BackendTLSPolicy",
            Self::GatewayClass(_) => "GatewayClass",
            Self::ListenerSet(_) => "ListenerSet",
            Self::HttpRoute(_) => "HTTPRoute",
            Self::GrpcRoute(_) => "GRPCRoute",
            Self::TlsRoute(_) => "TLSRoute",
            Self::TcpRoute(_) => "TCPRoute",
            Self::ReferenceGrant(_) => "ReferenceGrant",
        }
    }

    /// The object's metadata; SluiceConfig has none that Kubernetes knows.
    pub fn metadata(&self) -> Option<&ObjectMeta> {
        match self {
            Self::ApiRoute(object) => Some(&object.metadata),
            Self::RateLimitPolicy(object) => Some(&object.metadata),
            Self::ShardSet(object) => Some(&object.metadata),
            Self::SluiceConfig(_) => None,
            Self::Service(object) => Some(&object.metadata),
            Self::Secret(object) => Some(&object.metadata),
            Self::EndpointSlice(object) => Some(&object.metadata),
            Self::ConfigMap(object) => Some(&object.metadata),
            Self::Gateway(object) => Some(&object.metadata),
            Self::BackendTlsPolicy(object) => Some(&object.metadata),
            Self::GatewayClass(object) => Some(&object.metadata),
            Self::ListenerSet(object) => Some(&object.metadata),
            Self::HttpRoute(object) => Some(&object.metadata),
            Self::GrpcRoute(object) => Some(&object.metadata),
            Self::TlsRoute(object) => Some(&object.metadata),
            Self::TcpRoute(object) => Some(&object.metadata),
            Self::ReferenceGrant(object) => Some(&object.metadata),
        }
    }

    fn metadata_mut(&mut self) -> Option<&mut ObjectMeta> {
        match self {
            Self::ApiRoute(object) => Some(&mut object.metadata),
            Self::RateLimitPolicy(object) => Some(&mut object.metadata),
            Self::ShardSet(object) => Some(&mut object.metadata),
            Self::SluiceConfig(_) => None,
            Self::Service(object) => Some(&mut object.metadata),
            Self::Secret(object) => Some(&mut object.metadata),
            Self::EndpointSlice(object) => Some(&mut object.metadata),
            Self::ConfigMap(object) => Some(&mut object.metadata),
            Self::Gateway(object) => Some(&mut object.metadata),
            Self::BackendTlsPolicy(object) => Some(&mut object.metadata),
            Self::GatewayClass(object) => Some(&mut object.metadata),
            Self::ListenerSet(object) => Some(&mut object.metadata),
            Self::HttpRoute(object) => Some(&mut object.metadata),
            Self::GrpcRoute(object) => Some(&mut object.metadata),
            Self::TlsRoute(object) => Some(&mut object.metadata),
            Self::TcpRoute(object) => Some(&mut object.metadata),
            Self::ReferenceGrant(object) => Some(&mut object.metadata),
        }
    }

    /// The object's namespace; empty for SluiceConfig and GatewayClasses.
    pub fn namespace(&self) -> &str {
        self.metadata()
            .and_then(|metadata| metadata.namespace.as_deref())
            .unwrap_or_default()
    }

    /// The object's name; SluiceConfig's may be empty.
    pub fn name(&self) -> &str {
        match self {
            Self::SluiceConfig(config) => config
                .metadata
                .as_ref()
                .and_then(|metadata| metadata.name.as_deref())
                .unwrap_or_default(),
            other => other
                .metadata()
                .and_then(|metadata| metadata.name.as_deref())
                .unwrap_or_default(),
        }
    }

    /// The object with its namespace filled in.
    pub(super) fn named(mut self) -> Result<Self, Vec<Violation>> {
        let namespaced = !matches!(self, Self::GatewayClass(_));
        let Some(metadata) = self.metadata_mut() else {
            return Ok(self);
        };
        metadata.namespace = match (namespaced, metadata.namespace.take()) {
            (false, _) => None,
            (true, None) => Some(DEFAULT_NAMESPACE.to_owned()),
            (true, given) => given,
        };
        let checks = [
            (
                "metadata.name",
                metadata.name.as_deref(),
                253,
                "a DNS subdomain: lower-case letters, digits, - and .",
            ),
            (
                "metadata.namespace",
                Some(metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)),
                63,
                "a DNS label: lower-case letters, digits and -",
            ),
        ];
        let violations: Vec<Violation> = checks
            .into_iter()
            .filter_map(|(path, name, longest, form)| {
                let message = match name {
                    None | Some("") => "required, but missing".to_owned(),
                    Some(name) if is_dns_name(name, longest) => return None,
                    Some(name) => format!(
                        "{:?} is not {form}",
                        name.chars().take(64).collect::<String>()
                    ),
                };
                Some(Violation {
                    path: path.into(),
                    message,
                })
            })
            .collect();
        match violations.is_empty() {
            true => Ok(self),
            false => Err(violations),
        }
    }
}

/// RFC 1123: labels of lower-case letters, digits and inner dashes. A name of at most 63 characters is one label.
fn is_dns_name(name: &str, longest: usize) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let single = longest <= 63;
    name.len() <= longest
        && if single {
            label(name)
        } else {
            name.split('.').all(label)
        }
}

// By hand, so that no log line can hold what a Secret holds.
impl fmt::Debug for ManifestObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind(), self.namespace(), self.name())
    }
}
