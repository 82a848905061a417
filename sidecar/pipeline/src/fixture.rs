//! For tests: the configuration of a small shop. Two routes on one port and one on another, two shards with two replicas
//! each, two endpoints behind everything, two keys, two policies.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::hmac;
use sluice_snapshot::{
    Hash, SecretBytes, Unit, UnitName,
    unit::{
        Backend, Endpoints, Fleet, Inbound, Keys, LimitPolicy, ObjectRef, Route, Secret, ShardMap,
        Store,
        auth::{AllOf, Anonymous, ApiKey, Method, Provider, Requirement},
        backend::{BackendProtocol, Endpoint},
        inbound::{InboundPort, RouteUse},
        policy::{
            Consistency, Global, KeyPart, Limit, Mode, OnMissingKey, Scope, StoreFailure,
            TokenBucket,
        },
        route::{
            Action, HeaderEdits, Match, PathMatch, Redirect, RedirectPath, RequestLimits, Rule,
            Target, Timeouts, WeightedTarget,
        },
        secret::Purpose,
        shard_map::{KeySource, Pin, Shard, SlotRange},
        store::RedisMode,
    },
};

use crate::{
    Facts, Reject,
    facts::StaticFacts,
    program::{Content, Held, Program, UnitSet},
    route::{self, Matched},
    target::{self, Target as RequestTarget},
};

/// The port of the shop's app, and of its admin page.
pub(crate) const APP: u16 = 8080;
pub(crate) const ADMIN: u16 = 9090;

/// A key that the shop's provider accepts.
pub(crate) const ALICE: &str = "alice-has-a-long-key";

/// Puts `unit` into `set`, or replaces it.
pub(crate) fn put(set: &mut UnitSet, name: UnitName, unit: Unit) {
    let hash = Hash::of(&unit.encode());
    set.units.insert(
        name,
        Held {
            hash,
            content: Content::Unit(Arc::new(unit)),
        },
    );
}

/// Changes the route `shop/<name>`.
pub(crate) fn edit_route(set: &mut UnitSet, name: &str, edit: impl FnOnce(&mut Route)) {
    let name = UnitName::route("shop", name);
    let Content::Unit(unit) = &set.units[&name].content else {
        panic!("{name} is denied")
    };
    let Unit::Route(route) = unit.as_ref() else {
        panic!("{name} is a route")
    };
    let mut route = route.clone();
    edit(&mut route);
    put(set, name, Unit::Route(route));
}

/// Changes the shop's shard map.
pub(crate) fn edit_shards(set: &mut UnitSet, edit: impl FnOnce(&mut ShardMap)) {
    let mut map = shard_map();
    edit(&mut map);
    put(
        set,
        UnitName::shard_map("shop", "orders"),
        Unit::ShardMap(map),
    );
}

pub(crate) fn compiled(set: &UnitSet) -> Program {
    Program::compile(set, None).expect("the set compiles")
}

/// The routing phase on a port.
pub(crate) fn find<'p>(
    program: &'p Program,
    port: u16,
    facts: &impl Facts,
) -> Result<(Matched<'p>, RequestTarget), Reject> {
    let target = target::normalise(facts)?;
    let table = program.table(port).expect("the port has routes");
    route::find(table, facts, &target).map(|matched| (matched, target))
}

/// `namespace/name/rule` that a request to the app's port belongs to.
pub(crate) fn rule_of(program: &Program, facts: &StaticFacts) -> String {
    match find(program, APP, facts) {
        Ok((matched, _)) => matched.decider().path(),
        Err(reject) => format!("{:?} by {}", reject.reason, reject.decider.path()),
    }
}

pub(crate) fn prefix(path: &str) -> Match {
    matching(PathMatch::Prefix(path.into()))
}

pub(crate) fn matching(path: PathMatch) -> Match {
    Match {
        path,
        method: None,
        headers: vec![],
        query: vec![],
        cookies: vec![],
    }
}

/// A rule with one match.
pub(crate) fn rule(name: &str, spec: Match, action: Action) -> Rule {
    Rule {
        name: name.into(),
        matches: vec![spec],
        auth: None,
        policies: vec![],
        cache: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        rewrite: None,
        mirrors: Vec::new(),
        cors: None,
        timeouts: Timeouts::default(),
        action,
        broken: None,
    }
}

pub(crate) fn to(targets: &[(u32, Target)]) -> Action {
    let weighted =
        |(weight, target): &(u32, Target)| WeightedTarget::plain(*weight, target.clone());
    Action::Backends(targets.iter().map(weighted).collect())
}

pub(crate) fn route_of(name: &str, rules: Vec<Rule>) -> Route {
    Route {
        object: ObjectRef::new("ApiRoute", "shop", name),
        request_limits: RequestLimits::default(),
        providers: vec![],
        rules,
        broken: None,
    }
}

fn orders() -> Route {
    let post = Match {
        method: Some("POST".into()),
        ..prefix("/v1/orders")
    };
    let shards = || to(&[(1, Target::Shards(UnitName::shard_map("shop", "orders")))]);
    let keys = Requirement {
        any_of: vec![AllOf {
            all_of: vec!["keys".into()],
        }],
        anonymous: Anonymous::Deny,
    };
    let mut route = route_of(
        "orders",
        vec![
            Rule {
                policies: vec![UnitName::policy("shop", "burst")],
                ..rule("read", prefix("/v1/orders"), shards())
            },
            Rule {
                auth: Some(keys),
                policies: vec![
                    UnitName::policy("shop", "burst"),
                    UnitName::policy("shop", "plans"),
                ],
                ..rule("write", post, shards())
            },
            rule(
                "tenant",
                matching(PathMatch::Regex("/v1/tenants/(?<tenant>[^/]+)/.*".into())),
                to(&[
                    (
                        90,
                        Target::Backend(UnitName::backend("shop", "orders-v1", 80)),
                    ),
                    (
                        10,
                        Target::Backend(UnitName::backend("shop", "orders-v2", 80)),
                    ),
                ]),
            ),
            rule(
                "old",
                prefix("/old"),
                Action::Redirect(Redirect {
                    scheme: None,
                    hostname: None,
                    port: None,
                    path: Some(RedirectPath::ReplacePrefixMatch("/v1".into())),
                    status: 301,
                }),
            ),
        ],
    );
    route.providers.push(Provider {
        name: "keys".into(),
        method: Method::ApiKey(ApiKey {
            header: "x-api-key".into(),
            keys: UnitName::keys("shop", "orders", "keys"),
        }),
    });
    route
}

fn policy(name: &str, scope: Scope) -> LimitPolicy {
    LimitPolicy {
        object: ObjectRef::new("RateLimitPolicy", "shop", name),
        mode: Mode::Enforce,
        headers: true,
        limits: vec![Limit {
            name: "all".into(),
            key: vec![KeyPart::ClientAddress {
                prefix_v4: 32,
                prefix_v6: 64,
            }],
            on_missing_key: OnMissingKey::Deny,
            bucket: TokenBucket {
                requests: 10,
                per_ms: 1000,
                burst: 20,
            },
            scope,
        }],
        broken: None,
    }
}

pub(crate) fn shard_map() -> ShardMap {
    let shard = |name: &str| Shard {
        name: name.into(),
        primary: UnitName::backend("shop", name, 8080),
        replicas: vec![
            UnitName::backend("shop", &format!("{name}-r0"), 8080),
            UnitName::backend("shop", &format!("{name}-r1"), 8080),
        ],
    };
    ShardMap {
        object: ObjectRef::new("ShardSet", "shop", "orders"),
        uid: "uid-1".into(),
        epoch: 7,
        key: vec![
            KeySource::Header {
                name: "x-tenant".into(),
            },
            KeySource::Query {
                name: "tenant".into(),
            },
        ],
        slots: vec![
            SlotRange {
                first: 0,
                last: 8191,
                shard: 0,
            },
            SlotRange {
                first: 8192,
                last: 16_383,
                shard: 1,
            },
        ],
        hold: vec![],
        max_pause_ms: 500,
        pins: vec![Pin {
            key: "acme".into(),
            shard: 0,
        }],
        shards: vec![shard("s0"), shard("s1")],
        replica_methods: vec!["GET".into(), "HEAD".into()],
        broken: None,
    }
}

fn secret(subject: &str, key: &str) -> Secret {
    let salt = [7; 32];
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &salt), key.as_bytes());
    Secret {
        purpose: Purpose::ApiKeys,
        subject: subject.into(),
        attributes: BTreeMap::new(),
        entries: BTreeMap::from([(
            format!("{subject}-1"),
            SecretBytes::new(tag.as_ref().to_vec()),
        )]),
        salt: Some(SecretBytes::new(salt.to_vec())),
    }
}

/// A Service port with one slice of two ready endpoints, `10.0.<net>.1` and `.2`.
fn service(set: &mut UnitSet, service: &str, port: u16, net: u8) {
    let slice = UnitName::endpoints("shop", &format!("{service}-x"));
    let endpoint = |host| Endpoint {
        address: [10, 0, net, host].into(),
        ready: true,
        serving: true,
        hop: None,
    };
    let endpoints = Endpoints {
        ports: BTreeMap::from([("http".into(), 8080)]),
        endpoints: vec![endpoint(1), endpoint(2)],
    };
    put(set, slice.clone(), Unit::Endpoints(endpoints));
    let backend = Backend {
        namespace: "shop".into(),
        service: service.into(),
        port,
        port_name: "http".into(),
        protocol: BackendProtocol::Http1,
        endpoints: vec![slice],
        tls: None,
        broken: None,
    };
    put(
        set,
        UnitName::backend("shop", service, port),
        Unit::Backend(backend),
    );
}

/// The whole configuration.
pub(crate) fn shop() -> UnitSet {
    let mut set = UnitSet::default();
    let used = |name: &str, hostnames: &[&str]| RouteUse {
        unit: UnitName::route("shop", name),
        hostnames: hostnames.iter().map(|name| (*name).to_owned()).collect(),
    };
    let inbound = Inbound {
        listeners: Vec::new(),
        tables: Vec::new(),
        namespace: "shop".into(),
        services: vec!["orders".into()],
        trust_domain: "eu.example".into(),
        settings: None,
        ports: vec![
            InboundPort {
                port: APP,
                protocol: Default::default(),
                routes: vec![
                    used("orders", &["orders.shop", "*.orders.shop"]),
                    used("inventory", &["inventory.shop"]),
                ],
            },
            InboundPort {
                port: ADMIN,
                protocol: Default::default(),
                routes: vec![used("admin", &[])],
            },
        ],
    };
    put(
        &mut set,
        UnitName::inbound("shop", "orders"),
        Unit::Inbound(inbound),
    );
    put(
        &mut set,
        UnitName::route("shop", "orders"),
        Unit::Route(orders()),
    );
    let whole = |name: &str| {
        route_of(
            name,
            vec![rule("all", prefix("/"), to(&[(1, Target::App)]))],
        )
    };
    put(
        &mut set,
        UnitName::route("shop", "inventory"),
        Unit::Route(whole("inventory")),
    );
    put(
        &mut set,
        UnitName::route("shop", "admin"),
        Unit::Route(whole("admin")),
    );
    put(
        &mut set,
        UnitName::policy("shop", "burst"),
        Unit::Policy(policy("burst", Scope::Local)),
    );
    let global = Global {
        store: UnitName::store("default"),
        consistency: Consistency::Leased,
        max_overshoot_ppm: 10_000,
        max_wait_ms: 10,
        on_store_failure: StoreFailure::LocalShare,
        fleet: UnitName::fleet("shop", "plans"),
    };
    put(
        &mut set,
        UnitName::policy("shop", "plans"),
        Unit::Policy(policy("plans", Scope::Global(global))),
    );
    put(
        &mut set,
        UnitName::fleet("shop", "plans"),
        Unit::Fleet(Fleet { sessions: 3 }),
    );
    let store = Store {
        name: "default".into(),
        mode: RedisMode::Standalone,
        addresses: vec!["redis:6379".into()],
        tls: None,
        credentials: None,
        key_prefix: "sluice".into(),
    };
    put(&mut set, UnitName::store("default"), Unit::Store(store));
    let secrets = [("alice", ALICE), ("bob", "bob-has-a-long-key-too")].map(|(subject, key)| {
        let name = UnitName::secret("shop", subject, "00");
        put(&mut set, name.clone(), Unit::Secret(secret(subject, key)));
        name
    });
    let keys = Keys {
        secrets: secrets.to_vec(),
        entry: None,
    };
    put(
        &mut set,
        UnitName::keys("shop", "orders", "keys"),
        Unit::Keys(keys),
    );
    put(
        &mut set,
        UnitName::shard_map("shop", "orders"),
        Unit::ShardMap(shard_map()),
    );
    for (net, name) in (0..).zip(["s0", "s0-r0", "s0-r1", "s1", "s1-r0", "s1-r1"]) {
        service(&mut set, name, 8080, net);
    }
    for (net, name) in (10..).zip(["orders-v1", "orders-v2"]) {
        service(&mut set, name, 80, net);
    }
    set
}
