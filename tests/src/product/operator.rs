//! The operator as a process: with a cluster or with a folder of manifests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::binary;
use crate::http::{Answer, Client};
use crate::process::Running;
use crate::world::World;

/// The name that sidecars verify, whatever address they dial.
pub const NAME: &str = "sluice-operator.sluice-system.svc";

/// How to start an operator; [`Operator::options`] has the defaults.
#[derive(Debug, Clone)]
pub struct OperatorOptions {
    name: String,
    ip: Ipv4Addr,
    kubeconfig: Option<PathBuf>,
    manifests: Vec<PathBuf>,
    config: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    extra: Vec<String>,
    env: Vec<(String, String)>,
}

/// A running operator.
#[derive(Debug)]
pub struct Operator {
    /// The operator as a process.
    pub process: Running,
    /// Where sidecars connect.
    pub stream: SocketAddr,
    /// Health and metrics.
    pub health: SocketAddr,
    /// Where the API server calls, over TLS.
    pub webhook: SocketAddr,
    /// Its state folder, in file mode.
    pub state_dir: Option<PathBuf>,
}

impl Operator {
    /// Options of an operator with this name in the logs, on an address of its own.
    pub fn options(world: &World, name: &str) -> OperatorOptions {
        OperatorOptions {
            name: name.into(),
            ip: world.address(),
            kubeconfig: None,
            manifests: Vec::new(),
            config: None,
            state_dir: None,
            extra: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Waits for its readiness: it serves, whether or not it leads.
    pub async fn ready(&mut self, within: Duration) -> Result<()> {
        let health = Client::new(self.health);
        self.process
            .ready(within, async || {
                health.get("/readyz").await?.expect(200).map(drop)
            })
            .await
    }

    /// Its Prometheus metrics.
    pub async fn metrics(&self) -> Result<String> {
        Ok(Client::new(self.health)
            .get("/metrics")
            .await?
            .expect(200)?
            .text())
    }

    /// One GET on the health address.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        Client::new(self.health).get(path).await
    }

    /// The roots that file mode writes for sidecars.
    pub fn roots(&self) -> Option<PathBuf> {
        Some(self.state_dir.as_ref()?.join("roots.pem"))
    }

    /// The join token that file mode writes for a pod.
    pub fn join_token(&self, namespace: &str, pod: &str) -> Option<PathBuf> {
        Some(
            self.state_dir
                .as_ref()?
                .join(format!("join/{namespace}.{pod}.token")),
        )
    }
}

impl OperatorOptions {
    /// Watches a cluster, with the rights of this kubeconfig.
    pub fn kubeconfig(mut self, path: &Path) -> Self {
        self.kubeconfig = Some(path.into());
        self
    }

    /// Watches a folder of manifests; may be repeated. Needs a state folder.
    pub fn manifests(mut self, dir: &Path) -> Self {
        self.manifests.push(dir.into());
        self
    }

    /// The SluiceConfig file.
    pub fn config(mut self, file: &Path) -> Self {
        self.config = Some(file.into());
        self
    }

    /// The state folder (mode 0700).
    pub fn state_dir(mut self, dir: &Path) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// The address of an operator that was killed, for its successor.
    pub fn ip(mut self, ip: Ipv4Addr) -> Self {
        self.ip = ip;
        self
    }

    /// Any other flag.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.extra.push(arg.into());
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts it. It is not waited for: see [`Operator::ready`].
    pub fn start(&self, world: &World) -> Result<Operator> {
        let Self {
            name,
            ip,
            kubeconfig,
            manifests,
            config,
            state_dir,
            extra,
            env,
        } = self;
        let [stream, health, webhook] =
            [8443, 8080, 9443].map(|port| SocketAddr::from((*ip, port)));
        let mut command = Command::new(binary("sluice-operator")?);
        command.args([
            "--listen",
            &stream.to_string(),
            "--health",
            &health.to_string(),
        ]);
        for dir in manifests {
            command.arg("--manifests").arg(dir);
        }
        if let Some(dir) = state_dir {
            command.arg("--state-dir").arg(dir);
        }
        if let Some(file) = config {
            command.arg("--config").arg(file);
        }
        // Never the kubeconfig of whoever runs the tests.
        command.env_remove("KUBECONFIG").env("HOME", world.dir());
        if let Some(path) = kubeconfig {
            command.env("KUBECONFIG", path).args([
                "--webhook",
                &webhook.to_string(),
                "--namespace",
                "sluice-system",
            ]);
        }
        command
            .args(extra)
            .envs(env.iter().map(|(name, value)| (name, value)));
        let process = Running::start(world, name, command)?;
        Ok(Operator {
            process,
            stream,
            health,
            webhook,
            state_dir: state_dir.clone(),
        })
    }
}
