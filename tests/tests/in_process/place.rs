//! What the tests of this tier stand on: a folder of manifests, the operator that follows it, and pods (an application
//! and the sidecar in front of it) to which requests are sent. No expectation lives here.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_tests::product::{OperatorOptions, SidecarOptions};
use sluice_tests::{App, Operator, Sidecar, World, eventually, seconds};

/// How long anything may take to become ready: debug builds on a busy machine.
const PATIENCE: u64 = 40;

/// Manifests before anything runs.
pub struct Plan<'w> {
    world: &'w World,
    manifests: PathBuf,
    pods: Vec<(String, Ipv4Addr)>,
}

impl<'w> Plan<'w> {
    /// An empty folder.
    pub fn new(world: &'w World) -> Result<Self> {
        Ok(Self {
            world,
            manifests: world.folder("manifests")?,
            pods: Vec::new(),
        })
    }

    /// Writes `NAME.yaml`.
    pub fn put(&self, name: &str, yaml: &str) -> Result<()> {
        put(&self.manifests, name, yaml)
    }

    /// A Service, port 80, with two pods `NAME-0` and `NAME-1` that have sidecars.
    pub fn group(&mut self, name: &str) -> Result<()> {
        let addresses = [self.world.address(), self.world.address()];
        self.service(name, &addresses)?;
        let pods = addresses.iter().enumerate();
        self.pods
            .extend(pods.map(|(n, ip)| (format!("{name}-{n}"), *ip)));
        Ok(())
    }

    /// As [`Plan::group`], and the sidecars take hops at port 15008.
    pub fn hops(&mut self, name: &str) -> Result<()> {
        self.group(name)?;
        let prefix = format!("{name}-");
        let pods = self.pods.iter().filter(|(pod, _)| pod.starts_with(&prefix));
        let addresses: Vec<_> = pods.map(|(_, ip)| *ip).collect();
        let labels = "labels: {kubernetes.io/service-name";
        let marked = format!("annotations: {{sluice.dev/hop-port: \"15008\"}}, {labels}");
        let manifest = service(name, &addresses).replace(labels, &marked);
        self.put(&format!("service-{name}"), &manifest)
    }

    /// A Service, port 80, whose pods at these addresses, port 8080, have no sidecar.
    pub fn service(&self, name: &str, addresses: &[Ipv4Addr]) -> Result<()> {
        self.put(&format!("service-{name}"), &service(name, addresses))
    }

    /// A Service of one application without sidecar, which answers with its name.
    pub async fn member(&self, name: &str) -> Result<App> {
        let ip = self.world.address();
        self.service(name, &[ip])?;
        App::start_at(self.world, name, (ip, 8080).into()).await
    }

    /// Starts the operator, then every pod; returns once all sidecars serve what the operator made of the manifests.
    pub async fn start(self) -> Result<Place<'w>> {
        let Self {
            world,
            manifests,
            pods,
        } = self;
        let state = world.folder("operator")?;
        let options = Operator::options(world, "operator")
            .manifests(&manifests)
            .state_dir(&state);
        let mut operator = options.start(world)?;
        let options = options.ip(ipv4(operator.stream.ip())?);
        operator.ready(seconds(PATIENCE)).await?;

        let mut place = Place {
            world,
            manifests,
            options,
            operator,
            state,
            pods: Vec::new(),
        };
        for (name, ip) in pods {
            let pod = place.start_pod(name, ip).await?;
            place.pods.push(pod);
        }
        for pod in &mut place.pods {
            pod.sidecar.ready(seconds(PATIENCE)).await?;
        }
        Ok(place)
    }
}

/// Everything, running.
pub struct Place<'w> {
    world: &'w World,
    manifests: PathBuf,
    options: OperatorOptions,
    /// The operator.
    pub operator: Operator,
    /// Its state folder.
    pub state: PathBuf,
    /// The pods with sidecars, in the order in which they were planned.
    pub pods: Vec<Pod>,
}

/// A pod with a sidecar.
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its application.
    pub app: App,
    /// Its sidecar.
    pub sidecar: Sidecar,
    options: SidecarOptions,
}

impl Pod {
    /// Waits until its sidecar holds slots of a ShardSet: the status says so first, then the sidecars hear of it.
    pub async fn holds(&self, set: &str) -> Result<()> {
        let map = format!("/units/shards~1shop~1{set}/body/hold");
        eventually("the hold at the sidecar", seconds(PATIENCE), async || {
            let config = self.sidecar.admin("/config").await?.json()?;
            let hold = config.pointer(&map).and_then(Value::as_array);
            ensure!(hold.is_some_and(|hold| !hold.is_empty()), "{hold:?}");
            Ok(())
        })
        .await
    }
}

impl Place<'_> {
    async fn start_pod(&self, name: String, ip: Ipv4Addr) -> Result<Pod> {
        let app = App::start(self.world, &name, ip).await?;
        let (sidecar, options) = self.start_sidecar(&name, ip).await?;
        Ok(Pod {
            name,
            app,
            sidecar,
            options,
        })
    }

    /// A sidecar on `ip`, in front of an application that the test starts itself on port 18080; ready.
    pub async fn sidecar(&self, pod: &str, ip: Ipv4Addr) -> Result<Sidecar> {
        let (mut sidecar, _) = self.start_sidecar(pod, ip).await?;
        sidecar.ready(seconds(PATIENCE)).await?;
        Ok(sidecar)
    }

    async fn start_sidecar(&self, name: &str, ip: Ipv4Addr) -> Result<(Sidecar, SidecarOptions)> {
        let file_mode = "an operator with manifests has a state folder";
        let token = self.operator.join_token("shop", name).context(file_mode)?;
        let roots = self.operator.roots().context(file_mode)?;
        eventually(
            "a join token and the roots",
            seconds(PATIENCE),
            async || {
                ensure!(token.exists(), "{} is missing", token.display());
                ensure!(roots.exists(), "{} is missing", roots.display());
                Ok(())
            },
        )
        .await?;
        let options = Sidecar::options(self.world, &format!("sidecar-{name}"), ip)?
            .operator(self.operator.stream)
            .token_file(&token)
            .roots(&roots)
            .arg(format!("--hop={ip}:15008"));
        Ok((options.start(self.world)?, options))
    }

    /// Replaces `NAME.yaml` whole, by a rename, as a careful editor does.
    pub fn put(&self, name: &str, yaml: &str) -> Result<()> {
        put(&self.manifests, name, yaml)
    }

    /// Deletes `NAME.yaml`.
    pub fn delete(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(
            self.manifests.join(format!("{name}.yaml")),
        )?)
    }

    /// Where `NAME.yaml` is.
    pub fn manifest(&self, name: &str) -> PathBuf {
        self.manifests.join(format!("{name}.yaml"))
    }

    /// Starts the edge of a Gateway of the namespace `shop`. It is not waited for.
    pub async fn edge(&self, gateway: &str) -> Result<Sidecar> {
        self.another_edge(gateway, gateway).await
    }

    /// Starts an edge of a Gateway of the namespace `shop`, beside others: it has a name of its own.
    pub async fn another_edge(&self, gateway: &str, name: &str) -> Result<Sidecar> {
        let file_mode = "an operator with manifests has a state folder";
        let pod = format!("gateway.{gateway}");
        let token = self.operator.join_token("shop", &pod).context(file_mode)?;
        let roots = self.operator.roots().context(file_mode)?;
        eventually("a join token", seconds(PATIENCE), async || {
            ensure!(token.exists(), "{} is missing", token.display());
            Ok(())
        })
        .await?;
        Sidecar::options(self.world, &format!("edge-{name}"), self.world.address())?
            .operator(self.operator.stream)
            .token_file(&token)
            .roots(&roots)
            .edge()
            .start(self.world)
    }

    /// The status that the operator keeps for an object of the namespace `shop`.
    pub fn status(&self, kind: &str, name: &str) -> Result<Value> {
        let file = self.status_file(kind, name);
        let text =
            fs::read_to_string(&file).with_context(|| format!("no status {}", file.display()))?;
        let object: Value = serde_saphyr::from_str(&text)?;
        Ok(object["status"].clone())
    }

    /// Where that status is kept.
    pub fn status_file(&self, kind: &str, name: &str) -> PathBuf {
        self.state
            .join(format!("status/{}/shop/{name}.yaml", kind.to_lowercase()))
    }

    /// Waits until a condition of an object is as told, and gives its message.
    pub async fn condition(
        &self,
        kind: &str,
        name: &str,
        type_: &str,
        status: &str,
        reason: &str,
    ) -> Result<String> {
        let what = format!("{kind} {name} {type_}={status}/{reason}");
        eventually(&what, seconds(PATIENCE), async || {
            let all = self.status(kind, name)?;
            let conditions = all["conditions"].as_array().context("no conditions")?;
            let found = conditions.iter().find(|c| c["type"] == type_);
            let found = found.with_context(|| format!("no condition {type_}"))?;
            ensure!(
                found["status"] == status && found["reason"] == reason,
                "it is {found}"
            );
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        })
        .await
    }

    /// Waits until an object is live on every pod.
    pub async fn live(&self, kind: &str, name: &str) -> Result<()> {
        self.condition(kind, name, "Ready", "True", "Ready")
            .await
            .map(drop)
    }

    /// Starts the successor of an operator that was killed, with the same state, and waits for it.
    pub async fn restart_operator(&mut self) -> Result<()> {
        self.operator = self.options.start(self.world)?;
        self.operator.ready(seconds(PATIENCE)).await
    }

    /// Starts the sidecar of a pod again, with the same state and other options, and waits for it.
    pub async fn change_sidecar(
        &mut self,
        pod: usize,
        change: impl FnOnce(SidecarOptions) -> SidecarOptions,
    ) -> Result<()> {
        let pod = &mut self.pods[pod];
        pod.sidecar.process.kill();
        pod.options = change(pod.options.clone());
        pod.sidecar = pod.options.start(self.world)?;
        pod.sidecar.ready(seconds(PATIENCE)).await
    }

    /// Starts the sidecar of a pod again, with the same state; it is not waited for.
    pub fn restart_sidecar(&mut self, pod: usize) -> Result<()> {
        self.pods[pod].sidecar = self.pods[pod].options.start(self.world)?;
        Ok(())
    }
}

/// Writes beside and renames: what is not named `*.yaml` is no manifest.
fn put(dir: &Path, name: &str, yaml: &str) -> Result<()> {
    let beside = dir.join(format!(".{name}.new"));
    fs::write(&beside, yaml)?;
    fs::rename(&beside, dir.join(format!("{name}.yaml")))
        .with_context(|| format!("replacing {name}.yaml"))
}

/// A Service and the slice that names its pods `NAME-0`, `NAME-1`, ...
pub fn service(name: &str, addresses: &[Ipv4Addr]) -> String {
    let endpoints: String = addresses
        .iter()
        .enumerate()
        .map(|(n, ip)| {
            format!(
                "\n- {{addresses: [{ip}], conditions: {{ready: true}}, targetRef: {{kind: Pod, namespace: shop, name: {name}-{n}}}}}"
            )
        })
        .collect();
    let endpoints = if endpoints.is_empty() {
        " []".to_owned()
    } else {
        endpoints
    };
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  ports: [{{name: http, port: 80, targetPort: 8080, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:{endpoints}
"
    )
}

/// An ApiRoute of the Service `api` for the host `NAME.example`. `spec` is the rest, indented by two.
pub fn route(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, name: api}}]
  hostnames: [{name}.example]
{spec}"
    )
}

/// The ApiRoute `orders` after its change number `n`: answers say the number in `X-Change`.
pub fn changed(n: u64) -> String {
    let rules = format!(
        "  rules:
  - name: all
    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: X-Change, value: \"{n}\"}}]}}}}]
"
    );
    route("orders", &rules)
}

/// A ShardSet by the header `X-Tenant`, where each shard has one Service. `spec` is the rest, indented by two.
pub fn shard_set(name: &str, shards: &[(&str, &str)], spec: &str) -> String {
    let shards = shards.iter().map(|(shard, service)| {
        format!("  - {{name: {shard}, members: [{{name: a, role: Primary, backendRef: {{name: {service}, port: 80}}}}]}}\n")
    });
    let shards: String = shards.collect();
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: ShardSet
metadata: {{name: {name}, namespace: shop}}
spec:
  keyspace: {{slots: 16384, hash: CRC16}}
  key: {{from: [{{type: Header, header: {{name: X-Tenant}}}}]}}
  shards:
{shards}{spec}"
    )
}

/// A RateLimitPolicy for the ApiRoute of the same name, with one limit `only`. `limit` is the rest of it, indented by
/// four.
pub fn policy(name: &str, limit: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: RateLimitPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{group: sluice.dev, kind: ApiRoute, name: {name}}}]
  limits:
  - name: only
{limit}"
    )
}

/// A Secret of one purpose with one entry; its name and its use are labels.
pub fn secret(name: &str, purpose: &str, entry: &str, value: &str) -> String {
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: shop, labels: {{sluice.dev/use: {purpose}, name: {name}}}}}
type: sluice.dev/{purpose}
stringData: {{{entry}: {value}}}
"
    )
}

/// SluiceConfig with Redis stores.
pub fn config(stores: &[(&str, std::net::SocketAddr)]) -> String {
    let stores: String = stores
        .iter()
        .map(|(name, address)| {
            format!("- {{name: {name}, type: Redis, redis: {{addresses: [\"{address}\"]}}}}\n")
        })
        .collect();
    format!(
        "apiVersion: config.sluice.dev/v1alpha1\nkind: SluiceConfig\ntrustDomain: shop.example\nstores:\n{stores}"
    )
}

/// Documents of one file.
pub fn documents(all: &[String]) -> String {
    all.join("\n---\n")
}

fn ipv4(ip: std::net::IpAddr) -> Result<Ipv4Addr> {
    match ip {
        std::net::IpAddr::V4(ip) => Ok(ip),
        std::net::IpAddr::V6(_) => anyhow::bail!("this network has IPv4 addresses"),
    }
}
