//! Two replicas with sidecars on both: status counts all of them whoever leads, and no loss or restart of a replica shows
//! in any condition while sidecars find the other one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use sluice_tests::{Cluster, Operator, StandInPod, World, eventually, isolated, seconds};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

use super::install::{self, condition, get, until};
use super::leader::{held_by, holder};
use super::moves::{in_force, objects, wish};
use super::status::{self, Served};

/// A replica in a pod of its own, which outlives the process.
struct Replica {
    pod: StandInPod,
    operator: Operator,
}

impl Replica {
    /// The pod and its container, started and not waited for.
    async fn start(world: &World, cluster: &Cluster, name: &str) -> Result<Self> {
        let labels = json!({"app.kubernetes.io/name": "sluice-operator"});
        let pod = StandInPod::create(world, cluster, install::NAMESPACE, name, labels).await?;
        let operator = Self::run(world, cluster, &pod, name)?;
        Ok(Self { pod, operator })
    }

    /// The container, started. Its log is named `log`.
    fn run(world: &World, cluster: &Cluster, pod: &StandInPod, log: &str) -> Result<Operator> {
        install::options(world, cluster, log)?
            .ip(pod.ip)
            .env("POD_NAME", &pod.name)
            .start(world)
    }

    /// The container again, ready, and followed by the other replica.
    async fn restart(&mut self, world: &World, cluster: &Cluster, log: &str) -> Result<()> {
        self.operator = Self::run(world, cluster, &self.pod, log)?;
        self.operator.ready(seconds(60)).await
    }

    /// A metric without labels.
    async fn metric(&self, name: &str) -> Result<f64> {
        let metrics = self.operator.metrics().await?;
        let line = metrics
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(value.with_context(|| format!("no {name}"))?.parse()?)
    }

    async fn has_sessions(&self, count: u32) -> Result<()> {
        let what = format!("{} has {count} sessions", self.pod.name);
        eventually(&what, seconds(40), async || {
            let sessions = self.metric("sluice_operator_stream_sessions").await?;
            ensure!(sessions == f64::from(count), "it has {sessions}");
            Ok(())
        })
        .await
    }

    async fn follows(&self, count: u32) -> Result<()> {
        let what = format!("{} follows {count}", self.pod.name);
        eventually(&what, seconds(40), async || {
            let followed = self.metric("sluice_operator_peers_followed").await?;
            ensure!(followed == f64::from(count), "it follows {followed}");
            Ok(())
        })
        .await
    }
}

/// The operator's Service, as far as one sidecar's node has it: a connection goes to the first replica that takes it.
struct Service {
    address: SocketAddr,
    forwarding: JoinHandle<()>,
}

impl Service {
    async fn start(world: &World, replicas: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind((world.address(), 8443)).await?;
        let address = listener.local_addr()?;
        let forwarding = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let replicas = replicas.clone();
                tokio::spawn(async move {
                    for replica in replicas {
                        if let Ok(mut server) = TcpStream::connect(replica).await {
                            // However it ends, both sides see it.
                            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                            return;
                        }
                    }
                });
            }
        });
        Ok(Self {
            address,
            forwarding,
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

/// A pod as [`status::serve`] makes it, ready.
async fn serve(
    world: &World,
    cluster: &Cluster,
    service: &Service,
    app: &str,
    name: &str,
) -> Result<Served> {
    let mut served = status::serve(world, cluster, service.address, app, name).await?;
    served.sidecar.ready(seconds(60)).await?;
    Ok(served)
}

async fn live(cluster: &Cluster, kind: &str, name: &str, summary: &str) -> Result<Value> {
    let what = format!("{kind} {name} is live on {summary}");
    eventually(&what, seconds(60), async || {
        let object = get(cluster, kind, name).await?;
        ensure!(
            object["status"]["live"]["summary"] == summary,
            "{}",
            object["status"]["live"]
        );
        Ok(object)
    })
    .await
}

/// Every state that ApiRoutes have been in since it began to look.
struct History {
    seen: Arc<Mutex<Vec<(String, String)>>>,
    looking: JoinHandle<()>,
}

impl History {
    fn start(cluster: &Cluster) -> Self {
        let kind = GroupVersionKind::gvk("sluice.dev", "v1alpha1", "ApiRoute");
        let resource = ApiResource::from_gvk_with_plural(&kind, "apiroutes");
        let api: Api<DynamicObject> = Api::namespaced_with(cluster.client(), "shop", &resource);
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let write = seen.clone();
        let looking = tokio::spawn(async move {
            let objects = watcher(api, watcher::Config::default()).applied_objects();
            let mut objects = std::pin::pin!(objects);
            while let Some(object) = objects.next().await {
                let Ok(object) = object else { continue };
                let object = serde_json::to_value(&object).unwrap_or_default();
                let name = object["metadata"]["name"]
                    .as_str()
                    .unwrap_or("?")
                    .to_owned();
                let (ready, _) = condition(&object, "Ready");
                let (_, why) = condition(&object, "Programmed");
                let state = format!("{ready} ({why}) {}", object["status"]["live"]["summary"]);
                write
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((name, state));
            }
        });
        Self { seen, looking }
    }

    fn seen(&self) -> Vec<(String, String)> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// It looked, and these routes were Ready and live on both pods in every state.
    fn never_wavered(&self, names: &[&str]) -> Result<()> {
        let seen = self.seen();
        for name in names {
            let of: Vec<_> = seen.iter().filter(|(of, _)| of == name).collect();
            ensure!(!of.is_empty(), "nothing of {name} was seen");
            ensure!(
                of.iter().all(|(_, state)| state.starts_with("True/Ready")
                    && state.ends_with("\"2/2\"")),
                "{of:?}"
            );
        }
        Ok(())
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// Two replicas that follow each other, the first of which leads.
async fn two(world: &World, cluster: &Cluster) -> Result<[Replica; 2]> {
    let mut first = Replica::start(world, cluster, "operator-0").await?;
    first.operator.ready(seconds(60)).await?;
    held_by(cluster, "operator-0").await?;
    let mut second = Replica::start(world, cluster, "operator-1").await?;
    second.operator.ready(seconds(60)).await?;
    first.follows(1).await?;
    second.follows(1).await?;
    Ok([first, second])
}

/// Services that lead to one replica as long as it is there, and to the other one else.
async fn services(world: &World, replicas: &[Replica; 2]) -> Result<[Service; 2]> {
    let [a, b] = [0, 1].map(|n| replicas[n].operator.stream);
    Ok([
        Service::start(world, vec![a, b]).await?,
        Service::start(world, vec![b, a]).await?,
    ])
}

#[test]
fn no_loss_of_a_replica_shows_in_a_status() {
    isolated!(seconds(400), async |world| {
        let cluster = install::cluster(world).await?;
        let mut replicas = two(world, &cluster).await?;
        for name in ["web", "stock"] {
            cluster
                .apply_yaml(&install::service_and_route(name))
                .await?;
        }
        let services = services(world, &replicas).await?;
        let mut served = Vec::new();
        for app in ["web", "stock"] {
            for (n, service) in services.iter().enumerate() {
                let name = format!("{app}-{n}");
                served.push(serve(world, &cluster, service, app, &name).await?);
            }
        }
        for replica in &replicas {
            replica.has_sessions(2).await?;
        }
        for name in ["web", "stock"] {
            live(&cluster, "apiroute", name, "2/2").await?;
            until(&cluster, "apiroute", name, "Ready", "True/Ready").await?;
        }
        let history = History::start(&cluster);
        eventually("the history has begun", seconds(20), async || {
            history.never_wavered(&["web", "stock"])
        })
        .await?;

        // The one that does not lead is killed. Its sidecars cannot come back before the leader has had every occasion
        // to say that they are gone.
        let [leader, other] = &mut replicas;
        let of_second = [&served[1], &served[3]];
        for served in of_second {
            served.sidecar.process.freeze()?;
        }
        other.operator.process.kill();
        leader.follows(0).await?;
        cluster
            .apply_yaml(&install::service_and_route("early"))
            .await?;
        until(&cluster, "apiroute", "early", "Ready", "True/Ready").await?;
        let began = Instant::now();
        eventually("five seconds of it", seconds(6), async || {
            history.never_wavered(&["web", "stock"])?;
            ensure!(began.elapsed() > seconds(5), "not yet");
            Ok(())
        })
        .await?;
        for served in of_second {
            served.sidecar.process.thaw()?;
        }
        leader.has_sessions(4).await?;
        other.restart(world, &cluster, "operator-1-again").await?;
        leader.follows(1).await?;
        other.follows(1).await?;
        // What was unknown is not any more: nothing rests on it.
        let began = Instant::now();
        eventually("sixteen seconds of it", seconds(18), async || {
            history.never_wavered(&["web", "stock"])?;
            ensure!(began.elapsed() > seconds(16), "not yet");
            Ok(())
        })
        .await?;

        // The leader is killed, with every session. The other one has had none of them.
        for served in &served {
            served.sidecar.process.freeze()?;
        }
        leader.operator.process.kill();
        held_by(&cluster, "operator-1").await?;
        cluster
            .apply_yaml(&install::service_and_route("late"))
            .await?;
        until(&cluster, "apiroute", "late", "Ready", "True/Ready").await?;
        history.never_wavered(&["web", "stock"])?;
        for served in &served {
            served.sidecar.process.thaw()?;
        }
        other.has_sessions(4).await?;
        for name in ["web", "stock"] {
            live(&cluster, "apiroute", name, "2/2").await?;
        }
        history.never_wavered(&["web", "stock"])?;

        // Unknown is not for ever.
        leader.restart(world, &cluster, "operator-0-again").await?;
        leader.follows(1).await?;
        for served in &served[..2] {
            served.sidecar.process.freeze()?;
        }
        other.operator.process.kill();
        until(
            &cluster,
            "apiroute",
            "web",
            "Programmed",
            "False/PodsPending",
        )
        .await?;
        Ok(())
    });
}

#[test]
fn a_rolling_restart_does_not_show_and_moves_commit_with_sessions_on_both() {
    isolated!(seconds(400), async |world| {
        let cluster = install::cluster(world).await?;
        let mut replicas = two(world, &cluster).await?;
        cluster.apply_yaml(&objects()).await?;
        in_force(&cluster, 1, 8192).await?;
        let services = services(world, &replicas).await?;
        let _first = serve(world, &cluster, &services[0], "web", "web-0").await?;
        let _second = serve(world, &cluster, &services[1], "web", "web-1").await?;
        for replica in &replicas {
            replica.has_sessions(1).await?;
        }
        live(&cluster, "shardset", "orders", "2/2").await?;
        wish(&cluster, 4096).await?;
        in_force(&cluster, 2, 4096).await?;
        until(&cluster, "shardset", "orders", "Ready", "True/Ready").await?;
        live(&cluster, "apiroute", "web", "2/2").await?;
        until(&cluster, "apiroute", "web", "Ready", "True/Ready").await?;

        let history = History::start(&cluster);
        eventually("the history has begun", seconds(20), async || {
            history.never_wavered(&["web"])
        })
        .await?;
        for n in [0, 1] {
            let [one, two] = &mut replicas;
            let (ends, stays) = if n == 0 { (one, two) } else { (two, one) };
            let status = ends.operator.process.terminate(seconds(20)).await?;
            ensure!(status.success(), "{status}");
            stays.has_sessions(2).await?;
            let name = stays.pod.name.clone();
            eventually("the other one leads", seconds(30), async || {
                let holder = holder(&cluster).await?;
                ensure!(holder.starts_with(&format!("{name}_")), "{holder} does");
                Ok(())
            })
            .await?;
            let log = format!("operator-{n}-again");
            ends.restart(world, &cluster, &log).await?;
            ends.follows(1).await?;
            stays.follows(1).await?;
            history.never_wavered(&["web"])?;
        }

        // Another leader than the first, and a move again.
        wish(&cluster, 2048).await?;
        in_force(&cluster, 3, 2048).await?;
        Ok(())
    });
}
