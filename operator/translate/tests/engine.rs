//! What the engine answers: what changed, what must be acknowledged, what admission should say.

mod support;

use std::{collections::BTreeSet, fs, time::Duration};

use sluice_crds::manifest;
use sluice_snapshot::{Unit, UnitKind, UnitName};
use sluice_translate::{
    Change, Engine, FindingReason, GroupId, Kind, Object, ObjectId, PodKey, Pods, Standing,
    manifests::object_of,
};

const BASE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: stock, namespace: shop}
spec: {selector: {app: stock}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: orders, namespace: shop, labels: {kubernetes.io/service-name: orders}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: orders-0}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: stock, namespace: shop, labels: {kubernetes.io/service-name: stock}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.2], targetRef: {kind: Pod, name: stock-0}}]
---
apiVersion: v1
kind: Secret
metadata: {name: alice, namespace: shop, labels: {sluice.dev/use: api-keys}}
type: sluice.dev/api-keys
stringData: {k1: alice-key-0123456789}
---
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: orders, namespace: shop, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  parentRefs: [{kind: Service, name: orders}]
  auth:
    anyOf: [{allOf: [keys]}]
    providers: [{name: keys, type: APIKey, apiKey: {secretSelector: {matchLabels: {sluice.dev/use: api-keys}}}}]
---
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: stock, namespace: shop}
spec: {parentRefs: [{kind: Service, name: stock}]}
---
apiVersion: sluice.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: flood, namespace: shop}
spec:
  targetRefs: [{group: sluice.dev, kind: ApiRoute, name: orders}]
  limits: [{name: one, algorithm: {type: TokenBucket, tokenBucket: {requests: 1, per: 1s}}}]
"#;

fn objects(text: &str) -> Vec<Object> {
    let parsed = manifest::parse("test.yaml", text);
    assert!(parsed.findings.is_empty(), "{:?}", parsed.findings);
    parsed
        .objects
        .into_iter()
        .map(|located| object_of(&located.object))
        .collect()
}

fn base() -> Engine {
    let mut engine = Engine::new(support::settings(Pods::FromSlices));
    engine.apply(objects(BASE).into_iter().map(Change::Upsert));
    engine
}

/// Applies manifests and names what changed.
fn change(engine: &mut Engine, text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let delta = engine.apply(objects(text).into_iter().map(Change::Upsert));
    let units = delta
        .units_changed
        .iter()
        .map(ToString::to_string)
        .collect();
    let groups = delta
        .groups_changed
        .keys()
        .map(ToString::to_string)
        .collect();
    (units, groups)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn group(service: &str) -> GroupId {
    GroupId::new("shop", BTreeSet::from([service.to_owned()]))
}

fn route(name: &str) -> ObjectId {
    ObjectId::new(Kind::ApiRoute, "shop", name)
}

#[test]
fn an_edit_of_one_route_reaches_its_group_and_no_other() {
    let mut engine = base();
    let edited = BASE
        .split("---")
        .find(|document| document.contains("name: stock, namespace: shop}\nspec: {parentRefs"))
        .expect("the route")
        .replace("spec: {", "spec: {requestLimits: {maxBodySize: 1Ki}, ");
    assert_eq!(
        change(&mut engine, &edited),
        (set(&["route/shop/stock"]), set(&["shop/stock"]))
    );
    let again = engine.apply(objects(&edited).into_iter().map(Change::Upsert));
    assert!(
        again.is_empty(),
        "the same object again changes nothing: {again:?}"
    );
}

#[test]
fn endpoints_and_keys_change_without_touching_a_policy_unit() {
    let mut engine = base();
    let slice = BASE
        .split("---")
        .nth(2)
        .expect("slice")
        .replace("10.0.0.1", "10.0.0.7");
    assert_eq!(
        change(&mut engine, &slice).0,
        set(&["endpoints/shop/orders"])
    );
    let secret = BASE
        .split("---")
        .nth(4)
        .expect("secret")
        .replace("0123456789", "9876543210");
    let (units, groups) = change(&mut engine, &secret);
    assert_eq!(
        units.len(),
        2,
        "the secret and the list that names it: {units:?}"
    );
    assert!(
        units
            .iter()
            .all(|name| name.starts_with("secret/") || name.starts_with("keys/"))
    );
    assert_eq!(groups, set(&["shop/orders"]));
}

#[test]
fn no_unit_holds_an_api_key_as_it_is() {
    let engine = base();
    let plain = sluice_snapshot::hash::hex(b"alice-key-0123456789");
    for (name, unit) in engine.units() {
        let body = String::from_utf8_lossy(&unit.body);
        assert!(
            !body.contains("alice-key") && !body.contains(&plain),
            "{name}"
        );
    }
    assert!(!format!("{engine:?}{:?}", objects(BASE)).contains("alice-key"));
}

#[test]
fn an_object_is_live_where_what_puts_it_into_force_is_acknowledged() {
    let engine = base();
    let names = |id: &ObjectId, group: &GroupId| -> BTreeSet<String> {
        let units = engine.policy_units(id, group).into_iter();
        units.map(|(name, _)| name.to_string()).collect()
    };
    let policy = ObjectId::new(Kind::RateLimitPolicy, "shop", "flood");
    let orders = group("orders");
    assert_eq!(
        names(&route("orders"), &orders),
        set(&["inbound/shop/orders", "route/shop/orders"])
    );
    assert_eq!(
        names(&policy, &orders),
        set(&["policy/shop/flood", "route/shop/orders"])
    );
    assert_eq!(names(&policy, &group("stock")), set(&[]));
    assert_eq!(engine.groups_holding(&policy), vec![orders.clone()]);
    assert_eq!(engine.pods_of(&orders).len(), 1);
    assert_eq!(engine.groups_of_pod("shop", "orders-0"), Some(orders));
    assert_eq!(engine.groups_of_pod("lab", "orders-0"), None);
}

#[test]
fn the_younger_serves_once_the_elder_is_gone() {
    let mut engine = base();
    let younger = "apiVersion: sluice.dev/v1alpha1\nkind: ApiRoute\nmetadata: {name: a-newer, namespace: shop}\nspec: {parentRefs: [{kind: Service, name: orders}]}\n";
    change(&mut engine, younger);
    let reasons = |engine: &Engine, name: &str| -> Vec<FindingReason> {
        engine
            .findings(&route(name))
            .into_iter()
            .map(|finding| finding.reason)
            .collect()
    };
    assert_eq!(reasons(&engine, "a-newer"), [FindingReason::Conflicted]);
    assert_eq!(reasons(&engine, "orders"), []);
    assert!(engine.groups_holding(&route("a-newer")).is_empty());
    let delta = engine.apply([Change::Delete(route("orders"))]);
    assert!(delta.findings_changed.contains(&route("a-newer")));
    assert_eq!(reasons(&engine, "a-newer"), []);
    assert_eq!(engine.groups_holding(&route("a-newer")), [group("orders")]);
    assert!(engine.unit(&UnitName::route("shop", "orders")).is_none());
}

#[test]
fn admission_judges_a_candidate_and_changes_nothing() {
    let engine = base();
    let candidate = |text: &str| objects(text).remove(0);
    // Without its creation time, as an admission request may carry it: it must not meet its own stored form.
    let same = "apiVersion: sluice.dev/v1alpha1\nkind: ApiRoute\nmetadata: {name: orders, namespace: shop}\nspec: {parentRefs: [{kind: Service, name: orders}]}\n";
    assert_eq!(engine.judge(&candidate(same)), []);
    let bad = same.replace(
        "spec: {",
        "spec: {rules: [{name: r, matches: [{path: {type: RegularExpression, value: \"/(\"}}]}], ",
    );
    let findings = engine.judge(&candidate(&bad));
    assert!(
        findings.iter().any(|finding| finding.reason.is_own_fault()),
        "{findings:?}"
    );
    let rival = same.replace("name: orders, namespace", "name: rival, namespace");
    let findings = engine.judge(&candidate(&rival));
    assert_eq!(findings.len(), 1);
    assert!(
        !findings[0].reason.is_own_fault(),
        "another object can mend it: {findings:?}"
    );
    assert!(engine.findings(&route("orders")).is_empty());
    engine.verify().expect("nothing changed");
}

#[test]
fn a_pod_that_goes_takes_its_group_along() {
    let mut engine = base();
    let slice = ObjectId::new(Kind::EndpointSlice, "shop", "stock");
    let delta = engine.apply([Change::Delete(slice)]);
    assert_eq!(delta.groups_changed.get(&group("stock")), Some(&None));
    assert!(delta.pods_changed.contains(&PodKey::new("shop", "stock-0")));
    assert_eq!(engine.groups_of_pod("shop", "stock-0"), None);
    assert!(engine.group_units(&group("stock")).is_none());
    let reasons = engine
        .findings(&route("stock"))
        .into_iter()
        .map(|finding| finding.reason);
    assert_eq!(reasons.collect::<Vec<_>>(), [FindingReason::NoPods]);
}

#[test]
fn a_forward_is_refused_as_soon_as_its_target_enforces_something() {
    let mut engine = base();
    let forward = "apiVersion: sluice.dev/v1alpha1\nkind: ApiRoute\nmetadata: {name: forward, namespace: shop}\nspec: {parentRefs: [{kind: Service, name: orders}], hostnames: [a.example], rules: [{name: all, backendRefs: [{name: stock, port: 80}]}]}\n";
    change(&mut engine, forward);
    assert!(engine.findings(&route("forward")).is_empty());
    let guarded = "apiVersion: sluice.dev/v1alpha1\nkind: ApiRoute\nmetadata: {name: stock, namespace: shop}\nspec: {parentRefs: [{kind: Service, name: stock}], rules: [{name: all, cache: {mode: Enabled}}]}\n";
    let (units, _) = change(&mut engine, guarded);
    assert_eq!(units, set(&["route/shop/forward", "route/shop/stock"]));
    let findings = engine
        .findings(&route("forward"))
        .into_iter()
        .map(|finding| finding.reason);
    assert_eq!(
        findings.collect::<Vec<_>>(),
        [FindingReason::TargetEnforces]
    );
    // A pod that takes hops is told what was enforced before.
    let slice = |hop: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: stock, namespace: shop, labels: {{kubernetes.io/service-name: stock}}{hop}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [10.0.0.2], targetRef: {{kind: Pod, name: stock-0}}}}]\n"
        )
    };
    change(
        &mut engine,
        &slice(", annotations: {sluice.dev/hop-port: \"15008\"}"),
    );
    assert!(engine.findings(&route("forward")).is_empty());
    change(&mut engine, &slice(""));
    assert_eq!(engine.findings(&route("forward")).len(), 1);
}

#[test]
fn before_there_is_a_slice_pods_say_which_port_a_name_stands_for() {
    let mut engine = Engine::new(support::settings(Pods::FromPods));
    let service = BASE
        .split("---")
        .next()
        .expect("Service")
        .replace("8080", "web");
    change(&mut engine, &service);
    change(&mut engine, BASE.split("---").nth(5).expect("route"));
    let mut pod = |port: u16| {
        let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "orders-0", "namespace": "shop", "labels": {"app": "orders"}},
            "spec": {"containers": [{"name": "app", "ports": [{"name": "web", "containerPort": port}]}]},
        }))
        .expect("a pod");
        engine.apply([Change::Upsert(Object::from(&pod))]);
        let unit = engine
            .unit(&UnitName::inbound("shop", "orders"))
            .expect("the group's table");
        let body: serde_json::Value = serde_json::from_slice(&unit.body).expect("JSON");
        body["ports"][0]["port"].clone()
    };
    assert_eq!(pod(8080), 8080);
    assert_eq!(pod(9090), 9090);
}

/// A pod in a namespace that asks for sidecars: with which init containers and labels.
fn pod(name: &str, labels: serde_json::Value, first: serde_json::Value) -> Change {
    let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": labels},
        "spec": {"initContainers": first, "containers": [{"name": "app"}]},
        "status": {"phase": "Running"},
    }))
    .expect("a pod");
    Change::Upsert(Object::from(&pod))
}

fn namespace(name: &str, labels: serde_json::Value) -> Change {
    let namespace: k8s_openapi::api::core::v1::Namespace =
        serde_json::from_value(serde_json::json!({"metadata": {"name": name, "labels": labels}}))
            .expect("a namespace");
    Change::Upsert(Object::from(&namespace))
}

#[test]
fn a_pod_is_bare_where_its_namespace_asks_for_sidecars_and_it_neither_has_nor_refuses_one() {
    use serde_json::json;
    let mut engine = Engine::new(support::settings(Pods::FromPods));
    let sidecar = json!([{"name": "sluice", "restartPolicy": "Always", "ports": [{"name": "http", "containerPort": 15_100}]}]);
    engine.apply([
        pod("bare", json!({}), json!([{"name": "migrate"}])),
        pod("injected", json!({"app": "orders"}), sidecar),
        pod("out", json!({"sluice.dev/inject": "false"}), json!([])),
    ]);
    let bare = |engine: &Engine| {
        let pods = engine.world().bare_pods();
        pods.map(|pod| pod.name.clone()).collect::<Vec<_>>()
    };
    assert!(bare(&engine).is_empty(), "the namespace is not known");
    let asks = || namespace("shop", json!({"sluice.dev/injection": "enabled"}));
    engine.apply([asks()]);
    assert_eq!(bare(&engine), ["bare"]);
    engine.apply([namespace("shop", json!({"sluice.dev/injection": "no"}))]);
    assert!(bare(&engine).is_empty(), "it asks no more");
    engine.apply([
        asks(),
        Change::Delete(ObjectId::new(Kind::Pod, "shop", "bare")),
    ]);
    assert!(bare(&engine).is_empty(), "it is gone");

    // The name of a port that moved to the sidecar leads to it.
    let service = "{apiVersion: v1, kind: Service, metadata: {name: orders, namespace: shop}, spec: {selector: {app: orders}, ports: [{port: 80, targetPort: http}]}}";
    let route = "{apiVersion: sluice.dev/v1alpha1, kind: ApiRoute, metadata: {name: orders, namespace: shop}, spec: {parentRefs: [{kind: Service, name: orders}]}}";
    change(&mut engine, &format!("{service}\n---\n{route}\n"));
    let inbound = engine
        .unit(&group("orders").inbound())
        .expect("the group's unit");
    assert!(String::from_utf8_lossy(&inbound.body).contains("15100"));
    engine.verify().expect("the same as a full recompute");
}

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: shop}
spec:
  gatewayClassName: sluice
  listeners: [{name: http, port: 8000, protocol: HTTP}]
";

fn http_route(n: u32, turn: u32) -> Change {
    let text = format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: standing-{n}, namespace: shop}}
spec:
  parentRefs: [{{name: public}}]
  hostnames: [shop.example]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: /standing/{n}}}}}]
    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-turn, value: \"{turn}\"}}]}}}}]
    backendRefs: [{{name: orders, port: 80}}]
"
    );
    Change::Upsert(objects(&text).remove(0))
}

/// Processor time of this thread so far: a busy machine adds nothing to it.
fn spent() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// What one of these changes costs. The kernel counts in ticks, so that the sum of many says more than one.
fn each(count: u32, mut change: impl FnMut(u32)) -> Duration {
    let began = spent();
    (0..count).for_each(&mut change);
    (spent() - began) / count
}

/// What a change had to be computed, sent and listed for.
#[derive(Debug, PartialEq, Eq)]
struct Work {
    /// Results that were computed anew.
    computed: u64,
    /// Units that are sent, or taken back.
    units: usize,
    /// Bytes of them.
    bytes: usize,
}

fn work(engine: &mut Engine, change: Change) -> Work {
    let before = engine.computed();
    let delta = engine.apply([change]);
    let bodies = delta.units_changed.iter().map(|name| {
        let unit = engine.unit(name).expect("a changed unit is there");
        unit.body.len()
    });
    Work {
        bytes: bodies.sum(),
        units: delta.units_changed.len() + delta.units_removed.len(),
        computed: engine.computed() - before,
    }
}

/// The routes that the listeners of the Gateway's edges have, wherever they stand.
fn listed(engine: &Engine) -> BTreeSet<String> {
    let edges = GroupId::gateway("shop", "public");
    let held = engine.group_units(&edges).expect("the group");
    let mut listed = BTreeSet::new();
    for name in held.keys() {
        let body = &engine.unit(name).expect("what is held is there").body;
        let routes: Vec<UnitName> = match Unit::decode(name, body).expect("it decodes") {
            Unit::Inbound(unit) => {
                let routes = unit.listeners.into_iter().flat_map(|one| one.routes);
                routes.map(|used| used.unit).collect()
            }
            Unit::Table(unit) => {
                let routes = unit.listeners.into_iter().flat_map(|one| one.routes);
                routes.map(|used| used.unit).collect()
            }
            _ => continue,
        };
        assert!(
            routes.len() <= 64,
            "{name} lists {} routes: one more of them would be a large change",
            routes.len()
        );
        for route in routes {
            assert!(held.contains_key(&route), "{route} is held");
            assert!(listed.insert(route.to_string()), "{route} stands twice");
        }
    }
    listed
}

fn attached(engine: &Engine) -> u32 {
    let gateway = ObjectId::new(Kind::Gateway, "shop", "public");
    match engine.standing(&gateway) {
        Some(Standing::Gateway { listeners, .. }) => listeners[0].attached_routes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_route_among_many_costs_what_it_changes() {
    const TURNS: u32 = 20;
    let many = std::env::var("SLUICE_STANDING_ROUTES");
    let many: u32 = many.map_or(1_000, |text| text.parse().unwrap());
    let mut engine = base();
    engine.apply(objects(GATEWAY).into_iter().map(Change::Upsert));
    let routes: Vec<Change> = (0..many).map(|n| http_route(n, 0)).collect();
    let began = spent();
    engine.apply(routes);
    let all = spent() - began;
    assert_eq!(listed(&engine).len(), many as usize);
    assert_eq!(attached(&engine), many);

    let edits: Vec<Change> = (1..=TURNS).map(|turn| http_route(0, turn)).collect();
    let mut edits = edits.into_iter();
    let edit = each(TURNS, |_| {
        let Work {
            computed,
            units,
            bytes,
        } = work(&mut engine, edits.next().unwrap());
        assert_eq!((computed, units), (1, 1), "the route");
        assert!(bytes < 2_048, "{bytes}");
    });
    // Once in a while a table is split in two, or joined with its neighbour, which the root unit says too.
    let bounded = |work: Work| {
        assert!(work.computed <= 5 && work.units <= 5, "{work:?}");
        assert!(work.bytes < 32 * 1024, "{work:?}");
        work
    };
    let mut plain = 0;
    let added: Vec<Change> = (0..TURNS).map(|n| http_route(many + n, 0)).collect();
    let mut added = added.into_iter();
    let add = each(TURNS, |_| {
        let work = bounded(work(&mut engine, added.next().unwrap()));
        // The route, and the table that lists it.
        plain += u32::from((work.computed, work.units) == (2, 2) && work.bytes < 10 * 1024);
    });
    assert!(plain * 2 > TURNS, "{plain} of {TURNS} changed two units");
    assert_eq!(listed(&engine).len(), (many + TURNS) as usize);
    assert_eq!(attached(&engine), many + TURNS);
    engine.verify().unwrap();
    let remove = each(TURNS, |turn| {
        let name = format!("standing-{}", many + turn);
        let id = ObjectId::new(Kind::HttpRoute, "shop", &name);
        bounded(work(&mut engine, Change::Delete(id)));
    });
    println!(
        "{many} routes cost {all:.1?}, one edited {edit:.1?}, one more {add:.1?}, one less {remove:.1?}"
    );
    assert_eq!(listed(&engine).len(), many as usize);
    assert_eq!(attached(&engine), many);
    engine.verify().unwrap();
    for (one, share) in [(edit, 50), (add, 10), (remove, 10)] {
        assert!(
            one * share < all,
            "{one:?} is more than 1/{share} of {all:?}"
        );
    }
}

#[test]
fn routes_move_into_tables_and_back_and_none_is_lost() {
    let mut engine = base();
    engine.apply(objects(GATEWAY).into_iter().map(Change::Upsert));
    for n in 0..150 {
        engine.apply([http_route(n, 0)]);
        let count = n as usize + 1;
        assert_eq!(listed(&engine).len(), count);
        assert_eq!(attached(&engine), n + 1);
    }
    let tables = |engine: &Engine| {
        let tables = engine.units().map(|(name, _)| name.kind());
        tables.filter(|kind| *kind == UnitKind::Table).count()
    };
    assert!(tables(&engine) > 2);
    engine.verify().unwrap();
    // A listener that takes none of them has none, and has them again.
    let elsewhere = GATEWAY.replace("protocol: HTTP", "protocol: HTTP, hostname: other.example");
    engine.apply(objects(&elsewhere).into_iter().map(Change::Upsert));
    assert_eq!((listed(&engine).len(), attached(&engine)), (0, 0));
    engine.verify().unwrap();
    engine.apply(objects(GATEWAY).into_iter().map(Change::Upsert));
    assert_eq!((listed(&engine).len(), attached(&engine)), (150, 150));
    for n in 0..150 {
        let id = ObjectId::new(Kind::HttpRoute, "shop", &format!("standing-{n}"));
        engine.apply([Change::Delete(id)]);
        assert_eq!(listed(&engine).len(), 149 - n as usize);
    }
    assert_eq!(tables(&engine), 0);
    engine.verify().unwrap();
}
