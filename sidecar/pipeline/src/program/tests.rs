mod fail_closed;
mod tables;

use sluice_snapshot::unit::{
    ObjectRef, Settings, backend::Endpoint, policy::LimitPolicy, settings::ProxyProtocol,
};

use super::*;
use crate::{
    Reject, RejectReason,
    facts::StaticFacts,
    fixture::{
        ADMIN, APP, compiled, edit_route, edit_shards, find, prefix, put, rule, rule_of, shop, to,
    },
    program::compile_unit,
};

fn name(text: &str) -> UnitName {
    text.parse().expect("a unit's name")
}

/// The set with a unit gone, and the set with it denied.
fn losses(set: &UnitSet, unit: &str) -> [(UnitSet, ConfigReason); 2] {
    let (mut gone, mut denied) = (set.clone(), set.clone());
    gone.units.remove(&name(unit)).expect("was there");
    let error = ConfigError::new(ConfigReason::SidecarTooOld, "restart the pod");
    denied
        .units
        .get_mut(&name(unit))
        .expect("was there")
        .content = Content::Denied(error);
    [
        (gone, ConfigReason::PolicyUnavailable),
        (denied, ConfigReason::SidecarTooOld),
    ]
}

fn rule_at(program: &Program, index: usize) -> &Rule {
    &program
        .route(&name("route/shop/orders"))
        .expect("present")
        .rules[index]
}

/// Why each provider of the rule that needs keys cannot serve.
fn broken_providers(program: &Program) -> Vec<ConfigReason> {
    let requirement = rule_at(program, 1)
        .auth
        .as_ref()
        .expect("the rule wants keys");
    let methods = requirement
        .any_of
        .iter()
        .flatten()
        .map(|provider| &provider.method);
    methods
        .filter_map(|method| match method {
            crate::auth::Method::Broken(error) => Some(error.reason),
            _ => None,
        })
        .collect()
}

#[test]
fn a_program_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Program>();
}

#[test]
fn everything_is_found_by_name() {
    let program = compiled(&shop());
    assert_eq!(
        (program.namespace(), program.trust_domain()),
        ("shop", "eu.example")
    );
    assert_eq!(program.version(), &shop().version());
    assert!(program.policy(&name("policy/shop/plans")).is_some());
    assert_eq!(program.fleet(&name("fleet/shop/plans")), Some(3));
    assert_eq!(
        program
            .stores()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>(),
        ["store/-/default"]
    );
    assert_eq!(
        program
            .shard_maps()
            .map(|(_, map)| map.epoch)
            .collect::<Vec<_>>(),
        [7]
    );
    assert!(program.store(&name("store/-/default")).is_some());
    assert!(program.keyring(&name("keys/shop/orders/keys")).is_some());
    assert!(program.secret(&name("secret/shop/alice@00")).is_some());
    assert_eq!(program.backends().count(), 8);
    assert_eq!(
        program
            .backend(&name("backend/shop/s0:8080"))
            .expect("present")
            .endpoints()
            .len(),
        2
    );
}

#[test]
fn without_an_inbound_unit_every_port_denies() {
    let mut gone = shop();
    gone.units.remove(&name("inbound/shop/orders"));
    let [_, (denied, too_old)] = losses(&shop(), "inbound/shop/orders");
    for (program, reason) in [
        (Program::empty(), ConfigReason::PolicyUnavailable),
        (compiled(&gone), ConfigReason::PolicyUnavailable),
        (compiled(&denied), too_old),
    ] {
        for port in [APP, ADMIN, 1] {
            let reject = find(&program, port, &StaticFacts::new("GET", "orders.shop", "/"))
                .expect_err("denied");
            assert_eq!(reject.reason, RejectReason::Config(reason));
        }
    }
}

#[test]
fn settings_are_believed_only_where_they_are_there() {
    let mut set = shop();
    assert_eq!(compiled(&set).settings(), Settings::default());
    let Content::Unit(unit) = &set.units[&name("inbound/shop/orders")].content else {
        panic!("an inbound unit")
    };
    let Unit::Inbound(inbound) = unit.as_ref() else {
        panic!("an inbound unit")
    };
    let mut inbound = inbound.clone();
    inbound.settings = Some(UnitName::settings());
    let settings = Settings {
        proxy_protocol: ProxyProtocol::Required,
        forwarded_for: 2,
    };
    put(
        &mut set,
        name("inbound/shop/orders"),
        Unit::Inbound(inbound),
    );
    put(&mut set, UnitName::settings(), Unit::Settings(settings));
    assert_eq!(compiled(&set).settings(), settings);
    for (loss, reason) in losses(&set, "settings/-/platform") {
        let program = compiled(&loss);
        let request = StaticFacts::new("GET", "orders.shop", "/");
        let reject = find(&program, APP, &request).expect_err("denied");
        assert_eq!(reject.reason, RejectReason::Config(reason));
        assert_eq!(program.settings(), Settings::default());
    }
}

#[test]
fn a_missing_policy_is_an_error_in_its_rules_only() {
    for (set, reason) in losses(&shop(), "policy/shop/plans") {
        let program = compiled(&set);
        let outcomes = |index: usize| {
            let policies = rule_at(&program, index).policies.iter();
            policies
                .map(|policy| policy.as_ref().err().map(|error| error.reason))
                .collect::<Vec<_>>()
        };
        assert_eq!(outcomes(0), [None], "the rule with `burst` alone");
        assert_eq!(outcomes(1), [None, Some(reason)], "`burst` and `plans`");
    }
    let mut set = shop();
    set.units.remove(&name("store/-/default"));
    let program = compiled(&set);
    let error = rule_at(&program, 1).policies[1]
        .as_ref()
        .expect_err("its store is gone");
    assert_eq!(error.reason, ConfigReason::StoreNotFound);
    assert!(program.policy(&name("policy/shop/plans")).is_none());
}

#[test]
fn a_policy_that_says_it_is_broken_is_an_error() {
    let mut set = shop();
    let broken = Some(ConfigError::new(
        ConfigReason::Invalid,
        "a burst of nothing",
    ));
    let policy = LimitPolicy {
        object: ObjectRef::new("RateLimitPolicy", "shop", "burst"),
        mode: sluice_snapshot::unit::policy::Mode::Enforce,
        headers: true,
        limits: vec![],
        broken: broken.clone(),
    };
    put(&mut set, name("policy/shop/burst"), Unit::Policy(policy));
    let program = compiled(&set);
    assert_eq!(
        rule_at(&program, 0).policies[0].as_ref().err(),
        broken.as_ref()
    );
}

#[test]
fn keys_serve_whole_or_not_at_all() {
    assert!(broken_providers(&compiled(&shop())).is_empty());
    for unit in [
        "keys/shop/orders/keys",
        "secret/shop/alice@00",
        "secret/shop/bob@00",
    ] {
        let [(gone, _), (denied, too_old)] = losses(&shop(), unit);
        assert_eq!(
            broken_providers(&compiled(&gone)),
            [ConfigReason::SecretNotFound],
            "{unit}"
        );
        assert_eq!(broken_providers(&compiled(&denied)), [too_old], "{unit}");
    }
}

#[test]
fn what_did_not_change_is_kept() {
    let set = shop();
    let first = compiled(&set);
    let again = Program::compile(&set, Some(&first)).expect("compiles");
    let orders = name("route/shop/orders");
    assert!(Arc::ptr_eq(
        first.route(&orders).expect("kept"),
        again.route(&orders).expect("kept")
    ));

    // New endpoints of a backend that the route reaches: a new route, the same expressions; what has no part in it stays.
    let mut moved = set.clone();
    let slice = sluice_snapshot::unit::Endpoints {
        ports: [("http".to_owned(), 8080)].into(),
        endpoints: vec![Endpoint {
            address: [10, 9, 9, 9].into(),
            ready: true,
            serving: true,
            hop: None,
        }],
    };
    put(
        &mut moved,
        name("endpoints/shop/orders-v1-x"),
        Unit::Endpoints(slice),
    );
    let next = Program::compile(&moved, Some(&first)).expect("compiles");
    let rule = |program: &Program| rule_at(program, 2).matches.clone();
    assert!(Arc::ptr_eq(&rule(&first), &rule(&next)));
    assert_eq!(
        next.backend(&name("backend/shop/orders-v1:80"))
            .expect("present")
            .ready[0]
            .to_string(),
        "10.9.9.9:8080"
    );
    let Action::Backends { targets, .. } = &rule_at(&next, 2).action else {
        panic!("it forwards")
    };
    let Ok(Target::Backend(backend)) = &targets[0].target else {
        panic!("to a backend")
    };
    assert_eq!(
        backend.ready[0].to_string(),
        "10.9.9.9:8080",
        "the route has the new endpoints"
    );
    let inventory = name("route/shop/inventory");
    assert!(Arc::ptr_eq(
        first.route(&inventory).expect("a"),
        next.route(&inventory).expect("b")
    ));
    let shards = name("shards/shop/orders");
    assert!(Arc::ptr_eq(
        first.shard_map(&shards).expect("a"),
        next.shard_map(&shards).expect("b")
    ));
    let plans = name("policy/shop/plans");
    assert!(Arc::ptr_eq(
        first.policy(&plans).expect("a"),
        next.policy(&plans).expect("b")
    ));
    let ring = name("keys/shop/orders/keys");
    assert!(Arc::ptr_eq(
        first.keyring(&ring).expect("a"),
        next.keyring(&ring).expect("b")
    ));
}

#[test]
fn what_changed_is_compiled_anew() {
    let mut set = shop();
    let first = compiled(&set);
    edit_route(&mut set, "orders", |route| {
        route.rules[0].matches = vec![prefix("/v2")]
    });
    edit_shards(&mut set, |map| map.epoch = 8);
    let next = Program::compile(&set, Some(&first)).expect("compiles");
    assert_eq!(
        rule_of(&next, &StaticFacts::new("GET", "orders.shop", "/v2")),
        "shop/orders/read"
    );
    assert_eq!(
        rule_of(&next, &StaticFacts::new("GET", "orders.shop", "/v1/orders")),
        "NoRoute by -"
    );
    assert_eq!(
        next.shard_map(&name("shards/shop/orders"))
            .expect("present")
            .epoch,
        8
    );
    // A secret that goes and comes back.
    let [(gone, _), _] = losses(&set, "secret/shop/bob@00");
    let without = Program::compile(&gone, Some(&next)).expect("compiles");
    assert_eq!(broken_providers(&without), [ConfigReason::SecretNotFound]);
    let back = Program::compile(&set, Some(&without)).expect("compiles");
    assert!(broken_providers(&back).is_empty());
}

#[test]
fn a_unit_that_does_not_compile_is_named_and_can_be_denied_alone() {
    let mut set = shop();
    edit_route(&mut set, "orders", |route| {
        let spec =
            crate::fixture::matching(sluice_snapshot::unit::route::PathMatch::Regex("/(".into()));
        route.rules.push(rule(
            "bad",
            spec,
            to(&[(1, sluice_snapshot::unit::route::Target::App)]),
        ));
    });
    let error = Program::compile(&set, Some(&compiled(&shop()))).expect_err("an open group");
    assert_eq!(error.unit, name("route/shop/orders"));
    assert!(
        error.reason.contains("\"bad\"") && error.reason.contains("/("),
        "{error}"
    );
    set.units.get_mut(&error.unit).expect("held").content = error.denial();
    let program = compiled(&set);
    let denied = find(&program, APP, &StaticFacts::new("GET", "orders.shop", "/")).map(|_| ());
    let Err(Reject { reason, .. }) = denied else {
        panic!("denied")
    };
    assert_eq!(reason, RejectReason::Config(ConfigReason::Invalid));
    assert_eq!(
        rule_of(&program, &StaticFacts::new("GET", "inventory.shop", "/")),
        "shop/inventory/all"
    );
}

#[test]
fn slices_of_a_backend_are_merged() {
    let mut set = shop();
    let endpoint = |host| Endpoint {
        address: [10, 0, 10, host].into(),
        ready: true,
        serving: true,
        hop: None,
    };
    for (slice, port, hosts) in [
        ("a", "http", [2, 1]),
        ("b", "http", [3, 2]),
        ("c", "other", [4, 5]),
    ] {
        let unit = sluice_snapshot::unit::Endpoints {
            ports: [(port.to_owned(), 8080)].into(),
            endpoints: hosts.map(endpoint).to_vec(),
        };
        put(
            &mut set,
            UnitName::endpoints("shop", slice),
            Unit::Endpoints(unit),
        );
    }
    let backend = sluice_snapshot::unit::Backend {
        tls: None,
        broken: None,
        namespace: "shop".into(),
        service: "orders-v1".into(),
        port: 80,
        port_name: "http".into(),
        protocol: sluice_snapshot::unit::backend::BackendProtocol::H2c,
        endpoints: ["a", "b", "c", "gone"]
            .map(|slice| UnitName::endpoints("shop", slice))
            .to_vec(),
    };
    put(
        &mut set,
        name("backend/shop/orders-v1:80"),
        Unit::Backend(backend),
    );
    let program = compiled(&set);
    let ready = &program
        .backend(&name("backend/shop/orders-v1:80"))
        .expect("present")
        .ready;
    let ready: Vec<_> = ready.iter().map(ToString::to_string).collect();
    assert_eq!(
        ready,
        ["10.0.10.1:8080", "10.0.10.2:8080", "10.0.10.3:8080"]
    );
}

#[test]
fn every_unit_of_the_shop_compiles_by_itself() {
    for (name, held) in &shop().units {
        let Content::Unit(unit) = &held.content else {
            continue;
        };
        assert_eq!(compile_unit(name, unit), Ok(()));
    }
}

#[test]
fn a_group_has_one_inbound_unit() {
    let mut set = shop();
    let second = set.units[&name("inbound/shop/orders")].clone();
    set.units.insert(name("inbound/shop/other"), second);
    assert!(Program::compile(&set, None).is_err());
}
