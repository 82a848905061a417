//! The client's side: other processes of its pod, where the pod's containers share them.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// What a process of the container `sluice` is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Process 1: holds the listeners.
    Parent,
    /// Serves.
    Worker,
}

/// The process of that role.
pub fn find(role: Role) -> Result<u32> {
    std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline"));
            line.is_ok_and(|line| self::role(&line) == Some(role))
        })
        .with_context(|| format!("no {role:?} of a sidecar among the processes of this pod: does it set shareProcessNamespace?"))
}

/// The role of a command line; none: no sidecar, or a hook of it.
fn role(line: &[u8]) -> Option<Role> {
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let program = words.next()?.into_owned();
    let name = Path::new(&program).file_name()?;
    if name != "sluice-sidecar" && name != "exe" {
        return None;
    }
    match words.next()?.as_ref() {
        "supervise" => Some(Role::Parent),
        word if word.starts_with("--") => Some(Role::Worker),
        _ => None,
    }
}

/// SIGKILL.
pub fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.context("no process id")?, Signal::KILL).context("it may be another user's")
}

#[cfg(test)]
mod tests {
    use super::{Role, role};

    #[test]
    fn a_command_line_tells_the_role() {
        let worker = Some(Role::Worker);
        assert_eq!(role(b"/sluice-sidecar\0--capture=[::]:15006\0"), worker);
        assert_eq!(role(b"/proc/self/exe\0--operator=x\0"), worker);
        let parent = role(b"/sluice-sidecar\0supervise\0--capture=x\0");
        assert_eq!(parent, Some(Role::Parent));
        assert_eq!(role(b"/sluice-sidecar\0drain\0"), None);
        assert_eq!(role(b"/app\0--listen\0"), None);
    }
}
