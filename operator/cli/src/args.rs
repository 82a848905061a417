//! The command line: which subcommands there are. What each takes stands in its own file.

use clap::{Parser, Subcommand};

use crate::{completion, convert, explain, outdated, status, translate, validate, version};

const EXAMPLES: &str = "\
Examples:
  kubectl sluice status -A                      what is live, and what is wrong, in words
  kubectl sluice status apiroute/orders -n shop
  kubectl-sluice status --state-dir ./state     the same of an operator without a cluster
  kubectl sluice outdated -A                    pods that run an old sidecar, and the commands that renew them
  kubectl sluice explain https://shop.example/v1/orders -X POST
                                                which rule takes this request, and why not the others
  kubectl-sluice convert -f ingress.yaml        ApiRoutes from Ingresses and HTTPRoutes
  kubectl-sluice validate -f manifests/         offline: errors with file, line and column
  kubectl-sluice translate -f manifests/        offline: what each sidecar would get

Exit codes: 0 nothing is wrong, 1 something is, 2 bad usage or nothing to ask.

As a plugin of kubectl the binary `kubectl-sluice` has to be in $PATH.";

/// What Sluice does with your ApiRoutes, RateLimitPolicies and ShardSets. It only reads.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-sluice",
    bin_name = "kubectl sluice",
    version = sluice_process::build::VERSION,
    after_help = EXAMPLES
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What is live on how many pods, and what is wrong, in words
    Status(status::Args),
    /// Which pods run another sidecar than new ones get, or none, and how to renew them
    Outdated(outdated::Args),
    /// Which listener, route, rule and backend take a request, and why not the others
    Explain(explain::Args),
    /// ApiRoutes from Ingresses and HTTPRoutes, and what they do not carry over
    Convert(convert::Args),
    /// What each group of sidecars would get from manifests, without a cluster
    Translate(translate::Args),
    /// What is wrong with manifests, with file, line and column, without a cluster
    Validate(validate::Args),
    /// Which build this is
    Version(version::Args),
    /// The completion script of a shell
    Completion(completion::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_subcommand_has_examples() {
        for command in Args::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(
                help.starts_with("Examples:\n"),
                "{}: {help}",
                command.get_name()
            );
        }
    }
}
