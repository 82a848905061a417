//! The end of a pod's sidecar: announced by the preStop hook, over when nobody needs it any more.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use sluice_tests::http::{Connection, Protocol};
use sluice_tests::product::binary;
use sluice_tests::{
    Client, Sidecar, With, World, eventually, get, isolated, process::Signal, seconds,
};

use crate::place::{Place, Plan, route, secret};

/// A route that answers 401 to whoever has no key: refusals are answers too.
const CLOSED: &str = "  auth:
    anyOf: [{allOf: [keys]}]
    providers: [{name: keys, type: APIKey, apiKey: {secretRef: {name: acme}}}]
";
const KEY: &str = "an-api-key-of-acme-0123456789";

async fn supervised(world: &World) -> Result<Place<'_>> {
    let mut plan = Plan::new(world)?;
    plan.group("api")?;
    plan.put("open", &route("open", ""))?;
    plan.put("closed", &route("closed", CLOSED))?;
    plan.put("secret", &secret("acme", "api-keys", "acme-1", KEY))?;
    let mut place = plan.start().await?;
    place.live("ApiRoute", "open").await?;
    place.live("ApiRoute", "closed").await?;
    place
        .change_sidecar(0, |options| options.supervised())
        .await?;
    Ok(place)
}

fn ask(path: &str) -> Request<Bytes> {
    get(path).with("host", "open.example")
}

/// What the preStop hook does.
pub fn drain(sidecar: &Sidecar) -> Result<()> {
    let admin = sidecar.admin.to_string();
    let hook = Command::new(binary("sluice-sidecar")?)
        .args(["drain", "--admin", &admin])
        .output()?;
    ensure!(
        hook.status.success(),
        "{}",
        String::from_utf8_lossy(&hook.stderr)
    );
    Ok(())
}

/// New and kept connections are served.
async fn serves(sidecar: &Sidecar, kept: &Client) -> Result<()> {
    sidecar.client().send_fresh(ask("/")).await?.expect(200)?;
    kept.send(ask("/")).await?.expect(200).map(drop)
}

#[test]
fn while_draining_everybody_is_served_and_told_to_go() {
    isolated!(async |world| {
        let mut place = supervised(world).await?;
        let sidecar = &mut place.pods[0].sidecar;
        let mut idle = Connection::open(sidecar.address, Protocol::Http1).await?;
        let before = idle.send(ask("/")).await?.expect(200)?;
        ensure!(
            before.header("connection").is_none(),
            "{:?}",
            before.headers
        );
        let mut multiplexed = Connection::open(sidecar.address, Protocol::Http2).await?;
        multiplexed.send(ask("/")).await?.expect(200)?;

        drain(sidecar)?;
        eventually("draining at the probe", seconds(10), async || {
            let ready = Client::new(sidecar.metrics)
                .get("/readyz")
                .await?
                .expect(503)?;
            ensure!(ready.text().contains("draining"), "{}", ready.text());
            Ok(())
        })
        .await?;
        eventually("GOAWAY", seconds(10), async || {
            ensure!(!multiplexed.is_open(), "the connection takes requests");
            Ok(())
        })
        .await?;
        ensure!(idle.is_open(), "a request may be on its way");
        let told = idle.send(ask("/")).await?.expect(200)?;
        ensure!(
            told.header("connection") == Some("close"),
            "{:?}",
            told.headers
        );
        eventually("the end of the connection", seconds(10), async || {
            ensure!(!idle.is_open(), "it is open");
            Ok(())
        })
        .await?;
        for (host, path, status) in [
            ("open.example", "/", 200),
            ("open.example", "/?status=503", 503),
            ("closed.example", "/", 401),
            ("nobody.example", "/", 404),
        ] {
            let answer = sidecar
                .client()
                .send_fresh(get(path).with("host", host))
                .await?;
            let answer = answer.expect(status)?;
            ensure!(
                answer.header("connection") == Some("close"),
                "{host}{path}: {:?}",
                answer.headers
            );
        }
        let late = Client::http2(sidecar.address)
            .send_fresh(ask("/"))
            .await?
            .expect(200)?;
        ensure!(
            late.header("connection").is_none(),
            "HTTP/2 has no such field"
        );
        sidecar.process.alive()
    });
}

#[test]
fn sigterm_is_the_end_only_once_the_application_is_gone() {
    isolated!(async |world| {
        let mut place = supervised(world).await?;
        let pod = &mut place.pods[0];
        let kept = pod.sidecar.client();
        serves(&pod.sidecar, &kept).await?;
        pod.sidecar.process.signal(Signal::TERM)?;
        eventually("the signal at the worker", seconds(10), async || {
            let log = pod.sidecar.process.stderr();
            ensure!(
                log.contains("\"draining\"") && log.contains("SIGTERM"),
                "{log}"
            );
            Ok(())
        })
        .await?;
        // Longer than a sidecar without an application takes to end.
        let until = Instant::now() + Duration::from_millis(1500);
        let mut served = 0;
        while Instant::now() < until {
            serves(&pod.sidecar, &kept).await?;
            served += 1;
        }
        pod.sidecar.process.alive()?;

        // What runs when the application stops listening is still answered.
        let address = pod.sidecar.address;
        let slow = tokio::spawn(async move {
            Client::new(address)
                .send_fresh(ask("/?delay=1500ms"))
                .await?
                .expect(200)
        });
        eventually("the slow request in flight", seconds(10), async || {
            let metrics = pod.sidecar.scrape().await?;
            ensure!(
                metrics.contains("sluice_requests_in_flight 1\n"),
                "{metrics}"
            );
            Ok(())
        })
        .await?;
        let gone = Instant::now();
        pod.app.process.signal(Signal::TERM)?;
        slow.await?.context("the request in flight")?;
        let status = pod.sidecar.process.ended(seconds(10)).await?;
        println!(
            "{served} rounds served after SIGTERM; ended {:.1?} after the application was told",
            gone.elapsed()
        );
        ensure!(status.code() == Some(0), "{status}");
        Ok(())
    });
}

#[test]
fn without_an_application_sigterm_ends_it_at_once() {
    isolated!(async |world| {
        let mut place = supervised(world).await?;
        let pod = &mut place.pods[0];
        pod.sidecar.client().send(ask("/")).await?.expect(200)?;
        pod.app.process.kill();
        let asked = Instant::now();
        let status = pod.sidecar.process.terminate(seconds(10)).await?;
        println!("ended {:.0?} after SIGTERM", asked.elapsed());
        ensure!(status.code() == Some(0), "{status}");
        ensure!(asked.elapsed() < seconds(2), "{:?}", asked.elapsed());
        Ok(())
    });
}

#[test]
fn an_application_that_stays_is_waited_for_only_so_long() {
    isolated!(async |world| {
        let mut place = supervised(world).await?;
        place
            .change_sidecar(0, |options| options.arg("--drain-timeout").arg("700ms"))
            .await?;
        let pod = &mut place.pods[0];
        let asked = Instant::now();
        let status = pod.sidecar.process.terminate(seconds(10)).await?;
        ensure!(
            status.code() == Some(0) && asked.elapsed() >= Duration::from_millis(700),
            "{status}"
        );
        ensure!(
            pod.sidecar
                .process
                .stderr()
                .contains("--drain-timeout has passed"),
            "it is not said"
        );
        Ok(())
    });
}
