//! The custom metrics API behind the real aggregation layer: nobody but the API server is answered; somebody else's
//! APIService is left alone; ours goes before its pods do. What autoscalers make of it is `scaling`'s.

use std::net::SocketAddr;
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
use sluice_tests::product::OPERATOR_NAME;
use sluice_tests::{Cluster, Operator, World, eventually, isolated, seconds};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::install::{self, condition, until};
use super::scaling::{OPERATOR, RATE, WEB, replica, scaled};
use super::status::roots;

/// Where the API is, at the API server and at a replica.
pub const API: &str = "/apis/custom.metrics.k8s.io/v1beta2";
const APISERVICE: &str = "v1beta2.custom.metrics.k8s.io";

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
pub async fn available(cluster: &Cluster) -> Result<()> {
    eventually("the APIService is available", seconds(60), async || {
        let found = api_service(cluster).await?.context("it is not there")?;
        let (says, message) = condition(&found, "Available");
        ensure!(says == "True/Passed", "it is {says}: {message}");
        Ok(())
    })
    .await
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
pub struct FrontProxy {
    tls: TlsConnector,
}

impl FrontProxy {
    /// With the API server's own front-proxy certificate.
    pub async fn of(world: &World, cluster: &Cluster) -> Result<Self> {
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
    pub async fn get(
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
