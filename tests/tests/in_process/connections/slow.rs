//! Clients that are slow on purpose, in each direction: closed in their time, while nobody else notices.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use sluice_tests::{eventually, isolated, seconds};
use tokio::task::JoinSet;

use super::raw::{End, drip, frame, header_block, preface, sip};
use super::{closed_for, open_pod, others};

/// Each of the bounds.
const BOUND: &str = "1500ms";
const BOUND_MS: Duration = Duration::from_millis(1500);
/// How much later the end may be seen.
const LATE: Duration = Duration::from_secs(1);
/// Of each kind.
const CLIENTS: usize = 50;
/// How often they do what they do: less than the least rate.
const EVERY: Duration = Duration::from_millis(200);

const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: open.example\r\n";
const BODY: &[u8] = b"POST / HTTP/1.1\r\nhost: open.example\r\ncontent-length: 100000\r\n\r\n";
const LARGE: &[u8] = b"GET /?bytes=1000000 HTTP/1.1\r\nhost: open.example\r\n\r\n";

/// All were closed in their time with this status.
fn judge(kind: &str, ends: &[End], status: u16) -> Result<()> {
    let ends_at = |end: &End| end.after;
    let (first, last) = (
        ends.iter().map(ends_at).min(),
        ends.iter().map(ends_at).max(),
    );
    println!(
        "{kind}: {} closed between {first:.2?} and {last:.2?}",
        ends.len()
    );
    for end in ends {
        ensure!(
            end.after >= BOUND_MS - Duration::from_millis(50) && end.after <= BOUND_MS + LATE,
            "{kind}: {:?}",
            end.after
        );
        ensure!(end.status() == status, "{kind}: {}", end.text());
    }
    Ok(())
}

async fn all(mut clients: JoinSet<Result<End>>) -> Result<Vec<End>> {
    let mut ends = Vec::new();
    while let Some(end) = clients.join_next().await {
        ends.push(end??);
    }
    Ok(ends)
}

#[test]
fn slow_clients_are_closed_in_their_time_and_cost_nobody_else() {
    isolated!(async |world| {
        // Of this network namespace: what the kernel takes without a reader is no answer that waits.
        for buffers in ["tcp_rmem", "tcp_wmem"] {
            fs::write(format!("/proc/sys/net/ipv4/{buffers}"), "4096 16384 65536")?;
        }
        let args = [
            "--head-timeout",
            BOUND,
            "--body-stall-timeout",
            BOUND,
            "--answer-stall-timeout",
            BOUND,
            "--min-rate",
            "1000",
        ];
        let place = open_pod(world, &args).await?;
        let sidecar = &place.pods[0].sidecar;
        let address = sidecar.address;
        let others = others(sidecar).start();

        let [mut heads, mut bodies, mut readers, mut blocks] = [(); 4].map(|()| JoinSet::new());
        for number in 0..CLIENTS {
            heads.spawn(drip(address, HEAD, b"x-a: b\r\n", EVERY));
            bodies.spawn(drip(address, BODY, b"a few bytes", EVERY));
            // Half of them read nothing at all.
            readers.spawn(sip(address, LARGE, number % 2 * 20, EVERY / 4));
        }
        // A header block of HTTP/2 that never ends: of a frame that announces a thousand bytes.
        let headers = frame(1, 5, 1, &[0; 1000]);
        let open = [&preface()[..], &headers[..9], &header_block()].concat();
        for _ in 0..4 {
            let open = open.clone();
            blocks.spawn(async move { drip(address, &open, &[0x86], EVERY).await });
        }
        let (heads, bodies, readers, blocks) = (
            all(heads).await?,
            all(bodies).await?,
            all(readers).await?,
            all(blocks).await?,
        );
        let others = others.finish_after(1000).await;
        println!("others: {others}");
        ensure!(others.failed == 0, "{others}");
        judge("slow heads", &heads, 408)?;
        judge("slow bodies", &bodies, 408)?;
        judge("slow readers", &readers, 0)?;
        judge("slow header blocks", &blocks, 0)?;
        ensure!(
            heads[0].text().contains("problems/request-timeout"),
            "{}",
            heads[0].text()
        );
        ensure!(
            bodies[0].text().contains("\r\nconnection: close\r\n"),
            "{}",
            bodies[0].text()
        );
        for block in &blocks {
            ensure!(super::raw::goaways(&block.read) == [0xb], "{block:?}");
        }

        for (reason, count) in [
            ("head-timeout", CLIENTS + blocks.len()),
            ("body-stalled", CLIENTS),
            ("answer-stalled", CLIENTS),
        ] {
            let closed = closed_for(sidecar, reason).await?;
            ensure!(closed == count as u64, "{closed} for {reason}");
        }
        eventually("the lines of all of them", seconds(10), async || {
            let lines = sidecar.access_log();
            let count = |status: u64, reason: &str| {
                let is = |line: &&Value| line["status"] == status && line["reason"] == reason;
                lines.iter().filter(is).count()
            };
            ensure!(count(408, "head-timeout") == CLIENTS);
            ensure!(count(408, "request-timeout") == CLIENTS);
            ensure!(count(200, "answer-stalled") == CLIENTS);
            Ok(())
        })
        .await
    });
}
