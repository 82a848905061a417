//! The command line of `sluice-operator`. It says what may be given together; what it means is wired in `run`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use sluice_process::log::Format;

use crate::scaling::api_service::Mode;

const EXAMPLES: &str = "\
Examples:
  Without a cluster, from files, with state beside them:
    sluice-operator --manifests examples/quickstart/base --manifests examples/quickstart/local \\
                    --state-dir ./state --listen 127.0.0.1:8443 --health 127.0.0.1:8081

  In a cluster (or with a kubeconfig), with webhooks:
    sluice-operator --config /etc/sluice/config.yaml --webhook 0.0.0.0:9443

  Rotate the certificate authority of file mode, without a restart:
    touch ./state/ca/rotate

Environment:
  SLUICE_LOG     which log events: info, debug, sluice_operator::stream=debug,info, ...
  POD_NAMESPACE  the operator's own namespace, unless --namespace says it
  POD_NAME       how this replica signs the Lease and Events; the host's name without it
  KUBECONFIG     the cluster to talk to, outside a pod";

/// The sidecar of the same version.
const DEFAULT_SIDECAR_IMAGE: &str = concat!("sluice-sidecar:", env!("CARGO_PKG_VERSION"));

/// The control plane of Sluice: compiles ApiRoutes, RateLimitPolicies and ShardSets, and streams the result to sidecars.
///
/// With --manifests it reads the same YAML from directories, follows changes, and needs no cluster; otherwise it works
/// with the cluster it runs in, or the one of the kubeconfig.
#[derive(Debug, Clone, Parser)]
#[command(name = "sluice-operator", version = sluice_process::build::VERSION, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Something else than running the operator.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// A directory of manifests (*.yaml, *.yml, *.json); may be repeated. Of two equal objects the first counts
    #[arg(long, value_name = "DIR")]
    pub manifests: Vec<PathBuf>,

    /// Where file mode keeps what a cluster keeps elsewhere: CA and hash key, join tokens, roots.pem, status. Made 0700;
    /// required with --manifests, because keys and placements must outlive the process
    #[arg(long, value_name = "DIR", requires = "manifests")]
    pub state_dir: Option<PathBuf>,

    /// The file of SluiceConfig (a mounted ConfigMap). With --manifests it may also be a document of a directory
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where sidecars connect: the config stream, TLS 1.3
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,

    /// /healthz, /readyz and /metrics, in the clear
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8081")]
    pub health: SocketAddr,

    /// Where the API server calls the validating and the injecting webhook; off without it
    #[arg(long, value_name = "ADDR", conflicts_with = "manifests")]
    pub webhook: Option<SocketAddr>,

    /// Where the API server asks for the load of pods (custom.metrics.k8s.io/v1beta2), for HorizontalPodAutoscalers; off
    /// without it
    #[arg(long, value_name = "ADDR", conflicts_with = "manifests")]
    pub metrics_api: Option<SocketAddr>,

    /// Whether to register the metrics API: auto, where nobody else serves that group; or off, never
    #[arg(
        long,
        value_name = "MODE",
        value_enum,
        default_value_t,
        requires = "metrics_api"
    )]
    pub metrics_api_service: Mode,

    /// Where KEDA asks for the load of pods (gRPC, in the clear); off without it
    #[arg(long, value_name = "ADDR", conflicts_with = "manifests")]
    pub external_scaler: Option<SocketAddr>,

    /// The image of the sidecar that the injecting webhook puts into Pods
    #[arg(long, value_name = "IMAGE", env = "SLUICE_SIDECAR_IMAGE", default_value = DEFAULT_SIDECAR_IMAGE)]
    pub sidecar_image: String,

    /// Where injected sidecars find the config stream; the operator's name and port 8443 by default
    #[arg(long, value_name = "HOST:PORT")]
    pub sidecar_operator: Option<String>,

    /// How long the leader's Lease lasts, in seconds: as long may nobody lead after a leader has vanished
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=600))]
    pub lease_seconds: u64,

    /// The operator's own namespace: Lease, Secret sluice-ca, and the Secrets that SluiceConfig names
    #[arg(
        long,
        value_name = "NAME",
        env = "POD_NAMESPACE",
        default_value = "sluice-system"
    )]
    pub namespace: String,

    /// The DNS name in the operator's certificate, which sidecars and the API server verify
    #[arg(
        long,
        value_name = "NAME",
        default_value = "sluice-operator.sluice-system.svc"
    )]
    pub operator_name: String,

    /// Compare the incremental result with a full recompute every minute; a difference is logged and counted
    #[arg(long)]
    pub verify_incremental: bool,

    /// The shape of log lines on standard error: text or json
    #[arg(long, value_name = "FORMAT", default_value_t = Format::Text)]
    pub log_format: Format,
}

/// What else the binary does.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Print the completion script of a shell, for example: sluice-operator completion bash
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// Arguments that do not fit together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgsError {
    /// File mode without a place for its state.
    #[error(
        "--manifests needs --state-dir: file mode keeps its CA and hash key, join tokens, status and the placement of shards there; lost, every sidecar would have to be joined again and moved slots would be forgotten. Try --state-dir ./sluice-state"
    )]
    NoStateDir,
    /// Something that is no directory.
    #[error("--manifests {0}: no such directory")]
    NoDirectory(PathBuf),
}

impl Args {
    /// What clap alone cannot say.
    pub fn check(&self) -> Result<(), ArgsError> {
        if !self.manifests.is_empty() && self.state_dir.is_none() {
            return Err(ArgsError::NoStateDir);
        }
        match self.manifests.iter().find(|directory| !directory.is_dir()) {
            Some(directory) => Err(ArgsError::NoDirectory(directory.clone())),
            None => Ok(()),
        }
    }
}

/// Writes a completion script to standard output.
pub fn complete(shell: Shell) {
    let mut command = Args::command();
    clap_complete::generate(
        shell,
        &mut command,
        "sluice-operator",
        &mut std::io::stdout(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("sluice-operator").chain(arguments.iter().copied()))
    }

    #[test]
    fn the_command_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn file_mode_needs_a_state_directory_and_says_why() {
        let args = parse(&["--manifests", "."]).expect("parses");
        let error = args.check().expect_err("refused").to_string();
        assert!(
            error.contains("--state-dir") && error.contains("join tokens"),
            "{error}"
        );
        let args = parse(&["--manifests", ".", "--state-dir", "x"]).expect("parses");
        assert_eq!(args.check(), Ok(()));
        let args = parse(&["--manifests", "./nowhere", "--state-dir", "x"]).expect("parses");
        assert!(matches!(args.check(), Err(ArgsError::NoDirectory(_))));
    }

    #[test]
    fn what_belongs_to_one_mode_is_refused_in_the_other() {
        parse(&["--state-dir", "x"]).expect_err("nothing to keep there in a cluster");
        parse(&["--manifests", ".", "--webhook", "127.0.0.1:9443"])
            .expect_err("no API server to call it");
        for flag in ["--metrics-api", "--external-scaler"] {
            parse(&["--manifests", ".", flag, "127.0.0.1:9444"]).expect_err("nobody scales there");
        }
        parse(&["completion", "bash"]).expect("a subcommand");
    }
}
