//! A sidecar's data plane under test: two data threads on a free port of loopback, an access log that can be read, and
//! snapshots built in a few lines.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use sluice_pipeline::{
    Program, UnitSet,
    program::{Content, Held},
};
use sluice_process::Shutdown;
use sluice_snapshot::{
    Hash, SecretBytes, Unit, UnitName,
    unit::{
        Backend, Endpoints, Inbound, Keys, LimitPolicy, ObjectRef, Route, Secret, ShardMap,
        auth::{AllOf, Anonymous, ApiKey, Method, Provider, Requirement},
        backend::{BackendProtocol, Endpoint},
        cache::{CacheRule, CacheScope},
        inbound::{InboundPort, ListenerUse, RouteUse},
        policy::{KeyPart, Limit, Mode, OnMissingKey, Scope, TokenBucket},
        route::{
            Action, HeaderEdits, Match, PathMatch, RequestLimits, Rule, Target, Timeouts,
            WeightedTarget,
        },
        secret::Purpose,
    },
};

use super::{
    super::{ConnectionLimits, Drained, Plan, Running, start},
    client::Client,
};
use crate::{
    cli,
    control::DataPlane,
    listeners::bind_threads,
    log::AccessLog,
    shared::{Inbox, Shared, SharedLimits},
};

pub struct Rig {
    pub shared: Arc<Shared>,
    pub inbox: Inbox,
    pub address: SocketAddr,
    pub shutdown: Shutdown,
    running: Option<Running>,
    log: Arc<Mutex<Vec<u8>>>,
}

struct Out(Arc<Mutex<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Rig {
    /// Two data threads in front of `app`, with no snapshot yet.
    pub fn start(app: SocketAddr) -> Self {
        Self::of(app, None)
    }

    /// Two data threads of an edge at `ip`, with no snapshot yet.
    pub fn edge(ip: IpAddr) -> Self {
        Self::of(SocketAddr::new(ip, 9), Some(ip))
    }

    fn of(app: SocketAddr, edge: Option<IpAddr>) -> Self {
        let (shared, inbox) = Shared::new(SharedLimits::default());
        let shutdown = Shutdown::default();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (access, _writer) = AccessLog::start(Out(Arc::clone(&log))).expect("starts");
        let plan = Plan {
            inbound: vec![cli::Inbound {
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                app,
            }],
            pod_ips: Vec::new(),
            capture: None,
            edge,
            limits: ConnectionLimits::default(),
            quiet: Duration::from_millis(500),
            drain_timeout: Duration::from_secs(10),
            log: access,
            shutdown: shutdown.clone(),
        };
        let listen: Vec<_> = plan.inbound.iter().map(|inbound| inbound.listen).collect();
        let sockets = bind_threads(&listen, None, 2).expect("binds");
        let running = start(&shared, &plan, sockets).expect("starts");
        let address = running.listening[0];
        Self {
            shared,
            inbox,
            address,
            shutdown,
            running: Some(running),
            log,
        }
    }

    /// Two data threads with a snapshot of one route that serves every host by `rules`, and `more` units.
    pub fn with(app: SocketAddr, rules: Vec<Rule>, more: Vec<(UnitName, Unit)>) -> Self {
        let rig = Self::start(app);
        rig.install(&[(&[], route("orders", rules))], more);
        rig
    }

    /// Puts routes in force, each with its hostnames.
    pub fn install(&self, routes: &[(&[&str], Route)], more: Vec<(UnitName, Unit)>) {
        let uses = routes.iter().map(|(hostnames, route)| RouteUse {
            unit: UnitName::route("shop", &route.object.name),
            hostnames: hostnames.iter().map(|&name| name.into()).collect(),
        });
        let ports = vec![InboundPort {
            port: self.address.port(),
            protocol: Default::default(),
            routes: uses.collect(),
        }];
        let routes = routes.iter().map(|(_, route)| {
            (
                UnitName::route("shop", &route.object.name),
                Unit::Route(route.clone()),
            )
        });
        self.put(ports, routes.chain(more).collect());
    }

    /// Puts units in force.
    pub fn put(&self, ports: Vec<InboundPort>, units: Vec<(UnitName, Unit)>) {
        self.put_all(ports, Vec::new(), units);
    }

    /// Puts listeners of an edge in force.
    pub fn listen(&self, listeners: Vec<ListenerUse>, units: Vec<(UnitName, Unit)>) {
        self.put_all(Vec::new(), listeners, units);
    }

    fn put_all(
        &self,
        ports: Vec<InboundPort>,
        listeners: Vec<ListenerUse>,
        units: Vec<(UnitName, Unit)>,
    ) {
        let settings = UnitName::settings();
        let is_edge = !listeners.is_empty();
        let inbound = Unit::Inbound(Inbound {
            listeners,
            tables: Vec::new(),
            namespace: "shop".into(),
            services: vec!["orders".into()],
            trust_domain: "shop.example".into(),
            settings: units
                .iter()
                .any(|(name, _)| *name == settings)
                .then_some(settings),
            ports,
        });
        let root = match is_edge {
            true => UnitName::inbound("shop", "gateway/public"),
            false => UnitName::inbound("shop", "orders"),
        };
        let units = units.into_iter().chain([(root, inbound)]);
        let held = |unit: Unit| Held {
            hash: Hash::of(&unit.encode()),
            content: Content::Unit(Arc::new(unit)),
        };
        let set = UnitSet {
            units: units.map(|(name, unit)| (name, held(unit))).collect(),
        };
        let program = Program::compile(&set, Some(&self.shared.current())).expect("compiles");
        self.shared.install(program, &set);
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Waits for `count` access log lines.
    pub async fn lines(&self, count: usize) -> Vec<serde_json::Value> {
        for _ in 0..2000 {
            let text = String::from_utf8(self.log.lock().expect("no panic").clone()).expect("text");
            let lines: Vec<_> = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect();
            if lines.len() >= count {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("fewer than {count} lines: {:?}", self.log.lock());
    }

    /// Ends the threads.
    pub fn end(&mut self) -> Option<Drained> {
        self.shutdown.begin("the test ends");
        self.running.take().and_then(Running::join)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The threads end by themselves; a test that failed need not wait for them.
        self.shutdown.begin("the test ends");
    }
}

pub fn object(name: &str) -> ObjectRef {
    ObjectRef::new("ApiRoute", "shop", name)
}

pub fn route(name: &str, rules: Vec<Rule>) -> Route {
    Route {
        object: object(name),
        request_limits: RequestLimits::default(),
        providers: vec![keys()],
        rules,
        broken: None,
    }
}

/// A rule for a path prefix that gives to the app.
pub fn rule(name: &str, prefix: &str) -> Rule {
    Rule {
        name: name.into(),
        matches: vec![Match {
            path: PathMatch::Prefix(prefix.into()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
        }],
        auth: None,
        policies: Vec::new(),
        cache: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits {
            set: vec![("x-rule".into(), name.into())],
            ..HeaderEdits::default()
        },
        rewrite: None,
        mirrors: Vec::new(),
        cors: None,
        timeouts: Timeouts::default(),
        action: Action::Backends(vec![WeightedTarget::plain(1, Target::App)]),
        broken: None,
    }
}

pub fn to(target: Target) -> Action {
    Action::Backends(vec![WeightedTarget::plain(1, target)])
}

/// Asks for an API key.
pub fn with_key() -> Option<Requirement> {
    Some(Requirement {
        any_of: vec![AllOf {
            all_of: vec!["keys".into()],
        }],
        anonymous: Anonymous::Deny,
    })
}

fn keys() -> Provider {
    let keys = UnitName::keys("shop", "orders", "keys");
    Provider {
        name: "keys".into(),
        method: Method::ApiKey(ApiKey {
            header: "x-api-key".into(),
            keys,
        }),
    }
}

/// The keys `alice-key-0123456789` and `bob-key-0123456789`.
pub fn key_units() -> Vec<(UnitName, Unit)> {
    let salt = [7; 32];
    let secret = |name: &str| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &salt);
        let keyed = aws_lc_rs::hmac::sign(&key, format!("{name}-key-0123456789").as_bytes());
        let unit = Unit::Secret(Secret {
            purpose: Purpose::ApiKeys,
            subject: name.into(),
            attributes: BTreeMap::new(),
            entries: BTreeMap::from([("k1".into(), SecretBytes::new(keyed.as_ref().to_vec()))]),
            salt: Some(SecretBytes::new(salt.to_vec())),
        });
        (UnitName::secret("shop", name, "00"), unit)
    };
    let secrets = [secret("alice"), secret("bob")];
    let keys = Keys {
        secrets: secrets.iter().map(|(name, _)| name.clone()).collect(),
        entry: None,
    };
    let keys = (UnitName::keys("shop", "orders", "keys"), Unit::Keys(keys));
    secrets.into_iter().chain([keys]).collect()
}

pub const ALICE: &str = "x-api-key: alice-key-0123456789";
pub const BOB: &str = "x-api-key: bob-key-0123456789";

/// A policy of one limit that never refills within a test.
pub fn policy(name: &str, part: KeyPart, burst: u64) -> (UnitName, Unit) {
    policy_of(name, part, burst, Scope::Local, Mode::Enforce)
}

pub fn policy_of(
    name: &str,
    part: KeyPart,
    burst: u64,
    scope: Scope,
    mode: Mode,
) -> (UnitName, Unit) {
    let limit = Limit {
        name: "only".into(),
        key: vec![part],
        on_missing_key: OnMissingKey::Deny,
        bucket: TokenBucket {
            requests: 1,
            per_ms: 3_600_000,
            burst,
        },
        scope,
    };
    let object = ObjectRef::new("RateLimitPolicy", "shop", name);
    let policy = LimitPolicy {
        object,
        mode,
        headers: true,
        limits: vec![limit],
        broken: None,
    };
    (UnitName::policy("shop", name), Unit::Policy(policy))
}

pub fn cached(scope: CacheScope) -> Option<CacheRule> {
    Some(CacheRule {
        scope,
        default_ttl_ms: 0,
        ignored_query: Vec::new(),
        key_headers: Vec::new(),
        max_bytes: 1 << 20,
    })
}

/// A Service on `addresses`, which share a port.
pub fn backend(service: &str, addresses: &[SocketAddr]) -> Vec<(UnitName, Unit)> {
    backend_of(service, addresses, BackendProtocol::Http1)
}

pub fn backend_of(
    service: &str,
    addresses: &[SocketAddr],
    protocol: BackendProtocol,
) -> Vec<(UnitName, Unit)> {
    let slices: Vec<_> = addresses
        .iter()
        .enumerate()
        .map(|(index, address)| {
            let endpoint = Endpoint {
                address: address.ip(),
                ready: true,
                serving: true,
                hop: None,
            };
            let ports = BTreeMap::from([(String::new(), address.port())]);
            let name = UnitName::endpoints("shop", &format!("{service}-{index}"));
            (
                name,
                Unit::Endpoints(Endpoints {
                    ports,
                    endpoints: vec![endpoint],
                }),
            )
        })
        .collect();
    let unit = Unit::Backend(Backend {
        namespace: "shop".into(),
        service: service.into(),
        port: 80,
        port_name: String::new(),
        protocol,
        endpoints: slices.iter().map(|(name, _)| name.clone()).collect(),
        tls: None,
        broken: None,
    });
    slices
        .into_iter()
        .chain([(backend_name(service), unit)])
        .collect()
}

pub fn backend_name(service: &str) -> UnitName {
    UnitName::backend("shop", service, 80)
}

pub fn shard_map(map: ShardMap) -> (UnitName, Unit) {
    (UnitName::shard_map("shop", "orders"), Unit::ShardMap(map))
}
