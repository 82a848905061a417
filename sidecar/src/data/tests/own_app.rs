//! The own application while it refuses connections: before it listens, and when it has ended.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::core::Collector;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::rig::{Rig, rule};
use crate::{log::AccessLog, metrics::Exporter};

/// An application that has its port and does not listen yet: whoever connects is refused.
struct Late(Socket);

impl Late {
    fn new() -> (Self, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("binds");
        let address = socket.local_addr().expect("bound");
        (Self(socket), address.as_socket().expect("an address"))
    }

    fn listen(self) -> TcpListener {
        self.0.listen(16).expect("listens");
        self.0.set_nonblocking(true).expect("a socket");
        TcpListener::from_std(self.0.into()).expect("a listener")
    }
}

/// How often a request was tried again.
fn retried(rig: &Rig) -> u64 {
    let exporter = Exporter::new(Arc::clone(&rig.shared), AccessLog::off()).expect("describes");
    let families = exporter.collect();
    let failures = families
        .iter()
        .find(|family| family.name() == "sluice_upstream_failures_total")
        .expect("it is there");
    let retried = failures
        .get_metric()
        .iter()
        .find(|metric| metric.get_label()[0].value() == "retried");
    retried.expect("it is there").get_counter().get_value() as u64
}

async fn answer_once(app: TcpListener) {
    let (mut stream, _) = app.accept().await.expect("accepts");
    let mut head = [0; 1024];
    let _ = stream.read(&mut head).await.expect("reads");
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    stream.write_all(answer).await.expect("writes");
}

#[tokio::test]
async fn a_request_waits_for_an_application_that_is_about_to_listen() {
    let (late, address) = Late::new();
    let rig = Rig::with(address, vec![rule("all", "/")], Vec::new());
    let mut client = rig.client().await;
    let asked = tokio::spawn(async move { client.send("POST", "/", &[], "body").await });
    while retried(&rig) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(!asked.is_finished(), "refused at once");
    }
    answer_once(late.listen()).await;
    assert_eq!(asked.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_connection_without_route_waits_too() {
    let (late, address) = Late::new();
    let rig = Rig::start(address);
    rig.put(Vec::new(), Vec::new());
    let mut client = rig.client().await;
    let waited = async {
        while retried(&rig) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = client.is_closed() => panic!("refused at once"),
        () = waited => {}
    }
    let app = late.listen();
    let (mut server, _) = tokio::time::timeout(super::client::PATIENCE, app.accept())
        .await
        .expect("in time")
        .expect("accepts");
    server.write_all(b"220").await.expect("writes");
    assert_eq!(client.bytes(3).await, b"220");
}

#[tokio::test]
async fn the_wait_ends_after_a_second_and_with_the_requests_own_time() {
    let (_late, address) = Late::new();
    let mut rules = vec![rule("slow", "/slow"), rule("short", "/short")];
    rules[1].timeouts.backend_request_ms = 150;
    let rig = Rig::with(address, rules, Vec::new());
    let mut client = rig.client().await;
    for (path, least_ms, most_ms) in [("/slow", 900, 5_000), ("/short", 20, 700)] {
        let began = Instant::now();
        let answer = client.ask("GET", path, &[]).await;
        let took_ms = began.elapsed().as_millis();
        assert_eq!((answer.status, answer.problem()), (502, "upstream-connect"));
        assert!(
            (least_ms..most_ms).contains(&took_ms),
            "{path}: {took_ms} ms"
        );
    }
}

#[tokio::test]
async fn who_drains_does_not_wait() {
    let (_late, address) = Late::new();
    let rig = Rig::with(address, vec![rule("all", "/")], Vec::new());
    rig.shutdown.drain("test");
    let answer = rig.client().await.ask("GET", "/", &[]).await;
    assert_eq!((answer.status, answer.problem()), (502, "upstream-connect"));
    assert_eq!(retried(&rig), 0);
}
