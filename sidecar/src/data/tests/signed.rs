//! Message signatures over the wire: the digest of the body, and nonces that are good once, here and in a store.

use std::{
    collections::HashSet,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{digest, hmac};
use base64::{Engine, engine::general_purpose::STANDARD};
use sluice_snapshot::{
    SecretBytes, Unit, UnitName,
    unit::{
        Keys, Route, Secret, Store,
        auth::{
            AllOf, Anonymous, Digest, Method, Nonce, NonceFallback, NonceScope, Provider,
            Requirement, Signature, SignatureAlgorithm,
        },
        secret::Purpose,
        store::RedisMode,
    },
};

use super::{
    client::{Answer, Client},
    origin::{Origin, Reply},
    rig::{Rig, route, rule},
};
use crate::store_api::StoreCall;

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

fn signed_route(scope: NonceScope) -> Route {
    let mut guarded = rule("signed", "/");
    guarded.auth = Some(Requirement {
        any_of: vec![AllOf {
            all_of: vec!["partner".into()],
        }],
        anonymous: Anonymous::Deny,
    });
    let mut route = route("orders", vec![guarded]);
    route.providers = vec![Provider {
        name: "partner".into(),
        method: Method::Signature(Signature {
            keys: UnitName::keys("shop", "orders", "partner"),
            algorithms: vec![SignatureAlgorithm::HmacSha256],
            required_components: vec!["@method".into(), "@path".into(), "content-digest".into()],
            max_age_ms: 60_000,
            skew_ms: 5_000,
            nonce: Some(Nonce {
                required: true,
                scope,
            }),
            digest: Digest::Buffered,
            max_buffered: 100,
        }),
    }];
    route
}

fn units() -> Vec<(UnitName, Unit)> {
    let secret = UnitName::secret("shop", "acme", "00");
    let unit = Unit::Secret(Secret {
        purpose: Purpose::SignatureKeys,
        subject: "acme".into(),
        attributes: Default::default(),
        entries: [("k1".to_owned(), SecretBytes::new(KEY.to_vec()))].into(),
        salt: None,
    });
    let keys = Unit::Keys(Keys {
        secrets: vec![secret.clone()],
        entry: None,
    });
    let store = Unit::Store(Store {
        name: "default".into(),
        mode: RedisMode::Standalone,
        addresses: vec!["127.0.0.1:1".into()],
        tls: None,
        credentials: None,
        key_prefix: "sluice".into(),
    });
    vec![
        (secret, unit),
        (UnitName::keys("shop", "orders", "partner"), keys),
        (UnitName::store("default"), store),
    ]
}

/// A POST of `sent` whose signature is for `signed`.
async fn post(client: &mut Client, nonce: &str, signed: &str, sent: &str) -> Answer {
    let created = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let digest = STANDARD.encode(digest::digest(&digest::SHA256, signed.as_bytes()));
    let digest = format!("sha-256=:{digest}:");
    let parameters = format!(
        r#"("@method" "@path" "content-digest");created={created};keyid="k1";nonce="{nonce}";alg="hmac-sha256""#
    );
    let base = format!(
        "\"@method\": POST\n\"@path\": /x\n\"content-digest\": {digest}\n\"@signature-params\": {parameters}"
    );
    let signature = STANDARD.encode(hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, KEY),
        base.as_bytes(),
    ));
    let lines = [
        format!("content-digest: {digest}"),
        format!("signature-input: sig={parameters}"),
        format!("signature: sig=:{signature}:"),
    ];
    client
        .send("POST", "/x", &lines.each_ref().map(String::as_str), sent)
        .await
}

#[tokio::test]
async fn a_nonce_is_good_once_on_either_thread_and_the_app_never_sees_a_bad_body() {
    let origin = Origin::start(|seen, _| Reply::ok(&seen.body)).await;
    let rig = Rig::start(origin.address);
    rig.install(&[(&[], signed_route(NonceScope::Local))], units());
    let good = post(&mut rig.client().await, "n1", "body", "body").await;
    assert_eq!((good.status, good.body.as_str()), (200, "body"), "{good:?}");
    // Connections enough for both threads.
    for _ in 0..8 {
        let replayed = post(&mut rig.client().await, "n1", "body", "body").await;
        assert_eq!(
            (replayed.status, replayed.problem()),
            (401, "nonce-replayed")
        );
    }
    let forged = post(&mut rig.client().await, "n2", "body", "evil").await;
    assert_eq!((forged.status, forged.problem()), (400, "bad-digest"));
    let large = "x".repeat(101);
    let buffered = post(&mut rig.client().await, "n3", &large, &large).await;
    assert_eq!(
        (buffered.status, buffered.problem()),
        (413, "body-too-large")
    );
    assert_eq!(origin.seen().len(), 1);
    let lines = rig.lines(11).await;
    let forged = lines
        .iter()
        .find(|line| line["reason"] == "bad-digest")
        .expect("a line");
    assert_eq!(
        (&forged["phase"], &forged["decided_by"]),
        (&"verify-body".into(), &"shop/orders/partner".into())
    );
}

#[tokio::test]
async fn a_shared_nonce_is_asked_for_and_its_store_may_be_away() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let mut rig = Rig::start(origin.address);
    let scope = |on_store_failure| NonceScope::Shared {
        store: UnitName::store("default"),
        on_store_failure,
    };
    rig.install(&[(&[], signed_route(scope(NonceFallback::Local)))], units());
    // A store in which another sidecar has claimed "taken".
    let (_, closed) = tokio::sync::mpsc::channel(1);
    let mut calls = std::mem::replace(&mut rig.inbox.store_calls, closed);
    let store = tokio::spawn(async move {
        let mut known = HashSet::new();
        let mut first = true;
        while let Some(call) = calls.recv().await {
            let StoreCall::Nonce(nonce) = call else {
                continue;
            };
            // The first claim of the test is the one that another sidecar made.
            let fresh = known.insert(nonce.key) && !std::mem::take(&mut first);
            nonce.reply.answer(Ok(fresh));
        }
    });
    let mut client = rig.client().await;
    assert_eq!(
        post(&mut client, "taken", "", "").await.problem(),
        "nonce-replayed"
    );
    assert_eq!(post(&mut client, "new", "", "").await.status, 200);
    rig.shared
        .stores
        .set_open(&UnitName::store("default"), true);
    assert_eq!(post(&mut client, "local", "", "").await.status, 200);
    assert_eq!(
        post(&mut client, "local", "", "").await.problem(),
        "nonce-replayed"
    );
    rig.install(&[(&[], signed_route(scope(NonceFallback::Deny)))], units());
    let denied = post(&mut client, "denied", "", "").await;
    assert_eq!(
        (denied.status, denied.problem()),
        (503, "nonce-store-unavailable")
    );
    store.abort();
}
