//! Which buckets a request takes from, and what clients are told.

use sluice_snapshot::{
    ConfigError, ConfigReason, UnitName,
    unit::policy::{Consistency, Global, StoreFailure, TokenBucket},
};

use super::*;
use crate::{auth::tests::rule, facts::StaticFacts};

fn limit(name: &str, key: Vec<KeyPart>, on_missing_key: OnMissingKey) -> unit::Limit {
    unit::Limit {
        name: name.into(),
        key,
        on_missing_key,
        bucket: TokenBucket {
            requests: 10,
            per_ms: 1000,
            burst: 20,
        },
        scope: Scope::Local,
    }
}

fn header(name: &str) -> KeyPart {
    KeyPart::Header { name: name.into() }
}

fn policy(name: &str, mode: Mode, limits: Vec<unit::Limit>) -> Arc<Policy> {
    let object = ObjectRef::new("RateLimitPolicy", "shop", name);
    Arc::new(
        Policy::compile(&LimitPolicy {
            object,
            mode,
            headers: true,
            limits,
            broken: None,
        })
        .expect("compiles"),
    )
}

fn rule_with(policies: Vec<Arc<Policy>>) -> Rule {
    Rule {
        policies: policies.into_iter().map(Ok).collect(),
        ..rule(None)
    }
}

/// The header fields as an answer has them.
fn render(verdicts: &[Verdict]) -> Vec<(&'static str, String)> {
    let field = |field: headers::Field| {
        let mut value = Vec::new();
        let any = field.write(verdicts, |bytes| value.extend_from_slice(bytes));
        assert_eq!(any, !value.is_empty());
        any.then(|| (field.name(), String::from_utf8(value).expect("text")))
    };
    headers::Field::ALL.into_iter().filter_map(field).collect()
}

fn names(charges: &[Charge<'_>]) -> Vec<String> {
    charges
        .iter()
        .map(|charge| charge.limit.name.clone())
        .collect()
}

#[test]
fn a_limit_runs_as_early_as_its_key_is_known() {
    let limits = vec![
        limit("all", vec![], OnMissingKey::Deny),
        limit("by-header", vec![header("x-tenant")], OnMissingKey::Deny),
        limit(
            "by-identity",
            vec![header("x-tenant"), KeyPart::Identity],
            OnMissingKey::Deny,
        ),
    ];
    let rule = rule_with(vec![policy("plans", Mode::Enforce, limits)]);
    let facts = StaticFacts::new("GET", "x", "/").with("x-tenant", "acme");
    let identity = Identity {
        provider: "keys".into(),
        subject: "alice".into(),
        ..Identity::default()
    };
    assert_eq!(
        names(&charges(&rule, When::Address, &facts, None).expect("charges")),
        ["all", "by-header"]
    );
    assert_eq!(
        names(&charges(&rule, When::Identity, &facts, Some(&identity)).expect("charges")),
        ["by-identity"]
    );
}

#[test]
fn a_missing_key_denies_skips_or_shares() {
    let facts = StaticFacts::new("GET", "x", "/");
    let run = |on_missing, mode| {
        let policy = policy(
            "plans",
            mode,
            vec![limit("per-tenant", vec![header("x-tenant")], on_missing)],
        );
        let rule = rule_with(vec![policy]);
        let charges = charges(&rule, When::Address, &facts, None);
        charges.map(|charges| {
            charges
                .into_iter()
                .map(|charge| charge.key)
                .collect::<Vec<_>>()
        })
    };
    let reject = run(OnMissingKey::Deny, Mode::Enforce).expect_err("refused");
    assert_eq!(
        (reject.reason, reject.decider.path().as_str()),
        (RejectReason::LimitKeyMissing, "shop/plans/per-tenant")
    );
    assert_eq!(
        run(OnMissingKey::Deny, Mode::Shadow),
        Ok(vec![]),
        "a shadow refuses nothing"
    );
    assert_eq!(run(OnMissingKey::Skip, Mode::Enforce), Ok(vec![]));
    let shared = run(OnMissingKey::SharedBucket, Mode::Enforce).expect("charged");
    assert_eq!(
        shared,
        run(OnMissingKey::SharedBucket, Mode::Enforce).expect("charged")
    );
}

#[test]
fn a_policy_that_is_missing_or_broken_refuses() {
    let facts = StaticFacts::new("GET", "x", "/");
    let error = ConfigError::new(ConfigReason::PolicyUnavailable, "gone");
    let missing = Rule {
        policies: vec![Err(error.clone())],
        ..rule(None)
    };
    let reject = charges(&missing, When::Address, &facts, None).expect_err("refused");
    assert_eq!(
        reject.reason,
        RejectReason::Config(ConfigReason::PolicyUnavailable)
    );
    assert_eq!(reject.decider.path(), "shop/orders/read");
    let object = ObjectRef::new("RateLimitPolicy", "shop", "plans");
    let unit = LimitPolicy {
        object,
        mode: Mode::Enforce,
        headers: true,
        limits: vec![],
        broken: Some(error),
    };
    let broken = rule_with(vec![Arc::new(Policy::compile(&unit).expect("compiles"))]);
    let reject = charges(&broken, When::Address, &facts, None).expect_err("refused");
    assert_eq!(
        (
            reject.reason.describe().status,
            reject.decider.path().as_str()
        ),
        (503, "shop/plans")
    );
}

#[test]
fn global_limits_have_terms() {
    let mut unit = limit("global", vec![], OnMissingKey::Deny);
    unit.scope = Scope::Global(Global {
        store: UnitName::store("default"),
        consistency: Consistency::Leased,
        max_overshoot_ppm: 10_000,
        max_wait_ms: 10,
        on_store_failure: StoreFailure::LocalShare,
        fleet: UnitName::fleet("shop", "plans"),
    });
    let policy = policy(
        "plans",
        Mode::Enforce,
        vec![unit, limit("local", vec![], OnMissingKey::Deny)],
    );
    assert!(policy.limits[0].terms.is_some() && policy.limits[1].terms.is_none());
    assert_eq!(policy.limits[0].id.as_str(), "shop/plans/global");
}

#[test]
fn the_limit_with_the_longest_wait_refuses_and_a_shadow_never() {
    let enforced = policy(
        "plans",
        Mode::Enforce,
        vec![
            limit("a", vec![], OnMissingKey::Deny),
            limit("b", vec![], OnMissingKey::Deny),
        ],
    );
    let shadow = policy(
        "trial",
        Mode::Shadow,
        vec![limit("c", vec![], OnMissingKey::Deny)],
    );
    let rule = rule_with(vec![enforced, shadow]);
    let facts = StaticFacts::new("GET", "x", "/");
    let charges = charges(&rule, When::Address, &facts, None).expect("charges");
    let refuse = |retry_after_us| Decision::Refuse {
        retry_after_us,
        remaining: 0,
        reset_us: 1_500_000,
    };
    let admit = Decision::Admit {
        tat: 0,
        remaining: 7,
        reset_us: 100_000,
    };
    let verdicts = |decisions: [Decision; 3]| -> Vec<Verdict> {
        charges
            .iter()
            .zip(decisions)
            .map(|(charge, decision)| Verdict::new(charge, decision))
            .collect()
    };
    assert_eq!(refusal(&verdicts([admit, admit, refuse(9_000_000)])), None);
    let reject =
        refusal(&verdicts([refuse(1), refuse(2_000_001), refuse(9_000_000)])).expect("refused");
    assert_eq!(
        (reject.reason, reject.retry_after_s),
        (RejectReason::LimitExceeded, Some(3))
    );
    assert_eq!(reject.decider.path(), "shop/plans/b");
    assert_eq!(
        refusal(&verdicts([refuse(1), admit, admit]))
            .expect("refused")
            .retry_after_s,
        Some(1),
        "never zero"
    );
    // Headers: the enforced limits in their order, the shadow's not.
    assert_eq!(
        render(&verdicts([admit, refuse(1), refuse(1)])),
        [
            (
                "ratelimit-policy",
                r#""a";q=20;w=2, "b";q=20;w=2"#.to_owned()
            ),
            ("ratelimit", r#""a";r=7;t=1, "b";r=0;t=2"#.to_owned()),
        ]
    );
}

#[test]
fn headers_tell_limits_of_one_name_apart_and_can_be_off() {
    let facts = StaticFacts::new("GET", "x", "/");
    let admit = Decision::Admit {
        tat: 0,
        remaining: 7,
        reset_us: 1,
    };
    let told = |policies: Vec<Arc<Policy>>| {
        let rule = rule_with(policies);
        let charges = charges(&rule, When::Address, &facts, None).expect("charges");
        render(
            &charges
                .iter()
                .map(|charge| Verdict::new(charge, admit))
                .collect::<Vec<_>>(),
        )
    };
    let one = |name| {
        policy(
            name,
            Mode::Enforce,
            vec![limit("per-client", vec![], OnMissingKey::Deny)],
        )
    };
    assert_eq!(
        told(vec![one("a"), one("b")])[1].1,
        r#""a/per-client";r=7;t=1, "b/per-client";r=7;t=1"#
    );
    let quiet = LimitPolicy {
        object: ObjectRef::new("RateLimitPolicy", "shop", "quiet"),
        mode: Mode::Enforce,
        headers: false,
        limits: vec![limit("a", vec![], OnMissingKey::Deny)],
        broken: None,
    };
    assert!(told(vec![Arc::new(Policy::compile(&quiet).expect("compiles"))]).is_empty());
    assert!(told(vec![]).is_empty());
}
