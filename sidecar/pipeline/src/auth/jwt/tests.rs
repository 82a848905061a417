//! Tokens, put together by hand: what verifies, and every way around that is known.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use proptest::prelude::*;
use serde_json::json;
use sluice_snapshot::{UnitName, unit::secret::Purpose};

use super::*;
use crate::{
    auth::{
        Anonymous, Method, NoMemory, Outcome, Provider, authenticate,
        tests::{Memory, NOW, ring_of, rule, target},
    },
    facts::StaticFacts,
    program::{Requirement, Rule},
};

const SECRET: &[u8] = b"a secret that has thirty-two byte";

fn unit(algorithms: &[JwtAlgorithm], keys: JwtKeys) -> unit::Jwt {
    unit::Jwt {
        issuer: Some("https://id.example".into()),
        audiences: vec!["api".into(), "other".into()],
        algorithms: algorithms.to_vec(),
        keys,
        attributes: vec![ClaimAttribute {
            name: "tenant".into(),
            claim: "org".into(),
        }],
        scopes_claim: "scope".into(),
        leeway_ms: 30_000,
    }
}

fn shared() -> JwtKeys {
    JwtKeys::Keys(UnitName::keys("shop", "orders", "tokens"))
}

fn hs256() -> Jwt {
    let ring = ring_of(Purpose::JwtKeys, "issuer-secret", &[("k1", SECRET)]);
    Jwt::new(
        "tokens",
        &unit(&[JwtAlgorithm::HS256], shared()),
        Some(ring),
    )
    .expect("compiles")
}

fn claims() -> Value {
    json!({
        "iss": "https://id.example", "sub": "alice", "aud": ["x", "api"], "exp": NOW + 60, "nbf": NOW - 60,
        "scope": "orders:read orders:write", "org": "acme", "level": 3,
    })
}

fn message(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    )
}

fn with_hmac(secret: &[u8], header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, secret),
        message.as_bytes(),
    );
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn good(claims: &Value) -> String {
    with_hmac(
        SECRET,
        &json!({"alg": "HS256", "typ": "JWT", "kid": "k1"}),
        claims,
    )
}

fn facts(token: &str) -> StaticFacts {
    StaticFacts::new("GET", "shop.example", "/").with("authorization", &format!("Bearer {token}"))
}

fn verify(jwt: &Jwt, token: &str) -> Result<Arc<Identity>, Reject> {
    jwt.verify("tokens", &facts(token), &mut NoMemory, NOW)
}

fn refused(jwt: &Jwt, token: &str) -> bool {
    matches!(verify(jwt, token), Err(reject) if reject.reason == RejectReason::BadToken)
}

/// An RSA and an EC key, and the set that publishes them.
struct Issuer {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
}

impl Issuer {
    fn new() -> Self {
        Self {
            rsa: RsaKeyPair::generate(rsa::KeySize::Rsa2048).expect("RSA key"),
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("EC key"),
        }
    }

    fn rsa_jwk(&self) -> Value {
        let public: rsa::PublicKeyComponents<Vec<u8>> = self.rsa.public_key().into();
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "RSA", "kid": "r1", "use": "sig", "alg": "RS256", "n": encoded(&public.n), "e": encoded(&public.e)})
    }

    fn ec_jwk(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "kid": "e1", "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
    }

    fn jwt(&self, algorithms: &[JwtAlgorithm]) -> Jwt {
        let set = json!({"keys": [self.rsa_jwk(), self.ec_jwk()]}).to_string();
        Jwt::new("tokens", &unit(algorithms, JwtKeys::Inline(set)), None).expect("compiles")
    }

    fn rs256(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let mut tag = vec![0; self.rsa.public_modulus_len()];
        self.rsa
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message.as_bytes(),
                &mut tag,
            )
            .expect("signs");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn es256(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let tag = self
            .ec
            .sign(&SystemRandom::new(), message.as_bytes())
            .expect("signs");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }
}

#[test]
fn a_good_token_gives_subject_scopes_attributes_and_claims() {
    let identity = verify(&hs256(), &good(&claims())).expect("verifies");
    assert_eq!(identity.subject, "https://id.example|alice");
    assert_eq!(identity.scopes, ["orders:read", "orders:write"]);
    assert_eq!(identity.attributes["tenant"], "acme");
    // The Secret speaks for its key, not for the token's subject.
    assert_eq!(identity.attributes.len(), 1);
    assert_eq!(identity.key_id.as_deref(), Some("k1"));
    assert_eq!(identity.claim("level").as_deref(), Some("3"));
}

#[test]
fn public_keys_verify_their_own_algorithm() {
    let issuer = Issuer::new();
    let jwt = issuer.jwt(&[JwtAlgorithm::RS256, JwtAlgorithm::ES256]);
    assert!(
        verify(
            &jwt,
            &issuer.rs256(&json!({"alg": "RS256", "kid": "r1"}), &claims())
        )
        .is_ok()
    );
    assert!(
        verify(
            &jwt,
            &issuer.es256(&json!({"alg": "ES256", "kid": "e1"}), &claims())
        )
        .is_ok()
    );
    // Without a kid: there is one key for each algorithm.
    assert!(verify(&jwt, &issuer.es256(&json!({"alg": "ES256"}), &claims())).is_ok());
    assert!(refused(
        &jwt,
        &issuer.rs256(&json!({"alg": "RS256", "kid": "e1"}), &claims())
    ));
    assert!(refused(
        &jwt,
        &issuer.rs256(&json!({"alg": "ES256", "kid": "e1"}), &claims())
    ));
    // An algorithm that has a key but is not in the list.
    let only_es256 = issuer.jwt(&[JwtAlgorithm::ES256]);
    assert!(refused(
        &only_es256,
        &issuer.rs256(&json!({"alg": "RS256", "kid": "r1"}), &claims())
    ));
    // Another issuer's key under the same id.
    assert!(refused(
        &jwt,
        &Issuer::new().es256(&json!({"alg": "ES256", "kid": "e1"}), &claims())
    ));
}

#[test]
fn a_signature_is_that_of_its_message_and_whole() {
    let issuer = Issuer::new();
    let jwt = issuer.jwt(&[JwtAlgorithm::RS256, JwtAlgorithm::ES256]);
    let mut elsewhere = claims();
    elsewhere["sub"] = json!("mallory");
    for (jwt, token, other) in [
        (&hs256(), good(&claims()), good(&elsewhere)),
        (
            &jwt,
            issuer.rs256(&json!({"alg": "RS256", "kid": "r1"}), &claims()),
            issuer.rs256(&json!({"alg": "RS256", "kid": "r1"}), &elsewhere),
        ),
        (
            &jwt,
            issuer.es256(&json!({"alg": "ES256", "kid": "e1"}), &claims()),
            issuer.es256(&json!({"alg": "ES256", "kid": "e1"}), &elsewhere),
        ),
    ] {
        // A second time as well: the key keeps what the first verification computed.
        for _ in 0..2 {
            assert!(verify(jwt, &token).is_ok() && verify(jwt, &other).is_ok());
            let (message, signature) = token.rsplit_once('.').expect("signed");
            let (foreign, _) = other.rsplit_once('.').expect("signed");
            assert!(refused(jwt, &format!("{foreign}.{signature}")));
            let sound = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
            let with = |bytes: &[u8]| format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes));
            assert!(verify(jwt, &with(&sound)).is_ok());
            for at in [0, sound.len() / 2, sound.len() - 1] {
                let mut changed = sound.clone();
                changed[at] ^= 1;
                assert!(refused(jwt, &with(&changed)), "byte {at}");
            }
            assert!(refused(jwt, &with(&sound[1..])));
            assert!(refused(jwt, &with(&[&sound[..], &[0]].concat())));
            assert!(refused(jwt, &with(&[])));
            assert!(refused(jwt, message));
            assert!(refused(jwt, &format!("{token}.")));
            assert!(refused(jwt, &format!("{token}=")));
        }
    }
}

#[test]
fn a_claim_stands_once() {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"k1"}"#);
    let signed = |claims: &str| {
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
        let tag = hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    };
    let text = claims().to_string();
    assert!(verify(&hs256(), &signed(&text)).is_ok());
    for (name, value) in [("sub", json!("mallory")), ("exp", json!(NOW + 9))] {
        let twice = format!("{},{:?}:{value}}}", text.trim_end_matches('}'), name);
        assert!(refused(&hs256(), &signed(&twice)), "{name}");
    }
    for text in ["", "[]", "null", "{", "{}x"] {
        assert!(refused(&hs256(), &signed(text)), "{text:?}");
    }
}

#[test]
fn a_public_key_never_serves_as_a_shared_secret() {
    let issuer = Issuer::new();
    let jwt = issuer.jwt(&[JwtAlgorithm::RS256, JwtAlgorithm::ES256]);
    let set = json!({"keys": [issuer.rsa_jwk(), issuer.ec_jwk()]}).to_string();
    let n = URL_SAFE_NO_PAD
        .decode(issuer.rsa_jwk()["n"].as_str().expect("n"))
        .expect("base64");
    for known in [
        set.as_bytes(),
        issuer.rsa_jwk().to_string().as_bytes(),
        &n,
        issuer.ec.public_key().as_ref(),
    ] {
        for kid in ["r1", "e1"] {
            assert!(refused(
                &jwt,
                &with_hmac(known, &json!({"alg": "HS256", "kid": kid}), &claims())
            ));
        }
    }
    // Nor can a provider be built that would do so.
    for algorithms in [
        &[JwtAlgorithm::HS256][..],
        &[JwtAlgorithm::RS256, JwtAlgorithm::HS256],
    ] {
        assert!(check(&unit(algorithms, JwtKeys::Inline(set.clone()))).is_err());
    }
    assert!(check(&unit(&[JwtAlgorithm::HS256, JwtAlgorithm::RS256], shared())).is_err());
    // A public key stored as a shared one is unusable: the token is neither accepted nor called bad.
    let pem = b"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaaaaaaaa\n-----END PUBLIC KEY-----\n";
    let ring = ring_of(Purpose::JwtKeys, "confused", &[("k1", pem)]);
    let confused = Jwt::new(
        "tokens",
        &unit(&[JwtAlgorithm::HS256], shared()),
        Some(ring),
    )
    .expect("compiles");
    let token = with_hmac(pem, &json!({"alg": "HS256", "kid": "k1"}), &claims());
    let reject = verify(&confused, &token).expect_err("refused");
    assert_eq!(reject.reason.describe().name, "config-secret-not-usable");
}

#[test]
fn none_and_foreign_algorithms_are_refused() {
    let message = |alg: &str| message(&json!({"alg": alg, "kid": "k1"}), &claims());
    for alg in [
        "none", "None", "NONE", "HS384", "HS512", "PS256", "EdDSA", "ES384", "",
    ] {
        assert!(refused(&hs256(), &format!("{}.", message(alg))), "{alg}");
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, SECRET),
            message(alg).as_bytes(),
        );
        assert!(
            refused(
                &hs256(),
                &format!("{}.{}", message(alg), URL_SAFE_NO_PAD.encode(tag))
            ),
            "{alg}"
        );
    }
}

#[test]
fn headers_that_demand_more_or_bring_keys_are_refused_or_passed_over() {
    let critical = json!({"alg": "HS256", "kid": "k1", "crit": ["exp"], "exp": 1});
    assert!(refused(&hs256(), &with_hmac(SECRET, &critical, &claims())));
    let issuer = Issuer::new();
    let jwt = issuer.jwt(&[JwtAlgorithm::ES256]);
    let stranger = Issuer::new();
    let embedded = json!({"alg": "ES256", "jwk": stranger.ec_jwk()});
    assert!(refused(&jwt, &stranger.es256(&embedded, &claims())));
}

#[test]
fn kid_chooses_and_is_needed_among_several() {
    let ring = ring_of(
        Purpose::JwtKeys,
        "issuer-secret",
        &[("k1", SECRET), ("k2", &[7; 32])],
    );
    let jwt = Jwt::new(
        "tokens",
        &unit(&[JwtAlgorithm::HS256], shared()),
        Some(ring),
    )
    .expect("compiles");
    assert!(verify(&jwt, &good(&claims())).is_ok());
    assert!(refused(
        &jwt,
        &with_hmac(SECRET, &json!({"alg": "HS256", "kid": "k2"}), &claims())
    ));
    assert!(refused(
        &jwt,
        &with_hmac(SECRET, &json!({"alg": "HS256", "kid": "k3"}), &claims())
    ));
    assert!(refused(
        &jwt,
        &with_hmac(SECRET, &json!({"alg": "HS256"}), &claims())
    ));
    assert!(
        verify(
            &hs256(),
            &with_hmac(SECRET, &json!({"alg": "HS256"}), &claims())
        )
        .is_ok(),
        "the only key"
    );
}

#[test]
fn claims_are_checked_with_the_callers_clock() {
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        verify(&hs256(), &good(&claims)).is_ok()
    };
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().expect("object").remove(name);
        verify(&hs256(), &good(&claims)).is_ok()
    };
    assert!(
        with("exp", json!(NOW - 29)) && !with("exp", json!(NOW - 30)),
        "leeway is 30 s, the end is exclusive"
    );
    assert!(with("nbf", json!(NOW + 30)) && !with("nbf", json!(NOW + 31)));
    assert!(
        with("exp", json!((NOW + 1) as f64 + 0.5))
            && !with("exp", json!("tomorrow"))
            && !with("nbf", json!("x"))
    );
    assert!(!without("exp") && without("nbf"));
    assert!(!with("iss", json!("https://evil.example")) && !without("iss"));
    assert!(
        with("aud", json!("api"))
            && !with("aud", json!("x"))
            && !with("aud", json!([]))
            && !without("aud")
    );
    assert!(!without("sub") && !with("sub", json!("")) && !with("sub", json!(5)));
}

#[test]
fn an_issuer_cannot_speak_for_another() {
    let mut unit = unit(&[JwtAlgorithm::HS256], shared());
    unit.issuer = None;
    let ring = ring_of(Purpose::JwtKeys, "issuer-secret", &[("k1", SECRET)]);
    let jwt = Jwt::new("tokens", &unit, Some(ring)).expect("compiles");
    let mut claims = claims();
    claims["iss"] = json!("a|b");
    assert!(refused(&jwt, &good(&claims)));
}

#[test]
fn scopes_may_be_a_list() {
    let mut claims = claims();
    claims["scope"] = json!(["a", 5, "b"]);
    assert_eq!(
        verify(&hs256(), &good(&claims)).expect("verifies").scopes,
        ["a", "b"]
    );
}

#[test]
fn a_verified_token_is_remembered_until_it_expires_or_the_keys_change() {
    let (jwt, mut memory) = (hs256(), Memory::default());
    let token = facts(&good(&claims()));
    let mut at = |jwt: &Jwt, wall_s: i64| {
        (
            jwt.verify("tokens", &token, &mut memory, wall_s).is_ok(),
            memory.hits,
        )
    };
    assert_eq!(at(&jwt, NOW), (true, 0));
    assert_eq!(at(&jwt, NOW), (true, 1));
    assert_eq!(at(&jwt, NOW + 89), (true, 2));
    assert_eq!(at(&jwt, NOW + 90), (false, 2));
    // The same key id with other bytes, in another version of the Secret.
    let secrets = [("k1", &[9; 32][..])];
    let ring = ring_of(Purpose::JwtKeys, "issuer-secret-v2", &secrets);
    let rotated = Jwt::new(
        "tokens",
        &unit(&[JwtAlgorithm::HS256], shared()),
        Some(ring),
    )
    .expect("compiles");
    assert_eq!(at(&rotated, NOW), (false, 2));
    let mut stricter = unit(&[JwtAlgorithm::HS256], shared());
    stricter.audiences = vec!["elsewhere".into()];
    let ring = ring_of(Purpose::JwtKeys, "issuer-secret", &[("k1", SECRET)]);
    let stricter = Jwt::new("tokens", &stricter, Some(ring)).expect("compiles");
    assert_eq!(at(&stricter, NOW), (false, 2));
}

/// What stands first in the requirement and was seen before decides; beside another provider it decides nothing.
#[test]
fn a_token_seen_before_decides_only_where_nothing_else_is_asked() {
    let provider = |name: &str| {
        let ring = ring_of(Purpose::JwtKeys, "issuer-secret", &[("k1", SECRET)]);
        let unit = unit(&[JwtAlgorithm::HS256], shared());
        let method = Jwt::new(name, &unit, Some(ring)).expect("compiles");
        Arc::new(Provider {
            name: name.into(),
            method: Method::Jwt(method),
        })
    };
    let needs = |any_of| {
        rule(Some(Requirement {
            any_of,
            anonymous: Anonymous::Deny,
        }))
    };
    let keys = Provider::compile(
        &unit::Provider {
            name: "keys".into(),
            method: unit::Method::ApiKey(unit::ApiKey {
                header: "x-key".into(),
                keys: UnitName::keys("shop", "orders", "keys"),
            }),
        },
        &|_| Some(ring_of(Purpose::ApiKeys, "keys", &[("k1", b"key")])),
    );
    let (alone, both) = (
        needs(vec![vec![provider("tokens")]]),
        needs(vec![vec![provider("tokens"), Arc::new(keys)]]),
    );
    let (token, mut memory) = (good(&claims()), Memory::default());
    let mut ask = |rule: &Rule, facts: &StaticFacts, wall_s: i64| {
        let asked = authenticate(rule, facts, &target(facts), &mut memory, wall_s);
        (
            matches!(asked, Ok(Outcome::Identified(proven)) if proven.identity.subject == "https://id.example|alice"),
            memory.hits,
        )
    };
    let facts = facts(&token);
    assert_eq!(ask(&alone, &facts, NOW), (true, 0));
    assert_eq!(ask(&alone, &facts, NOW), (true, 1));
    assert_eq!(ask(&alone, &facts, NOW + 90), (false, 1));
    assert_eq!(ask(&both, &facts, NOW), (false, 1), "the key is missing");
    let twice = facts
        .clone()
        .with("authorization", &format!("Bearer {token}"));
    assert_eq!(ask(&alone, &twice, NOW), (false, 1));
}

#[test]
fn a_bad_token_is_not_remembered_and_not_quoted() {
    let (jwt, mut memory) = (hs256(), Memory::default());
    let token = with_hmac(
        b"a wrong secret of thirty-two bytes",
        &json!({"alg": "HS256", "kid": "k1"}),
        &claims(),
    );
    let reject = jwt
        .verify("tokens", &facts(&token), &mut memory, NOW)
        .expect_err("refused");
    assert!(memory.known.is_empty());
    assert!(!format!("{reject:?}").contains(&token[..20]));
}

#[test]
fn the_token_stands_once_after_bearer() {
    let token = good(&claims());
    let header = |value: &str| StaticFacts::new("GET", "x", "/").with("authorization", value);
    assert!(
        present(&header(&format!("bearer {token}")))
            && !present(&header("Basic YTpi"))
            && !present(&header("Bearer"))
    );
    let verify = |facts: &StaticFacts| hs256().verify("tokens", facts, &mut NoMemory, NOW);
    assert!(verify(&header(&format!("bEARER  {token}"))).is_ok());
    assert!(verify(&facts(&token).with("authorization", &format!("Bearer {token}"))).is_err());
    assert!(verify(&header("Bearer ")).is_err());
    assert!(verify(&header(&format!("Bearer {}", "x".repeat(MAX_TOKEN + 1)))).is_err());
}

#[test]
fn key_sets_hold_sound_public_keys_only() {
    let issuer = Issuer::new();
    let set = |keys: Value| {
        check(&unit(
            &[JwtAlgorithm::ES256],
            JwtKeys::Inline(json!({"keys": keys}).to_string()),
        ))
    };
    let with = |name: &str, value: Value| {
        let mut key = issuer.ec_jwk();
        key[name] = value;
        key
    };
    assert_eq!(set(json!([issuer.ec_jwk()])), Ok(()));
    assert_eq!(
        set(json!([issuer.ec_jwk(), {"kty": "OKP", "crv": "Ed25519", "x": "AA"}])),
        Ok(()),
        "others are passed over"
    );
    assert!(set(json!([with("d", json!("AAAA"))])).is_err(), "private");
    assert!(
        set(json!([issuer.ec_jwk(), {"kty": "oct", "k": "AAAA"}])).is_err(),
        "shared"
    );
    assert!(
        set(json!([with("use", json!("enc"))])).is_err(),
        "no key is left"
    );
    assert!(set(json!([with("x", json!("AAAA"))])).is_err(), "no point");
    assert!(
        set(json!([issuer.ec_jwk(), issuer.ec_jwk()])).is_err(),
        "one id twice"
    );
    assert!(
        set(json!([with("x", json!(URL_SAFE_NO_PAD.encode([1; 32])))])).is_err(),
        "no point of the curve"
    );
    assert!(set(json!([])).is_err());
    let public: rsa::PublicKeyComponents<Vec<u8>> = issuer.rsa.public_key().into();
    let mut padded = issuer.rsa_jwk();
    padded["n"] = json!(URL_SAFE_NO_PAD.encode([&[0], &*public.n].concat()));
    assert!(set(json!([issuer.ec_jwk(), padded])).is_err(), "padded");
    let mut short = issuer.rsa_jwk();
    short["n"] = json!(URL_SAFE_NO_PAD.encode([0xff; 128]));
    assert!(set(json!([issuer.ec_jwk(), short])).is_err(), "1024 bits");
    assert!(check(&unit(&[JwtAlgorithm::ES256], JwtKeys::Inline("{".into()))).is_err());
    assert!(check(&unit(&[], shared())).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_or_pass(token in "[A-Za-z0-9_.=-]{0,200}") {
        prop_assert!(refused(&hs256(), &token));
    }

    #[test]
    fn no_key_set_makes_it_panic(text in "[\\[\\]{}\":,a-zA-Z0-9]{0,100}") {
        let _ = key_set(&text);
    }
}
