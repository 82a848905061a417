//! Running Helm, offline.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// The program.
#[derive(Debug, Clone)]
pub struct Helm(PathBuf);

/// One way to install the chart.
#[derive(Debug, Clone, Copy)]
pub struct Variation {
    /// Name of the golden.
    pub name: &'static str,
    /// Namespace of the release.
    pub namespace: &'static str,
}

impl Helm {
    /// `$HELM`, else the one beside the Kubernetes programs that the tests are given.
    ///
    /// # Errors
    /// Where neither is there.
    pub fn find() -> Result<Self> {
        let assets =
            || env::var_os("KUBEBUILDER_ASSETS").map(|folder| Path::new(&folder).join("helm"));
        let path = env::var_os("HELM").map(PathBuf::from).or_else(assets);
        let path =
            path.context("no helm: set KUBEBUILDER_ASSETS=$(hack/kube.sh), or HELM to a helm 4")?;
        if !path.is_file() {
            bail!(
                "{}: no such program; hack/kube.sh builds it",
                path.display()
            );
        }
        Ok(Self(path))
    }

    /// The chart as it is installed with a golden's values, or with none.
    ///
    /// # Errors
    /// Where Helm refuses.
    pub fn render(&self, repository: &Path, variation: Option<&Variation>) -> Result<String> {
        let Some(Variation { name, namespace }) = variation else {
            return self.template(repository, "sluice-system", &[]);
        };
        let values = format!("--values=charts/golden/{name}.values.yaml");
        self.template(repository, namespace, &[&values])
    }

    /// `helm template` of the operator's chart with more arguments.
    ///
    /// # Errors
    /// Where Helm refuses, with what it says.
    pub fn template(&self, repository: &Path, namespace: &str, more: &[&str]) -> Result<String> {
        // Relative to the repository: a path of this machine would stand in messages.
        let output = Command::new(&self.0)
            .current_dir(repository)
            .args([
                "template",
                "sluice",
                "charts/sluice",
                "--namespace",
                namespace,
            ])
            .args(more)
            .output()
            .with_context(|| format!("running {}", self.0.display()))?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("Helm renders UTF-8")
    }
}
