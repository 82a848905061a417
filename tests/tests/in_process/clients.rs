//! The fixture's clients against the sample application: what they count is what was served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use sluice_tests::{App, Client, Load, With, get, isolated, seconds};

#[test]
fn one_request_one_answer_in_both_versions() {
    isolated!(async |world| {
        let app = App::start(world, "orders", world.address()).await?;
        for client in [Client::new(app.address), Client::http2(app.address)] {
            let answer = client
                .send(get("/v1/orders?view=full").with("x-tenant", "acme"))
                .await?
                .expect(200)?;
            let seen = answer.json()?;
            ensure!(
                seen["name"] == "orders" && seen["path"] == "/v1/orders",
                "{seen}"
            );
            ensure!(
                client
                    .send_fresh(get("/?status=503"))
                    .await?
                    .expect(200)
                    .is_err(),
                "503 passed for 200"
            );
        }
        Ok(())
    });
}

#[test]
fn a_constant_rate_is_kept_and_counted() {
    isolated!(async |world| {
        let app = App::start(world, "orders", world.address()).await?;
        let looked = Arc::new(AtomicU64::new(0));
        let count = looked.clone();
        let load = Load::against(app.address)
            .per_second(200)
            .fresh_every(4)
            .check(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
        let report = load.run(seconds(2)).await;
        println!("{report}");
        ensure!((390..=410).contains(&report.sent), "{report}");
        ensure!(
            report.failed == 0 && report.statuses.get(&200) == Some(&report.sent),
            "{report}"
        );
        ensure!(
            looked.load(Ordering::Relaxed) == report.sent,
            "a check was left out"
        );
        Ok(())
    });
}

/// A server that stalls is seen by every request that was due meanwhile, not by one.
#[test]
fn a_stall_shows_in_the_latencies() {
    isolated!(async |world| {
        let app = App::start(world, "orders", world.address()).await?;
        let running = Load::against(app.address).per_second(100).start();
        tokio::time::sleep(Duration::from_millis(300)).await;
        app.process.freeze()?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        app.process.thaw()?;
        let report = running.finish().await;
        println!("{report}");
        ensure!(report.failed == 0, "{report}");
        ensure!(
            report.percentile(50.0) > Duration::from_millis(150),
            "{report}"
        );
        Ok(())
    });
}

#[test]
fn bad_answers_and_a_dead_server_are_failures() {
    isolated!(async |world| {
        let mut app = App::start(world, "orders", world.address()).await?;
        let report = Load::against(app.address)
            .request(|_| get("/?status=503"))
            .run(Duration::from_millis(200))
            .await;
        ensure!(
            report.failed == report.sent && report.statuses.contains_key(&503),
            "{report}"
        );
        let running = Load::against(app.address).start();
        tokio::time::sleep(Duration::from_millis(200)).await;
        app.process.kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let report = running.finish().await;
        ensure!(report.failed > 0 && report.failed < report.sent, "{report}");
        Ok(())
    });
}
