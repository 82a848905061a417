//! System calls of a process, as strace counts them.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::proxied::poll;

/// How long strace may take to attach.
const PATIENCE: Duration = Duration::from_secs(10);

/// System calls of all threads of a process, for each of what `work` counts.
pub fn per(pid: u32, dir: &Path, work: impl FnOnce() -> Result<u64>) -> Result<f64> {
    let out = dir.join("strace");
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-p", &pid.to_string(), "-o"])
        .arg(&out)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("strace is not installed")?;
    let attached = poll::until(PATIENCE, || {
        ensure!(
            strace.try_wait()?.is_none(),
            "strace ended: may processes be traced here?"
        );
        ensure!(all_traced(pid)?, "strace does not attach");
        Ok(())
    });
    let worked = attached.and_then(|()| work());
    // It detaches, writes its table, and ends.
    kill_process(Pid::from_child(&strace), Signal::INT)?;
    strace.wait()?;
    let calls = total(&fs::read_to_string(&out)?).context("strace's table has no total")?;
    Ok(calls as f64 / worked? as f64)
}

/// Whether every thread has a tracer.
fn all_traced(pid: u32) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.is_none_or(|tracer| tracer.trim() == "0") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The calls of the last line: `100.00 0.5 10 4000 12 total`, of which the errors may be absent.
fn total(table: &str) -> Option<u64> {
    let line = table.lines().rev().find(|line| line.ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn the_total_is_read() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     \x20 60.00    0.000600           1       600           read\n\
                     100.00    0.001000           1      1000        20 total\n";
        assert_eq!(total(table), Some(1000));
        assert_eq!(total(""), None);
    }
}
