//! Wiring: which parts run in which mode, and how they end. It decides nothing else.
//!
//! `Process` is what every process has, `Core` what both modes share; a mode adds its sources, its tokens, its CA store
//! and its sinks.

mod cluster;
mod scaling;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use aws_lc_rs::hmac;
use prometheus::Registry;
use sluice_process::{Clock, Condition, Pages, Readiness, Shutdown, Tasks, build, log};
use sluice_translate::world::{Pods, Settings};
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;

use crate::{
    children::{Scalers, edge::Edges},
    cli::{self, Args, Command},
    engine,
    identity::{
        Authority, CaMaterial, Tokens,
        files::CaFiles,
        join::JoinTokens,
        rotation::{self, CaStore},
    },
    leader::Leadership,
    moves, peers,
    sinks::StatusFiles,
    sources::directory::{self, Directory, Places},
    state_dir::StateDir,
    status::{
        self, FileStatuses, Statuses,
        events::{Announcer, LoggedEvents},
    },
    stream::{self, Published, SessionTable},
};

/// How long tasks may take to end: streams are told to go elsewhere and answer at once.
const GRACE: Duration = Duration::from_secs(10);

/// The whole process.
pub fn main(args: Args) -> anyhow::Result<()> {
    if let Some(Command::Completion { shell }) = args.command {
        cli::complete(shell);
        return Ok(());
    }
    args.check()?;
    log::start(args.log_format, "info")?;
    // The one provider that is compiled in; a second one would make rustls panic at its first use.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(run(args))
}

/// Runs until a signal, or until a critical task ends.
async fn run(args: Args) -> anyhow::Result<()> {
    let process = Process::start(&args).await?;
    let tasks = process.tasks.clone();
    tracing::info!(build = build::describe(), "starting");
    match args.manifests.is_empty() {
        // A signal ends the wait for a leader to make the CA, too.
        true => tokio::select! {
            started = cluster::start(&args, process) => started?,
            () = tasks.shutdown().begun() => {}
        },
        false => start_files(&args, process).await?,
    }
    tasks.finish(GRACE).await
}

/// What every process has: signals, health, metrics. It answers while there is no CA yet.
struct Process {
    tasks: Tasks,
    registry: Registry,
    readiness: Readiness,
    clock: Clock,
    /// The stream is served.
    listening: Condition,
    /// The first state is published.
    world: Condition,
}

impl Process {
    async fn start(args: &Args) -> anyhow::Result<Self> {
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        let registry = Registry::new();
        build::register(&registry, "sluice_operator")?;
        let readiness = Readiness::default();
        let process = Self {
            tasks: Tasks::new(shutdown),
            registry,
            clock: Clock::start(),
            listening: readiness.condition("listeners"),
            world: readiness.condition("world"),
            readiness,
        };
        process.serve_health(args).await?;
        Ok(process)
    }

    /// Health and metrics answer to the very end, so that `/readyz` can say "shutting down".
    async fn serve_health(&self, args: &Args) -> anyhow::Result<()> {
        let listener = bind(args.health, "--health").await?;
        let pages = Pages::default()
            .health(self.readiness.clone())
            .metrics(self.registry.clone());
        let running = self.readiness.condition("running");
        running.met();
        let shutdown = self.tasks.shutdown().clone();
        tokio::spawn(async move {
            shutdown.begun().await;
            running.unmet("shutting down");
        });
        // Ends with the process.
        tokio::spawn(pages.serve(listener, CancellationToken::new()));
        Ok(())
    }
}

/// What both modes share, running.
struct Core {
    tasks: Tasks,
    registry: Registry,
    clock: Clock,
    /// The CA in force.
    authority: Arc<Authority>,
    /// What every group must hold.
    published: Arc<Published>,
    /// Who holds what.
    table: Arc<SessionTable>,
    /// Access to translation.
    engine: engine::Handle,
}

/// A core whose engine does not run yet, so that sources can be added.
struct Prepared {
    core: Core,
    settings: Settings,
    actor: engine::Actor,
    listener: TcpListener,
    listening: Condition,
}

impl Prepared {
    /// Binds the stream's listener and makes what both modes share. `pods` says where pods come from.
    async fn new(
        args: &Args,
        process: Process,
        material: CaMaterial,
        pods: Pods,
    ) -> anyhow::Result<Self> {
        let Process {
            tasks,
            registry,
            readiness: _,
            clock,
            listening,
            world,
        } = process;
        let listener = bind(args.listen, "--listen").await?;
        let settings = Settings {
            hash_key: hmac::Key::new(hmac::HMAC_SHA256, material.hash_key.expose()),
            operator_namespace: args.namespace.clone(),
            pods,
        };
        let authority = Arc::new(Authority::new(
            material,
            &args.operator_name,
            engine::DEFAULT_TRUST_DOMAIN,
            clock.wall_s(),
        )?);
        let published = Arc::new(Published::default());
        let table = SessionTable::new();
        let (engine, actor) = engine::new(engine::Wiring {
            settings: settings.clone(),
            published: published.clone(),
            table: table.clone(),
            authority: authority.clone(),
            ready: world,
            metrics: engine::Metrics::register(&registry)?,
            verify: args.verify_incremental,
            shutdown: tasks.shutdown().clone(),
        });
        Ok(Self {
            core: Core {
                tasks,
                registry,
                clock,
                authority,
                published,
                table,
                engine,
            },
            settings,
            actor,
            listener,
            listening,
        })
    }

    /// What holds for the life of the process.
    fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is made so far; sources take their inlets from it.
    fn core(&self) -> &Core {
        &self.core
    }

    /// Starts the engine, the stream, and the care of the CA. `leads` says whether this replica writes at that moment;
    /// `peers` is what other replicas are told.
    fn start(
        self,
        tokens: Arc<dyn Tokens>,
        ca_store: Arc<dyn CaStore>,
        leads: impl Fn() -> bool + Send + 'static,
        peers: Option<peers::Service>,
    ) -> anyhow::Result<Core> {
        let Self {
            core,
            settings: _,
            actor,
            listener,
            listening,
        } = self;
        let shutdown = core.tasks.shutdown().clone();
        let context = stream::Context {
            published: core.published.clone(),
            table: core.table.clone(),
            authority: core.authority.clone(),
            tokens,
            metrics: stream::metrics::Metrics::register(&core.registry)?,
            clock: core.clock,
            shutdown: shutdown.clone(),
        };
        core.tasks.spawn_critical("engine", actor.run());
        core.tasks
            .spawn_critical("stream", stream::serve(Arc::new(context), listener, peers));
        core.tasks.spawn_critical(
            "certificates",
            rotation::tend(
                core.authority.clone(),
                ca_store,
                leads,
                core.clock,
                shutdown,
            ),
        );
        core.tasks.spawn_critical(
            "fleet",
            status::fleet::count(
                core.engine.clone(),
                core.table.clone(),
                status::fleet::Metrics::register(&core.registry)?,
                core.tasks.shutdown().clone(),
            ),
        );
        listening.met();
        Ok(core)
    }
}

/// File mode: directories of manifests, join tokens, the state directory.
async fn start_files(args: &Args, process: Process) -> anyhow::Result<()> {
    let state_dir = args
        .state_dir
        .as_deref()
        .context("--state-dir is missing")?;
    let state = Arc::new(StateDir::open(state_dir)?);
    let ca_files = Arc::new(CaFiles::new(state.clone()));
    let material = rotation::load_or_make(ca_files.as_ref(), true, process.clock.wall_s())
        .await?
        .context("the state directory lost the CA while it was made")?;
    let tasks = process.tasks.clone();
    let prepared = Prepared::new(args, process, material, Pods::FromSlices).await?;

    let written = Arc::new(Notify::new());
    let core = prepared.core();
    let source = Directory::new(
        Places {
            directories: args.manifests.clone(),
            config: args.config.clone(),
        },
        core.engine.inlet("directory"),
        directory::Metrics::register(&core.registry)?,
    )
    .with_state(state.clone(), written.clone())?;
    let tokens = Arc::new(JoinTokens::new(state.clone()));
    tasks.spawn_critical(
        "join tokens",
        keep_join_tokens(
            tokens.clone(),
            core.published.clone(),
            tasks.shutdown().clone(),
        ),
    );
    let shutdown = tasks.shutdown().clone();
    let core = prepared.start(tokens, ca_files, || true, None)?;
    tasks.spawn_critical("directory", source.run(shutdown));
    let statuses = || {
        let sink = StatusFiles::new(state.clone(), written.clone());
        Arc::new(FileStatuses::new(state.clone(), sink))
    };
    let leader = LeaderWork {
        statuses: statuses(),
        gateway_statuses: statuses(),
        announcer: Arc::new(LoggedEvents),
        scalers: Arc::new(Scalers::of_files()),
        edges: Arc::new(Edges::of_files()),
        leadership: Leadership::alone(),
    };
    leader.start(&core)
}

/// What only the leader does, in both modes; in file mode there is no other.
struct LeaderWork {
    statuses: Arc<dyn Statuses>,
    /// Those of the Gateway API's kinds.
    gateway_statuses: Arc<dyn Statuses>,
    announcer: Arc<dyn Announcer>,
    scalers: Arc<Scalers>,
    edges: Arc<Edges>,
    leadership: Leadership,
}

impl LeaderWork {
    /// Statuses, and moves of shard slots.
    fn start(self, core: &Core) -> anyhow::Result<()> {
        let Self {
            statuses,
            gateway_statuses,
            announcer,
            scalers,
            edges,
            leadership,
        } = self;
        let shutdown = core.tasks.shutdown().clone();
        let driver = moves::Driver::new(
            core.engine.clone(),
            core.table.clone(),
            statuses.clone(),
            leadership.clone(),
            moves::Metrics::register(&core.registry)?,
        );
        core.tasks
            .spawn_critical("moves", driver.run(shutdown.clone()));
        let status_metrics = status::Metrics::register(&core.registry)?;
        let keeper = status::gateway_api::Keeper::new(status::gateway_api::Wiring {
            engine: core.engine.clone(),
            table: core.table.clone(),
            statuses: gateway_statuses,
            edges,
            leadership: leadership.clone(),
            metrics: status_metrics.clone(),
        });
        core.tasks
            .spawn_critical("status of the Gateway API", keeper.run(shutdown.clone()));
        let keeper = status::Keeper::new(status::keeper::Wiring {
            engine: core.engine.clone(),
            table: core.table.clone(),
            statuses,
            announcer,
            scalers,
            leadership,
            metrics: status_metrics,
        });
        core.tasks.spawn_critical("status", keeper.run(shutdown));
        Ok(())
    }
}

/// Every pod has its join token, from the moment it is published.
async fn keep_join_tokens(
    tokens: Arc<JoinTokens>,
    published: Arc<Published>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut changes = published.pod_changes();
    loop {
        changes.borrow_and_update();
        let pods = published.pods();
        tokens.keep(
            pods.iter()
                .map(|(_, pod)| (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str())),
        )?;
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            changed = changes.changed() => changed.context("nothing publishes pods any more")?,
        }
    }
}

async fn bind(address: std::net::SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {flag} {address}"))
}
