//! What few rules ask for: another host and path for the upstream, CORS, edits of one target, copies, no deadline, the status
//! of what cannot serve.

use std::time::Duration;

use sluice_snapshot::{
    ConfigError, ConfigReason,
    unit::{
        ObjectRef,
        policy::KeyPart,
        route::{
            Action, Cors, HeaderEdits, Mirror, RedirectPath, Rewrite, Rule, Target, Timeouts,
            WeightedTarget,
        },
    },
};
use sluice_snapshot::{UnitName, unit::backend::BackendProtocol};

use super::{
    origin::{Origin, Reply, Seen},
    rig::{Rig, backend, backend_name, backend_of, policy, route, rule, to, with_key},
};
use crate::metrics::Mirrored;

fn sent_to(service: &str, rule: Rule) -> Rule {
    Rule {
        action: to(Target::Backend(backend_name(service))),
        ..rule
    }
}

fn set(name: &str, value: &str) -> HeaderEdits {
    HeaderEdits {
        set: vec![(name.into(), value.into())],
        ..HeaderEdits::default()
    }
}

#[tokio::test]
async fn the_upstream_sees_the_host_and_path_of_the_rewrite_and_the_query_as_it_was() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    let mut rewriting = sent_to("other", rule("all", "/old"));
    rewriting.rewrite = Some(Rewrite {
        hostname: Some("inner.example".into()),
        path: Some(RedirectPath::ReplacePrefixMatch("/new/".into())),
    });
    let rig = Rig::with(
        origin.address,
        vec![rewriting],
        backend("other", &[origin.address]),
    );
    let mut client = rig.client().await;
    for (target, expected) in [
        ("/old/a?b=%20", "/new/a?b=%20"),
        ("/old", "/new"),
        ("http://a.example/old/x", "/new/x"),
    ] {
        assert_eq!(client.ask("GET", target, &[]).await.status, 200);
        let seen = origin.seen().pop().expect("a request");
        assert_eq!(seen.target, expected);
        assert_eq!(seen.header("host"), Some("inner.example"));
    }
    // The log has what the client asked for.
    let line = &rig.lines(1).await[0];
    assert_eq!(line["authority"], "a.example");
    assert_eq!(line["path"], "/old/a");
}

fn cors() -> Cors {
    Cors {
        allow_origins: vec!["https://*.a.example".into()],
        allow_methods: vec!["PUT".into()],
        allow_credentials: true,
        max_age_s: 60,
        ..Cors::default()
    }
}

#[tokio::test]
async fn preflights_are_answered_before_credentials_are_asked_and_refusals_can_be_read() {
    let origin = Origin::start(|_, _| Reply::with("access-control-allow-origin: *", "")).await;
    let mut shared = rule("shared", "/");
    (shared.auth, shared.cors) = (with_key(), Some(cors()));
    let mut limited = rule("limited", "/limited");
    limited.cors = Some(cors());
    limited.policies = vec![UnitName::policy("shop", "plans")];
    let part = KeyPart::ClientAddress {
        prefix_v4: 32,
        prefix_v6: 64,
    };
    let mut units = super::rig::key_units();
    units.push(policy("plans", part, 1));
    let rig = Rig::with(origin.address, vec![shared, limited], units);
    let mut client = rig.client().await;
    let own = "origin: https://b.a.example";
    let asking = [own, "access-control-request-method: PUT"];
    for _ in 0..3 {
        let preflight = client.ask("OPTIONS", "/limited", &asking).await;
        assert_eq!(preflight.status, 200, "no limit is charged");
        assert_eq!(preflight.header("access-control-max-age"), Some("60"));
        assert_eq!(
            preflight.header("access-control-allow-methods"),
            Some("PUT")
        );
    }
    assert!(origin.seen().is_empty(), "no preflight is passed on");
    let refused = client.ask("PUT", "/", &[own]).await;
    assert_eq!(refused.status, 401);
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some("https://b.a.example"),
        "a script may read why"
    );
    let admitted = client.ask("PUT", "/limited", &[own]).await;
    assert_eq!(admitted.status, 200);
    assert_eq!(
        admitted.header("access-control-allow-origin"),
        Some("https://b.a.example"),
        "the rule decides, not the application"
    );
    assert_eq!(admitted.header("vary"), Some("origin"));
    let stranger = client
        .ask("PUT", "/limited", &["origin: https://evil.example"])
        .await;
    assert_eq!(stranger.status, 429);
    assert_eq!(stranger.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn edits_of_a_target_are_of_what_goes_there_alone() {
    let (one, two) = (
        Origin::start(|_, _| Reply::with("x-from: app", "one")).await,
        Origin::start(|_, _| Reply::with("x-from: app", "two")).await,
    );
    let mut split = rule("all", "/");
    split.request_headers = set("x-to", "rule");
    let target = |service: &str| Target::Backend(backend_name(service));
    split.action = Action::Backends(vec![
        WeightedTarget {
            request_headers: set("x-to", "one"),
            response_headers: set("x-from", "one"),
            ..WeightedTarget::plain(1, target("one"))
        },
        WeightedTarget::plain(1, target("two")),
    ]);
    let mut units = backend("one", &[one.address]);
    units.extend(backend("two", &[two.address]));
    let rig = Rig::with(one.address, vec![split], units);
    let mut client = rig.client().await;
    for _ in 0..40 {
        let answer = client.ask("GET", "/", &[]).await;
        let edited = answer.body == "one";
        let (origin, to, from) = match edited {
            true => (&one, "one", "one"),
            false => (&two, "rule", "app"),
        };
        assert_eq!(answer.header("x-from"), Some(from));
        let seen = origin.seen().pop().expect("a request");
        assert_eq!(seen.header("x-to"), Some(to));
    }
    assert!(!one.seen().is_empty() && !two.seen().is_empty());
}

fn mirrors(services: &[&str]) -> Vec<Mirror> {
    let mirror = |service: &&str| Mirror {
        target: Target::Backend(backend_name(service)),
        numerator: 1,
        denominator: 1,
    };
    services.iter().map(mirror).collect()
}

fn mirrored(rig: &Rig, how: Mirrored) -> u64 {
    rig.shared.metrics.mirrored(how)
}

#[tokio::test]
async fn copies_are_whole_and_those_who_watch_delay_nobody() {
    let origin = Origin::start(|_, _| Reply::ok("main")).await;
    let watching = Origin::start(|_, _| Reply::ok("watched")).await;
    let silent = Origin::start(|_, _| Reply::Silence).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let dead = free.local_addr().expect("bound");
    drop(free);
    let mut copied = sent_to("main", rule("all", "/"));
    copied.mirrors = mirrors(&["watching", "silent", "dead"]);
    copied.mirrors.push(Mirror {
        target: Target::Broken(ConfigError::new(ConfigReason::BackendNotFound, "gone")),
        numerator: 1,
        denominator: 1,
    });
    copied.request_headers = set("x-edited", "1");
    let mut units = backend("main", &[origin.address]);
    units.extend(backend("watching", &[watching.address]));
    units.extend(backend("silent", &[silent.address]));
    units.extend(backend("dead", &[dead]));
    let rig = Rig::with(origin.address, vec![copied], units);
    let mut client = rig.client().await;
    let big = "b".repeat(70_000);
    for (method, body) in [("GET", ""), ("POST", "hello"), ("POST", big.as_str())] {
        let answer = client.send(method, "/a?b", &[], body).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "main"));
    }
    watching.wait_for(2).await;
    let seen = origin.seen();
    for copy in watching.seen() {
        let same = |main: &&Seen| (&main.method, &main.body) == (&copy.method, &copy.body);
        let main = seen
            .iter()
            .find(same)
            .expect("what was sent to nobody else");
        assert_eq!(main.target, copy.target);
        for name in ["host", "x-edited", "traceparent", "via", "x-forwarded-for"] {
            assert_eq!(main.header(name), copy.header(name), "{name}");
        }
    }
    assert_eq!(origin.seen().len(), 3);
    assert_eq!(origin.seen()[2].body.len(), big.len());
    for (how, expected) in [
        (Mirrored::TooLarge, 3),
        (Mirrored::Unavailable, 3),
        (Mirrored::Failed, 2),
        (Mirrored::Sent, 2),
    ] {
        for _ in 0..1000 {
            if mirrored(&rig, how) >= expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // In the end the silent one fails, too.
        assert!(mirrored(&rig, how) >= expected, "{}", how.name());
    }
    assert_eq!(
        watching.seen().len(),
        2,
        "the large one is nobody's to watch"
    );
}

#[tokio::test]
async fn zero_is_no_deadline() {
    let origin = Origin::start(|_, _| Reply::Gated("200 OK", Vec::new(), "late".into())).await;
    let mut patient = sent_to("main", rule("all", "/"));
    patient.timeouts = Timeouts {
        request_ms: 0,
        backend_request_ms: 0,
    };
    let mut hasty = sent_to("main", rule("hasty", "/hasty"));
    hasty.timeouts = Timeouts {
        request_ms: 0,
        backend_request_ms: 100,
    };
    let rig = Rig::with(
        origin.address,
        vec![patient, hasty],
        backend("main", &[origin.address]),
    );
    let (mut first, mut second) = (rig.client().await, rig.client().await);
    let waiting = tokio::spawn(async move { first.ask("GET", "/", &[]).await });
    origin.wait_for(1).await;
    let hasty = second.ask("GET", "/hasty", &[]).await;
    assert_eq!((hasty.status, hasty.problem()), (504, "upstream-timeout"));
    assert!(!waiting.is_finished(), "it waits on");
    origin.gate.add_permits(1);
    let answer = waiting.await.expect("no panic");
    assert_eq!((answer.status, answer.body.as_str()), (200, "late"));
}

#[tokio::test]
async fn what_cannot_serve_is_500_of_an_httproute_and_503_of_an_apiroute() {
    let origin = Origin::start(|_, _| Reply::ok("")).await;
    for (kind, status) in [("HTTPRoute", 500), ("ApiRoute", 503)] {
        let error = ConfigError::new(ConfigReason::BackendNotFound, "gone");
        let mut broken = rule("all", "/");
        broken.action = to(Target::Broken(error));
        let mut route = route("orders", vec![broken]);
        route.object = ObjectRef::new(kind, "shop", "orders");
        let rig = Rig::start(origin.address);
        rig.install(
            &[(&[], route)],
            backend_of("main", &[], BackendProtocol::Http1),
        );
        let answer = rig.client().await.ask("GET", "/", &[]).await;
        assert_eq!(answer.status, status, "{kind}");
        assert!(answer.body.contains(&format!("\"status\":{status}")));
        assert_eq!(rig.lines(1).await[0]["status"], status);
    }
}
