//! Whatever changes in whatever order, what the engine keeps up to date equals what it computes from nothing.

mod support;

use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Pod, Secret, Service},
    discovery::v1::EndpointSlice,
};
use proptest::{collection::vec, prelude::*};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_crds::{
    ApiRoute, RateLimitPolicy, ShardSet, SluiceConfig,
    gateway_api::{
        BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, ReferenceGrant,
        TcpRoute, TlsRoute,
    },
};
use sluice_translate::{Change, Engine, Kind, Object, ObjectId, Pods, Undecodable, world::Meta};
use support::scaled_object;

const NAMESPACES: [&str; 2] = ["shop", "lab"];
const SERVICES: [&str; 2] = ["orders", "stock"];

/// One change of a small world: few names, so that the changes meet each other.
#[derive(Debug, Clone)]
struct Step {
    kind: usize,
    namespace: usize,
    name: usize,
    variant: u32,
    delete: bool,
}

/// Mostly routes of one namespace: what they see of each other is what a change most easily forgets.
fn step() -> impl Strategy<Value = Step> {
    let namespace = prop::bool::weighted(0.2).prop_map(usize::from);
    let kind = prop_oneof![2 => 0..2_usize, 3 => 2..15_usize, 4 => 15..23_usize];
    let delete = prop::bool::weighted(0.2);
    (kind, namespace, 0..4_usize, any::<u32>(), delete).prop_map(
        |(kind, namespace, name, variant, delete)| Step {
            kind,
            namespace,
            name,
            variant,
            delete,
        },
    )
}

fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the test's objects decode")
}

impl Step {
    /// A choice that this step makes; each `bit` another.
    fn pick<T: Clone>(&self, bit: u32, of: &[T]) -> T {
        of[(self.variant >> (3 * bit)) as usize % of.len()].clone()
    }

    fn meta(&self, name: &str, labels: Value) -> Value {
        let day = self.pick(0, &[1, 2, 3]);
        let mut meta = json!({
            "name": name, "namespace": NAMESPACES[self.namespace], "labels": labels, "uid": name,
            "creationTimestamp": format!("2026-01-0{day}T00:00:00Z"),
        });
        if self.pick(1, &[true, false, false]) {
            meta.as_object_mut()
                .expect("object")
                .remove("creationTimestamp");
        }
        meta
    }

    fn change(&self) -> Change {
        let object = self.object();
        match (self.delete, object) {
            (true, object) => Change::Delete(object.id()),
            (
                false,
                Object::ApiRoute(_)
                | Object::RateLimitPolicy(_)
                | Object::ShardSet(_)
                | Object::Gateway(_)
                | Object::BackendTlsPolicy(_)
                | Object::GatewayClass(_)
                | Object::ListenerSet(_)
                | Object::HttpRoute(_)
                | Object::GrpcRoute(_)
                | Object::TlsRoute(_)
                | Object::TcpRoute(_)
                | Object::ReferenceGrant(_),
            ) if self.variant.is_multiple_of(13) => self.undecodable(),
            (false, object) => Change::Upsert(object),
        }
    }

    fn undecodable(&self) -> Change {
        let raw = json!({"spec": {
            "parentRefs": self.pick(2, &[
                json!([{"kind": "Service", "name": SERVICES[self.name % 2]}]),
                json!([{"name": "g0", "namespace": NAMESPACES[0]}]),
            ]),
            "targetRefs": self.pick(6, &[
                json!([{"group": "sluice.dev", "kind": "ApiRoute", "name": "r0"}]),
                json!([{"group": "", "kind": "Service", "name": SERVICES[0]}]),
            ]),
        }});
        Change::Undecodable(Undecodable {
            id: self.object().id(),
            meta: Meta::default(),
            message: "unknown variant".into(),
            raw: self.pick(5, &[Some(raw), None]),
        })
    }

    fn object(&self) -> Object {
        match self.kind {
            0 | 1 => Object::from(&self.route()),
            2 => Object::from(&self.policy()),
            3 => Object::from(&self.shard_set()),
            4 => Object::from(&self.service()),
            5 => Object::from(&self.slice()),
            6 => Object::from(&self.secret()),
            7 => Object::from(&self.pod()),
            8 if self.pick(4, &[true, false, false]) => self.scaled_object(),
            8 => Object::from(&self.hpa()),
            9 => Object::from(&self.config()),
            10 => Object::from(&self.gateway()),
            11 => Object::from(&self.backend_tls()),
            12 => Object::from(&self.authorities()),
            13 => Object::tls_secret(&self.certificate()),
            15 | 16 => Object::from(&self.http_route()),
            17 => Object::from(&self.grpc_route()),
            18 => Object::from(&self.tls_route()),
            19 => Object::from(&self.tcp_route()),
            20 => Object::from(&self.grant()),
            21 => Object::from(&self.gateway_class()),
            22 => Object::from(&self.listener_set()),
            _ => {
                let policy = ObjectId::new(Kind::RateLimitPolicy, NAMESPACES[self.namespace], "p0");
                Object::fleet(&policy, self.pick(0, &[1, 2, 3]))
            }
        }
    }

    fn gateway(&self) -> Gateway {
        let from = self.pick(2, &["Same", "All", "Selector"]);
        let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}});
        let certificate = self.pick(3, &["c0", "c1"]);
        let hostname = self.pick(4, &[Value::Null, json!("a.example"), json!("*.example")]);
        let authorities =
            json!({"default": {"validation": {"caCertificateRefs": [{"name": "m0"}]}}});
        typed(json!({
            "metadata": self.meta("g0", json!({})),
            "spec": {
                "gatewayClassName": self.pick(5, &["sluice", "sluice", "other"]),
                "allowedListeners": {"namespaces": {"from": self.pick(1, &["All", "Same", "None"])}},
                "tls": {"frontend": self.pick(6, &[Value::Null, authorities])},
                "listeners": [
                    {"name": "http", "port": 80, "protocol": "HTTP", "hostname": hostname,
                        "allowedRoutes": {"namespaces": {"from": from, "selector": selector}}},
                    {"name": "https", "port": 443, "protocol": self.pick(7, &["HTTPS", "HTTP"]),
                        "tls": {"certificateRefs": [{"name": certificate, "namespace": self.pick(8, &["shop", "lab"])}]}},
                    {"name": "tls", "port": 8443, "protocol": self.pick(9, &["TLS", "TCP"]), "tls": {"mode": "Passthrough"}},
                ],
            },
        }))
    }

    fn backend_tls(&self) -> BackendTlsPolicy {
        let section = self.pick(2, &[Value::Null, json!("http")]);
        let authorities = self.pick(
            3,
            &[
                json!([{"group": "", "kind": "ConfigMap", "name": "m0"}]),
                json!([]),
            ],
        );
        typed(json!({
            "metadata": self.meta(&format!("t{}", self.name), json!({})),
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": self.pick(4, &SERVICES), "sectionName": section}],
                "validation": {"hostname": self.pick(5, &["a.example", "b.example"]), "caCertificateRefs": authorities},
            },
        }))
    }

    fn authorities(&self) -> ConfigMap {
        let pem = "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n";
        let data = self.pick(2, &[json!({"ca.crt": pem}), json!({})]);
        typed(json!({"metadata": self.meta("m0", json!({})), "data": data}))
    }

    fn certificate(&self) -> Secret {
        let keys = [
            "-----BEGIN PRIVATE KEY-----\nAA",
            "-----BEGIN PRIVATE KEY-----\nBB",
            "none",
        ];
        typed(json!({
            "metadata": self.meta(self.pick(3, &["c0", "c1"]), json!({})),
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": "-----BEGIN CERTIFICATE-----", "tls.key": self.pick(2, &keys)},
        }))
    }

    /// Where a route of the Gateway API attaches.
    fn gateways(&self) -> Value {
        self.pick(
            3,
            &[
                json!([{"name": "g0", "namespace": NAMESPACES[0]}]),
                json!([{"name": "g0", "namespace": NAMESPACES[0]}]),
                json!([{"name": "g0", "sectionName": "https"}, {"name": "g0", "port": 80}]),
                json!([{"kind": "ListenerSet", "name": "l0", "namespace": NAMESPACES[0]}]),
                json!([{"group": "", "kind": "Service", "name": SERVICES[0]}]),
            ],
        )
    }

    fn hosts(&self) -> Value {
        let hosts = [
            json!([]),
            json!(["a.example"]),
            json!(["a.example", "*.other"]),
            json!(["not a host"]),
        ];
        self.pick(4, &hosts)
    }

    fn backends(&self) -> Value {
        let namespace = self.pick(5, &[NAMESPACES[0], NAMESPACES[1]]);
        let backends = [
            json!([{"name": SERVICES[0], "port": 80, "namespace": namespace}]),
            json!([{"name": SERVICES[1], "port": 80}, {"name": SERVICES[0], "port": 81, "weight": 3}]),
            json!([{"kind": "Bucket", "name": "b"}]),
            json!([]),
        ];
        self.pick(6, &backends)
    }

    fn http_route(&self) -> HttpRoute {
        let filters = [
            json!([]),
            json!([{"type": "ExtensionRef", "extensionRef": {"group": "sluice.dev", "kind": "ApiRoute", "name": "r3"}}]),
            json!([{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": SERVICES[1], "port": 80}}}]),
            json!([{"type": "Unknown"}]),
        ];
        typed(json!({
            "metadata": self.meta(&format!("h{}", self.name % 3), json!({})),
            "spec": {
                "parentRefs": self.gateways(),
                "hostnames": self.hosts(),
                "rules": [{
                    "name": "one",
                    "matches": [{"path": {"value": self.pick(8, &["/a", "/b", "/a/"])}}],
                    "filters": self.pick(7, &filters),
                    "backendRefs": self.backends(),
                }],
            },
        }))
    }

    fn grpc_route(&self) -> GrpcRoute {
        typed(json!({
            "metadata": self.meta(&format!("h{}", self.name % 3), json!({})),
            "spec": {
                "parentRefs": self.gateways(),
                "hostnames": self.hosts(),
                "rules": [{
                    "matches": [{"method": {"service": self.pick(8, &["a", "b"])}}],
                    "backendRefs": self.backends(),
                }],
            },
        }))
    }

    fn tls_route(&self) -> TlsRoute {
        typed(json!({
            "metadata": self.meta("t0", json!({})),
            "spec": {
                "parentRefs": self.gateways(),
                "hostnames": self.hosts(),
                "rules": [{"backendRefs": self.backends()}],
            },
        }))
    }

    fn tcp_route(&self) -> TcpRoute {
        typed(json!({
            "metadata": self.meta(&format!("t{}", self.name % 2), json!({})),
            "spec": {"parentRefs": self.gateways(), "rules": [{"backendRefs": self.backends()}]},
        }))
    }

    fn grant(&self) -> ReferenceGrant {
        let kind = self.pick(3, &["HTTPRoute", "GRPCRoute", "Gateway"]);
        let to = [
            json!({"kind": "Service"}),
            json!({"kind": "Service", "name": SERVICES[0]}),
            json!({"kind": "Secret"}),
        ];
        typed(json!({
            "metadata": self.meta(&format!("n{}", self.name % 2), json!({})),
            "spec": {
                "from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": self.pick(4, &NAMESPACES)}],
                "to": [self.pick(5, &to)],
            },
        }))
    }

    fn gateway_class(&self) -> GatewayClass {
        let controllers = ["sluice.dev/operator", "example.com/other"];
        typed(json!({
            "metadata": {"name": self.pick(2, &["sluice", "other"])},
            "spec": {"controllerName": self.pick(3, &controllers)},
        }))
    }

    fn listener_set(&self) -> ListenerSet {
        typed(json!({
            "metadata": self.meta("l0", json!({})),
            "spec": {
                "parentRef": {"name": "g0", "namespace": self.pick(2, &NAMESPACES)},
                "listeners": [
                    {"name": "more", "port": self.pick(3, &[80, 81]), "protocol": "HTTP", "hostname": "a.example"},
                    {"name": "https", "port": 444, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "c0"}]}},
                ],
            },
        }))
    }

    /// Two routes of each Service, sometimes profiles.
    fn route(&self) -> ApiRoute {
        let service = self.pick(2, &SERVICES);
        let backends = [
            json!([]),
            json!([{"name": SERVICES[0], "port": 80}]),
            json!([{"name": SERVICES[1], "port": 80}]),
            json!([{"group": "sluice.dev", "kind": "ShardSet", "name": "s0"}]),
        ];
        let auth = [
            Value::Null,
            json!({"anyOf": [{"allOf": ["corp"]}]}),
            json!({"anyOf": [{"allOf": ["keys"]}], "providers": [{"name": "keys", "type": "APIKey",
                "apiKey": {"secretSelector": {"matchLabels": {"team": "a"}}}}]}),
            json!({"anyOf": [{"allOf": ["keys"]}], "providers": [{"name": "keys", "type": "APIKey",
                "apiKey": {"secretRef": {"name": "k0"}}}]}),
        ];
        let hostnames = [
            json!([]),
            json!(["a.example"]),
            json!(["a.example", "b.example"]),
            json!(["b.example"]),
        ];
        let parents = [
            json!([{"kind": "Service", "name": service}]),
            json!([{"kind": "Service", "name": service, "port": 80}]),
            json!([{"kind": "Service", "name": SERVICES[0]}, {"kind": "Service", "name": SERVICES[1], "port": 80}]),
            json!([]),
            json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g0", "namespace": NAMESPACES[0]}]),
            json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g0", "sectionName": "https"}]),
        ];
        let filters = json!([{"type": "ExtensionRef", "extensionRef": {"group": "sluice.dev", "kind": "ApiRoute", "name": "r3"}}]);
        let scaling = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": self.pick(7, &["Deployment", "StatefulSet"]), "name": "orders"},
            "minReplicas": self.pick(2, &[json!(1), Value::Null]), "maxReplicas": self.pick(8, &[3, 4]), "metrics": [{"type": "InFlight", "inFlight": {"averageValue": "20"}}]});
        typed(json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "ApiRoute", "metadata": self.meta(&format!("r{}", self.name), json!({})),
            "spec": {
                "parentRefs": self.pick(3, &parents),
                "hostnames": self.pick(4, &hostnames),
                "auth": self.pick(5, &auth),
                "scaling": self.pick(9, &[scaling, Value::Null]),
                "rules": [{
                    "name": "one",
                    "matches": [{"path": {"value": self.pick(8, &["/a", "/b"])}}],
                    "backendRefs": self.pick(6, &backends),
                    "filters": self.pick(7, &[json!([]), filters]),
                    "cache": self.pick(9, &[Value::Null, json!({"scope": "Identity"})]),
                }],
            },
        }))
    }

    fn policy(&self) -> RateLimitPolicy {
        let section = [Value::Null, json!("one"), json!("nowhere")];
        let section = self.pick(3, &section);
        let api_route = json!({"group": "sluice.dev", "kind": "ApiRoute", "name": self.pick(2, &["r0", "r1", "r2", "r3"]), "sectionName": section});
        let http_route = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": self.pick(2, &["h0", "h1"]), "sectionName": section});
        let gateway = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g0", "sectionName": self.pick(8, &[Value::Null, json!("http")])});
        let scope = json!({"name": "g", "algorithm": {"type": "TokenBucket", "tokenBucket": {"requests": 1, "per": "1s"}},
            "scope": "Global", "global": {"storeRef": {"name": "default"}}});
        let local = json!({"name": "l", "algorithm": {"type": "TokenBucket", "tokenBucket": {"requests": self.pick(4, &[1, 2]), "per": "1s"}}});
        typed(json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "RateLimitPolicy", "metadata": self.meta(&format!("p{}", self.name % 2), json!({})),
            "spec": {
                "targetRefs": [self.pick(7, &[api_route, http_route, gateway])],
                "limits": [self.pick(5, &[scope, local])],
            },
        }))
    }

    fn shard_set(&self) -> ShardSet {
        let shard = |name: &str, service: &str| json!({"name": name, "members": [{"name": "a", "role": "Primary", "backendRef": {"name": service, "port": 80}}]});
        let key = [
            json!({"type": "Header", "header": {"name": "X-Tenant"}}),
            json!({"type": "PathParameter", "pathParameter": {"name": "tenant"}}),
        ];
        let placement = [
            json!([{"slots": "0-16383", "shard": "a"}]),
            json!([{"slots": "0-99", "shard": "b"}]),
        ];
        let status = [
            Value::Null,
            json!({"epoch": 3, "placement": [{"slots": "0-16383", "shard": "b"}]}),
        ];
        typed(json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "ShardSet", "metadata": self.meta("s0", json!({})),
            "spec": {
                "keyspace": {"slots": 16384, "hash": "CRC16"},
                "key": {"from": [self.pick(2, &key)]},
                "shards": [shard("a", "orders"), shard("b", "stock")],
                "placement": self.pick(3, &placement),
            },
            "status": self.pick(4, &status),
        }))
    }

    fn service(&self) -> Service {
        let selectors = [
            json!({"app": "orders"}),
            json!({"app": "stock"}),
            json!({"tier": "web"}),
            Value::Null,
        ];
        let target = [json!(8080), json!(9090), json!("web")];
        typed(json!({
            "metadata": self.meta(SERVICES[self.name % 2], json!({})),
            "spec": {
                "selector": self.pick(2, &selectors),
                "ports": [{"name": "http", "port": self.pick(3, &[80, 81]), "targetPort": self.pick(4, &target)}],
            },
        }))
    }

    fn slice(&self) -> EndpointSlice {
        let pod = |name: &str| json!({"kind": "Pod", "name": name});
        typed(json!({
            "metadata": self.meta(&format!("e{}", self.name), json!({"kubernetes.io/service-name": self.pick(2, &SERVICES)})),
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": self.pick(3, &[8080, 9090])}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": self.pick(4, &[true, false])}, "targetRef": pod(self.pick(5, &["x0", "x1"]))},
                {"addresses": ["10.0.0.2"], "targetRef": pod(self.pick(6, &["x1", "x2"]))},
            ],
        }))
    }

    fn secret(&self) -> Secret {
        let uses = ["api-keys", "api-keys", "jwt-keys"];
        typed(json!({
            "metadata": self.meta(&format!("k{}", self.name % 2), json!({"sluice.dev/use": self.pick(2, &uses), "team": self.pick(3, &["a", "b"])})),
            "type": "sluice.dev/api-keys",
            "stringData": {"k": self.pick(4, &["0123456789abcdef", "fedcba9876543210", "short"])},
        }))
    }

    /// Pods whose labels move.
    fn pod(&self) -> Pod {
        let labels = [
            json!({"app": "orders"}),
            json!({"app": "stock"}),
            json!({"app": "orders", "tier": "web"}),
            json!({}),
        ];
        typed(json!({
            "metadata": self.meta(&format!("x{}", self.name % 3), self.pick(2, &labels)),
            "spec": {"containers": [{"name": "app", "ports": [{"name": "web", "containerPort": self.pick(3, &[8080, 9090])}]}]},
            "status": {"conditions": [{"type": "Ready", "status": self.pick(4, &["True", "False"])}]},
        }))
    }

    fn hpa(&self) -> HorizontalPodAutoscaler {
        let owners = [
            json!([]),
            json!([{"apiVersion": "sluice.dev/v1alpha1", "kind": "ApiRoute", "name": "r0", "uid": "r0"}]),
        ];
        let mut meta = self.meta(self.pick(3, &["mine", "sluice-orders"]), json!({}));
        meta["ownerReferences"] = self.pick(2, &owners);
        typed(json!({
            "metadata": meta,
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "orders"}},
        }))
    }

    fn scaled_object(&self) -> Object {
        scaled_object(&json!({
            "metadata": self.meta("mine", json!({})),
            "spec": {"scaleTargetRef": {"name": self.pick(2, &["orders", "other"])}},
        }))
    }

    fn config(&self) -> SluiceConfig {
        let stores =
            json!([{"name": "default", "type": "Redis", "redis": {"addresses": ["redis:6379"]}}]);
        let corp = json!([{"name": "corp", "type": "APIKey", "apiKey": {"secretSelector": {"matchLabels": {"team": "a"}}}}]);
        typed(json!({
            "apiVersion": "config.sluice.dev/v1alpha1", "kind": "SluiceConfig",
            "trustDomain": self.pick(0, &["eu.example", "us.example"]),
            "stores": self.pick(1, &[stores, json!([])]),
            "authProviders": self.pick(2, &[corp, json!([])]),
            "trustedHops": self.pick(3, &[json!(null), json!({"forwardedFor": 1})]),
        }))
    }
}

fn engine(pods: Pods) -> Engine {
    // Secrets of SluiceConfig live in a namespace that the steps change too.
    let settings = sluice_translate::Settings {
        operator_namespace: "shop".into(),
        ..support::settings(pods)
    };
    Engine::new(settings)
}

/// Everything that a delta must tell of.
fn told(engine: &Engine) -> String {
    let units: Vec<_> = engine
        .units()
        .map(|(name, unit)| (name, &unit.hash))
        .collect();
    let groups: Vec<_> = engine
        .groups()
        .map(|group| (group, engine.group_version(group), engine.pods_of(group)))
        .collect();
    let findings: Vec<_> = engine
        .troubled()
        .into_iter()
        .map(|id| engine.findings(id))
        .collect();
    let standings: std::collections::BTreeMap<_, _> = engine.standings().collect();
    format!(
        "{units:?} {groups:?} {findings:?} {standings:?} {:?}",
        engine.children()
    )
}

fn agree(steps: &[Step], batch: usize, pods: Pods) -> Result<(), TestCaseError> {
    let mut engine = engine(pods);
    for chunk in steps.chunks(batch) {
        let before = told(&engine);
        let delta = engine.apply(chunk.iter().map(Step::change));
        prop_assert_eq!(engine.verify(), Ok(()), "after {:?}", chunk);
        let silent = delta.units_changed.is_empty()
            && delta.units_removed.is_empty()
            && delta.groups_changed.is_empty()
            && delta.pods_changed.is_empty()
            && delta.findings_changed.is_empty()
            && delta.standings_changed.is_empty()
            && delta.children_changed.is_empty();
        let same = told(&engine) == before;
        prop_assert!(
            !silent || same,
            "a change that the delta does not tell of: {:?}",
            chunk
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_full_after_every_change(steps in vec(step(), 20..60)) {
        agree(&steps, 1, Pods::FromPods)?;
    }

    #[test]
    fn incremental_equals_full_after_every_batch(steps in vec(step(), 1..60)) {
        agree(&steps, 4, Pods::FromPods)?;
    }

    #[test]
    fn incremental_equals_full_where_slices_are_pods(steps in vec(step(), 1..40)) {
        agree(&steps, 2, Pods::FromSlices)?;
    }

    /// Apply order needs no code: the last word on each object is all that counts.
    #[test]
    fn the_end_depends_on_the_last_word_only(steps in vec(step(), 1..40)) {
        let upserts: Vec<Change> = steps.iter().map(|step| Change::Upsert(step.object())).collect();
        let mut forwards = engine(Pods::FromSlices);
        forwards.apply(upserts.clone());
        let mut last = std::collections::BTreeMap::new();
        for change in upserts {
            if let Change::Upsert(object) = change {
                last.insert(object.id(), object);
            }
        }
        let mut backwards = engine(Pods::FromSlices);
        for object in last.into_values().rev() {
            backwards.apply([Change::Upsert(object)]);
        }
        prop_assert_eq!(support::render(&forwards), support::render(&backwards));
    }
}
