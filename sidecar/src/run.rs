//! Wiring: arguments to sockets, threads and tasks, and their end. The main thread is the control thread.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use prometheus::{IntCounterVec, Opts, Registry};
use sluice_process::{Pages, Shutdown, build, log::Format};
use tokio::{
    net::TcpListener,
    task::{LocalSet, spawn_local},
};

use crate::{
    admin,
    cli::{self, AccessLog as LogTo, Cli, ControlArgs, LogFormat, ServeArgs},
    control::{self, RootsSource, Settings},
    data::{self, Drained, Plan},
    log::{AccessLog, Writer},
    metrics::Exporter,
    shared::{Inbox, Shared, SharedLimits},
    store, supervise,
};

/// The environment variable with the first roots, where no file is named.
const ROOTS_VARIABLE: &str = "SLUICE_ROOTS_PEM";
/// Requests were cut off at the end of the drain.
const CUT_OFF: u8 = 3;

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    match Cli::parse() {
        Cli::Completion(shell) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut cli::command(), "sluice-sidecar", &mut script);
            // Whoever reads only the beginning closes the pipe.
            let _ = io::stdout().write_all(&script);
            ExitCode::SUCCESS
        }
        Cli::Serve(args) => serve(&args),
    }
}

fn serve(args: &ServeArgs) -> ExitCode {
    let format = match args.log_format {
        LogFormat::Json => Format::Json,
        LogFormat::Text => Format::Text,
    };
    if let Err(error) = sluice_process::log::start(format, "info") {
        eprintln!("sluice-sidecar: {error}");
        return ExitCode::FAILURE;
    }
    match start(args) {
        Ok(Drained::Whole) => ExitCode::SUCCESS,
        Ok(Drained::CutOff) => {
            tracing::warn!(
                "requests were still running at the end of --drain-timeout and were cut off"
            );
            ExitCode::from(CUT_OFF)
        }
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &ServeArgs) -> anyhow::Result<Drained> {
    // Before any TLS: with two providers in a build, rustls would not choose.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("the TLS provider was installed twice"))?;
    let settings = settings(&args.control)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    LocalSet::new().block_on(&runtime, run(args, settings))
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
        build: build::describe(),
    })
}

/// Runs until shutdown is asked for, or a data thread or the control side gives up.
async fn run(args: &ServeArgs, settings: Settings) -> anyhow::Result<Drained> {
    let shutdown = Shutdown::on_signals().context("signals cannot be listened to")?;
    let (shared, inbox) = Shared::new(SharedLimits::default());
    let listening = shared.readiness.condition("listeners");
    let (log, writer) = access_log(args.access_log)?;
    let registry = registry(&shared, &log)?;
    let plan = Plan {
        inbound: args.inbound.clone(),
        threads: args.data_threads,
        drain_timeout: args.drain_timeout,
        log,
        shutdown: shutdown.clone(),
    };
    let pages = bind(args.metrics).await?;
    let debug = bind(args.admin).await?;
    let mut threads = data::start(&shared, &plan)?;
    drop(plan);
    listening.met();
    tracing::info!(listening = ?threads.listening, build = build::describe(), "serving");
    if args.inbound.is_empty() {
        tracing::warn!("no --inbound is given: configuration is held, but no traffic passes here");
    }

    let pages_of = Pages::default()
        .health(shared.readiness.clone())
        .metrics(registry.clone());
    // Answered to the very end, so that /readyz can say that this pod drains.
    spawn_local(pages_of.serve(pages, Default::default()));
    spawn_local(admin::serve(debug, Arc::clone(&shared), shutdown.clone()));
    let mut control = Box::pin(control(&shared, inbox, settings, &registry)?);

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
    // The registry's exporter has an end of the log too.
    drop((registry, control));
    if let Some(writer) = writer {
        writer.finish(Duration::from_secs(1));
    }
    failed.map_or(drained, Err)
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

fn registry(shared: &Arc<Shared>, log: &AccessLog) -> anyhow::Result<Registry> {
    let registry = Registry::new();
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
