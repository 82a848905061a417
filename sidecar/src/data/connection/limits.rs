//! The bounds of connections: how many, how long they may stand still in each direction, how large what they say may be.
//! They are the machine's, so they are arguments; what a route allows of a request is configuration and comes on top.

use http::request::Parts;
use sluice_pipeline::{Reject, RejectReason};

/// Descriptors kept for what is no connection of a client: logs, the operator's stream, stores, pages, probes.
const RESERVED: u64 = 48;
/// And for each data thread: its listeners, its poller, connections that are being refused.
const RESERVED_PER_THREAD: u64 = 24;

/// Bounds of a sidecar's connections from clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections of all data threads that may be open.
    pub max: usize,
    /// Of each data thread.
    pub max_per_thread: usize,
    /// How old a connection may become, in milliseconds, give or take a tenth; none: as old as it likes.
    pub max_age_ms: Option<u64>,
    /// How long one may stand without a request, in milliseconds.
    pub idle_ms: u64,
    /// How long a head may take, in milliseconds: the first from the connection's beginning.
    pub head_ms: u64,
    /// How long a request's body may be waited for in which less than [`Self::min_rate`] came, in milliseconds.
    pub body_stall_ms: u64,
    /// How long an answer may wait for a client that reads less than [`Self::min_rate`], in milliseconds.
    pub answer_stall_ms: u64,
    /// Bytes per second that a client must send or read while it is waited for.
    pub min_rate: u64,
    /// Streams of one HTTP/2 connection that may be open.
    pub max_streams: u32,
    /// Field lines of a request.
    pub max_headers: usize,
    /// Bytes of a request's target, path and query.
    pub max_target: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max: 8_192,
            max_per_thread: 8_192,
            max_age_ms: Some(3_600_000),
            idle_ms: 75_000,
            head_ms: 10_000,
            body_stall_ms: 30_000,
            answer_stall_ms: 30_000,
            min_rate: 100,
            max_streams: 128,
            max_headers: 100,
            max_target: 16 << 10,
        }
    }
}

impl ConnectionLimits {
    /// The same for a process that may have `descriptors` open. Each connection may need a second one, to its upstream:
    /// those that are open go on being served while new ones are refused.
    #[must_use]
    pub fn within_descriptors(self, descriptors: u64, threads: u16) -> Self {
        let reserved = RESERVED + RESERVED_PER_THREAD * u64::from(threads);
        let room = descriptors.saturating_sub(reserved) / 2;
        let room = usize::try_from(room).unwrap_or(usize::MAX).max(1);
        Self {
            max: self.max.min(room),
            ..self
        }
    }

    /// Whether a request's head is within the bounds of every port. Called before anything else looks at it.
    pub fn admit(&self, parts: &Parts) -> Result<(), Reject> {
        let target = parts
            .uri
            .path_and_query()
            .map_or(0, |all| all.as_str().len());
        if target > self.max_target {
            return Err(Reject::new(RejectReason::TargetTooLong)
                .detail(format!("{target} of {} bytes", self.max_target)));
        }
        let lines = parts.headers.len();
        if lines > self.max_headers {
            return Err(Reject::new(RejectReason::HeadersTooLarge)
                .detail(format!("{lines} of {} header lines", self.max_headers)));
        }
        Ok(())
    }

    /// How often connections are looked at, in milliseconds. What stands still is noticed at one look and ended at a later one:
    /// twice this is the most that is added to a bound.
    pub fn look_every_ms(&self) -> u64 {
        let shortest = self.head_ms.min(self.answer_stall_ms).min(self.idle_ms);
        (shortest / 8).clamp(50, 500)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_leave_room_for_upstreams_and_for_ourselves() {
        let limits = ConnectionLimits::default();
        let max = |descriptors| limits.within_descriptors(descriptors, 2).max;
        assert_eq!(max(1 << 20), limits.max);
        assert_eq!(max(1024), (1024 - 96) / 2);
        assert_eq!(max(100), 2);
        assert_eq!(max(10), 1, "one at least, or nobody could be served");
    }

    #[test]
    fn heads_are_counted_to_the_line_and_the_byte() {
        let limits = ConnectionLimits {
            max_headers: 2,
            max_target: 6,
            ..ConnectionLimits::default()
        };
        let reason = |target: &str, lines: usize| {
            let mut request = http::Request::builder().uri(target);
            for _ in 0..lines {
                request = request.header("x-a", "1");
            }
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            limits.admit(&parts).map_err(|reject| reject.reason)
        };
        assert_eq!(reason("/p?a=1", 2), Ok(()));
        assert_eq!(reason("/p?a=12", 2), Err(RejectReason::TargetTooLong));
        assert_eq!(reason("/p?a=1", 3), Err(RejectReason::HeadersTooLarge));
    }
}
