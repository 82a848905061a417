//! `make demo`: wiring only.

use std::process::ExitCode;

use clap::Parser as _;
use sluice_example_demo::{Args, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run(Args::parse()).await.unwrap_or_else(|error| {
        eprintln!("\nThe demo could not run: {error:#}");
        ExitCode::FAILURE
    })
}
