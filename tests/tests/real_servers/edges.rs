//! The objects of a Gateway's edge on a real API server: made, owned, followed, left to whoever scales them, taken away; and
//! what the Gateway's status says of them.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::product::AUDIENCE;
use sluice_tests::{Cluster, Sidecar, StandInPod, World, eventually, isolated, seconds};

use super::gateways::definition;
use super::install::{self, condition};
use super::status::roots;

/// Of every kind one, called like its Gateway.
const KINDS: [&str; 4] = [
    "serviceaccount",
    "service",
    "poddisruptionbudget",
    "deployment",
];

fn gateway(name: &str, class: &str, ports: &[u16]) -> String {
    let listeners: String = ports
        .iter()
        .map(|port| format!("  - {{name: on-{port}, port: {port}, protocol: HTTP}}\n"))
        .collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: shop}}
spec:
  gatewayClassName: {class}
  infrastructure: {{labels: {{team: {name}}}, parametersRef: {{group: \"\", kind: ConfigMap, name: edges}}}}
  listeners:
{listeners}---
"
    )
}

/// Parameters whose Services have an address at once: no provider of load balancers is here.
const PARAMETERS: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: edges, namespace: shop}
data: {serviceType: ClusterIP, replicas: \"3\"}
";

async fn cluster(world: &World) -> Result<Cluster> {
    let cluster = install::cluster(world).await?;
    let gateways = definition("Gateway", "gateways", "v1").replace(
        "    storage: true\n",
        "    storage: true\n    subresources: {status: {}}\n",
    );
    cluster.apply_yaml(&gateways).await?;
    eventually("the API server serves them", seconds(30), async || {
        cluster.apply_yaml(PARAMETERS).await?;
        cluster.apply_yaml(&gateway("first", "sluice", &[80])).await
    })
    .await?;
    cluster
        .apply_yaml(&gateway("second", "sluice", &[80, 8443]))
        .await?;
    Ok(cluster)
}

async fn made(cluster: &Cluster, kind: &str, gateway: &str) -> Result<Value> {
    install::get(cluster, kind, &format!("{gateway}-sluice")).await
}

/// Every object of a Gateway's edge.
async fn all(cluster: &Cluster, gateway: &str) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for kind in KINDS {
        found.push(made(cluster, kind, gateway).await?);
    }
    Ok(found)
}

async fn appear(cluster: &Cluster, gateway: &str) -> Result<Vec<Value>> {
    eventually("the edge's objects", seconds(40), async || {
        let found = all(cluster, gateway).await?;
        let replicas = &found[3]["spec"]["replicas"];
        ensure!(replicas != 1, "nobody has said yet how many");
        Ok(found)
    })
    .await
}

async fn disappear(cluster: &Cluster, gateway: &str) -> Result<()> {
    eventually("its objects are gone", seconds(60), async || {
        for kind in KINDS {
            let there = made(cluster, kind, gateway).await;
            ensure!(there.is_err(), "{kind} is there");
        }
        Ok(())
    })
    .await
}

/// What says that somebody wrote: of what has a status, which controllers write all the time, the generation.
fn versions(objects: &[Value]) -> Vec<Value> {
    let version = |object: &Value| match &object["metadata"]["generation"] {
        Value::Null => object["metadata"]["resourceVersion"].clone(),
        generation => generation.clone(),
    };
    objects.iter().map(version).collect()
}

#[test]
fn each_gateway_has_its_own_and_one_that_goes_leaves_the_other_alone() {
    isolated!(async |world| {
        let cluster = cluster(world).await?;
        let operator = install::operator(world, &cluster).await?;
        let first = appear(&cluster, "first").await?;
        let second = appear(&cluster, "second").await?;
        let owner = install::get(&cluster, "gateway", "second").await?;
        for object in &second {
            let metadata = &object["metadata"];
            ensure!(
                metadata["ownerReferences"][0]["uid"] == owner["metadata"]["uid"]
                    && metadata["labels"]["team"] == "second",
                "{metadata}"
            );
        }
        let ports = second[1]["spec"]["ports"].as_array().context("ports")?;
        let ports: Vec<_> = ports.iter().map(|port| port["port"].clone()).collect();
        ensure!(ports == [80, 8443], "{ports:?}");
        ensure!(second[3]["spec"]["replicas"] == 3, "{}", second[3]["spec"]);

        // No edge runs here: the address is there, the acknowledgement is not.
        eventually("the status says so", seconds(20), async || {
            let gateway = install::get(&cluster, "gateway", "second").await?;
            let (says, addresses) = (
                condition(&gateway, "Programmed").0,
                &gateway["status"]["addresses"],
            );
            ensure!(says == "False/Pending", "{says}");
            ensure!(
                addresses[0]["value"] == second[1]["spec"]["clusterIP"],
                "{addresses}"
            );
            ensure!(
                condition(&gateway, "Accepted").0 == "True/Accepted",
                "{gateway}"
            );
            Ok(())
        })
        .await?;

        // A listener that comes is a port of the Service, and no other pod template.
        cluster
            .apply_yaml(&gateway("second", "sluice", &[80, 8443, 9000]))
            .await?;
        eventually("the Service follows", seconds(20), async || {
            let ports = made(&cluster, "service", "second").await?["spec"]["ports"].clone();
            ensure!(
                ports.as_array().is_some_and(|ports| ports.len() == 3),
                "{ports}"
            );
            Ok(())
        })
        .await?;
        cluster
            .apply_yaml(&gateway("second", "sluice", &[80]))
            .await?;
        eventually("and back", seconds(20), async || {
            let ports = made(&cluster, "service", "second").await?["spec"]["ports"].clone();
            ensure!(
                ports.as_array().is_some_and(|ports| ports.len() == 1),
                "{ports}"
            );
            Ok(())
        })
        .await?;
        let deployment = made(&cluster, "deployment", "second").await?;
        ensure!(
            deployment["metadata"]["generation"] == second[3]["metadata"]["generation"],
            "the edge is restarted"
        );

        // How many there are is the user's to say, whatever is applied after it.
        let scale = [
            "-n",
            "shop",
            "scale",
            "deployment/second-sluice",
            "--replicas=5",
        ];
        cluster.kubectl().run(scale).await?;
        // Another leader finds all of it as it should be.
        let before = versions(&all(&cluster, "first").await?);
        drop(operator);
        let _next = install::replica(world, &cluster, "operator-1")?;
        cluster
            .apply_yaml(&gateway("second", "sluice", &[80, 81]))
            .await?;
        eventually("the next leader applies", seconds(60), async || {
            let ports = made(&cluster, "service", "second").await?["spec"]["ports"].clone();
            ensure!(
                ports.as_array().is_some_and(|ports| ports.len() == 2),
                "{ports}"
            );
            Ok(())
        })
        .await?;
        let replicas = made(&cluster, "deployment", "second").await?["spec"]["replicas"].clone();
        ensure!(replicas == 5, "{replicas}");
        ensure!(
            versions(&all(&cluster, "first").await?) == before,
            "written anew"
        );

        // Of another class now: not ours. The other one stays as it is.
        cluster
            .apply_yaml(&gateway("second", "other", &[80]))
            .await?;
        disappear(&cluster, "second").await?;
        ensure!(
            versions(&all(&cluster, "first").await?) == before,
            "touched"
        );
        cluster
            .kubectl()
            .run(["-n", "shop", "delete", "gateway", "first"])
            .await?;
        disappear(&cluster, "first").await?;
        ensure!(first.len() == KINDS.len(), "{first:?}");
        Ok(())
    });
}

/// The ConfigMap that a Gateway's `parametersRef` names is watched: what it says now is what runs.
#[test]
fn parameters_that_change_change_the_edge() {
    isolated!(async |world| {
        let cluster = cluster(world).await?;
        let _operator = install::operator(world, &cluster).await?;
        appear(&cluster, "first").await?;
        let before = appear(&cluster, "second").await?;
        let cpu = async |gateway: &str| {
            let deployment = made(&cluster, "deployment", gateway).await?;
            let pod = deployment["spec"]["template"]["spec"].clone();
            anyhow::Ok(pod["containers"][0]["resources"]["requests"]["cpu"].clone())
        };
        let follows = async |asked: &str, type_: &str| {
            let data = format!("\ndata: {{serviceType: {type_}, cpuRequest: {asked}}}\n");
            let (head, _) = PARAMETERS.split_once("\ndata:").context("parameters")?;
            cluster.apply_yaml(&format!("{head}{data}")).await?;
            eventually("both edges follow", seconds(20), async || {
                for gateway in ["first", "second"] {
                    let now = cpu(gateway).await?;
                    ensure!(now == asked, "{gateway} asks for {now}");
                    let service = made(&cluster, "service", gateway).await?;
                    ensure!(service["spec"]["type"] == type_, "{}", service["spec"]);
                }
                Ok(())
            })
            .await
        };
        ensure!(cpu("second").await? != "321m", "{}", before[3]);
        follows("321m", "NodePort").await?;
        follows("123m", "ClusterIP").await?;
        // `replicas` was a beginning; it is nobody's any more but the user's.
        let replicas = made(&cluster, "deployment", "second").await?["spec"]["replicas"].clone();
        ensure!(replicas == 3, "{replicas}");

        // What cannot be is said, and what runs stays.
        let wrong = PARAMETERS.replace("ClusterIP", "Nonsense");
        cluster.apply_yaml(&wrong).await?;
        eventually("the Gateway says so", seconds(20), async || {
            let gateway = install::get(&cluster, "gateway", "second").await?;
            let says = condition(&gateway, "Accepted").0;
            ensure!(says == "False/InvalidParameters", "{says}");
            Ok(())
        })
        .await?;
        ensure!(cpu("second").await? == "123m", "the edge has changed");
        Ok(())
    });
}

#[test]
fn somebody_elses_service_is_left_alone_and_named() {
    isolated!(async |world| {
        let cluster = cluster(world).await?;
        let theirs = "apiVersion: v1\nkind: Service\nmetadata: {name: first-sluice, namespace: shop}\nspec: {ports: [{port: 9999}]}\n";
        cluster.apply_yaml(theirs).await?;
        let _operator = install::operator(world, &cluster).await?;
        appear(&cluster, "second").await?;
        eventually("the Gateway says whose it is", seconds(20), async || {
            let gateway = install::get(&cluster, "gateway", "first").await?;
            let conditions = gateway["status"]["conditions"].to_string();
            ensure!(
                condition(&gateway, "Programmed").0 == "False/NoResources"
                    && conditions.contains("Service shop/first-sluice exists"),
                "{conditions}"
            );
            Ok(())
        })
        .await?;
        let port = made(&cluster, "service", "first").await?["spec"]["ports"][0]["port"].clone();
        ensure!(port == 9999, "{port}");
        Ok(())
    });
}

/// A Gateway is programmed by what acknowledges it: an edge, and an address.
#[test]
fn a_gateway_is_programmed_once_its_edge_has_acknowledged() {
    isolated!(async |world| {
        let cluster = cluster(world).await?;
        let operator = install::operator(world, &cluster).await?;
        appear(&cluster, "second").await?;
        let labels = json!({"gateway.networking.k8s.io/gateway-name": "second"});
        let pod = StandInPod::create(world, &cluster, "shop", "edge-0", labels).await?;
        let programmed = async || {
            let gateway = install::get(&cluster, "gateway", "second").await?;
            anyhow::Ok(condition(&gateway, "Programmed").0)
        };
        eventually("it is not yet", seconds(20), async || {
            let says = programmed().await?;
            ensure!(says == "False/Pending", "{says}");
            Ok(())
        })
        .await?;
        let mut edge = Sidecar::options(world, "edge-0", pod.ip)?
            .operator(operator.stream)
            .token_file(&pod.token_file(AUDIENCE).await?)
            .roots_pem(&roots(&cluster).await?)
            .edge()
            .start(world)?;
        edge.ready(seconds(40)).await?;
        eventually("it is programmed", seconds(20), async || {
            let says = programmed().await?;
            ensure!(says == "True/Programmed", "{says}");
            Ok(())
        })
        .await
    });
}
