//! The quickstart, running: Redis, operator, applications, sidecars, in the order they need each other. It
//! waits for each by asking it, never by sleeping for a time.

use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    Args,
    access_log::AccessLog,
    caller::{self, Ask},
    ground::{APP_PORT, Ground, HOP_PORT, free},
    manifests::{Manifests, PodRef},
    running::Running,
};

/// How long anything may take to become ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// The name under which the edge is asked.
pub(crate) const EDGE: &str = "edge";
/// Its join token, under the operator's state folder.
const EDGE_TOKEN: &str = "operator/join/shop.gateway.public.token";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// What runs.
#[derive(Default)]
pub(crate) struct Platform {
    children: Vec<Running>,
    /// Every pod, in the order of the manifests; then the edge.
    pub(crate) pods: Vec<Pod>,
    /// Whether a Redis was started.
    pub(crate) has_redis: bool,
}

/// A pod: an application, and in front of it a sidecar where its Service is a route's parent.
pub(crate) struct Pod {
    pub(crate) name: String,
    /// Where callers reach it.
    pub(crate) address: SocketAddr,
    pub(crate) sidecar: Option<Sidecar>,
}

/// What the demo knows of a sidecar.
pub(crate) struct Sidecar {
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) log: AccessLog,
}

impl Platform {
    /// Starts everything; returns once every sidecar enforces the quickstart.
    pub(crate) async fn start(&mut self, args: &Args, ground: &Ground) -> Result<()> {
        let local = Manifests::read(&ground.local)?.pods()?;
        let parents = Manifests::read(&ground.base)?.parents()?;
        self.start_redis(ground).await?;
        self.start_operator(args, ground, &local).await?;
        for pod in local {
            let behind_sidecar = parents.contains(&pod.service);
            self.start_pod(args, ground, pod, behind_sidecar)?;
        }
        self.start_edge(args, ground)?;
        self.await_pods().await
    }

    /// A pod by name.
    pub(crate) fn pod(&mut self, name: &str) -> Result<&mut Pod> {
        self.pods
            .iter_mut()
            .find(|pod| pod.name == name)
            .with_context(|| format!("the quickstart has no pod {name}"))
    }

    /// Where callers reach a pod.
    pub(crate) fn address(&mut self, name: &str) -> Result<SocketAddr> {
        Ok(self.pod(name)?.address)
    }

    /// Returns, with an error, when a program ends that should not.
    pub(crate) async fn until_one_ends(&mut self) -> Result<()> {
        loop {
            self.check()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Ends everything, callers' side first.
    pub(crate) async fn stop(&mut self) {
        while let Some(child) = self.children.pop() {
            child.stop().await;
        }
    }

    fn check(&mut self) -> Result<()> {
        self.children.iter_mut().try_for_each(Running::check)
    }

    fn run(&mut self, ground: &Ground, name: &str, program: &Path, args: &[String]) -> Result<()> {
        let child = Running::start(&ground.path("logs"), name, program, args)?;
        self.children.push(child);
        Ok(())
    }

    async fn start_redis(&mut self, ground: &Ground) -> Result<()> {
        let Some(program) = in_path("redis-server") else {
            println!(
                "Redis          none on this machine: global limits fall back to each sidecar's share, \
                 nonces are remembered per sidecar"
            );
            return Ok(());
        };
        let args = [
            "--bind",
            &ground.redis.ip().to_string(),
            "--port",
            &ground.redis.port().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        .map(String::from);
        self.run(ground, "redis", &program, &args)?;
        self.until("Redis", async || {
            tokio::net::TcpStream::connect(ground.redis).await?;
            Ok(())
        })
        .await?;
        self.has_redis = true;
        Ok(())
    }

    async fn start_operator(
        &mut self,
        args: &Args,
        ground: &Ground,
        pods: &[PodRef],
    ) -> Result<()> {
        let arguments = [
            "--manifests".into(),
            path(&ground.base)?,
            "--manifests".into(),
            path(&ground.local)?,
            "--state-dir".into(),
            path(&ground.path("operator"))?,
            "--listen".into(),
            ground.operator.to_string(),
            "--health".into(),
            ground.health.to_string(),
        ];
        self.run(
            ground,
            "operator",
            &args.binary("sluice-operator")?,
            &arguments,
        )?;
        let mut files: Vec<_> = pods.iter().map(|pod| token(ground, pod)).collect();
        files.extend(["operator/roots.pem", EDGE_TOKEN].map(|file| ground.path(file)));
        self.until("operator", async || {
            match files.iter().find(|file| !file.exists()) {
                Some(missing) => bail!("it has not written {}", missing.display()),
                None => Ok(()),
            }
        })
        .await
    }

    fn start_pod(
        &mut self,
        args: &Args,
        ground: &Ground,
        pod: PodRef,
        behind_sidecar: bool,
    ) -> Result<()> {
        let address = SocketAddr::from((pod.address, ground.port));
        let app = if behind_sidecar {
            SocketAddr::from((pod.address, APP_PORT))
        } else {
            address
        };
        let arguments = ["--listen", &app.to_string(), "--name", &pod.name].map(String::from);
        self.run(
            ground,
            &format!("{}-app", pod.name),
            &args.binary("sluice-example-app")?,
            &arguments,
        )?;
        let sidecar = match behind_sidecar {
            true => Some(self.start_sidecar(args, ground, &pod, app)?),
            false => None,
        };
        self.pods.push(Pod {
            name: pod.name,
            address,
            sidecar,
        });
        Ok(())
    }

    fn start_sidecar(
        &mut self,
        args: &Args,
        ground: &Ground,
        pod: &PodRef,
        app: SocketAddr,
    ) -> Result<Sidecar> {
        let place = [
            "--inbound".into(),
            format!("{}:{}={app}", pod.address, ground.port),
            format!("--hop={}:{HOP_PORT}", pod.address),
        ];
        self.start_product(args, ground, &pod.name, &token(ground, pod), &place)
    }

    /// The same program, in front of all pods.
    fn start_edge(&mut self, args: &Args, ground: &Ground) -> Result<()> {
        let place = ["--edge".into(), ground.edge.to_string()];
        let token = ground.path(EDGE_TOKEN);
        let sidecar = self.start_product(args, ground, EDGE, &token, &place)?;
        self.pods.push(Pod {
            name: EDGE.into(),
            address: SocketAddr::from((ground.edge, ground.port)),
            sidecar: Some(sidecar),
        });
        Ok(())
    }

    fn start_product(
        &mut self,
        args: &Args,
        ground: &Ground,
        name: &str,
        token: &Path,
        place: &[String],
    ) -> Result<Sidecar> {
        let (admin, metrics) = (free()?, free()?);
        let state = ground.folder(&format!("{name}-state"))?;
        let common = [
            "--operator".into(),
            ground.operator.to_string(),
            "--token-file".into(),
            path(token)?,
            "--roots".into(),
            path(&ground.path("operator/roots.pem"))?,
            "--state-dir".into(),
            path(&state)?,
            "--admin".into(),
            admin.to_string(),
            "--metrics".into(),
            metrics.to_string(),
            "--data-threads".into(),
            "2".into(),
        ];
        let arguments = [place, &common].concat();
        let name = format!("{name}-sidecar");
        self.run(ground, &name, &args.binary("sluice-sidecar")?, &arguments)?;
        Ok(Sidecar {
            admin,
            metrics,
            log: AccessLog::new(ground.path(&format!("logs/{name}.log"))),
        })
    }

    /// A pod without a sidecar is ready when its application is; one with a sidecar when a path that no rule
    /// names is 404: the application would have answered it, and an edge that has no route yet is at no port.
    async fn await_pods(&mut self) -> Result<()> {
        let pods: Vec<_> = self
            .pods
            .iter()
            .map(|pod| (pod.name.clone(), pod.address, pod.sidecar.is_some()))
            .collect();
        for (name, address, behind_sidecar) in pods {
            let (target, ready) = match behind_sidecar {
                true => ("/no-rule-names-this", 404),
                false => ("/healthz", 200),
            };
            self.until(&name, async || {
                match caller::send(&Ask::get(address, target)).await?.status {
                    status if status == ready => Ok(()),
                    status => bail!("GET {target} answers {status}, not {ready}"),
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Looks until `ready` is; ends early when a program has ended.
    async fn until<F>(&mut self, what: &str, ready: impl Fn() -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let begun = Instant::now();
        loop {
            self.check()?;
            match ready().await {
                Ok(()) => {
                    println!(
                        "{what:<18} ready after {:.1} s",
                        begun.elapsed().as_secs_f32()
                    );
                    return Ok(());
                }
                Err(error) if begun.elapsed() > PATIENCE => {
                    let logs: String = self
                        .children
                        .iter()
                        .filter(|child| child.name().starts_with(what))
                        .map(|child| format!("\n{}:\n{}", child.name(), child.tail()))
                        .collect();
                    return Err(error)
                        .with_context(|| format!("{what} is not ready after {PATIENCE:?}{logs}"));
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

/// The join token that the operator writes for a pod.
fn token(ground: &Ground, pod: &PodRef) -> PathBuf {
    ground.path(&format!(
        "operator/join/{}.{}.token",
        pod.namespace, pod.name
    ))
}

fn path(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

/// The program of that name that a shell would start.
fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}
