//! `kubectl sluice explain` agrees with reality: what it says of random requests, offline, is what an edge logs of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use http::Method;
use kubectl_sluice::explain::{Answer, Ask, At, Known, Refusal, explain};
use serde_json::Value;
use sluice_tests::http::{Connection, Protocol};
use sluice_tests::{With, eventually, http::request, isolated, product, seconds};

use crate::place::{Plan, documents};

/// Another seed is another test.
const SEED: u64 = 0x5eed_0006;
const ROUTES: usize = 50;
const REQUESTS: usize = 500;
const PORT: u16 = 8000;
const PATIENCE: u64 = 30;

/// Marsaglia's xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn once_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

const HOSTS: [&str; 8] = [
    "a.example",
    "b.example",
    "*.b.example",
    "x.b.example",
    "c.example",
    "*.example",
    "*.wild.example",
    "d.test",
];
const PATHS: [&str; 7] = [
    "/",
    "/v1",
    "/v1/orders",
    "/v2",
    "/v2/files",
    "/files",
    "/v1/orders/7",
];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
const SERVICES: [&str; 4] = ["one", "two", "nobody", "missing"];

/// `{name: NAME, value: VALUE}`, perhaps with an expression.
fn value(dice: &mut Dice, name: &str) -> String {
    match dice.below(3) {
        0 => format!("[{{name: {name}, type: RegularExpression, value: \"[12]\"}}]"),
        1 => format!("[{{name: {name}, value: \"1\"}}]"),
        _ => format!("[{{name: {name}, value: \"2\"}}]"),
    }
}

fn matched(dice: &mut Dice, cookies: bool) -> String {
    let (kind, path) = match dice.below(4) {
        0 => ("Exact", dice.one(&PATHS)),
        1 => (
            "RegularExpression",
            dice.one(&["/v[12]", "/v1/.*", "/.*/files"]),
        ),
        _ => ("PathPrefix", dice.one(&PATHS)),
    };
    let mut spec = format!("{{path: {{type: {kind}, value: \"{path}\"}}");
    if dice.once_in(4) {
        spec += &format!(", method: {}", dice.one(&METHODS));
    }
    if dice.once_in(4) {
        spec += &format!(", headers: {}", value(dice, "x-a"));
    }
    if dice.once_in(5) {
        spec += &format!(", queryParams: {}", value(dice, "q"));
    }
    if cookies && dice.once_in(5) {
        spec += &format!(", cookies: {}", value(dice, "c"));
    }
    spec + "}"
}

/// A route of the Gateway; every other one is an HTTPRoute.
fn route(dice: &mut Dice, number: usize) -> String {
    let http_route = number % 2 == 1;
    let mut hostnames: BTreeSet<String> = (0..dice.below(3))
        .map(|_| format!("\"{}\"", dice.one(&HOSTS)))
        .collect();
    if !http_route {
        // Two ApiRoutes may not share a hostname: this one is its own.
        hostnames.insert(format!("r{}.example", number / 2));
    }
    let hostnames = match hostnames.is_empty() {
        true => String::new(),
        false => format!("  hostnames: [{}]\n", Vec::from_iter(hostnames).join(", ")),
    };
    let section = match dice.below(5) {
        0 => ", sectionName: wild",
        1 => ", sectionName: gone",
        _ => "",
    };
    let parent = match http_route {
        true => format!("{{name: public{section}}}"),
        false => {
            format!("{{group: gateway.networking.k8s.io, kind: Gateway, name: public{section}}}")
        }
    };
    let rules: String = (0..1 + dice.below(3))
        .map(|index| {
            let matches: Vec<String> = (0..1 + dice.below(3))
                .map(|_| matched(dice, !http_route))
                .collect();
            let action = match dice.below(8) {
                0 => "filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]"
                    .to_owned(),
                more => {
                    let backends: Vec<String> = (0..1 + more % 2)
                        .map(|_| {
                            let weight = dice.below(4);
                            format!(
                                "{{name: {}, port: 80, weight: {weight}}}",
                                dice.one(&SERVICES)
                            )
                        })
                        .collect();
                    format!("backendRefs: [{}]", backends.join(", "))
                }
            };
            let matches = matches.join(", ");
            format!("  - name: rule-{index}\n    matches: [{matches}]\n    {action}\n")
        })
        .collect();
    let (version, kind) = match http_route {
        true => ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        false => ("sluice.dev/v1alpha1", "ApiRoute"),
    };
    let day = 1 + dice.below(28);
    format!(
        "apiVersion: {version}
kind: {kind}
metadata: {{name: r{number}, namespace: shop, creationTimestamp: \"2026-01-{day:02}T00:00:00Z\"}}
spec:
  parentRefs: [{parent}]
{hostnames}  rules:
{rules}"
    )
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: shop}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: example, port: 8000, protocol: HTTP, hostname: \"*.example\"}
  - {name: wild, port: 8000, protocol: HTTP, hostname: \"*.wild.example\"}
  - {name: test, port: 8000, protocol: HTTP, hostname: d.test}
";

/// One request: what goes over the wire, and what is asked about.
struct Sent {
    method: &'static str,
    host: String,
    target: String,
    headers: Vec<(&'static str, &'static str)>,
}

impl Sent {
    fn random(dice: &mut Dice) -> Self {
        let own = format!("r{}.example", dice.below(ROUTES / 2 + 2));
        let host = match dice.below(2) {
            0 => own,
            _ => dice
                .one(&[
                    "a.example",
                    "A.Example",
                    "b.example.",
                    "x.b.example:8000",
                    "y.x.b.example",
                    "c.example",
                    "z.wild.example",
                    "d.test",
                    "e.test",
                ])
                .to_owned(),
        };
        let path = dice.one(&[
            "/",
            "/v1",
            "/v1/",
            "/v1/orders",
            "/v1/orders/7",
            "/v1//orders",
            "/v1/../v2/files",
            "/v2",
            "/v1%2Forders",
            "/files",
            "/V1",
            "/%zz",
            "/v1/orders/7/8",
        ]);
        let query = dice.one(&["", "", "?q=1", "?q=2", "?r=1&q=1", "?q=3&q=1"]);
        let mut headers = Vec::new();
        for _ in 0..dice.below(3) {
            headers.push(("x-a", dice.one(&["1", "2"])));
        }
        if dice.once_in(3) {
            headers.push(("cookie", dice.one(&["c=1", "b=2; c=2", "c=3"])));
        }
        Self {
            method: dice.one(&METHODS),
            host,
            target: format!("{path}{query}"),
            headers,
        }
    }

    /// The flags of the command line.
    fn headers(&self) -> Vec<String> {
        let lines = self.headers.iter();
        let lines = lines.map(|(name, value)| format!("{name}: {value}"));
        lines.chain([format!("Host: {}", self.host)]).collect()
    }

    fn url(&self) -> String {
        format!("http://edge.test:{PORT}{}", self.target)
    }
}

/// Whether an answer is what was logged.
fn compare(answer: &Answer, logged: &Value) -> Result<()> {
    let path =
        |object: &sluice_snapshot::unit::ObjectRef| format!("{}/{}", object.namespace, object.name);
    let found = answer.rule.as_ref();
    let before_route = answer
        .refusal
        .as_ref()
        .is_some_and(|refusal| ["admit", "target", "route"].contains(&refusal.phase));
    let (route, rule) = match found {
        Some(taken) if !before_route => (Some(path(&taken.route)), Some(taken.name.clone())),
        _ => (None, None),
    };
    ensure!(
        logged["route"].as_str() == route.as_deref(),
        "route {route:?}"
    );
    ensure!(logged["rule"].as_str() == rule.as_deref(), "rule {rule:?}");
    let destinations = found.map(|taken| taken.destinations.as_slice());
    let destinations = destinations.unwrap_or_default();
    match &answer.refusal {
        // Where a request goes is drawn: one of what is said has to be what was.
        Some(refusal) if refusal.phase == "dispatch" => {}
        Some(refusal) => return refused(refusal, logged),
        None => ensure!(answer.served, "neither served nor refused"),
    }
    let fits = destinations
        .iter()
        .any(|destination| match &destination.refusal {
            Some(refusal) => refused(refusal, logged).is_ok(),
            None => {
                logged["reason"].is_null()
                    && logged["upstream"].as_str() == destination.upstream.as_deref()
            }
        });
    ensure!(fits, "destinations {destinations:?}");
    Ok(())
}

fn refused(refusal: &Refusal, logged: &Value) -> Result<()> {
    let Refusal {
        status,
        reason,
        detail: _,
        decided_by,
        phase,
        hint: _,
    } = refusal;
    ensure!(logged["reason"] == **reason, "reason {reason}");
    ensure!(
        logged["status"].as_u64() == status.map(u64::from),
        "status {status:?}"
    );
    ensure!(
        logged["decided_by"].as_str() == decided_by.as_deref(),
        "decided by {decided_by:?}"
    );
    ensure!(logged["phase"] == *phase, "phase {phase}");
    Ok(())
}

/// What of the answers there was: a test that meets nothing shows nothing.
#[derive(Debug, Default)]
struct Met {
    served: usize,
    reasons: BTreeSet<String>,
    routes: BTreeSet<String>,
}

fn all_agree(manifests: &Path, sent: &[Sent], log: &[Value]) -> Result<Met> {
    let known = Known::load(&[manifests.to_owned()])?;
    let mut met = Met::default();
    for (number, (sent, logged)) in sent.iter().zip(log).enumerate() {
        ensure!(
            logged["authority"] == *sent.host,
            "request {number} is logged elsewhere: {logged}"
        );
        let ask = Ask::new(&sent.url(), sent.method, &sent.headers(), None)?;
        let answer = explain(&known, &ask, Some(&"gateway/shop/public".parse::<At>()?))?;
        compare(&answer, logged).with_context(|| {
            format!(
                "seed {SEED:#x}, request {number}: {} {}{} {:?}\nlogged {logged}\nsaid {answer:#?}",
                sent.method, sent.host, sent.target, sent.headers
            )
        })?;
        met.served += usize::from(answer.served);
        met.reasons
            .extend(logged["reason"].as_str().map(str::to_owned));
        met.routes
            .extend(logged["route"].as_str().map(str::to_owned));
    }
    Ok(met)
}

/// The same by the program itself.
fn program_agrees(manifests: &Path, sent: &Sent, logged: &Value) -> Result<()> {
    let mut command = Command::new(product::binary("kubectl-sluice")?);
    command
        .arg("explain")
        .arg(sent.url())
        .arg("-f")
        .arg(manifests);
    command.args(["-X", sent.method, "-o", "json"]);
    command.args(["--at", "gateway/shop/public"]);
    for line in sent.headers() {
        command.args(["-H", &line]);
    }
    let output = command.output()?;
    let answer: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let (served, code) = (answer["served"] == true, output.status.code());
    ensure!(code == Some(i32::from(!served)), "{code:?}: {answer}");
    ensure!(served == logged["reason"].is_null(), "{logged}\n{answer}");
    ensure!(
        answer["refusal"]["reason"] == logged["reason"],
        "{logged}\n{answer}"
    );
    if served {
        ensure!(
            answer["rule"]["name"] == logged["rule"],
            "{logged}\n{answer}"
        );
    }
    Ok(())
}

#[test]
fn what_is_said_of_requests_is_what_an_edge_logs() {
    isolated!(async |world| {
        let mut dice = Dice(SEED);
        let plan = Plan::new(world)?;
        let _one = plan.member("one").await?;
        let _two = plan.member("two").await?;
        plan.service("nobody", &[])?;
        plan.put("gateway", GATEWAY)?;
        let routes: Vec<String> = (0..ROUTES).map(|number| route(&mut dice, number)).collect();
        plan.put("routes", &documents(&routes))?;
        let place = plan.start().await?;
        let mut edge = place.edge("public").await?;
        edge.ready(seconds(PATIENCE)).await?;

        let sent: Vec<Sent> = (0..REQUESTS).map(|_| Sent::random(&mut dice)).collect();
        let address = (edge.address.ip(), PORT).into();
        let mut connection = Connection::open(address, Protocol::Http1).await?;
        for sent in &sent {
            let mut asked = request(
                Method::from_bytes(sent.method.as_bytes())?,
                &sent.target,
                "",
            );
            for (name, value) in sent.headers.iter().chain(&[("host", sent.host.as_str())]) {
                asked = asked.with(name, value);
            }
            let answer = connection.send(asked).await;
            let answer = answer.with_context(|| format!("{} {}", sent.method, sent.target))?;
            if answer.header("connection") == Some("close") {
                connection = Connection::open(address, Protocol::Http1).await?;
            }
        }
        eventually("every request is logged", seconds(PATIENCE), async || {
            let logged = edge.access_log().len();
            ensure!(logged == REQUESTS, "{logged} are");
            Ok(())
        })
        .await?;
        let log = edge.access_log();
        let manifests = place.manifest("routes");
        let manifests = manifests.parent().context("a folder")?;
        let met = all_agree(manifests, &sent, &log)?;
        ensure!(met.served >= REQUESTS / 5, "{met:?}");
        ensure!(met.routes.len() >= ROUTES / 3, "{met:?}");
        for reason in ["no-route", "no-endpoint", "bad-target"] {
            ensure!(met.reasons.contains(reason), "{reason}: {met:?}");
        }
        ensure!(
            met.reasons
                .iter()
                .any(|reason| reason.starts_with("config-")),
            "{met:?}"
        );
        let whole = |served: bool| {
            let of = |logged: &Value| {
                logged["reason"].is_null() == served && logged["upstream"].is_null() != served
            };
            log.iter().position(of)
        };
        for position in [whole(true), whole(false)] {
            let position = position.context("no such request")?;
            program_agrees(manifests, &sent[position], &log[position])?;
        }
        Ok(())
    });
}
