//! What is made from something else in `charts/` and `deploy/`: the CRDs of the chart and the schema of its values from
//! Rust types; the kustomize base and the goldens from the chart, as Helm renders it. Templates and `values.yaml` are
//! written by hand and not here.

mod crds;
mod helm;
mod kustomize;
pub mod values;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

pub use helm::{Helm, Variation};

/// The variations whose renders are goldens: each has its values beside it, `charts/golden/<name>.values.yaml`.
pub const GOLDENS: [Variation; 3] = [
    Variation {
        name: "prometheus",
        namespace: "sluice-system",
    },
    Variation {
        name: "keda",
        namespace: "platform",
    },
    Variation {
        name: "bare",
        namespace: "sluice-system",
    },
];

/// A file: its path in the repository and its text.
pub type File = (PathBuf, String);

/// Files made from Rust types alone.
///
/// # Errors
/// Where a type yields no schema or no YAML.
pub fn made_from_types() -> Result<Vec<File>> {
    let mut files = crds::chart()?;
    files.push(("charts/sluice/values.schema.json".into(), values::schema()?));
    Ok(files)
}

/// Files made from the chart by Helm.
///
/// # Errors
/// Where Helm refuses the chart or a golden's values.
pub fn made_from_charts(repository: &Path, helm: &Helm) -> Result<Vec<File>> {
    let mut files = kustomize::base(&helm.render(repository, None)?)?;
    for golden in &GOLDENS {
        let path = format!("charts/golden/{}.yaml", golden.name);
        files.push((path.into(), helm.render(repository, Some(golden))?));
    }
    Ok(files)
}

/// Writes files into the repository.
///
/// # Errors
/// Where a file cannot be written.
pub fn write(repository: &Path, files: &[File]) -> Result<()> {
    for (path, text) in files {
        let path = repository.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}
