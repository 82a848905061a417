//! Wiring of cluster mode: the API server as source, judge of tokens, keeper of the CA and place of statuses; replicas
//! of which one leads.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use aws_lc_rs::rand;
use kube::Client;
use sluice_process::{Clock, Shutdown, Tasks};
use sluice_snapshot::hash::hex;
use sluice_translate::world::Pods;
use tokio::sync::{mpsc, watch};

use super::{Core, LeaderWork, Prepared, Process, bind, scaling};
use crate::{
    children::{Scalers, ca_secret::CaSecret, edge, hpa},
    cli::Args,
    identity::{
        CaMaterial,
        rotation::{self, CaStore},
        token::TokenReviews,
    },
    leader::{self, Candidacy, Elector, Leadership},
    peers::{self, Discovery, Following, Place},
    sources::{
        directory::{self, Directory, Places},
        kubernetes::{self, Kubernetes},
    },
    status::{ApiStatuses, Known, events::ApiEvents},
    stream::balance,
    webhook::{self, Hooks, Sidecar, ca_bundle},
};

/// Between two looks for the CA that the leader has yet to make.
const CA_INTERVAL: Duration = Duration::from_millis(500);
/// The stream's port in the operator's Service.
const STREAM_PORT: u16 = 8443;

/// Starts everything, and returns when it runs.
pub(super) async fn start(args: &Args, process: Process) -> anyhow::Result<()> {
    let tasks = &process.tasks.clone();
    let client = client().await?;
    let identity = identity()?;
    let (elector, leadership) = Elector::new(
        client.clone(),
        Candidacy {
            namespace: args.namespace.clone(),
            identity: identity.clone(),
            duration: Duration::from_secs(args.lease_seconds),
        },
    );
    let shutdown = tasks.shutdown().clone();
    tasks.spawn_critical("leader", elector.run(shutdown.clone()));

    let ca = Arc::new(CaSecret::new(
        client.clone(),
        &args.namespace,
        leadership.clone(),
    ));
    let material = authority_material(ca.as_ref(), &leadership, process.clock).await;
    let prepared = Prepared::new(args, process, material, Pods::FromPods).await?;
    let core = prepared.core();
    let (known, gateway_known) = (Arc::new(Known::default()), Arc::new(Known::default()));
    let metrics = kubernetes::Metrics::register(&core.registry)?;
    let statuses = kubernetes::Statuses {
        ours: known.clone(),
        gateway_api: gateway_known.clone(),
    };
    let source = Kubernetes::new(client.clone(), &core.engine, statuses, metrics);
    let config = config_source(args, core)?;
    let settings = prepared.settings().clone();
    let tokens = Arc::new(TokenReviews::new(client.clone()));
    let exchange = Exchange::new(args, &client, core, &identity, tasks.shutdown())?;
    let core = prepared.start(
        tokens,
        ca,
        {
            let leadership = leadership.clone();
            move || leadership.is_held()
        },
        Some(exchange.service.clone()),
    )?;
    source.start(tasks);
    let informed = exchange.start(tasks, &leadership);
    if let Some(config) = config {
        tasks.spawn_critical("config", config.run(shutdown.clone()));
    }
    if let Some(address) = args.webhook {
        let listener = bind(address, "--webhook").await?;
        let hooks = Hooks::new(
            core.engine.clone(),
            settings,
            sidecar(args),
            core.authority.roots(),
            webhook::Metrics::register(&core.registry)?,
        );
        let (authority, shutdown) = (core.authority.clone(), shutdown.clone());
        tasks.spawn_critical("webhooks", async move {
            webhook::serve(listener, &authority, webhook::routes(hooks), shutdown).await
        });
        let keep = ca_bundle::keep(
            client.clone(),
            core.authority.roots(),
            args.sidecar_image.clone(),
            leadership.clone(),
            tasks.shutdown().clone(),
        );
        tasks.spawn_critical("webhook configurations", keep);
    }
    // From here on: writes that need the whole table, or wait for nothing better.
    let leadership = leadership.once(informed);
    let scalers = Arc::new(Scalers::of_cluster());
    let wiring = hpa::Wiring {
        client: client.clone(),
        engine: core.engine.clone(),
        leadership: leadership.clone(),
        scalers: scalers.clone(),
        metrics_api: scaling::start(args, &client, &core, &leadership).await?,
        clock: core.clock,
    };
    let hpas = hpa::Keeper::new(wiring, &core.registry)?;
    tasks.spawn_critical("HorizontalPodAutoscalers", hpas.run(shutdown.clone()));
    let edges = Arc::new(edge::Edges::of_cluster());
    let wiring = edge::Wiring {
        client: client.clone(),
        engine: core.engine.clone(),
        leadership: leadership.clone(),
        edges: edges.clone(),
        sidecar: sidecar(args),
        roots: core.authority.roots(),
    };
    let keeper = edge::Keeper::new(wiring, &core.registry)?;
    tasks.spawn_critical("edges", keeper.run(shutdown.clone()));
    let follow = edge::follow(client.clone(), edges.clone(), shutdown);
    tasks.spawn_critical("addresses of edges", follow);
    let leader = LeaderWork {
        statuses: Arc::new(ApiStatuses::new(client.clone(), known, leadership.clone())),
        gateway_statuses: Arc::new(ApiStatuses::new(
            client.clone(),
            gateway_known,
            leadership.clone(),
        )),
        announcer: Arc::new(ApiEvents::new(client, &identity, leadership.clone())),
        scalers,
        edges,
        leadership,
    };
    leader.start(&core)
}

/// The exchange between replicas, before it runs.
struct Exchange {
    service: peers::Service,
    discovery: Discovery,
    complete: watch::Receiver<bool>,
    heard: mpsc::Receiver<String>,
}

impl Exchange {
    /// `replica` names this life of this replica.
    fn new(
        args: &Args,
        client: &Client,
        core: &Core,
        replica: &str,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let metrics = peers::Metrics::register(&core.registry)?;
        let place = Place {
            namespace: args.namespace.clone(),
            own: std::env::var("POD_NAME").ok(),
            port: args.listen.port(),
        };
        let following = Following {
            replica: replica.to_owned(),
            table: core.table.clone(),
            authority: core.authority.clone(),
            clock: core.clock,
            metrics: metrics.clone(),
        };
        let (discovery, complete, heard) = Discovery::new(client.clone(), place, following);
        let service = peers::Service {
            replica: replica.to_owned(),
            table: core.table.clone(),
            metrics,
            shutdown: shutdown.clone(),
        };
        Ok(Self {
            service,
            discovery,
            complete,
            heard,
        })
    }

    /// Runs it. The receiver tells when this replica leads and knows every session.
    fn start(self, tasks: &Tasks, leadership: &Leadership) -> watch::Receiver<bool> {
        let Self {
            service,
            discovery,
            complete,
            heard,
        } = self;
        let shutdown = tasks.shutdown();
        tasks.spawn_critical("replicas", discovery.run(heard, shutdown.clone()));
        let even = balance::keep(service.table, balance::Pace::default(), shutdown.clone());
        tasks.spawn_critical("balance", even);
        let (informed, is_informed) = watch::channel(false);
        let inform = leader::inform(leadership.clone(), complete, informed, shutdown.clone());
        tasks.spawn_critical("completeness", inform);
        is_informed
    }
}

/// Without client-side limits: the API server has its own.
async fn client() -> anyhow::Result<Client> {
    let config = kube::Config::infer().await.context(
        "no cluster: neither KUBECONFIG nor a service account is there; without a cluster give --manifests DIR and --state-dir DIR",
    )?;
    Client::try_from(config).context("cannot make a client of the API server")
}

/// This replica's name: the pod's, and a part that differs with each start.
fn identity() -> anyhow::Result<String> {
    let host =
        || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
    let name = std::env::var("POD_NAME")
        .ok()
        .filter(|name| !name.is_empty());
    let name = name
        .or_else(|| host().ok())
        .unwrap_or_else(|| "operator".into());
    let mut start = [0; 4];
    rand::fill(&mut start).map_err(|_| anyhow::anyhow!("no randomness"))?;
    Ok(format!("{name}_{}", hex(&start)))
}

/// The CA: made by the leader, waited for by the others. An API server that does not answer yet is waited for, too.
async fn authority_material(ca: &dyn CaStore, leadership: &Leadership, clock: Clock) -> CaMaterial {
    loop {
        match rotation::load_or_make(ca, leadership.is_held(), clock.wall_s()).await {
            Ok(Some(material)) => return material,
            Ok(None) => tracing::info!("waits for the leader to make the CA"),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "CA"),
        }
        tokio::time::sleep(CA_INTERVAL).await;
    }
}

/// SluiceConfig is a file in a cluster, too.
fn config_source(args: &Args, core: &Core) -> anyhow::Result<Option<Directory>> {
    let Some(file) = &args.config else {
        return Ok(None);
    };
    let places = Places {
        directories: Vec::new(),
        config: Some(file.clone()),
    };
    let metrics = directory::Metrics::register(&core.registry)?;
    Ok(Some(Directory::new(
        places,
        core.engine.inlet("config"),
        metrics,
    )))
}

fn sidecar(args: &Args) -> Sidecar {
    let operator = args.sidecar_operator.clone();
    Sidecar {
        image: args.sidecar_image.clone(),
        operator: operator.unwrap_or_else(|| format!("{}:{STREAM_PORT}", args.operator_name)),
        operator_name: args.operator_name.clone(),
    }
}
