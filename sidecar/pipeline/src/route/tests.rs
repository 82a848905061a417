use proptest::prelude::*;
use sluice_snapshot::{
    ConfigReason, Unit, UnitName,
    unit::{
        Inbound, ObjectRef,
        inbound::{InboundPort, RouteUse},
        route::{Match as Spec, PathMatch, Target as To, ValueMatch, ValuePattern},
    },
};

use super::*;
use crate::{
    UnitSet,
    facts::StaticFacts,
    fixture::{
        ADMIN, APP, compiled, edit_route, find, matching, prefix, put, route_of, rule, rule_of,
        shop, to,
    },
    program::{Content, Held},
};

/// A program whose only route on the app's port has these matches, one rule each, named by their place.
fn serving(matches: Vec<Spec>) -> crate::Program {
    let mut set = shop();
    edit_route(&mut set, "orders", |route| {
        let rules = matches.into_iter().enumerate();
        route.rules = rules
            .map(|(index, spec)| rule(&index.to_string(), spec, to(&[(1, To::App)])))
            .collect();
    });
    compiled(&set)
}

/// The place of the match that a request meets.
fn met(program: &crate::Program, facts: &StaticFacts) -> Option<usize> {
    match find(program, APP, facts) {
        Ok((matched, _)) => Some(matched.rule.index),
        Err(reject) => {
            assert_eq!(reject.reason, RejectReason::NoRoute);
            assert_eq!(*reject.decider, Decider::default(), "nobody decided");
            None
        }
    }
}

fn get(target: &str) -> StaticFacts {
    StaticFacts::new("GET", "orders.shop", target)
}

fn exact(path: &str) -> Spec {
    matching(PathMatch::Exact(path.into()))
}

fn regex(text: &str) -> Spec {
    matching(PathMatch::Regex(text.into()))
}

fn value(name: &str, value: &str) -> ValueMatch {
    ValueMatch {
        name: name.into(),
        value: ValuePattern::Exact(value.into()),
    }
}

fn pattern(name: &str, text: &str) -> ValueMatch {
    ValueMatch {
        name: name.into(),
        value: ValuePattern::Regex(text.into()),
    }
}

#[test]
fn a_prefix_is_whole_segments() {
    let program = serving(vec![prefix("/v1/orders")]);
    for (path, meets) in [
        ("/v1/orders", true),
        ("/v1/orders/", true),
        ("/v1/orders/7", true),
        ("/v1//orders/../orders/7", true),
        ("/v1/ordersx", false),
        ("/v1/order", false),
        ("/V1/orders", false),
        ("/v1/orders%2F7", false),
        ("/", false),
    ] {
        assert_eq!(met(&program, &get(path)).is_some(), meets, "{path}");
    }
    let slash = serving(vec![prefix("/a/")]);
    assert_eq!(
        [
            met(&slash, &get("/a")),
            met(&slash, &get("/a/b")),
            met(&slash, &get("/ab"))
        ],
        [Some(0), Some(0), None]
    );
}

#[test]
fn an_expression_is_anchored_at_both_ends() {
    let program = serving(vec![regex("/a|/b"), regex("/(?m)c$")]);
    for (path, meets) in [
        ("/a", true),
        ("/b", true),
        ("/ax", false),
        ("/x/b", false),
        ("/c", true),
        ("/c/d", false),
    ] {
        assert_eq!(met(&program, &get(path)).is_some(), meets, "{path}");
    }
}

#[test]
fn the_more_specific_match_wins_whatever_the_order() {
    let post = |spec: Spec| Spec {
        method: Some("POST".into()),
        ..spec
    };
    let header = |spec: Spec| Spec {
        headers: vec![value("x-a", "1")],
        ..spec
    };
    let query = |spec: Spec| Spec {
        query: vec![value("q", "1")],
        ..spec
    };
    let cookie = |spec: Spec| Spec {
        cookies: vec![value("c", "1")],
        ..spec
    };
    // From the most specific to the least: the request matches all of them.
    let specs = vec![
        exact("/a/b/c"),
        regex("/a/b/[a-z]"),
        regex("/a/b/."),
        post(prefix("/a/b")),
        header(prefix("/a/b")),
        query(prefix("/a/b")),
        cookie(prefix("/a/b")),
        prefix("/a/b"),
        post(header(query(prefix("/a")))),
        prefix("/"),
    ];
    let facts = StaticFacts::new("POST", "orders.shop", "/a/b/c?q=1")
        .with("X-A", "1")
        .with("Cookie", "c=1");
    for first in 0..specs.len() {
        let rest: Vec<Spec> = specs[first..].to_vec();
        let last = rest.len() - 1;
        assert_eq!(
            met(&serving(rest.clone()), &facts),
            Some(0),
            "{:?}",
            rest[0]
        );
        assert_eq!(
            met(&serving(rest.into_iter().rev().collect()), &facts),
            Some(last),
            "reversed, from {first}"
        );
    }
}

#[test]
fn of_equal_matches_the_first_wins() {
    assert_eq!(
        met(
            &serving(vec![prefix("/b"), prefix("/a"), prefix("/a/")]),
            &get("/a")
        ),
        Some(1)
    );
}

#[test]
fn values_are_compared_whole() {
    let program = serving(vec![
        Spec {
            headers: vec![value("x-a", "1")],
            ..prefix("/header")
        },
        Spec {
            headers: vec![pattern("x-a", "a|b")],
            ..prefix("/pattern")
        },
        Spec {
            query: vec![value("q", "a b"), value("r", "")],
            ..prefix("/query")
        },
        Spec {
            cookies: vec![value("beta", "1")],
            ..prefix("/cookie")
        },
        Spec {
            method: Some("get".into()),
            ..prefix("/method")
        },
    ]);
    for (facts, place) in [
        (get("/header").with("X-A", "1"), Some(0)),
        (get("/header").with("X-A", "11"), None),
        (get("/header"), None),
        // Two lines are one value: neither the first nor the last may stand for both.
        (get("/header").with("X-A", "1").with("X-A", "2"), None),
        (get("/header").with("X-A", "2").with("X-A", "1"), None),
        (get("/pattern").with("X-A", "b"), Some(1)),
        (get("/pattern").with("X-A", "bb"), None),
        (get("/query?q=a+b&r"), Some(2)),
        (get("/query?r=&%71=a%20b&q=c"), Some(2)),
        (get("/query?q=c&q=a+b&r"), None),
        (get("/cookie").with("Cookie", "a=2; beta=1"), Some(3)),
        (
            get("/cookie")
                .with("Cookie", "a=beta=1")
                .with("Cookie", " beta=1 "),
            Some(3),
        ),
        (get("/cookie").with("Cookie", "beta=2; beta=1"), None),
        (get("/cookie").with("Cookie", "xbeta=1"), None),
        (get("/method"), None),
    ] {
        assert_eq!(met(&program, &facts), place, "{facts:?}");
    }
}

#[test]
fn several_lines_of_a_header_match_as_one_value() {
    let program = serving(vec![Spec {
        headers: vec![value("x-a", "1, 2")],
        ..prefix("/")
    }]);
    assert_eq!(
        met(&program, &get("/").with("X-A", "1").with("X-A", "2")),
        Some(0)
    );
}

#[test]
fn a_path_parameter_is_a_named_group() {
    let program = compiled(&shop());
    let (matched, target) =
        find(&program, APP, &get("/v1/tenants/ac%6De%2fx/orders")).expect("routed");
    assert_eq!(
        matched.parameter("tenant", &target).as_deref(),
        Some("acme%2Fx")
    );
    assert_eq!(matched.parameter("other", &target), None);
    let (matched, target) = find(&program, APP, &get("/v1/orders")).expect("routed");
    assert_eq!(matched.parameter("tenant", &target), None);
}

#[test]
fn the_hostname_is_read_as_names_are() {
    let program = compiled(&shop());
    for (authority, rule) in [
        ("orders.shop", "shop/orders/read"),
        ("ORDERS.shop:8080", "shop/orders/read"),
        ("orders.shop.", "shop/orders/read"),
        ("eu.orders.shop", "shop/orders/read"),
        ("a.b.orders.shop:1", "shop/orders/read"),
        ("inventory.shop", "shop/inventory/all"),
        ("xorders.shop", "NoRoute by -"),
        ("shop", "NoRoute by -"),
        ("orders.shop.evil", "NoRoute by -"),
    ] {
        assert_eq!(
            rule_of(&program, &StaticFacts::new("GET", authority, "/v1/orders")),
            rule,
            "{authority}"
        );
    }
}

/// Three routes on one port, elder first, each with hostnames and prefixes.
fn hosts(routes: &[(&str, &[&str], &[&str])]) -> UnitSet {
    let mut set = UnitSet::default();
    let mut uses = Vec::new();
    for (name, hostnames, prefixes) in routes {
        let rules = prefixes
            .iter()
            .map(|path| rule(path, prefix(path), to(&[(1, To::App)])))
            .collect();
        put(
            &mut set,
            UnitName::route("shop", name),
            Unit::Route(route_of(name, rules)),
        );
        let hostnames = hostnames.iter().map(|name| (*name).to_owned()).collect();
        uses.push(RouteUse {
            unit: UnitName::route("shop", name),
            hostnames,
        });
    }
    let inbound = Inbound {
        listeners: Vec::new(),
        tables: Vec::new(),
        namespace: "shop".into(),
        services: vec![],
        trust_domain: String::new(),
        settings: None,
        ports: vec![InboundPort {
            port: APP,
            protocol: Default::default(),
            routes: uses,
        }],
    };
    put(
        &mut set,
        UnitName::inbound("shop", "g"),
        Unit::Inbound(inbound),
    );
    set
}

#[test]
fn the_longest_hostname_with_a_matching_rule_wins() {
    let program = compiled(&hosts(&[
        ("any", &[], &["/", "/any"]),
        ("wide", &["*.shop"], &["/wide"]),
        ("near", &["*.eu.shop"], &["/near", "/"]),
        ("exact", &["a.eu.shop"], &["/exact"]),
    ]));
    for (host, path, rule) in [
        ("a.eu.shop", "/exact", "shop/exact//exact"),
        // No rule of the exact hostname matches: the next hostname is asked, although `any` has the longer prefix.
        ("a.eu.shop", "/any", "shop/near//"),
        ("b.eu.shop", "/exact", "shop/near//"),
        ("b.shop", "/wide", "shop/wide//wide"),
        ("b.shop", "/near", "shop/any//"),
        ("elsewhere", "/any", "shop/any//any"),
    ] {
        assert_eq!(
            rule_of(&program, &StaticFacts::new("GET", host, path)),
            rule,
            "{host}{path}"
        );
    }
}

#[test]
fn a_route_that_cannot_serve_denies_its_hostnames_and_no_others() {
    let config = hosts(&[
        ("any", &[], &["/"]),
        ("near", &["*.eu.shop"], &["/near"]),
        ("exact", &["a.eu.shop"], &["/exact"]),
    ]);
    let near = UnitName::route("shop", "near");
    let mut absent = config.clone();
    absent.units.remove(&near);
    let mut denied = config.clone();
    let error = ConfigError::new(ConfigReason::SidecarTooOld, "restart the pod");
    denied.units.insert(
        near.clone(),
        Held {
            content: Content::Denied(error),
            ..config.units[&near].clone()
        },
    );
    let mut broken = config.clone();
    edit_route(&mut broken, "near", |route| {
        route.broken = Some(ConfigError::new(ConfigReason::TooLarge, "shrink it"))
    });
    for (set, reason) in [
        (absent, ConfigReason::PolicyUnavailable),
        (denied, ConfigReason::SidecarTooOld),
        (broken, ConfigReason::TooLarge),
    ] {
        let program = compiled(&set);
        for (host, path) in [
            ("b.eu.shop", "/near"),
            ("b.eu.shop", "/else"),
            ("a.eu.shop", "/near"),
        ] {
            let reject =
                find(&program, APP, &StaticFacts::new("GET", host, path)).expect_err("denied");
            assert_eq!(reject.reason, RejectReason::Config(reason), "{host}{path}");
            assert_eq!(
                reject.decider.object,
                Some(ObjectRef::new("ApiRoute", "shop", "near"))
            );
            assert!(reject.detail.is_some());
        }
        assert_eq!(
            rule_of(&program, &StaticFacts::new("GET", "a.eu.shop", "/exact")),
            "shop/exact//exact"
        );
        assert_eq!(
            rule_of(&program, &StaticFacts::new("GET", "elsewhere", "/near")),
            "shop/any//"
        );
    }
}

#[test]
fn a_rule_that_cannot_serve_refuses_what_it_matches() {
    let mut set = shop();
    edit_route(&mut set, "orders", |route| {
        route.rules[1].broken = Some(ConfigError::new(
            ConfigReason::ReferenceNotFound,
            "no such profile",
        ));
    });
    let program = compiled(&set);
    let reject = find(
        &program,
        APP,
        &StaticFacts::new("POST", "orders.shop", "/v1/orders"),
    )
    .expect_err("refused");
    assert_eq!(
        reject.reason,
        RejectReason::Config(ConfigReason::ReferenceNotFound)
    );
    assert_eq!(reject.decider.path(), "shop/orders/write");
    assert_eq!(rule_of(&program, &get("/v1/orders")), "shop/orders/read");
}

#[test]
fn sizes_are_the_routes_and_so_is_the_refusal() {
    let mut set = shop();
    edit_route(&mut set, "orders", |route| {
        route.request_limits.max_body = 10;
        route.request_limits.max_target = 20;
        route.request_limits.max_headers = 30;
    });
    let program = compiled(&set);
    let outcome = |facts: StaticFacts, length| {
        let (matched, _) = find(&program, APP, &facts).expect("routed");
        matched
            .within(&facts, length)
            .map_err(|reject| (reject.reason, reject.decider.path()))
    };
    assert_eq!(outcome(get("/v1/orders"), Some(10)), Ok(()));
    let by = |reason| Err((reason, "shop/orders/read".to_owned()));
    assert_eq!(
        outcome(get("/v1/orders"), Some(11)),
        by(RejectReason::BodyTooLarge)
    );
    assert_eq!(
        outcome(get("/v1/orders/123456789012"), None),
        by(RejectReason::TargetTooLong)
    );
    assert_eq!(
        outcome(get("/v1/orders").with("X", &"a".repeat(30)), None),
        by(RejectReason::HeadersTooLarge)
    );
    let inventory = StaticFacts::new("GET", "inventory.shop", "/v1/orders/123456789012");
    let (matched, _) = find(&program, APP, &inventory).expect("routed");
    assert_eq!(
        matched.within(&inventory, Some(11)),
        Ok(()),
        "the other route has its own limits"
    );
}

#[test]
fn each_port_has_its_own_routes() {
    let program = compiled(&shop());
    let facts = StaticFacts::new("GET", "anything", "/");
    assert_eq!(
        find(&program, ADMIN, &facts)
            .expect("any hostname")
            .0
            .decider()
            .path(),
        "shop/admin/all"
    );
    assert_eq!(rule_of(&program, &facts), "NoRoute by -");
    assert!(program.table(1).is_none(), "a port without routes passes");
}

/// Precedence, told again without any index: of all that matches, the best by the Gateway API's words.
fn model(
    routes: &[(Vec<String>, Vec<Spec>)],
    host: &str,
    path: &str,
    method: &str,
) -> Option<(usize, usize)> {
    let host_rank = |pattern: &str| match pattern.strip_prefix('*') {
        None if pattern == host => Some(1000 + pattern.len()),
        Some(suffix) if host.ends_with(suffix) => Some(suffix.len()),
        _ => None,
    };
    let path_rank = |spec: &Spec| match &spec.path {
        PathMatch::Exact(exact) if exact == path => Some((2, exact.len())),
        PathMatch::Regex(text)
            if regex::Regex::new(&format!("^{text}$"))
                .expect("valid")
                .is_match(path) =>
        {
            Some((1, text.len()))
        }
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            let whole = path == prefix || path.starts_with(&format!("{prefix}/"));
            whole.then_some((0, prefix.len()))
        }
        _ => None,
    };
    let mut best = None;
    for (age, (hostnames, specs)) in routes.iter().enumerate() {
        let any = [String::from("*")];
        for hostname in if hostnames.is_empty() {
            &any
        } else {
            hostnames.as_slice()
        } {
            for (index, spec) in specs.iter().enumerate() {
                let rank = host_rank(hostname).zip(path_rank(spec));
                let Some(rank) =
                    rank.filter(|_| spec.method.as_deref().is_none_or(|known| known == method))
                else {
                    continue;
                };
                let rank = (rank, spec.method.is_some());
                if best.is_none_or(|(known, _)| rank > known) {
                    best = Some((rank, (age, index)));
                }
            }
        }
    }
    best.map(|(_, place)| place)
}

fn any_spec() -> impl Strategy<Value = Spec> {
    let path = prop_oneof![
        prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/b"])
            .prop_map(|path| PathMatch::Prefix(path.into())),
        prop::sample::select(vec!["/a", "/a/b", "/a/b/c"])
            .prop_map(|path| PathMatch::Exact(path.into())),
        prop::sample::select(vec!["/a/.*", "/[ab]", "/a/b/[a-z]"])
            .prop_map(|path| PathMatch::Regex(path.into())),
    ];
    let method = prop::option::of(Just(String::from("POST")));
    (path, method).prop_map(|(path, method)| Spec {
        method,
        ..matching(path)
    })
}

fn any_route() -> impl Strategy<Value = (Vec<String>, Vec<Spec>)> {
    let hostname = prop::sample::select(vec!["a.shop", "b.a.shop", "*.shop", "*.a.shop"])
        .prop_map(String::from);
    (
        prop::collection::vec(hostname, 0..3),
        prop::collection::vec(any_spec(), 1..4),
    )
}

proptest! {
    /// The indexed look-up finds what the plain reading of the rules finds, and the names of units play no part.
    #[test]
    fn precedence_is_the_gateway_apis(
        routes in prop::collection::vec(any_route(), 1..4),
        names in Just(["x", "y", "z"]).prop_shuffle(),
    ) {
        let mut set = UnitSet::default();
        let mut uses = Vec::new();
        for ((hostnames, specs), name) in routes.iter().zip(names) {
            let rules = specs.iter().enumerate();
            let rules = rules.map(|(index, spec)| rule(&index.to_string(), spec.clone(), to(&[(1, To::App)]))).collect();
            put(&mut set, UnitName::route("shop", name), Unit::Route(route_of(name, rules)));
            uses.push(RouteUse { unit: UnitName::route("shop", name), hostnames: hostnames.clone() });
        }
        let ports = vec![InboundPort { port: APP, protocol: Default::default(), routes: uses }];
        let inbound = Inbound { namespace: "shop".into(), services: vec![], trust_domain: String::new(), settings: None, listeners: vec![], tables: vec![], ports };
        put(&mut set, UnitName::inbound("shop", "g"), Unit::Inbound(inbound));
        let program = compiled(&set);
        for host in ["a.shop", "b.a.shop", "c.b.a.shop", "shop", "other"] {
            for path in ["/", "/a", "/a/", "/a/b", "/a/b/c", "/b", "/c"] {
                for method in ["GET", "POST"] {
                    let facts = StaticFacts::new(method, host, path);
                    let found = find(&program, APP, &facts).ok().map(|(matched, _)| {
                        let age = names.iter().position(|name| *name == matched.route.object.name).expect("a route");
                        (age, matched.rule.index)
                    });
                    prop_assert_eq!(found, model(&routes, host, path, method), "{} {}{}", method, host, path);
                }
            }
        }
    }
}

/// What became of each match, by `rule` and hostname.
fn traced(program: &crate::Program, facts: &StaticFacts) -> Vec<String> {
    let target = crate::target::normalise(facts).expect("a target");
    let table = program.table(APP).expect("the port has routes");
    let traces = trace(table, facts, &target);
    let traces = traces.iter().map(|trace| {
        let standing = match trace.standing {
            Standing::Decides => "decides".into(),
            Standing::Shadowed(before) => format!("shadowed by {before:?}"),
            Standing::OtherHost => "other host".into(),
            Standing::Fails(Condition::Path(_)) => "path".into(),
            Standing::Fails(Condition::Method(method)) => format!("method {method}"),
            Standing::Fails(Condition::Header(header)) => format!("header {}", header.name),
            Standing::Fails(Condition::Query(query)) => format!("query {}", query.name),
            Standing::Fails(Condition::Cookie(cookie)) => format!("cookie {}", cookie.name),
        };
        let host = trace.hostname.as_deref().unwrap_or("*");
        format!("{host} {}: {standing}", trace.candidate.rule.name)
    });
    traces.collect()
}

#[test]
fn a_trace_names_the_first_condition_that_fails() {
    let spec = |edit: fn(&mut Spec)| {
        let mut spec = prefix("/v1");
        edit(&mut spec);
        spec
    };
    let program = serving(vec![
        spec(|spec| spec.method = Some("POST".into())),
        spec(|spec| spec.headers = vec![value("x-a", "1")]),
        spec(|spec| spec.query = vec![value("q", "1"), value("r", "1")]),
        spec(|spec| spec.cookies = vec![value("c", "1")]),
        prefix("/v2"),
        regex("/v."),
        prefix("/v1"),
        prefix("/"),
    ]);
    let all = traced(&program, &get("/v1/orders?q=1"));
    let own: Vec<&str> = all
        .iter()
        .filter_map(|line| line.strip_prefix("orders.shop "))
        .collect();
    assert_eq!(
        own,
        [
            "5: path",
            "0: method POST",
            "1: header x-a",
            "2: query r",
            "3: cookie c",
            "4: path",
            "6: decides",
            "7: shadowed by Match",
        ],
        "{all:?}"
    );
    assert!(
        all.iter().any(|line| line.ends_with("other host")),
        "{all:?}"
    );
}

proptest! {
    /// The trace tells of the same decision, and of at most one.
    #[test]
    fn a_trace_agrees_with_the_decision(
        specs in prop::collection::vec(any_spec(), 1..6),
        path in prop::sample::select(vec!["/", "/a", "/a/b", "/a/b/c", "/b", "/c"]),
        method in prop::sample::select(vec!["GET", "POST"]),
    ) {
        let program = serving(specs);
        let facts = StaticFacts::new(method, "orders.shop", path);
        let target = crate::target::normalise(&facts).expect("a target");
        let traces = trace(program.table(APP).expect("routes"), &facts, &target);
        let decides: Vec<_> = traces
            .iter()
            .filter(|trace| matches!(trace.standing, Standing::Decides))
            .map(|trace| (trace.candidate.rule.index, trace.candidate.match_index))
            .collect();
        let found = find(&program, APP, &facts).ok();
        let found = found.map(|(matched, _)| (matched.rule.index, matched.match_index));
        prop_assert_eq!(decides, Vec::from_iter(found));
    }
}
