//! What a sidecar can honour. A unit names the features it needs, Hello names those the sidecar has; a unit that needs
//! more is sent as denied. A feature is added in the commit that adds the field.

use crate::unit::{
    Unit,
    auth::Method,
    policy::Scope,
    route::{Action, Route, Rule, Target},
    secret::Purpose,
};

/// One thing that older sidecars may not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Units of the first version: inbound, route, backend, endpoints.
    Core,
    /// Authentication by API key.
    AuthApiKey,
    /// Authentication by HTTP message signature.
    AuthSignature,
    /// Authentication by JWT.
    AuthJwt,
    /// The memory cache.
    Cache,
    /// Token buckets of one sidecar.
    LimitLocal,
    /// Token buckets shared through a store.
    LimitGlobal,
    /// HTTP shard maps.
    ShardHttp,
    /// Proxies in front that are believed about the client.
    TrustedHops,
    /// Own apps that speak HTTP/2.
    AppHttp2,
    /// Listeners of a Gateway.
    EdgeListener,
    /// Certificates asked of the clients of a listener.
    EdgeClientCertificate,
    /// TLS to backends.
    BackendTls,
    /// HTTPRoutes and GRPCRoutes: configuration that is broken is 500 and not 503.
    GatewayRoutes,
    /// Hosts and paths that upstreams see otherwise.
    RouteRewrite,
    /// Copies of requests.
    RouteMirror,
    /// Cross-origin requests.
    RouteCors,
    /// Header edits of one target.
    TargetHeaders,
    /// Requests without a deadline.
    TimeoutNone,
    /// TLSRoutes and TCPRoutes, and the listeners that they are of.
    StreamRoute,
    /// Endpoints that are reached by hops.
    Hops,
    /// Authentication by what an edge asserts.
    AuthHop,
    /// Routes of listeners in units of their own ([`crate::unit::Table`]), and versions that are hashed part by part.
    Parts,
}

impl Feature {
    /// Every feature of this build.
    pub const ALL: [Self; 23] = [
        Self::Core,
        Self::AuthApiKey,
        Self::AuthSignature,
        Self::AuthJwt,
        Self::Cache,
        Self::LimitLocal,
        Self::LimitGlobal,
        Self::ShardHttp,
        Self::TrustedHops,
        Self::AppHttp2,
        Self::EdgeListener,
        Self::EdgeClientCertificate,
        Self::BackendTls,
        Self::GatewayRoutes,
        Self::RouteRewrite,
        Self::RouteMirror,
        Self::RouteCors,
        Self::TargetHeaders,
        Self::TimeoutNone,
        Self::StreamRoute,
        Self::Hops,
        Self::AuthHop,
        Self::Parts,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::AuthApiKey => "auth-api-key",
            Self::AuthSignature => "auth-signature",
            Self::AuthJwt => "auth-jwt",
            Self::Cache => "cache",
            Self::LimitLocal => "limit-local",
            Self::LimitGlobal => "limit-global",
            Self::ShardHttp => "shard-http",
            Self::TrustedHops => "trusted-hops",
            Self::AppHttp2 => "app-http2",
            Self::EdgeListener => "edge-listener",
            Self::EdgeClientCertificate => "edge-client-certificate",
            Self::BackendTls => "backend-tls",
            Self::GatewayRoutes => "gateway-routes",
            Self::RouteRewrite => "route-rewrite",
            Self::RouteMirror => "route-mirror",
            Self::RouteCors => "route-cors",
            Self::TargetHeaders => "target-headers",
            Self::TimeoutNone => "timeout-none",
            Self::StreamRoute => "stream-route",
            Self::Hops => "hops",
            Self::AuthHop => "auth-hop",
            Self::Parts => "parts",
        }
    }
}

/// The features that `unit` needs, sorted.
pub fn needed(unit: &Unit) -> Vec<Feature> {
    let mut needs = vec![Feature::Core];
    match unit {
        Unit::Route(route) => of_route(route, &mut needs),
        Unit::StreamRoute(_) => needs.push(Feature::StreamRoute),
        Unit::Policy(policy) => needs.extend(policy.limits.iter().map(|limit| match limit.scope {
            Scope::Local => Feature::LimitLocal,
            Scope::Global(_) => Feature::LimitGlobal,
        })),
        Unit::ShardMap(_) => needs.push(Feature::ShardHttp),
        Unit::Fleet(_) | Unit::Store(_) => needs.push(Feature::LimitGlobal),
        Unit::Inbound(inbound) => {
            needs.extend(inbound.settings.as_ref().map(|_| Feature::TrustedHops));
            if inbound.ports.iter().any(|port| !port.protocol.is_http1()) {
                needs.push(Feature::AppHttp2);
            }
            if !inbound.listeners.is_empty() {
                needs.push(Feature::EdgeListener);
            }
            if !inbound.tables.is_empty() {
                needs.push(Feature::Parts);
            }
        }
        Unit::Table(_) => needs.push(Feature::Parts),
        Unit::Settings(_) => needs.push(Feature::TrustedHops),
        Unit::Listener(listener) => {
            needs.push(Feature::EdgeListener);
            if listener.protocol.is_stream() {
                needs.push(Feature::StreamRoute);
            }
            let tls = listener.tls.as_ref();
            if tls.is_some_and(|tls| tls.client_authorities.is_some()) {
                needs.push(Feature::EdgeClientCertificate);
            }
        }
        Unit::Backend(backend) if backend.tls.is_some() || backend.broken.is_some() => {
            needs.push(Feature::BackendTls);
        }
        Unit::Secret(secret) if secret.purpose == Purpose::Tls => {
            needs.push(Feature::EdgeListener);
        }
        Unit::Endpoints(endpoints) if endpoints.endpoints.iter().any(|one| one.hop.is_some()) => {
            needs.push(Feature::Hops);
        }
        Unit::Backend(_) | Unit::Endpoints(_) | Unit::Keys(_) | Unit::Secret(_) => {}
    }
    needs.sort_unstable();
    needs.dedup();
    needs
}

fn of_route(route: &Route, needs: &mut Vec<Feature>) {
    if route.object.is_gateway_route() {
        needs.push(Feature::GatewayRoutes);
    }
    let providers = route.providers.iter();
    needs.extend(providers.filter_map(|provider| match &provider.method {
        Method::ApiKey(_) => Some(Feature::AuthApiKey),
        Method::Signature(_) => Some(Feature::AuthSignature),
        Method::Jwt(_) => Some(Feature::AuthJwt),
        Method::Hop(_) => Some(Feature::AuthHop),
        Method::Broken(_) => None,
    }));
    for rule in &route.rules {
        of_rule(rule, needs);
    }
}

fn of_rule(rule: &Rule, needs: &mut Vec<Feature>) {
    let targets = match &rule.action {
        Action::Backends(targets) => targets.as_slice(),
        Action::Redirect(_) => &[],
    };
    let edited = targets.iter().any(|weighted| {
        !weighted.request_headers.is_empty() || !weighted.response_headers.is_empty()
    });
    let sharded = targets
        .iter()
        .any(|weighted| matches!(weighted.target, Target::Shards(_)));
    let endless = rule.timeouts.request_ms == 0 || rule.timeouts.backend_request_ms == 0;
    let used = [
        (rule.cache.is_some(), Feature::Cache),
        (sharded, Feature::ShardHttp),
        (rule.rewrite.is_some(), Feature::RouteRewrite),
        (!rule.mirrors.is_empty(), Feature::RouteMirror),
        (rule.cors.is_some(), Feature::RouteCors),
        (edited, Feature::TargetHeaders),
        (endless, Feature::TimeoutNone),
    ];
    needs.extend(
        used.into_iter()
            .filter_map(|(is_used, feature)| is_used.then_some(feature)),
    );
}
