//! Process 1 of a pod's container, `sluice-sidecar supervise`: it holds the sockets and restarts the worker that serves. The
//! kubelet restarts a container too, but from the second time on only after 10 s and more, with every connection refused
//! meanwhile. Here the next worker is there at once and finds the waiting connections in its queues.
//!
//! It is small on purpose, since nobody restarts it without loss: one thread, no runtime, nothing read from the network.
//! A worker that hangs is not its affair.

mod pacing;
mod signals;
mod worker;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait},
};

use crate::{cli::Supervise, listeners::Listeners};
use pacing::Pacing;
use signals::Signals;
pub use worker::{Parent, ParentError};

/// Runs until the worker ends after SIGTERM or SIGINT; its exit code is the parent's own.
pub fn supervise(supervise: &Supervise) -> anyhow::Result<ExitCode> {
    let listeners = Listeners::bind(&supervise.args)?;
    let mut signals = Signals::listen().context("signals cannot be listened to")?;
    let mut pacing = Pacing::default();
    let mut restarts = 0;
    loop {
        let began = Instant::now();
        let ended = match worker::start(supervise, &listeners, restarts, signals.draining()) {
            Ok(pid) => attend(pid, &mut signals)?,
            Err(error) => {
                tracing::error!(%error, "no worker could be started");
                Ended::NEVER_RAN
            }
        };
        if signals.asked() {
            return Ok(ended.code());
        }
        restarts += 1;
        let pause = pacing.after(began.elapsed());
        tracing::error!(%ended, restarts, restart_in_ms = pause.as_millis(), "the worker ended unasked");
        rest(pause, &mut signals)?;
        if signals.asked() {
            return Ok(ended.code());
        }
    }
}

/// Waits for the end of the worker. Meanwhile signals are passed on to it, and orphans reaped: they become children of
/// process 1.
fn attend(worker: Pid, signals: &mut Signals) -> anyhow::Result<Ended> {
    loop {
        while let Some((child, status)) = reap()? {
            if child == worker {
                return Ok(Ended::from(status));
            }
        }
        for signal in signals.take() {
            // It may have ended this moment.
            let _ = kill_process(worker, signal);
        }
        signals.wait(None)?;
    }
}

/// Waits between two workers, unless asked to end.
fn rest(pause: Duration, signals: &mut Signals) -> anyhow::Result<()> {
    let began = Instant::now();
    while !signals.asked() {
        let left = pause.saturating_sub(began.elapsed());
        if left.is_zero() {
            break;
        }
        signals.wait(Some(left))?;
        while reap()?.is_some() {}
    }
    Ok(())
}

/// A child that has ended; none: none has, or there is none.
fn reap() -> anyhow::Result<Option<(Pid, WaitStatus)>> {
    match wait(WaitOptions::NOHANG) {
        Ok(ended) => Ok(ended),
        Err(Errno::CHILD | Errno::INTR) => Ok(None),
        Err(error) => Err(error).context("children cannot be waited for"),
    }
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Exit(u8),
    Signal(u8),
}

impl Ended {
    const NEVER_RAN: Self = Self::Exit(1);

    /// Shells say it this way too: 128 and the signal.
    fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Exit(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        })
    }
}

impl From<WaitStatus> for Ended {
    fn from(status: WaitStatus) -> Self {
        let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        match status.terminating_signal() {
            Some(signal) => Self::Signal(small(signal)),
            None => Self::Exit(status.exit_status().map_or(u8::MAX, small)),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match Signal::from_named_raw(i32::from(*signal)) {
                Some(signal) => write!(f, "{signal:?}"),
                None => write!(f, "signal {signal}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_worker_is_told_as_shells_do() {
        assert_eq!(Ended::Signal(9).code(), ExitCode::from(137));
        assert_eq!(Ended::Exit(3).code(), ExitCode::from(3));
        assert!(Ended::Signal(9).to_string().to_lowercase().contains("kill"));
    }
}
