//! The sample application of the quickstart: wiring only.

use clap::Parser as _;
use sluice_example_app::{Args, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    run(Args::parse()).await
}
