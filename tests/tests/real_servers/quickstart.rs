//! The quickstart, applied with kubectl as it is, until `kubectl wait` is content; then through its sidecars: who may, how
//! often, from the cache, to which shard.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use sluice_tests::{Answer, With, eventually, get, isolated, post, seconds};

use super::shop::{Credential, Member, Served, Shop, header, quickstart};

/// The bucket of policy per-identity: burst, and requests a second.
const BURST: f64 = 20.0;
const RATE: f64 = 2.0;
const MAX_OVERSHOOT: f64 = 0.01;

/// The quickstart in its cluster, serving.
struct Quickstart<'w> {
    _shop: Shop<'w>,
    orders: [Served; 2],
    inventory: [Served; 2],
    _members: Vec<Member>,
}

#[test]
fn it_is_applied_waited_for_and_served() {
    isolated!(seconds(300), async |world| {
        let began = Instant::now();
        let quickstart = Quickstart::applied(Shop::start(world).await?).await?;
        println!(
            "Ready {:.1?} after the first server was started",
            began.elapsed()
        );
        quickstart.who_is_calling().await?;
        quickstart.which_shard().await?;
        quickstart.cached().await?;
        quickstart.each_identity_gets_its_own().await?;
        quickstart.how_often().await?;
        quickstart.the_other_api().await
    });
}

impl<'w> Quickstart<'w> {
    async fn applied(shop: Shop<'w>) -> Result<Self> {
        shop.cluster.apply_files(&[&quickstart("base")]).await?;
        shop.cluster.apply_files(&[&quickstart("cluster")]).await?;
        let members = shop.members().await?;
        let orders = shop.adopt("orders").await?;
        let inventory = shop.adopt("inventory").await?;
        shop.all_ready().await?;
        for object in [
            "apiroute/orders",
            "apiroute/inventory",
            "ratelimitpolicy/per-identity",
            "shardset/orders",
        ] {
            // Ready without pods is Ready, too.
            shop.kubectl([
                "wait",
                "--for=jsonpath={.status.live.summary}=2/2",
                "--timeout=30s",
                object,
            ])
            .await?;
        }
        for served in &orders {
            let ips: Vec<_> = members
                .iter()
                .map(|member| member.pod.ip.to_string())
                .collect();
            // Endpoints are no part of Ready: the controller-manager writes them when it comes to it.
            served
                .holds("the members' endpoints", |units| {
                    ips.iter().all(|ip| units.to_string().contains(ip))
                })
                .await?;
        }
        Ok(Self {
            _shop: shop,
            orders,
            inventory,
            _members: members,
        })
    }

    async fn who_is_calling(&self) -> Result<()> {
        let [first, second] = &self.orders;
        let host = first.address.to_string();
        let catalog = || get("/v1/catalog").with("host", &host);
        let anonymous = first.client().send(catalog()).await?.expect(401)?;
        header(&anonymous, "www-authenticate")?;
        let stranger = catalog().with("x-api-key", "no-such-key-in-any-secret");
        first.client().send(stranger).await?.expect(401)?;

        // Each signature is good once, wherever it is shown first and wherever again.
        for (here, there) in [(first, second), (second, first)] {
            let signed = Credential::Signature.on(catalog(), "acme")?;
            let answer = here.client().send(signed.clone()).await?.expect(200)?;
            ensure!(
                header(&answer, "x-served-by")? == here.pod.name,
                "{answer:?}"
            );
            here.client().send(signed.clone()).await?.expect(401)?;
            there.client().send(signed).await?.expect(401)?;
        }
        let mut moved = Credential::Signature.on(catalog(), "acme")?;
        *moved.uri_mut() = "/v1/catalog/other".parse()?;
        first.client().send(moved).await?.expect(401)?;
        for credential in [Credential::ApiKey, Credential::Token] {
            first
                .client()
                .send(credential.on(catalog(), "globex")?)
                .await?
                .expect(200)?;
        }
        Ok(())
    }

    async fn which_shard(&self) -> Result<()> {
        // Slots 7188 and 13117 of CRC16, and one that is pinned.
        for (tenant, shard) in [
            ("umbrella", "orders-s0"),
            ("acme", "orders-s1"),
            ("hooli", "orders-s1"),
        ] {
            let path = format!("/v1/tenants/{tenant}/orders");
            for served in &self.orders {
                let write = Credential::Token.on(post(&path, "{\"item\": 1}"), "writer")?;
                let write = served.client().send(write).await?.expect(200)?;
                ensure!(
                    header(&write, "x-served-by")? == shard,
                    "a write of {tenant}: {write:?}"
                );
                let read = Credential::Token.on(get(&path), "reader")?;
                let read = served.client().send(read).await?.expect(200)?;
                ensure!(
                    header(&read, "x-served-by")? == format!("{shard}-read"),
                    "a read of {tenant}: {read:?}"
                );
            }
        }
        Ok(())
    }

    /// What is public is stored once for all callers and all data threads.
    async fn cached(&self) -> Result<()> {
        let [served, _] = &self.orders;
        let ask = |consumer| {
            Credential::Token.on(get("/v1/catalog?cache=public%2C%20max-age%3D60"), consumer)
        };
        let first = served.client().send(ask("alice")?).await?.expect(200)?;
        ensure!(
            header(&first, "cache-status")?.contains("fwd="),
            "{first:?}"
        );
        for _ in 0..8 {
            let again = served.client().send_fresh(ask("bob")?).await?.expect(200)?;
            ensure!(
                is_hit(&again)? && header(&again, "x-served")? == header(&first, "x-served")?,
                "{again:?}"
            );
        }
        Ok(())
    }

    /// One private URL, two consumers who prove themselves in three ways.
    async fn each_identity_gets_its_own(&self) -> Result<()> {
        let [served, _] = &self.orders;
        let host = served.address.to_string();
        let private = || get("/v1/tenants/acme/orders/7?cache=max-age%3D60").with("host", &host);
        let mut stored: Vec<String> = Vec::new();
        for credential in [Credential::ApiKey, Credential::Signature, Credential::Token] {
            let mut own = Vec::new();
            for consumer in ["acme", "globex"] {
                let answer = served
                    .client()
                    .send(credential.on(private(), consumer)?)
                    .await?
                    .expect(200)?;
                let number = header(&answer, "x-served")?.to_owned();
                ensure!(
                    !is_hit(&answer)? && !stored.contains(&number),
                    "{credential:?} of {consumer}: {answer:?}"
                );
                stored.push(number.clone());
                own.push((consumer, number));
            }
            for (consumer, number) in own {
                let again = served
                    .client()
                    .send(credential.on(private(), consumer)?)
                    .await?
                    .expect(200)?;
                ensure!(
                    is_hit(&again)? && header(&again, "x-served")? == number,
                    "{credential:?} of {consumer}, stored was {number}: {again:?}"
                );
            }
        }
        Ok(())
    }

    /// One bucket per identity over both sidecars.
    async fn how_often(&self) -> Result<()> {
        let clients = self.orders.each_ref().map(|served| served.client());
        let ask = || Credential::ApiKey.on(get("/v1/catalog"), "initech");
        let began = Instant::now();
        let mut answers = Vec::new();
        for turn in 0..60 {
            answers.push(clients[turn % 2].send(ask()?).await?);
        }
        let most = (BURST + RATE * began.elapsed().as_secs_f64()) * (1.0 + MAX_OVERSHOOT);
        let (admitted, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|answer| answer.status == 200);
        println!(
            "limit: {} of 60 admitted in {:.1?}, {most:.1} allowed",
            admitted.len(),
            began.elapsed()
        );
        ensure!(
            admitted.len() as f64 <= most.ceil(),
            "{} admitted, {most} allowed",
            admitted.len()
        );
        ensure!(
            admitted.len() as f64 >= BURST / 2.0,
            "only {} admitted",
            admitted.len()
        );
        header(&admitted[0], "ratelimit")?;
        let refused = refused
            .first()
            .context("60 requests are over the limit of 20")?
            .clone()
            .expect(429)?;
        ensure!(
            header(&refused, "ratelimit-policy")?.contains("per-identity"),
            "{refused:?}"
        );
        ensure!(
            header(&refused, "ratelimit")?.contains("r=0"),
            "{refused:?}"
        );
        let wait: u64 = header(&refused, "retry-after")?.parse()?;
        ensure!((1..=10).contains(&wait), "{refused:?}");
        // It names no other caller.
        clients[0]
            .send(Credential::ApiKey.on(get("/v1/catalog"), "globex")?)
            .await?
            .expect(200)?;
        eventually("the bucket fills again", seconds(20), async || {
            clients[0].send(ask()?).await?.expect(200).map(drop)
        })
        .await
    }

    async fn the_other_api(&self) -> Result<()> {
        let [served, _] = &self.inventory;
        let ask =
            |path: &str| -> Result<Request<Bytes>> { Credential::ApiKey.on(get(path), "acme") };
        let moved = served.client().send(ask("/stock")?).await?.expect(301)?;
        ensure!(
            header(&moved, "location")?.ends_with("/v1/stock"),
            "{moved:?}"
        );
        let stock = served
            .client()
            .send(ask("/v1/stock")?.with("x-debug", "1"))
            .await?
            .expect(200)?;
        let seen = &stock.json()?["headers"];
        ensure!(header(&stock, "x-api")? == "inventory", "{stock:?}");
        ensure!(
            seen["x-platform"] == "sluice" && seen["x-debug"].is_null(),
            "{seen}"
        );
        Ok(())
    }
}

/// RFC 9211.
fn is_hit(answer: &Answer) -> Result<bool> {
    Ok(header(answer, "cache-status")?.contains("; hit"))
}
