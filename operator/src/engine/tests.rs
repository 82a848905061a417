//! The actor with the real translation: what is published when, fleet facts, questions.

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};
use sluice_crds::RateLimitPolicy;
use sluice_process::Readiness;
use sluice_snapshot::{UnitName, unit::Unit};
use sluice_translate::{GroupId, world::Pods};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    identity::{CaMaterial, Principal},
    stream::testing::{PATIENCE, until},
};

struct World {
    handle: Handle,
    published: Arc<Published>,
    table: Arc<SessionTable>,
    authority: Arc<Authority>,
    readiness: Readiness,
    shutdown: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
}

impl World {
    /// An actor with these inlets.
    fn start<const N: usize>(names: [&'static str; N]) -> (Self, [Inlet; N]) {
        let now_s = sluice_process::Clock::start().wall_s();
        let material = CaMaterial::generate(now_s).expect("a CA");
        let key = material.hash_key.expose();
        let settings = Settings {
            hash_key: aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key),
            operator_namespace: "sluice-system".into(),
            pods: Pods::FromSlices,
        };
        let authority = Authority::new(material, "operator", DEFAULT_TRUST_DOMAIN, now_s);
        let authority = Arc::new(authority.expect("an authority"));
        let (published, table) = (Arc::new(Published::default()), SessionTable::new());
        let (readiness, shutdown) = (Readiness::default(), Shutdown::default());
        let (handle, actor) = new(Wiring {
            settings,
            published: published.clone(),
            table: table.clone(),
            authority: authority.clone(),
            ready: readiness.condition("world"),
            metrics: Metrics::register(&Registry::new()).expect("registers"),
            verify: true,
            shutdown: shutdown.clone(),
        });
        let inlets = names.map(|name| handle.inlet(name));
        let world = Self {
            handle,
            published,
            table,
            authority,
            readiness,
            shutdown,
            running: tokio::spawn(actor.run()),
        };
        (world, inlets)
    }

    async fn stop(self) {
        self.shutdown.begin("test");
        self.running.await.expect("no panic").expect("ends well");
    }

    /// What the fleet unit of the policy says.
    async fn fleet(&self) -> Option<u32> {
        let read = |engine: &Engine| {
            let name = UnitName::fleet("shop", "plans");
            let body = engine.unit(&name)?.body.clone();
            match Unit::decode(&name, &body) {
                Ok(Unit::Fleet(fleet)) => Some(fleet.sessions),
                _ => None,
            }
        };
        self.handle.read(read).await.expect("the engine runs")
    }

    async fn until_fleet(&self, wanted: u32) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.fleet().await != Some(wanted) {
            assert!(
                std::time::Instant::now() < deadline,
                "{:?}",
                self.fleet().await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("decodes")
}

/// A Service `orders` with these pods.
fn orders(pods: &[&str]) -> Vec<Change> {
    let endpoints: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(n, pod)| {
            json!({
                "addresses": [format!("127.0.0.{}", n + 1)],
                "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod, "uid": format!("uid-{pod}")},
            })
        })
        .collect();
    let service: Service = decode(json!({
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }));
    let slice: EndpointSlice = decode(json!({
        "metadata": {"name": "orders", "namespace": "shop", "labels": {"kubernetes.io/service-name": "orders"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    }));
    vec![
        Change::Upsert(Object::from(&service)),
        Change::Upsert(Object::from(&slice)),
    ]
}

fn route() -> Change {
    let route: sluice_crds::ApiRoute = decode(json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ApiRoute",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"parentRefs": [{"kind": "Service", "name": "orders"}]},
    }));
    Change::Upsert(Object::from(&route))
}

fn plans() -> Change {
    let policy: RateLimitPolicy = decode(json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "RateLimitPolicy",
        "metadata": {"name": "plans", "namespace": "shop"},
        "spec": {
            "targetRefs": [{"group": "sluice.dev", "kind": "ApiRoute", "name": "orders"}],
            "limits": [{
                "name": "all",
                "algorithm": {"type": "TokenBucket", "tokenBucket": {"requests": 10, "per": "1s"}},
                "scope": "Global",
                "global": {"storeRef": {"name": "default"}},
            }],
        },
    }));
    Change::Upsert(Object::from(&policy))
}

fn config() -> Change {
    let config: sluice_crds::SluiceConfig = decode(json!({
        "apiVersion": "config.sluice.dev/v1alpha1",
        "kind": "SluiceConfig",
        "trustDomain": "shop.example",
        "stores": [{"name": "default", "type": "Redis", "redis": {"addresses": ["127.0.0.1:6379"]}}],
    }));
    Change::Upsert(Object::from(&config))
}

fn group() -> GroupId {
    GroupId::new("shop", BTreeSet::from(["orders".to_owned()]))
}

fn principal(pod: &str) -> Principal {
    Principal {
        namespace: "shop".into(),
        service_account: "default".into(),
        pod: pod.into(),
        uid: format!("uid-{pod}"),
    }
}

#[tokio::test]
async fn nothing_is_published_before_every_source_is_complete() {
    let (world, [services, routes]) = World::start(["services", "routes"]);
    services.send(orders(&["orders-0"])).await.expect("sent");
    services.synced().await.expect("sent");
    // A question is answered between batches: the first source's have been taken in by then.
    let deadline = std::time::Instant::now() + Duration::from_millis(300);
    while std::time::Instant::now() < deadline {
        world.handle.read(|_| ()).await.expect("the engine runs");
        assert!(!world.published.has_started());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!world.readiness.is_ready());

    routes.send(vec![route()]).await.expect("sent");
    routes.synced().await.expect("sent");
    until("published", || world.published.has_started()).await;
    until("ready", || world.readiness.is_ready()).await;
    let snapshot = world.published.snapshot(&group()).expect("published");
    assert!(snapshot.unit(&UnitName::route("shop", "orders")).is_some());
    world.stop().await;
}

#[tokio::test]
async fn a_change_reaches_those_who_follow_its_group_with_unchanged_units_shared() {
    let (world, [source]) = World::start(["all"]);
    source.send(orders(&["orders-0"])).await.expect("sent");
    source.send(vec![route()]).await.expect("sent");
    source.synced().await.expect("sent");
    until("published", || world.published.has_started()).await;
    let feed = world
        .published
        .admit(&principal("orders-0"))
        .expect("admitted");
    let mut snapshots = feed.borrow().snapshots.clone();
    let before = snapshots.borrow_and_update().clone();
    let mut deltas = world.handle.deltas();

    source.send(vec![config()]).await.expect("sent");
    tokio::time::timeout(PATIENCE, snapshots.changed())
        .await
        .expect("in time")
        .expect("followed");
    let after = snapshots.borrow_and_update().clone();
    assert_ne!(before.version, after.version);
    let route = UnitName::route("shop", "orders");
    let of = |snapshot: &Snapshot| snapshot.unit(&route).expect("held").clone();
    assert!(Arc::ptr_eq(&of(&before), &of(&after)));
    assert!(
        deltas
            .recv()
            .await
            .expect("told")
            .groups_changed
            .contains_key(&group())
    );
    assert_eq!(world.authority.trust_domain().as_str(), "shop.example");

    source
        .send(vec![Change::Delete(ObjectId::config())])
        .await
        .expect("sent");
    until("the default again", || {
        world.authority.trust_domain().as_str() == DEFAULT_TRUST_DOMAIN
    })
    .await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn fleet_facts_count_connected_and_unknown_and_keep_their_last_value() {
    let (world, [source]) = World::start(["all"]);
    source
        .send(orders(&["orders-0", "orders-1", "orders-2"]))
        .await
        .expect("sent");
    source
        .send(vec![route(), plans(), config()])
        .await
        .expect("sent");
    source.synced().await.expect("sent");
    until("published", || world.published.has_started()).await;
    // Right after a start everybody is unknown, which counts.
    world.until_fleet(3).await;
    let mut seats: Vec<_> = ["orders-0", "orders-1", "orders-2"]
        .map(|pod| {
            world
                .table
                .seat(principal(pod), group(), Default::default(), Instant::now())
        })
        .into();
    drop(seats.pop());
    tokio::time::advance(crate::stream::table::UNKNOWN_FOR).await;
    world.until_fleet(2).await;
    drop(seats);
    tokio::time::advance(crate::stream::table::UNKNOWN_FOR * 2).await;
    until("nobody is left", || world.table.count() == (0, 0)).await;
    for _ in 0..50 {
        tokio::time::sleep(FLEET_INTERVAL / 10).await;
        assert_eq!(world.fleet().await, Some(2), "the last value stays");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_source_that_ends_does_not_end_the_engine_and_findings_are_told() {
    let (world, [source, other]) = World::start(["all", "other"]);
    source.synced().await.expect("sent");
    other.synced().await.expect("sent");
    drop(other);
    let about = ObjectId::new(Kind::File, "", "a.yaml");
    let finding = Finding::new(
        &about,
        sluice_translate::FindingReason::UnreadableFile,
        None,
        "line 3: no",
    );
    let mut deltas = world.handle.deltas();
    source
        .note(about.clone(), vec![finding])
        .await
        .expect("sent");
    let delta = tokio::time::timeout(PATIENCE, deltas.recv())
        .await
        .expect("in time")
        .expect("told");
    assert!(delta.findings_changed.contains(&about));
    let count = world
        .handle
        .read(move |engine| engine.findings(&about).len())
        .await;
    assert_eq!(count.expect("the engine runs"), 1);
    world.stop().await;
}

/// A placement in force that is not the one asked for: no unit changes with the wish.
fn wish(shard: &str) -> Change {
    let member = |name: &str| json!({"name": "a", "role": "Primary", "backendRef": {"name": name, "port": 80}});
    let set: sluice_crds::ShardSet = decode(json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ShardSet",
        "metadata": {"name": "set", "namespace": "shop"},
        "spec": {
            "keyspace": {"slots": 16384, "hash": "CRC16"},
            "key": {"from": [{"type": "Header", "header": {"name": "X-Tenant"}}]},
            "shards": [
                {"name": "s0", "members": [member("orders")]},
                {"name": "s1", "members": [member("orders")]},
            ],
            "placement": [{"slots": "0-16383", "shard": shard}],
        },
        "status": {"epoch": 1, "placement": [{"slots": "0-16383", "shard": "s0"}]},
    }));
    Change::Upsert(Object::from(&set))
}

#[tokio::test]
async fn a_wish_is_told_though_no_unit_changes_with_it() {
    let (world, [source]) = World::start(["all"]);
    source.send(orders(&["p0"])).await.expect("sent");
    source.send(vec![wish("s0")]).await.expect("sent");
    source.synced().await.expect("sent");
    until("published", || world.published.has_started()).await;
    let map = |engine: &Engine| {
        engine
            .unit(&UnitName::shard_map("shop", "set"))
            .map(|unit| unit.hash.clone())
    };
    let before = world.handle.read(map).await.expect("the engine runs");
    let mut deltas = world.handle.deltas();
    source.send(vec![wish("s1")]).await.expect("sent");
    tokio::time::timeout(PATIENCE, deltas.recv())
        .await
        .expect("in time")
        .expect("told");
    let after = world.handle.read(map).await.expect("the engine runs");
    assert!(before.is_some() && before == after, "{before:?} {after:?}");
    world.stop().await;
}
