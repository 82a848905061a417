//! The vectors of RFC 9421, and what a signature must not get away with.

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use sluice_snapshot::{
    UnitName,
    unit::{auth::NonceScope, secret::Purpose},
};

use super::*;
use crate::{
    auth::tests::{NOW, ring_of, target},
    facts::StaticFacts,
};

const SECRET: &[u8] = b"a secret that has thirty-two byte";

fn unit() -> unit::Signature {
    unit::Signature {
        keys: UnitName::keys("shop", "orders", "partners"),
        algorithms: vec![SignatureAlgorithm::HmacSha256],
        required_components: ["@method", "@target-uri"].map(Into::into).into(),
        max_age_ms: 300_000,
        skew_ms: 30_000,
        nonce: Some(Nonce {
            required: true,
            scope: NonceScope::Local,
        }),
        digest: unit::Digest::Buffered,
        max_buffered: 1024,
    }
}

fn provider(change: impl FnOnce(&mut unit::Signature)) -> Signature {
    let mut unit = unit();
    change(&mut unit);
    let ring = ring_of(
        Purpose::SignatureKeys,
        "partner",
        &[("k1", SECRET), ("short", b"short")],
    );
    Signature::new(&unit, ring).expect("compiles")
}

fn verify(signature: &Signature, facts: &StaticFacts, wall_s: i64) -> Result<Proof, Reject> {
    signature.verify(
        "partners",
        &Decider::default(),
        facts,
        &target(facts),
        wall_s,
    )
}

fn reason(signature: &Signature, facts: &StaticFacts) -> &'static str {
    match verify(signature, facts, NOW) {
        Ok(_) => "ok",
        Err(reject) => reject.reason.describe().name,
    }
}

fn post() -> StaticFacts {
    StaticFacts::new("POST", "Shop.example:80", "/v1/orders?b=2&a=1")
        .with("content-type", "application/json")
}

/// The base of `post()` for `components` written by hand, without the parameters.
const POST_BASE: &str =
    "\"@method\": POST\n\"@target-uri\": http://shop.example/v1/orders?b=2&a=1\n";
const POST_LIST: &str = "(\"@method\" \"@target-uri\")";

fn signed(facts: StaticFacts, base: &str, params: &str) -> StaticFacts {
    let text = format!("{base}\"@signature-params\": {params}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), text.as_bytes());
    facts
        .with("signature-input", &format!("sig1={params}"))
        .with("signature", &format!("sig1=:{}:", STANDARD.encode(tag)))
}

fn good(extra: &str) -> StaticFacts {
    signed(
        post(),
        POST_BASE,
        &format!("{POST_LIST};created={NOW};keyid=\"k1\";nonce=\"n-1\"{extra}"),
    )
}

/// RFC 9421 appendix B.2.5.
#[test]
fn the_vector_of_the_rfc_verifies() {
    let key = STANDARD
        .decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
        .expect("base64");
    let unit = unit::Signature {
        required_components: ["date", "@authority", "content-type"]
            .map(Into::into)
            .into(),
        nonce: None,
        ..unit()
    };
    let ring = ring_of(
        Purpose::SignatureKeys,
        "rfc",
        &[("test-shared-secret", &key)],
    );
    let signature = Signature::new(&unit, ring).expect("compiles");
    let mut facts = StaticFacts::new("POST", "example.com", "/foo?param=Value&Pet=dog")
        .with("date", "Tue, 20 Apr 2021 02:07:55 GMT")
        .with("content-type", "application/json")
        .with("content-length", "18")
        .with(
            "signature-input",
            r#"sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#,
        )
        .with("signature", "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:");
    let proof = verify(&signature, &facts, 1_618_884_475).expect("verifies");
    assert_eq!(
        (
            proof.identity.subject.as_str(),
            proof.identity.key_id.as_deref()
        ),
        ("rfc", Some("test-shared-secret"))
    );
    facts.headers[0].1 = b"Tue, 20 Apr 2021 02:07:56 GMT".to_vec();
    assert!(verify(&signature, &facts, 1_618_884_475).is_err());
}

/// RFC 9421 sections 2.1 and 2.2: the values of the examples.
#[test]
fn components_have_the_values_of_the_rfc() {
    let facts = StaticFacts::new(
        "POST",
        "WWW.Example.com:80",
        "/path?param=value&foo=bar&baz=bat%2Dman",
    )
    .with("x-ows-header", "   Leading and trailing whitespace.   ")
    .with("cache-control", "max-age=60")
    .with("cache-control", "   must-revalidate")
    .with("x-empty-header", "");
    let value = |name: &str| {
        let mut out = String::new();
        component(name, &facts, &target(&facts), &mut out)
            .map(|()| out)
            .map_err(|reject| reject.reason)
    };
    for (name, expected) in [
        ("@method", "POST"),
        (
            "@target-uri",
            "http://www.example.com/path?param=value&foo=bar&baz=bat%2Dman",
        ),
        ("@authority", "www.example.com"),
        ("@scheme", "http"),
        ("@request-target", "/path?param=value&foo=bar&baz=bat%2Dman"),
        ("@path", "/path"),
        ("@query", "?param=value&foo=bar&baz=bat%2Dman"),
        ("x-ows-header", "Leading and trailing whitespace."),
        ("cache-control", "max-age=60, must-revalidate"),
        ("x-empty-header", ""),
    ] {
        assert_eq!(value(name).as_deref(), Ok(expected), "{name}");
    }
    assert_eq!(value("x-absent"), Err(RejectReason::BadSignature));
    let bare = StaticFacts::new("GET", "example.com:8080", "/");
    let mut out = String::new();
    component("@query", &bare, &target(&bare), &mut out).expect("value");
    component("@authority", &bare, &target(&bare), &mut out).expect("value");
    assert_eq!(out, "?example.com:8080");
}

#[test]
fn a_good_signature_gives_identity_and_nonce() {
    let proof = verify(&provider(|_| {}), &good(""), NOW).expect("verifies");
    assert_eq!(proof.identity.key(), "partners|partner");
    assert_eq!(proof.identity.attributes["plan"], "gold");
    let nonce = proof.nonce.expect("claimed");
    // 300 s of age, 30 s between clocks, a second because seconds are whole.
    assert_eq!((nonce.ttl_ms, nonce.scope), (331_000, NonceScope::Local));
    assert_eq!(proof.digest, None);
}

#[test]
fn a_nonce_claim_depends_on_provider_key_and_nonce() {
    let claim = |signature: &Signature, nonce: &str| {
        let params = format!("{POST_LIST};created={NOW};keyid=\"k1\";nonce=\"{nonce}\"");
        verify(signature, &signed(post(), POST_BASE, &params), NOW)
            .expect("verifies")
            .nonce
            .expect("claimed")
            .key
    };
    let one = provider(|_| {});
    let other = provider(|unit| unit.keys = UnitName::keys("shop", "other", "partners"));
    assert_eq!(claim(&one, "n"), claim(&one, "n"));
    assert_ne!(claim(&one, "n"), claim(&one, "m"));
    assert_ne!(claim(&one, "n"), claim(&other, "n"));
}

#[test]
fn nothing_that_is_covered_may_change() {
    let signature = provider(|_| {});
    let mut other = good("");
    other.method = "PUT".into();
    assert_eq!(reason(&signature, &other), "bad-signature");
    let mut other = good("");
    other.query = Some("a=1&b=2".into());
    assert_eq!(reason(&signature, &other), "bad-signature");
    let mut other = good("");
    other.authority = Some("evil.example".into());
    assert_eq!(reason(&signature, &other), "bad-signature");
    let mut other = good("");
    other.headers[1].1 = format!(
        "sig1={POST_LIST};created={};keyid=\"k1\";nonce=\"n-1\"",
        NOW + 1
    )
    .into();
    assert_eq!(reason(&signature, &other), "bad-signature");
}

#[test]
fn required_components_must_be_covered() {
    let signature = provider(|unit| unit.required_components.push("content-type".into()));
    assert_eq!(reason(&signature, &good("")), "bad-signature");
    let params = format!(
        "(\"@method\" \"@target-uri\" \"content-type\");created={NOW};keyid=\"k1\";nonce=\"n\""
    );
    let base = format!("{POST_BASE}\"content-type\": application/json\n");
    assert_eq!(reason(&signature, &signed(post(), &base, &params)), "ok");
}

#[test]
fn the_window_of_created_is_kept_at_both_ends() {
    let signature = provider(|_| {});
    let at = |wall_s: i64| {
        verify(&signature, &good(""), wall_s)
            .map(drop)
            .map_err(|reject| reject.reason)
    };
    for (wall_s, expected) in [
        (NOW + 300, Ok(())),
        (NOW + 301, Err(RejectReason::SignatureExpired)),
        (NOW - 30, Ok(())),
        (NOW - 31, Err(RejectReason::SignatureExpired)),
        (i64::MAX, Err(RejectReason::SignatureExpired)),
        (i64::MIN, Err(RejectReason::SignatureExpired)),
    ] {
        assert_eq!(at(wall_s), expected, "{wall_s}");
    }
}

#[test]
fn expires_is_kept_and_created_is_needed() {
    let signature = provider(|_| {});
    assert_eq!(reason(&signature, &good(&format!(";expires={NOW}"))), "ok");
    assert_eq!(
        reason(&signature, &good(&format!(";expires={}", NOW - 1))),
        "signature-expired"
    );
    let without = signed(
        post(),
        POST_BASE,
        &format!("{POST_LIST};keyid=\"k1\";nonce=\"n\""),
    );
    assert_eq!(reason(&signature, &without), "bad-signature");
}

#[test]
fn the_nonce_is_required_where_the_provider_says_so() {
    let without = signed(
        post(),
        POST_BASE,
        &format!("{POST_LIST};created={NOW};keyid=\"k1\""),
    );
    assert_eq!(reason(&provider(|_| {}), &without), "nonce-missing");
    let optional = provider(|unit| {
        unit.nonce = Some(Nonce {
            required: false,
            scope: NonceScope::Local,
        })
    });
    assert!(
        verify(&optional, &without, NOW)
            .expect("verifies")
            .nonce
            .is_none()
    );
    assert!(
        verify(&optional, &good(""), NOW)
            .expect("verifies")
            .nonce
            .is_some()
    );
    let empty = signed(
        post(),
        POST_BASE,
        &format!("{POST_LIST};created={NOW};keyid=\"k1\";nonce=\"\""),
    );
    assert_eq!(reason(&provider(|_| {}), &empty), "bad-signature");
}

#[test]
fn alg_repeats_the_keys_algorithm_or_is_refused() {
    let signature = provider(|_| {});
    assert_eq!(reason(&signature, &good(";alg=\"hmac-sha256\"")), "ok");
    for alg in ["rsa-v1_5-sha256", "ed25519", "none", "HMAC-SHA256", ""] {
        assert_eq!(
            reason(&signature, &good(&format!(";alg=\"{alg}\""))),
            "bad-signature",
            "{alg}"
        );
    }
}

#[test]
fn what_comes_twice_or_is_not_understood_is_refused() {
    let signature = provider(|_| {});
    for extra in [";keyid=\"k1\"", ";x=1", ";nonce=n", ";tag=1"] {
        assert_eq!(reason(&signature, &good(extra)), "bad-signature", "{extra}");
    }
    assert_eq!(reason(&signature, &good(";tag=\"app\"")), "ok");
    let twice =
        format!("(\"@method\" \"@target-uri\" \"@method\");created={NOW};keyid=\"k1\";nonce=\"n\"");
    let base = format!("{POST_BASE}\"@method\": POST\n");
    assert_eq!(
        reason(&signature, &signed(post(), &base, &twice)),
        "bad-signature"
    );
    for component in [
        "\"@method\";req",
        "\"@unknown\"",
        "\"Content-Type\"",
        "@method",
        "\"@query-param\";name=\"a\"",
    ] {
        let params = format!(
            "(\"@method\" \"@target-uri\" {component});created={NOW};keyid=\"k1\";nonce=\"n\""
        );
        assert_eq!(
            reason(&signature, &signed(post(), POST_BASE, &params)),
            "bad-signature",
            "{component}"
        );
    }
}

#[test]
fn labels_must_pair_and_strangers_are_passed_over() {
    let signature = provider(|_| {});
    let mut unpaired = good("");
    unpaired.headers[2].1 = String::from_utf8_lossy(&unpaired.headers[2].1)
        .replace("sig1", "sig2")
        .into();
    assert_eq!(reason(&signature, &unpaired), "bad-signature");
    let mut two = good("");
    two.headers.insert(
        1,
        (
            "signature-input".into(),
            br#"proxy=("@method");created=1;keyid="theirs""#.to_vec(),
        ),
    );
    two.headers
        .insert(2, ("signature".into(), b"proxy=:AAAA:".to_vec()));
    assert_eq!(reason(&signature, &two), "ok");
    let mut repeated = good("");
    let input = repeated.headers[1].clone();
    repeated.headers.push(input);
    assert_eq!(reason(&signature, &repeated), "bad-signature");
    let unknown = signed(
        post(),
        POST_BASE,
        &format!("{POST_LIST};created={NOW};keyid=\"k2\";nonce=\"n\""),
    );
    assert_eq!(reason(&signature, &unknown), "bad-signature");
    assert_eq!(
        reason(&signature, &post().with("signature", "sig1=:AAAA:")),
        "bad-signature"
    );
    let unusable = signed(
        post(),
        POST_BASE,
        &format!("{POST_LIST};created={NOW};keyid=\"short\";nonce=\"n\""),
    );
    assert_eq!(reason(&signature, &unusable), "config-secret-not-usable");
}

#[test]
fn a_target_that_would_be_sent_otherwise_is_refused() {
    let signature = provider(|_| {});
    let facts = good("");
    let target = Target {
        path: "/v1/other".into(),
        ..target(&facts)
    };
    let reject = signature
        .verify("p", &Decider::default(), &facts, &target, NOW)
        .map(drop)
        .expect_err("refused");
    assert_eq!(reject.reason, RejectReason::BadTarget);
}

#[test]
fn a_covered_digest_is_checked_against_the_body_where_the_provider_buffers() {
    let digest = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
    let params = format!(
        "(\"@method\" \"@target-uri\" \"content-digest\");created={NOW};keyid=\"k1\";nonce=\"n\""
    );
    let sign = |digest: &str| {
        let facts = post().with("content-digest", digest);
        signed(
            facts,
            &format!("{POST_BASE}\"content-digest\": {digest}\n"),
            &params,
        )
    };
    let check = verify(&provider(|_| {}), &sign(digest), NOW)
        .expect("verifies")
        .digest
        .expect("to be checked");
    assert_eq!(check.max_buffered, 1024);
    assert_eq!(check.verify(br#"{"hello": "world"}"#), Ok(()));
    assert!(check.verify(br#"{"hello": "other"}"#).is_err());
    assert_eq!(reason(&provider(|_| {}), &sign("md5=:AAAA:")), "bad-digest");
    let unbuffered = provider(|unit| unit.digest = unit::Digest::None);
    assert!(
        verify(&unbuffered, &sign(digest), NOW)
            .expect("verifies")
            .digest
            .is_none()
    );
}

#[test]
fn units_that_cannot_work_are_told_so() {
    let broken = |change: fn(&mut unit::Signature)| {
        let mut unit = unit();
        change(&mut unit);
        check(&unit).is_err()
    };
    assert!(!broken(|_| {}));
    assert!(broken(|unit| unit.algorithms.clear()));
    assert!(broken(|unit| unit
        .required_components
        .push("@status".into())));
    assert!(broken(|unit| unit
        .required_components
        .push("Content-Type".into())));
    assert!(broken(|unit| unit.max_age_ms = 0));
    assert!(broken(|unit| unit.max_age_ms = u64::MAX));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_pass(
        input in proptest::collection::vec(any::<u8>(), 0..200),
        tag in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut facts = post();
        facts.headers.push(("signature-input".into(), input));
        facts.headers.push(("signature".into(), tag));
        let outcome = verify(&provider(|_| {}), &facts, NOW);
        prop_assert!(outcome.is_err());
    }
}
