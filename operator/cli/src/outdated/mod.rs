//! `kubectl sluice outdated`: which pods run another sidecar than a new pod would get, or none at all, and the commands
//! that renew them. What a new pod would get stands in the injecting webhook's configuration, where the operator's leader
//! writes it; what a pod runs, in its own spec. Reading is `read`'s, judging is `report`'s.

mod read;
mod report;

use std::path::PathBuf;

use self::report::Report;
use crate::{Verdict, output::Shape, status::cluster};

const EXAMPLES: &str = "\
Examples:
  kubectl sluice outdated                     the context's namespace
  kubectl sluice outdated -A                  every namespace
  kubectl sluice outdated -n shop -o json
  kubectl sluice outdated --image registry.example/sluice-sidecar:0.2.0
                                              against this image, for who may not read webhook configurations

Exit codes: 0 every pod has the sidecar that a new one would get, 1 some do not, 2 the cluster cannot be read.";

/// What `outdated` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The namespace; that of the context without
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    /// Every namespace
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// The kubeconfig; $KUBECONFIG or ~/.kube/config without
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The sidecar's image that pods should have; what the injecting webhook gives without
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// The shape of the answer
    #[arg(short, long, value_enum, default_value_t = Shape::Text)]
    output: Shape,
}

/// Looks and prints.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(look(args))?;
    args.output.print(&report, || report.text())?;
    Ok(Verdict::of(report.pods.is_empty()))
}

async fn look(args: &Args) -> anyhow::Result<Report> {
    let Args {
        namespace,
        all_namespaces,
        context,
        kubeconfig,
        image,
        output: _,
    } = args;
    let wish = cluster::Wish {
        kubeconfig: kubeconfig.clone(),
        context: context.clone(),
        namespace: namespace.clone(),
        all_namespaces: *all_namespaces,
    };
    let cluster = cluster::Cluster::connect(wish).await?;
    let wanted = match image {
        Some(image) => image.clone(),
        None => read::wanted(&cluster).await?,
    };
    let pods = read::pods(&cluster).await?;
    let injected = read::injected_namespaces(&cluster).await?;
    Ok(Report::of(wanted, &pods, injected.as_ref()))
}
