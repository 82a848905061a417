//! Upstreams that are late, gone, or close at the wrong moment.

use std::time::Duration;

use super::{
    origin::{Origin, Reply},
    rig::{Rig, backend, backend_name, backend_of, route, rule, to},
};
use sluice_snapshot::unit::{
    backend::BackendProtocol,
    route::{Target, Timeouts},
};

#[tokio::test]
async fn a_stale_connection_costs_an_idempotent_request_nothing() {
    // Answers the first request of each connection and closes on the second.
    let origin = Origin::start(|_, number| {
        if number == 1 {
            Reply::ok("ok")
        } else {
            Reply::Close
        }
    })
    .await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let mut client = rig.client().await;
    let mut statuses = Vec::new();
    for method in ["GET", "GET", "PUT", "POST"] {
        statuses.push(client.ask(method, "/", &[]).await.status);
        // Longer than a connection is taken for fresh.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    // The second and third met a connection that closed on them, and were sent again; POST may not be.
    assert_eq!(statuses, [200, 200, 200, 502]);
    let methods: Vec<_> = origin.seen().into_iter().map(|seen| seen.method).collect();
    assert_eq!(methods, ["GET", "GET", "GET", "PUT", "PUT", "POST"]);
    assert_eq!(rig.lines(4).await[3]["reason"], "upstream-reset");
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let origin = Origin::start(|_, number| Reply::ok(&number.to_string())).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let mut client = rig.client().await;
    for number in 1..=5 {
        assert_eq!(client.ask("GET", "/", &[]).await.body, number.to_string());
    }
}

#[tokio::test]
async fn a_silent_upstream_is_a_timeout_and_a_missing_one_bad_gateway() {
    let origin = Origin::start(|_, _| Reply::Silence).await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("binds");
    let mut rules = vec![
        rule("slow", "/slow"),
        rule("gone", "/gone"),
        rule("none", "/none"),
    ];
    rules[0].timeouts = Timeouts {
        request_ms: 1000,
        backend_request_ms: 80,
    };
    rules[1].action = to(Target::Backend(backend_name("gone")));
    rules[2].action = to(Target::Backend(backend_name("none")));
    let mut units = backend("gone", &[gone]);
    units.extend(backend("none", &[]));
    let rig = Rig::with(origin.address, rules, units);
    let mut client = rig.client().await;
    for (path, status, reason) in [
        ("/slow", 504, "upstream-timeout"),
        ("/gone", 502, "upstream-connect"),
        ("/none", 503, "no-endpoint"),
    ] {
        let answer = client.ask("GET", path, &[]).await;
        assert_eq!((answer.status, answer.problem()), (status, reason));
        // Response phases run for refusals too.
        assert_eq!(answer.header("x-rule"), Some(&path[1..]));
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_passed_over() {
    let origin = Origin::start(|_, _| Reply::ok("ok")).await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("binds");
    let mut rules = vec![rule("all", "/")];
    rules[0].action = to(Target::Backend(backend_name("two")));
    let rig = Rig::with(
        origin.address,
        rules,
        backend("two", &[gone, origin.address]),
    );
    for _ in 0..20 {
        assert_eq!(rig.client().await.ask("POST", "/", &[]).await.status, 200);
    }
}

#[tokio::test]
async fn a_body_streams_and_ends_at_the_routes_limit() {
    let origin = Origin::start(|seen, _| Reply::ok(&seen.body)).await;
    let rig = Rig::start(origin.address);
    let mut limited = route("orders", vec![rule("all", "/")]);
    limited.request_limits.max_body = 10;
    rig.install(&[(&[], limited)], Vec::new());
    let mut client = rig.client().await;
    let echoed = client.send("POST", "/", &[], "0123456789").await;
    assert_eq!((echoed.status, echoed.body.as_str()), (200, "0123456789"));
    let told = client
        .send("POST", "/", &["expect: 100-continue"], "0123456789a")
        .await;
    assert_eq!((told.status, told.problem()), (413, "body-too-large"));
    let mut client = rig.client().await;
    client.write(b"POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n8\r\n01234567\r\n8\r\n01234567\r\n0\r\n\r\n").await;
    let untold = client.answer("POST").await;
    assert_eq!((untold.status, untold.problem()), (413, "body-too-large"));
    assert_eq!(
        origin.seen().len(),
        1,
        "no upstream received a complete body"
    );
}

#[tokio::test]
async fn a_backend_that_speaks_http2_is_spoken_to_in_http2() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("binds");
    let address = listener.local_addr().expect("bound");
    let origin = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let service = hyper::service::service_fn(
            |request: http::Request<hyper::body::Incoming>| async move {
                let uri = request.uri().to_string();
                Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::new(
                    bytes::Bytes::from(uri),
                )))
            },
        );
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        // One connection: every request must come over it.
        drop(
            hyper::server::conn::http2::Builder::new(executor)
                .serve_connection(io, service)
                .await,
        );
    });
    let mut rules = vec![rule("all", "/")];
    rules[0].action = to(Target::Backend(backend_name("grpc")));
    let rig = Rig::with(
        address,
        rules,
        backend_of("grpc", &[address], BackendProtocol::H2c),
    );
    let mut client = rig.client().await;
    for _ in 0..3 {
        let answer = client.send("POST", "/x?y", &[], "body").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "http://a.example/x?y")
        );
    }
    origin.abort();
}
