//! Processor time as the scheduler accounts it, and where things run.

use std::{fs, io, process::Child, time::Duration};

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps the calling thread, and what it starts from now on, on one core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Starts a process on one core. It inherits the core from a thread that is there for nothing else.
pub fn start_on(core: usize, command: &mut std::process::Command) -> Result<Child> {
    std::thread::scope(|scope| {
        let starter = scope.spawn(|| {
            pin(core).with_context(|| format!("there is no core {core} for this process"))?;
            command.spawn().context("cannot start the program")
        });
        starter
            .join()
            .unwrap_or_else(|_| anyhow::bail!("the starting thread panicked"))
    })
}

/// The time that all threads of a process and of its children have run (the first field of `schedstat`, in nanoseconds).
pub fn time_of(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")? {
        let thread = thread?.path();
        // A thread may end between the two looks; its time is then lost, as is that of those before.
        let Ok(text) = fs::read_to_string(thread.join("schedstat")) else {
            continue;
        };
        let field = text
            .split(' ')
            .next()
            .and_then(|field| field.parse::<u64>().ok());
        nanoseconds += field.context("the kernel gives no schedstat")?;
        let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let time = time_of(child.parse()?)?;
            nanoseconds += u64::try_from(time.as_nanos())?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Resident memory of a process in KiB, anonymous and whole.
pub fn memory_of(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some((field("RssAnon:")?, field("VmRSS:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_grows_with_work_of_any_thread() {
        let me = std::process::id();
        let before = time_of(me).expect("schedstat");
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let work = std::thread::spawn(move || {
            while ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {}
        });
        while time_of(me).expect("schedstat") <= before {}
        drop(end);
        work.join().expect("it only counted time");
    }

    #[test]
    fn a_started_process_stays_on_its_core() {
        let mut command = std::process::Command::new("grep");
        command
            .args(["Cpus_allowed_list", "/proc/self/status"])
            .stdout(std::process::Stdio::piped());
        let child = start_on(0, &mut command).expect("core 0 is there");
        let said = child.wait_with_output().expect("it ends").stdout;
        assert_eq!(
            String::from_utf8_lossy(&said).split_whitespace().last(),
            Some("0")
        );
    }
}
