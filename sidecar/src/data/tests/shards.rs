//! Shards and the moves of their slots.

use std::{net::SocketAddr, time::Duration};

use super::{
    origin::{Origin, Reply},
    rig::{Rig, backend, backend_name, route, rule, shard_map, to},
};
use sluice_pipeline::shard::slot;
use sluice_snapshot::{
    Unit, UnitName,
    unit::{
        ObjectRef, ShardMap,
        route::Target,
        shard_map::{Held, KeySource, SLOTS, Shard, SlotRange},
    },
};

const KEY: &str = "x-tenant: acme";

/// Every slot on one of two shards.
fn map(epoch: u64, shard: u16, held: bool) -> ShardMap {
    let all = Held {
        first: 0,
        last: SLOTS - 1,
    };
    ShardMap {
        object: ObjectRef::new("ShardSet", "shop", "orders"),
        uid: "u".into(),
        epoch,
        key: vec![KeySource::Header {
            name: "x-tenant".into(),
        }],
        slots: vec![SlotRange {
            first: 0,
            last: SLOTS - 1,
            shard,
        }],
        hold: if held { vec![all] } else { Vec::new() },
        max_pause_ms: 20_000,
        pins: Vec::new(),
        shards: ["s0", "s1"]
            .map(|name| Shard {
                name: name.into(),
                primary: backend_name(name),
                replicas: Vec::new(),
            })
            .into(),
        replica_methods: Vec::new(),
        broken: None,
    }
}

fn units(shards: [SocketAddr; 2], map: ShardMap) -> Vec<(UnitName, Unit)> {
    let mut units = backend("s0", &[shards[0]]);
    units.extend(backend("s1", &[shards[1]]));
    units.push(shard_map(map));
    units
}

fn install(rig: &Rig, shards: [SocketAddr; 2], map: ShardMap) {
    let mut sharded = rule("sharded", "/");
    sharded.action = to(Target::Shards(UnitName::shard_map("shop", "orders")));
    rig.install(&[(&[], route("orders", vec![sharded]))], units(shards, map));
}

#[tokio::test]
async fn a_move_holds_settles_and_lets_nothing_reach_the_old_shard() {
    let old = Origin::start(|_, _| Reply::Gated("200 OK", Vec::new(), "s0".into())).await;
    let new = Origin::start(|_, _| Reply::ok("s1")).await;
    let shards = [old.address, new.address];
    let mut rig = Rig::start(old.address);
    install(&rig, shards, map(1, 0, false));

    // One request is on the old shard when the hold begins.
    let mut early = rig.client().await;
    let early = tokio::spawn(async move { early.ask("POST", "/", &[KEY]).await });
    old.wait_for(1).await;
    install(&rig, shards, map(1, 0, true));
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut client = rig.client().await;
        waiting.push(tokio::spawn(async move {
            client.ask("POST", "/", &[KEY]).await
        }));
    }
    assert!(
        rig.inbox.settled.try_recv().is_err(),
        "a request is still on the slot"
    );
    old.gate.add_permits(1);
    assert_eq!(early.await.expect("no panic").body, "s0");
    let settled = rig.inbox.settled.recv().await.expect("settled");
    assert_eq!(
        (settled.unit.as_str(), settled.epoch),
        ("shards/shop/orders", 1)
    );

    install(&rig, shards, map(2, 1, false));
    for client in waiting {
        let answer = client.await.expect("no panic");
        assert_eq!((answer.status, answer.body.as_str()), (200, "s1"));
    }
    assert_eq!(old.seen().len(), 1);
    let line = rig.lines(5).await.into_iter().next_back().expect("a line");
    assert_eq!(
        (
            &line["shard"]["shard"],
            &line["shard"]["epoch"],
            &line["shard"]["slot"]
        ),
        (&"s1".into(), &2.into(), &slot(b"acme").into())
    );
}

#[tokio::test]
async fn a_hold_that_lasts_too_long_asks_to_come_again_until_it_is_lifted() {
    let old = Origin::start(|_, _| Reply::ok("s0")).await;
    let shards = [old.address, old.address];
    let rig = Rig::start(old.address);
    let mut held = map(1, 0, true);
    held.max_pause_ms = 1_000;
    install(&rig, shards, held);
    let mut client = rig.client().await;
    let begin = std::time::Instant::now();
    let held = client.ask("POST", "/", &[KEY]).await;
    assert_eq!(
        (held.status, held.problem(), held.header("retry-after")),
        (503, "shard-moving", Some("1"))
    );
    assert!(
        begin.elapsed() >= Duration::from_millis(500),
        "it waited: {:?}",
        begin.elapsed()
    );
    // The pause is the hold's and not the request's.
    let begin = std::time::Instant::now();
    assert_eq!(client.ask("POST", "/", &[KEY]).await.status, 503);
    assert!(
        begin.elapsed() < Duration::from_millis(800),
        "it did not wait again: {:?}",
        begin.elapsed()
    );
    assert!(old.seen().is_empty());
    assert_eq!(rig.lines(2).await[0]["decided_by"], "shop/orders");
    install(&rig, shards, map(1, 0, false));
    assert_eq!(client.ask("POST", "/", &[KEY]).await.status, 200);
}

#[tokio::test]
async fn a_request_without_its_key_is_refused() {
    let old = Origin::start(|_, _| Reply::ok("s0")).await;
    let rig = Rig::start(old.address);
    install(&rig, [old.address, old.address], map(1, 0, false));
    let answer = rig.client().await.ask("GET", "/", &[]).await;
    assert_eq!(
        (answer.status, answer.problem()),
        (400, "shard-key-missing")
    );
}
