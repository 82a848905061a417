use std::collections::BTreeMap;

use proptest::prelude::*;
use sluice_snapshot::{
    Unit,
    unit::{
        ObjectRef,
        backend::{Endpoint, Endpoints},
        route::Target as To,
        shard_map::Held,
    },
};

use super::*;
use crate::{
    Program, UnitSet,
    facts::StaticFacts,
    fixture::{APP, compiled, edit_route, edit_shards, find, put, shop, to},
    program::Content,
};

/// Where a request to the app's port goes, in words.
fn goes(
    program: &Program,
    facts: &StaticFacts,
    identity: Option<&Identity>,
    random: u32,
) -> Result<String, Reject> {
    let (matched, target) = find(program, APP, facts)?;
    Ok(match choose(&matched, facts, &target, identity, random)? {
        Dispatch::App { .. } => "app".into(),
        Dispatch::Forward { backend, .. } => backend.service.clone(),
        Dispatch::Shard(choice) => {
            let ShardChoice {
                map,
                epoch,
                slot,
                shard,
                role,
                backend,
                held,
                max_pause_ms,
            } = choice;
            assert_eq!(
                (map, epoch, max_pause_ms),
                (&UnitName::shard_map("shop", "orders"), 7, 500)
            );
            assert!(backend.service.starts_with(shard));
            format!(
                "{slot} {shard} {role:?} {}{}",
                backend.service,
                if held { " held" } else { "" }
            )
        }
        Dispatch::Redirect { status, location } => format!("{status} {location}"),
    })
}

fn request(method: &str, target: &str) -> StaticFacts {
    StaticFacts::new(method, "orders.shop", target)
}

fn refusal(program: &Program, facts: &StaticFacts) -> (RejectReason, String) {
    let reject = goes(program, facts, None, 0).expect_err("refused");
    (reject.reason, reject.decider.path())
}

fn without(mut set: UnitSet, name: UnitName) -> UnitSet {
    set.units.remove(&name).expect("was there");
    set
}

#[test]
fn a_write_goes_to_the_primary_of_its_keys_shard() {
    let program = compiled(&shop());
    for (tenant, place) in [
        ("foo", "12182 s1 Primary s1"),
        ("bar", "5061 s0 Primary s0"),
        ("acme", "s0 Primary s0"),
    ] {
        for random in [0, 1 << 31, u32::MAX] {
            let went = goes(
                &program,
                &request("POST", "/v1/orders").with("X-Tenant", tenant),
                None,
                random,
            );
            assert!(
                went.as_ref().is_ok_and(|went| went.ends_with(place)),
                "{tenant}: {went:?}"
            );
        }
    }
    assert_ne!(
        shard::slot(b"acme") / 8192,
        0,
        "acme's slot is on s1: the pin moves it"
    );
}

#[test]
fn reads_are_spread_over_the_replicas_of_the_shard() {
    let program = compiled(&shop());
    for method in ["GET", "HEAD"] {
        let mut seen = BTreeMap::new();
        for random in (0..1000u32).map(|step| step << 22) {
            let went = goes(
                &program,
                &request(method, "/v1/orders?tenant=foo"),
                None,
                random,
            )
            .expect("served");
            *seen.entry(went).or_insert(0) += 1;
        }
        let places: Vec<_> = seen.keys().map(String::as_str).collect();
        assert_eq!(places, ["12182 s1 Replica s1-r0", "12182 s1 Replica s1-r1"]);
        assert!(
            seen.values().all(|count| (450..550).contains(count)),
            "{seen:?}"
        );
    }
    let patch = goes(
        &program,
        &request("PATCH", "/v1/orders?tenant=foo"),
        None,
        0,
    )
    .expect("served");
    assert_eq!(
        patch, "12182 s1 Primary s1",
        "a method that is not named as reading writes"
    );
}

#[test]
fn a_read_finds_another_answer_when_replicas_are_away() {
    let read = request("GET", "/v1/orders?tenant=foo");
    let mut set = without(shop(), UnitName::backend("shop", "s1-r0", 8080));
    for random in [0, u32::MAX] {
        let went = goes(&compiled(&set), &read, None, random).expect("served");
        assert_eq!(went, "12182 s1 Replica s1-r1", "the other replica");
    }
    let gone = Endpoints {
        ports: BTreeMap::new(),
        endpoints: vec![],
    };
    put(
        &mut set,
        UnitName::endpoints("shop", "s1-r1-x"),
        Unit::Endpoints(gone),
    );
    assert_eq!(
        goes(&compiled(&set), &read, None, 0).expect("served"),
        "12182 s1 Primary s1",
        "the primary"
    );
}

#[test]
fn the_first_source_that_is_present_gives_the_key() {
    let mut set = shop();
    edit_shards(&mut set, |map| {
        map.key = vec![
            KeySource::Claim {
                name: "tenant".into(),
            },
            KeySource::Header {
                name: "x-tenant".into(),
            },
            KeySource::Query {
                name: "tenant".into(),
            },
            KeySource::PathSegment { index: 2 },
        ];
    });
    let program = compiled(&set);
    let claims = serde_json::json!({"tenant": "from-claim"})
        .as_object()
        .cloned();
    let identity = Identity {
        claims,
        ..Identity::default()
    };
    let slot = |facts: &StaticFacts, identity| {
        let went = goes(&program, facts, identity, 0).expect("served");
        went.split(' ')
            .next()
            .expect("the slot")
            .parse::<u16>()
            .expect("a number")
    };
    let all = request("POST", "/v1/orders/from%2Dpath%2fx?tenant=from+query")
        .with("X-Tenant", "from-header");
    assert_eq!(slot(&all, Some(&identity)), shard::slot(b"from-claim"));
    assert_eq!(slot(&all, None), shard::slot(b"from-header"));
    let empty =
        request("POST", "/v1/orders/from%2Dpath%2fx?tenant=from%20query").with("X-Tenant", "");
    assert_eq!(
        slot(&empty, None),
        shard::slot(b"from query"),
        "an empty header is none; a space is a space however written"
    );
    assert_eq!(
        slot(&request("POST", "/v1/orders/from%2Dpath%2fx"), None),
        shard::slot(b"from-path/x")
    );
    assert_eq!(
        refusal(&program, &request("POST", "/v1/orders/")),
        (RejectReason::ShardKeyMissing, "shop/orders".into())
    );
}

#[test]
fn a_path_parameter_gives_the_key_decoded() {
    let mut set = shop();
    edit_shards(&mut set, |map| {
        map.key = vec![KeySource::PathParameter {
            name: "tenant".into(),
        }]
    });
    edit_route(&mut set, "orders", |route| {
        route.rules[2].action = to(&[(1, To::Shards(UnitName::shard_map("shop", "orders")))]);
    });
    let program = compiled(&set);
    let slot = |path: &str| goes(&program, &request("POST", path), None, 0).expect("served");
    assert!(slot("/v1/tenants/foo/x").starts_with("12182 s1"));
    assert!(slot("/v1/tenants/a%20b/x").starts_with(&format!("{} ", shard::slot(b"a b"))));
}

#[test]
fn a_request_without_key_is_refused_by_the_set() {
    let reject =
        goes(&compiled(&shop()), &request("GET", "/v1/orders"), None, 0).expect_err("no key");
    assert_eq!(reject.reason, RejectReason::ShardKeyMissing);
    assert_eq!(
        *reject.decider,
        Decider {
            object: Some(ObjectRef::new("ShardSet", "shop", "orders")),
            part: None
        }
    );
}

#[test]
fn held_slots_are_said_to_be_held() {
    let mut set = shop();
    edit_shards(&mut set, |map| {
        map.hold = vec![Held {
            first: 12_182,
            last: 12_182,
        }]
    });
    let program = compiled(&set);
    let went = |tenant: &str, method: &str| {
        goes(
            &program,
            &request(method, "/v1/orders").with("X-Tenant", tenant),
            None,
            0,
        )
        .expect("served")
    };
    assert_eq!(went("foo", "POST"), "12182 s1 Primary s1 held");
    assert_eq!(went("foo", "GET"), "12182 s1 Replica s1-r0 held");
    assert_eq!(went("bar", "POST"), "5061 s0 Primary s0");
}

#[test]
fn a_part_that_is_missing_refuses_what_it_covers() {
    let missing = RejectReason::Config(ConfigReason::BackendNotFound);
    let foo = request("POST", "/v1/orders?tenant=foo");
    let bar = request("POST", "/v1/orders?tenant=bar");
    let program = compiled(&without(shop(), UnitName::backend("shop", "s1", 8080)));
    assert_eq!(refusal(&program, &foo), (missing, "shop/orders/s1".into()));
    assert_eq!(
        goes(&program, &bar, None, 0).expect("the other shard"),
        "5061 s0 Primary s0"
    );

    let program = compiled(&without(shop(), UnitName::shard_map("shop", "orders")));
    assert_eq!(
        refusal(&program, &foo),
        (missing, "shop/orders/write".into())
    );

    let mut set = shop();
    let error = ConfigError::new(ConfigReason::SlotsUncovered, "slots 5-9 have no shard");
    edit_shards(&mut set, |map| map.broken = Some(error));
    assert_eq!(
        refusal(&compiled(&set), &bar),
        (
            RejectReason::Config(ConfigReason::SlotsUncovered),
            "shop/orders".into()
        )
    );

    let mut set = shop();
    let map = set
        .units
        .get_mut(&UnitName::shard_map("shop", "orders"))
        .expect("the map");
    map.content = Content::Denied(ConfigError::new(
        ConfigReason::SidecarTooOld,
        "restart the pod",
    ));
    assert_eq!(
        refusal(&compiled(&set), &bar),
        (
            RejectReason::Config(ConfigReason::SidecarTooOld),
            "shop/orders/write".into()
        )
    );
    let tenant = request("GET", "/v1/tenants/acme/x");
    assert_eq!(
        goes(&compiled(&set), &tenant, None, 0).expect("needs no shard"),
        "orders-v1"
    );
}

#[test]
fn weights_are_kept() {
    let program = compiled(&shop());
    let tenant = request("GET", "/v1/tenants/acme/x");
    let second = (0..10_000u32).filter(|step| {
        goes(&program, &tenant, None, step * 429_497).expect("served") == "orders-v2"
    });
    assert_eq!(second.count(), 1000, "10 of 100");
    assert_eq!(
        goes(&program, &tenant, None, u32::MAX).expect("served"),
        "orders-v2"
    );
}

#[test]
fn a_broken_target_refuses_its_share_and_no_more() {
    let program = compiled(&without(shop(), UnitName::backend("shop", "orders-v2", 80)));
    let tenant = request("GET", "/v1/tenants/acme/x");
    assert_eq!(
        goes(&program, &tenant, None, 0).expect("the other target"),
        "orders-v1"
    );
    let reject = goes(&program, &tenant, None, u32::MAX).expect_err("its share");
    assert_eq!(
        reject.reason,
        RejectReason::Config(ConfigReason::BackendNotFound)
    );
    assert_eq!(reject.decider.path(), "shop/orders/tenant");
}

#[test]
fn weights_of_zero_take_no_traffic() {
    let mut set = shop();
    let backend = |name: &str| To::Backend(UnitName::backend("shop", name, 80));
    edit_route(&mut set, "orders", |route| {
        route.rules[2].action = to(&[
            (0, backend("orders-v1")),
            (3, backend("orders-v2")),
            (0, To::App),
        ]);
    });
    let tenant = request("GET", "/v1/tenants/acme/x");
    for random in [0, 1 << 31, u32::MAX] {
        assert_eq!(
            goes(&compiled(&set), &tenant, None, random).expect("served"),
            "orders-v2"
        );
    }
    edit_route(&mut set, "orders", |route| {
        route.rules[2].action = to(&[(0, backend("orders-v1")), (0, To::App)])
    });
    assert_eq!(
        refusal(&compiled(&set), &tenant),
        (RejectReason::NoEndpoint, "shop/orders/tenant".into())
    );
}

#[test]
fn a_redirect_is_an_answer() {
    let went = goes(
        &compiled(&shop()),
        &request("GET", "/old/orders?x=1"),
        None,
        0,
    )
    .expect("answered");
    assert_eq!(went, "301 http://orders.shop/v1/orders?x=1");
}

#[test]
fn an_endpoint_is_a_ready_one_or_one_that_still_serves() {
    let mut set = shop();
    let backend = UnitName::backend("shop", "orders-v1", 80);
    let picked = |set: &UnitSet| {
        let program = compiled(set);
        let backend = program.backend(&backend).expect("present").clone();
        let picks = [0, 1 << 31, u32::MAX].map(|random| endpoint(&backend, random));
        picks
            .into_iter()
            .flatten()
            .map(|address| address.to_string())
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(
        picked(&set).into_iter().collect::<Vec<_>>(),
        ["10.0.10.1:8080", "10.0.10.2:8080"]
    );
    let mut slice = |states: [(bool, bool); 3]| {
        let endpoints = (1u8..)
            .zip(states)
            .map(|(host, (ready, serving))| Endpoint {
                address: [10, 0, 10, host].into(),
                ready,
                serving,
                hop: None,
            });
        let unit = Endpoints {
            ports: BTreeMap::from([("http".into(), 8080)]),
            endpoints: endpoints.collect(),
        };
        put(
            &mut set,
            UnitName::endpoints("shop", "orders-v1-x"),
            Unit::Endpoints(unit),
        );
        picked(&set).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(
        slice([(true, true), (false, true), (false, false)]),
        ["10.0.10.1:8080"]
    );
    assert_eq!(
        slice([(false, false), (false, true), (false, false)]),
        ["10.0.10.2:8080"]
    );
    assert!(slice([(false, false); 3]).is_empty());
}

#[test]
fn what_was_forwarded_is_not_forwarded_again() {
    let program = compiled(&shop());
    let again = |via: &[&str]| {
        let facts = via
            .iter()
            .fold(request("GET", "/v1/orders"), |facts, line| {
                facts.with("Via", line)
            });
        let (matched, _) = find(&program, APP, &facts).expect("routed");
        may_forward(&matched, &facts).map_err(|reject| (reject.reason, reject.decider.path()))
    };
    let refused = Err((RejectReason::Loop, "shop/orders/read".to_owned()));
    assert_eq!(again(&["1.1 sluice-fwd-00ff"]), refused);
    assert_eq!(
        again(&["1.1 proxy", "HTTP/1.1 edge , 2  Sluice-Fwd-1 (a comment)"]),
        refused
    );
    for passed in [
        &[][..],
        &["1.1 sluice"],
        &["1.1 sluice-edge-00ff"],
        &["1.1 proxy (sluice-fwd-1)", "sluice-fwd-1"],
    ] {
        assert_eq!(again(passed), Ok(()), "{passed:?}");
    }
}

proptest! {
    /// Whatever the draw: a target with a weight, never one without.
    #[test]
    fn a_chosen_target_has_a_weight(weights in prop::collection::vec(0u32..5, 1..6), random in any::<u32>()) {
        let targets: Vec<_> =
            weights.iter().map(|weight| WeightedTarget { weight: *weight, target: Ok(Destination::App), edits: None }).collect();
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let chosen = weighted(&targets, total, random);
        prop_assert_eq!(chosen.is_some(), total > 0);
        if let Some(chosen) = chosen {
            prop_assert!(targets.iter().any(|target| std::ptr::eq(target, chosen) && target.weight > 0));
        }
    }
}
