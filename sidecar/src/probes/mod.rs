//! The kubelet's probes and HTTP hooks, rewritten at injection to `/probe/<container>/<kind>` of the sidecar's own port:
//! captured like any other connection they would be refused by the pod's policies, or, a TCP probe, always succeed. Here
//! the original one is performed, against the pod's own address.
//!
//! That port is open to the network. So a request chooses an entry of a table that the injector wrote and nothing else,
//! hears a status and nothing else, and joins one that runs already: whoever asks often has the application asked no more
//! often than one probe after the other.

mod grpc;
mod http_get;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared as Joined, WeakShared},
};
use http::{HeaderMap, HeaderValue, header::USER_AGENT};
use sluice_process::Page;
use tokio::net::TcpStream;

use crate::{capture::OWN_PORTS, cli::ServeArgs, shared::Shared};
pub use table::TableError;
use table::{Action, Entry};

/// The environment variable with the table.
pub const VARIABLE: &str = "SLUICE_PROBES";
/// The path before `<container>/<kind>`.
pub const PREFIX: &str = "/probe/";
/// The longest user agent that is passed on.
const MAX_AGENT: usize = 64;
/// Whom the application sees where the kubelet did not ask.
const AGENT: HeaderValue = HeaderValue::from_static("kube-probe/sluice");

/// Why a probe did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Failure {
    /// The application answered so.
    #[error("it answered {0}")]
    Status(u16),
    /// No connection, or it broke off.
    #[error("{0}")]
    Unreachable(String),
    /// A gRPC health service said something else than `SERVING`.
    #[error("its gRPC health is {0}")]
    NotServing(String),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
}

impl Failure {
    /// What the kubelet shows in its Event.
    const fn status(&self) -> u16 {
        match self {
            Self::Status(status) => *status,
            Self::Unreachable(_) | Self::NotServing(_) => 503,
            Self::Timeout => 504,
        }
    }
}

/// The pod's probes.
#[derive(Clone)]
pub struct Probes(Arc<BTreeMap<String, Slot>>);

struct Slot {
    probe: Arc<Probe>,
    running: Mutex<Option<WeakShared<BoxFuture<'static, u16>>>>,
}

struct Probe {
    name: String,
    entry: Entry,
    pod: IpAddr,
    ours: BTreeSet<u16>,
    shared: Arc<Shared>,
}

impl Probes {
    /// Reads the table of the environment; without one there are no probes.
    pub fn from_environment(args: &ServeArgs, shared: &Arc<Shared>) -> Result<Self, TableError> {
        match std::env::var(VARIABLE) {
            Ok(text) => Self::new(&text, args, shared),
            Err(_) => Ok(Self(Arc::default())),
        }
    }

    fn new(text: &str, args: &ServeArgs, shared: &Arc<Shared>) -> Result<Self, TableError> {
        let ours = own_ports(args);
        let table = table::parse(text, &ours)?;
        let pod = match (args.pod_ips.first(), table.is_empty()) {
            (Some(pod), _) => *pod,
            (None, true) => return Ok(Self(Arc::default())),
            (None, false) => return Err(TableError::NoPodAddress),
        };
        let slot = |(name, entry): (String, Entry)| {
            let probe = Arc::new(Probe {
                name: name.clone(),
                entry,
                pod,
                ours: ours.clone(),
                shared: Arc::clone(shared),
            });
            let running = Mutex::default();
            (name, Slot { probe, running })
        };
        Ok(Self(Arc::new(table.into_iter().map(slot).collect())))
    }

    /// Performs the probe called `name`: 404 where there is none.
    pub fn answer(&self, name: &str, headers: &HeaderMap) -> BoxFuture<'static, Page> {
        let running = self.0.get(name).map(|slot| slot.join(agent(headers)));
        async move {
            match running {
                Some(running) => Page::text(running.await, ""),
                None => Page::text(404, ""),
            }
        }
        .boxed()
    }
}

impl Slot {
    /// The probe that runs, or a new one. It ends when nobody waits for it any more.
    fn join(&self, agent: HeaderValue) -> Joined<BoxFuture<'static, u16>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let before = running.as_ref().and_then(WeakShared::upgrade);
        if let Some(before) = before.filter(|before| before.peek().is_none()) {
            return before;
        }
        let next = Arc::clone(&self.probe).status(agent).boxed().shared();
        *running = next.downgrade();
        next
    }
}

impl Probe {
    async fn status(self: Arc<Self>, agent: HeaderValue) -> u16 {
        let performed = tokio::time::timeout(self.entry.within, self.perform(agent)).await;
        match performed.unwrap_or(Err(Failure::Timeout)) {
            Ok(()) => 200,
            Err(failure) => {
                tracing::debug!(probe = self.name, %failure, "a probe fails");
                failure.status()
            }
        }
    }

    async fn perform(&self, agent: HeaderValue) -> Result<(), Failure> {
        match &self.entry.action {
            Action::HttpGet(get) => http_get::perform(self, get, agent).await,
            Action::TcpSocket { port } => self.connect(*port).await.map(drop),
            Action::Grpc { port, service } => {
                grpc::perform(self.connect(*port).await?, service, &agent).await
            }
        }
    }

    /// A connection to a port of the application.
    async fn connect(&self, port: u16) -> Result<TcpStream, Failure> {
        if self.ours.contains(&port) {
            return Err(Failure::Unreachable(format!(
                "port {port} is the sidecar's"
            )));
        }
        let app = SocketAddr::new(self.pod, port);
        let stream = TcpStream::connect(app)
            .await
            .map_err(|error| Failure::Unreachable(format!("{app}: {error}")))?;
        // What a probe finds is what the sidecar waits for at its end.
        self.shared.apps.reached(app);
        Ok(stream)
    }
}

/// The ports on which the sidecar itself listens.
fn own_ports(args: &ServeArgs) -> BTreeSet<u16> {
    let inbound = args.inbound.iter().map(|inbound| inbound.listen);
    let addresses = inbound
        .chain(args.capture)
        .chain([args.admin, args.metrics]);
    OWN_PORTS
        .into_iter()
        .chain(addresses.map(|address| address.port()))
        .collect()
}

/// The kubelet's own name, and no other text of whoever asks.
fn agent(headers: &HeaderMap) -> HeaderValue {
    let is_kubelets = |agent: &&HeaderValue| {
        let text = agent.to_str().unwrap_or_default();
        let version = text
            .strip_prefix("kube-probe/")
            .or_else(|| text.strip_prefix("kube-lifecycle/"));
        text.len() <= MAX_AGENT
            && version.is_some_and(|version| {
                version
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".+-".contains(&byte))
            })
    };
    headers
        .get(USER_AGENT)
        .filter(is_kubelets)
        .cloned()
        .unwrap_or(AGENT)
}

/// How long a probe may take that the kubelet waits for this long: its answer still has its way to go.
fn within(timeout: Duration) -> Duration {
    timeout - (timeout / 10).min(Duration::from_millis(500))
}

#[cfg(test)]
mod tests;
