//! A program that a test started: its output goes to files of the world, signals go to its pid, and it dies with its
//! handle. What it is started with is the caller's.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

use crate::wait::eventually;
use crate::world::World;

/// A running program. Dropping it kills it (SIGKILL) and waits for its end.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// Starts `command`; its output is appended to `logs/NAME.out` and `logs/NAME.err`, so that a restart under the
    /// same name keeps the story in one place.
    pub fn start(world: &World, name: &str, mut command: Command) -> Result<Self> {
        let [out, err] = ["out", "err"].map(|end| world.logs().join(format!("{name}.{end}")));
        let append = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
        let child = command
            .stdin(Stdio::null())
            .stdout(append(&out)?)
            .stderr(append(&err)?)
            .spawn()
            .with_context(|| {
                format!(
                    "starting {name}: {}",
                    command.get_program().to_string_lossy()
                )
            })?;
        Ok(Self {
            name: name.into(),
            child,
            out,
            err,
        })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.out)
    }

    /// Everything it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.err)
    }

    /// Both outputs, for assertions that do not care which.
    pub fn log(&self) -> String {
        self.stdout() + &self.stderr()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid().cast_signed()).context("a process id is above zero")?;
        kill_process(pid, signal)
            .with_context(|| format!("{signal:?} to {}: has it ended?", self.name))
    }

    /// Hangs it: sockets stay open and nothing answers (SIGSTOP).
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends a [`Self::freeze`] (SIGCONT).
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills it as a crash would (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended(within).await
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let Self { name, child, .. } = self;
        eventually(&format!("the end of {name}"), within, async || {
            child.try_wait()?.context("it is still running")
        })
        .await
    }

    /// Waits until `probe` succeeds; the end of the program ends the wait at once, with its log.
    pub async fn ready(
        &mut self,
        within: Duration,
        mut probe: impl AsyncFnMut() -> Result<()>,
    ) -> Result<()> {
        let what = format!("{} ready", self.name);
        eventually(&what, within, async || match self.alive() {
            Ok(()) => probe().await.map(Ok),
            Err(ended) => Ok(Err(ended)),
        })
        .await?
    }

    /// Fails, with its log, when it has ended.
    pub fn alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}): {}", self.name, self.log().trim_end()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read(path: &PathBuf) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::seconds;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn output_and_end_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(dir.path().into()).unwrap();
        let mut running =
            Running::start(&world, "echo", shell("echo one; echo two >&2; exit 3")).unwrap();
        assert_eq!(running.ended(seconds(10)).await.unwrap().code(), Some(3));
        assert_eq!(
            (running.stdout().as_str(), running.stderr().as_str()),
            ("one\n", "two\n")
        );
        assert!(format!("{:#}", running.alive().unwrap_err()).contains("two"));
    }

    #[tokio::test]
    async fn nothing_survives_its_handle() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(dir.path().into()).unwrap();
        let running = Running::start(&world, "sleep", shell("exec sleep 600")).unwrap();
        let proc = PathBuf::from(format!("/proc/{}", running.pid()));
        running.freeze().unwrap();
        assert!(proc.exists());
        drop(running);
        assert!(!proc.exists());
    }
}
