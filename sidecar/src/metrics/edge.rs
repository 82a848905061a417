//! What an edge counts of connections and copies: closed lists, counted for each thread.

use std::sync::atomic::{AtomicU64, Ordering};

use sluice_pipeline::RejectReason;

/// How a handshake of TLS ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told by `name`
pub enum Handshaken {
    Done,
    NoListener,
    Failed,
    Timeout,
    TooMany,
}

impl Handshaken {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Done,
        Self::NoListener,
        Self::Failed,
        Self::Timeout,
        Self::TooMany,
    ];

    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NoListener => "no-listener",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::TooMany => "too-many",
        }
    }
}

/// What became of a connection that does not speak HTTP here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told by `name`
pub enum Streamed {
    Passed,
    NoRoute,
    Misconfigured,
    Unreachable,
    Malformed,
    Timeout,
}

impl Streamed {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Passed,
        Self::NoRoute,
        Self::Misconfigured,
        Self::Unreachable,
        Self::Malformed,
        Self::Timeout,
    ];

    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::NoRoute => "no-route",
            Self::Misconfigured => "misconfigured",
            Self::Unreachable => "unreachable",
            Self::Malformed => "malformed",
            Self::Timeout => "timeout",
        }
    }

    /// What a refusal is counted as.
    pub fn of(reason: RejectReason) -> Self {
        match reason {
            RejectReason::NoRoute => Self::NoRoute,
            RejectReason::NoEndpoint => Self::Unreachable,
            _ => Self::Misconfigured,
        }
    }
}

/// What became of a copy of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told by `name`
pub enum Mirrored {
    Sent,
    TooLarge,
    TooMany,
    Incomplete,
    Unavailable,
    Failed,
}

impl Mirrored {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Sent,
        Self::TooLarge,
        Self::TooMany,
        Self::Incomplete,
        Self::Unavailable,
        Self::Failed,
    ];

    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::TooLarge => "too-large",
            Self::TooMany => "too-many",
            Self::Incomplete => "incomplete",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
        }
    }
}

/// The counters of one thread.
#[derive(Debug, Default)]
pub struct EdgeTally {
    handshakes: [AtomicU64; Handshaken::ALL.len()],
    streams: [AtomicU64; Streamed::ALL.len()],
    mirrors: [AtomicU64; Mirrored::ALL.len()],
    streaming: AtomicU64,
}

impl EdgeTally {
    /// A handshake ended.
    pub fn handshaken(&self, how: Handshaken) {
        self.handshakes[how as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that does not speak HTTP here was given on, or closed.
    pub fn streamed(&self, how: Streamed) {
        self.streams[how as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A copy of a request was sent, or not.
    pub fn mirrored(&self, how: Mirrored) {
        self.mirrors[how as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that passes, until the guard is dropped. The pod is not done before it has ended.
    pub fn streaming(&self) -> Streaming<'_> {
        self.streaming.fetch_add(1, Ordering::Relaxed);
        Streaming(self)
    }

    /// Connections that pass.
    pub fn open_streams(&self) -> u64 {
        self.streaming.load(Ordering::Relaxed)
    }

    pub(super) fn handshakes(&self, how: Handshaken) -> u64 {
        self.handshakes[how as usize].load(Ordering::Relaxed)
    }

    pub(super) fn streams(&self, how: Streamed) -> u64 {
        self.streams[how as usize].load(Ordering::Relaxed)
    }

    /// Copies so far.
    pub fn mirrors(&self, how: Mirrored) -> u64 {
        self.mirrors[how as usize].load(Ordering::Relaxed)
    }
}

/// A connection that passes.
#[derive(Debug)]
pub struct Streaming<'t>(&'t EdgeTally);

impl Drop for Streaming<'_> {
    fn drop(&mut self) {
        self.0.streaming.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_counted_is_numbered_as_listed_and_has_names_of_its_own() {
        let numbered = |numbers: Vec<(usize, &'static str)>| {
            let names: BTreeSet<_> = numbers.iter().map(|(_, name)| *name).collect();
            assert_eq!(names.len(), numbers.len());
            assert!(
                numbers
                    .iter()
                    .enumerate()
                    .all(|(at, (number, _))| at == *number)
            );
        };
        numbered(
            Handshaken::ALL
                .map(|how| (how as usize, how.name()))
                .to_vec(),
        );
        numbered(Streamed::ALL.map(|how| (how as usize, how.name())).to_vec());
        numbered(Mirrored::ALL.map(|how| (how as usize, how.name())).to_vec());
    }
}
