//! A platform in which the tests of this tier send requests: a control plane, an operator with a SluiceConfig, a Redis, and
//! stand-in pods with applications and sidecars. What any of them should answer is the tests'.

use std::ops::Deref;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use http::Request;
use serde_json::{Value, json};
use sluice_tests::jwt::{TokenKey, claims};
use sluice_tests::product::AUDIENCE;
use sluice_tests::signature::Signer;
use sluice_tests::{
    Answer, App, Cluster, Operator, Redis, Sidecar, StandInPod, With, World, eventually, seconds,
};

use super::{install, status::roots};

/// The namespace of everything.
pub const NAMESPACE: &str = "shop";

/// The platform, ready; no object of Sluice in it yet.
pub struct Shop<'w> {
    world: &'w World,
    pub cluster: Cluster,
    pub operator: Operator,
    pub roots: String,
    _redis: Redis,
}

/// A pod with its containers.
pub struct Served {
    pub pod: StandInPod,
    pub sidecar: Sidecar,
    _app: App,
}

/// An application without sidecar.
pub struct Member {
    pub pod: StandInPod,
    _app: App,
}

impl<'w> Shop<'w> {
    /// Starts the servers and one operator with no more rights than it gets in a cluster. No webhook is registered.
    pub async fn start(world: &'w World) -> Result<Self> {
        let redis = Redis::start(world).await?;
        let cluster = install::cluster(world).await?;
        let config = format!(
            "apiVersion: config.sluice.dev/v1alpha1
kind: SluiceConfig
trustDomain: shop.example
stores:
- {{name: default, type: Redis, redis: {{addresses: [\"{}\"], keyPrefix: sluice}}}}
",
            redis.address()
        );
        let config = world.file("config/sluiceconfig.yaml", config)?;
        let mut operator = install::options(world, &cluster, "operator-0")?
            .config(&config)
            .start(world)?;
        operator.ready(seconds(60)).await?;
        let roots = roots(&cluster).await?;
        Ok(Self {
            world,
            cluster,
            operator,
            roots,
            _redis: redis,
        })
    }

    /// A pod labelled `app` with application and sidecar; the sidecar is not waited for.
    pub async fn pod(&self, app: &str, name: &str) -> Result<Served> {
        let pod = StandInPod::create(
            self.world,
            &self.cluster,
            NAMESPACE,
            name,
            json!({"app": app}),
        )
        .await?;
        self.contain(pod).await
    }

    /// Two pods `APP-0` and `APP-1` of Service `app`, serving.
    pub async fn pair(&self, app: &str) -> Result<[Served; 2]> {
        let mut pair = [
            self.pod(app, &format!("{app}-0")).await?,
            self.pod(app, &format!("{app}-1")).await?,
        ];
        for served in &mut pair {
            served.sidecar.ready(seconds(60)).await?;
        }
        Ok(pair)
    }

    /// The containers of a pod that is there: the application, named as the pod, and the sidecar.
    pub async fn contain(&self, pod: StandInPod) -> Result<Served> {
        let app = App::start(self.world, &pod.name, pod.ip).await?;
        let sidecar = Sidecar::options(self.world, &pod.name, pod.ip)?
            .operator(self.operator.stream)
            .token_file(&pod.token_file(AUDIENCE).await?)
            .roots_pem(&self.roots)
            .start(self.world)?;
        Ok(Served {
            pod,
            sidecar,
            _app: app,
        })
    }

    /// The two pods that a Deployment of the quickstart asks for, serving.
    pub async fn adopt(&self, deployment: &str) -> Result<[Served; 2]> {
        let [first, second] = self
            .adopted(deployment, 2)
            .await?
            .try_into()
            .ok()
            .context("two pods")?;
        let mut pair = [self.contain(first).await?, self.contain(second).await?];
        for served in &mut pair {
            served.sidecar.ready(seconds(60)).await?;
        }
        Ok(pair)
    }

    /// The shard members of the quickstart: applications that answer with the name of their Service.
    pub async fn members(&self) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        for service in ["orders-s0", "orders-s0-read", "orders-s1", "orders-s1-read"] {
            let pod = self.adopted(service, 1).await?.pop().context("one pod")?;
            let app = App::start_at(self.world, service, (pod.ip, 8080).into()).await?;
            members.push(Member { pod, _app: app });
        }
        Ok(members)
    }

    async fn adopted(&self, name: &str, count: usize) -> Result<Vec<StandInPod>> {
        let selector = format!("app.kubernetes.io/name={name}");
        StandInPod::adopt_all(self.world, &self.cluster, NAMESPACE, &selector, count).await
    }

    /// `kubectl -n shop ...`
    pub async fn kubectl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<String> {
        self.cluster
            .kubectl()
            .run(["-n", NAMESPACE].into_iter().chain(args))
            .await
    }

    /// Waits, as a user does, until all objects of all three kinds are Ready.
    pub async fn all_ready(&self) -> Result<()> {
        let what = "apiroute,ratelimitpolicy,shardset";
        self.kubectl([
            "wait",
            "--for=condition=Ready",
            "--timeout=60s",
            "--all",
            what,
        ])
        .await
        .map(drop)
    }
}

impl Served {
    /// Waits until the sidecar holds what `enough` says of `name -> {hash, body}`; gives the units.
    pub async fn holds(&self, what: &str, enough: impl Fn(&Value) -> bool) -> Result<Value> {
        let what = format!("{} holds {what}", self.pod.name);
        eventually(&what, seconds(40), async || {
            let units = self.units().await?;
            let names: Vec<_> = units
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect();
            ensure!(enough(&units), "it holds {names:?}");
            Ok(units)
        })
        .await
    }

    /// What the sidecar holds, without secrets.
    pub async fn units(&self) -> Result<Value> {
        Ok(self.sidecar.admin("/config").await?.expect(200)?.json()?["units"].clone())
    }
}

impl Deref for Served {
    type Target = Sidecar;

    fn deref(&self) -> &Sidecar {
        &self.sidecar
    }
}

/// A folder of the quickstart.
pub fn quickstart(folder: &str) -> PathBuf {
    install::repository("examples/quickstart").join(folder)
}

/// A way in which the quickstart's consumers prove who they are.
#[derive(Debug, Clone, Copy)]
pub enum Credential {
    ApiKey,
    Signature,
    Token,
}

impl Credential {
    /// The request with the consumer's credential. It has its `Host` already: a signature covers it.
    pub fn on(
        self,
        request: Request<bytes::Bytes>,
        consumer: &str,
    ) -> Result<Request<bytes::Bytes>> {
        Ok(match self {
            Self::ApiKey => request.with("x-api-key", &format!("demo-only-api-key-of-{consumer}")),
            Self::Signature => {
                let secret = format!("demo-only-signature-key-of-{consumer}-0123456789");
                Signer::new(format!("{consumer}-hmac-1"), secret).sign(request)
            }
            Self::Token => {
                let key =
                    TokenKey::hs256("shop-jwt-1", b"demo-only-token-key-of-the-shop-0123456789");
                let token = key.sign(&claims("https://id.shop.example", consumer, "shop"))?;
                request.with("authorization", &format!("Bearer {token}"))
            }
        })
    }
}

/// A header of an answer, or an error that shows the answer.
pub fn header<'a>(answer: &'a Answer, name: &str) -> Result<&'a str> {
    answer
        .header(name)
        .with_context(|| format!("no {name} in {answer:?}"))
}
