//! The command line of `sluice-bench`. Without arguments it measures everything and writes the report.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};

/// Measures Sluice's own code, and a proxied request beside nginx, and writes the table.
#[derive(Debug, Clone, Parser)]
#[command(name = "sluice-bench", version)]
pub struct Args {
    /// Something else than measuring.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Run every operation a few times and check its result; nothing is measured and nothing is written
    #[arg(long)]
    pub quick: bool,

    /// Where the report goes
    #[arg(long, value_name = "FILE", default_value = "docs/performance.md")]
    pub out: PathBuf,

    /// Rounds of the comparison with nginx
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..))]
    pub rounds: u32,

    /// Seconds that one system is measured in one round
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,

    /// Compare only the workloads whose name contains this
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub only: String,

    /// The release build of sluice-sidecar; looked for beside this program
    #[arg(long, global = true, value_name = "FILE")]
    pub sidecar: Option<PathBuf>,

    /// sluice-operator; looked for beside this program and in the folder of the dev build
    #[arg(long, global = true, value_name = "FILE")]
    pub operator: Option<PathBuf>,
}

/// What the program starts of itself.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Pass bytes on without reading them: the floor of the comparison
    #[command(hide = true)]
    Relay {
        /// Where clients connect.
        #[arg(long)]
        listen: SocketAddr,
        /// Where their bytes go.
        #[arg(long)]
        to: SocketAddr,
    },
    /// Measure instructions, system calls and memory of the sidecar, and fail above their limits
    Gate {
        /// Multiply each limit: at 0.5 the gates must be shut
        #[arg(long, value_name = "X", default_value_t = 1.0)]
        scale: f64,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn no_argument_is_needed_and_fewer_than_five_rounds_are_refused() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["sluice-bench"]).expect("no argument is needed");
        assert!(args.rounds >= 5 && args.seconds >= 2 && !args.quick);
        Args::try_parse_from(["sluice-bench", "--rounds", "4"]).expect_err("too few rounds");
    }
}
