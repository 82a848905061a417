//! Entry point.

use clap::Parser;
use sluice_operator::{cli::Args, run};

fn main() -> std::process::ExitCode {
    match run::main(Args::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-operator: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
