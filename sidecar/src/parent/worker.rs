//! The worker: how the parent starts it, and what it reads of that at its own start.

use std::{
    env,
    os::{fd::AsFd, unix::process::CommandExt},
    process::Command,
};

use anyhow::Context;
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::{
    cli::Supervise,
    listeners::{COUNT_VARIABLE, Listeners, NAMES_VARIABLE},
};

/// The environment variable with the parent's process id.
const PARENT_VARIABLE: &str = "SLUICE_SUPERVISOR_PID";
/// The environment variable with the number of workers that ended unasked.
const RESTARTS_VARIABLE: &str = "SLUICE_WORKER_RESTARTS";
/// The environment variable that is set where a worker before this one drained.
const DRAINING_VARIABLE: &str = "SLUICE_WORKER_DRAINING";
/// How a worker tells its parent that it drains.
pub const DRAINS: Signal = Signal::USR1;
/// The first descriptor that is handed over: `SD_LISTEN_FDS_START`.
const FIRST_DESCRIPTOR: i32 = 3;

/// Starts a worker with the parent's arguments and sockets. One that follows a draining one drains, too: the pod's preStop
/// hook is called once.
pub fn start(
    supervise: &Supervise,
    listeners: &Listeners,
    restarts: u64,
    draining: bool,
) -> anyhow::Result<Pid> {
    let sockets = listeners.named();
    let names: Vec<_> = sockets.iter().map(|(name, _)| name.as_str()).collect();
    let mappings = sockets
        .iter()
        .zip(FIRST_DESCRIPTOR..)
        .map(|((_, socket), child_fd)| {
            let parent_fd = socket.as_fd().try_clone_to_owned()?;
            Ok(FdMapping {
                parent_fd,
                child_fd,
            })
        });
    let mappings = mappings
        .collect::<std::io::Result<Vec<_>>>()
        .context("no descriptors for the worker")?;
    // Not by its path: another file may be there by now.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("sluice-sidecar")
        .args(&supervise.line)
        .env(NAMES_VARIABLE, names.join(":"))
        .env(COUNT_VARIABLE, names.len().to_string())
        .env_remove("LISTEN_PID")
        .env(PARENT_VARIABLE, std::process::id().to_string())
        .env(RESTARTS_VARIABLE, restarts.to_string())
        // A terminal's Ctrl-C reaches it once, through the parent.
        .process_group(0);
    if draining {
        command.env(DRAINING_VARIABLE, "1");
    }
    if !supervise.args.wait_for_app {
        command.arg("--wait-for-app");
    }
    command
        .fd_mappings(mappings)
        .context("two sockets would be one descriptor")?;
    let child = command.spawn().context("the worker cannot be started")?;
    Pid::from_raw(child.id().cast_signed()).context("a process id is above zero")
}

/// What a worker knows of its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pid: Pid,
    /// Workers before this one that ended unasked.
    pub restarts: u64,
    /// Whether the worker before this one was draining.
    pub draining: bool,
}

/// A parent that is not what the environment says.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// A variable is no number.
    #[error("{0} is no number; is it set by something else than `supervise`?")]
    Variable(&'static str),
    /// It died between starting this worker and now.
    #[error("the parent process is gone")]
    Gone,
    /// The kernel refuses.
    #[error("this worker cannot be bound to its parent: {0}")]
    Bind(std::io::Error),
}

impl Parent {
    /// The parent, if there is one. From then on this process dies with it: it could not be restarted any more, and its
    /// successor's parent could not have the ports.
    pub fn meet() -> Result<Option<Self>, ParentError> {
        let Ok(pid) = env::var(PARENT_VARIABLE) else {
            return Ok(None);
        };
        let pid: i32 = pid
            .parse()
            .map_err(|_| ParentError::Variable(PARENT_VARIABLE))?;
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| ParentError::Bind(error.into()))?;
        let pid = getppid()
            .filter(|parent| parent.as_raw_nonzero().get() == pid)
            .ok_or(ParentError::Gone)?;
        let restarts = env::var(RESTARTS_VARIABLE)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(ParentError::Variable(RESTARTS_VARIABLE))?;
        let draining = env::var_os(DRAINING_VARIABLE).is_some();
        Ok(Some(Self {
            pid,
            restarts,
            draining,
        }))
    }

    /// Tells the parent that this worker drains, for the sake of the next one.
    pub fn tell_draining(self) {
        if let Err(error) = kill_process(self.pid, DRAINS) {
            tracing::warn!(%error, "the parent does not know of the drain; a next worker would not drain");
        }
    }
}
