//! `kubectl-sluice completion`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{Verdict, args, output};

const EXAMPLES: &str = "\
Examples:
  source <(kubectl-sluice completion bash)
  kubectl-sluice completion zsh > ~/.zfunc/_kubectl-sluice
  kubectl-sluice completion fish > ~/.config/fish/completions/kubectl-sluice.fish";

/// What `completion` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Writes the script, which completes `kubectl-sluice`.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let mut script = Vec::new();
    let mut command = args::Args::command().bin_name("kubectl-sluice");
    clap_complete::generate(args.shell, &mut command, "kubectl-sluice", &mut script);
    output::script(&script)?;
    Ok(Verdict::Good)
}
