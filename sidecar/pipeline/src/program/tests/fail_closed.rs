//! Losing configuration never opens anything: with units gone or denied, a request that was refused is still refused,
//! and one that needs nothing of what was lost meets what it met before.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    Decider,
    admit::admit,
    auth::{NoMemory, authenticate},
    dispatch::{Dispatch, choose},
    fixture::ALICE,
    ratelimit::{When, charges},
};

/// What became of a request: where it goes, with how many charges; or who refused it and why.
type Verdict = Result<(String, usize), (RejectReason, Decider)>;

/// Every phase that decides by configuration, in order.
fn verdict(program: &Program, port: u16, facts: &StaticFacts) -> Verdict {
    let decide = || {
        admit(facts)?;
        let (matched, target) = find(program, port, facts)?;
        matched.within(facts, None)?;
        let by_address = charges(matched.rule, When::Address, facts, None)?.len();
        let identity = match authenticate(matched.rule, facts, &target, &mut NoMemory, 0)? {
            crate::auth::Outcome::Anonymous => None,
            crate::auth::Outcome::Identified(authenticated) => Some(authenticated.identity),
        };
        let by_identity = charges(matched.rule, When::Identity, facts, identity.as_deref())?.len();
        let place = match choose(&matched, facts, &target, identity.as_deref(), 1 << 31)? {
            Dispatch::App { .. } => "app".to_owned(),
            Dispatch::Forward { backend, .. } => backend.name.to_string(),
            // Which replica reads is luck, also before.
            Dispatch::Shard(choice) => format!("{} {}", choice.slot, choice.shard),
            Dispatch::Redirect { location, .. } => location,
        };
        Ok((place, by_address + by_identity))
    };
    decide().map_err(|reject: Reject| (reject.reason, *reject.decider))
}

/// Requests of every kind to every rule, good and bad.
fn requests() -> Vec<(u16, StaticFacts)> {
    let orders = |method: &str, target: &str| StaticFacts::new(method, "orders.shop", target);
    vec![
        (APP, orders("GET", "/v1/orders?tenant=foo")),
        (APP, orders("GET", "/v1/orders?tenant=bar")),
        (APP, orders("GET", "/v1/orders")),
        (APP, orders("POST", "/v1/orders?tenant=foo")),
        (
            APP,
            orders("POST", "/v1/orders?tenant=foo").with("X-Api-Key", "wrong-but-long-enough"),
        ),
        (
            APP,
            orders("POST", "/v1/orders?tenant=foo").with("X-Api-Key", ALICE),
        ),
        (
            APP,
            orders("POST", "/v1/orders?tenant=bar").with("X-Api-Key", ALICE),
        ),
        (APP, orders("GET", "/v1/tenants/acme/x")),
        (APP, orders("GET", "/old/x")),
        (APP, orders("GET", "/nothing")),
        (
            APP,
            StaticFacts::new("POST", "a.orders.shop", "/v1/orders?tenant=foo"),
        ),
        (APP, StaticFacts::new("GET", "inventory.shop", "/")),
        (APP, StaticFacts::new("GET", "stranger", "/")),
        (ADMIN, StaticFacts::new("GET", "anything", "/x")),
    ]
}

/// Everything that a request to a route may need: the route and what it reaches, and the root.
fn closure(set: &UnitSet, route: &str) -> BTreeSet<UnitName> {
    let mut found = BTreeSet::from([name("inbound/shop/orders")]);
    let mut next = vec![name(route)];
    while let Some(unit) = next.pop() {
        if let Some(Held {
            content: Content::Unit(body),
            ..
        }) = set.units.get(&unit)
        {
            next.extend(body.needs());
        }
        found.insert(unit);
    }
    found
}

#[test]
fn the_requests_meet_every_kind_of_answer() {
    let program = compiled(&shop());
    let verdicts: Vec<Verdict> = requests()
        .iter()
        .map(|(port, facts)| verdict(&program, *port, facts))
        .collect();
    assert_eq!(
        verdicts.iter().filter(|verdict| verdict.is_ok()).count(),
        8,
        "{verdicts:#?}"
    );
    for reason in [
        RejectReason::NoRoute,
        RejectReason::ShardKeyMissing,
        RejectReason::Unauthenticated,
        RejectReason::BadCredentials,
    ] {
        assert!(
            verdicts
                .iter()
                .any(|verdict| matches!(verdict, Err((found, _)) if *found == reason)),
            "{reason:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_time: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn a_loss_never_admits_what_was_refused_and_spoils_only_what_needs_it(
        lost in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..6),
        step_by_step in any::<bool>(),
    ) {
        let whole = shop();
        let before = compiled(&whole);
        let mut set = whole.clone();
        let mut gone = BTreeSet::new();
        for (index, denied) in lost {
            let unit = whole.units.keys().nth(index.index(whole.units.len())).expect("below the count");
            gone.insert(unit.clone());
            if denied {
                let content = Content::Denied(ConfigError::new(ConfigReason::SidecarTooOld, "restart the pod"));
                set.units.insert(unit.clone(), Held { content, ..whole.units[unit].clone() });
            } else {
                set.units.remove(unit);
            }
        }
        let after = Program::compile(&set, step_by_step.then_some(&before)).expect("a loss always compiles");
        for (port, facts) in requests() {
            let (was, is) = (verdict(&before, port, &facts), verdict(&after, port, &facts));
            match (&was, &is) {
                (Err(_), Ok(_)) => prop_assert!(false, "{facts:?}: was {was:?}, is {is:?}"),
                // Fewer charges would be a limit that vanished.
                (Ok(was), Ok(is)) => prop_assert_eq!(was, is),
                _ => {}
            }
            let route = match (port, facts.authority.as_deref()) {
                (ADMIN, _) => "route/shop/admin",
                (_, Some("inventory.shop")) => "route/shop/inventory",
                _ => "route/shop/orders",
            };
            if closure(&whole, route).is_disjoint(&gone) {
                prop_assert_eq!(was, is, "{:?} needs nothing of {:?}", facts, gone);
            }
        }
    }
}

/// One after the other: every unit, gone and denied. What then refuses is configuration, and says which object it is.
#[test]
fn whatever_is_lost_the_refusal_is_of_configuration_and_has_a_name() {
    let whole = shop();
    let before = compiled(&whole);
    let mut refused = BTreeSet::new();
    for unit in whole.units.keys() {
        for (set, _) in losses(&whole, unit.as_str()) {
            let after = compiled(&set);
            for (port, facts) in requests() {
                let (was, is) = (
                    verdict(&before, port, &facts),
                    verdict(&after, port, &facts),
                );
                if let (Ok(_), Err((reason, decider))) = (was, is) {
                    assert!(
                        matches!(reason, RejectReason::Config(_)),
                        "{unit}: {reason:?}"
                    );
                    let root = unit.as_str().starts_with("inbound/");
                    assert!(
                        root || decider.object.is_some(),
                        "{unit}: {reason:?} by nobody"
                    );
                    refused.insert(unit.kind());
                }
            }
        }
    }
    use sluice_snapshot::UnitKind::{
        Backend, Inbound, Keys, Policy, Route, Secret, ShardMap, Store,
    };
    assert_eq!(
        refused,
        BTreeSet::from([
            Inbound, Route, Policy, Backend, ShardMap, Store, Keys, Secret
        ])
    );
}
