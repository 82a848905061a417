//! h2load (nghttp2) as the load generator of what ours does not speak: HTTP/2, and HTTP/1.1 over TLS.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::cells::{Over, PLAIN};
use crate::world::gateway::{HOST, TYPICAL};

/// What to send: GET of [`PLAIN`] with typical headers, from the calling thread's core.
#[derive(Debug, Clone, Copy)]
pub struct H2load {
    /// Whom to ask.
    pub address: SocketAddr,
    /// HTTP/2 in the clear, or HTTP/1.1 over TLS.
    pub over: Over,
    /// Connections.
    pub connections: usize,
    /// Requests under way on each.
    pub streams: usize,
    /// How long.
    pub time: Duration,
}

impl H2load {
    /// How many answers came; all of them 200.
    pub fn run(&self) -> Result<u64> {
        let Self {
            address,
            over,
            connections,
            streams,
            time,
        } = self;
        let (scheme, version) = match over {
            Over::Tls => ("https", "--h1"),
            Over::Http2 => ("http", "--no-tls-proto=h2c"),
            Over::Plain => ("http", "--h1"),
        };
        let mut command = Command::new("h2load");
        command
            .args(["--threads=1", version])
            .arg(format!("--connect-to={address}"))
            .arg(format!("--clients={connections}"))
            .arg(format!("--max-concurrent-streams={streams}"))
            .arg(format!("--duration={}", time.as_secs().max(1)));
        for (name, value) in TYPICAL {
            command.arg(format!("--header={name}: {value}"));
        }
        command
            .arg(format!("{scheme}://{HOST}:{}{PLAIN}", address.port()))
            .stdin(Stdio::null());
        let said = command.output().context("h2load is not installed")?;
        let said = String::from_utf8_lossy(&said.stdout);
        let Answers { all, bad } = answers(&said).context("h2load says nothing")?;
        ensure!(all > 0, "no answer");
        ensure!(bad == 0, "{bad} answers failed or were not 200");
        Ok(all)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answers {
    all: u64,
    bad: u64,
}

/// The counts of `requests:` and `status codes:`.
fn answers(said: &str) -> Option<Answers> {
    let counts = |start: &str| {
        let mut lines = said.lines();
        lines.find_map(|line| line.strip_prefix(start))
    };
    let count = |counts: &str, what: &str| -> Option<u64> {
        let mut counts = counts.split(',');
        let count = counts.find_map(|count| count.trim().strip_suffix(what))?;
        count.trim().parse().ok()
    };
    let (requests, codes) = (counts("requests:")?, counts("status codes:")?);
    let mut bad = count(requests, "failed")? + count(requests, "errored")?;
    for class in ["3xx", "4xx", "5xx"] {
        bad += count(codes, class)?;
    }
    Some(Answers {
        all: count(requests, "done")?,
        bad,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_answers_are_told_from_all() {
        let said = "\
finished in 2.00s, 100 req/s, 20KB/s
requests: 205 total, 205 started, 200 done, 198 succeeded, 1 failed, 1 errored, 0 timeout
status codes: 198 2xx, 0 3xx, 1 4xx, 1 5xx
";
        assert_eq!(answers(said), Some(Answers { all: 200, bad: 4 }));
        assert_eq!(answers(""), None);
    }
}
