//! An Ingress: an ApiRoute for each host, in front of which stands a Gateway.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressServiceBackend, IngressSpec, IngressTLS,
};
use serde_json::{Map, Value, json};

use super::made::{From, Made, Parent};

/// How the orders of ingress-nginx begin.
const NGINX: &str = "nginx.ingress.kubernetes.io/";
/// Those that are known, and what stands nearest to each.
const KNOWN: [(&str, &str); 30] = [
    (
        "affinity",
        "sessions are kept by a ShardSet: spec.rules[].backendRefs of kind ShardSet",
    ),
    ("auth-realm", "see auth-type"),
    ("auth-secret", "see auth-type"),
    ("auth-signin", "see auth-url"),
    (
        "auth-tls-secret",
        "the listener of the Gateway asks for client certificates: Gateway spec.tls.frontend",
    ),
    (
        "auth-tls-verify-client",
        "the listener of the Gateway asks for client certificates: Gateway spec.tls.frontend",
    ),
    (
        "auth-type",
        "spec.auth.providers: ApiKey, Signature or Jwt; passwords (Basic) are not served",
    ),
    (
        "auth-url",
        "spec.auth.providers of type Jwt; no other service is asked",
    ),
    (
        "backend-protocol",
        "appProtocol of the Service's port (kubernetes.io/h2c), or a BackendTLSPolicy for HTTPS",
    ),
    (
        "canary",
        "weights of backendRefs in one rule of one ApiRoute",
    ),
    ("canary-by-cookie", "a rule with matches[].cookies"),
    ("canary-by-header", "a rule with matches[].headers"),
    ("canary-by-header-value", "a rule with matches[].headers"),
    (
        "canary-weight",
        "weights of backendRefs in one rule of one ApiRoute",
    ),
    (
        "configuration-snippet",
        "no configuration is passed through; filters and rules say what they can",
    ),
    ("cors-allow-origin", "a CORS filter of an HTTPRoute"),
    ("denylist-source-range", "a NetworkPolicy"),
    ("enable-cors", "a CORS filter of an HTTPRoute"),
    (
        "force-ssl-redirect",
        "a RequestRedirect filter with scheme https on the HTTP listener",
    ),
    (
        "limit-connections",
        "connections are bounded by the sidecar, not by route",
    ),
    ("limit-rpm", "a RateLimitPolicy with key ClientAddress"),
    ("limit-rps", "a RateLimitPolicy with key ClientAddress"),
    (
        "permanent-redirect",
        "a RequestRedirect filter with statusCode 301",
    ),
    ("proxy-body-size", "spec.requestLimits.maxBodySize"),
    (
        "proxy-connect-timeout",
        "spec.rules[].timeouts.backendRequest",
    ),
    ("proxy-read-timeout", "spec.rules[].timeouts.request"),
    ("rewrite-target", "a URLRewrite filter of an HTTPRoute"),
    (
        "ssl-redirect",
        "a RequestRedirect filter with scheme https on the HTTP listener",
    ),
    ("use-regex", "matches[].path of type RegularExpression"),
    ("whitelist-source-range", "a NetworkPolicy"),
];
/// Orders that keep somebody out: a route without them would serve more than was meant, so their Ingress is left out.
const PROTECTING: [&str; 7] = [
    "auth-secret",
    "auth-tls-secret",
    "auth-tls-verify-client",
    "auth-type",
    "auth-url",
    "denylist-source-range",
    "whitelist-source-range",
];
/// Before the orders of other controllers.
const CONTROLLERS: [&str; 6] = [
    "alb.ingress.kubernetes.io/",
    "haproxy.org/",
    "haproxy-ingress.github.io/",
    "konghq.com/",
    "traefik.ingress.kubernetes.io/",
    "kubernetes.io/ingress.",
];

/// Converts one.
pub fn convert(
    ingress: &Ingress,
    namespace: &str,
    gateway: &Parent,
    services: &[Value],
    made: &mut Made,
) {
    let name = ingress.metadata.name.clone().unwrap_or_default();
    let from = From {
        object: format!("Ingress {namespace}/{name}"),
        namespace,
        metadata: &ingress.metadata,
    };
    if !annotations(&from, made) {
        return;
    }
    let Some(IngressSpec {
        default_backend,
        ingress_class_name: _, // the Gateway stands for it
        rules,
        tls,
    }) = &ingress.spec
    else {
        from.leave(made, "spec", "there is none: nothing to convert");
        return;
    };
    for (index, IngressTLS { hosts, secret_name }) in tls.iter().flatten().enumerate() {
        let hosts = hosts.as_deref().unwrap_or_default().join(", ");
        let secret = secret_name.as_deref().unwrap_or("none");
        from.leave(
            made,
            format!("spec.tls[{index}]"),
            format!("TLS is the Gateway's: give it an HTTPS listener for {hosts} with the certificate {secret}"),
        );
    }

    // In the order of their first appearance.
    let mut hosts: Vec<(String, Vec<Value>)> = Vec::new();
    let mut take = |host: &str, rule: Value| match hosts.iter_mut().find(|(known, _)| known == host)
    {
        Some((_, rules)) => rules.push(rule),
        None => hosts.push((host.to_owned(), vec![rule])),
    };
    let backends = Backends {
        from: &from,
        services,
    };
    for (index, rule) in rules.iter().flatten().enumerate() {
        let host = rule
            .host
            .as_deref()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let place = format!("spec.rules[{index}]");
        if host.starts_with("*.") {
            from.leave(
                made,
                format!("{place}.host"),
                "of an Ingress a wildcard stands for one label; of an ApiRoute for one or more",
            );
        }
        for (index, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
            let place = format!("{place}.http.paths[{index}]");
            let HTTPIngressPath {
                backend,
                path,
                path_type,
            } = path;
            let Some(kind) = path_kind(path_type, &from, &place, made) else {
                continue;
            };
            let value = path.as_deref().unwrap_or("/");
            if let Some(backend) = backends.of(backend, &format!("{place}.backend"), made) {
                let path = json!({"type": kind, "value": value});
                take(
                    &host,
                    json!({"matches": [{"path": path}], "backendRefs": [backend]}),
                );
            }
        }
    }
    if let Some(backend) = default_backend {
        // A host whose own rules do not match is asked for here too.
        if let Some(backend) = backends.of(backend, "spec.defaultBackend", made) {
            take("", json!({"backendRefs": [backend]}));
        }
    }

    let annotations = from.plain_annotations(is_order);
    for (index, (host, rules)) in hosts.iter_mut().enumerate() {
        let name = match index {
            0 => name.clone(),
            more => format!("{name}-{}", more + 1),
        };
        for (index, rule) in rules.iter_mut().enumerate() {
            rule["name"] = format!("rule-{index}").into();
        }
        let mut spec = Map::new();
        spec.insert(
            "parentRefs".to_owned(),
            json!([gateway.reference(namespace)]),
        );
        if !host.is_empty() {
            spec.insert("hostnames".to_owned(), json!([host]));
        }
        from.add(made, &name, &annotations, &spec, rules);
    }
}

fn path_kind(
    path_type: &str,
    from: &From<'_>,
    place: &str,
    made: &mut Made,
) -> Option<&'static str> {
    match path_type {
        "Exact" => Some("Exact"),
        "Prefix" => Some("PathPrefix"),
        "ImplementationSpecific" => {
            from.leave(
                made,
                format!("{place}.pathType"),
                "ImplementationSpecific is taken for a prefix of whole segments; look whether it is meant so",
            );
            Some("PathPrefix")
        }
        other => {
            from.leave(
                made,
                format!("{place}.pathType"),
                format!("{other:?} is not known: the path is left out"),
            );
            None
        }
    }
}

/// Says what is not carried over; false: without it nothing may be.
fn annotations(from: &From<'_>, made: &mut Made) -> bool {
    let annotations: BTreeMap<_, _> = from.metadata.annotations.iter().flatten().collect();
    let mut safe = true;
    for name in annotations.into_keys().filter(|name| is_order(name)) {
        let path = format!("metadata.annotations[{name}]");
        let short = name.strip_prefix(NGINX);
        let hint = KNOWN.iter().find(|(known, _)| Some(*known) == short);
        let mut message = match hint {
            Some((_, hint)) => format!("not carried over; the nearest is: {hint}"),
            None => "not carried over: an order to another controller".to_owned(),
        };
        if short.is_some_and(|short| PROTECTING.contains(&short)) {
            message.push_str("; it keeps somebody out, so the whole Ingress is left out");
            safe = false;
        }
        from.leave(made, path, message);
    }
    safe
}

fn is_order(name: &str) -> bool {
    name.starts_with(NGINX) || CONTROLLERS.iter().any(|prefix| name.starts_with(prefix))
}

/// Backends of one Ingress.
struct Backends<'a> {
    from: &'a From<'a>,
    services: &'a [Value],
}

impl Backends<'_> {
    /// A backendRef; none: it was said why.
    fn of(&self, backend: &IngressBackend, place: &str, made: &mut Made) -> Option<Value> {
        let IngressBackend { resource, service } = backend;
        let Some(IngressServiceBackend { name, port }) = service else {
            let kind = resource
                .as_ref()
                .map_or("nothing", |resource| &resource.kind);
            self.from.leave(
                made,
                place,
                format!("leads to {kind}: an ApiRoute leads to Services and ShardSets"),
            );
            return None;
        };
        let port = port.as_ref();
        let number = port.and_then(|port| port.number).map(i64::from);
        let named = port.and_then(|port| port.name.as_deref());
        match number.or_else(|| self.number(name, named?)) {
            Some(number) => Some(json!({"name": name, "port": number})),
            None => {
                let named = named.unwrap_or_default();
                self.from.leave(
                    made,
                    format!("{place}.service.port"),
                    format!("port {named:?} of Service {name} has no number here: give the Service with -f too, or write the number"),
                );
                None
            }
        }
    }

    /// The number of a named port, where the Service is at hand.
    fn number(&self, service: &str, port: &str) -> Option<i64> {
        let found = self.services.iter().find(|known| {
            let namespace = known["metadata"]["namespace"].as_str().unwrap_or("default");
            known["metadata"]["name"] == service && namespace == self.from.namespace
        });
        let ports = found?["spec"]["ports"].as_array()?;
        ports.iter().find(|known| known["name"] == port)?["port"].as_i64()
    }
}
