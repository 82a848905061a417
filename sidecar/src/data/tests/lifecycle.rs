//! Changes under traffic, and the end.

use std::time::Duration;

use super::{
    super::Drained,
    origin::{Origin, Reply},
    rig::{Rig, route, rule},
};

#[tokio::test]
async fn a_change_is_seen_by_the_next_request_of_an_old_connection() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let rig = Rig::with(origin.address, vec![rule("r0", "/")], Vec::new());
    let mut client = rig.client().await;
    for number in 0..20 {
        let name = format!("r{number}");
        rig.install(
            &[(&[], route("orders", vec![rule(&name, "/")]))],
            Vec::new(),
        );
        assert_eq!(
            client.ask("GET", "/", &[]).await.header("x-rule"),
            Some(name.as_str())
        );
    }
}

#[tokio::test]
async fn draining_lets_requests_end_and_closes_what_is_idle() {
    let origin = Origin::start(|_, _| Reply::Gated("200 OK", Vec::new(), "done".into())).await;
    let mut rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let mut idle = rig.client().await;
    let mut busy = rig.client().await;
    let running =
        tokio::spawn(async move { (busy.ask("GET", "/", &[]).await, busy.is_closed().await) });
    origin.wait_for(1).await;
    rig.shutdown.begin("test");
    assert!(idle.is_closed().await);
    // Whoever has not heard yet is still answered.
    let mut late = rig.client().await;
    let late = tokio::spawn(async move { late.ask("GET", "/", &[]).await });
    origin.wait_for(2).await;
    origin.gate.add_permits(2);
    let (answer, closed) = running.await.expect("no panic");
    assert_eq!(
        (answer.status, answer.header("connection"), closed),
        (200, Some("close"), true)
    );
    assert_eq!(late.await.expect("no panic").status, 200);
    let drained = tokio::task::spawn_blocking(move || rig.end());
    let drained = tokio::time::timeout(Duration::from_secs(8), drained)
        .await
        .expect("before the drain timeout");
    assert_eq!(drained.expect("no panic"), Some(Drained::Whole));
}

#[tokio::test]
async fn an_announced_end_is_told_by_every_answer_and_closes_nothing_else() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let mut idle = rig.client().await;
    assert_eq!(idle.ask("GET", "/", &[]).await.header("connection"), None);
    rig.shutdown.drain("test");
    for path in ["/", "/nowhere%"] {
        let mut new = rig.client().await;
        let told = new.ask("GET", path, &[]).await;
        assert_eq!(told.header("connection"), Some("close"), "{path}");
        assert!(new.is_closed().await);
    }
    let told = idle.ask("GET", "/", &[]).await;
    assert_eq!(
        (told.status, told.header("connection")),
        (200, Some("close"))
    );
    assert!(idle.is_closed().await);
}

#[tokio::test]
async fn a_client_that_goes_away_is_settled_and_logged() {
    let origin = Origin::start(|_, _| Reply::Silence).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let mut client = rig.client().await;
    client
        .write(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n")
        .await;
    origin.wait_for(1).await;
    assert_eq!(rig.shared.metrics.in_flight(), 1);
    drop(client);
    let line = rig.lines(1).await.remove(0);
    assert_eq!(
        (&line["status"], &line["aborted"], &line["rule"]),
        (&499.into(), &true.into(), &"all".into())
    );
    assert_eq!(rig.shared.metrics.in_flight(), 0);
}
