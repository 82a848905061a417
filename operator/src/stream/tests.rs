//! Sessions, end to end on loopback: who gets what, what is sent, and who may not hold up whom.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sluice_snapshot::{Feature, UnitName, stream::down};
use sluice_translate::PodKey;
use tokio::{io::AsyncReadExt, net::TcpStream, time::Instant};
use tonic::Code;

use super::{
    published::{
        Publication,
        tests::{group, pod, snapshot},
    },
    table::{LostBy, Required, Why},
    testing::{Proof, Server, Sidecar, until},
};

fn route(name: &str) -> UnitName {
    UnitName::route("shop", name)
}

/// Orders with two pods, stock with one, each with a unit of its own.
async fn two_groups() -> Server {
    let server = Server::start().await;
    let (orders, stock) = (group("orders"), group("stock"));
    server.place(
        &[
            (&orders, pod("orders-0", "u0")),
            (&orders, pod("orders-1", "u1")),
        ],
        &snapshot(&[(route("orders"), b"orders", &[Feature::Core])]),
    );
    server.place(
        &[(&stock, pod("stock-0", "u2"))],
        &snapshot(&[(route("stock"), b"stock", &[Feature::Core])]),
    );
    server
}

#[tokio::test]
async fn two_sidecars_of_a_group_hold_the_same_and_only_differences_follow() {
    let server = two_groups().await;
    let orders = group("orders");
    let pods = [pod("orders-0", "u0"), pod("orders-1", "u1")];
    let mut sidecars = Vec::new();
    for pod in &pods {
        sidecars.push(server.join(server.token(&pod.name)).await.expect("joined"));
    }
    let mut versions = Vec::new();
    for sidecar in &mut sidecars {
        let applied = sidecar.apply().await;
        assert_eq!(applied.names(), [route("orders").as_str()]);
        assert_eq!(sidecar.roots_pem, server.roots());
        versions.push(applied.version);
    }
    assert_eq!(versions[0], versions[1]);

    let next = snapshot(&[
        (route("orders"), b"orders", &[Feature::Core]),
        (route("more"), b"more", &[Feature::Core]),
    ]);
    server.published.publish(Publication {
        groups: vec![(orders, Some(next.clone()))],
        pods: Vec::new(),
    });
    for sidecar in &mut sidecars {
        let applied = sidecar.apply().await;
        assert_eq!(applied.names(), [route("more").as_str()]);
        assert_eq!(applied.version, next.version.to_string());
    }
    let required = [Required {
        units: next
            .manifest
            .iter()
            .map(|(name, hash)| (name.clone(), hash.clone()))
            .collect(),
        pods: pods.to_vec(),
    }];
    until("both are live", || {
        server.table.live(&required, Instant::now()).pods == 2
    })
    .await;
}

#[tokio::test]
async fn a_token_gets_its_own_pods_configuration_and_no_other() {
    let server = two_groups().await;
    let mut stock = server.join(server.token("stock-0")).await.expect("joined");
    assert_eq!(stock.apply().await.names(), [route("stock").as_str()]);
    let record = server.table.record("shop", "stock-0").expect("seated");
    assert_eq!(
        (record.group, record.principal.uid.as_str()),
        (group("stock"), "u2")
    );
}

#[tokio::test]
async fn without_a_good_proof_nothing_is_sent() {
    let server = two_groups().await;
    let Proof::Token(good) = server.token("orders-0") else {
        panic!("a token")
    };
    let mut tampered = good.clone();
    tampered.replace_range(good.len() - 4.., "0000");
    for (proof, why) in [
        (Proof::None, "neither a token nor a client certificate"),
        (Proof::Token(String::new()), "not `Bearer <token>`"),
        (Proof::Token("x".repeat(20_000)), "not `Bearer <token>`"),
        (Proof::Token(tampered), "no join token"),
        (
            Proof::Token(good.replace("orders-0", "orders-1")),
            "no join token",
        ),
    ] {
        let refused = server.join(proof).await.expect_err("refused");
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains(why), "{refused}");
        assert!(
            !refused.message().contains(&good[good.len() - 32..]),
            "{refused}"
        );
    }
    assert_eq!(server.table.count(), (0, 0));
}

#[tokio::test]
async fn a_proof_of_a_pod_that_the_operator_does_not_know_is_refused() {
    let server = two_groups().await;
    let mut sidecar = server.join(server.token("orders-0")).await.expect("joined");
    sidecar.apply().await;
    let certificate = sidecar.certificate("orders-0").await;
    server.published.publish(Publication {
        pods: vec![(PodKey::new("shop", "orders-0"), None)],
        ..Publication::default()
    });
    assert_eq!(
        sidecar.end().await.code(),
        Code::PermissionDenied,
        "the session ends"
    );
    let refused = server.join(certificate.clone()).await.expect_err("gone");
    assert_eq!(refused.code(), Code::PermissionDenied);
    // Another pod of the same name is not that pod.
    server.place(
        &[(&group("orders"), pod("orders-0", "another"))],
        &snapshot(&[]),
    );
    let refused = server.join(certificate).await.expect_err("another uid");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_certificate_opens_the_stream_of_its_own_pod() {
    let server = two_groups().await;
    for (pod, other, unit) in [
        ("orders-0", "stock-0", route("orders")),
        ("stock-0", "orders-0", route("stock")),
    ] {
        let mut sidecar = server.join(server.token(pod)).await.expect("joined");
        sidecar.apply().await;
        // Both run under one service account, and the request asks for the other's name.
        let certificate = sidecar.certificate(other).await;
        drop(sidecar);
        let mut again = server
            .join(certificate)
            .await
            .expect("joined by certificate");
        assert_eq!(
            again.update().await.expect("an update").names(),
            [unit.as_str()]
        );
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (server, foreign) = (two_groups().await, two_groups().await);
    let mut sidecar = foreign
        .join(foreign.token("orders-0"))
        .await
        .expect("joined");
    let certificate = sidecar.certificate("orders-0").await;
    let refused = server.join(certificate).await.expect_err("refused");
    assert_ne!(
        refused.code(),
        Code::PermissionDenied,
        "already by TLS: {refused}"
    );
    assert_eq!(server.table.count(), (0, 0));
}

#[tokio::test]
async fn the_authority_is_rotated_without_a_restart() {
    let server = two_groups().await;
    let old_roots = server.roots();
    let mut sidecar = server.join(server.token("orders-0")).await.expect("joined");
    sidecar.apply().await;
    let old_certificate = sidecar.certificate("orders-0").await;

    let now_s = server.clock.wall_s();
    let next = server.authority.material().rotated(now_s).expect("rotated");
    let new_root = next.certificate_pem.clone();
    server.authority.adopt(next, now_s).expect("adopted");

    // The session stands and learns the bundle.
    let roots = loop {
        if let down::Kind::Roots(roots) = sidecar.message().await.expect("still there") {
            break roots.pem;
        }
    };
    assert!(roots.contains(old_roots.trim()) && roots.contains(new_root.trim()));

    // Whoever knows only the old root gets in, whoever knows only the new one too, by old and by new certificates.
    let new_certificate = sidecar.certificate("orders-0").await;
    // The new root alone carries it too: without the cross certificate that comes along.
    let Proof::Certificate { chain_pem, key_der } = new_certificate.clone() else {
        panic!("a certificate")
    };
    let end = "-----END CERTIFICATE-----\n";
    let leaf = &chain_pem[..chain_pem.find(end).expect("PEM") + end.len()];
    assert!(leaf.len() < chain_pem.len());
    let leaf_only = Proof::Certificate {
        chain_pem: leaf.to_owned(),
        key_der,
    };
    for roots in [&old_roots, &new_root] {
        for proof in [
            server.token("stock-0"),
            old_certificate.clone(),
            new_certificate.clone(),
            leaf_only.clone(),
        ] {
            server.open(proof, roots).await.expect("opened");
        }
    }
}

#[tokio::test]
async fn a_reconnect_gets_only_what_it_does_not_hold() {
    let server = two_groups().await;
    let held = server
        .join(server.token("orders-0"))
        .await
        .expect("joined")
        .apply()
        .await
        .held();
    let mut same = server
        .open(server.token("orders-0"), &server.roots())
        .await
        .expect("opened");
    same.hello(&Feature::ALL, &held).await;
    let applied = same.apply().await;
    assert!(applied.upserts.is_empty() && applied.removes.is_empty());
    assert!(
        !applied.version.is_empty(),
        "there is something to acknowledge"
    );
    let mut again = server
        .open(server.token("orders-0"), &server.roots())
        .await
        .expect("opened");
    let mut stale = held.clone();
    stale.insert(route("gone").to_string(), "00".into());
    again.hello(&Feature::ALL, &stale).await;
    let applied = again.update().await.expect("an update");
    assert_eq!(
        (applied.names().len(), applied.removes),
        (0, vec![route("gone").to_string()])
    );
}

#[tokio::test]
async fn a_unit_the_sidecar_cannot_honour_is_denied_and_named() {
    let server = Server::start().await;
    let mine = pod("orders-0", "u0");
    let units = snapshot(&[
        (route("plain"), b"plain", &[Feature::Core]),
        (route("cached"), b"cached", &[Feature::Core, Feature::Cache]),
    ]);
    server.place(&[(&group("orders"), mine.clone())], &units);
    let mut old = server
        .open(server.token("orders-0"), &server.roots())
        .await
        .expect("opened");
    old.hello(&[Feature::Core], &BTreeMap::new()).await;
    let applied = old.apply().await;
    let reason = applied.denied(&route("cached")).expect("denied");
    assert!(
        reason.contains("SidecarTooOld") && reason.contains("cache"),
        "{reason}"
    );
    assert_eq!(applied.denied(&route("plain")), None);

    let required = |name: &str| {
        [Required {
            units: vec![(route(name), units.manifest[&route(name)].clone())],
            pods: vec![mine.clone()],
        }]
    };
    until("acknowledged", || {
        server.table.live(&required("plain"), Instant::now()).pods == 1
    })
    .await;
    let live = server.table.live(&required("cached"), Instant::now());
    assert_eq!(
        live.missing[0].why,
        Why::TooOld {
            lacks: vec!["cache"]
        }
    );
}

#[tokio::test]
async fn a_refused_unit_is_denied_and_holds_nothing_else_back() {
    let server = Server::start().await;
    let units = snapshot(&[(route("good"), b"good", &[]), (route("bad"), b"bad", &[])]);
    server.place(&[(&group("orders"), pod("orders-0", "u0"))], &units);
    let mut sidecar = server.join(server.token("orders-0")).await.expect("joined");
    let first = sidecar.update().await.expect("an update");
    sidecar.nack(&first, &route("bad")).await;
    let second = sidecar.apply().await;
    assert!(second.denied(&route("bad")).is_some());
    assert!(
        second.upserts.contains_key(route("good").as_str()),
        "the first was not applied"
    );
    until("acknowledged", || {
        let record = server.table.record("shop", "orders-0").expect("seated");
        record.acked.is_some_and(|acked| acked.denied.len() == 1)
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_that_does_not_read_or_answer_holds_up_no_other() {
    let server = Server::start().await;
    let orders = group("orders");
    let pods = [
        (&orders, pod("orders-0", "u0")),
        (&orders, pod("orders-1", "u1")),
    ];
    // More than HTTP/2's window and the session's queue take.
    let big = |fill: u8| {
        let body = vec![fill; sluice_snapshot::MAX_UNIT_BYTES];
        let names: Vec<_> = (0..16).map(|n| route(&format!("r{n}"))).collect();
        let units: Vec<_> = names
            .iter()
            .map(|name| (name.clone(), body.as_slice(), &[][..]))
            .collect();
        snapshot(&units)
    };
    server.place(&pods, &big(0));
    // A connection that never begins its handshake, a session that never reads, and one that never acknowledges.
    let _mute = TcpStream::connect(server.address).await.expect("connects");
    let begun = Instant::now();
    let deaf = server.join(server.token("orders-0")).await.expect("joined");
    let mut quick = server.join(server.token("orders-1")).await.expect("joined");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "before the mute one is given up"
    );
    quick.apply().await;
    for fill in 1..6 {
        let begun = Instant::now();
        let next = big(fill);
        server.published.publish(Publication {
            groups: vec![(orders.clone(), Some(next.clone()))],
            pods: Vec::new(),
        });
        assert_eq!(quick.apply().await.version, next.version.to_string());
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
    }
    drop(deaf);
}

#[tokio::test]
async fn while_a_sidecar_works_newer_snapshots_replace_each_other() {
    let server = two_groups().await;
    let mut sidecar = server.join(server.token("orders-0")).await.expect("joined");
    let first = sidecar.update().await.expect("an update");
    let mut last = None;
    for n in 0..20 {
        let next = snapshot(&[(route("orders"), format!("{n}").as_bytes(), &[])]);
        server.published.publish(Publication {
            groups: vec![(group("orders"), Some(next.clone()))],
            pods: Vec::new(),
        });
        last = Some(next);
        // The session has seen each, and sends none.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sidecar.ack(&first).await;
    let applied = sidecar.apply().await;
    assert_eq!(
        Some(applied.version),
        last.map(|last| last.version.to_string())
    );
}

#[tokio::test]
async fn a_pod_that_moves_gets_its_new_groups_configuration() {
    let server = two_groups().await;
    let mut sidecar = server.join(server.token("orders-0")).await.expect("joined");
    sidecar.apply().await;
    server.place(
        &[(&group("stock"), pod("orders-0", "u0"))],
        &snapshot(&[(route("stock"), b"stock", &[Feature::Core])]),
    );
    let applied = sidecar.apply().await;
    assert_eq!(applied.names(), [route("stock").as_str()]);
    assert_eq!(applied.removes, [route("orders").to_string()]);
    until("the table knows", || {
        server
            .table
            .record("shop", "orders-0")
            .is_some_and(|record| record.group == group("stock"))
    })
    .await;
}

#[tokio::test]
async fn a_second_session_of_a_pod_ends_the_first() {
    let server = two_groups().await;
    let mut first = server.join(server.token("orders-0")).await.expect("joined");
    first.apply().await;
    let mut second = server.join(server.token("orders-0")).await.expect("joined");
    second.apply().await;
    assert_eq!(first.end().await.code(), Code::Aborted);
    until("one is seated", || server.table.count() == (1, 0)).await;
}

#[tokio::test]
async fn a_settled_map_shows_in_the_table() {
    let server = Server::start().await;
    let map = UnitName::shard_map("shop", "orders");
    let held = snapshot(&[(map.clone(), b"hold", &[])]);
    server.place(&[(&group("orders"), pod("orders-0", "u0"))], &held);
    let mut sidecar = server.join(server.token("orders-0")).await.expect("joined");
    sidecar.apply().await;
    let hash = held.manifest[&map].clone();
    let mut changes = server.table.changes();
    sidecar.settled(&map, 4, hash.as_str()).await;
    until("settled", || {
        let record = server.table.record("shop", "orders-0").expect("seated");
        record.settled.get(&map) == Some(&(4, hash.clone()))
    })
    .await;
    assert!(changes.has_changed().expect("open"), "followers are woken");
    changes.mark_unchanged();
}

#[tokio::test]
async fn nonsense_ends_the_session_that_speaks_it() {
    let server = two_groups().await;
    let early: Sidecar = server
        .open(server.token("orders-0"), &server.roots())
        .await
        .expect("opened");
    let mut early = early;
    early.settled(&route("x"), 1, "").await;
    assert_eq!(
        early.end().await.code(),
        Code::InvalidArgument,
        "Hello comes first"
    );
    let mut greedy = server.join(server.token("orders-0")).await.expect("joined");
    for _ in 0..4 {
        greedy.certificate("x").await;
    }
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .expect("a request");
    let der = request.der().to_vec();
    greedy
        .say(sluice_snapshot::stream::up::Kind::Csr(
            sluice_snapshot::stream::Csr { der },
        ))
        .await;
    assert_eq!(greedy.end().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn shutdown_tells_every_sidecar_and_ends() {
    let server = two_groups().await;
    let mut sidecar = server.join(server.token("orders-0")).await.expect("joined");
    sidecar.apply().await;
    server.shutdown.begin("test");
    assert_eq!(sidecar.end().await.code(), Code::Unavailable);
    drop(sidecar);
    tokio::time::timeout(super::testing::PATIENCE, server.serving)
        .await
        .expect("in time")
        .expect("no panic")
        .expect("ends well");
    let record = server.table.record("shop", "orders-0").expect("unknown");
    let lost = record.lost.expect("lost");
    assert_eq!(lost.by, LostBy::Replica, "it is on its way to another one");
}

#[tokio::test]
async fn a_connection_that_proves_nothing_is_closed_and_a_proven_one_stays() {
    let server = two_groups().await;
    let mut proven = server.join(server.token("orders-0")).await.expect("joined");
    proven.apply().await;
    let mut silent = server.connect().await;
    // The server's first frame: it has begun to wait for a request.
    let mut bytes = [0; 9];
    silent.read_exact(&mut bytes).await.expect("settings");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(14)).await;
    tokio::time::resume();
    assert!(
        !silent.is_closed_within(Duration::from_millis(200)).await,
        "not yet"
    );
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    // Four seconds before HTTP/2's own keepalive would give it up.
    assert!(silent.is_closed_within(Duration::from_secs(3)).await);
    server.published.publish(Publication {
        groups: vec![(
            group("orders"),
            Some(snapshot(&[(route("new"), b"new", &[])])),
        )],
        pods: Vec::new(),
    });
    assert_eq!(proven.apply().await.names(), [route("new").as_str()]);
}

#[tokio::test]
async fn plain_text_is_not_served() {
    let server = Arc::new(two_groups().await);
    let mut stream = TcpStream::connect(server.address).await.expect("connects");
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("writes");
    let mut answer = Vec::new();
    // A TLS alert, or nothing; never an HTTP/2 frame of settings.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        answer.len() <= 7 && answer.first().is_none_or(|first| *first == 0x15),
        "{answer:?}"
    );
}
