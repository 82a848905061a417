//! The command line of the demo.

use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  examples/quickstart/demo.sh
      build, start, send requests, then stay up until Ctrl-C

  examples/quickstart/demo.sh --once
      end by itself; the exit code is 1 if an answer was not the expected one";

/// Starts the quickstart on loopback, sends it requests and says what came back.
#[derive(clap::Parser, Debug, Clone)]
#[command(name = "sluice-example-demo", version, after_help = EXAMPLES)]
pub struct Args {
    /// End by itself after the requests; exit code 1 if one surprised.
    #[arg(long)]
    pub once: bool,
    /// The folder with `base/` and `local/`.
    #[arg(long, value_name = "DIR", default_value = "examples/quickstart")]
    pub quickstart: PathBuf,
    /// Where the product's binaries are; the demo's own folder by default.
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
}

impl Args {
    /// Path of one of the product's binaries.
    pub(crate) fn binary(&self, name: &str) -> std::io::Result<PathBuf> {
        let dir = match &self.bin_dir {
            Some(dir) => dir.clone(),
            None => std::env::current_exe()?.with_file_name(""),
        };
        Ok(dir.join(name))
    }
}
