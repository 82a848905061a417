use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
};

use clap::Parser;

use super::*;
use crate::shared::SharedLimits;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ServeArgs,
}

/// Loopback stands for the pod's address here, which the command line refuses.
fn args(pod_ips: &[IpAddr]) -> ServeArgs {
    let least = "sluice-sidecar --operator 127.0.0.1:1 --token-file t --state-dir s --admin 127.0.0.1:15099";
    let mut args = Line::try_parse_from(least.split(' ')).expect("parses").args;
    args.pod_ips = pod_ips.to_vec();
    args
}

fn probes(table: &str) -> Probes {
    let (shared, _inbox) = Shared::new(SharedLimits::default());
    Probes::new(table, &args(&[IpAddr::from([127, 0, 0, 1])]), &shared).expect("a table")
}

async fn status(probes: &Probes, name: &str) -> u16 {
    let page = probes.answer(name, &HeaderMap::new()).await;
    assert!(page.body.is_empty(), "a status and nothing else");
    page.status
}

/// An application that answers every connection with `answer` and shows what it was asked.
fn app(answer: &'static str) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&seen);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut head = [0; 4096];
            let length = stream.read(&mut head).unwrap_or_default();
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            asked.lock().expect("no panic").push(head);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (port, seen)
}

fn get(port: u16, more: &str) -> String {
    format!(
        r#"{{"app/readiness": {{"httpGet": {{"port": {port}, "path": "/healthz?full"{more}}}}}}}"#
    )
}

#[tokio::test]
async fn the_original_get_is_sent_with_its_host_and_headers() {
    let (port, seen) = app("HTTP/1.1 204 No Content\r\n\r\n");
    let more = r#", "host": "shop.example", "httpHeaders": [{"name": "X-Probe", "value": "yes"}, {"name": "Accept", "value": ""}]"#;
    let probes = probes(&get(port, more));
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
    assert_eq!(probes.answer("app/readiness", &headers).await.status, 200);
    headers.insert(USER_AGENT, HeaderValue::from_static("somebody/1"));
    assert_eq!(probes.answer("app/readiness", &headers).await.status, 200);
    let seen = seen.lock().expect("no panic").clone();
    assert!(
        seen[0].starts_with("GET /healthz?full HTTP/1.1\r\n"),
        "{}",
        seen[0]
    );
    assert!(
        seen[0].contains(&format!("host: shop.example:{port}\r\n")),
        "{}",
        seen[0]
    );
    assert!(
        seen[0].contains("user-agent: kube-probe/1.36\r\n"),
        "{}",
        seen[0]
    );
    assert!(
        seen[0].contains("x-probe: yes\r\n") && !seen[0].contains("accept"),
        "{}",
        seen[0]
    );
    assert!(!seen[1].contains("somebody"), "{}", seen[1]);
}

#[tokio::test]
async fn what_counts_as_success_is_the_kubelets() {
    for (answer, expected) in [
        ("HTTP/1.1 399 Odd\r\n\r\n", 200),
        (
            "HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/\r\n\r\n",
            200,
        ),
        ("HTTP/1.1 302 Found\r\nlocation: /again\r\n\r\n", 503),
        ("HTTP/1.1 404 Not Found\r\n\r\n", 404),
        ("HTTP/1.1 500 Broken\r\n\r\n", 500),
        ("no HTTP at all", 503),
    ] {
        let (port, _seen) = app(answer);
        assert_eq!(
            status(&probes(&get(port, "")), "app/readiness").await,
            expected,
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_redirect_to_the_sidecar_itself_leads_nowhere() {
    let (port, _seen) =
        app("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:15099/config\r\n\r\n");
    assert_eq!(status(&probes(&get(port, "")), "app/readiness").await, 503);
}

#[tokio::test]
async fn a_dead_port_and_an_unknown_name_are_told_apart() {
    let dead = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = dead.local_addr().expect("bound").port();
    let table = format!(r#"{{"app/liveness": {{"tcpSocket": {{"port": {port}}}}}}}"#);
    let probes = probes(&table);
    assert_eq!(status(&probes, "app/liveness").await, 200);
    drop(dead);
    assert_eq!(status(&probes, "app/liveness").await, 503);
    for unknown in ["app/readiness", "", "app/liveness/", "../config"] {
        assert_eq!(status(&probes, unknown).await, 404, "{unknown}");
    }
}

#[tokio::test]
async fn an_application_that_hangs_is_given_up_before_the_kubelet_gives_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let probes = probes(&get(port, ""));
    let began = std::time::Instant::now();
    assert_eq!(status(&probes, "app/readiness").await, 504);
    assert!(began.elapsed() >= Duration::from_millis(900));
}

#[tokio::test]
async fn those_who_ask_together_have_the_application_asked_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let accepted = Arc::new(AtomicUsize::new(0));
    let (count, gate) = (Arc::clone(&accepted), Arc::new(std::sync::Barrier::new(2)));
    let opened = Arc::clone(&gate);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            count.fetch_add(1, Ordering::SeqCst);
            opened.wait();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        }
    });
    let probes = probes(&get(port, ""));
    let all = futures::future::join_all((0..20).map(|_| status(&probes, "app/readiness")));
    let open = tokio::task::spawn_blocking(move || gate.wait());
    let (all, opened) = tokio::join!(all, open);
    opened.expect("no panic");
    assert!(all.iter().all(|status| *status == 200), "{all:?}");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_grpc_service_is_healthy_if_it_says_so() {
    use tonic_health::ServingStatus;
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("good", ServingStatus::Serving)
        .await;
    reporter
        .set_service_status("bad", ServingStatus::NotServing)
        .await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let incoming = futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let entry = |container, service| {
        let grpc = format!(r#"{{"port": {port}, "service": "{service}"}}"#);
        format!(r#""{container}/liveness": {{"grpc": {grpc}, "timeoutSeconds": 5}}"#)
    };
    let entries = [
        ("all", ""),
        ("good", "good"),
        ("bad", "bad"),
        ("unknown", "unknown"),
    ];
    let entries = entries.map(|(container, service)| entry(container, service));
    let probes = probes(&format!("{{{}}}", entries.join(",")));
    for (container, expected) in [("all", 200), ("good", 200), ("bad", 503), ("unknown", 503)] {
        let found = status(&probes, &format!("{container}/liveness")).await;
        assert_eq!(found, expected, "{container}");
    }
}

#[test]
fn probes_need_the_pods_address() {
    let (shared, _inbox) = Shared::new(SharedLimits::default());
    let table = r#"{"app/liveness": {"tcpSocket": {"port": 80}}}"#;
    assert!(matches!(
        Probes::new(table, &args(&[]), &shared),
        Err(TableError::NoPodAddress)
    ));
}
