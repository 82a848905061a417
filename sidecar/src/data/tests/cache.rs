//! The cache in front of a real origin.

use super::{
    origin::{Origin, Reply},
    rig::{Rig, cached, rule},
};
use sluice_snapshot::unit::cache::CacheScope;

#[tokio::test]
async fn equal_misses_are_fetched_once() {
    let lines = vec![
        "cache-control: public, max-age=60".into(),
        "vary: accept".into(),
    ];
    let origin =
        Origin::start(move |_, _| Reply::Gated("200 OK", lines.clone(), "once".into())).await;
    let mut rules = vec![rule("cached", "/")];
    rules[0].cache = cached(CacheScope::Standard);
    let rig = Rig::with(origin.address, rules, Vec::new());
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = rig.client().await;
        clients.push(tokio::spawn(async move {
            client.ask("GET", "/x", &["accept: a"]).await
        }));
    }
    origin.wait_for(1).await;
    // All of them are on their way; only then the origin answers, as often as it is asked.
    for _ in 0..200 {
        if rig.shared.metrics.in_flight() == 20 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    origin.gate.add_permits(100);
    for client in clients {
        let answer = client.await.expect("no panic");
        assert_eq!((answer.status, answer.body.as_str()), (200, "once"));
    }
    assert_eq!(origin.seen().len(), 1);
    let other = rig.client().await.ask("GET", "/x", &["accept: b"]).await;
    assert_eq!(
        other.header("cache-status"),
        Some("sluice; fwd=vary-miss; stored")
    );
}

#[tokio::test]
async fn what_is_not_stored_is_fetched_by_each_and_a_write_invalidates() {
    let origin = Origin::start(|seen, _| match seen.target.as_str() {
        "/secret" => Reply::with("cache-control: no-store", "s"),
        _ => Reply::with("cache-control: max-age=60", "x"),
    })
    .await;
    let mut rules = vec![rule("cached", "/")];
    rules[0].cache = cached(CacheScope::Standard);
    let rig = Rig::with(origin.address, rules, Vec::new());
    let mut client = rig.client().await;
    for _ in 0..2 {
        let answer = client.ask("GET", "/secret", &[]).await;
        assert_eq!(
            answer.header("cache-status"),
            Some("sluice; fwd=uri-miss; detail=no-store")
        );
    }
    client.ask("GET", "/x", &[]).await;
    assert!(
        client
            .ask("GET", "/x", &[])
            .await
            .header("cache-status")
            .is_some_and(|text| text.contains("hit"))
    );
    let head = client.ask("HEAD", "/x", &[]).await;
    assert_eq!(
        (head.header("content-length"), head.header("age")),
        (Some("1"), Some("0"))
    );
    assert_eq!(client.ask("POST", "/x", &[]).await.status, 200);
    let again = client.ask("GET", "/x", &[]).await;
    assert_eq!(
        again.header("cache-status"),
        Some("sluice; fwd=uri-miss; stored")
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_stored() {
    let half = "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 100\r\n\r\nhalf";
    let origin = Origin::start(move |seen, number| match (seen.method.as_str(), number) {
        ("GET", _) => Reply::Raw(half.into()),
        _ => Reply::Close,
    })
    .await;
    let mut rules = vec![rule("cached", "/")];
    rules[0].cache = cached(CacheScope::Standard);
    let rig = Rig::with(origin.address, rules, Vec::new());
    let mut client = rig.client().await;
    client
        .write(b"GET /x HTTP/1.1\r\nhost: a.example\r\n\r\n")
        .await;
    assert_eq!(client.bytes(12).await, b"HTTP/1.1 200");
    drop(client);
    // The client is gone: the request ends, and nothing is kept.
    let lines = rig.lines(1).await;
    assert_eq!(
        (&lines[0]["aborted"], &lines[0]["status"]),
        (&true.into(), &200.into())
    );
    assert_eq!(rig.shared.cache.bytes(), 0);
}
