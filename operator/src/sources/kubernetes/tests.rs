use std::time::Duration;

use aws_lc_rs::hmac;
use kube::runtime::watcher::{self, Event};
use prometheus::Registry;
use serde_json::json;
use sluice_process::Readiness;
use sluice_translate::{Pods, world::Settings};

use super::*;
use crate::{
    engine,
    identity::{Authority, CaMaterial},
    stream::SessionTable,
};

fn reader() -> (Arc<Known>, Decoder) {
    let known = Arc::new(Known::default());
    let decoder = Decoder {
        kind: Kind::ApiRoute,
        decode: decode::<ApiRoute>,
        known: known.clone(),
    };
    (known, decoder)
}

fn route(spec: serde_json::Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "ApiRoute",
        "metadata": {"namespace": "shop", "name": "orders", "uid": "u", "resourceVersion": "7", "generation": 2},
        "spec": spec,
        "status": {"observedGeneration": 1},
    }))
    .expect("an object")
}

#[test]
fn an_undecodable_object_says_where_and_keeps_its_rest() {
    let (known, reader) = reader();
    let change = reader.read(&route(
        json!({"parentRefs": [{"kind": "Moon", "name": "orders"}]}),
    ));
    let Change::Undecodable(Undecodable {
        id,
        meta,
        message,
        raw,
    }) = change
    else {
        panic!("it decodes: {change:?}");
    };
    assert_eq!(
        (id.to_string().as_str(), meta.generation),
        ("ApiRoute shop/orders", 2)
    );
    assert!(message.contains("spec.parentRefs[0]"), "{message}");
    assert_eq!(
        raw.expect("kept")["spec"]["parentRefs"][0]["name"],
        "orders"
    );
    let stored = known.get(&id).expect("its status can be written");
    assert_eq!(
        (
            stored.resource_version.as_deref(),
            &stored.status["observedGeneration"]
        ),
        (Some("7"), &json!(1))
    );
}

#[test]
fn a_decodable_object_is_an_upsert() {
    let (_, reader) = reader();
    let change = reader.read(&route(
        json!({"parentRefs": [{"kind": "Service", "name": "orders"}]}),
    ));
    assert!(
        matches!(change, Change::Upsert(Object::ApiRoute(_))),
        "{change:?}"
    );
}

/// A running engine that waits for one watch of ApiRoutes, and that watch.
fn engine() -> (Handle, Follower, Shutdown) {
    let material = CaMaterial::generate(1_800_000_000).expect("a CA");
    let settings = Settings {
        hash_key: hmac::Key::new(hmac::HMAC_SHA256, material.hash_key.expose()),
        operator_namespace: "sluice-system".into(),
        pods: Pods::FromPods,
    };
    let authority = Authority::new(material, "operator", "cluster.local", 1_800_000_000);
    let shutdown = Shutdown::default();
    let (handle, actor) = engine::new(engine::Wiring {
        settings,
        published: Arc::default(),
        table: SessionTable::new(),
        authority: Arc::new(authority.expect("an authority")),
        ready: Readiness::default().condition("world"),
        metrics: engine::Metrics::register(&Registry::new()).expect("registers"),
        verify: false,
        shutdown: shutdown.clone(),
    });
    let inlet = handle.inlet("ApiRoute");
    tokio::spawn(actor.run());
    let metrics = Metrics::register(&Registry::new()).expect("registers");
    let follower = Follower::new(Kind::ApiRoute, inlet, metrics);
    (handle, follower, shutdown)
}

fn named(name: &str) -> DynamicObject {
    let mut object = route(json!({"parentRefs": [{"kind": "Service", "name": "orders"}]}));
    object.metadata.name = Some(name.to_owned());
    object
}

/// Waits until the engine knows exactly these ApiRoutes.
async fn until(handle: &Handle, names: &[&str]) {
    let look = |engine: &sluice_translate::Engine| {
        let names = engine.resources().map(|id| id.name.to_string());
        names.collect::<Vec<_>>()
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let known = handle.read(look).await.expect("the engine runs");
        if known == names {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{known:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_list_replaces_what_was_known_and_a_failed_one_leaves_it() {
    let (handle, mut follower, shutdown) = engine();
    let (known, reader) = reader();
    let events = |names: &[&str]| {
        let objects = names.iter().map(|name| Event::InitApply(named(name)));
        let all = std::iter::once(Event::Init).chain(objects);
        all.chain([Event::InitDone]).collect::<Vec<_>>()
    };
    for event in events(&["a", "b"]) {
        follower
            .take(event, &reader)
            .await
            .expect("the engine runs");
    }
    until(&handle, &["a", "b"]).await;

    // A list that fails half way, then a watch event, then a whole list without `b`.
    for event in [Event::Init, Event::InitApply(named("a"))] {
        follower
            .take(event, &reader)
            .await
            .expect("the engine runs");
    }
    let error = watcher::Error::NoResourceVersion;
    follower
        .failed(&error, &reader)
        .await
        .expect("the engine runs");
    let event = Event::Apply(named("c"));
    follower
        .take(event, &reader)
        .await
        .expect("the engine runs");
    until(&handle, &["a", "b", "c"]).await;
    for event in events(&["a", "c"]) {
        follower
            .take(event, &reader)
            .await
            .expect("the engine runs");
    }
    until(&handle, &["a", "c"]).await;
    let gone = ObjectId::new(Kind::ApiRoute, "shop", "b");
    assert_eq!(known.get(&gone), None, "nor is its status known any more");
    shutdown.begin("test");
}
