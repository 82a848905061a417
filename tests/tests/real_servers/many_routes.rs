//! Many HTTPRoutes at the edges of one Gateway: routes come and go under load and no request pays for it; what a fleet of
//! routes costs the operator and an edge is printed. A sample by default; `make churn` asks for all of it and holds the
//! bounds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use sluice_tests::http::{Connection, Protocol};
use sluice_tests::load::percentile;
use sluice_tests::product::AUDIENCE;
use sluice_tests::{
    App, Cluster, Load, Operator, Sidecar, StandInPod, With, World, eventually, get, isolated,
    seconds,
};

use super::gateways::definition;
use super::{install, status};

/// Requests a second, of each of two edges.
const RATE: u32 = 250;
/// Between two changes.
const PACE: Duration = Duration::from_millis(100);
/// Changes between a route's coming and its going.
const STAY: u32 = 10;
/// Edits whose cost is measured.
const EDITS: u32 = 20;

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: shop}
spec:
  gatewayClassName: sluice
  listeners: [{name: http, port: 8000, protocol: HTTP}]
";

/// How much is asked for.
struct Plan {
    /// Routes that are there all the time.
    standing: u32,
    /// Routes that come or go.
    changes: u32,
    /// Whether times are bounded: only on a machine that does nothing else, with binaries as they are shipped.
    bounded: bool,
}

impl Plan {
    fn asked() -> Result<Self> {
        let number = |name: &str, otherwise| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
            Err(_) => Ok(otherwise),
        };
        Ok(Self {
            standing: number("SLUICE_STANDING_ROUTES", 100)?,
            changes: number("SLUICE_ROUTE_CHANGES", 60)?,
            bounded: std::env::var_os("SLUICE_STANDING_ROUTES").is_some(),
        })
    }
}

fn route(name: &str, path: &str, turn: u32) -> Value {
    let edit = json!([{"name": "x-turn", "value": turn.to_string()}]);
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "parentRefs": [{"name": "public"}],
            "hostnames": ["shop.example"],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": path}}],
                "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": edit}}],
                "backendRefs": [{"name": "origin", "port": 80}],
            }],
        },
    })
}

/// What runs.
struct Place {
    cluster: Cluster,
    operator: Operator,
    edges: Vec<Sidecar>,
    routes: Api<DynamicObject>,
    _pods: Vec<StandInPod>,
    _origin: App,
}

impl Place {
    async fn start(world: &World) -> Result<Self> {
        let cluster = install::cluster(world).await?;
        let definitions =
            definition("Gateway", "gateways", "v1") + &definition("HTTPRoute", "httproutes", "v1");
        cluster.apply_yaml(&definitions).await?;
        eventually("the API server serves Gateways", seconds(30), async || {
            cluster.apply_yaml(GATEWAY).await
        })
        .await?;
        let operator = install::operator(world, &cluster).await?;
        let origin = App::start_at(world, "origin", (world.address(), 8080).into()).await?;
        cluster.expose("shop", "origin", 80, origin.address).await?;
        let (mut edges, mut pods) = (Vec::new(), Vec::new());
        for name in ["edge-0", "edge-1"] {
            let labels = json!({"gateway.networking.k8s.io/gateway-name": "public"});
            let pod = StandInPod::create(world, &cluster, "shop", name, labels).await?;
            let mut edge = Sidecar::options(world, name, pod.ip)?
                .operator(operator.stream)
                .token_file(&pod.token_file(AUDIENCE).await?)
                .roots_pem(&status::roots(&cluster).await?)
                .edge()
                .start(world)?;
            edge.ready(seconds(40)).await?;
            edges.push(edge);
            pods.push(pod);
        }
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
        let kind = ApiResource::from_gvk_with_plural(&kind, "httproutes");
        let routes = Api::namespaced_with(cluster.client(), "shop", &kind);
        Ok(Self {
            cluster,
            operator,
            edges,
            routes,
            _pods: pods,
            _origin: origin,
        })
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let edges = self.edges.iter();
        edges.map(|edge| (edge.address.ip(), 8000).into()).collect()
    }

    async fn create(&self, name: &str, path: &str) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(route(name, path, 0))?;
        self.routes.create(&PostParams::default(), &object).await?;
        Ok(())
    }

    /// How long until every edge answers so, from `since` on.
    async fn answers(&self, path: &str, since: Instant, answer: Expected) -> Result<Duration> {
        let each = self.addresses().into_iter().map(|address| async move {
            let mut connection = Connection::open(address, Protocol::Http1).await?;
            let until = since + seconds(60);
            while Instant::now() < until {
                let request = get(path).with("host", "shop.example");
                let answered = connection.send(request).await?;
                let turn = answered.header("x-turn").and_then(|turn| turn.parse().ok());
                if answer
                    == (Expected {
                        status: answered.status.as_u16(),
                        turn,
                    })
                {
                    return Ok(since.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            anyhow::bail!("{address} does not answer {path} with {answer:?}")
        });
        let slowest = try_join_all(each).await?.into_iter().max();
        Ok(slowest.unwrap_or_default())
    }
}

/// What an edge should answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    status: u16,
    turn: Option<u32>,
}

const NONE: Expected = Expected {
    status: 404,
    turn: None,
};

fn served(turn: u32) -> Expected {
    Expected {
        status: 200,
        turn: Some(turn),
    }
}

/// Processor time and resident memory of a process, in milliseconds and MiB.
fn cost(pid: u32) -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("a name in brackets")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    // utime and stime (proc(5)), in hundredths of a second.
    let cpu = ticks(11)
        .zip(ticks(12))
        .map(|(user, system)| (user + system) * 10.0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix(" kB")?
            .parse::<f64>()
            .ok()
    });
    Ok((
        cpu.context("processor time")?,
        resident.context("resident memory")? / 1024.0,
    ))
}

/// Routes come and go at the pace; when each was served, or was no more.
async fn churn(place: &Arc<Place>, changes: u32) -> Result<Vec<Duration>> {
    let began = Instant::now();
    let mut looks = Vec::new();
    for n in 0..changes {
        tokio::time::sleep_until((began + PACE * n).into()).await;
        let asked = Instant::now();
        // One comes, then one that has stayed for a while goes.
        let (number, comes) = match n % 2 == 0 || n < STAY {
            true => (n, true),
            false => (n - STAY + (n - STAY) % 2, false),
        };
        let (name, path) = (format!("r-{number}"), format!("/r/{number}"));
        let expected = match comes {
            true => {
                place.create(&name, &path).await?;
                served(0)
            }
            false => {
                place.routes.delete(&name, &DeleteParams::default()).await?;
                NONE
            }
        };
        let place = Arc::clone(place);
        looks.push(tokio::spawn(async move {
            place.answers(&path, asked, expected).await
        }));
    }
    let mut delays = Vec::new();
    for look in looks {
        delays.push(look.await??);
    }
    delays.sort_unstable();
    Ok(delays)
}

/// What one edit costs the operator, in milliseconds of processor time, beyond what it costs to be idle.
async fn edits(place: &Place) -> Result<f64> {
    let pid = place.operator.process.pid();
    let period = PACE * 2 * EDITS;
    let (idle_from, _) = cost(pid)?;
    tokio::time::sleep(period).await;
    let (idle_to, _) = cost(pid)?;
    let began = Instant::now();
    for turn in 1..=EDITS {
        tokio::time::sleep_until((began + PACE * 2 * turn).into()).await;
        let asked = Instant::now();
        let patch = Patch::Merge(route("standing-0", "/standing/0", turn));
        place
            .routes
            .patch("standing-0", &PatchParams::default(), &patch)
            .await?;
        place.answers("/standing/0", asked, served(turn)).await?;
    }
    let (busy, _) = cost(pid)?;
    let idle = (idle_to - idle_from) * began.elapsed().as_secs_f64() / period.as_secs_f64();
    Ok((busy - idle_to - idle) / f64::from(EDITS))
}

#[test]
fn routes_come_and_go_at_two_edges_and_no_request_fails() {
    isolated!(seconds(1500), async |world| {
        let plan = Plan::asked()?;
        let place = Arc::new(Place::start(world).await?);
        place.create("steady", "/steady").await?;
        stream::iter(0..plan.standing)
            .map(|n| {
                let place = Arc::clone(&place);
                async move {
                    place
                        .create(&format!("standing-{n}"), &format!("/standing/{n}"))
                        .await
                }
            })
            .buffer_unordered(8)
            .try_collect::<()>()
            .await?;
        let last = format!("/standing/{}", plan.standing - 1);
        for path in ["/steady", "/standing/0", last.as_str()] {
            place.answers(path, Instant::now(), served(0)).await?;
        }

        let load = || {
            let loads = place.addresses().into_iter().map(|address| {
                // Half on kept connections, half on new ones.
                Load::against(address)
                    .per_second(RATE)
                    .fresh_every(2)
                    .request(|_| get("/steady").with("host", "shop.example"))
                    .start()
            });
            loads.collect::<Vec<_>>()
        };
        let mut failed = 0;
        let loads = load();
        tokio::time::sleep(seconds(3)).await;
        for load in loads {
            let report = load.finish().await;
            println!("nothing changes: {report}");
            failed += report.failed;
        }
        let loads = load();
        let delays = churn(&place, plan.changes).await?;
        for load in loads {
            let report = load.finish().await;
            println!("routes come and go: {report}");
            failed += report.failed;
        }
        let [p50, p99, most] = [50.0, 99.0, 100.0].map(|percent| percentile(&delays, percent));
        println!(
            "{} changes at two edges of {} routes: applied -> served by both p50 {p50:.1?}, p99 {p99:.1?}, max {most:.1?}",
            delays.len(),
            plan.standing
        );
        let per_edit = edits(&place).await?;
        let (_, operator) = cost(place.operator.process.pid())?;
        let (_, edge) = cost(place.edges[0].process.pid())?;
        println!(
            "an edit costs the operator {per_edit:.1} ms; resident: operator {operator:.0} MiB, edge {edge:.0} MiB"
        );
        ensure!(failed == 0, "{failed} requests failed");
        ensure!(
            delays.len() == plan.changes as usize,
            "{} were seen",
            delays.len()
        );
        if plan.bounded {
            ensure!(p99 <= Duration::from_millis(100), "p99 {p99:?}");
            ensure!(per_edit <= 5.0, "an edit costs {per_edit} ms");
        }
        // The API server is there to the end: else its absence would look like no change.
        place.cluster.kubectl().run(["get", "namespaces"]).await?;
        Ok(())
    });
}
