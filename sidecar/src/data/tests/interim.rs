//! Interim answers: passed on as they come, before their answer, to their request's client and to nobody else.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    origin::{Origin, Reply},
    rig::{Rig, rule},
};
use sluice_snapshot::unit::route::Timeouts;

const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-mine\r\nX-Mine: 1\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_hint_is_there_before_its_answer_is() {
    let app = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let rig = Rig::with(
        app.local_addr().expect("bound"),
        vec![rule("all", "/")],
        Vec::new(),
    );
    let mut client = rig.client().await;
    client
        .write(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n")
        .await;
    let (mut upstream, _) = app.accept().await.expect("accepts");
    let mut head = [0; 2048];
    for round in 0..3 {
        assert!(upstream.read(&mut head).await.expect("reads") > 0);
        for _ in 0..2 {
            upstream.write_all(HINT.as_bytes()).await.expect("writes");
            // The application waits until the client has it: nothing else could have brought it.
            let hint = client.answer("GET").await;
            assert_eq!(hint.status, 103, "round {round}");
            let expected = [("link".to_owned(), "</a.css>; rel=preload".to_owned())];
            assert_eq!(hint.headers, expected);
        }
        upstream.write_all(OK.as_bytes()).await.expect("writes");
        assert_eq!(client.answer("GET").await.body, "ok");
        client
            .write(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n")
            .await;
    }
}

#[tokio::test]
async fn hints_in_one_piece_with_the_answer_come_before_it() {
    let origin = Origin::start(|_, _| Reply::Raw(format!("{HINT}{HINT}{OK}"))).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let mut clients = [rig.client().await, rig.client().await];
    for _ in 0..50 {
        for client in &mut clients {
            let get = b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n";
            client.write(&get.repeat(3)).await;
        }
        for client in &mut clients {
            let mut statuses = Vec::new();
            while statuses.iter().filter(|status| **status == 200).count() < 3 {
                statuses.push(client.answer("GET").await.status);
            }
            // A hint may be lost where pipelined answers wait to be written; it is never within or after its answer.
            statuses.dedup();
            assert!(statuses.iter().all(|status| [103, 200].contains(status)));
            assert_eq!(statuses[..2], [103, 200]);
        }
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_is_told_nothing_it_does_not_know() {
    let origin = Origin::start(|_, _| Reply::Raw(format!("{HINT}{OK}"))).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let mut client = rig.client().await;
    client
        .write(b"GET / HTTP/1.0\r\nhost: a.example\r\n\r\n")
        .await;
    assert_eq!(client.answer("GET").await.status, 200);
}

#[tokio::test]
async fn what_comes_after_a_request_was_given_up_is_nobodys() {
    static FIRST: AtomicBool = AtomicBool::new(true);
    // A hint, and no answer: the request ends with its deadline.
    let origin = Origin::start(|_, _| match FIRST.swap(false, Ordering::Relaxed) {
        true => Reply::Raw(HINT.into()),
        false => Reply::Raw(OK.into()),
    })
    .await;
    let mut rules = vec![rule("all", "/")];
    rules[0].timeouts = Timeouts {
        request_ms: 300,
        backend_request_ms: 300,
    };
    let rig = Rig::with(origin.address, rules, Vec::new());
    let mut client = rig.client().await;
    let statuses = [
        client.ask("GET", "/", &[]).await.status,
        client.answer("GET").await.status,
        client.ask("GET", "/", &[]).await.status,
    ];
    assert_eq!(statuses, [103, 504, 200]);
}
