//! The sidecar as a process, beside an application on the same address.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::app::PORT as APP_PORT;
use super::{OPERATOR_NAME, binary};
use crate::http::{Answer, Client};
use crate::process::Running;
use crate::world::World;

/// The port on which a pod's Service finds it.
const PORT: u16 = 8080;
const METRICS_PORT: u16 = 15_020;

/// How to start a sidecar; [`Sidecar::options`] has the defaults.
#[derive(Debug, Clone)]
pub struct SidecarOptions {
    program: String,
    name: String,
    ip: Ipv4Addr,
    inbound: Vec<(SocketAddr, SocketAddr)>,
    operator: Option<SocketAddr>,
    token_file: Option<PathBuf>,
    roots: Option<PathBuf>,
    state_dir: PathBuf,
    data_threads: usize,
    admin: SocketAddr,
    supervised: bool,
    edge: bool,
    before: Vec<String>,
    extra: Vec<String>,
    env: Vec<(String, String)>,
}

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// The sidecar as a process.
    pub process: Running,
    /// Its first inbound address.
    pub address: SocketAddr,
    /// The admin endpoint, on loopback.
    pub admin: SocketAddr,
    /// Prometheus metrics and readiness.
    pub metrics: SocketAddr,
    /// Where its last-known-good is.
    pub state_dir: PathBuf,
}

impl Sidecar {
    /// Options of a sidecar on `ip`: port 8080 goes to the application's 18080, two data threads, a state folder of
    /// its own, which a restart with the same options finds again.
    pub fn options(world: &World, name: &str, ip: Ipv4Addr) -> Result<SidecarOptions> {
        Ok(SidecarOptions {
            program: "sluice-sidecar".into(),
            name: name.into(),
            ip,
            inbound: vec![((ip, PORT).into(), (ip, APP_PORT).into())],
            operator: None,
            token_file: None,
            roots: None,
            state_dir: world.folder(&format!("state-{name}"))?,
            data_threads: 2,
            admin: (Ipv4Addr::LOCALHOST, world.port()).into(),
            supervised: false,
            edge: false,
            before: Vec::new(),
            extra: Vec::new(),
            env: Vec::new(),
        })
    }

    /// Waits until its listeners are bound and a snapshot is applied.
    pub async fn ready(&mut self, within: Duration) -> Result<()> {
        let metrics = Client::new(self.metrics);
        self.process
            .ready(within, async || {
                metrics.get("/readyz").await?.expect(200).map(drop)
            })
            .await
    }

    /// A client of its first inbound address.
    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// One GET on the admin endpoint.
    pub async fn admin(&self, path: &str) -> Result<Answer> {
        Client::new(self.admin).get(path).await
    }

    /// Its Prometheus metrics.
    pub async fn scrape(&self) -> Result<String> {
        Ok(Client::new(self.metrics)
            .get("/metrics")
            .await?
            .expect(200)?
            .text())
    }

    /// The JSON lines among its standard output: the access log.
    pub fn access_log(&self) -> Vec<Value> {
        self.process
            .stdout()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

impl SidecarOptions {
    /// Another build of it, by the name of its program.
    pub fn program(mut self, name: &str) -> Self {
        self.program = name.into();
        self
    }

    /// The operator to connect to.
    pub fn operator(mut self, address: SocketAddr) -> Self {
        self.operator = Some(address);
        self
    }

    /// The token that proves its pod.
    pub fn token_file(mut self, path: &Path) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// The roots in a file.
    pub fn roots(mut self, path: &Path) -> Self {
        self.roots = Some(path.into());
        self
    }

    /// The roots as the injecting webhook gives them.
    pub fn roots_pem(self, pem: &str) -> Self {
        self.env("SLUICE_ROOTS_PEM", pem)
    }

    /// One more listen address and the application it stands for.
    pub fn inbound(mut self, listen: SocketAddr, app: SocketAddr) -> Self {
        self.inbound.push((listen, app));
        self
    }

    /// No listen address: to be followed by [`Self::inbound`].
    pub fn no_inbound(mut self) -> Self {
        self.inbound.clear();
        self
    }

    /// The edge of a Gateway, whose token it has: its listeners' ports are opened at its address.
    pub fn edge(self) -> Self {
        let ip = self.ip.to_string();
        Self {
            edge: true,
            ..self.no_inbound().arg("--edge").arg(ip)
        }
    }

    /// Another state folder.
    pub fn state_dir(mut self, dir: &Path) -> Self {
        self.state_dir = dir.into();
        self
    }

    /// Another number of data threads.
    pub fn data_threads(mut self, n: usize) -> Self {
        self.data_threads = n;
        self
    }

    /// As process 1 of a pod's container: a parent that restarts its worker.
    pub fn supervised(self) -> Self {
        Self {
            supervised: true,
            ..self
        }
    }

    /// Has another program start it: its words, to which the sidecar's own line is added.
    pub fn started_by(mut self, words: &[&str]) -> Self {
        self.before = words.iter().map(ToString::to_string).collect();
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

    /// Starts it. It is not waited for: see [`Sidecar::ready`].
    pub fn start(&self, world: &World) -> Result<Sidecar> {
        let Self {
            program,
            name,
            ip,
            inbound,
            operator,
            token_file,
            roots,
            state_dir,
            data_threads,
            admin,
            supervised,
            edge,
            before,
            extra,
            env,
        } = self;
        let metrics = SocketAddr::from((*ip, METRICS_PORT));
        let program = binary(program)?;
        let mut command = match before.split_first() {
            None => Command::new(program),
            Some((first, more)) => {
                let mut command = Command::new(first);
                command.args(more).arg(program);
                command
            }
        };
        if *supervised {
            command.arg("supervise");
        }
        for (listen, app) in inbound {
            command.args(["--inbound", &format!("{listen}={app}")]);
        }
        if let Some(address) = operator {
            command.args([
                "--operator",
                &address.to_string(),
                "--operator-name",
                OPERATOR_NAME,
            ]);
        }
        if let Some(path) = token_file {
            command.arg("--token-file").arg(path);
        }
        if let Some(path) = roots {
            command.arg("--roots").arg(path);
        }
        command.arg("--state-dir").arg(state_dir);
        command.args(["--data-threads", &data_threads.to_string()]);
        command.args([
            "--admin",
            &admin.to_string(),
            "--metrics",
            &metrics.to_string(),
        ]);
        command
            .args(extra)
            .envs(env.iter().map(|(name, value)| (name, value)));
        let address = match inbound.first() {
            Some((listen, _)) => *listen,
            None if *edge => (*ip, 0).into(),
            None => anyhow::bail!("a sidecar needs an inbound address"),
        };
        let process = Running::start(world, name, command)?;
        Ok(Sidecar {
            process,
            address,
            admin: *admin,
            metrics,
            state_dir: state_dir.clone(),
        })
    }
}
