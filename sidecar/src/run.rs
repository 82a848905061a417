//! Wiring: arguments to sockets, threads and tasks, and their end. The main thread is the control thread.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sluice_process::{Pages, Shutdown, build, log::Format};
use tokio::{
    net::TcpListener,
    task::{LocalSet, spawn_local},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    capture::{origin::Origins, step},
    cli::{self, AccessLog as LogTo, Cli, ControlArgs, DrainArgs, LogFormat, ServeArgs},
    control::{self, RootsSource, Settings},
    data::{self, ConnectionLimits, Drained, Plan},
    drain,
    listeners::Listeners,
    log::{AccessLog, Writer},
    metrics::Exporter,
    parent::{self, Parent},
    probes::{self, Probes},
    shared::{Inbox, Shared, SharedLimits},
    store, supervise,
};

/// The environment variable with the first roots, where no file is named.
const ROOTS_VARIABLE: &str = "SLUICE_ROOTS_PEM";
/// How long requests wait for the last-known-good to be in force.
const RESTORE: Duration = Duration::from_secs(2);
/// At the end: how long no request may have come, where the application stays.
const QUIET: Duration = Duration::from_millis(500);
/// Requests were cut off at the end of the drain.
const CUT_OFF: u8 = 3;

/// Reads the command line on a thread of its own: what its deep calls take of a stack would stay with process 1 for ever.
fn command_line() -> Cli {
    let parsed = std::thread::spawn(Cli::parse).join();
    parsed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    match command_line() {
        Cli::Completion(shell) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut cli::command(), "sluice-sidecar", &mut script);
            // Whoever reads only the beginning closes the pipe.
            let _ = io::stdout().write_all(&script);
            ExitCode::SUCCESS
        }
        Cli::Serve(args) => logged(args.log_format, || serve(&args)),
        Cli::Supervise(line) => logged(line.args.log_format, || parent::supervise(&line)),
        Cli::Drain(DrainArgs { admin, wait }) => match drain::ask(admin) {
            Ok(()) => {
                std::thread::sleep(wait);
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("sluice-sidecar: {error}");
                ExitCode::FAILURE
            }
        },
        Cli::Capture(settings) => match step::run(&settings, io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("sluice-sidecar: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Runs with the process log; what goes wrong is its last line.
fn logged(format: LogFormat, run: impl FnOnce() -> anyhow::Result<ExitCode>) -> ExitCode {
    let format = match format {
        LogFormat::Json => Format::Json,
        LogFormat::Text => Format::Text,
    };
    if let Err(error) = sluice_process::log::start(format, "info") {
        eprintln!("sluice-sidecar: {error}");
        return ExitCode::FAILURE;
    }
    run().unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}

fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    Ok(match start(args)? {
        Drained::Whole => ExitCode::SUCCESS,
        Drained::CutOff => {
            tracing::warn!(
                "requests were still running at the end of --drain-timeout and were cut off"
            );
            ExitCode::from(CUT_OFF)
        }
    })
}

fn start(args: &ServeArgs) -> anyhow::Result<Drained> {
    // First of all: they change how this process lives, and its environment while there is one thread.
    let parent = Parent::meet()?;
    let listeners = Listeners::inherit_or_bind(args)?;
    // Before any TLS: with two providers in a build, rustls would not choose.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("the TLS provider was installed twice"))?;
    let settings = settings(&args.control)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    LocalSet::new().block_on(&runtime, run(args, settings, parent, listeners))
}

fn settings(args: &ControlArgs) -> anyhow::Result<Settings> {
    let ControlArgs {
        operator,
        operator_name,
        token_file,
        roots,
        state_dir,
    } = args.clone();
    let roots = match (roots, std::env::var(ROOTS_VARIABLE)) {
        (Some(file), _) => RootsSource::File(file),
        (None, Ok(pem)) => RootsSource::Pem(pem),
        (None, Err(_)) => {
            return Err(anyhow!(
                "neither --roots nor {ROOTS_VARIABLE} is given: the operator could not be recognised"
            ));
        }
    };
    Ok(Settings {
        operator,
        operator_name,
        token_file,
        roots,
        state_dir,
        build: control::build(),
    })
}

/// Runs until shutdown is asked for, or a data thread or the control side gives up.
async fn run(
    args: &ServeArgs,
    settings: Settings,
    parent: Option<Parent>,
    listeners: Listeners,
) -> anyhow::Result<Drained> {
    let Listeners { pages, threads } = listeners;
    let (shared, inbox) = Shared::new(SharedLimits::default());
    if args.uncounted {
        shared.metrics.count_nothing();
    }
    let shutdown = shutdown(args, &shared)?;
    if parent.is_some_and(|parent| parent.draining) {
        shutdown.drain("the worker before this one did");
    }
    let listening = shared.readiness.condition("listeners");
    let (log, writer) = access_log(args.access_log)?;
    let registry = registry(&shared, &log, parent)?;
    let probes = Probes::from_environment(args, &shared)?;
    let pages = TcpListener::from_std(pages).context("a bound listener cannot be served")?;
    let debug = bind(args.admin).await?;
    let mut control = Box::pin(control(&shared, inbox, settings, &registry)?);
    tokio::select! {
        failed = &mut control => return Err(failed),
        // Whoever waited in the queue while this process was restarted must not meet an empty configuration.
        _ = tokio::time::timeout(RESTORE, shared.restored()) => {}
    }
    let plan = plan(args, log, shutdown.clone());
    let mut threads = data::start(&shared, &plan, threads)?;
    drop(plan);
    listening.met();
    tracing::info!(listening = ?threads.listening, capture = ?args.capture, build = build::describe(), "serving");
    if args.inbound.is_empty() && args.capture.is_none() && args.edge.is_none() {
        tracing::warn!("no --inbound is given: configuration is held, but no traffic passes here");
    }
    let (announced, says) = (shutdown.announced(), listening.clone());
    spawn_local(async move {
        announced.await;
        says.unmet("draining");
        if let Some(parent) = parent {
            parent.tell_draining();
        }
    });

    let pages_of = Pages::default()
        .health(shared.readiness.clone())
        .metrics(registry.clone())
        .under(probes::PREFIX, move |name, headers| {
            probes.answer(name, headers)
        });
    // Answered to the very end, so that /readyz can say that this pod drains.
    let answered = CancellationToken::new();
    let pages = spawn_local(pages_of.serve(pages, answered.clone()));
    spawn_local(admin::serve(debug, Arc::clone(&shared), shutdown.clone()));

    let failed = tokio::select! {
        biased;
        () = shutdown.begun() => None,
        failed = &mut control => Some(failed),
        () = threads.one_ended() => Some(anyhow!("a data thread ended; the log has its panic")),
    };
    listening.unmet("draining");
    shutdown.begin("the sidecar ends");
    threads.all_ended().await;
    let drained = threads
        .join()
        .ok_or_else(|| anyhow!("a data thread panicked"));
    // The registry's exporter has an end of the log too, and the pages have the registry.
    answered.cancel();
    let _ = pages.await;
    drop((registry, control));
    if let Some(writer) = writer {
        writer.finish(Duration::from_secs(1));
    }
    failed.map_or(drained, Err)
}

/// SIGTERM is the end, or, beside an application, the announcement of it: the end is then that nobody needs this sidecar.
fn shutdown(args: &ServeArgs, shared: &Arc<Shared>) -> anyhow::Result<Shutdown> {
    let asked = CancellationToken::new();
    let (wait, ask) = (args.waits_for_app(), asked.clone());
    let first = move |shutdown: &Shutdown, signal: &str| {
        if wait {
            shutdown.drain(signal);
            ask.cancel();
        } else {
            shutdown.begin(signal);
        }
    };
    let shutdown = Shutdown::on_first_signal(first).context("signals cannot be listened to")?;
    let (ends, shared, longest) = (shutdown.clone(), Arc::clone(shared), args.drain_timeout());
    for inbound in &args.inbound {
        shared.apps.reached(inbound.app);
    }
    spawn_local(async move {
        asked.cancelled().await;
        match tokio::time::timeout(longest, drain::unneeded(&shared)).await {
            Ok(()) => ends.begin("nothing is in flight and the application is gone"),
            Err(_) => ends.begin("--drain-timeout has passed"),
        }
    });
    Ok(shutdown)
}

fn plan(args: &ServeArgs, log: AccessLog, shutdown: Shutdown) -> Plan {
    // Beside an application that is gone there is nothing to wait for, and the time was spent before.
    let (quiet, drain_timeout) = if args.waits_for_app() {
        (Duration::ZERO, Duration::from_millis(100))
    } else {
        (QUIET, args.drain_timeout())
    };
    let listening = [args.admin, args.metrics]
        .into_iter()
        .chain(args.capture)
        .chain(args.hop)
        .chain(args.inbound.iter().map(|inbound| inbound.listen));
    let origins = || {
        Origins::new(
            args.pod_ips.clone(),
            listening.map(|address| address.port()),
        )
    };
    Plan {
        inbound: args.inbound.clone(),
        pod_ips: args.pod_ips.clone(),
        capture: args.capture.map(|_| origins()),
        edge: args.edge,
        limits: connection_limits(args),
        quiet,
        drain_timeout,
        log,
        shutdown,
    }
}

/// The bounds of connections that this process can keep. It may have as many files open as the system lets it ask for.
fn connection_limits(args: &ServeArgs) -> ConnectionLimits {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // Refused: then what there is.
    let _ = setrlimit(Resource::Nofile, raised);
    let descriptors = getrlimit(Resource::Nofile).current.or(current);
    let asked = args.connections.limits();
    let limits = asked.within_descriptors(descriptors.unwrap_or(u64::MAX), args.data_threads);
    if limits.max < asked.max {
        tracing::warn!(
            max_connections = limits.max,
            asked = asked.max,
            descriptors,
            "fewer connections than --max-connections: the limit of open files (RLIMIT_NOFILE) allows no more"
        );
    }
    limits
}

/// The control side and the store task. Either is started again when it panics; the future ends with what cannot be
/// mended.
fn control(
    shared: &Arc<Shared>,
    inbox: Inbox,
    settings: Settings,
    registry: &Registry,
) -> anyhow::Result<impl Future<Output = anyhow::Error> + use<>> {
    let Inbox {
        settled,
        store_calls,
    } = inbox;
    let restarts = IntCounterVec::new(
        Opts::new(
            "sluice_control_restarts_total",
            "Tasks of the control thread that panicked and were started again.",
        ),
        &["task"],
    )?;
    registry.register(Box::new(restarts.clone()))?;
    let metrics = store::Metrics::register(registry)?;
    let (of_stores, counter) = (Arc::clone(shared), restarts.with_label_values(&["stores"]));
    spawn_local(async move {
        let start = |calls| store::serve(Arc::clone(&of_stores), calls, metrics.clone());
        supervise::keep("stores", counter, store_calls, start).await;
    });
    let metrics = Arc::new(control::Metrics::register(registry)?);
    let (shared, counter) = (Arc::clone(shared), restarts.with_label_values(&["stream"]));
    Ok(async move {
        let plane = || Arc::clone(&shared) as Arc<dyn control::DataPlane>;
        let start =
            |settled| control::run(settings.clone(), plane(), Arc::clone(&metrics), settled);
        match supervise::keep("stream", counter, settled, start).await {
            Ok(()) => anyhow!("the control side ended"),
            Err(error) => error.into(),
        }
    })
}

fn registry(
    shared: &Arc<Shared>,
    log: &AccessLog,
    parent: Option<Parent>,
) -> anyhow::Result<Registry> {
    let registry = Registry::new();
    let restarts = IntCounter::new(
        "sluice_worker_restarts_total",
        "Workers that ended unasked and were started again by process 1.",
    )?;
    restarts.inc_by(parent.map_or(0, |parent| parent.restarts));
    registry.register(Box::new(restarts))?;
    build::register(&registry, "sluice")?;
    registry.register(Box::new(Exporter::new(Arc::clone(shared), log.clone())?))?;
    Ok(registry)
}

fn access_log(to: LogTo) -> anyhow::Result<(AccessLog, Option<Writer>)> {
    match to {
        LogTo::Off => Ok((AccessLog::off(), None)),
        LogTo::Stdout => {
            let (log, writer) =
                AccessLog::start(io::stdout()).context("no thread for the access log")?;
            Ok((log, Some(writer)))
        }
    }
}

async fn bind(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; is another sidecar there?"))
}
