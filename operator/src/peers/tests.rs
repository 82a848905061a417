//! The exchange end to end on loopback, and the merge by itself: what one replica knows of the sessions of others.

mod evening;
mod happenings;

use std::{sync::Arc, time::Duration};

use prometheus::Registry;
use prost::Message;
use sluice_snapshot::{
    Feature, UnitName, Version,
    stream::{Report, up},
};
use sluice_translate::PodRef;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{
    follow::Following, incoming::Incoming, metrics::Metrics, outgoing::Outgoing, proto,
    wire::WireError,
};
use crate::{
    load::{Loads, Sample},
    stream::{
        SessionTable, Snapshot,
        published::tests::{group, pod, principal, snapshot},
        table::{Build, LostBy, Remote, Row, Turn, UNKNOWN_FOR},
        testing::{PATIENCE, Proof, Server, acked, required, until},
    },
};

fn build() -> Build {
    Build {
        name: "0.1.0".into(),
        features: Arc::from(["cache".to_owned(), "core".to_owned()]),
    }
}

/// One replica that tells another one.
struct Other {
    life: String,
    table: Arc<SessionTable>,
    outgoing: Outgoing,
    incoming: Incoming,
}

impl Other {
    fn new(life: &str) -> Self {
        Self {
            life: life.to_owned(),
            table: SessionTable::new(),
            outgoing: Outgoing::new(life),
            incoming: Incoming::default(),
        }
    }

    /// A stream that begins anew.
    fn reconnect(&mut self) {
        self.outgoing = Outgoing::new(&self.life);
        self.incoming = Incoming::default();
    }

    /// Tells what is new; how many bytes that took.
    fn tell(&mut self, observer: &SessionTable) -> usize {
        let now = Instant::now();
        let mut bytes = 0;
        for part in self.outgoing.turn(&self.table, now) {
            let encoded = part.encode_to_vec();
            bytes += encoded.len();
            let part = proto::Part::decode(&*encoded).expect("decodes");
            if let Some(turn) = self.incoming.part(part, now).expect("fits together") {
                observer.merge(&self.life, turn);
            }
        }
        bytes
    }
}

fn seat(table: &Arc<SessionTable>, pod: &PodRef) -> Row {
    table.seat(principal(pod), group("orders"), build(), Instant::now())
}

#[tokio::test(start_paused = true)]
async fn everything_that_status_moves_and_scaling_need_travels() {
    let (observer, mut other) = (SessionTable::new(), Other::new("b"));
    let pods = [pod("a", "ua"), pod("b", "ub")];
    let map = UnitName::shard_map("shop", "orders");
    let held = snapshot(&[
        (map.clone(), b"hold", &[]),
        (UnitName::route("shop", "orders"), b"route", &[]),
    ]);
    let here = seat(&observer, &pods[0]);
    let there = seat(&other.table, &pods[1]);
    tokio::time::advance(Duration::from_millis(70)).await;
    here.acked(acked(&held, Instant::now()), &held);
    there.acked(acked(&held, Instant::now()), &held);
    there.settled(map.clone(), 7, held.manifest[&map].clone());
    for requests in [0, 50] {
        let at = Instant::now();
        there.reported(Sample {
            at,
            requests,
            in_flight: 3,
            latency_p95_us: 900,
        });
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(
        observer.live(&required(&held, &pods), Instant::now()).pods,
        1,
        "not told yet"
    );
    other.tell(&observer);
    let live = observer.live(&required(&held, &pods), Instant::now());
    assert_eq!((live.pods, live.of, live.slowest_ms), (2, 2, Some(70)));
    let record = observer.records_of(&pods[1]).pop().expect("known");
    assert_eq!(record.settled[&map], (7, held.manifest[&map].clone()));
    assert_eq!(record.build, build());
    assert_eq!(record.group, group("orders"));
    let loads = Loads::new(observer.clone());
    let of_b = loads.of_pods("shop", |load| load.uid == "ub");
    assert_eq!(of_b.len(), 1);
    assert_eq!(
        (of_b[0].requests_per_second, of_b[0].in_flight),
        (50.0, 3.0)
    );
    assert!(loads.of_pods("bank", |_| true).is_empty());

    // A pod that is silent for ten seconds drops out; its session stands.
    tokio::time::advance(Duration::from_secs(9)).await;
    assert!(loads.of_pods("shop", |_| true).is_empty());
    assert!(
        observer
            .records_of(&pods[1])
            .pop()
            .expect("known")
            .is_connected()
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_replicas_sessions_are_unknown_and_hold_what_they_held_and_then_gone() {
    let (observer, mut other) = (SessionTable::new(), Other::new("b"));
    tokio::time::advance(UNKNOWN_FOR * 2).await;
    let pods = [pod("a", "ua")];
    let held = snapshot(&[(UnitName::route("shop", "orders"), b"route", &[])]);
    let newer = snapshot(&[(UnitName::route("shop", "orders"), b"newer", &[])]);
    let row = seat(&other.table, &pods[0]);
    row.acked(acked(&held, Instant::now()), &held);
    other.tell(&observer);
    let live = |of: &Snapshot| observer.live(&required(of, &pods), Instant::now()).pods;
    assert_eq!(live(&held), 1);

    observer.replica_lost("b", Instant::now());
    tokio::time::advance(UNKNOWN_FOR - Duration::from_millis(1)).await;
    observer.prune(Instant::now());
    assert_eq!((live(&held), live(&newer)), (1, 0), "what it acknowledged");
    assert_eq!(observer.alive(&pods, Instant::now()), 1);
    let record = observer.records_of(&pods[0]).pop().expect("unknown");
    assert!(!record.is_connected(), "a move does not count on it");

    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(live(&held), 0);
    observer.prune(Instant::now());
    assert_eq!(observer.alive(&pods, Instant::now()), 0);
    assert_eq!(observer.count_of_others(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_begins_anew_tells_everything_there_is() {
    let (observer, mut other) = (SessionTable::new(), Other::new("b"));
    let mine = pod("a", "ua");
    let row = seat(&other.table, &mine);
    other.tell(&observer);
    // The session ends and is forgotten over there while the stream is broken.
    drop(row);
    tokio::time::advance(Duration::from_secs(10)).await;
    observer.replica_lost("b", Instant::now());
    tokio::time::advance(Duration::from_secs(5)).await;
    other.table.prune(Instant::now());
    assert!(observer.records_of(&mine).pop().is_some(), "unknown");
    other.reconnect();
    other.tell(&observer);
    assert!(
        observer.records_of(&mine).pop().is_none(),
        "known to be gone"
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_that_its_sidecar_ended_is_not_live_wherever_it_was() {
    let (observer, mut other) = (SessionTable::new(), Other::new("b"));
    let pods = [pod("a", "ua"), pod("b", "ub")];
    let held = snapshot(&[(UnitName::route("shop", "orders"), b"route", &[])]);
    let rows = pods.clone().map(|pod| {
        let row = seat(&other.table, &pod);
        row.acked(acked(&held, Instant::now()), &held);
        row
    });
    other.tell(&observer);
    let live = || observer.live(&required(&held, &pods), Instant::now()).pods;
    assert_eq!(live(), 2);
    let [mut moves, ends] = rows;
    drop(ends);
    moves.will_be_lost_by(LostBy::Replica);
    drop(moves);
    other.tell(&observer);
    assert_eq!(live(), 1, "the one that its replica sent elsewhere");
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_goes_to_another_replica_never_seems_to_hold_nothing() {
    let (observer, mut other) = (SessionTable::new(), Other::new("b"));
    let pods = [pod("a", "ua")];
    let held = snapshot(&[(UnitName::route("shop", "orders"), b"route", &[])]);
    let live = || observer.live(&required(&held, &pods), Instant::now()).pods;
    let mut first = seat(&observer, &pods[0]);
    first.acked(acked(&held, Instant::now()), &held);
    first.will_be_lost_by(LostBy::Replica);
    drop(first);
    assert_eq!(live(), 1);
    tokio::time::advance(Duration::from_millis(30)).await;
    let second = seat(&other.table, &pods[0]);
    other.tell(&observer);
    assert!(
        observer
            .records_of(&pods[0])
            .pop()
            .expect("there")
            .is_connected()
    );
    assert_eq!(live(), 1, "it has not acknowledged anything over there yet");
    second.acked(acked(&held, Instant::now()), &held);
    other.tell(&observer);
    assert_eq!(live(), 1);
}

#[test]
fn an_older_state_of_a_session_changes_nothing() {
    let observer = SessionTable::new();
    let record = |connected: bool| {
        let table = SessionTable::new();
        let row = seat(&table, &pod("a", "ua"));
        let rows = connected.then_some(row);
        let record = table.record("shop", "a").expect("seated");
        drop(rows);
        record
    };
    let told = |id, version, connected| Turn {
        changed: vec![Remote {
            id,
            version,
            record: record(connected),
        }],
        ..Turn::default()
    };
    let connected = || observer.record("shop", "a").expect("told").is_connected();
    observer.merge("b", told(4, 9, true));
    observer.merge("b", told(4, 8, false));
    assert!(connected(), "an older version");
    observer.merge("b", told(3, 20, false));
    assert!(connected(), "an older session");
    observer.merge("b", told(4, 10, false));
    assert!(!connected());
    observer.merge("b", told(5, 11, true));
    assert!(connected());
    let gone = Turn {
        gone: vec![4],
        ..Turn::default()
    };
    observer.merge("b", gone);
    assert!(connected(), "its former session was forgotten, not it");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let now = Instant::now();
    let session = proto::Session {
        id: 1,
        version: 1,
        ..proto::Session::default()
    };
    let identity = proto::Identity::default();
    let with = |change: fn(&mut proto::Part)| {
        let mut part = proto::Part {
            replica: "b".into(),
            last: true,
            ..proto::Part::default()
        };
        change(&mut part);
        part
    };
    let nameless = with(|part| part.replica.clear());
    let mut stranger = with(|_| {});
    stranger.sessions.push(session.clone());
    let mut listless = with(|_| {});
    listless.sessions.push(proto::Session {
        identity: Some(identity),
        acked: Some(proto::Acked::default()),
        ..session
    });
    let mut forged = with(|_| {});
    forged.manifests.push(proto::Manifest {
        version: "0".repeat(32),
        upserts: [("route/shop/a".to_owned(), "x".to_owned())].into(),
        ..proto::Manifest::default()
    });
    let mut baseless = forged.clone();
    baseless.manifests[0].base = "1".repeat(32);
    for (part, why) in [
        (nameless, WireError::Missing("the replica's name")),
        (stranger, WireError::Unknown("a session's identity")),
        (listless, WireError::Unknown("a list")),
        (
            forged,
            WireError::Version(Version::from_wire("0".repeat(32))),
        ),
        (baseless, WireError::Unknown("the base of a list")),
    ] {
        let refused = Incoming::default().part(part, now);
        assert_eq!(refused.expect_err("refused"), why);
    }
}

/// Ten thousand sessions of fifty groups with forty units each: what travels at first, when nothing happens, when one
/// unit of one group changes, and when every sidecar reported its load.
#[tokio::test(start_paused = true)]
async fn ten_thousand_sessions_travel_once() {
    const GROUPS: usize = 50;
    const PODS: usize = 10_000;
    let (observer, mut other) = (SessionTable::new(), Other::new("b"));
    let units = |of: usize, body: &'static [u8]| {
        let named = |n| (UnitName::route("shop", &format!("{of}-{n}")), body, &[][..]);
        let list: Vec<_> = (0..40).map(named).collect();
        snapshot(&list)
    };
    let snapshots: Vec<_> = (0..GROUPS).map(|of| units(of, b"1")).collect();
    let mut rows = Vec::new();
    for n in 0..PODS {
        let pod = pod(&format!("orders-7f9c6d5b4-{n:05}"), &format!("{n:036}"));
        let row = seat(&other.table, &pod);
        let held = &snapshots[n % GROUPS];
        row.acked(acked(held, Instant::now()), held);
        rows.push(row);
    }
    let first = other.tell(&observer);
    let idle = other.tell(&observer);
    assert_eq!(observer.count_of_others(), PODS);
    let next = units(0, b"2");
    for row in rows.iter().step_by(GROUPS) {
        row.acked(acked(&next, Instant::now()), &next);
    }
    let change = other.tell(&observer);
    for requests in [0, 100] {
        tokio::time::advance(Duration::from_secs(1)).await;
        for row in &rows {
            row.reported(Sample {
                at: Instant::now(),
                requests,
                in_flight: 2,
                latency_p95_us: 2500,
            });
        }
    }
    let loads = other.tell(&observer);
    println!(
        "10,000 sessions: {first} bytes at first, {idle} idle, {change} for a change of 200 of them, {loads} for every load"
    );
    assert!(first < 4_000_000, "{first}");
    assert!(idle < 16, "{idle}");
    assert!(change < 60_000, "{change}");
    assert!(loads < 400_000, "{loads}");
    assert_eq!(Loads::new(observer).of_pods("shop", |_| true).len(), PODS);
}

/// Follows `to` on behalf of `from`, until the token is cancelled.
fn follow(from: &Server, to: &Server) -> (CancellationToken, mpsc::Receiver<String>) {
    let (heard, hears) = mpsc::channel(1024);
    let end = CancellationToken::new();
    let following = Following {
        replica: from.address.to_string(),
        table: from.table.clone(),
        authority: from.authority.clone(),
        clock: from.clock,
        metrics: Metrics::register(&Registry::new()).expect("registers"),
    };
    tokio::spawn(following.run("to".into(), to.address, heard, end.clone()));
    (end, hears)
}

async fn two_replicas() -> (Server, Server) {
    let first = Server::start().await;
    let second = Server::of(first.authority.material()).await;
    (first, second)
}

fn orders() -> Arc<Snapshot> {
    snapshot(&[(
        UnitName::route("shop", "orders"),
        b"orders",
        &[Feature::Core],
    )])
}

#[tokio::test]
async fn a_replica_knows_the_sessions_of_another_until_it_is_lost() {
    let (first, second) = two_replicas().await;
    let (orders, mine) = (orders(), pod("orders-0", "u0"));
    second.place(&[(&group("orders"), mine.clone())], &orders);
    let (end, mut hears) = follow(&first, &second);
    assert_eq!(hears.recv().await.as_deref(), Some("to"), "an empty table");

    let mut sidecar = second.join(second.token("orders-0")).await.expect("joined");
    sidecar.apply().await;
    let pods = [mine];
    let live = || {
        first
            .table
            .live(&required(&orders, &pods), Instant::now())
            .pods
    };
    until("the first knows", || live() == 1).await;
    let record = first.table.record("shop", "orders-0").expect("known");
    assert!(record.is_connected());
    let loads = Loads::new(first.table.clone());
    let reporting = async {
        let mut report = Report::default();
        while loads.of_pods("shop", |load| load.uid == "u0").is_empty() {
            report.requests += 10;
            sidecar.say(up::Kind::Report(report.clone())).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reported = tokio::time::timeout(PATIENCE, reporting).await;
    reported.expect("the first knows the load");

    second.shutdown.begin("the end of the second");
    second.serving.await.expect("joined").expect("ended well");
    until("its session is unknown", || {
        let record = first.table.record("shop", "orders-0");
        record.is_some_and(|record| !record.is_connected())
    })
    .await;
    assert_eq!(live(), 1, "unknown, not gone");
    end.cancel();
}

#[tokio::test]
async fn a_settled_map_does_not_wait_for_the_next_turn() {
    let (first, second) = two_replicas().await;
    let map = UnitName::shard_map("shop", "orders");
    let held = snapshot(&[(map.clone(), b"hold", &[Feature::Core])]);
    let mine = pod("orders-0", "u0");
    second.place(&[(&group("orders"), mine.clone())], &held);
    let (end, _hears) = follow(&first, &second);
    let mut sidecar = second.join(second.token("orders-0")).await.expect("joined");
    sidecar.apply().await;
    until("the first knows the map", || {
        let record = first.table.records_of(&mine).pop();
        record.is_some_and(|record| record.acked.is_some())
    })
    .await;
    // Turns follow each other every half second; five of them would take two.
    let began = Instant::now();
    for epoch in 1..=5 {
        let hash = held.manifest[&map].clone();
        sidecar.settled(&map, epoch, hash.as_str()).await;
        until("the first knows that it settled", || {
            let record = first.table.records_of(&mine).pop().expect("known");
            record.settled.get(&map) == Some(&(epoch, hash.clone()))
        })
        .await;
    }
    assert!(
        began.elapsed() < Duration::from_millis(1500),
        "{:?}",
        began.elapsed()
    );
    end.cancel();
}

#[tokio::test]
async fn only_the_operators_own_certificate_may_ask() {
    let (first, second) = two_replicas().await;
    let orders = orders();
    second.place(&[(&group("orders"), pod("orders-0", "u0"))], &orders);
    let mut sidecar = second.join(second.token("orders-0")).await.expect("joined");
    sidecar.apply().await;
    let certificate = sidecar.certificate("urn:sluice:operator").await;
    for proof in [Proof::None, second.token("orders-0"), certificate] {
        let channel = second.channel(&proof).await.expect("connects");
        let mut client = proto::peers_client::PeersClient::new(channel);
        let asked = client.follow(proto::FollowRequest::default()).await;
        assert_eq!(asked.expect_err("refused").code(), Code::PermissionDenied);
    }

    // A replica of another CA does not even shake hands.
    let stranger = Server::start().await;
    let (end, mut hears) = follow(&stranger, &second);
    let (end_of_first, mut first_hears) = follow(&first, &second);
    assert!(first_hears.recv().await.is_some(), "ours is told");
    assert!(hears.try_recv().is_err(), "the stranger is not");
    end.cancel();
    end_of_first.cancel();
    // The stream itself goes on.
    sidecar.say(up::Kind::Report(Default::default())).await;
}
