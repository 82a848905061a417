//! A program that the comparison started: on one core, with a log of its own, ended by its handle.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::cpu;

/// How long it may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(10);
/// Lines of its log that are shown when it ends by itself.
const TAIL: usize = 10;

/// A running program.
pub struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it on a core. What it says on standard error goes to a log in `dir`, the rest nowhere.
    pub fn start(
        name: &'static str,
        core: usize,
        dir: &Path,
        command: &mut Command,
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        Ok(Self {
            name,
            child: cpu::start_on(core, command)?,
            log,
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error once it has ended; the end of its log is shown then.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!(
            "{} ended; its log:\n{}",
            self.name,
            lines[lines.len().saturating_sub(TAIL)..].join("\n")
        );
        bail!("{} ended: {status}", self.name)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let begun = Instant::now();
        // Sent only while the child has not been waited for, so that its number is still its own.
        let mut asked = false;
        while let Ok(None) = self.child.try_wait() {
            if !asked {
                asked = kill_process(pid, Signal::TERM).is_ok();
            }
            if begun.elapsed() > GRACE {
                let _ = self.child.kill(); // fails only for what has ended
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_its_handle_and_its_end_is_noticed() {
        let dir = tempfile::tempdir().expect("a folder");
        let start = |script: &str| {
            Running::start("sh", 0, dir.path(), Command::new("sh").args(["-c", script]))
                .expect("a shell")
        };
        let mut long = start("exec sleep 600");
        long.check().expect("it runs");
        let process = PathBuf::from(format!("/proc/{}", long.pid()));
        assert!(process.exists());
        drop(long);
        assert!(!process.exists());
        let mut short = start("exit 3");
        let ended = super::super::poll::until(GRACE, || match short.check() {
            Ok(()) => bail!("it still runs"),
            Err(error) => Ok(error.to_string()),
        });
        assert!(ended.expect("it ends").contains('3'));
    }
}
