//! The table by itself: what it counts, forgets and remembers.

use super::{
    super::{
        published::tests::{group, pod, principal, snapshot},
        testing::{acked, required},
    },
    *,
};

const ROUTE: &[u8] = b"route";

fn build(name: &str) -> Build {
    Build {
        name: name.into(),
        ..Build::default()
    }
}

#[tokio::test(start_paused = true)]
async fn live_counts_acks_of_todays_hash_and_says_who_is_missing() {
    let table = SessionTable::new();
    let pods = [pod("a", "ua"), pod("b", "ub"), pod("c", "uc")];
    let name = UnitName::route("shop", "orders");
    let today = snapshot(&[(name.clone(), ROUTE, &[])]);
    let a = table.seat(
        principal(&pods[0]),
        group("orders"),
        build("1"),
        Instant::now(),
    );
    let b = table.seat(
        principal(&pods[1]),
        group("orders"),
        build("1"),
        Instant::now(),
    );
    let live = |now| table.live(&required(&today, &pods), now);
    assert_eq!((live(Instant::now()).pods, live(Instant::now()).of), (0, 3));

    tokio::time::advance(Duration::from_millis(30)).await;
    a.acked(acked(&today, Instant::now()), &today);
    b.acked(
        acked(&snapshot(&[(name, b"yesterday", &[])]), Instant::now()),
        &today,
    );
    let now = live(Instant::now());
    assert_eq!((now.pods, now.of, now.slowest_ms), (1, 3, Some(30)));
    let why: Vec<_> = now
        .missing
        .iter()
        .map(|missing| (missing.pod.as_str(), &missing.why))
        .collect();
    assert_eq!(why, [("b", &Why::Pending), ("c", &Why::NotConnected(None))]);

    // An unrelated change leaves the latency of what was acknowledged before alone.
    tokio::time::advance(Duration::from_secs(60)).await;
    a.acked(acked(&today, Instant::now()), &today);
    assert_eq!(live(Instant::now()).slowest_ms, Some(30));
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_unknown_and_then_gone() {
    let table = SessionTable::new();
    let pods = [pod("a", "ua")];
    let row = table.seat(
        principal(&pods[0]),
        group("orders"),
        build("1"),
        Instant::now(),
    );
    tokio::time::advance(UNKNOWN_FOR * 2).await;
    assert_eq!(table.alive(&pods, Instant::now()), 1);
    drop(row);
    tokio::time::advance(UNKNOWN_FOR - Duration::from_millis(1)).await;
    table.prune(Instant::now());
    assert_eq!(table.alive(&pods, Instant::now()), 1, "unknown, not gone");
    assert_eq!(table.count(), (0, 1));
    tokio::time::advance(Duration::from_millis(1)).await;
    table.prune(Instant::now());
    assert_eq!(table.alive(&pods, Instant::now()), 0);
}

#[tokio::test(start_paused = true)]
async fn right_after_a_start_every_pod_is_unknown() {
    let table = SessionTable::new();
    let pods = [pod("a", "ua"), pod("b", "ub")];
    assert_eq!(table.alive(&pods, Instant::now()), 2);
    tokio::time::advance(UNKNOWN_FOR).await;
    assert_eq!(table.alive(&pods, Instant::now()), 0);
}

#[tokio::test]
async fn a_pod_that_connects_again_replaces_its_session_and_still_holds_what_it_held() {
    let table = SessionTable::new();
    let mine = pod("a", "ua");
    let today = snapshot(&[(UnitName::route("shop", "orders"), ROUTE, &[])]);
    let first = table.seat(
        principal(&mine),
        group("orders"),
        build("1"),
        Instant::now(),
    );
    first.acked(acked(&today, Instant::now()), &today);
    let second = table.seat(
        principal(&mine),
        group("orders"),
        build("2"),
        Instant::now(),
    );
    assert!(first.replaced.is_cancelled() && !second.replaced.is_cancelled());
    drop(first);
    let record = table.record("shop", "a").expect("seated");
    assert_eq!((record.build.name.as_str(), record.lost), ("2", None));
    assert!(record.acked.is_some());

    let another = pod("a", "ub");
    let _third = table.seat(
        principal(&another),
        group("orders"),
        build("3"),
        Instant::now(),
    );
    assert!(table.record("shop", "a").expect("seated").acked.is_none());
}

#[tokio::test]
async fn only_a_held_map_can_settle_and_a_hold_that_is_over_is_forgotten() {
    let table = SessionTable::new();
    let mine = pod("a", "ua");
    let map = UnitName::shard_map("shop", "orders");
    let held = snapshot(&[(map.clone(), b"hold", &[])]);
    let over = snapshot(&[(map.clone(), b"over", &[])]);
    let row = table.seat(
        principal(&mine),
        group("orders"),
        build("1"),
        Instant::now(),
    );
    let settled = || table.record("shop", "a").expect("seated").settled;
    row.settled(map.clone(), 1, held.manifest[&map].clone());
    assert!(settled().is_empty());
    row.acked(acked(&held, Instant::now()), &held);
    let mut changes = table.changes();
    row.settled(map.clone(), 1, held.manifest[&map].clone());
    assert_eq!(settled()[&map], (1, held.manifest[&map].clone()));
    assert!(changes.has_changed().expect("open"));
    changes.mark_unchanged();
    row.settled(map.clone(), 1, held.manifest[&map].clone());
    assert!(!changes.has_changed().expect("open"), "nothing new");
    row.acked(acked(&over, Instant::now()), &over);
    assert!(settled().is_empty());
}

#[tokio::test(start_paused = true)]
async fn sidecars_that_share_a_proof_stand_beside_each_other() {
    let table = SessionTable::new();
    let shared = PodRef {
        shared: true,
        ..pod("gateway.public", "u")
    };
    let name = UnitName::route("shop", "orders");
    let today = snapshot(&[(name.clone(), ROUTE, &[])]);
    let seat = |instance: &str| {
        let instance = Instance::read(instance).expect("a name");
        let of = principal(&shared);
        table.seat_beside(&instance, of, group("g"), build("1"), Instant::now())
    };
    let pods = [shared.clone()];
    let live = || {
        let live = table.live(&required(&today, &pods), Instant::now());
        (live.pods, live.of)
    };
    assert_eq!(live(), (0, 1), "it is missed");
    let (first, second) = (seat("a1").expect("room"), seat("b2").expect("room"));
    assert!(!first.replaced.is_cancelled() && !second.replaced.is_cancelled());
    first.acked(acked(&today, Instant::now()), &today);
    assert_eq!(live(), (1, 2), "the other does not hold it by that");
    second.acked(acked(&today, Instant::now()), &today);
    assert_eq!((live(), table.alive(&pods, Instant::now())), ((2, 2), 2));

    // The same one again takes its own seat; one that goes is not missed while another is there.
    let again = seat("a1").expect("room");
    assert!(first.replaced.is_cancelled() && !second.replaced.is_cancelled());
    drop((first, second));
    assert_eq!((live(), table.records_of(&shared).len()), ((1, 1), 2));
    drop(again);
    assert_eq!(live(), (0, 1));

    // They are bounded; who is lost makes room, who is connected does not.
    let names = (0..MAX_INSTANCES).map(|number| format!("n{number}"));
    let rows: Vec<_> = names.map(|name| seat(&name).expect("room")).collect();
    assert!(seat("more").is_none());
    assert!(rows.iter().all(|row| !row.replaced.is_cancelled()));
    assert_eq!(Instance::read("a~b"), None);
    assert_eq!(Instance::read(&"a".repeat(33)), None);
}
