//! What is believed about the client, what the next hop is told of it, and what belongs to one connection only.

use sluice_snapshot::{
    Unit, UnitName,
    unit::{
        Settings,
        policy::KeyPart,
        route::{HeaderEdits, Rule},
    },
};

use super::{
    origin::{Origin, Reply},
    rig::{Rig, key_units, policy, rule, with_key},
};

/// Behind `trusted` proxies; each address may ask twice.
fn limited(trusted: u8) -> (Rule, Vec<(UnitName, Unit)>) {
    let mut limited = rule("all", "/");
    limited.policies = vec![UnitName::policy("shop", "plans")];
    let part = KeyPart::ClientAddress {
        prefix_v4: 32,
        prefix_v6: 64,
    };
    let settings = Settings {
        forwarded_for: trusted,
        ..Settings::default()
    };
    let units = vec![
        policy("plans", part, 2),
        (UnitName::settings(), Unit::Settings(settings)),
    ];
    (limited, units)
}

#[tokio::test]
async fn an_address_that_the_client_writes_itself_counts_for_nothing() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    // Without trust the connection's own address counts; with it, the one that the proxy appended.
    for (trusted, appended) in [(0, ""), (1, ", 198.51.100.7")] {
        let (rule, units) = limited(trusted);
        let rig = Rig::with(origin.address, vec![rule], units);
        let mut statuses = Vec::new();
        for forged in 1..=3 {
            let list = format!("x-forwarded-for: 10.0.0.{forged}{appended}");
            let answer = rig.client().await.ask("GET", "/", &[&list]).await;
            statuses.push(answer.status);
        }
        assert_eq!(statuses, [200, 200, 429], "{trusted} trusted");
    }
}

#[tokio::test]
async fn a_client_behind_a_trusted_proxy_is_one_of_its_own() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let (rule, units) = limited(1);
    let rig = Rig::with(origin.address, vec![rule], units);
    let mut client = rig.client().await;
    for number in 1..=4 {
        let list = format!("x-forwarded-for: 10.0.0.1, 198.51.100.{number}");
        let lines = [list.as_str(), "x-forwarded-proto: https"];
        assert_eq!(client.ask("GET", "/", &lines).await.status, 200);
    }
    let seen = &origin.seen()[3];
    assert_eq!(
        seen.header("x-forwarded-for"),
        Some("198.51.100.4, 127.0.0.1")
    );
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    let line = &rig.lines(4).await[3];
    assert_eq!(line["client"], "198.51.100.4");
    assert!(
        line["peer"]
            .as_str()
            .is_some_and(|peer| peer.starts_with("127.0.0.1:"))
    );
}

#[tokio::test]
async fn an_untrusted_clients_words_are_replaced() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let lines = [
        "x-forwarded-for: 10.0.0.1",
        "x-forwarded-proto: https",
        "x-forwarded-host: admin.example",
        "forwarded: for=10.0.0.1",
    ];
    let answer = rig.client().await.ask("GET", "/", &lines).await;
    assert_eq!(answer.header("via"), Some("1.1 sluice"));
    let seen = &origin.seen()[0];
    let said = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "forwarded",
    ];
    assert_eq!(
        said.map(|name| seen.header(name)),
        [Some("127.0.0.1"), Some("http"), Some("a.example"), None]
    );
    assert!(rig.lines(1).await[0].get("client").is_none());
}

#[tokio::test]
async fn connection_cannot_take_away_what_policy_set_or_framing_needs() {
    let origin = Origin::start(|seen, _| Reply::ok(&seen.body)).await;
    let mut edited = rule("all", "/");
    edited.auth = with_key();
    edited.request_headers = HeaderEdits {
        set: vec![("x-tenant".into(), "acme".into())],
        ..HeaderEdits::default()
    };
    let rig = Rig::with(origin.address, vec![edited], key_units());
    let lines = [
        super::rig::ALICE,
        "connection: x-tenant, content-length, host, x-forwarded-for, via, x-hop",
        "x-tenant: other",
        "x-hop: 1",
    ];
    let answer = rig.client().await.send("POST", "/", &lines, "whole").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "whole"));
    let seen = &origin.seen()[0];
    assert_eq!(seen.header("x-tenant"), Some("acme"));
    assert_eq!(seen.header("content-length"), Some("5"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-hop"), None);
}

#[tokio::test]
async fn trailers_pass_to_those_who_take_them() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
    let origin = Origin::start(move |_, _| Reply::Raw(answer.into())).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let mut client = rig.client().await;
    let whole = "HTTP/1.1 200 OK";
    for (lines, trailer) in [
        ("te: trailers\r\nconnection: te\r\n", "\r\nx-sum: 7\r\n\r\n"),
        ("", "\r\n\r\n"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nhost: a.example\r\n{lines}\r\n");
        client.write(request.as_bytes()).await;
        let mut text = String::new();
        let end = format!("0{trailer}");
        while !text.ends_with(&end) {
            text.push(char::from(client.bytes(1).await[0]));
            assert!(text.len() < 4_096, "{text}");
        }
        assert!(
            text.starts_with(whole) && text.contains("2\r\nok\r\n"),
            "{text}"
        );
    }
    let seen = origin.seen();
    assert_eq!(
        seen.iter()
            .map(|seen| (seen.header("te"), seen.header("connection")))
            .collect::<Vec<_>>(),
        [(Some("trailers"), Some("te")), (None, None)]
    );
    // A body of unknown length has an end too.
    for line in rig.lines(2).await {
        assert_eq!(line.get("aborted"), None, "{line}");
    }
}
