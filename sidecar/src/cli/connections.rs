//! The bounds of connections as arguments: what a pod can bear is the machine's affair, not the platform's policy.

use std::time::Duration;

use clap::Args;

use super::duration;
use crate::data::ConnectionLimits;

/// How many connections, how long, how large.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connections")]
pub struct ConnectionArgs {
    /// Connections from clients that may be open at a time; more are answered 503 and closed.
    ///
    /// An idle one takes about 20 KiB. Where the limit of open files allows fewer (each may need a second descriptor, to the
    /// application), that many.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = at_least(1))]
    pub max_connections: u64,

    /// Of these, what one data thread may hold [default: all].
    ///
    /// The kernel spreads connections over the threads by their addresses, so a few clients with many connections may
    /// burden one thread.
    #[arg(long, value_name = "N", value_parser = at_least(1))]
    pub max_connections_per_thread: Option<u64>,

    /// How old a connection becomes before its client is asked to make a new one, give or take a tenth; 0s: as old as it
    /// likes.
    ///
    /// HTTP/1.1 hears it with its next answer (Connection: close), HTTP/2 by GOAWAY. Without it, clients that never
    /// reconnect never find pods that were added.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub max_connection_age: Duration,

    /// How long a connection may stand without a request. Longer than the clients' own, or they meet closed connections.
    #[arg(long, value_name = "DURATION", default_value = "75s", value_parser = positive)]
    pub idle_timeout: Duration,

    /// How long a request's head may take until it is whole: of a new connection from its beginning. Then 408.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = positive)]
    pub head_timeout: Duration,

    /// How long a request's body may be waited for while less than --min-rate comes. Then 408.
    ///
    /// It does not count once the answer has begun, nor for gRPC, whose calls have deadlines of their own.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = positive)]
    pub body_stall_timeout: Duration,

    /// How long an answer may wait for a client that reads less than --min-rate. Then the connection is reset.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = positive)]
    pub answer_stall_timeout: Duration,

    /// Bytes per second that a client must send or read while it is waited for: dripping is as standing still.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub min_rate: u64,

    /// Streams that one HTTP/2 connection may have open; more are refused and may be tried again.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_streams: u32,

    /// Header lines of a request, on any port, then 431. What a route allows in bytes is its requestLimits.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub max_headers: u16,

    /// Bytes of a request's path and query, on any port, then 414.
    #[arg(long, value_name = "BYTES", default_value_t = 16384, value_parser = clap::value_parser!(u16).range(64..=65000))]
    pub max_target: u16,
}

impl ConnectionArgs {
    /// The same as the data threads take them.
    pub fn limits(&self) -> ConnectionLimits {
        let Self {
            max_connections,
            max_connections_per_thread,
            max_connection_age,
            idle_timeout,
            head_timeout,
            body_stall_timeout,
            answer_stall_timeout,
            min_rate,
            max_streams,
            max_headers,
            max_target,
        } = self;
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        ConnectionLimits {
            max: count(*max_connections),
            max_per_thread: max_connections_per_thread.map_or(usize::MAX, count),
            max_age_ms: Some(ms(max_connection_age)).filter(|age_ms| *age_ms > 0),
            idle_ms: ms(idle_timeout),
            head_ms: ms(head_timeout),
            body_stall_ms: ms(body_stall_timeout),
            answer_stall_ms: ms(answer_stall_timeout),
            min_rate: *min_rate,
            max_streams: *max_streams,
            max_headers: usize::from(*max_headers),
            max_target: usize::from(*max_target),
        }
    }
}

fn at_least(least: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(least..)
}

fn positive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing".into()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        connections: ConnectionArgs,
    }

    fn limits(words: &[&str]) -> Result<ConnectionLimits, clap::Error> {
        let words = ["sidecar"].into_iter().chain(words.iter().copied());
        Line::try_parse_from(words).map(|line| line.connections.limits())
    }

    #[test]
    fn defaults_are_those_of_the_data_threads() {
        let default = ConnectionLimits {
            max_per_thread: usize::MAX,
            ..ConnectionLimits::default()
        };
        assert_eq!(limits(&[]).expect("parses"), default);
    }

    #[test]
    fn what_would_serve_nobody_is_refused_and_age_can_be_none() {
        for bad in [
            ["--max-connections", "0"],
            ["--head-timeout", "0s"],
            ["--idle-timeout", "0ms"],
            ["--max-headers", "0"],
            ["--max-headers", "101"],
        ] {
            assert!(limits(&bad).is_err(), "{bad:?}");
        }
        let ageless = limits(&["--max-connection-age", "0s"]).expect("parses");
        assert_eq!(ageless.max_age_ms, None);
    }
}
