//! `kubectl sluice version`.

use serde_json::json;
use sluice_process::build;

use crate::{Verdict, output::Shape};

const EXAMPLES: &str = "\
Examples:
  kubectl sluice version
  kubectl sluice version -o json";

/// What `version` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shape of the answer
    #[arg(short, long, value_enum, default_value_t = Shape::Text)]
    output: Shape,
}

/// Says which build this is.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let resources = format!("{}/{}", sluice_crds::GROUP, sluice_crds::VERSION);
    let value = json!({
        "version": build::VERSION,
        "commit": build::COMMIT,
        "resources": resources,
    });
    args.output.print(&value, || {
        format!(
            "kubectl-sluice {}\nresources {resources}\n",
            build::describe()
        )
    })?;
    Ok(Verdict::Good)
}
