//! `kubectl sluice status`: what is live on how many pods, and what is wrong, in words. Where the objects are is
//! `cluster`'s and `files`'; what they say is `report`'s; how it looks is `text`'s.

mod age;
pub(crate) mod cluster;
mod files;
mod kind;
mod report;
pub(crate) mod text;

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use k8s_openapi::jiff::Timestamp;

use self::{
    kind::Selector,
    report::{Report, Seen},
};
use crate::{Verdict, output};

/// How often `--watch` looks.
const INTERVAL: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  kubectl sluice status                          the context's namespace
  kubectl sluice status -A -o wide               every namespace, with version, slowest pod and reason
  kubectl sluice status apiroute/orders ss/orders -n shop
  kubectl sluice status --state-dir ./state      an operator without a cluster
  kubectl sluice status -n shop --watch          again whenever something changed

Kinds: apiroute (ar), ratelimitpolicy (rlp), shardset (ss).
Exit codes: 0 everything is Ready, 1 something is not, 2 the cluster or the directory cannot be read.";

/// What `status` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A kind, or one object of it; all three kinds without
    #[arg(value_name = "KIND[/NAME]")]
    selectors: Vec<Selector>,

    /// The namespace; that of the context without, with --state-dir every one
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    /// Every namespace
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME", conflicts_with = "state_dir")]
    context: Option<String>,

    /// The kubeconfig; $KUBECONFIG or ~/.kube/config without
    #[arg(long, value_name = "FILE", conflicts_with = "state_dir")]
    kubeconfig: Option<PathBuf>,

    /// The state directory of an operator that reads manifests from files, instead of a cluster
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Look again every 2 s and print what changed, until interrupted
    #[arg(short, long)]
    watch: bool,

    /// The shape of the answer
    #[arg(short, long, value_enum, default_value_t = Shape::Text)]
    output: Shape,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shape {
    Text,
    Wide,
    Json,
    Yaml,
}

/// Looks, prints, and with `--watch` again.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let place = Place::of(args).await?;
        let mut last = place.report(&args.selectors).await?;
        show(&last, args.output)?;
        if !args.watch {
            return Ok(Verdict::of(last.good()));
        }
        loop {
            tokio::time::sleep(INTERVAL).await;
            let report = place.report(&args.selectors).await?;
            if report != last {
                output::print("\n")?;
                show(&report, args.output)?;
                last = report;
            }
        }
    })
}

fn show(report: &Report, shape: Shape) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let text = match shape {
        Shape::Text => text::render(report, false, now),
        Shape::Wide => text::render(report, true, now),
        Shape::Json => output::json(report)?,
        Shape::Yaml => output::yaml(report)?,
    };
    Ok(output::print(&text)?)
}

/// Where the objects are.
enum Place {
    Cluster(cluster::Cluster),
    Files(files::StateDir),
}

impl Place {
    async fn of(args: &Args) -> anyhow::Result<Self> {
        let Args {
            selectors: _,
            namespace,
            all_namespaces,
            context,
            kubeconfig,
            state_dir,
            watch: _,
            output: _,
        } = args;
        Ok(match state_dir {
            Some(root) => Self::Files(files::StateDir {
                root: root.clone(),
                namespace: namespace.clone(),
            }),
            None => {
                let wish = cluster::Wish {
                    kubeconfig: kubeconfig.clone(),
                    context: context.clone(),
                    namespace: namespace.clone(),
                    all_namespaces: *all_namespaces,
                };
                Self::Cluster(cluster::Cluster::connect(wish).await?)
            }
        })
    }

    async fn report(&self, selectors: &[Selector]) -> anyhow::Result<Report> {
        let wanted = match selectors {
            [] => kind::Kind::ALL.map(Selector::all).to_vec(),
            some => some.to_vec(),
        };
        let mut seen: Vec<Seen> = Vec::new();
        let mut missing = Vec::new();
        for selector in &wanted {
            let found = match self {
                Self::Cluster(cluster) => cluster.read(selector).await?,
                Self::Files(state) => state.read(selector)?,
            };
            if found.is_empty() && selector.name.is_some() {
                missing.push(selector.to_string());
            }
            seen.extend(found);
        }
        let files = match self {
            Self::Cluster(_) => Vec::new(),
            Self::Files(state) => state.broken_files()?,
        };
        Ok(Report::of(seen, missing, files))
    }
}
