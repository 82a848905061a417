use sluice_snapshot::unit::{
    self, Route,
    inbound::RouteUse,
    route::{
        Action, HeaderEdits, Match, PathMatch, Redirect, RedirectPath, Target, ValueMatch,
        ValuePattern,
    },
    shard_map::{Held, Pin, SlotRange},
};

use super::*;
use crate::{
    fixture::{edit_route, matching, prefix, rule, shard_map, shop, to},
    program::{Content, UnitSet},
};

/// A unit of the shop's set.
fn unit(set: &UnitSet, name: &str) -> Unit {
    let name: UnitName = name.parse().expect("a unit's name");
    match &set.units[&name].content {
        Content::Unit(unit) => unit.as_ref().clone(),
        Content::Denied(_) => panic!("{name} is denied"),
    }
}

/// Why the route `orders` is refused after an edit; empty: it is not.
fn route_after(edit: impl FnOnce(&mut Route)) -> String {
    let mut set = shop();
    edit_route(&mut set, "orders", edit);
    reason("route/shop/orders", &unit(&set, "route/shop/orders"))
}

fn reason(name: &str, unit: &Unit) -> String {
    let name: UnitName = name.parse().expect("a unit's name");
    match compile_unit(&name, unit) {
        Ok(()) => String::new(),
        Err(error) => {
            assert_eq!(error.unit, name);
            error.reason
        }
    }
}

fn app() -> Action {
    to(&[(1, Target::App)])
}

#[test]
fn a_body_of_another_kind_is_refused() {
    assert!(!reason("policy/shop/orders", &unit(&shop(), "route/shop/orders")).is_empty());
}

#[test]
fn a_path_that_can_never_match_is_refused_with_the_one_that_can() {
    for (path, hint) in [
        ("orders", "start with '/'"),
        ("/a/../b", "write \"/b\""),
        ("/a//b", "write \"/a/b\""),
        ("/%61", "write \"/a\""),
        ("/a%2fb", "write \"/a%2Fb\""),
        ("/caf\u{e9}", "must be escaped"),
        ("/a%", "broken escape"),
    ] {
        for spec in [
            PathMatch::Exact(path.into()),
            PathMatch::Prefix(path.into()),
        ] {
            let why = route_after(|route| route.rules[0].matches = vec![matching(spec)]);
            assert!(
                why.contains(hint) && why.contains("\"read\""),
                "{path}: {why}"
            );
        }
    }
    for path in ["/", "/a", "/a/", "/a%2Fb", "/caf%C3%A9"] {
        assert_eq!(
            route_after(|route| route.rules[0].matches = vec![prefix(path)]),
            "",
            "{path}"
        );
    }
}

#[test]
fn an_expression_compiles_by_itself_and_stays_small() {
    for text in ["/(", "/a)|(/b", "(?P<a>x)(?P<a>y)", "(\\w{200}){200}"] {
        let path = route_after(|route| {
            route.rules[0].matches = vec![matching(PathMatch::Regex(text.into()))]
        });
        assert!(path.contains("does not compile"), "{text}: {path}");
        let header = ValueMatch {
            name: "x-a".into(),
            value: ValuePattern::Regex(text.into()),
        };
        let spec = Match {
            headers: vec![header],
            ..prefix("/")
        };
        assert!(
            route_after(|route| route.rules[0].matches = vec![spec]).contains("does not compile"),
            "{text}"
        );
    }
}

#[test]
fn a_requirement_that_would_admit_everyone_is_refused() {
    let why = route_after(|route| {
        if let Some(auth) = &mut route.rules[1].auth {
            auth.any_of[0].all_of.clear();
        }
    });
    assert!(why.contains("admit everyone"), "{why}");
    assert!(route_after(|route| route.providers.clear()).contains("no provider \"keys\""));
}

#[test]
fn a_route_has_rules_and_a_rule_has_matches() {
    assert!(route_after(|route| route.rules.clear()).contains("at least one rule"));
    assert!(route_after(|route| route.rules[0].matches.clear()).contains("at least one match"));
    let broken = Some(sluice_snapshot::ConfigError::new(
        sluice_snapshot::ConfigReason::Invalid,
        "why",
    ));
    let without = |route: &mut Route| {
        route.rules.clear();
        route.broken = broken.clone();
    };
    assert_eq!(route_after(without), "", "what is broken denies anyway");
    assert!(route_after(|route| route.rules[1].name = "read".into()).contains("two rules"));
    assert!(
        route_after(|route| route.providers.push(route.providers[0].clone()))
            .contains("two providers")
    );
}

#[test]
fn methods_and_names_are_tokens() {
    assert!(
        route_after(|route| route.rules[1].matches[0].method = Some("PO ST".into()))
            .contains("not a method")
    );
    let value = || ValuePattern::Exact("1".into());
    for name in ["X-A", "x a", ""] {
        let spec = Match {
            headers: vec![ValueMatch {
                name: name.into(),
                value: value(),
            }],
            ..prefix("/")
        };
        assert!(
            route_after(|route| route.rules[0].matches = vec![spec]).contains("header name"),
            "{name:?}"
        );
    }
    let spec = Match {
        query: vec![ValueMatch {
            name: String::new(),
            value: value(),
        }],
        ..prefix("/")
    };
    assert!(route_after(|route| route.rules[0].matches = vec![spec]).contains("no name"));
}

#[test]
fn edits_leave_the_proxys_own_fields_alone() {
    let set = |name: &str, value: &str| HeaderEdits {
        set: vec![(name.into(), value.into())],
        ..HeaderEdits::default()
    };
    for name in [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "via",
        "X-Upper",
    ] {
        assert!(
            !route_after(|route| route.rules[0].request_headers = set(name, "1")).is_empty(),
            "{name}"
        );
        assert!(
            !route_after(|route| route.rules[0].response_headers = set(name, "1")).is_empty(),
            "{name}"
        );
        let remove = HeaderEdits {
            remove: vec![name.into()],
            ..HeaderEdits::default()
        };
        assert!(
            !route_after(|route| route.rules[0].request_headers = remove).is_empty(),
            "{name}"
        );
    }
    for value in ["a\r\nx: b", "a\0", " a", "a\n"] {
        assert!(
            !route_after(|route| route.rules[0].request_headers = set("x-a", value)).is_empty(),
            "{value:?}"
        );
    }
    assert_eq!(
        route_after(|route| route.rules[0].request_headers = set("x-a", "a b")),
        ""
    );
}

#[test]
fn a_redirect_can_be_followed() {
    let plain = || Redirect {
        scheme: None,
        hostname: None,
        port: None,
        path: None,
        status: 301,
    };
    let after = |redirect: Redirect, spec: Match| {
        route_after(|route| route.rules = vec![rule("r", spec, Action::Redirect(redirect))])
    };
    assert_eq!(after(plain(), prefix("/")), "");
    let prefixed = || Redirect {
        path: Some(RedirectPath::ReplacePrefixMatch("/x".into())),
        ..plain()
    };
    assert_eq!(after(prefixed(), prefix("/")), "");
    for (redirect, spec) in [
        (
            Redirect {
                status: 200,
                ..plain()
            },
            prefix("/"),
        ),
        (
            Redirect {
                scheme: Some("ftp".into()),
                ..plain()
            },
            prefix("/"),
        ),
        (
            Redirect {
                port: Some(0),
                ..plain()
            },
            prefix("/"),
        ),
        (
            Redirect {
                hostname: Some("a/b".into()),
                ..plain()
            },
            prefix("/"),
        ),
        (
            Redirect {
                hostname: Some("*.shop".into()),
                ..plain()
            },
            prefix("/"),
        ),
        (
            Redirect {
                path: Some(RedirectPath::ReplaceFullPath("x".into())),
                ..plain()
            },
            prefix("/"),
        ),
        (
            Redirect {
                path: Some(RedirectPath::ReplaceFullPath("/x\r\ny: z".into())),
                ..plain()
            },
            prefix("/"),
        ),
        (prefixed(), matching(PathMatch::Exact("/".into()))),
    ] {
        assert!(!after(redirect.clone(), spec).is_empty(), "{redirect:?}");
    }
}

#[test]
fn references_lead_to_units_of_their_kind() {
    let stranger = || UnitName::route("shop", "orders");
    assert!(!route_after(|route| route.rules[0].policies = vec![stranger()]).is_empty());
    for target in [Target::Backend(stranger()), Target::Shards(stranger())] {
        assert!(!route_after(|route| route.rules[0].action = to(&[(1, target)])).is_empty());
    }
    assert!(!route_after(|route| route.rules[0].action = to(&[])).is_empty());
    assert_eq!(route_after(|route| route.rules[0].action = app()), "");
    let keys = Unit::Keys(Keys {
        secrets: vec![stranger()],
        entry: None,
    });
    assert!(!reason("keys/shop/orders/keys", &keys).is_empty());
    let Unit::Backend(mut backend) = unit(&shop(), "backend/shop/s0:8080") else {
        panic!("a backend")
    };
    backend.endpoints.push(stranger());
    assert!(!reason("backend/shop/s0:8080", &Unit::Backend(backend)).is_empty());
}

#[test]
fn hostnames_are_lower_case_names() {
    let after = |hostname: &str| {
        let Unit::Inbound(mut inbound) = unit(&shop(), "inbound/shop/orders") else {
            panic!("inbound")
        };
        inbound.ports[0].routes[0].hostnames = vec![hostname.into()];
        reason("inbound/shop/orders", &Unit::Inbound(inbound))
    };
    for good in [
        "orders", "a.b.shop", "*.shop", "10.0.0.1", "[::1]", "x_y.shop",
    ] {
        assert_eq!(after(good), "", "{good}");
    }
    for bad in [
        "",
        "*",
        "*.",
        "Orders",
        "a..b",
        "orders.",
        "a.*.b",
        "**.a",
        "orders:80",
        "a/b",
        "a b",
        &"a".repeat(254),
    ] {
        assert!(!after(bad).is_empty(), "{bad}");
    }
}

#[test]
fn ports_stand_once_and_lead_to_routes() {
    let after = |edit: &dyn Fn(&mut Inbound)| {
        let Unit::Inbound(mut inbound) = unit(&shop(), "inbound/shop/orders") else {
            panic!("inbound")
        };
        edit(&mut inbound);
        reason("inbound/shop/orders", &Unit::Inbound(inbound))
    };
    assert_eq!(after(&|_| ()), "");
    assert!(!after(&|inbound| inbound.ports[1].port = inbound.ports[0].port).is_empty());
    assert!(!after(&|inbound| inbound.ports[0].port = 0).is_empty());
    let policy = || RouteUse {
        unit: UnitName::policy("shop", "plans"),
        hostnames: vec![],
    };
    assert!(!after(&|inbound| inbound.ports[0].routes.push(policy())).is_empty());
}

#[test]
fn a_shard_map_covers_every_slot_once() {
    let after = |edit: &dyn Fn(&mut ShardMap)| {
        let mut map = shard_map();
        edit(&mut map);
        reason("shards/shop/orders", &Unit::ShardMap(map))
    };
    assert_eq!(after(&|_| ()), "");
    let range = |first, last, shard| SlotRange { first, last, shard };
    for (slots, hint) in [
        (vec![], "slots 0-16383 have no shard"),
        (
            vec![range(0, 100, 0), range(102, 16_383, 1)],
            "slots 101-101 have no shard",
        ),
        (
            vec![range(0, 100, 0), range(100, 16_383, 1)],
            "slot 100 has two shards",
        ),
        (vec![range(0, 16_382, 0)], "slots 16383-16383 have no shard"),
        (vec![range(0, 16_384, 0)], "the last is 16383"),
        (vec![range(0, u16::MAX, 0)], "the last is 16383"),
        (vec![range(0, 16_383, 2)], "shard 2 of 2"),
        (
            vec![range(8192, 16_383, 0), range(0, 8191, 1)],
            "slots 0-8191 have no shard",
        ),
    ] {
        let why = after(&|map| map.slots = slots.clone());
        assert!(why.contains(hint), "{slots:?}: {why}");
    }
    assert!(!after(&|map| map.key.clear()).is_empty());
    assert!(
        !after(&|map| map.hold = vec![Held {
            first: 0,
            last: SLOTS
        }])
        .is_empty()
    );
    assert!(
        !after(&|map| map.pins = vec![Pin {
            key: "a".into(),
            shard: 2
        }])
        .is_empty()
    );
    assert!(after(&|map| map.pins.push(map.pins[0].clone())).contains("two pins"));
    assert!(after(&|map| map.shards[1].name = "s0".into()).contains("two shards"));
    assert!(
        !after(&|map| map.shards[0].replicas[0] = UnitName::route("shop", "orders")).is_empty()
    );
    assert!(!after(&|map| map.replica_methods = vec!["G ET".into()]).is_empty());
}

#[test]
fn numbers_and_addresses_are_possible() {
    let Unit::Endpoints(slice) = unit(&shop(), "endpoints/shop/s0-x") else {
        panic!("endpoints")
    };
    let mut zero = slice.clone();
    zero.ports.insert("other".into(), 0);
    assert!(!reason("endpoints/shop/s0-x", &Unit::Endpoints(zero)).is_empty());
    for address in [[0, 0, 0, 0], [224, 0, 0, 1]] {
        let mut strange = slice.clone();
        strange.endpoints[0].address = address.into();
        assert!(
            !reason("endpoints/shop/s0-x", &Unit::Endpoints(strange)).is_empty(),
            "{address:?}"
        );
    }
    assert!(!reason("fleet/shop/plans", &Unit::Fleet(Fleet { sessions: 0 })).is_empty());
    let settings = |forwarded_for| {
        Unit::Settings(sluice_snapshot::unit::Settings {
            forwarded_for,
            ..Default::default()
        })
    };
    assert!(!reason("settings/-/platform", &settings(17)).is_empty());
    let Unit::Store(store) = unit(&shop(), "store/-/default") else {
        panic!("a store")
    };
    for addresses in [
        vec![],
        vec!["redis".to_owned()],
        vec!["redis:0".to_owned()],
        vec!["a b:1".to_owned()],
    ] {
        assert!(
            !reason(
                "store/-/default",
                &Unit::Store(Store {
                    addresses,
                    ..store.clone()
                })
            )
            .is_empty()
        );
    }
    let Unit::Policy(policy) = unit(&shop(), "policy/shop/burst") else {
        panic!("a policy")
    };
    for edit in [
        (|limit: &mut unit::policy::Limit| limit.bucket.requests = 0)
            as fn(&mut unit::policy::Limit),
        |limit| limit.bucket.burst = 0,
        |limit| {
            limit.key = vec![KeyPart::Header {
                name: "X-Upper".into(),
            }]
        },
        |limit| {
            limit.key = vec![KeyPart::ClientAddress {
                prefix_v4: 33,
                prefix_v6: 64,
            }]
        },
        |limit| limit.name = String::new(),
    ] {
        let mut bad = policy.clone();
        edit(&mut bad.limits[0]);
        assert!(
            !reason("policy/shop/burst", &Unit::Policy(bad.clone())).is_empty(),
            "{bad:?}"
        );
    }
}
