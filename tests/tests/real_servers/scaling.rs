//! The custom metrics API behind the real aggregation layer: real HorizontalPodAutoscalers follow real load; nobody but the
//! API server is answered; somebody else's APIService is left alone; ours goes before its pods do.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use sluice_tests::product::{AUDIENCE, OPERATOR_NAME};
use sluice_tests::{
    App, Cluster, Load, Operator, Sidecar, StandInPod, World, eventually, isolated, seconds,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::install::{self, condition, until};
use super::status::roots;

const API: &str = "/apis/custom.metrics.k8s.io/v1beta2";
const APISERVICE: &str = "v1beta2.custom.metrics.k8s.io";
const RATE: &str = "sluice_requests_per_second";

/// The operator's Service and Deployment as the chart has them, but for its pods, which are stand-ins.
const OPERATOR: &str = "
apiVersion: v1
kind: Service
metadata: {name: sluice-operator, namespace: sluice-system}
spec:
  selector: {app.kubernetes.io/name: sluice-operator}
  ports:
  - {name: stream, port: 8443, targetPort: 8443}
  - {name: metrics-api, port: 9444, targetPort: 9444}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: sluice-operator, namespace: sluice-system}
spec:
  replicas: 2
  selector: {matchLabels: {app: nobody}}
  template:
    metadata: {labels: {app: nobody}}
    spec: {containers: [{name: operator, image: localhost/none:1}]}
";

pub const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, sluice.dev/inject: \"false\"}}
    spec: {containers: [{name: app, image: localhost/none:1}]}
";

/// Twenty requests a second per pod, two to six pods, at once in both directions; and what `more` adds.
pub fn scaled(more: &str) -> String {
    install::service_and_route("web").replace(
        "spec: {parentRefs: [{kind: Service, name: web}]}",
        &format!(
            "spec:
  parentRefs: [{{kind: Service, name: web}}]
  scaling:
    scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}
    minReplicas: 2
    maxReplicas: 6
    metrics: [{{type: RequestsPerSecond, requestsPerSecond: {{averageValue: \"20\"}}}}]
    behavior: {{scaleDown: {{stabilizationWindowSeconds: 0}}}}
{more}"
        ),
    )
}

/// A replica in a pod of the operator's Service, with the metrics API.
async fn replica(world: &World, cluster: &Cluster, name: &str) -> Result<Operator> {
    let labels = json!({"app.kubernetes.io/name": "sluice-operator"});
    let pod = StandInPod::create(world, cluster, install::NAMESPACE, name, labels).await?;
    let mut operator = install::options(world, cluster, name)?
        .ip(pod.ip)
        .arg(format!("--metrics-api={}:9444", pod.ip))
        .start(world)?;
    operator.ready(seconds(60)).await?;
    Ok(operator)
}

/// One that serves no metrics API, with a flag more.
pub async fn api_less_replica(
    world: &World,
    cluster: &Cluster,
    ip: Ipv4Addr,
    flag: &str,
) -> Result<Operator> {
    let options = install::options(world, cluster, "operator-0")?;
    let mut operator = options.ip(ip).arg(flag).start(world)?;
    operator.ready(seconds(60)).await?;
    Ok(operator)
}

fn metrics_api(operator: &Operator) -> SocketAddr {
    SocketAddr::new(operator.stream.ip(), 9444)
}

async fn api_service(cluster: &Cluster) -> Result<Option<Value>> {
    let args = [
        "get",
        "apiservice",
        APISERVICE,
        "--ignore-not-found",
        "-o",
        "json",
    ];
    let text = cluster.kubectl().run(args).await?;
    match text.trim() {
        "" => Ok(None),
        text => Ok(Some(serde_json::from_str(text)?)),
    }
}

/// Waits until the API server has found our metrics API.
async fn available(cluster: &Cluster) -> Result<()> {
    eventually("the APIService is available", seconds(60), async || {
        let found = api_service(cluster).await?.context("it is not there")?;
        let (says, message) = condition(&found, "Available");
        ensure!(says == "True/Passed", "it is {says}: {message}");
        Ok(())
    })
    .await
}

/// `kubectl get --raw` under the metrics API.
async fn raw(cluster: &Cluster, path: &str) -> Result<Value> {
    let path = format!("{API}{path}");
    let text = cluster.kubectl().run(["get", "--raw", &path]).await?;
    Ok(serde_json::from_str(&text)?)
}

/// Names of the pods in a list of values.
fn pods(list: &Value) -> BTreeSet<String> {
    let items = list["items"].as_array();
    let name = |item: &Value| item["describedObject"]["name"].as_str().map(str::to_owned);
    items.into_iter().flatten().filter_map(name).collect()
}

pub struct Served {
    pub sidecar: Sidecar,
    pod: StandInPod,
    _app: App,
}

/// The pods of Deployment `web`, each with application and sidecar, which report to `operator`.
pub async fn serve(world: &World, cluster: &Cluster, operator: &Operator) -> Result<Vec<Served>> {
    let mut served = Vec::new();
    for pod in StandInPod::adopt_all(world, cluster, "shop", "app=web", 2).await? {
        let app = App::start(world, &pod.name, pod.ip).await?;
        let mut sidecar = Sidecar::options(world, &pod.name, pod.ip)?
            .operator(operator.stream)
            .token_file(&pod.token_file(AUDIENCE).await?)
            .roots_pem(&roots(cluster).await?)
            .start(world)?;
        sidecar.ready(seconds(60)).await?;
        served.push(Served {
            sidecar,
            pod,
            _app: app,
        });
    }
    Ok(served)
}

async fn replicas(cluster: &Cluster) -> Result<i64> {
    let web = cluster
        .kubectl()
        .json(["-n", "shop", "get", "deployment", "web"])
        .await?;
    web["spec"]["replicas"].as_i64().context("replicas")
}

#[test]
fn a_real_autoscaler_follows_the_load_up_and_down() {
    isolated!(seconds(400), async |world| {
        let cluster = install::cluster(world).await?;
        cluster.apply_yaml(OPERATOR).await?;
        let first = replica(world, &cluster, "operator-0").await?;
        let second = replica(world, &cluster, "operator-1").await?;
        cluster.apply_yaml(WEB).await?;
        cluster.apply_yaml(&scaled("")).await?;
        available(&cluster).await?;
        let served = serve(world, &cluster, &first).await?;
        let names: BTreeSet<_> = served.iter().map(|one| one.pod.name.clone()).collect();

        // Both report to the first replica; each replica answers for both, and so does whichever the API server asks.
        let list = format!("/namespaces/shop/pods/*/{RATE}?labelSelector=app%3Dweb");
        let front = FrontProxy::of(world, &cluster).await?;
        for operator in [&first, &second] {
            let path = format!("{API}{list}");
            eventually("a replica knows both loads", seconds(60), async || {
                let (code, found) = front.get(operator, &path, "system:masters").await?;
                ensure!(
                    code == StatusCode::OK && pods(&found) == names,
                    "{code}: {found}"
                );
                Ok(())
            })
            .await?;
        }
        ensure!(pods(&raw(&cluster, &list).await?) == names);
        let one = &served[0].pod.name;
        let single = raw(&cluster, &format!("/namespaces/shop/pods/{one}/{RATE}")).await?;
        ensure!(
            single["items"][0]["value"] == "0m" && single["items"][0]["windowSeconds"] == 5,
            "{single}"
        );
        ensure!(
            pods(
                &raw(
                    &cluster,
                    &format!("/namespaces/shop/pods/*/{RATE}?labelSelector=app!%3Dweb")
                )
                .await?
            )
            .is_empty()
        );
        for (path, says) in [
            (
                format!("/namespaces/shop/pods/nobody/{RATE}"),
                "no sluice_requests_per_second of pod shop/nobody",
            ),
            ("/namespaces/shop/pods/*/cpu".to_owned(), "no metric cpu"),
            (
                format!("/namespaces/shop/pods/*/{RATE}?labelSelector=app%20web"),
                "an operator was expected",
            ),
        ] {
            let error = raw(&cluster, &path).await.expect_err("refused").to_string();
            ensure!(error.contains(says), "{error}");
        }

        // The real controller, the real aggregation layer.
        until(
            &cluster,
            "hpa",
            "sluice-web",
            "ScalingActive",
            "True/ValidMetricFound",
        )
        .await?;
        let route = until(&cluster, "apiroute", "web", "Scaling", "True/Scaling").await?;
        ensure!(condition(&route, "Ready").0 == "True/Ready", "{route}");
        ensure!(replicas(&cluster).await? == 2, "nothing to do yet");
        let loads: Vec<_> = served
            .iter()
            .map(|one| Load::against(one.sidecar.address).per_second(50).start())
            .collect();
        eventually("more replicas are asked for", seconds(90), async || {
            let replicas = replicas(&cluster).await?;
            ensure!(replicas >= 4, "there are {replicas}");
            Ok(())
        })
        .await?;
        for load in loads {
            let report = load.finish().await;
            ensure!(report.failed == 0, "{report}");
        }
        eventually(
            "the load is gone, and so are they",
            seconds(90),
            async || {
                let replicas = replicas(&cluster).await?;
                ensure!(replicas == 2, "there are {replicas}");
                Ok(())
            },
        )
        .await?;
        let args = [
            "-n",
            "shop",
            "get",
            "deployment",
            "web",
            "-o",
            "yaml",
            "--show-managed-fields",
        ];
        let managers = cluster.kubectl().run(args).await?;
        ensure!(
            !managers.contains("manager: sluice-operator"),
            "it wrote the Deployment:\n{managers}"
        );
        Ok(())
    });
}

#[test]
fn a_known_peak_raises_the_floor_while_it_lasts() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        cluster.apply_yaml(OPERATOR).await?;
        let _operator = replica(world, &cluster, "operator-0").await?;
        cluster.apply_yaml(WEB).await?;
        // Every minute for two minutes: always on, whenever the test runs.
        let peak = "    schedules: [{name: peak, cron: \"* * * * *\", timeZone: Asia/Kolkata, duration: 2m, minReplicas: 5}]\n";
        cluster.apply_yaml(&scaled(peak)).await?;
        until(&cluster, "apiroute", "web", "Scaling", "True/Scaling").await?;
        let floor = async || {
            let hpa = cluster
                .kubectl()
                .json(["-n", "shop", "get", "hpa", "sluice-web"])
                .await?;
            anyhow::Ok(hpa["spec"]["minReplicas"].clone())
        };
        ensure!(floor().await? == 5, "{}", floor().await?);
        eventually(
            "the floor holds without any load",
            seconds(60),
            async || {
                let replicas = replicas(&cluster).await?;
                ensure!(replicas == 5, "there are {replicas}");
                Ok(())
            },
        )
        .await?;

        // One that begins at the next full minute and no other time: the timer alone raises it.
        let next = kube_time(world, 60).await?;
        let peak = format!(
            "    schedules: [{{name: peak, cron: \"{next}\", duration: 1h, minReplicas: 4}}]\n"
        );
        cluster.apply_yaml(&scaled(&peak)).await?;
        eventually(
            "the former schedule is forgotten",
            seconds(30),
            async || {
                let floor = floor().await?;
                ensure!(floor == 2 || floor == 4, "{floor}");
                Ok(())
            },
        )
        .await?;
        eventually("the new one begins by itself", seconds(100), async || {
            let floor = floor().await?;
            ensure!(floor == 4, "{floor}");
            Ok(())
        })
        .await?;

        // A time that never comes is refused where it is written, by the schema or by the status.
        let never =
            "    schedules: [{name: never, cron: \"0 0 30 2 *\", duration: 1h, minReplicas: 4}]\n";
        cluster.apply_yaml(&scaled(never)).await?;
        let route = until(&cluster, "apiroute", "web", "Accepted", "False/Invalid").await?;
        let (_, message) = condition(&route, "Accepted");
        ensure!(message.contains("never comes"), "{message}");
        Ok(())
    });
}

/// Minute and hour (UTC) so many seconds from now, rounded up, as cron has them.
async fn kube_time(_world: &World, seconds: u64) -> Result<String> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    let minute = (now + seconds).div_euclid(60);
    Ok(format!("{} {} * * *", minute % 60, minute / 60 % 24))
}

#[test]
fn only_the_api_server_is_answered() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        cluster.apply_yaml(OPERATOR).await?;
        let operator = replica(world, &cluster, "operator-0").await?;
        available(&cluster).await?;
        let path = format!("{API}/namespaces/shop/pods/*/{RATE}");

        // Whoever has no certificate may say what he likes.
        let nobody = FrontProxy::stranger(&cluster).await?;
        let (code, said) = nobody.get(&operator, &path, "system:masters").await?;
        ensure!(
            code == StatusCode::UNAUTHORIZED && said["kind"] == "Status",
            "{code}: {said}"
        );

        // A certificate of the cluster's other CA is none.
        let files = ["cluster/server.crt", "cluster/server.key"];
        let other = FrontProxy::with(world, &cluster, files).await?;
        let refused = other.get(&operator, &path, "system:masters").await;
        ensure!(refused.is_err(), "{refused:?}");

        // The API server itself is asked for somebody who may not, and for somebody who may.
        let front = FrontProxy::of(world, &cluster).await?;
        let (code, said) = front.get(&operator, &path, "system:authenticated").await?;
        ensure!(
            code == StatusCode::FORBIDDEN && said["reason"] == "Forbidden",
            "{code}: {said}"
        );
        let (code, said) = front.get(&operator, &path, "system:masters").await?;
        ensure!(
            code == StatusCode::OK && said["kind"] == "MetricValueList",
            "{code}: {said}"
        );
        let (code, said) = front
            .get(&operator, "/openapi/v2", "system:masters")
            .await?;
        ensure!(
            code == StatusCode::NOT_FOUND && said["kind"] == "Status",
            "{code}: {said}"
        );

        // The cluster's discovery is whole: namespaces go while the API is there.
        eventually("discovery has our metrics", seconds(30), async || {
            let args = ["api-resources", "--api-group=custom.metrics.k8s.io"];
            let resources = cluster.kubectl().run(args).await?;
            ensure!(!resources.contains("error"), "{resources}");
            let versions = cluster.kubectl().run(["api-versions"]).await?;
            ensure!(
                versions.contains("custom.metrics.k8s.io/v1beta2"),
                "{versions}"
            );
            Ok(())
        })
        .await?;
        passing(&cluster).await
    });
}

#[test]
fn somebody_elses_api_service_is_left_alone_and_named() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        cluster.apply_yaml(OPERATOR).await?;
        // Of the older version only: ours beside it would take its askers away.
        let theirs = "v1beta1.custom.metrics.k8s.io";
        cluster
            .apply_yaml(&format!(
                "
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: {theirs}}}
spec:
  group: custom.metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {{name: adapter, namespace: shop}}
"
            ))
            .await?;
        let before = cluster
            .kubectl()
            .json(["get", "apiservice", theirs])
            .await?;
        let operator = replica(world, &cluster, "operator-0").await?;
        cluster.apply_yaml(WEB).await?;
        cluster.apply_yaml(&scaled("")).await?;
        let route = until(
            &cluster,
            "apiroute",
            "web",
            "Scaling",
            "False/MetricsElsewhere",
        )
        .await?;
        let (_, message) = condition(&route, "Scaling");
        ensure!(
            message.contains(theirs) && message.contains("docs/scaling.md"),
            "{message}"
        );
        ensure!(
            condition(&route, "Ready").0 == "True/Ready",
            "scaling is no part of Ready"
        );
        let metrics = operator.metrics().await?;
        ensure!(
            metrics.contains("sluice_operator_metrics_api{state=\"elsewhere\"} 1"),
            "{metrics}"
        );
        ensure!(api_service(&cluster).await?.is_none(), "ours is there too");
        let after = cluster
            .kubectl()
            .json(["get", "apiservice", theirs])
            .await?;
        ensure!(
            before["spec"] == after["spec"]
                && before["metadata"]["uid"] == after["metadata"]["uid"]
        );

        // Theirs goes, ours comes; somebody applies over ours, and it is theirs.
        cluster
            .kubectl()
            .run(["delete", "apiservice", theirs])
            .await?;
        available(&cluster).await?;
        until(&cluster, "apiroute", "web", "Scaling", "True/Scaling").await?;
        let patch =
            r#"{"spec": {"service": {"name": "adapter", "namespace": "shop", "port": 443}}}"#;
        cluster
            .kubectl()
            .run([
                "patch",
                "apiservice",
                APISERVICE,
                "--type=merge",
                "-p",
                patch,
            ])
            .await?;
        until(
            &cluster,
            "apiroute",
            "web",
            "Scaling",
            "False/MetricsElsewhere",
        )
        .await?;
        let kept = api_service(&cluster).await?.context("it was deleted")?;
        ensure!(
            kept["spec"]["service"]["name"] == "adapter",
            "{}",
            kept["spec"]
        );
        Ok(())
    });
}

#[test]
fn it_goes_with_the_deployment_and_no_namespace_hangs() {
    isolated!(seconds(240), async |world| {
        let cluster = install::cluster(world).await?;
        cluster.apply_yaml(OPERATOR).await?;
        let mut first = replica(world, &cluster, "operator-0").await?;
        let mut second = replica(world, &cluster, "operator-1").await?;
        available(&cluster).await?;
        let found = api_service(&cluster).await?.context("it is there")?;
        let owner = &found["metadata"]["ownerReferences"][0];
        ensure!(
            owner["kind"] == "ClusterRole" && owner["name"] == "sluice-operator",
            "{owner}"
        );

        // A replica that ends in a rolling update leaves it.
        first.process.terminate(seconds(30)).await?;
        ensure!(
            api_service(&cluster).await?.is_some(),
            "a rolling update removed it"
        );

        // The last one of a Deployment that is scaled to nothing takes it along.
        let scale = [
            "-n",
            install::NAMESPACE,
            "scale",
            "deployment",
            "sluice-operator",
            "--replicas=0",
        ];
        cluster.kubectl().run(scale).await?;
        second.process.terminate(seconds(30)).await?;
        ensure!(api_service(&cluster).await?.is_none(), "it was left behind");
        passing(&cluster).await
    });
}

/// Makes a namespace and deletes it.
async fn passing(cluster: &Cluster) -> Result<()> {
    cluster.namespace("passing", json!({})).await?;
    let delete = ["delete", "namespace", "passing", "--wait=false"];
    cluster.kubectl().run(delete).await?;
    eventually("an unrelated namespace goes", seconds(30), async || {
        let args = [
            "get",
            "namespace",
            "passing",
            "--ignore-not-found",
            "-o",
            "yaml",
        ];
        let left = cluster.kubectl().run(args).await?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    })
    .await
}

/// A caller of a replica's metrics API, without the API server in between.
struct FrontProxy {
    tls: TlsConnector,
}

impl FrontProxy {
    /// With the API server's own front-proxy certificate.
    async fn of(world: &World, cluster: &Cluster) -> Result<Self> {
        Self::with(
            world,
            cluster,
            ["cluster/front-proxy.crt", "cluster/front-proxy.key"],
        )
        .await
    }

    /// With another certificate of the cluster's files.
    async fn with(world: &World, cluster: &Cluster, files: [&str; 2]) -> Result<Self> {
        let [certificate, key] = files.map(|file| world.dir().join(file));
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(key)?;
        Self::new(cluster, Some((chain, key))).await
    }

    /// Without any.
    async fn stranger(cluster: &Cluster) -> Result<Self> {
        Self::new(cluster, None).await
    }

    async fn new(
        cluster: &Cluster,
        identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<Self> {
        let mut trusted = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots(cluster).await?.as_bytes()) {
            trusted.add(root?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(trusted);
        let config = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    /// GET as a user of one group.
    async fn get(
        &self,
        operator: &Operator,
        path: &str,
        group: &str,
    ) -> Result<(StatusCode, Value)> {
        let stream = TcpStream::connect(metrics_api(operator)).await?;
        let name = ServerName::try_from(OPERATOR_NAME)?;
        let stream = self.tls.connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driven = tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", OPERATOR_NAME)
            .header("x-remote-user", "somebody")
            .header("x-remote-group", group)
            .body(Full::<Bytes>::default())?;
        let answer = sender.send_request(request).await?;
        let code = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        driven.abort();
        Ok((code, serde_json::from_slice(&body)?))
    }
}
