//! Listeners of an edge that do not speak HTTP: TLS that passes by its server name, bytes, and what becomes of those that
//! belong nowhere. A listener of HTTP beside them, and an edge that meets itself.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use sluice_snapshot::{
    ConfigError, ConfigReason, Unit, UnitName,
    unit::{
        Listener, ObjectRef, StreamRoute,
        inbound::{ListenerUse, RouteUse},
        listener::Protocol,
        route::{Target, WeightedTarget},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    client::Client,
    origin::{Origin, Reply},
    rig::{Rig, backend, backend_name, route, rule, to},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Says its name, then gives back what it is given until the other side has ended, and then `bye`.
struct Echo {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Echo {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let heard = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let log = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    stream.write_all(name.as_bytes()).await?;
                    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
                    loop {
                        let read = stream.read(&mut piece).await?;
                        if read == 0 {
                            break;
                        }
                        all.extend_from_slice(&piece[..read]);
                        stream.write_all(&piece[..read]).await?;
                    }
                    log.lock().expect("no panic").push(all);
                    stream.write_all(b"bye").await
                });
            }
        });
        Self { address, heard }
    }
}

/// A port that nobody has.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("bound").port()
}

pub fn listener(
    name: &str,
    port: u16,
    protocol: Protocol,
    hostname: Option<&str>,
) -> (UnitName, Unit) {
    let unit = Listener {
        object: ObjectRef::new("Gateway", "shop", "public"),
        name: name.into(),
        port,
        protocol,
        hostname: hostname.map(str::to_owned),
        tls: None,
        broken: None,
    };
    (
        UnitName::listener("shop", "public", name),
        Unit::Listener(unit),
    )
}

pub fn served(
    name: &str,
    port: u16,
    hostname: Option<&str>,
    routes: &[(UnitName, &[&str])],
) -> ListenerUse {
    let used = |(unit, hostnames): &(UnitName, &[&str])| RouteUse {
        unit: unit.clone(),
        hostnames: hostnames.iter().map(|&name| name.into()).collect(),
    };
    ListenerUse {
        unit: UnitName::listener("shop", "public", name),
        port,
        hostname: hostname.map(str::to_owned),
        routes: routes.iter().map(used).collect(),
    }
}

fn stream_route(name: &UnitName, targets: &[(u32, Target)]) -> (UnitName, Unit) {
    let targets = targets.iter();
    let unit = StreamRoute {
        object: ObjectRef::of_route(name),
        targets: targets
            .map(|(weight, target)| WeightedTarget::plain(*weight, target.clone()))
            .collect(),
        broken: None,
    };
    (name.clone(), Unit::StreamRoute(unit))
}

fn towards(service: &str) -> Target {
    Target::Backend(backend_name(service))
}

pub async fn connected(port: u16) -> TcpStream {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let connecting = async {
        loop {
            if let Ok(stream) = TcpStream::connect(address).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, connecting).await.expect("the port opens")
}

async fn all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    drop(read.expect("the connection ends"));
    bytes
}

fn client_hello(name: &'static str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(crate::data::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name).expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory");
    bytes
}

#[tokio::test]
async fn bytes_go_to_the_backend_by_weight_and_either_side_may_end_first() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let port = free_port();
    let name = UnitName::tcp_route("shop", "bytes");
    let mut units = backend("one", &[one.address]);
    units.extend(backend("two", &[two.address]));
    units.push(listener("tcp", port, Protocol::Tcp, None));
    units.push(stream_route(
        &name,
        &[(1, towards("one")), (1, towards("two"))],
    ));
    let rig = Rig::edge(Ipv4Addr::LOCALHOST.into());
    rig.listen(vec![served("tcp", port, None, &[(name, &[])])], units);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let mut stream = connected(port).await;
        stream.write_all(b"hello").await.expect("writes");
        // Half of the connection ends; the other half goes on.
        stream.shutdown().await.expect("ends");
        let answer = String::from_utf8(all(&mut stream).await).expect("text");
        assert!(answer.ends_with("hellobye"), "{answer}");
        seen.insert(answer[..3].to_owned());
    }
    assert_eq!(seen.len(), 2, "both have connections: {seen:?}");
    for echo in [&one, &two] {
        assert!(
            echo.heard
                .lock()
                .expect("no panic")
                .iter()
                .all(|heard| heard == b"hello")
        );
    }
    // An open connection is waited for; then the edge is done.
    let mut last = connected(port).await;
    let mut name = [0; 3];
    last.read_exact(&mut name).await.expect("a name");
    rig.shutdown.begin("the test ends");
    last.write_all(b"still").await.expect("writes");
    let mut echoed = [0; 5];
    last.read_exact(&mut echoed).await.expect("it goes on");
    assert_eq!(&echoed, b"still");
    drop(last);
    let mut rig = rig;
    let drained = tokio::task::spawn_blocking(move || rig.end()).await;
    assert_eq!(
        drained.expect("no panic"),
        Some(crate::data::Drained::Whole)
    );
}

#[tokio::test]
async fn tls_passes_to_whom_its_server_name_names_and_to_nobody_else() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let port = free_port();
    let (first, second) = (
        UnitName::tls_route("shop", "one"),
        UnitName::tls_route("shop", "two"),
    );
    let broken = UnitName::tls_route("shop", "broken");
    let mut units = backend("one", &[one.address]);
    units.extend(backend("two", &[two.address]));
    units.push(listener("tls", port, Protocol::Tls, Some("*.example")));
    units.push(stream_route(&first, &[(1, towards("one"))]));
    units.push(stream_route(
        &second,
        &[(0, towards("one")), (1, towards("two"))],
    ));
    let gone = ConfigError::new(ConfigReason::BackendNotFound, "gone");
    units.push(stream_route(&broken, &[(1, Target::Broken(gone))]));
    let rig = Rig::edge(Ipv4Addr::LOCALHOST.into());
    let used = served(
        "tls",
        port,
        Some("*.example"),
        &[
            (first, &["a.example"]),
            (second, &["*.wild.example", "a.example"]),
            (broken, &["broken.example"]),
        ],
    );
    rig.listen(vec![used], units);
    for (server_name, expected) in [
        ("a.example", Some(("one", &one))),
        ("b.wild.example", Some(("two", &two))),
        ("A.Example", Some(("one", &one))),
        ("nobody.example", None),
        ("broken.example", None),
        ("a.other", None),
    ] {
        let hello = client_hello(server_name);
        let mut stream = connected(port).await;
        // In pieces, as networks have it.
        for piece in hello.chunks(60) {
            stream.write_all(piece).await.expect("writes");
            stream.flush().await.expect("flushes");
        }
        let Some((name, echo)) = expected else {
            assert!(
                all(&mut stream).await.is_empty(),
                "{server_name}: closed without a byte"
            );
            continue;
        };
        stream.shutdown().await.expect("ends");
        let answer = all(&mut stream).await;
        let whole = [name.as_bytes(), hello.as_slice(), b"bye".as_slice()].concat();
        assert!(
            answer == whole,
            "{server_name}: {} of {} bytes",
            answer.len(),
            whole.len()
        );
        assert_eq!(
            echo.heard.lock().expect("no panic").last(),
            Some(&hello),
            "not a byte more or less"
        );
    }
    let mut plain = connected(port).await;
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n")
        .await
        .expect("writes");
    assert!(all(&mut plain).await.is_empty(), "what is no TLS is closed");
}

#[tokio::test]
async fn an_edge_that_meets_what_it_has_forwarded_says_so() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let port = free_port();
    let own: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
    let mut looping = rule("loop", "/loop");
    looping.action = to(towards("itself"));
    let mut plain = rule("plain", "/");
    plain.action = to(towards("main"));
    let name = UnitName::http_route("shop", "orders");
    let mut units = backend("itself", &[own]);
    units.extend(backend("main", &[origin.address]));
    units.push(listener("http", port, Protocol::Http, None));
    units.push((
        name.clone(),
        Unit::Route(route("orders", vec![looping, plain])),
    ));
    let rig = Rig::edge(Ipv4Addr::LOCALHOST.into());
    rig.listen(vec![served("http", port, None, &[(name, &[])])], units);
    drop(connected(port).await);
    let mut client = Client::connect(own).await;
    let answer = client.ask("GET", "/loop", &[]).await;
    assert_eq!((answer.status, answer.problem()), (508, "loop"));
    assert_eq!(client.ask("GET", "/", &[]).await.status, 200);
    assert!(
        origin.seen()[0]
            .header("via")
            .is_some_and(|via| via.contains("sluice-edge-"))
    );
}
