//! Connections that turn into the WebSocket protocol, and those that may not.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::{
    super::Drained,
    client::Client,
    origin::{Origin, Reply},
    rig::{ALICE, Rig, key_units, rule, with_key},
};

const ASK: [&str; 4] = [
    "connection: keep-alive, Upgrade",
    "upgrade: WebSocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// An application that switches, greets at once, and answers each byte with its successor.
struct Switching {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Switching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Switching {
    async fn start(protocol: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else {
                            return;
                        };
                        head.push(byte);
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    let head = String::from_utf8(head).expect("text");
                    for line in [
                        "\r\nconnection: upgrade\r\n",
                        "\r\nupgrade: websocket\r\n",
                        "\r\nsec-websocket-key: dGh",
                    ] {
                        assert!(head.contains(line) || protocol != "websocket", "{head}");
                    }
                    let answer = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade, x-hop\r\nx-hop: 1\r\nupgrade: {protocol}\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello"
                    );
                    drop(stream.write_all(answer.as_bytes()).await);
                    while let Ok(byte) = stream.read_u8().await {
                        if stream.write_u8(byte.wrapping_add(1)).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            asked,
            task,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn switched(client: &mut Client) {
    let answer = client.ask("GET", "/chat", &ASK).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("connection"), Some("upgrade"));
    assert_eq!(answer.header("x-hop"), None);
    assert!(answer.header("sec-websocket-accept").is_some());
    assert_eq!(
        client.bytes(5).await,
        b"hello",
        "bytes behind the head are no loss"
    );
}

async fn echoes(client: &mut Client, byte: u8) {
    client.write(&[byte]).await;
    assert_eq!(client.bytes(1).await, [byte.wrapping_add(1)]);
}

fn in_flight(rig: &Rig) -> u64 {
    rig.shared.metrics.in_flight()
}

#[tokio::test]
async fn after_the_101_bytes_pass_as_they_are() {
    let app = Switching::start("websocket").await;
    let rig = Rig::with(app.address, vec![rule("all", "/")], Vec::new());
    let (mut first, mut second) = (rig.client().await, rig.client().await);
    switched(&mut first).await;
    switched(&mut second).await;
    // Whatever HTTP would make of them.
    for byte in [0, b'\r', b'\n', 0xff] {
        echoes(&mut first, byte).await;
        echoes(&mut second, byte).await;
    }
    let line = &rig.lines(2).await[0];
    assert_eq!(
        (&line["status"], &line["path"]),
        (&101.into(), &"/chat".into())
    );
    assert_eq!(in_flight(&rig), 2, "they are not over");
    drop((first, second));
    for _ in 0..2_000 {
        if in_flight(&rig) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} are still open", in_flight(&rig));
}

#[tokio::test]
async fn only_a_request_that_passed_every_phase_may_switch() {
    let app = Switching::start("websocket").await;
    let mut guarded = rule("all", "/");
    guarded.auth = with_key();
    let rig = Rig::with(app.address, vec![guarded], key_units());
    let mut client = rig.client().await;
    let refused = client.ask("GET", "/chat", &ASK).await;
    assert_eq!(
        (refused.status, refused.problem()),
        (401, "unauthenticated")
    );
    assert_eq!(app.asked(), 0);
    // The connection speaks HTTP as before.
    let mut lines = ASK.to_vec();
    lines.push(ALICE);
    assert_eq!(client.ask("GET", "/chat", &lines).await.status, 101);
}

#[tokio::test]
async fn any_other_protocol_is_dropped_and_the_request_goes_on() {
    // Strict: an `Upgrade`, or its settings, would be a 400.
    let origin = Origin::start(|_, _| Reply::ok("plain")).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let mut client = rig.client().await;
    for lines in [
        vec![
            "connection: upgrade, http2-settings",
            "upgrade: h2c",
            "http2-settings: AAMAAABkAAQAAP__",
        ],
        vec!["connection: upgrade", "upgrade: foo/2"],
        vec!["upgrade: websocket"],
    ] {
        let answer = client.ask("GET", "/", &lines).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "plain"),
            "{lines:?}"
        );
    }
    let body = client.send("POST", "/", &ASK, "x").await;
    assert_eq!(body.status, 200, "only a GET without a body may");
    assert!(
        origin
            .seen()
            .iter()
            .all(|seen| seen.header("http2-settings").is_none())
    );
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_bad_answer() {
    let app = Switching::start("h2c").await;
    let rig = Rig::with(app.address, vec![rule("all", "/")], Vec::new());
    let plain = rig.client().await.ask("GET", "/", &[]).await;
    assert_eq!((plain.status, plain.problem()), (502, "upstream-reset"));
    let asked = rig.client().await.ask("GET", "/", &ASK).await;
    assert_eq!((asked.status, asked.problem()), (502, "upstream-reset"));
}

#[tokio::test]
async fn a_drain_waits_for_them() {
    let app = Switching::start("websocket").await;
    let mut rig = Rig::with(app.address, vec![rule("all", "/")], Vec::new());
    let mut client = rig.client().await;
    switched(&mut client).await;
    let shutdown = rig.shutdown.clone();
    let ending = tokio::task::spawn_blocking(move || rig.end());
    shutdown.begun().await;
    // Longer than the quiet after which a pod without work ends.
    for byte in 0..70 {
        echoes(&mut client, byte).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!ending.is_finished());
    drop(client);
    assert_eq!(ending.await.expect("no panic"), Some(Drained::Whole));
}
