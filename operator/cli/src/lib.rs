//! `kubectl sluice`: what is live and what is wrong (`status`), which sidecars are old (`outdated`), what becomes of a request
//! and why (`explain`), and what manifests amount to without a cluster (`translate`, `validate`) or as ApiRoutes (`convert`),
//! by the operator's and the sidecars' own code. It only reads.
//!
//! One file or folder per subcommand; this one chooses between them. Exit codes: 0 nothing is wrong, 1 something is, 2 the
//! question could not be answered, 3 something was left out.

mod args;
mod completion;
mod convert;
pub mod explain;
mod input;
mod offline;
mod outdated;
mod output;
mod status;
mod translate;
mod validate;
mod version;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};

/// Whether what was looked at is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing is wrong.
    Good,
    /// Something is; it was said.
    Wrong,
    /// Something was left out; it was said.
    Partial,
}

impl Verdict {
    fn of(good: bool) -> Self {
        match good {
            true => Self::Good,
            false => Self::Wrong,
        }
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Wrong) => ExitCode::from(1),
        Ok(Verdict::Partial) => ExitCode::from(3),
        Err(error) => {
            output::complain(&format!("error: {}", output::chain(error.as_ref())));
            ExitCode::from(2)
        }
    }
}

fn run(args: Args) -> anyhow::Result<Verdict> {
    match args.command {
        Command::Status(args) => status::run(&args),
        Command::Outdated(args) => outdated::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Translate(args) => translate::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Version(args) => version::run(&args),
        Command::Completion(args) => completion::run(&args),
    }
}
