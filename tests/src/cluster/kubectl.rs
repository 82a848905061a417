//! The real kubectl: what a user types, with its exit status and its words.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::control_plane::program;

/// kubectl with one kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    /// `home` takes kubectl's discovery cache.
    pub fn new(kubeconfig: &Path, home: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.into(),
            home: home.into(),
        }
    }

    /// Runs it; the standard output on success, both outputs as an error otherwise.
    pub async fn run<A: Into<String>>(&self, args: impl IntoIterator<Item = A>) -> Result<String> {
        self.with_input(args, "").await
    }

    /// [`Self::run`] with text on standard input: for `-f -`.
    pub async fn with_input<A: Into<String>>(
        &self,
        args: impl IntoIterator<Item = A>,
        input: impl Into<String>,
    ) -> Result<String> {
        let args: Vec<String> = args.into_iter().map(Into::into).collect();
        let line = format!("kubectl {}", args.join(" "));
        let output = self.output(args, input).await?;
        let [out, err] = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if !output.status.success() {
            bail!("{line}: {}: {}{}", output.status, out, err.trim_end());
        }
        Ok(out)
    }

    /// Runs it and gives status and outputs, whatever they are: for what should be refused.
    pub async fn output<A: Into<String>>(
        &self,
        args: impl IntoIterator<Item = A>,
        input: impl Into<String>,
    ) -> Result<Output> {
        let mut command = Command::new(program("kubectl")?);
        command.args(args.into_iter().map(Into::into));
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .env("KUBECACHEDIR", self.home.join("kubectl-cache"));
        let input = input.into();
        tokio::task::spawn_blocking(move || communicate(command, &input)).await?
    }

    /// An object as JSON: `json(["get", "pod", "web"])`.
    pub async fn json<A: Into<String>>(&self, args: impl IntoIterator<Item = A>) -> Result<Value> {
        let args = args
            .into_iter()
            .map(Into::into)
            .chain(["-o".to_string(), "json".into()]);
        Ok(serde_json::from_str(&self.run(args).await?)?)
    }
}

fn communicate(mut command: Command, input: &str) -> Result<Output> {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().context("starting kubectl")?;
    // Closed at the end of the statement. kubectl reads all of its input before it writes; if it ends earlier, its
    // own message says more than a broken pipe.
    let _ = child
        .stdin
        .take()
        .context("standard input is a pipe")?
        .write_all(input.as_bytes());
    child.wait_with_output().context("waiting for kubectl")
}
