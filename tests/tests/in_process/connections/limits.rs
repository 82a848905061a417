//! How many connections, how old, how large their heads; and the limit of open files.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_tests::http::{Connection, Protocol};
use sluice_tests::{Client, Sidecar, With, eventually, get, isolated, seconds};

use tokio::task::JoinSet;

use super::raw::{End, connect, goaways, last_answer, preface};
use super::{closed_for, open_pod, others};

const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: open.example\r\n\r\n";

async fn kept(address: SocketAddr, count: usize) -> Result<Vec<Connection>> {
    let mut kept = Vec::new();
    for _ in 0..count {
        kept.push(Connection::open(address, Protocol::Http1).await?);
    }
    Ok(kept)
}

async fn serve_all(kept: &mut [Connection]) -> Result<()> {
    for connection in kept {
        let request = get("/").with("host", "open.example");
        connection.send(request).await?.expect(200)?;
    }
    Ok(())
}

/// The same, all at a time.
async fn serve_at_once(kept: Vec<Connection>) -> Result<Vec<Connection>> {
    let mut asking = JoinSet::new();
    for mut connection in kept {
        asking.spawn(async move {
            let request = get("/?delay=300ms").with("host", "open.example");
            connection.send(request).await?.expect(200)?;
            anyhow::Ok(connection)
        });
    }
    asking.join_all().await.into_iter().collect()
}

async fn refused(address: SocketAddr) -> Result<End> {
    last_answer(connect(address).await?, ASK).await
}

/// A connection is served: there was room again.
async fn room(sidecar: &Sidecar) -> Result<()> {
    eventually("room for a connection", seconds(10), async || {
        let request = get("/").with("host", "open.example");
        sidecar
            .client()
            .send_fresh(request)
            .await?
            .expect(200)
            .map(drop)
    })
    .await
}

#[test]
fn one_connection_too_many_is_told_so_and_the_others_go_on() {
    isolated!(async |world| {
        let place = open_pod(world, &["--max-connections", "6"]).await?;
        let sidecar = &place.pods[0].sidecar;
        let mut kept = kept(sidecar.address, 6).await?;
        serve_all(&mut kept).await?;
        let end = refused(sidecar.address).await?;
        ensure!(end.status() == 503, "{}", end.text());
        let text = end.text();
        ensure!(
            text.contains("problems/too-many-connections") && text.contains("retry-after: 1"),
            "{text}"
        );
        let http2 = last_answer(connect(sidecar.address).await?, &preface()).await?;
        ensure!(goaways(&http2.read) == [0xb], "{http2:?}");
        serve_all(&mut kept).await?;
        let scrape = sidecar.scrape().await?;
        ensure!(scrape.contains("\nsluice_open_connections 6\n"), "{scrape}");
        ensure!(closed_for(sidecar, "too-many").await? == 2);
        drop(kept.split_off(3));
        room(sidecar).await?;
        eventually("the line of the refusal", seconds(10), async || {
            let lines = sidecar.access_log();
            let is =
                |line: &&Value| line["status"] == 503 && line["reason"] == "too-many-connections";
            ensure!(lines.iter().filter(is).count() >= 2);
            Ok(())
        })
        .await
    });
}

#[test]
fn the_old_are_told_and_nothing_they_ask_fails() {
    isolated!(async |world| {
        let place = open_pod(world, &["--max-connection-age", "400ms"]).await?;
        let sidecar = &place.pods[0].sidecar;
        let mut multiplexed = Connection::open(sidecar.address, Protocol::Http2).await?;
        let request = || get("/").with("host", "open.example");
        multiplexed.send(request()).await?.expect(200)?;
        let [first, second] = [others(sidecar), others(sidecar).http2()]
            .map(|load| load.per_second(150).strict().start());
        eventually("GOAWAY", seconds(10), async || {
            ensure!(!multiplexed.is_open(), "the connection takes requests");
            Ok(())
        })
        .await?;
        let mut old = Connection::open(sidecar.address, Protocol::Http1).await?;
        eventually("the word to go", seconds(10), async || {
            let answer = old.send(request()).await?.expect(200)?;
            ensure!(
                answer.header("connection") == Some("close"),
                "{:?}",
                answer.headers
            );
            Ok(())
        })
        .await?;
        let [first, second] = [
            first.finish_after(300).await,
            second.finish_after(300).await,
        ];
        println!("{first}\n{second}");
        ensure!(first.failed == 0, "{first}");
        // What a client of HTTP/2 had queued when it was told is given back to it unsent (RFC 9113 section 6.8).
        let unsent = |reason: &String| reason.contains("not a result of an error");
        ensure!(
            second.reasons.iter().all(unsent) && second.failed < 10,
            "{second}"
        );
        ensure!(closed_for(sidecar, "aged").await? >= 1);
        Ok(())
    });
}

#[test]
fn heads_that_are_too_large_are_problems_with_a_line() {
    isolated!(async |world| {
        let place = open_pod(world, &["--max-headers", "40", "--max-target", "500"]).await?;
        let sidecar = &place.pods[0].sidecar;
        for client in [Client::new(sidecar.address), Client::http2(sidecar.address)] {
            let many = (0..50).fold(get("/").with("host", "open.example"), |request, number| {
                request.with(&format!("x-{number}"), "a")
            });
            let long = get(&format!("/?{}", "a".repeat(500))).with("host", "open.example");
            for (request, status, problem) in [
                (many, 431, "headers-too-large"),
                (long, 414, "target-too-long"),
            ] {
                let answer = client.send_fresh(request).await?.expect(status)?;
                ensure!(answer.text().contains(problem), "{}", answer.text());
                ensure!(answer.header("content-type") == Some("application/problem+json"));
            }
        }
        eventually("a line of each", seconds(10), async || {
            let lines = sidecar.access_log();
            for (status, reason) in [(431, "headers-too-large"), (414, "target-too-long")] {
                let is = |line: &&Value| line["status"] == status && line["reason"] == reason;
                ensure!(lines.iter().filter(is).count() == 2, "{lines:?}");
            }
            Ok(())
        })
        .await
    });
}

/// Processor time the process has used.
fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("a name in brackets")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn open_files(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

fn limit_files(pid: u32, files: usize) -> Result<()> {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={files}:200")])
        .status()?;
    ensure!(status.success(), "prlimit: {status}");
    Ok(())
}

#[test]
fn at_the_limit_of_open_files_the_old_go_on_and_the_new_wait_or_are_refused() {
    isolated!(async |world| {
        let mut place = open_pod(world, &[]).await?;
        place
            .change_sidecar(0, |options| {
                options.started_by(&["prlimit", "--nofile=200:200"])
            })
            .await?;
        let sidecar = &place.pods[0].sidecar;
        let pid = sidecar.process.pid();
        ensure!(
            sidecar.process.stderr().contains("RLIMIT_NOFILE"),
            "the lower bound is not said"
        );

        // Of what the files allow: the sidecar keeps half for upstreams, and refuses.
        let room_for = (200 - 48 - 2 * 24) / 2;
        let mut old = kept(sidecar.address, room_for).await?;
        serve_all(&mut old).await?;
        for _ in 0..20 {
            let end = refused(sidecar.address).await?;
            ensure!(matches!(end.status(), 0 | 503), "{}", end.text());
        }
        serve_all(&mut old).await?;
        ensure!(open_files(pid)? < 200, "{} files", open_files(pid)?);
        drop(old.split_off(8));
        room(sidecar).await?;

        // None left at all: who comes waits in the kernel's queue.
        eventually(
            "the end of those that were closed",
            seconds(10),
            async || {
                let scrape = sidecar.scrape().await?;
                ensure!(scrape.contains("\nsluice_open_connections 8\n"), "{scrape}");
                Ok(())
            },
        )
        .await?;
        // One connection to the application for each of them.
        let mut old = serve_at_once(old).await?;
        limit_files(pid, open_files(pid)? - 12)?;
        let mut waiting = tokio::spawn(refused_or_served(sidecar.address));
        let (began, used) = (Instant::now(), processor_time(pid)?);
        while began.elapsed() < Duration::from_millis(1500) {
            serve_all(&mut old).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let used = processor_time(pid)? - used;
        println!("{used:?} of processor time in 1.5 s, 15 rounds of 8 requests included");
        ensure!(used < Duration::from_millis(700), "a busy loop: {used:?}");
        ensure!(!waiting.is_finished(), "{:?}", (&mut waiting).await);
        ensure!(
            sidecar
                .process
                .stderr()
                .contains("connections cannot be accepted"),
            "it is not said"
        );

        limit_files(pid, 200)?;
        let served = waiting.await??;
        ensure!(served == 200, "{served}");
        let scrape = sidecar.scrape().await?;
        ensure!(
            !scrape.contains("\nsluice_accept_failures_total 0\n"),
            "{scrape}"
        );
        Ok(())
    });
}

async fn refused_or_served(address: SocketAddr) -> Result<u16> {
    let request = get("/").with("host", "open.example");
    Ok(Client::new(address)
        .send_fresh(request)
        .await?
        .status
        .as_u16())
}
