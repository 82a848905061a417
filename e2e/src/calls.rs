//! What runs inside the client pod: single requests, loads and raw connections. It retries nothing, so that a test sees
//! what a strict client sees.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{HeaderName, HeaderValue, Method};
use sluice_tests::http::{Connection, Protocol};
use sluice_tests::load::{Report, percentile};
use sluice_tests::{Load, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};

use crate::wire::{Ask, LoadReport, LoadSpec, TcpAsk, TcpTold, Told};

/// How long a raw connection may say nothing until it is taken for finished.
const SILENCE: Duration = Duration::from_secs(2);
/// The most that is read of a raw connection.
const MOST_BYTES: usize = 64 << 10;
/// Reasons kept of a load.
const REASONS: usize = 10;

/// The first IPv4 address of `host:port`, else the first at all.
pub async fn resolve(to: &str) -> Result<SocketAddr> {
    let found: Vec<_> = lookup_host(to)
        .await
        .with_context(|| format!("resolving {to}"))?
        .collect();
    let four = found.iter().find(|address| address.is_ipv4());
    four.or(found.first())
        .copied()
        .with_context(|| format!("{to} has no address"))
}

fn built(ask: &Ask) -> Result<http::Request<bytes::Bytes>> {
    let method = match ask.method.as_str() {
        "" => Method::GET,
        name => name.parse()?,
    };
    ensure!(ask.path.starts_with('/'), "{:?} is no path", ask.path);
    let mut request = request(method, &ask.path, ask.body.clone());
    for (name, value) in &ask.headers {
        request
            .headers_mut()
            .append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    if !request.headers().contains_key(http::header::HOST) {
        request
            .headers_mut()
            .insert(http::header::HOST, ask.to.parse()?);
    }
    Ok(request)
}

/// Sends one request after the other, each on a connection of its own.
pub async fn send(asks: Vec<Ask>) -> Vec<Told> {
    let mut told = Vec::with_capacity(asks.len());
    for ask in asks {
        told.push(match one(&ask).await {
            Ok(told) => told,
            Err(error) => Told::Error(format!("{error:#}")),
        });
    }
    told
}

async fn one(ask: &Ask) -> Result<Told> {
    let request = built(ask)?;
    let mut connection = Connection::open(resolve(&ask.to).await?, Protocol::Http1).await?;
    let answer = connection.send(request).await?;
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Ok(Told::Answer {
        status: answer.status.as_u16(),
        headers: answer
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body: answer.text(),
    })
}

/// Sends at a constant rate until `end`, at most for as long as told.
pub async fn load(spec: LoadSpec, end: impl Future<Output = ()>) -> Result<LoadReport> {
    let address = resolve(&spec.ask.to).await?;
    let parts = spec.connections.max(1);
    let running: Vec<_> = (0..parts)
        .map(|part| {
            let (ask, share) = (spec.ask.clone(), share(spec.per_second, parts, part));
            let mut load = Load::against(address)
                .strict()
                .per_second(share)
                .fresh_every(u64::from(spec.connections == 0))
                .request(move |_| built(&ask).expect("it was built before"));
            if spec.http2 {
                load = load.http2();
            }
            load
        })
        .collect();
    // Before any is started: a request that cannot be built ends the load with words.
    built(&spec.ask)?;
    let running: Vec<_> = running.into_iter().map(Load::start).collect();
    let bound = Duration::from_secs(u64::from(spec.at_most_seconds));
    // Either way it is over.
    let _ = tokio::time::timeout(bound, end).await;
    let mut whole = Report::default();
    for load in running {
        merge(&mut whole, load.finish().await);
    }
    whole.latencies.sort_unstable();
    Ok(summary(&whole))
}

/// The rate of one of several connections; together they make the whole.
fn share(per_second: u32, parts: u32, part: u32) -> u32 {
    per_second / parts + u32::from(part < per_second % parts)
}

fn merge(whole: &mut Report, part: Report) {
    let Report {
        sent,
        statuses,
        failed,
        unconnected,
        reasons,
        latencies,
    } = part;
    whole.sent += sent;
    whole.failed += failed;
    whole.unconnected += unconnected;
    for (status, count) in statuses {
        *whole.statuses.entry(status).or_default() += count;
    }
    let room = REASONS.saturating_sub(whole.reasons.len());
    whole.reasons.extend(reasons.into_iter().take(room));
    whole.latencies.extend(latencies);
}

fn summary(report: &Report) -> LoadReport {
    let ms = |percent| percentile(&report.latencies, percent).as_secs_f64() * 1000.0;
    LoadReport {
        sent: report.sent,
        failed: report.failed,
        unconnected: report.unconnected,
        statuses: report.statuses.clone(),
        reasons: report.reasons.clone(),
        p50_ms: ms(50.0),
        p99_ms: ms(99.0),
        max_ms: ms(100.0),
    }
}

/// One raw connection, to its end or to the first silence.
pub async fn tcp(ask: TcpAsk) -> TcpTold {
    let mut told = TcpTold::default();
    if let Err(error) = talk(&ask, &mut told.received).await {
        told.error = Some(format!("{error:#}"));
    }
    told
}

async fn talk(ask: &TcpAsk, received: &mut String) -> Result<()> {
    let mut stream =
        tokio::time::timeout(SILENCE, TcpStream::connect(resolve(&ask.to).await?)).await??;
    if ask.server_first {
        read_some(&mut stream, received).await?;
    }
    if !ask.send.is_empty() {
        stream.write_all(ask.send.as_bytes()).await?;
    }
    while received.len() < MOST_BYTES && read_some(&mut stream, received).await? {}
    Ok(())
}

/// Whether something came.
async fn read_some(stream: &mut TcpStream, received: &mut String) -> Result<bool> {
    let mut buffer = [0; 4096];
    match tokio::time::timeout(SILENCE, stream.read(&mut buffer)).await {
        Err(_) => Ok(false),
        Ok(read) => {
            let read = read?;
            received.push_str(&String::from_utf8_lossy(&buffer[..read]));
            Ok(read > 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_make_the_whole() {
        let whole: u32 = (0..8).map(|part| share(150, 8, part)).sum();
        assert_eq!(whole, 150);
        assert_eq!(share(150, 1, 0), 150);
    }

    #[test]
    fn a_request_names_the_host_it_goes_to() {
        let ask = Ask {
            to: "web:80".into(),
            path: "/".into(),
            ..Ask::default()
        };
        assert_eq!(built(&ask).unwrap().headers()["host"], "web:80");
        let ask = Ask {
            path: "no path".into(),
            ..ask
        };
        assert!(built(&ask).is_err());
    }
}
