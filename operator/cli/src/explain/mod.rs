//! `kubectl sluice explain`: what becomes of a request, and why. What is asked is `ask`'s, what is known of the configuration
//! `known`'s and `live`'s, the way through it `walk`'s and `destinations`', what has no part in it `rest`'s; `answer` is the value, `text` and `words` are for people.

mod answer;
mod ask;
mod destinations;
mod known;
mod live;
mod rest;
mod text;
mod walk;
mod words;

use std::{net::IpAddr, path::PathBuf};

pub use answer::{Answer, Auth, Destination, Elsewhere, Limit, Other, Refusal, Request, Taken};
pub use ask::{Ask, AskError};
pub use known::{At, Known, KnownError, NoPlace};
pub use walk::explain;

use crate::{
    Verdict,
    offline::{Input, OPERATOR_NAMESPACE},
    output::Shape,
    status::cluster::{Cluster, Wish},
};

const EXAMPLES: &str = "\
Examples:
  kubectl sluice explain https://shop.example/v1/orders
  kubectl sluice explain http://orders.shop/v1/orders/7 -X DELETE -H 'x-tenant: acme'
  kubectl sluice explain http://shop.example/ --at gateway/shop/public:8000 --from 203.0.113.7
  kubectl-sluice explain http://shop.example/ -f manifests/ -R -o json
  kubectl-sluice explain http://any/ -f manifests/ --at service/shop/orders:80

Without -f the objects of the cluster are read, as the kubeconfig allows. The decisions are those of the sidecars, by
their own code; what only a running one has (how full a bucket is, nonces, stored answers, breakers) takes no part.
Exit codes: 0 it is served, 1 it is refused, 2 it cannot be told.";

/// What `explain` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The request's URL; http without a scheme
    url: String,

    /// The method
    #[arg(
        short = 'X',
        long = "request",
        value_name = "METHOD",
        default_value = "GET"
    )]
    method: String,

    /// A header line; may be repeated. Host stands before the URL's
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,

    /// The address the client connects from; 192.0.2.1 without
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,

    /// Where the request arrives, where the URL does not tell: gateway/NAMESPACE/NAME or service/NAMESPACE/NAME
    #[arg(long, value_name = "PLACE[:PORT]")]
    at: Option<At>,

    /// Manifests instead of a cluster: a file, a directory, or - for standard input; may be repeated
    #[arg(
        short = 'f',
        long = "filename",
        visible_alias = "manifests",
        value_name = "FILE|DIR|-"
    )]
    files: Vec<PathBuf>,

    /// Look for manifests below the directories too
    #[arg(short = 'R', long, requires = "files")]
    recursive: bool,

    /// The file of SluiceConfig, where it is not among the manifests
    #[arg(long, value_name = "FILE", requires = "files")]
    config: Option<PathBuf>,

    /// The operator's namespace
    #[arg(long, value_name = "NAME", default_value = OPERATOR_NAMESPACE)]
    operator_namespace: String,

    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME", conflicts_with = "files")]
    context: Option<String>,

    /// The kubeconfig; $KUBECONFIG or ~/.kube/config without
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    kubeconfig: Option<PathBuf>,

    /// The shape of the answer
    #[arg(short, long, value_enum, default_value_t = Shape::Text)]
    output: Shape,
}

/// Asks and prints.
pub(crate) fn run(args: &Args) -> anyhow::Result<Verdict> {
    let ask = Ask::new(&args.url, &args.method, &args.headers, args.from)?;
    let loaded = match args.files.is_empty() {
        false => crate::offline::load(&Input {
            files: args.files.clone(),
            recursive: args.recursive,
            config: args.config.clone(),
            operator_namespace: args.operator_namespace.clone(),
        })?,
        true => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let wish = Wish {
                kubeconfig: args.kubeconfig.clone(),
                context: args.context.clone(),
                namespace: None,
                all_namespaces: true,
            };
            runtime.block_on(async {
                let cluster = Cluster::connect(wish).await?;
                anyhow::Ok(live::read(&cluster, &args.operator_namespace).await?)
            })?
        }
    };
    let answer = explain(&Known::of(&loaded)?, &ask, args.at.as_ref())?;
    args.output.print(&answer, || text::render(&answer))?;
    Ok(Verdict::of(answer.served))
}
