//! Routes, headers on the way, and ports without a route.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    origin::{Origin, Reply},
    rig::{Rig, backend, backend_name, route, rule, to},
};
use sluice_snapshot::unit::route::{Action, Redirect, Target};

#[tokio::test]
async fn two_routes_are_told_apart_by_host_on_two_threads() {
    let origin = Origin::start(|_, _| Reply::ok("hello")).await;
    let rig = Rig::start(origin.address);
    let routes = [
        (&["a.example"][..], route("a", vec![rule("ra", "/")])),
        (&["*.b.example"][..], route("b", vec![rule("rb", "/v1")])),
    ];
    rig.install(&routes, Vec::new());
    // Enough connections for both threads to get some.
    for _ in 0..16 {
        let mut client = rig.client().await;
        let a = client.ask("GET", "/x?q=1", &["host: A.example:80"]).await;
        assert_eq!(
            (a.status, a.header("x-rule"), a.body.as_str()),
            (200, Some("ra"), "hello")
        );
        let b = client.ask("GET", "/v1/x", &["host: x.b.example"]).await;
        assert_eq!((b.status, b.header("x-rule")), (200, Some("rb")));
        let missed = client.ask("GET", "/v2", &["host: x.b.example"]).await;
        assert_eq!((missed.status, missed.problem()), (404, "no-route"));
        let unknown = client.ask("GET", "/", &["host: c.example"]).await;
        assert_eq!(
            (unknown.status, unknown.header("content-type")),
            (404, Some("application/problem+json"))
        );
    }
    let lines = rig.lines(64).await;
    let line = lines
        .iter()
        .find(|line| line["rule"] == "ra")
        .expect("a line");
    assert_eq!(
        (&line["route"], &line["path"], &line["status"]),
        (&"shop/a".into(), &"/x".into(), &200.into())
    );
    assert!(
        !line.to_string().contains("q=1"),
        "no query in the log: {line}"
    );
    let refused = lines
        .iter()
        .find(|line| line["reason"] == "no-route")
        .expect("a line");
    assert_eq!(refused["phase"], "route");
}

#[tokio::test]
async fn the_next_hop_gets_its_own_headers_and_none_of_the_connections() {
    let reply = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nx-end: 1\r\n\r\nok";
    let origin = Origin::start(move |_, _| Reply::Raw(reply.into())).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let lines = [
        "connection: keep-alive, x-secret",
        "x-secret: 1",
        "te: gzip",
        "upgrade: websocket",
        "x-forwarded-for: 192.0.2.9",
        "x-kept: 1",
    ];
    let answer = rig
        .client()
        .await
        .ask("GET", "/a//b/../c?x=%20", &lines)
        .await;
    assert_eq!(
        (
            answer.status,
            answer.header("x-hop"),
            answer.header("keep-alive")
        ),
        (200, None, None),
        "{answer:?}"
    );
    assert_eq!(answer.header("x-end"), Some("1"));
    let seen = &origin.seen()[0];
    assert_eq!(
        (
            seen.header("x-secret"),
            seen.header("te"),
            seen.header("x-kept")
        ),
        (None, None, Some("1"))
    );
    assert_eq!(seen.header("via"), Some("1.1 sluice"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("traceparent").map(str::len), Some(55));
    assert_eq!(
        seen.target, "/a/c?x=%20",
        "what was matched is what is sent"
    );
    let trace = seen
        .header("traceparent")
        .and_then(|value| value.get(3..35));
    assert_eq!(rig.lines(1).await[0]["trace"].as_str(), trace);
}

#[tokio::test]
async fn a_refusal_is_logged_with_the_trace_it_came_with() {
    let origin = Origin::start(|_, _| Reply::ok("app")).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/v1")], Vec::new());
    let mut client = rig.client().await;
    let given = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for header in [
        given,
        "traceparent: 00-4bf92f3577b34da6-00f067aa0ba902b7-01",
    ] {
        assert_eq!(client.ask("GET", "/v2", &[header]).await.status, 404);
    }
    let traces: Vec<_> = rig
        .lines(2)
        .await
        .into_iter()
        .map(|line| line["trace"].clone())
        .collect();
    // One that is none is nobody's, and a refusal begins none.
    assert_eq!(
        traces,
        [
            "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            serde_json::Value::Null
        ]
    );
}

#[tokio::test]
async fn absolute_form_names_the_host() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let rig = Rig::start(origin.address);
    rig.install(
        &[(&["a.example"], route("a", vec![rule("ra", "/")]))],
        Vec::new(),
    );
    let answer = rig
        .client()
        .await
        .ask("GET", "http://a.example/x", &["host: a.example"])
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = &origin.seen()[0];
    assert_eq!(
        (seen.target.as_str(), seen.header("host")),
        ("/x", Some("a.example"))
    );
}

#[tokio::test]
async fn what_was_forwarded_is_not_forwarded_again() {
    let origin = Origin::start(|_, _| Reply::ok("forwarded")).await;
    let app = Origin::start(|_, _| Reply::ok("own")).await;
    let mut rules = vec![rule("forward", "/f"), rule("self", "/s"), rule("own", "/o")];
    rules[0].action = to(Target::Backend(backend_name("other")));
    rules[1].action = to(Target::Backend(backend_name("self")));
    let rig = Rig::start(app.address);
    let mut units = backend("other", &[origin.address]);
    units.extend(backend("self", &[rig.address]));
    rig.install(&[(&[], route("orders", rules))], units);
    let mut client = rig.client().await;
    let first = client.ask("GET", "/f", &[]).await;
    assert_eq!((first.status, first.body.as_str()), (200, "forwarded"));
    let via = origin.seen()[0].header("via").expect("via").to_owned();
    assert!(via.starts_with("1.1 sluice-fwd-"), "{via}");
    let again = client
        .ask("GET", "/f", &[&format!("via: 1.0 x, {via}")])
        .await;
    assert_eq!((again.status, again.problem()), (508, "loop"));
    // The own app is no hop, also where a Service names this pod.
    for path in ["/s", "/o"] {
        let own = client.ask("GET", path, &[&format!("via: {via}")]).await;
        assert_eq!((own.status, own.body.as_str()), (200, "own"), "{path}");
    }
    assert_eq!(rig.lines(4).await[1]["decided_by"], "shop/orders/forward");
}

#[tokio::test]
async fn a_redirect_asks_no_upstream() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let mut rules = vec![rule("moved", "/old")];
    let to = Redirect {
        scheme: None,
        hostname: Some("new.example".into()),
        port: None,
        path: None,
        status: 308,
    };
    rules[0].action = Action::Redirect(to);
    let rig = Rig::with(origin.address, rules, Vec::new());
    let answer = rig.client().await.ask("GET", "/old/x", &[]).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (308, Some("http://new.example/old/x"))
    );
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn http2_in_is_http1_out() {
    let origin =
        Origin::start(|seen, _| Reply::ok(seen.header("cookie").unwrap_or_default())).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let stream = tokio::net::TcpStream::connect(rig.address)
        .await
        .expect("connects");
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    let request = http::Request::get("http://a.example/x?y")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .expect("a body")
        .to_bytes();
    assert_eq!(body, "a=1; b=2");
    let seen = &origin.seen()[0];
    assert_eq!(
        (seen.target.as_str(), seen.header("host")),
        ("/x?y", Some("a.example"))
    );
}

#[tokio::test]
async fn without_a_snapshot_everything_is_refused_and_a_port_without_route_passes() {
    let echo = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let rig = Rig::start(echo.local_addr().expect("bound"));
    let answer = rig.client().await.ask("GET", "/", &[]).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.problem().starts_with("config-"), "{answer:?}");

    rig.put(Vec::new(), Vec::new());
    let mut client = rig.client().await;
    client.write(b"\x00\x01not http").await;
    let (mut app, _) = echo.accept().await.expect("the sidecar connects");
    let mut bytes = [0; 10];
    app.read_exact(&mut bytes).await.expect("reads");
    assert_eq!(&bytes, b"\x00\x01not http");
    app.write_all(b"pong").await.expect("writes");
    assert_eq!(client.bytes(4).await, b"pong");

    // Once there is a route, nothing goes on around it.
    rig.install(
        &[(&[], route("orders", vec![rule("all", "/")]))],
        Vec::new(),
    );
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
        "GET /%00 HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a\\b HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let mut client = rig.client().await;
        client.write(request.as_bytes()).await;
        let answer = client.answer("GET").await;
        assert!(
            (400..500).contains(&answer.status),
            "{request:?} {answer:?}"
        );
    }
    // RFC 9112 section 6.1: a length beside an encoding; nothing of it is believed, and the connection ends.
    let mut client = rig.client().await;
    client.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = client.answer("POST").await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (400, Some("close"))
    );
    assert!(client.is_closed().await);
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn what_is_refused_on_the_wire_is_answered_in_its_turn_and_logged() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let rig = Rig::with(origin.address, vec![rule("all", "/")], Vec::new());
    let mut client = rig.client().await;
    client.write(b"GET /first HTTP/1.1\r\nhost: a\r\n\r\nGET /second HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.status, 200);
    let refused = client.answer("GET").await;
    assert_eq!(
        (refused.status, refused.problem()),
        (400, "bad-request"),
        "{refused:?}"
    );
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(client.is_closed().await);
    let line = rig.lines(2).await.remove(1);
    assert_eq!(
        (&line["reason"], &line["path"], &line["phase"]),
        (&"bad-request".into(), &"/second".into(), &"admit".into()),
        "{line}"
    );
    assert!(line["detail"].to_string().contains("colon"), "{line}");

    // A body that turns bad after a part of it has passed: the upstream never sees its end.
    let mut client = rig.client().await;
    client
        .write(b"POST /third HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    client.write(b"3;x\r\nabc\r\n0\r\n\r\n").await;
    let refused = client.answer("POST").await;
    assert_eq!(
        (refused.status, refused.header("connection")),
        (400, Some("close")),
        "{refused:?}"
    );
    assert!(client.is_closed().await);
    let line = rig.lines(3).await.remove(2);
    assert!(line["detail"].to_string().contains("extension"), "{line}");
    let targets: Vec<_> = origin.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/first"]);
}
