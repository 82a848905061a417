//! gRPC: calls to an application that speaks HTTP/2, with trailers both ways, and refusals that its clients understand.

use std::convert::Infallible;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, client::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sluice_snapshot::{
    ConfigError, ConfigReason, Unit, UnitName,
    unit::{
        ObjectRef,
        backend::BackendProtocol,
        inbound::{InboundPort, RouteUse},
        listener::Protocol,
        route::Target,
    },
};
use tokio::net::{TcpListener, TcpStream};

use super::{
    rig::{Rig, backend_name, backend_of, key_units, route, rule, to, with_key},
    streams::{connected, free_port, listener, served},
};

type Pieces = BoxBody<Bytes, Infallible>;

/// A body and the trailers behind it.
fn pieces(data: &[&'static str], sent: &[(&'static str, &str)]) -> Pieces {
    let mut trailers = HeaderMap::new();
    for (name, value) in sent {
        trailers.insert(*name, HeaderValue::from_str(value).expect("a value"));
    }
    let frames = data
        .iter()
        .map(|text| Frame::data(Bytes::from_static(text.as_bytes())));
    let frames: Vec<_> = frames.chain([Frame::trailers(trailers)]).map(Ok).collect();
    StreamBody::new(stream::iter(frames)).boxed()
}

/// Answers with the trailer it was sent, as a trailer, and with the names of all; speaks HTTP/2 alone.
async fn app() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                let te = request.headers().get("te").cloned();
                let media = request.headers()["content-type"].clone();
                let whole = request.into_body().collect().await.expect("whole");
                let sent = whole.trailers().and_then(|trailers| trailers.get("x-sent"));
                let sent = sent.and_then(|value| value.to_str().ok()).unwrap_or("-");
                let mut answer = Response::new(pieces(&["a", "b"], &[("grpc-status", sent)]));
                let names = whole.trailers().into_iter().flat_map(HeaderMap::keys);
                for name in names {
                    let name = HeaderValue::from_str(name.as_str()).expect("a value");
                    answer.headers_mut().append("x-trailer", name);
                }
                answer.headers_mut().insert("content-type", media);
                if let Some(te) = te {
                    answer.headers_mut().insert("x-te", te);
                }
                Ok::<_, Infallible>(answer)
            });
            let executor = TokioExecutor::new();
            let serving = hyper::server::conn::http2::Builder::new(executor)
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move { drop(serving.await) });
        }
    });
    address
}

/// A sidecar whose app speaks HTTP/2, with one rule.
fn rig(app: std::net::SocketAddr, rule: sluice_snapshot::unit::route::Rule) -> Rig {
    let rig = Rig::start(app);
    let port = InboundPort {
        port: rig.address.port(),
        protocol: BackendProtocol::H2c,
        routes: vec![RouteUse {
            unit: UnitName::route("shop", "orders"),
            hostnames: Vec::new(),
        }],
    };
    let mut units = key_units();
    let unit = Unit::Route(route("orders", vec![rule]));
    units.push((UnitName::route("shop", "orders"), unit));
    rig.put(vec![port], units);
    rig
}

async fn call(rig: &Rig, media: &str) -> Response<Incoming> {
    call_at(rig.address, media).await
}

async fn call_at(address: std::net::SocketAddr, media: &str) -> Response<Incoming> {
    call_with(address, media, &[("x-sent", "7")]).await
}

async fn call_with(
    address: std::net::SocketAddr,
    media: &str,
    trailers: &[(&'static str, &str)],
) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.expect("connects");
    let io = TokioIo::new(stream);
    let executor = TokioExecutor::new();
    let (mut sender, connection) = http2::handshake(executor, io).await.expect("speaks HTTP/2");
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::post("http://a.example/shop.Orders/List")
        .header("content-type", media)
        .header("te", "trailers")
        .body(pieces(&["hello"], trailers));
    let answer = sender.send_request(request.expect("a request")).await;
    answer.expect("an answer")
}

#[tokio::test]
async fn a_call_reaches_an_app_of_http2_with_trailers_both_ways() {
    let rig = rig(app().await, rule("all", "/"));
    let answer = call(&rig, "application/grpc").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-te"], "trailers");
    let whole = answer.into_body().collect().await.expect("whole");
    assert_eq!(whole.trailers().expect("trailers")["grpc-status"], "7");
    assert_eq!(whole.to_bytes(), "ab");
}

#[tokio::test]
async fn what_must_not_be_a_trailer_reaches_no_app_of_http2() {
    let rig = rig(app().await, rule("all", "/"));
    let sent = [
        ("authorization", "Bearer x"),
        ("content-length", "3"),
        ("x-sent", "7"),
        ("cookie", "a=b"),
    ];
    let answer = call_with(rig.address, "application/grpc", &sent).await;
    let passed: Vec<_> = answer.headers().get_all("x-trailer").iter().collect();
    assert_eq!(passed, ["x-sent"]);
}

#[tokio::test]
async fn a_refused_call_ends_with_a_status_of_grpc() {
    let mut guarded = rule("all", "/");
    guarded.auth = with_key();
    let rig = rig(app().await, guarded);
    let refused = call(&rig, "application/grpc+proto").await;
    assert_eq!(refused.status(), 200);
    assert_eq!(refused.headers()["grpc-status"], "16");
    assert_eq!(
        refused.headers()["grpc-message"],
        "Credentials are required"
    );
    assert_eq!(refused.headers()["content-type"], "application/grpc");
    let whole = refused.into_body().collect().await.expect("whole");
    assert!(whole.to_bytes().is_empty());
    let other = call(&rig, "application/json").await;
    assert_eq!(other.status(), 401);
    let lines = rig.lines(2).await;
    assert!(lines.iter().all(|line| line["status"] == 401), "{lines:?}");
}

#[tokio::test]
async fn a_browsers_call_is_one_of_grpc_to_the_app() {
    let rig = rig(app().await, rule("all", "/"));
    let binary = call(&rig, "application/grpc-web+proto").await;
    assert_eq!(
        binary.headers()["content-type"],
        "application/grpc-web+proto"
    );
    assert_eq!(binary.headers()["x-te"], "trailers");
    let whole = binary
        .into_body()
        .collect()
        .await
        .expect("whole")
        .to_bytes();
    assert_eq!(&whole[..], b"ab\x80\0\0\0\x10grpc-status: 7\r\n");

    // The text format, by a client of HTTP/1.1.
    let mut client = rig.client().await;
    let lines = ["content-type: application/grpc-web-text"];
    let text = client
        .send("POST", "/shop.Orders/List", &lines, "aGVsbG8=")
        .await;
    assert_eq!(text.status, 200);
    assert_eq!(
        text.header("content-type"),
        Some("application/grpc-web-text")
    );
    let pieces: Vec<u8> = text
        .body
        .as_bytes()
        .chunks(4)
        .flat_map(|group| STANDARD.decode(group).expect("base64"))
        .collect();
    assert_eq!(pieces, b"ab\x80\0\0\0\x10grpc-status: -\r\n");
    let broken = client
        .send("POST", "/shop.Orders/List", &lines, "aGVsb")
        .await;
    assert_eq!(broken.status, 200, "an outcome of gRPC");
    assert_eq!(broken.header("grpc-status"), Some("13"));
}

#[tokio::test]
async fn a_call_through_an_edge_has_its_trailers_and_a_broken_grpcroute_is_unavailable() {
    let (port, app) = (free_port(), app().await);
    let served_by = |target: Target| {
        let mut route = route("orders", vec![rule("all", "/")]);
        route.object = ObjectRef::new("GRPCRoute", "shop", "orders");
        route.rules[0].action = to(target);
        let name = UnitName::grpc_route("shop", "orders");
        let used = served("http", port, None, &[(name.clone(), &[])]);
        let mut units = key_units();
        units.extend(backend_of("main", &[app], BackendProtocol::H2c));
        units.push(listener("http", port, Protocol::Http, None));
        units.push((name, Unit::Route(route)));
        (vec![used], units)
    };
    let rig = Rig::edge(std::net::Ipv4Addr::LOCALHOST.into());
    let (used, units) = served_by(Target::Backend(backend_name("main")));
    rig.listen(used, units);
    drop(connected(port).await);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let answer = call_at(address, "application/grpc").await;
    assert_eq!(answer.status(), 200);
    let whole = answer.into_body().collect().await.expect("whole");
    assert_eq!(whole.trailers().expect("trailers")["grpc-status"], "7");
    assert_eq!(whole.to_bytes(), "ab");
    let gone = ConfigError::new(ConfigReason::BackendNotFound, "gone");
    let (used, units) = served_by(Target::Broken(gone));
    rig.listen(used, units);
    let refused = call_at(address, "application/grpc").await;
    assert_eq!(refused.status(), 200);
    assert_eq!(refused.headers()["grpc-status"], "14", "unavailable");
}
