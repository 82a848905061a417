//! The client's side: other processes of its pod, where the pod's containers share them.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// The process that serves: the sidecar's program, but neither process 1 of its container nor a hook.
pub fn worker() -> Result<u32> {
    std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_worker(&line)))
        .context("no worker of a sidecar among the processes of this pod: does it set shareProcessNamespace?")
}

fn is_worker(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let program = words.next().unwrap_or_default().into_owned();
    let serves = Path::new(&program)
        .file_name()
        .is_some_and(|name| name == "sluice-sidecar" || name == "exe");
    serves && words.next().is_some_and(|word| word.starts_with("--"))
}

/// SIGKILL.
pub fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.context("no process id")?, Signal::KILL).context("it may be another user's")
}

#[cfg(test)]
mod tests {
    use super::is_worker;

    #[test]
    fn the_parent_and_the_hooks_are_no_workers() {
        assert!(is_worker(b"/sluice-sidecar\0--capture=[::]:15006\0"));
        assert!(is_worker(b"/proc/self/exe\0--operator=x\0"));
        assert!(!is_worker(b"/sluice-sidecar\0supervise\0--capture=x\0"));
        assert!(!is_worker(b"/sluice-sidecar\0drain\0"));
        assert!(!is_worker(b"/app\0--listen\0"));
    }
}
