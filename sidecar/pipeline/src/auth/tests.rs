//! Requirements: what is present, what decides, what is refused. The methods have tests of their own.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use sluice_snapshot::{
    SecretBytes,
    unit::{
        Keys, ObjectRef, Secret,
        route::{HeaderEdits, Timeouts},
    },
};

use super::*;
use crate::{
    facts::StaticFacts,
    program::{Action, Requirement},
    stable_id::StableId,
};

/// Unix seconds of every test.
pub(super) const NOW: i64 = 1_763_800_000;
const SALT: &[u8] = b"a salt that has thirty-two bytes";

/// A rule `shop/orders/read` with nothing but a requirement.
pub(crate) fn rule(auth: Option<Requirement>) -> Rule {
    Rule {
        index: 0,
        id: StableId::new(&ObjectRef::new("ApiRoute", "shop", "orders"), "read"),
        name: "read".into(),
        object: ObjectRef::new("ApiRoute", "shop", "orders"),
        matches: Arc::from([]),
        auth,
        policies: Vec::new(),
        cache: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        extras: None,
        timeouts: Timeouts::default(),
        action: Action::Backends {
            targets: Vec::new(),
            total: 0,
        },
        broken: None,
    }
}

pub(super) fn target(facts: &StaticFacts) -> Target {
    Target {
        raw_path: facts.path.clone(),
        path: facts.path.clone(),
        query: facts.query.clone(),
    }
}

/// A keys unit `keys/shop/orders/<provider>` with one Secret.
pub(super) fn ring_of(purpose: Purpose, subject: &str, entries: &[(&str, &[u8])]) -> Arc<KeyRing> {
    let secret = Secret {
        purpose,
        subject: subject.into(),
        attributes: BTreeMap::from([("plan".into(), "gold".into())]),
        entries: entries
            .iter()
            .map(|(id, key)| {
                let material = match purpose {
                    Purpose::ApiKeys => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SALT), key)
                        .as_ref()
                        .to_vec(),
                    _ => key.to_vec(),
                };
                ((*id).to_owned(), SecretBytes::new(material))
            })
            .collect(),
        salt: (purpose == Purpose::ApiKeys).then(|| SecretBytes::new(SALT.to_vec())),
    };
    let keys = Keys {
        secrets: vec![UnitName::secret("shop", subject, "00")],
        entry: None,
    };
    Arc::new(KeyRing::build(&keys, &[Arc::new(secret)]))
}

/// API keys in the header `x-<name>`: the key `<name>-key` is good.
fn api_keys(name: &str) -> Arc<Provider> {
    let unit = unit::Provider {
        name: name.into(),
        method: unit::Method::ApiKey(unit::ApiKey {
            header: format!("x-{name}"),
            keys: UnitName::keys("shop", "orders", name),
        }),
    };
    let ring = ring_of(
        Purpose::ApiKeys,
        &format!("{name}-subject"),
        &[("k1", format!("{name}-key").as_bytes())],
    );
    Arc::new(Provider::compile(&unit, &|_| Some(ring.clone())))
}

/// A provider whose keys are missing.
fn broken_keys(name: &str) -> Arc<Provider> {
    let unit = unit::Provider {
        name: name.into(),
        method: unit::Method::ApiKey(unit::ApiKey {
            header: format!("x-{name}"),
            keys: UnitName::keys("shop", "orders", name),
        }),
    };
    Arc::new(Provider::compile(&unit, &|_| None))
}

fn any_of(alternatives: Vec<Vec<Arc<Provider>>>, anonymous: Anonymous) -> Rule {
    rule(Some(Requirement {
        any_of: alternatives,
        anonymous,
    }))
}

fn run(rule: &Rule, headers: &[(&str, &str)]) -> Result<Outcome, Reject> {
    let facts = headers.iter().fold(
        StaticFacts::new("GET", "shop.example", "/"),
        |facts, (name, value)| facts.with(name, value),
    );
    authenticate(rule, &facts, &target(&facts), &mut NoMemory, NOW)
}

fn subject(outcome: Result<Outcome, Reject>) -> String {
    match outcome {
        Ok(Outcome::Identified(authenticated)) => authenticated.identity.subject.clone(),
        Ok(Outcome::Anonymous) => "anonymous".into(),
        Err(reject) => format!(
            "{} by {}",
            reject.reason.describe().name,
            reject.decider.path()
        ),
    }
}

#[test]
fn without_a_requirement_everyone_is_anonymous() {
    assert_eq!(
        subject(run(&rule(None), &[("x-a", "whatever")])),
        "anonymous"
    );
}

#[test]
fn the_first_alternative_that_is_present_decides() {
    let rule = any_of(
        vec![vec![api_keys("a")], vec![api_keys("b")]],
        Anonymous::Deny,
    );
    assert_eq!(subject(run(&rule, &[("x-b", "b-key")])), "b-subject");
    assert_eq!(
        subject(run(&rule, &[("x-b", "b-key"), ("x-a", "a-key")])),
        "a-subject"
    );
    // Present and bad is a refusal, although the second would do.
    assert_eq!(
        subject(run(&rule, &[("x-b", "b-key"), ("x-a", "wrong")])),
        "bad-credentials by shop/orders/a"
    );
    assert_eq!(
        subject(run(&rule, &[])),
        "unauthenticated by shop/orders/read"
    );
}

#[test]
fn all_of_needs_all_and_the_first_is_the_identity() {
    let rule = any_of(vec![vec![api_keys("a"), api_keys("b")]], Anonymous::Deny);
    let Ok(Outcome::Identified(both)) = run(&rule, &[("x-a", "a-key"), ("x-b", "b-key")]) else {
        panic!("both")
    };
    assert_eq!(both.identity.subject, "a-subject");
    let [other] = both.others.as_slice() else {
        panic!("{:?}", both.others)
    };
    assert_eq!(
        (other.provider.as_str(), other.subject.as_str()),
        ("b", "b-subject")
    );
    assert_eq!(
        subject(run(&rule, &[("x-a", "a-key"), ("x-b", "wrong")])),
        "bad-credentials by shop/orders/b"
    );
    assert_eq!(
        subject(run(&rule, &[("x-a", "a-key")])),
        "unauthenticated by shop/orders/read"
    );
}

#[test]
fn only_a_request_without_any_credential_is_anonymous() {
    let rule = any_of(vec![vec![api_keys("a"), api_keys("b")]], Anonymous::Allow);
    assert_eq!(subject(run(&rule, &[])), "anonymous");
    assert_eq!(
        subject(run(&rule, &[("x-a", "a-key")])),
        "unauthenticated by shop/orders/read"
    );
    assert_eq!(
        subject(run(&rule, &[("x-a", "wrong"), ("x-b", "b-key")])),
        "bad-credentials by shop/orders/a"
    );
}

#[test]
fn a_broken_provider_is_503_and_never_401_or_anonymous() {
    for anonymous in [Anonymous::Deny, Anonymous::Allow] {
        let rule = any_of(vec![vec![broken_keys("a")], vec![api_keys("b")]], anonymous);
        assert_eq!(
            subject(run(&rule, &[])),
            "config-secret-not-found by shop/orders/a"
        );
        assert_eq!(
            subject(run(&rule, &[("x-a", "a-key")])),
            "config-secret-not-found by shop/orders/a"
        );
        assert_eq!(subject(run(&rule, &[("x-b", "b-key")])), "b-subject");
        assert_eq!(
            subject(run(&rule, &[("x-b", "wrong")])),
            "bad-credentials by shop/orders/b"
        );
    }
    let rule = any_of(vec![vec![broken_keys("a"), api_keys("b")]], Anonymous::Deny);
    assert_eq!(
        subject(run(&rule, &[("x-b", "b-key")])),
        "config-secret-not-found by shop/orders/a"
    );
}

#[test]
fn a_requirement_that_names_nobody_admits_nobody() {
    assert_eq!(
        subject(run(&any_of(vec![], Anonymous::Deny), &[])),
        "unauthenticated by shop/orders/read"
    );
    assert_eq!(
        subject(run(&any_of(vec![vec![]], Anonymous::Deny), &[])),
        "unauthenticated by shop/orders/read"
    );
}

#[test]
fn keys_of_another_purpose_break_the_provider() {
    let unit = unit::Provider {
        name: "a".into(),
        method: unit::Method::ApiKey(unit::ApiKey {
            header: "x-a".into(),
            keys: UnitName::keys("shop", "orders", "a"),
        }),
    };
    let ring = ring_of(Purpose::JwtKeys, "a", &[("k", &[1; 32])]);
    let provider = Provider::compile(&unit, &|_| Some(ring.clone()));
    assert!(
        matches!(provider.method, Method::Broken(error) if error.reason == ConfigReason::SecretNotUsable)
    );
}

#[test]
fn api_keys_stand_once_and_are_not_quoted() {
    let rule = any_of(vec![vec![api_keys("a")]], Anonymous::Deny);
    assert_eq!(subject(run(&rule, &[("x-a", " a-key ")])), "a-subject");
    for headers in [
        &[("x-a", "a-key"), ("x-a", "a-key")][..],
        &[("x-a", "")],
        &[("x-a", "a-key,b-key")],
    ] {
        assert_eq!(
            subject(run(&rule, headers)),
            "bad-credentials by shop/orders/a",
            "{headers:?}"
        );
    }
    let reject = run(&rule, &[("x-a", "hunter2")]).expect_err("refused");
    assert!(!format!("{reject:?}").contains("hunter2"));
}

#[test]
fn challenges_name_each_way_once() {
    let jwt = unit::Provider {
        name: "tokens".into(),
        method: unit::Method::Jwt(unit::Jwt {
            issuer: None,
            audiences: vec![],
            algorithms: vec![unit::JwtAlgorithm::HS256],
            keys: unit::JwtKeys::Keys(UnitName::keys("shop", "orders", "tokens")),
            attributes: vec![],
            scopes_claim: "scope".into(),
            leeway_ms: 0,
        }),
    };
    let ring = ring_of(Purpose::JwtKeys, "a", &[("k", &[1; 32])]);
    let jwt = Arc::new(Provider::compile(&jwt, &|_| Some(ring.clone())));
    let rule = any_of(
        vec![
            vec![jwt.clone()],
            vec![jwt, api_keys("a")],
            vec![broken_keys("b")],
        ],
        Anonymous::Deny,
    );
    assert_eq!(
        challenge(&rule),
        [
            r#"Bearer realm="api""#,
            r#"ApiKey realm="api", header="x-a""#
        ]
    );
    assert_eq!(
        challenge_after(&rule, RejectReason::BadToken)[0],
        r#"Bearer realm="api", error="invalid_token""#
    );
}

/// The hash of a provider's keys, and a token.
type Asked = ([u8; 32], Vec<u8>);

/// A memory that forgets nothing, for the tests of tokens.
#[derive(Default)]
pub(super) struct Memory {
    pub known: BTreeMap<Asked, (Arc<Identity>, i64)>,
    pub hits: usize,
}

impl VerifiedTokens for Memory {
    fn get(&mut self, keys: &[u8; 32], token: &[u8], wall_s: i64) -> Option<Arc<Identity>> {
        let (identity, _) = self
            .known
            .get(&(*keys, token.to_vec()))
            .filter(|(_, expires_s)| wall_s < *expires_s)?;
        self.hits += 1;
        Some(identity.clone())
    }

    fn put(&mut self, keys: &[u8; 32], token: &[u8], identity: Arc<Identity>, expires_s: i64) {
        self.known
            .insert((*keys, token.to_vec()), (identity, expires_s));
    }
}
