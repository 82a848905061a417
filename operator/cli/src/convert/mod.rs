//! `kubectl sluice convert`: ApiRoutes from Ingresses and HTTPRoutes. Which field becomes what is `ingress`'s and
//! `http_route`'s; what they share, and what is said of the rest, is `made`'s.

mod http_route;
mod ingress;
mod made;

use std::path::PathBuf;

use serde_json::{Value, json};
use sluice_crds::manifest;

use crate::{
    Verdict,
    input::{self, Source},
    output::{self, ValueShape},
};
use made::{Left, Made, Parent};

const EXAMPLES: &str = "\
Examples:
  kubectl-sluice convert -f ingress.yaml --gateway infra/public > apiroutes.yaml
  kubectl get ingress,service -n shop -o yaml | kubectl-sluice convert -f -
  kubectl-sluice convert -f httproutes/ -o json --lossy

The ApiRoutes go to standard output, what they do not carry over to standard error, by field. Services among the
manifests are read for the numbers of ports that an Ingress names. Other kinds are skipped.
Exit codes: 0 all of it was carried over, 2 bad usage or nothing to convert, 3 something was left out (0 with --lossy).";

/// What `convert` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A file or a directory of manifests, or - for standard input; may be repeated
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "FILE|DIR|-",
        required = true
    )]
    files: Vec<PathBuf>,

    /// Look for manifests below the directories too
    #[arg(short = 'R', long)]
    recursive: bool,

    /// The Gateway that takes the place of the Ingress controller
    #[arg(long, value_name = "[NAMESPACE/]NAME", default_value = "public")]
    gateway: Parent,

    /// Let what is left out be no error
    #[arg(long)]
    lossy: bool,

    /// The shape of the ApiRoutes
    #[arg(short, long, value_enum, default_value_t = ValueShape::Yaml)]
    output: ValueShape,
}

/// Why nothing is converted.
#[derive(Debug, thiserror::Error)]
enum ConvertError {
    /// Nothing that could be.
    #[error(
        "no Ingress (networking.k8s.io/v1) and no HTTPRoute (gateway.networking.k8s.io/v1) in what was read"
    )]
    Nothing,
    /// A file that holds no YAML.
    #[error("{0}: not YAML from beginning to end; `kubectl-sluice validate` says where")]
    NotYaml(String),
    /// A document of another shape.
    #[error("{file}:{line}: {kind} {name}: {cause}")]
    Shape {
        /// The file.
        file: String,
        /// The line of the document.
        line: u64,
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What does not fit.
        cause: String,
    },
}

/// Converts and prints.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let sources = input::read_all(&args.files, args.recursive)?;
    let made = convert(&sources, &args.gateway)?;
    let Made { routes, left } = &made;
    let text = match args.output {
        ValueShape::Json => {
            output::json(&json!({"apiVersion": "v1", "kind": "List", "items": routes}))?
        }
        ValueShape::Yaml => {
            let documents = routes.iter().map(output::yaml);
            documents.collect::<anyhow::Result<Vec<_>>>()?.join("---\n")
        }
    };
    output::print(&text)?;
    for Left {
        object,
        path,
        message,
    } in left
    {
        output::complain(&format!("left out: {object} {path}: {message}"));
    }
    Ok(match left.is_empty() || args.lossy {
        true => Verdict::Good,
        false => Verdict::Partial,
    })
}

fn convert(sources: &[Source], gateway: &Parent) -> Result<Made, ConvertError> {
    let mut made = Made::default();
    let mut documents = Vec::new();
    for source in sources {
        let outlines = manifest::outlines(&source.text);
        if !outlines.whole {
            return Err(ConvertError::NotYaml(source.name.clone()));
        }
        for outline in outlines.documents {
            documents.push((source.name.as_str(), outline));
        }
    }
    let of = |version: &str, kind: &str| {
        let fitting = documents.iter().filter(move |(_, outline)| {
            outline.api_version() == Some(version) && outline.kind() == Some(kind)
        });
        fitting.collect::<Vec<_>>()
    };
    let shape = |file: &str, outline: &manifest::Outline, kind, error: serde_json::Error| {
        ConvertError::Shape {
            file: file.to_owned(),
            line: outline.line(),
            kind,
            name: outline.name().unwrap_or_default().to_owned(),
            cause: error.to_string(),
        }
    };
    let (ingresses, routes) = (
        of("networking.k8s.io/v1", "Ingress"),
        of("gateway.networking.k8s.io/v1", "HTTPRoute"),
    );
    if ingresses.is_empty() && routes.is_empty() {
        return Err(ConvertError::Nothing);
    }
    let services: Vec<Value> = of("v1", "Service")
        .iter()
        .map(|(_, outline)| outline.to_value())
        .collect();
    for (file, outline) in ingresses {
        let read = serde_json::from_value(outline.to_value());
        let read = read.map_err(|error| shape(file, outline, "Ingress", error))?;
        ingress::convert(&read, outline.namespace(), gateway, &services, &mut made);
    }
    for (file, outline) in routes {
        let read = serde_json::from_value(outline.to_value());
        let read = read.map_err(|error| shape(file, outline, "HTTPRoute", error))?;
        http_route::convert(&read, outline.namespace(), &mut made);
    }
    Ok(made)
}

#[cfg(test)]
mod tests;
