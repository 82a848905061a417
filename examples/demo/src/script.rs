//! What the demo sends and what it expects: the quickstart's policies, one row each. A row that does not
//! come back as written here is a surprise.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Instant};

use anyhow::Result;

use crate::{
    caller::{self, Answer, Ask},
    credentials::Wallet,
    expect::Expect,
    ground::Ground,
    manifests::Manifests,
    platform::{EDGE, Platform},
    report::{self, Report, Row},
    shards,
};

/// Requests of a burst that goes over a limit.
const BURST: u32 = 45;
/// What a sidecar says over a hop of a request that needs no further look: base64url of
/// `{"from":"Sidecar","port":8080,"route":"shop/orders","rule":"catalog"}`.
const FORGED: &str = "1.eyJmcm9tIjoiU2lkZWNhciIsInBvcnQiOjgwODAsInJvdXRlIjoic2hvcC9vcmRlcnMiLCJydWxlIjoiY2F0YWxvZyJ9";

/// Sends everything.
pub(crate) async fn play(
    platform: &mut Platform,
    ground: &Ground,
    report: &mut Report,
) -> Result<()> {
    let base = Manifests::read(&ground.base)?;
    let mut stage = Stage {
        wallet: Wallet::new(&base),
        base: &base,
        platform,
        report,
    };
    stage.report.head();
    stage.who_is_calling().await?;
    stage.where_it_goes().await?;
    stage.which_shard().await?;
    stage.whose_answer().await?;
    stage.how_often().await?;
    stage.by_one_door().await
}

struct Stage<'a> {
    base: &'a Manifests,
    wallet: Wallet<'a>,
    platform: &'a mut Platform,
    report: &'a mut Report,
}

impl Stage<'_> {
    async fn who_is_calling(&mut self) -> Result<()> {
        self.report
            .section("Who is calling? (ApiRoute orders: API key, signature or JWT)");
        let [first, second] = self.both("orders")?;
        let get = || Ask::get(first.address, "/v1/catalog");
        self.row("nobody", &first, get(), Expect::status(401))
            .await?;
        let wrong = get().header(crate::credentials::API_KEY, "no-such-key-in-any-secret");
        self.row("a wrong API key", &first, wrong, Expect::status(401))
            .await?;
        let key = self.wallet.with_key(get(), "acme")?;
        self.row(
            "acme, API key",
            &first,
            key,
            Expect::status(200).by("orders"),
        )
        .await?;

        let signed = self.wallet.signed(get(), "acme")?;
        let good = Expect::status(200).by("orders");
        self.row("acme, signature", &first, signed.clone(), good)
            .await?;
        self.row(
            "acme, same nonce again",
            &first,
            signed.clone(),
            Expect::status(401),
        )
        .await?;
        let elsewhere = Ask {
            to: second.address,
            ..signed
        };
        // The signature covers the URL, so the other sidecar is asked by the first one's name.
        let elsewhere = elsewhere.header("host", first.address.to_string());
        let expect = match self.platform.has_redis {
            true => Expect::status(401),
            false => Expect::status(200),
        };
        self.row("same nonce, other sidecar", &second, elsewhere, expect)
            .await?;
        let mut forged = self.wallet.signed(get(), "acme")?;
        forged.target.push_str("/other");
        self.row(
            "acme, URL changed after",
            &first,
            forged,
            Expect::status(401),
        )
        .await?;

        let token = self.wallet.with_token(get(), "acme", 300)?;
        self.row("acme, JWT", &first, token, Expect::status(200).by("orders"))
            .await?;
        let expired = self.wallet.with_token(get(), "acme", -300)?;
        self.row("acme, expired JWT", &first, expired, Expect::status(401))
            .await?;
        Ok(())
    }

    async fn where_it_goes(&mut self) -> Result<()> {
        self.report
            .section("Where does it go? (rules, filters, timeouts, sizes)");
        let [orders, _] = self.both("orders")?;
        let [inventory, _] = self.both("inventory")?;
        let key = |ask| self.wallet.with_key(ask, "globex");
        let nowhere = key(Ask::get(orders.address, "/v2/anything"))?;
        let old = key(Ask::get(inventory.address, "/stock"))?;
        let stock = key(Ask::get(inventory.address, "/v1/stock").header("x-debug", "1"))?;
        let slow = key(Ask::get(orders.address, "/v1/catalog?delay=5s"))?;
        let path = "/v1/tenants/umbrella/orders";
        let large = key(Ask::post(orders.address, path, vec![b'x'; 80 << 10]))?;

        self.row(
            "no rule for the path",
            &orders,
            nowhere,
            Expect::status(404),
        )
        .await?;
        let moved = Expect::status(301).header_with("location", "/v1/stock");
        self.row("redirect", &inventory, old, moved).await?;
        let edited = Expect::status(200)
            .header_with("x-api", "inventory")
            .app_saw("x-platform", Some("sluice"))
            .app_saw("x-debug", None);
        self.row("headers edited", &inventory, stock, edited)
            .await?;
        self.row("app takes too long", &orders, slow, Expect::status(504))
            .await?;
        self.row(
            "80 KiB, allowed are 64",
            &orders,
            large,
            Expect::status(413),
        )
        .await?;
        Ok(())
    }

    async fn which_shard(&mut self) -> Result<()> {
        self.report
            .section("Which shard? (ShardSet orders: writes to the primary, reads to a replica)");
        let [orders, _] = self.both("orders")?;
        for tenant in ["umbrella", "acme", "hooli"] {
            let who = format!("{tenant}, slot {}", shards::slot(tenant));
            let path = format!("/v1/tenants/{tenant}/orders");
            let write = Ask::post(orders.address, &path, "{\"item\": 1}");
            let read = Ask::get(orders.address, &path);
            for (ask, write) in [(write, true), (read, false)] {
                let member = shards::member(self.base, "orders", tenant, write)?;
                let ask = self.wallet.with_key(ask, "globex")?;
                self.row(&who, &orders, ask, Expect::status(200).by(&member))
                    .await?;
            }
        }
        Ok(())
    }

    async fn whose_answer(&mut self) -> Result<()> {
        self.report.section(
            "Whose answer? (cache: what is public for all, what is not for the one who asked)",
        );
        let [orders, _] = self.both("orders")?;
        let public = || Ask::get(orders.address, "/v1/catalog?cache=public%2C%20max-age%3D60");
        let first = self.wallet.with_key(public(), "acme")?;
        let first = self
            .row("acme, API key", &orders, first, Expect::status(200).miss())
            .await?;
        let stored = first.served();
        let again = Expect::status(200).hit().same_as(stored);
        let other = self.wallet.with_key(public(), "globex")?;
        self.row("globex, API key", &orders, other, again).await?;

        let private = "/v1/tenants/acme/orders/7?cache=max-age%3D60";
        let mut seen = BTreeSet::new();
        for consumer in ["acme", "globex"] {
            for how in [How::Key, How::Signature, How::Token] {
                let who = format!("{consumer}, {}", how.word());
                let ask = self.with(how, consumer, Ask::get(orders.address, private))?;
                let own = Expect::status(200).miss().none_of(&seen);
                let first = self.row(&who, &orders, ask, own).await?;
                let ask = self.with(how, consumer, Ask::get(orders.address, private))?;
                let again = Expect::status(200).hit().same_as(first.served());
                self.row(&who, &orders, ask, again).await?;
                seen.extend(first.served());
            }
        }
        Ok(())
    }

    async fn how_often(&mut self) -> Result<()> {
        self.report.section("How often? (RateLimitPolicies: per identity over all sidecars, per client address in each)");
        let [first, second] = self.both("orders")?;
        let mut asks = Vec::new();
        for to in [first.address, second.address] {
            asks.push(
                self.wallet
                    .with_key(Ask::get(to, "/v1/catalog"), "initech")?,
            );
        }
        self.burst(
            "initech, two sidecars",
            &[&first, &second],
            &asks,
            Limit {
                burst: 20,
                per_second: 2,
            },
        )
        .await?;
        let [inventory, _] = self.both("inventory")?;
        let client = Ipv4Addr::new(127, 0, 0, 77);
        let ask = Ask::get(inventory.address, "/v1/stock").from(client);
        let ask = self.wallet.with_key(ask, "acme")?;
        self.burst(
            "acme, from 127.0.0.77",
            &[&inventory],
            &[ask],
            Limit {
                burst: 30,
                per_second: 3,
            },
        )
        .await?;
        let other = self
            .wallet
            .with_key(Ask::get(inventory.address, "/v1/stock"), "acme")?;
        self.row(
            "acme, another address",
            &inventory,
            other,
            Expect::status(200),
        )
        .await?;
        Ok(())
    }

    /// What goes through the edge is decided by the sidecars behind it, which nobody can tell what to decide.
    async fn by_one_door(&mut self) -> Result<()> {
        self.report
            .section("By one door? (Gateway public: an edge in front of both Services)");
        let address = self.platform.address(EDGE)?;
        let edge = Door {
            pod: EDGE.to_owned(),
            address,
        };
        let catalog = || Ask::get(address, "/v1/catalog");
        self.row("nobody", &edge, catalog(), Expect::status(401))
            .await?;
        let forged = catalog().header("sluice-hop", FORGED);
        self.row("a forged hop", &edge, forged, Expect::status(401))
            .await?;
        let key = self.wallet.with_key(catalog(), "globex")?;
        let orders = Expect::status(200).by("orders");
        self.row("globex, API key", &edge, key, orders).await?;
        let signed = self.wallet.signed(catalog(), "globex")?;
        let orders = Expect::status(200).by("orders");
        self.row("globex, signature", &edge, signed, orders).await?;
        let stock = self
            .wallet
            .with_key(Ask::get(address, "/v1/stock"), "globex")?;
        let inventory = Expect::status(200)
            .by("inventory")
            .header_with("x-api", "inventory");
        self.row("globex, API key", &edge, stock, inventory).await?;
        let nowhere = Ask::get(address, "/nowhere");
        self.row("no rule for the path", &edge, nowhere, Expect::status(404))
            .await?;
        Ok(())
    }

    /// Sends one request, prints its row, and gives the answer back; a failed exchange is an empty answer.
    async fn row(&mut self, who: &str, at: &Door, ask: Ask, expect: Expect) -> Result<Answer> {
        let (answer, back, surprises) = match caller::send(&ask).await {
            Ok(answer) => {
                let surprises = expect.surprises(&answer);
                (answer.clone(), report::back(&answer), surprises)
            }
            Err(error) => (
                Answer::default(),
                format!("{error:#}"),
                vec!["an answer".into()],
            ),
        };
        let decided = self.decided(at, &answer).await?;
        self.report.row(Row {
            who,
            sent: report::sent(&ask),
            back,
            decided,
            surprises,
        });
        Ok(answer)
    }

    /// Sends `asks` in turn, [`BURST`] in all, and prints two rows: the sum, and the first that was refused.
    async fn burst(&mut self, who: &str, at: &[&Door], asks: &[Ask], limit: Limit) -> Result<()> {
        let begun = Instant::now();
        let (mut admitted, mut refused) = (0, None);
        for turn in 0..BURST as usize {
            let (at, ask) = (at[turn % at.len()], &asks[turn % asks.len()]);
            let answer = caller::send(ask).await?;
            match answer.status {
                200 => admitted += 1,
                _ if refused.is_none() => refused = Some((answer, at)),
                _ => {}
            }
        }
        let most = limit.most(begun.elapsed().as_secs_f64());
        let surprises = match admitted {
            _ if admitted > most => vec![format!("at most {most} answers of 200")],
            _ if admitted < limit.burst / 2 => {
                vec![format!("about {} answers of 200", limit.burst)]
            }
            _ => Vec::new(),
        };
        let sent = format!("{BURST} x {}", report::sent(&asks[0]));
        let back = format!("{admitted} x 200, {} refused", BURST - admitted);
        self.report.row(Row {
            who,
            sent,
            back,
            decided: None,
            surprises,
        });
        let Some((answer, at)) = refused else {
            return Ok(());
        };
        let decided = self.decided(at, &answer).await?;
        let expect = Expect::status(429)
            .header("ratelimit")
            .header("ratelimit-policy")
            .header("retry-after");
        self.report.row(Row {
            who: "  the first one refused",
            sent: report::sent(&asks[0]),
            back: report::back(&answer),
            decided,
            surprises: expect.surprises(&answer),
        });
        Ok(())
    }

    async fn decided(&mut self, at: &Door, answer: &Answer) -> Result<Option<String>> {
        match &mut self.platform.pod(&at.pod)?.sidecar {
            Some(sidecar) => Ok(sidecar.log.decision(&answer.peer).await),
            None => Ok(None),
        }
    }

    fn with(&self, how: How, consumer: &str, ask: Ask) -> Result<Ask> {
        match how {
            How::Key => self.wallet.with_key(ask, consumer),
            How::Signature => self.wallet.signed(ask, consumer),
            How::Token => self.wallet.with_token(ask, consumer, 300),
        }
    }

    /// The two pods of a Service that has sidecars.
    fn both(&mut self, service: &str) -> Result<[Door; 2]> {
        let mut door = |ordinal| {
            let pod = format!("{service}-{ordinal}");
            let address = self.platform.address(&pod)?;
            anyhow::Ok(Door { pod, address })
        };
        Ok([door(0)?, door(1)?])
    }
}

/// A pod that is asked.
struct Door {
    pod: String,
    address: std::net::SocketAddr,
}

/// A way to prove an identity.
#[derive(Clone, Copy)]
enum How {
    Key,
    Signature,
    Token,
}

impl How {
    fn word(self) -> &'static str {
        match self {
            Self::Key => "API key",
            Self::Signature => "signature",
            Self::Token => "JWT",
        }
    }
}

/// A token bucket, as the quickstart's policies have it.
#[derive(Clone, Copy)]
struct Limit {
    burst: u32,
    per_second: u32,
}

impl Limit {
    /// The most that may be admitted in so many seconds, with the overshoot that the policy allows.
    fn most(self, seconds: f64) -> u32 {
        let exact = f64::from(self.burst) + f64::from(self.per_second) * seconds;
        (exact * 1.01).ceil() as u32
    }
}
