//! The fixture's clients against the sample application: what they count is what was served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use sluice_tests::{App, Client, Load, With, eventually, get, isolated, seconds};

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
        let began = Instant::now();
        let report = load.run(seconds(2)).await;
        // A machine that is busy elsewhere lets the two seconds last longer, and what became due meanwhile is sent.
        let took = began.elapsed().as_secs_f64();
        println!("{report}");
        ensure!(
            report.sent >= 390 && report.sent as f64 <= 200.0 * took + 10.0,
            "{report}"
        );
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
        running.answers(10).await?;
        app.process.freeze()?;
        // The stall itself: how long it lasts is what is tested.
        tokio::time::sleep(Duration::from_millis(700)).await;
        app.process.thaw()?;
        let report = running.finish().await;
        println!("{report}");
        ensure!(report.failed == 0, "{report}");
        // 70 were due while it stood still, 55 of them more than 150 ms before its end. Counted, and not as a share: how many
        // there were before is the machine's.
        let long = Duration::from_millis(150);
        let waited = report.latencies.iter().filter(|took| **took > long);
        let waited = waited.count();
        ensure!(waited >= 50, "{waited} waited: {report}");
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
        let answered = Arc::new(AtomicU64::new(0));
        let count = answered.clone();
        let running = Load::against(app.address)
            .check(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
            .start();
        eventually("an answer", seconds(10), async || {
            ensure!(answered.load(Ordering::Relaxed) > 0, "none yet");
            Ok(())
        })
        .await?;
        app.process.kill();
        running.fails().await?;
        let report = running.finish().await;
        ensure!(report.failed > 0 && report.failed < report.sent, "{report}");
        Ok(())
    });
}
