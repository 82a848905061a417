//! Entry point.

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    sluice_bench::run(&sluice_bench::Args::parse())
}
