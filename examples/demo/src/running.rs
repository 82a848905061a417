//! A program the demo started: its output goes to a log file, it is ended by its handle and dies with it.

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// How long a program may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(8);

/// A running child.
pub(crate) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `program`; both its outputs go to `<logs>/<name>.log`.
    pub(crate) fn start<A: AsRef<OsStr>>(
        logs: &Path,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // Ctrl-C at the terminal is for the demo, which then ends its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {}: has it been built? (`make build`)",
                    program.display()
                )
            })?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Name it was started under.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// An error with the end of its log, if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); its log:\n{}", self.name, self.tail()),
        }
    }

    /// The last lines of its log.
    pub(crate) fn tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Asks it to end, waits, and kills it if it does not.
    pub(crate) async fn stop(mut self) {
        let pid = self
            .child
            .id()
            .and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let Some(pid) = pid else {
            return; // it has ended and was waited for
        };
        // Fails only for a child that ends at this moment, which the wait below sees.
        let _ = kill_process(pid, Signal::TERM);
        if tokio::time::timeout(GRACE, self.child.wait())
            .await
            .is_err()
        {
            println!("{} did not end within {GRACE:?} and is killed", self.name);
            let _ = self.child.kill().await;
        }
    }
}
