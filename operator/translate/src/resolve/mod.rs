//! Units and findings of one object, whoever uses it. Each kind has a module; nothing here reads the world but through
//! the view.

pub mod api_route;
pub(crate) mod authorities;
pub mod config;
pub mod ports;
pub mod rate_limit_policy;
pub(crate) mod report;
pub(crate) mod seal;
pub mod secrets;
pub mod service;
pub mod shard_set;

use std::collections::BTreeMap;

use sluice_snapshot::{Unit, UnitName};

use crate::{
    finding::Finding,
    gateway_api,
    scaling::HpaIntent,
    standing::Standing,
    view::View,
    world::{Kind, ObjectId},
};

/// What one object amounts to.
#[derive(Debug, Default)]
pub struct Resolved {
    /// The units it makes.
    pub units: BTreeMap<UnitName, Unit>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// The HorizontalPodAutoscaler it stands for.
    pub hpa: Option<HpaIntent>,
    /// How it stands, where it is of the Gateway API and ours.
    pub standing: Option<Standing>,
    /// Of a part of the routes of a Gateway or ListenerSet: how many attach to each of its listeners, by name.
    pub attached: BTreeMap<String, usize>,
}

/// Resolves one object. An object that is not there amounts to nothing.
pub fn resolve(view: &View<'_>, id: &ObjectId) -> Resolved {
    let (namespace, name) = (&*id.namespace, &*id.name);
    let resolved = match id.kind {
        Kind::ApiRoute => view
            .route(namespace, name)
            .map(|route| api_route::resolve(view, &route)),
        Kind::RateLimitPolicy => view
            .policy(namespace, name)
            .map(|policy| rate_limit_policy::resolve(view, &policy)),
        Kind::ShardSet => view
            .shard_set(namespace, name)
            .map(|set| shard_set::resolve(view, &set)),
        Kind::Service => view
            .service(namespace, name)
            .map(|facts| service::backends(view, &facts)),
        Kind::EndpointSlice => view
            .slice(namespace, name)
            .map(|slice| service::endpoints(view, &slice)),
        Kind::Secret => view
            .secret(namespace, name)
            .map(|secret| secrets::resolve(view, &secret)),
        Kind::TlsSecret => view
            .tls_secret(namespace, name)
            .map(|secret| secrets::resolve_certificate(view, &secret)),
        Kind::Gateway => view
            .gateway(namespace, name)
            .map(|facts| gateway_api::gateway::resolve(view, &facts)),
        Kind::ListenerSet => view
            .listener_set(namespace, name)
            .map(|facts| gateway_api::gateway::resolve_set(view, &facts)),
        Kind::GatewayClass => view
            .gateway_class(name)
            .map(|facts| gateway_api::class::resolve(&facts)),
        Kind::HttpRoute => view
            .http_route(namespace, name)
            .map(|facts| gateway_api::http_route::resolve(view, &facts)),
        Kind::GrpcRoute => view
            .grpc_route(namespace, name)
            .map(|facts| gateway_api::grpc_route::resolve(view, &facts)),
        Kind::TlsRoute => view
            .tls_route(namespace, name)
            .map(|facts| gateway_api::stream_route::tls(view, &facts)),
        Kind::TcpRoute => view
            .tcp_route(namespace, name)
            .map(|facts| gateway_api::stream_route::tcp(view, &facts)),
        Kind::BackendTlsPolicy => view
            .backend_tls_policy(namespace, name)
            .map(|policy| gateway_api::backend_tls::resolve(view, &policy)),
        Kind::Config => view.config().map(|config| config::resolve(view, &config)),
        Kind::Pod
        | Kind::HorizontalPodAutoscaler
        | Kind::ScaledObject
        | Kind::ConfigMap
        | Kind::ReferenceGrant
        | Kind::Namespace
        | Kind::Fleet
        | Kind::File => None,
    };
    resolved.unwrap_or_default()
}

/// Whether objects of a kind make units or findings themselves. The others are only read.
pub(crate) fn amounts_to_something(kind: Kind) -> bool {
    match kind {
        Kind::ApiRoute
        | Kind::RateLimitPolicy
        | Kind::ShardSet
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Secret
        | Kind::TlsSecret
        | Kind::Gateway
        | Kind::BackendTlsPolicy
        | Kind::GatewayClass
        | Kind::ListenerSet
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::TlsRoute
        | Kind::TcpRoute
        | Kind::Config => true,
        Kind::Pod
        | Kind::HorizontalPodAutoscaler
        | Kind::ScaledObject
        | Kind::ConfigMap
        | Kind::ReferenceGrant
        | Kind::Namespace
        | Kind::Fleet
        | Kind::File => false,
    }
}

/// The unit that stands for a resource.
pub fn unit_of(id: &ObjectId) -> Option<UnitName> {
    let (namespace, name) = (&*id.namespace, &*id.name);
    match id.kind {
        Kind::ApiRoute => Some(UnitName::route(namespace, name)),
        Kind::RateLimitPolicy => Some(UnitName::policy(namespace, name)),
        Kind::ShardSet => Some(UnitName::shard_map(namespace, name)),
        Kind::HttpRoute => Some(UnitName::http_route(namespace, name)),
        Kind::GrpcRoute => Some(UnitName::grpc_route(namespace, name)),
        Kind::TlsRoute => Some(UnitName::tls_route(namespace, name)),
        Kind::TcpRoute => Some(UnitName::tcp_route(namespace, name)),
        Kind::Service
        | Kind::EndpointSlice
        | Kind::Secret
        | Kind::Pod
        | Kind::HorizontalPodAutoscaler
        | Kind::ScaledObject
        | Kind::TlsSecret
        | Kind::ConfigMap
        | Kind::Gateway
        | Kind::BackendTlsPolicy
        | Kind::GatewayClass
        | Kind::ListenerSet
        | Kind::ReferenceGrant
        | Kind::Namespace
        | Kind::Config
        | Kind::Fleet
        | Kind::File => None,
    }
}
