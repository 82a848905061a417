//! The API server of the test world calls a webhook that is a process of the test, by its Service's name and over TLS.
//! What the product's own webhooks answer is tested elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use sluice_tests::pki::{Authority, Certified};
use sluice_tests::{Cluster, eventually, isolated, seconds};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Allows the object and adds a label to it.
async fn label(request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let review: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let patch =
        json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}]).to_string();
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {
            "uid": review["request"]["uid"], "allowed": true,
            "patchType": "JSONPatch", "patch": STANDARD.encode(patch),
        },
    });
    Ok(Response::builder()
        .header("content-type", "application/json")
        .body(Full::new(answer.to_string().into()))?)
}

async fn serve(address: SocketAddr, identity: Certified) -> Result<()> {
    let chain = vec![CertificateDer::from_pem_slice(
        identity.certificate.as_bytes(),
    )?];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await?;
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(label))
                    .await
                    .context("serving")
            });
        }
    });
    Ok(())
}

#[test]
fn a_webhook_is_reached_by_its_service() {
    isolated!(async |world| {
        let cluster = Cluster::start(world).await?;
        cluster.namespace("hooks", json!({})).await?;
        let authority = Authority::new("hooks")?;
        let address = SocketAddr::from((world.address(), 9443));
        serve(
            address,
            authority.server("hook", &["hook.hooks.svc".into()])?,
        )
        .await?;
        cluster.expose("hooks", "hook", 443, address).await?;
        let config = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "hook"},
            "webhooks": [{
                "name": "hook.sluice.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Fail", "timeoutSeconds": 5,
                "clientConfig": {
                    "service": {"namespace": "hooks", "name": "hook", "path": "/label"},
                    "caBundle": STANDARD.encode(authority.pem()),
                },
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}],
            }],
        });
        cluster.apply_yaml(&config.to_string()).await?;
        let kubectl = cluster.kubectl();
        // The API server learns of the configuration and of the endpoint by watches of its own.
        eventually("a Secret comes out labelled", seconds(20), async || {
            let made = kubectl
                .json([
                    "create",
                    "secret",
                    "generic",
                    "s",
                    "--dry-run=server",
                    "-n",
                    "hooks",
                ])
                .await?;
            ensure!(made["metadata"]["labels"]["seen"] == "yes", "{made}");
            Ok(())
        })
        .await
    });
}

/// The product's own webhooks, called by the API server.
mod product {
    use anyhow::{Context, Result, ensure};
    use k8s_openapi::api::core::v1::Pod;
    use std::time::Instant;

    use kube::{Api, api::ListParams};
    use serde_json::Value;
    use sluice_tests::{Cluster, StandInPod, eventually, isolated, seconds};

    use super::super::install;

    fn route(name: &str, pattern: &str) -> String {
        format!(
            "
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, name: nowhere}}]
  rules: [{{name: one, matches: [{{path: {{type: RegularExpression, value: \"{pattern}\"}}}}]}}]
"
        )
    }

    #[test]
    fn only_what_no_other_object_can_mend_is_refused() {
        isolated!(async |world| {
            let cluster = install::cluster(world).await?;
            let operator = install::operator(world, &cluster).await?;
            // Stored before anybody could refuse it.
            cluster.apply_yaml(&route("old", "/v1/(")).await?;
            install::until(&cluster, "apiroute", "old", "Accepted", "False/Invalid").await?;
            install::webhooks(&cluster, &operator).await?;

            let apply =
                async |text: &str| cluster.kubectl().output(["apply", "-f", "-"], text).await;
            let refused = eventually("the API server calls", seconds(20), async || {
                let output = apply(&route("bad", "/v1/(")).await?;
                ensure!(!output.status.success(), "it was stored");
                Ok(String::from_utf8_lossy(&output.stderr).into_owned())
            })
            .await?;
            ensure!(
                refused.contains("validate.sluice.dev") && refused.contains("spec.rules[0]"),
                "{refused}"
            );

            // A missing Service is a warning: it may come.
            let warned = apply(&route("good", "/v1/orders")).await?;
            let words = String::from_utf8_lossy(&warned.stderr).into_owned();
            ensure!(
                warned.status.success() && words.contains("Warning: ParentNotFound"),
                "{words}"
            );

            // The bad one that is stored may be labelled and deleted; a change to another bad spec is refused.
            let kubectl = cluster.kubectl();
            kubectl
                .run(["-n", "shop", "label", "apiroute", "old", "a=b"])
                .await?;
            ensure!(
                !apply(&route("old", "/v2/(")).await?.status.success(),
                "a new bad spec was stored"
            );
            kubectl
                .run(["-n", "shop", "delete", "apiroute", "old"])
                .await?;

            // Without the operator nothing is refused: translation denies it anyway.
            drop(operator);
            let stored = apply(&route("bad", "/v1/(")).await?;
            ensure!(
                stored.status.success(),
                "{}",
                String::from_utf8_lossy(&stored.stderr)
            );
            Ok(())
        });
    }

    fn deployment(name: &str, labels: &str) -> String {
        format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: shop}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}{labels}}}}}
    spec:
      initContainers: [{{name: migrate, image: localhost/none:1}}]
      containers: [{{name: app, image: localhost/none:1}}]
"
        )
    }

    async fn pod(cluster: &Cluster, namespace: &str, app: &str) -> Result<Value> {
        let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
        eventually(&format!("a pod of {app}"), seconds(30), async || {
            let found = pods
                .list(&ListParams::default().labels(&format!("app={app}")))
                .await?;
            Ok(serde_json::to_value(
                found.items.first().context("none yet")?,
            )?)
        })
        .await
    }

    /// The names of a pod's init containers.
    fn names(pod: &Value) -> Vec<&str> {
        let containers = pod["spec"]["initContainers"].as_array();
        let names = containers.into_iter().flatten();
        names
            .filter_map(|container| container["name"].as_str())
            .collect()
    }

    /// What the API server would store, and what it says; nothing is stored.
    async fn dry_run(cluster: &Cluster, pod: &Value) -> Result<String> {
        let create = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
        cluster.kubectl().with_input(create, pod.to_string()).await
    }

    /// A pod of one container, to be varied.
    fn simple(namespace: &str) -> Value {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "simple", "namespace": namespace},
            "spec": {"containers": [{
                "name": "app", "image": "localhost/none:1",
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"port": "http"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false, "runAsNonRoot": true,
                    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
                },
            }]},
        })
    }

    /// The API server learns of the configuration by a watch of its own.
    async fn until_injected(cluster: &Cluster) -> Result<()> {
        eventually("pods are injected", seconds(20), async || {
            let made: Value = serde_json::from_str(&dry_run(cluster, &simple("shop")).await?)?;
            ensure!(
                names(&made) == ["sluice-capture", "sluice"],
                "{}",
                made["spec"]
            );
            Ok(())
        })
        .await
    }

    async fn refused(cluster: &Cluster, pod: &Value, words: &[&str]) -> Result<()> {
        let said = match dry_run(cluster, pod).await {
            Ok(made) => anyhow::bail!("it was not refused: {made}"),
            Err(error) => format!("{error:#}"),
        };
        for word in words {
            ensure!(said.contains(word), "{word:?} is not in {said}");
        }
        Ok(())
    }

    #[test]
    fn what_a_pod_says_of_its_sidecar_is_done_or_refused_by_name() {
        isolated!(async |world| {
            let cluster = install::cluster(world).await?;
            let strict = serde_json::json!({
                "sluice.dev/injection": "enabled", "pod-security.kubernetes.io/enforce": "restricted",
            });
            cluster.namespace("strict", strict).await?;
            let operator = install::operator(world, &cluster).await?;
            install::webhooks(&cluster, &operator).await?;
            until_injected(&cluster).await?;
            let with = |namespace: &str, annotations: Value| {
                let mut pod = simple(namespace);
                pod["metadata"]["annotations"] = annotations;
                pod
            };
            let made = async |pod: &Value| -> Result<Value> {
                Ok(serde_json::from_str(&dry_run(&cluster, pod).await?)?)
            };

            // The API server accepts what the annotations ask for.
            let pod = with(
                "shop",
                serde_json::json!({
                    "sluice.dev/exclude-inbound-ports": "9090,9100", "sluice.dev/log-level": "debug",
                    "sluice.dev/data-threads": "3", "sluice.dev/cpu-request": "100m", "sluice.dev/cpu-limit": "1",
                    "sluice.dev/memory-limit": "128Mi", "sluice.dev/app-stop-delay": "2s",
                }),
            );
            let done = made(&pod).await?;
            let [capture, sluice] = [0, 1].map(|n| done["spec"]["initContainers"][n].to_string());
            for word in ["--exclude=9090", "--exclude=9100"] {
                ensure!(capture.contains(word), "{word} is not in {capture}");
            }
            for word in [
                "--data-threads=3",
                "\"debug\"",
                "\"cpu\":\"100m\"",
                "\"cpu\":\"1\"",
                "\"memory\":\"128Mi\"",
            ] {
                ensure!(sluice.contains(word), "{word} is not in {sluice}");
            }
            let app = &done["spec"]["containers"][0];
            ensure!(
                app["readinessProbe"]["httpGet"]["path"] == "/probe/app/readiness",
                "{app}"
            );
            ensure!(
                app["lifecycle"]["preStop"]["sleep"]["seconds"] == 2,
                "{app}"
            );

            // What it says wrongly is refused by name, value and mend.
            let bad = with(
                "shop",
                serde_json::json!({"sluice.dev/cpu-request": "much"}),
            );
            refused(
                &cluster,
                &bad,
                &[
                    "inject.sluice.dev",
                    "sluice.dev/cpu-request",
                    "\"much\"",
                    "such as",
                ],
            )
            .await?;

            // PodSecurity: the pod that would be captured is refused in words that help; what they say helps. Were they
            // wrong, the API server's own plugin would refuse what the webhook has made of the pod.
            let words = [
                "namespace strict",
                "`restricted`",
                "sluice.dev/capture: NamedPorts",
            ];
            eventually(
                "the operator knows the namespace",
                seconds(20),
                async || refused(&cluster, &simple("strict"), &words).await,
            )
            .await?;
            let named = with(
                "strict",
                serde_json::json!({"sluice.dev/capture": "NamedPorts"}),
            );
            let done = made(&named).await?;
            ensure!(names(&done) == ["sluice"], "{done}");
            let sluice = &done["spec"]["initContainers"][0];
            ensure!(
                sluice["ports"][0]["name"] == "http"
                    && sluice["ports"][0]["containerPort"] == 15_100,
                "{sluice}"
            );
            let app = &done["spec"]["containers"][0];
            ensure!(
                app["ports"][0].get("name").is_none()
                    && app["readinessProbe"]["httpGet"]["port"] == 8080,
                "{app}"
            );

            // A Service that leads past the sidecar is named to whoever makes the pod, until it leads to the name.
            let mut reached = named.clone();
            reached["metadata"]["labels"] = serde_json::json!({"app": "web"});
            let warned = async || {
                let create = ["create", "--dry-run=server", "-f", "-"];
                let kubectl = cluster.kubectl();
                let output = kubectl.output(create, reached.to_string()).await?;
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                ensure!(output.status.success(), "{said}");
                Ok(said.contains("captures nothing of this Pod: no targetPort of Service web"))
            };
            let service = |target: &str| {
                install::service_and_route("web")
                    .replace("namespace: shop", "namespace: strict")
                    .replace("targetPort: 8080", &format!("targetPort: {target}"))
            };
            ensure!(!warned().await?, "there is no Service");
            for (target, expected) in [("8080", true), ("http", false)] {
                cluster.apply_yaml(&service(target)).await?;
                eventually(target, seconds(20), async || {
                    ensure!(warned().await? == expected, "{expected} was expected");
                    Ok(())
                })
                .await?;
            }

            // On the host's network: never.
            let mut host = simple("shop");
            host["spec"]["hostNetwork"] = true.into();
            ensure!(names(&made(&host).await?).is_empty());
            Ok(())
        });
    }

    /// `kubectl-sluice outdated` with these arguments: its exit code and what it said.
    async fn outdated(cluster: &Cluster, more: &[&str]) -> Result<(i32, String)> {
        let program = sluice_tests::product::binary("kubectl-sluice")?;
        let mut command = std::process::Command::new(program);
        command
            .args(["outdated", "-n", "shop", "--kubeconfig"])
            .arg(cluster.kubeconfig())
            .args(more);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = [output.stdout, output.stderr].concat();
        Ok((
            output.status.code().context("a code")?,
            String::from_utf8_lossy(&said).into_owned(),
        ))
    }

    #[test]
    fn a_pod_made_without_the_webhook_is_listed_bare_and_what_is_outdated_is_renewed() {
        isolated!(async |world| {
            let cluster = install::cluster(world).await?;
            cluster.namespace("plain", serde_json::json!({})).await?;
            let operator = install::operator(world, &cluster).await?;
            cluster
                .apply_yaml(&install::service_and_route("web"))
                .await?;
            // No webhook yet. One pod that asks for none, and one of a namespace that does not ask.
            cluster.apply_yaml(&deployment("web", "")).await?;
            cluster
                .apply_yaml(&deployment("out", ", sluice.dev/inject: \"false\""))
                .await?;
            cluster
                .apply_yaml(&deployment("plain", "").replace("namespace: shop", "namespace: plain"))
                .await?;
            for (namespace, app) in [("shop", "out"), ("plain", "plain"), ("shop", "web")] {
                let selector = format!("app={app}");
                StandInPod::adopt_all(world, &cluster, namespace, &selector, 1).await?;
            }
            let made = Instant::now();
            let route = install::until(
                &cluster,
                "apiroute",
                "web",
                "Stalled",
                "True/SidecarMissing",
            )
            .await?;
            eventually("the metric", seconds(20), async || {
                let metrics = operator.metrics().await?;
                let line = "sluice_operator_bare_pods 1";
                ensure!(metrics.lines().any(|found| found == line), "it is not 1");
                Ok(())
            })
            .await?;
            let took = made.elapsed();
            println!("bare: listed in status and metric after {took:?}");
            ensure!(took < seconds(10), "listed after {took:?}");
            let (programmed, message) = install::condition(&route, "Programmed");
            ensure!(
                programmed == "False/PodsPending"
                    && message.contains("web-")
                    && message.contains("has no sidecar"),
                "{programmed}: {message}"
            );

            // Before the webhook is there nobody says what new pods get.
            let (code, said) = outdated(&cluster, &[]).await?;
            ensure!(code == 2 && said.contains("--image"), "{code}: {said}");
            install::webhooks(&cluster, &operator).await?;
            until_injected(&cluster).await?;
            let (code, said) = outdated(&cluster, &[]).await?;
            let restart = "kubectl -n shop rollout restart deployment/web";
            ensure!(
                code == 1 && said.contains(restart) && !said.contains("out-"),
                "{code}: {said}"
            );

            // What it says to do helps.
            cluster
                .kubectl()
                .run(["-n", "shop", "rollout", "restart", "deployment/web"])
                .await?;
            let pods: Api<Pod> = Api::namespaced(cluster.client(), "shop");
            let list = ListParams::default().labels("app=web");
            eventually("the new pod is injected", seconds(30), async || {
                let found = serde_json::to_value(pods.list(&list).await?.items)?;
                let found = found.as_array().context("a list")?;
                let injected = |pod: &&Value| names(pod).contains(&"sluice");
                let new = found.iter().find(injected).context("none yet")?;
                Ok(new.clone())
            })
            .await?;
            for pod in pods.list(&list).await?.items {
                // The old one has its node and its address.
                if pod
                    .spec
                    .as_ref()
                    .is_some_and(|spec| spec.node_name.is_none())
                {
                    StandInPod::adopt(world, &cluster, &pod).await?;
                }
            }
            eventually("the old pod goes", seconds(30), async || {
                // There is no kubelet to end it.
                for pod in pods.list(&list).await?.items {
                    if pod.metadata.deletion_timestamp.is_some() {
                        let now = kube::api::DeleteParams::default().grace_period(0);
                        pods.delete(pod.metadata.name.as_deref().unwrap_or_default(), &now)
                            .await?;
                    }
                }
                let (code, said) = outdated(&cluster, &[]).await?;
                ensure!(
                    code == 0 && said.starts_with("Every sidecar is sluice-sidecar:"),
                    "{code}: {said}"
                );
                Ok(())
            })
            .await?;
            let (code, said) =
                outdated(&cluster, &["--image", "sluice-sidecar:next", "-o", "json"]).await?;
            let report: Value = serde_json::from_str(&said)?;
            ensure!(
                code == 1
                    && report["pods"][0]["owner"] == "deployment/web"
                    && report["wanted"] == "sluice-sidecar:next",
                "{code}: {report}"
            );
            Ok(())
        });
    }

    #[test]
    fn pods_of_namespaces_that_opted_in_come_out_injected() {
        isolated!(async |world| {
            let cluster = install::cluster(world).await?;
            cluster.namespace("plain", serde_json::json!({})).await?;
            let operator = install::operator(world, &cluster).await?;
            install::webhooks(&cluster, &operator).await?;
            let kubectl = cluster.kubectl();
            until_injected(&cluster).await?;

            cluster.apply_yaml(&deployment("web", "")).await?;
            let injected = pod(&cluster, "shop", "web").await?;
            ensure!(
                names(&injected) == ["sluice-capture", "sluice", "migrate"],
                "{injected}"
            );
            // The API server's own plugin found its place taken: neither has the app's token.
            let [capture, sluice] = [0, 1].map(|n| &injected["spec"]["initContainers"][n]);
            for (container, count) in [(capture, 1), (sluice, 3)] {
                let mounts = container["volumeMounts"].as_array().context("mounts")?;
                ensure!(
                    mounts.len() == count,
                    "the API server mounted something else: {mounts:?}"
                );
                let account = |mount: &&Value| {
                    mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
                };
                ensure!(
                    mounts
                        .iter()
                        .find(account)
                        .is_some_and(|mount| mount["name"] == "sluice-no-account"),
                    "{mounts:?}"
                );
            }
            let app = injected["spec"]["containers"][0]["volumeMounts"].to_string();
            ensure!(
                app.contains("kube-api-access"),
                "the app lost its token: {app}"
            );
            ensure!(
                sluice["restartPolicy"] == "Always" && sluice["args"][0] == "supervise",
                "{sluice}"
            );
            let roots = sluice["env"]
                .as_array()
                .and_then(|env| env.iter().find(|one| one["name"] == "SLUICE_ROOTS_PEM"));
            ensure!(
                roots.is_some_and(|roots| roots["value"]
                    .as_str()
                    .is_some_and(|pem| pem.contains("BEGIN CERT"))),
                "{sluice}"
            );
            let spec = &injected["spec"];
            ensure!(
                spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == 5
                    && spec["terminationGracePeriodSeconds"] == 35,
                "{spec}"
            );
            kubectl
                .with_input(["diff", "-f", "-"], deployment("web", ""))
                .await
                .context("the Deployment was changed")?;

            // The same pod, asked for again as it came out, with all that the API server has put in: nothing is added.
            let mut again = injected.clone();
            again["metadata"] = serde_json::json!({
                "name": "again", "namespace": "shop", "labels": {"app": "again"},
                "annotations": injected["metadata"]["annotations"],
            });
            again["spec"]
                .as_object_mut()
                .context("a spec")?
                .remove("nodeName");
            again["apiVersion"] = "v1".into();
            again["kind"] = "Pod".into();
            let made: Value = serde_json::from_str(&dry_run(&cluster, &again).await?)?;
            for field in [
                "initContainers",
                "containers",
                "volumes",
                "terminationGracePeriodSeconds",
            ] {
                ensure!(
                    made["spec"][field] == injected["spec"][field],
                    "{field} was {} and is {}",
                    injected["spec"][field],
                    made["spec"][field]
                );
            }

            cluster
                .apply_yaml(&deployment("out", ", sluice.dev/inject: \"false\""))
                .await?;
            let out = pod(&cluster, "shop", "out").await?;
            ensure!(names(&out) == ["migrate"], "{}", out["spec"]);
            cluster
                .apply_yaml(&deployment("plain", "").replace("namespace: shop", "namespace: plain"))
                .await?;
            let plain = pod(&cluster, "plain", "plain").await?;
            ensure!(names(&plain) == ["migrate"], "{}", plain["spec"]);

            // Without the operator only those wait that asked for it: about the others nobody is asked.
            drop(operator);
            let mut out = simple("shop");
            out["metadata"]["labels"] = serde_json::json!({"sluice.dev/inject": "false"});
            for pod in [out, simple("plain")] {
                let made = dry_run(&cluster, &pod).await;
                made.context("a pod that asked for nothing waits")?;
            }
            let words = ["inject.sluice.dev", "failed calling webhook"];
            refused(&cluster, &simple("shop"), &words).await
        });
    }
}
