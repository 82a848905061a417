//! Process 1 of a pod's container: it holds the sockets while workers come and go.

use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sluice_tests::http::{Connection, Protocol};
use sluice_tests::process::Running;
use sluice_tests::{Client, Sidecar, With, World, eventually, get, isolated, seconds};
use tokio::task::JoinSet;

use crate::drain::drain;
use crate::place::{Place, Plan, route};

/// How long workers live between two kills: long enough to be no crash loop.
const APART: Duration = Duration::from_millis(1200);
/// Within this a new connection is answered again after a kill.
const BACK: Duration = Duration::from_secs(1);
const KILLS: usize = 5;
/// Connections that are open at each kill.
const KEPT: usize = 8;
/// Between two requests of the load, each on a connection of its own.
const TICK: Duration = Duration::from_millis(10);

/// A process as `/proc` shows it.
struct Process {
    pid: u32,
    parent: u32,
    state: char,
}

/// All processes of the test's namespace.
fn processes() -> Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Ok(pid) = name.to_string_lossy().parse() else {
            continue;
        };
        // It may end while we look. The name in brackets may hold anything; what follows it does not.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let mut fields = fields.split_whitespace();
        let state = fields.next().and_then(|state| state.chars().next());
        let parent = fields.next().and_then(|parent| parent.parse().ok());
        all.push(Process {
            pid,
            parent: parent.context("a parent")?,
            state: state.context("a state")?,
        });
    }
    Ok(all)
}

fn children(of: &Running) -> Result<Vec<Process>> {
    let all = processes()?.into_iter();
    Ok(all.filter(|process| process.parent == of.pid()).collect())
}

/// The worker of a supervised sidecar, once there is one.
async fn worker(sidecar: &Sidecar) -> Result<u32> {
    eventually("a worker", seconds(20), async || {
        match children(&sidecar.process)?.as_slice() {
            [worker] if worker.state != 'Z' => Ok(worker.pid),
            others => bail!("{} children", others.len()),
        }
    })
    .await
}

fn kill(pid: u32) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("a process id is above zero")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

async fn supervised(world: &World) -> Result<Place<'_>> {
    supervised_by(world, &[]).await
}

/// The same, where another program starts the parent.
async fn supervised_by<'w>(world: &'w World, before: &[&str]) -> Result<Place<'w>> {
    let mut plan = Plan::new(world)?;
    plan.group("api")?;
    plan.put("route", &route("orders", ""))?;
    let mut place = plan.start().await?;
    place.live("ApiRoute", "orders").await?;
    place
        .change_sidecar(0, |options| options.supervised().started_by(before))
        .await?;
    Ok(place)
}

fn ask() -> http::Request<bytes::Bytes> {
    get("/").with("host", "orders.example")
}

/// One request on a connection of its own.
struct Sent {
    began: Instant,
    ended: Instant,
    failure: Option<String>,
}

/// Sends 100 requests a second, each on a new connection, until `stop` is dropped.
async fn load(address: SocketAddr, stop: tokio::sync::oneshot::Receiver<()>) -> Vec<Sent> {
    let all = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    let mut tick = tokio::time::interval(TICK);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            _ = &mut stop => break,
            _ = tick.tick() => {}
        }
        let all = all.clone();
        tasks.spawn(async move {
            let began = Instant::now();
            let answer = Client::new(address).send_fresh(ask()).await;
            let failure = answer.and_then(|answer| answer.expect(200)).err();
            let failure = failure.map(|error| format!("{error:#}"));
            let ended = Instant::now();
            all.lock().expect("no panic").push(Sent {
                began,
                ended,
                failure,
            });
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no panic");
    }
    std::mem::take(&mut *all.lock().expect("no panic"))
}

#[test]
fn new_connections_survive_workers_that_are_killed_and_a_missing_operator() {
    isolated!(async |world| {
        let mut place = supervised(world).await?;
        place.operator.process.kill();
        let sidecar = &place.pods[0].sidecar;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let load = tokio::spawn(load(sidecar.address, stopped));
        let (mut kills, mut broken) = (Vec::new(), 0);
        for _ in 0..KILLS {
            let worker = worker(sidecar).await?;
            let mut kept = Vec::new();
            while kept.len() < KEPT {
                let mut connection = Connection::open(sidecar.address, Protocol::Http1).await?;
                connection.send(ask()).await?.expect(200)?;
                kept.push(connection);
            }
            // The age of a worker is what is tested, and nothing says it but the clock.
            tokio::time::sleep(APART).await;
            kills.push(Instant::now());
            kill(worker)?;
            eventually("the end of the worker", seconds(5), async || {
                let gone = !processes()?.iter().any(|process| process.pid == worker);
                ensure!(gone, "worker {worker} is there");
                Ok(())
            })
            .await?;
            for mut connection in kept {
                broken += usize::from(connection.send(ask()).await.is_err());
            }
        }
        eventually("the last successor", seconds(20), async || {
            let metrics = sidecar.scrape().await?;
            ensure!(
                metrics.contains("sluice_worker_restarts_total 5\n"),
                "{metrics}"
            );
            Ok(())
        })
        .await?;
        drop(stop);
        let sent = load.await?;

        let back: Vec<_> = kills
            .iter()
            .map(|kill| {
                let after = sent
                    .iter()
                    .filter(|sent| sent.began > *kill && sent.failure.is_none());
                after
                    .map(|sent| sent.ended - *kill)
                    .min()
                    .unwrap_or(seconds(60))
            })
            .collect();
        let open_at_a_kill = |sent: &&Sent| {
            kills
                .iter()
                .any(|kill| sent.began <= *kill && *kill <= sent.ended)
        };
        let failed: Vec<_> = sent.iter().filter(|sent| sent.failure.is_some()).collect();
        let (open, new): (Vec<_>, Vec<_>) = failed.into_iter().partition(open_at_a_kill);
        let slowest = sent.iter().map(|sent| sent.ended - sent.began).max();
        println!(
            "{KILLS} kills: {} new connections, {} failed; open ones broken: {} with a request under way, {broken} of {} kept; back after {back:.0?}; slowest {slowest:.0?}",
            sent.len(),
            new.len(),
            open.len(),
            KILLS * KEPT
        );
        ensure!(
            sent.len() >= 500,
            "{} requests in {KILLS} lives",
            sent.len()
        );
        ensure!(
            new.is_empty(),
            "{:?}",
            new.first().map(|sent| &sent.failure)
        );
        ensure!(
            broken == KILLS * KEPT,
            "a worker took its connections with it, all but {broken}"
        );
        ensure!(back.iter().all(|back| *back <= BACK), "{back:?}");
        Ok(())
    });
}

#[test]
fn the_worker_after_one_that_drained_drains_too() {
    isolated!(async |world| {
        let place = supervised(world).await?;
        let sidecar = &place.pods[0].sidecar;
        let drained = async || {
            let ready = Client::new(sidecar.metrics).get("/readyz").await?;
            let ready = ready.expect(503)?.text();
            ensure!(ready.contains("draining"), "{ready}");
            let answer = sidecar.client().send_fresh(ask()).await?.expect(200)?;
            ensure!(
                answer.header("connection") == Some("close"),
                "{:?}",
                answer.headers
            );
            anyhow::Ok(())
        };
        drain(sidecar)?;
        eventually("the first drains", seconds(10), &drained).await?;

        let first = worker(sidecar).await?;
        kill(first)?;
        eventually("its successor", seconds(20), async || {
            let second = worker(sidecar).await?;
            ensure!(second != first, "it is there still");
            drained().await
        })
        .await?;
        let metrics = sidecar.scrape().await?;
        ensure!(
            metrics.contains("sluice_worker_restarts_total 1\n"),
            "{metrics}"
        );
        Ok(())
    });
}

#[test]
fn a_crash_loop_is_slowed_and_can_be_ended() {
    isolated!(async |world| {
        // Nothing says how to recognise the operator: every worker ends at once.
        let mut parent = Sidecar::options(world, "sidecar", world.address())?
            .operator((world.address(), 8443).into())
            .token_file(&world.file("token", "none")?)
            .supervised()
            .start(world)?;
        let began = Instant::now();
        let ends = |parent: &Sidecar| {
            parent
                .process
                .stderr()
                .matches("the worker ended unasked")
                .count()
        };
        eventually("seven workers", seconds(30), async || {
            ensure!(ends(&parent) >= 7, "{} ended", ends(&parent));
            Ok(())
        })
        .await?;
        // 0, 50, 100, 200, 400 and 800 ms lie between seven of them.
        ensure!(
            began.elapsed() >= Duration::from_millis(1550),
            "{:?}",
            began.elapsed()
        );
        let status = parent.process.terminate(seconds(5)).await?;
        ensure!(status.code() == Some(1), "as the worker ended: {status}");
        Ok(())
    });
}

#[test]
fn orphans_are_reaped() {
    isolated!(async |world| {
        let before = ["sh", "-c", "sleep 2 & exec \"$0\" \"$@\""];
        let place = supervised_by(world, &before).await?;
        let parent = &place.pods[0].sidecar.process;
        ensure!(
            children(parent)?.len() == 2,
            "a worker, and a child it did not start"
        );
        eventually("the stranger's end", seconds(20), async || {
            let left: Vec<_> = children(parent)?.iter().map(|child| child.state).collect();
            ensure!(left.len() == 1, "{left:?}");
            Ok(())
        })
        .await
    });
}

#[test]
fn a_worker_does_not_outlive_its_parent() {
    isolated!(async |world| {
        let mut place = supervised(world).await?;
        let worker = worker(&place.pods[0].sidecar).await?;
        place.pods[0].sidecar.process.kill();
        eventually("the worker's end", seconds(5), async || {
            let alive = processes()?
                .iter()
                .any(|process| process.pid == worker && process.state != 'Z');
            ensure!(!alive, "worker {worker} is there");
            Ok(())
        })
        .await?;
        // Its ports are free.
        place.change_sidecar(0, |options| options).await
    });
}

#[test]
fn the_parent_is_small() {
    isolated!(async |world| {
        let place = supervised(world).await?;
        let parent = &place.pods[0].sidecar.process;
        let status = fs::read_to_string(format!("/proc/{}/status", parent.pid()))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(value.with_context(|| format!("no {name}"))?.parse()?)
        };
        let (anonymous, all, threads) = (field("RssAnon:")?, field("VmRSS:")?, field("Threads:")?);
        println!(
            "parent: {anonymous} KiB of its own, {all} KiB with the program's pages, {threads} thread"
        );
        ensure!(
            threads == 1 && anonymous < 2048,
            "{anonymous} KiB, {threads} threads"
        );
        Ok(())
    });
}
