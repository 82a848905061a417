//! Real HorizontalPodAutoscalers follow real load, and known peaks, through the custom metrics API. Who else is answered by
//! it, and what becomes of it, is `metrics_api`'s.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use serde_json::{Value, json};
use sluice_tests::product::AUDIENCE;
use sluice_tests::{
    App, Cluster, Load, Operator, Sidecar, StandInPod, World, eventually, isolated, seconds,
};

use super::install::{self, condition, until};
use super::metrics_api::{API, FrontProxy, available};
use super::status::roots;

/// The metric that the tests' routes scale by.
pub const RATE: &str = "sluice_requests_per_second";

/// The operator's Service and Deployment as the chart has them, but for its pods, which are stand-ins.
pub const OPERATOR: &str = "
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

/// A Deployment of two pods that are stand-ins.
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
    let block = format!(
        "    maxReplicas: 6
    metrics: [{{type: RequestsPerSecond, requestsPerSecond: {{averageValue: \"20\"}}}}]
    behavior: {{scaleDown: {{stabilizationWindowSeconds: 0}}}}
{more}"
    );
    scaled_by("web", &block)
}

/// A Service `name` and an ApiRoute on it that scales [`WEB`] from two replicas on, as the lines of `block` have it.
pub fn scaled_by(name: &str, block: &str) -> String {
    install::service_and_route(name).replace(
        &format!("spec: {{parentRefs: [{{kind: Service, name: {name}}}]}}"),
        &format!(
            "spec:
  parentRefs: [{{kind: Service, name: {name}}}]
  scaling:
    scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}
    minReplicas: 2
{block}"
        ),
    )
}

/// That nothing of ours ever wrote Deployment `web`.
pub async fn not_written_by_us(cluster: &Cluster) -> Result<()> {
    let web = ["deployment", "web", "-o", "yaml", "--show-managed-fields"];
    let args = ["-n", "shop", "get"].into_iter().chain(web);
    let managers = cluster.kubectl().run(args).await?;
    ensure!(
        !managers.contains("manager: sluice-operator"),
        "it wrote the Deployment:\n{managers}"
    );
    Ok(())
}

/// A replica in a pod of the operator's Service, with the metrics API.
pub async fn replica(world: &World, cluster: &Cluster, name: &str) -> Result<Operator> {
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
        not_written_by_us(&cluster).await
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
        let (next, begins) = next_minute()?;
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
        // At that moment, and not when everything is looked at again, which is once a minute.
        let patience = begins.duration_since(SystemTime::now()).unwrap_or_default() + seconds(8);
        eventually("the new one begins by itself", patience, async || {
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

/// The next full minute as cron has it, once a day, and when that is.
fn next_minute() -> Result<(String, SystemTime)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let minute = now / 60 + 1;
    let cron = format!("{} {} * * *", minute % 60, minute / 60 % 24);
    Ok((cron, UNIX_EPOCH + Duration::from_secs(minute * 60)))
}
