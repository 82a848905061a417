//! Signals as something to wait for with a time limit, without a second thread.

use std::{
    io::{self, ErrorKind, Read},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use signal_hook::{
    consts::{SIGCHLD, SIGINT, SIGTERM},
    flag,
    low_level::pipe,
};

use super::worker::DRAINS;

/// The signals that matter to a parent: SIGTERM, SIGINT, SIGCHLD, which only wakes, and the worker's word that it drains.
pub struct Signals {
    /// A byte for each signal.
    wake: UnixStream,
    ends: [(Signal, Arc<AtomicBool>); 2],
    asked: bool,
    draining: Arc<AtomicBool>,
}

impl Signals {
    /// Listens from now on: before the first child is started.
    pub fn listen() -> io::Result<Self> {
        let (wake, write) = UnixStream::pair()?;
        let ends = [(Signal::TERM, SIGTERM), (Signal::INT, SIGINT)];
        let mut flags = [(); 2]
            .map(|()| Arc::new(AtomicBool::new(false)))
            .into_iter();
        let mut all = Vec::with_capacity(ends.len());
        for (signal, number) in ends {
            let flag = flags.next().unwrap_or_default();
            // The flag first: whoever is woken finds it set.
            flag::register(number, Arc::clone(&flag))?;
            pipe::register(number, write.try_clone()?)?;
            all.push((signal, flag));
        }
        pipe::register(SIGCHLD, write)?;
        let draining = Arc::new(AtomicBool::new(false));
        flag::register(DRAINS.as_raw(), Arc::clone(&draining))?;
        Ok(Self {
            wake,
            ends: all
                .try_into()
                .map_err(|_| io::Error::other("two signals"))?,
            asked: false,
            draining,
        })
    }

    /// The signals to end that came since the last call.
    pub fn take(&mut self) -> Vec<Signal> {
        let came = |(signal, flag): &(Signal, Arc<AtomicBool>)| {
            flag.swap(false, Ordering::SeqCst).then_some(*signal)
        };
        let signals: Vec<_> = self.ends.iter().filter_map(came).collect();
        self.asked |= !signals.is_empty();
        signals
    }

    /// Whether any signal to end has come.
    pub fn asked(&self) -> bool {
        self.asked
            || self
                .ends
                .iter()
                .any(|(_, flag)| flag.load(Ordering::SeqCst))
    }

    /// Whether a worker said that it drains.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Waits for any signal, at most so long.
    pub fn wait(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        self.wake.set_read_timeout(at_most)?;
        match self.wake.read(&mut [0; 64]) {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
