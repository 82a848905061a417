//! What a new user does: install, label, apply, wait, ask from another pod. Every policy holds, and what has no route
//! passes as if there were no sidecar.

use anyhow::{Context, Result, ensure};
use sluice_e2e::wire::{Ask, TcpAsk};
use sluice_e2e::{ClientPod, Place, eventually, on_cluster, product, seconds};

/// The bucket of policy per-identity: burst, and a request every half second.
const BURST: usize = 20;

#[test]
fn the_quickstart_is_enforced() {
    on_cluster!("quickstart", seconds(300), async |place: &Place| {
        let folder = |name: &str| {
            let path = format!("examples/quickstart/{name}");
            product::repository(&path).display().to_string()
        };
        place
            .cluster(["delete", "namespace", "shop", "--ignore-not-found"])
            .await?;
        place.cluster(["apply", "-f", &folder("base")]).await?;
        place.cluster(["apply", "-f", &folder("cluster")]).await?;
        place
            .cluster([
                "-n",
                "shop",
                "wait",
                "--for=condition=Ready",
                "--timeout=120s",
                "--all",
                "apiroute,ratelimitpolicy,shardset",
            ])
            .await?;
        place
            .cluster([
                "-n",
                "shop",
                "wait",
                "--for=condition=Available",
                "--timeout=120s",
                "--all",
                "deployment",
            ])
            .await?;
        let client = ClientPod::start(place, "client").await?;
        who_is_calling(&client).await?;
        which_shard(&client).await?;
        from_the_cache(&client).await?;
        how_often(&client).await?;
        place.cluster(["delete", "namespace", "shop"]).await?;
        Ok(())
    });
}

fn orders(path: &str) -> Ask {
    Ask::get("orders.shop.svc:80", path)
}

fn as_consumer(ask: Ask, consumer: &str) -> Ask {
    ask.with("x-api-key", &format!("demo-only-api-key-of-{consumer}"))
}

async fn who_is_calling(client: &ClientPod<'_>) -> Result<()> {
    let anonymous = client.ask(orders("/v1/catalog")).await?.expect(401)?;
    ensure!(
        anonymous.header("www-authenticate").is_some(),
        "{anonymous:?}"
    );
    let stranger = orders("/v1/catalog").with("x-api-key", "no-such-key-in-any-secret");
    client.ask(stranger).await?.expect(401)?;
    let known = as_consumer(orders("/v1/catalog"), "globex");
    client.ask(known).await?.expect(200)?;
    let nowhere = as_consumer(orders("/no/rule"), "globex");
    client.ask(nowhere).await?.expect(404).map(drop)
}

async fn which_shard(client: &ClientPod<'_>) -> Result<()> {
    for (tenant, shard) in [("umbrella", "orders-s0-"), ("acme", "orders-s1-")] {
        let ask = orders(&format!("/v1/tenants/{tenant}/orders")).method("POST");
        let told = client.ask(as_consumer(ask, "globex")).await?.expect(200)?;
        let by = told.header("x-served-by").context("who served")?;
        ensure!(by.starts_with(shard), "{tenant} was served by {by}");
    }
    Ok(())
}

/// Two sidecars have a cache each: of four requests at least two are of the second kind.
async fn from_the_cache(client: &ClientPod<'_>) -> Result<()> {
    let ask = || {
        as_consumer(
            orders("/v1/catalog?cache=public%2C%20max-age%3D60"),
            "globex",
        )
    };
    let told = client.send(vec![ask(), ask(), ask(), ask()]).await?;
    let hits = told.iter().filter(|told| {
        told.header("cache-status")
            .is_some_and(|status| status.contains("; hit"))
    });
    ensure!(hits.count() >= 2, "{told:?}");
    Ok(())
}

/// One bucket over both sidecars.
async fn how_often(client: &ClientPod<'_>) -> Result<()> {
    let asks = (0..60).map(|_| as_consumer(orders("/v1/catalog"), "initech"));
    let told = client.send(asks.collect()).await?;
    let admitted = told.iter().filter(|told| told.status() == 200).count();
    let refused = told.iter().filter(|told| told.status() == 429).count();
    println!("limit: {admitted} of 60 admitted, {refused} refused");
    ensure!(admitted + refused == 60, "{told:?}");
    // Two more for each second that the 60 may have taken.
    ensure!(
        (BURST / 2..=BURST + 10).contains(&admitted),
        "{admitted} admitted"
    );
    Ok(())
}

#[test]
fn what_has_no_route_passes_and_a_later_route_takes_hold() {
    on_cluster!("capture", seconds(240), async |place: &Place| {
        place.apply(include_str!("quickstart.yaml")).await?;
        place.rolled_out("mail").await?;
        let client = ClientPod::start(place, "client").await?;

        let greeted = client
            .tcp(TcpAsk {
                to: "mail:25".into(),
                send: "hello".into(),
                server_first: true,
            })
            .await?;
        ensure!(
            greeted.received.starts_with("220 ") && greeted.received.ends_with("hello"),
            "a server that speaks first: {greeted:?}"
        );
        let private = client
            .tcp(TcpAsk {
                to: "mail:26".into(),
                send: "hello".into(),
                server_first: true,
            })
            .await?;
        ensure!(
            private.received.is_empty(),
            "what listens on loopback only was reached: {private:?}"
        );
        let web = Ask::get("mail:80", "/any/path");
        let before = client.ask(web.clone()).await?.expect(200)?;
        ensure!(
            before.header("x-route").is_none(),
            "there is no route yet: {before:?}"
        );

        place.apply(include_str!("quickstart-route.yaml")).await?;
        place.ready(&["apiroute/mail"]).await?;
        eventually("the later route takes hold", seconds(20), async || {
            let told = client
                .ask(Ask::get("mail:80", "/v1/mail"))
                .await?
                .expect(200)?;
            ensure!(told.header("x-route") == Some("mail"), "{told:?}");
            Ok(())
        })
        .await?;
        client.ask(web).await?.expect(404)?;
        // The other port is not the route's.
        let greeted = client
            .tcp(TcpAsk {
                to: "mail:25".into(),
                send: String::new(),
                server_first: true,
            })
            .await?;
        ensure!(greeted.received.starts_with("220 "), "{greeted:?}");
        Ok(())
    });
}
