//! The order of the phases, seen from outside: what decides first, what refusals carry.

use super::{
    origin::{Origin, Reply},
    rig::{ALICE, BOB, Rig, cached, key_units, policy, policy_of, rule, with_key},
};
use sluice_snapshot::{
    UnitName,
    unit::{
        cache::CacheScope,
        policy::{KeyPart, Mode, Scope},
    },
};

fn address() -> KeyPart {
    KeyPart::ClientAddress {
        prefix_v4: 32,
        prefix_v6: 64,
    }
}

#[tokio::test]
async fn every_phase_decides_in_its_turn() {
    let origin = Origin::start(|_, _| Reply::with("cache-control: max-age=60", "private")).await;
    let mut guarded = rule("guarded", "/g");
    guarded.auth = with_key();
    guarded.policies = vec![
        UnitName::policy("shop", "flood"),
        UnitName::policy("shop", "plan"),
    ];
    guarded.cache = cached(CacheScope::Identity);
    let mut units = key_units();
    units.extend([
        policy("flood", address(), 8),
        policy("plan", KeyPart::Identity, 3),
    ]);
    let rig = Rig::with(origin.address, vec![guarded], units);
    let mut client = rig.client().await;

    // 1: a bad target is refused before anything is counted.
    let bad = client.ask("GET", "/g/%zz", &[ALICE]).await;
    assert_eq!(
        (bad.status, bad.header("ratelimit")),
        (400, None),
        "{bad:?}"
    );
    // 2: limits by address come before authentication, and a 401 carries them.
    let anonymous = client.ask("GET", "/g", &[]).await;
    assert_eq!(
        (anonymous.status, anonymous.problem()),
        (401, "unauthenticated")
    );
    assert!(
        anonymous.header("www-authenticate").is_some(),
        "{anonymous:?}"
    );
    assert_eq!(
        anonymous
            .header("ratelimit")
            .and_then(|text| text.split(';').nth(1)),
        Some("r=7"),
        "{anonymous:?}"
    );
    let wrong = client
        .ask("GET", "/g", &["x-api-key: no-such-key-0123456789"])
        .await;
    assert_eq!((wrong.status, wrong.problem()), (401, "bad-credentials"));
    // 3: a stored answer is given only to the one who may have it.
    let first = client.ask("GET", "/g", &[ALICE]).await;
    assert_eq!(
        (first.status, first.header("cache-status")),
        (200, Some("sluice; fwd=uri-miss; stored"))
    );
    let hit = client.ask("GET", "/g", &[ALICE]).await;
    assert!(
        hit.header("cache-status")
            .is_some_and(|status| status.starts_with("sluice; hit")),
        "{hit:?}"
    );
    assert_eq!(
        (hit.header("age"), hit.body.as_str()),
        (Some("0"), "private")
    );
    let other = client.ask("GET", "/g", &[BOB]).await;
    assert_eq!(
        other.header("cache-status"),
        Some("sluice; fwd=uri-miss; stored")
    );
    let nobody = client.ask("GET", "/g", &[]).await;
    assert_eq!(
        nobody.status, 401,
        "a stored answer is not given before authentication"
    );
    // 4: limits by identity count hits too.
    assert_eq!(client.ask("GET", "/g", &[ALICE]).await.status, 200);
    let over = client.ask("GET", "/g", &[ALICE]).await;
    assert_eq!((over.status, over.problem()), (429, "limit-exceeded"));
    assert!(
        over.header("retry-after").is_some() && over.header("ratelimit-policy").is_some(),
        "{over:?}"
    );
    // 5: now the address has used its eight; the credential does not matter any more.
    let flooded = client.ask("GET", "/g", &[]).await;
    assert_eq!((flooded.status, flooded.problem()), (429, "limit-exceeded"));
    assert_eq!(origin.seen().len(), 2, "alice's and bob's first");
    assert!(
        origin
            .seen()
            .iter()
            .all(|seen| seen.header("via") == Some("1.1 sluice"))
    );

    let lines = rig.lines(10).await;
    let phases: Vec<_> = lines
        .iter()
        .map(|line| line["phase"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(
        phases,
        [
            "target",
            "authenticate",
            "authenticate",
            "cache-store",
            "cache-lookup",
            "cache-store",
            "authenticate",
            "cache-lookup",
            "limit-by-identity",
            "limit-by-address"
        ]
    );
    assert_eq!(
        (&lines[8]["decided_by"], &lines[8]["decided_by_kind"]),
        (&"shop/plan/only".into(), &"RateLimitPolicy".into())
    );
    assert_eq!(
        (&lines[3]["identity"], &lines[3]["key_id"]),
        (&"keys|alice".into(), &"k1".into())
    );
    assert!(
        lines
            .iter()
            .all(|line| !line.to_string().contains("0123456789")),
        "no credential in the log"
    );
}

#[tokio::test]
async fn a_bucket_is_one_for_both_threads_and_shadow_only_counts() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let mut rules = vec![rule("limited", "/l"), rule("watched", "/w")];
    rules[0].policies = vec![UnitName::policy("shop", "flood")];
    rules[1].policies = vec![UnitName::policy("shop", "watch")];
    let units = vec![
        policy("flood", address(), 10),
        policy_of("watch", address(), 1, Scope::Local, Mode::Shadow),
    ];
    let rig = Rig::with(origin.address, rules, units);
    let mut admitted = 0;
    for _ in 0..40 {
        // A connection each, so that both threads take part.
        let answer = rig.client().await.ask("GET", "/l", &[]).await;
        admitted += u32::from(answer.status == 200);
    }
    assert_eq!(admitted, 10);
    for _ in 0..3 {
        let answer = rig.client().await.ask("GET", "/w", &[]).await;
        assert_eq!((answer.status, answer.header("ratelimit")), (200, None));
    }
    let report = crate::control::DataPlane::report(&*rig.shared, &mut Default::default());
    let watch = report
        .limits
        .iter()
        .find(|limit| limit.policy == "policy/shop/watch")
        .expect("reported");
    assert_eq!((watch.shadowed, watch.state.as_str()), (2, "Local"));
}

#[tokio::test]
async fn a_refused_request_gives_back_what_other_limits_gave() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let mut rules = vec![rule("both", "/both"), rule("wide", "/wide")];
    rules[0].policies = vec![
        UnitName::policy("shop", "a-wide"),
        UnitName::policy("shop", "b-narrow"),
    ];
    rules[1].policies = vec![UnitName::policy("shop", "a-wide")];
    let units = vec![
        policy("a-wide", address(), 5),
        policy("b-narrow", address(), 1),
    ];
    let rig = Rig::with(origin.address, rules, units);
    let mut client = rig.client().await;
    assert_eq!(client.ask("GET", "/both", &[]).await.status, 200);
    for _ in 0..10 {
        assert_eq!(client.ask("GET", "/both", &[]).await.status, 429);
    }
    let mut left = 0;
    while client.ask("GET", "/wide", &[]).await.status == 200 {
        left += 1;
    }
    assert_eq!(left, 4);
}

#[tokio::test]
async fn a_missing_policy_denies_its_rule_and_no_other() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let mut rules = vec![rule("broken", "/b"), rule("sound", "/s")];
    rules[0].policies = vec![UnitName::policy("shop", "nowhere")];
    let rig = Rig::with(origin.address, rules, Vec::new());
    let mut client = rig.client().await;
    let broken = client.ask("GET", "/b", &[]).await;
    assert_eq!(
        (broken.status, broken.problem()),
        (503, "config-policy-unavailable")
    );
    assert_eq!(client.ask("GET", "/s", &[]).await.status, 200);
}
