//! The driver behind `make demo`: it starts the quickstart on loopback (operator, sidecars, sample
//! applications, Redis where there is one), sends real requests, and prints what was sent, what came back
//! and which policy decided. Every program it starts is a child it ends by its handle. It enforces nothing:
//! what it expects stands in `script`, what enforces it is the product.

mod access_log;
mod args;
mod caller;
mod credentials;
mod expect;
mod ground;
mod invite;
mod manifests;
mod platform;
mod report;
mod running;
mod script;
mod shards;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

pub use args::Args;
use ground::Ground;
use platform::Platform;
use report::Report;

/// Runs the demo; the exit code says whether every answer was the expected one.
pub async fn run(args: Args) -> Result<ExitCode> {
    let mut ground = Ground::choose(&args.quickstart)?;
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut platform = Platform::default();
    let mut report = Report::default();
    let outcome = tokio::select! {
        outcome = play(&args, &ground, &mut platform, &mut report) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = term.recv() => Ok(()),
    };
    platform.stop().await;
    let good = outcome.is_ok() && report.surprises() == 0;
    if !good {
        println!("\nLogs and state stay in {}", ground.keep().display());
    }
    outcome?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Starts everything, sends everything and, unless told to end, stays up.
async fn play(
    args: &Args,
    ground: &Ground,
    platform: &mut Platform,
    report: &mut Report,
) -> Result<()> {
    platform.start(args, ground).await?;
    script::play(platform, ground, report).await?;
    report.print_summary();
    if args.once {
        return Ok(());
    }
    invite::print(platform, ground)?;
    platform.until_one_ends().await
}
