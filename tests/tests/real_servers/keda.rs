//! KEDA without KEDA: its ScaledObjects keep our hands off a workload, and its questions (gRPC) are answered from the load
//! of real sidecars. The messages are written here by hand, from KEDA's interface.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use sluice_tests::{Load, eventually, isolated, seconds};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::install::{self, condition, until};
use super::scaling::{WEB, api_less_replica, scaled, serve};

/// As much of KEDA's definition as says which workload is scaled.
const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: scaledobjects.keda.sh}
spec:
  group: keda.sh
  scope: Namespaced
  names: {plural: scaledobjects, singular: scaledobject, kind: ScaledObject, listKind: ScaledObjectList}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

const SCALED_OBJECT: &str = "
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: theirs, namespace: shop}
spec: {scaleTargetRef: {name: web}, triggers: []}
";

#[derive(Clone, PartialEq, prost::Message)]
struct ScaledObjectRef {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Active {
    #[prost(bool, tag = "1")]
    result: bool,
}

/// A MetricSpec or a MetricValue: they are alike.
#[derive(Clone, PartialEq, prost::Message)]
struct Metric {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, tag = "2")]
    whole: i64,
    #[prost(double, tag = "3")]
    exact: f64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Metrics {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Metric>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MetricsRequest {
    #[prost(message, optional, tag = "1")]
    object: Option<ScaledObjectRef>,
    #[prost(string, tag = "2")]
    name: String,
}

/// The part of KEDA.
struct Keda(Grpc<Channel>);

impl Keda {
    async fn connect(address: SocketAddr) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect()
            .await?;
        Ok(Self(Grpc::new(channel)))
    }

    async fn ask<Q, A>(&mut self, method: &'static str, question: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.0
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let path = format!("/externalscaler.ExternalScaler/{method}");
        let path = path.try_into().map_err(|_| Status::internal("a path"))?;
        let answer = self
            .0
            .unary(Request::new(question), path, ProstCodec::default())
            .await?;
        Ok(answer.into_inner())
    }
}

fn object(target: &str) -> ScaledObjectRef {
    let words = [
        ("service", "web"),
        ("metric", "RequestsPerSecond"),
        ("target", target),
    ];
    ScaledObjectRef {
        name: "theirs".into(),
        namespace: "shop".into(),
        metadata: words
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

#[test]
fn the_external_scaler_tells_what_sidecars_report() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        let ip = world.address();
        let address = SocketAddr::from((ip, 9445));
        let operator =
            api_less_replica(world, &cluster, ip, &format!("--external-scaler={address}")).await?;
        cluster.apply_yaml(WEB).await?;
        cluster
            .apply_yaml(&install::service_and_route("web"))
            .await?;
        let served = serve(world, &cluster, &operator).await?;
        let mut keda = Keda::connect(address).await?;

        let specs: Metrics = keda.ask("GetMetricSpec", object("20")).await?;
        ensure!(
            specs.all.len() == 1 && specs.all[0].whole == 20 && specs.all[0].exact == 20.0,
            "{specs:?}"
        );
        let name = specs.all[0].name.clone();
        let refused = keda.ask::<_, Metrics>("GetMetricSpec", object("0")).await;
        let refused = refused.err().context("a target of nothing")?;
        ensure!(refused.code() == Code::InvalidArgument, "{refused}");

        let loads: Vec<_> = served
            .iter()
            .map(|one| Load::against(one.sidecar.address).per_second(50).start())
            .collect();
        let keda = tokio::sync::Mutex::new(keda);
        eventually("the sum of both pods", seconds(60), async || {
            let question = MetricsRequest {
                object: Some(object("20")),
                name: name.clone(),
            };
            let values: Metrics = keda.lock().await.ask("GetMetrics", question).await?;
            let value = values.all.first().context("one value")?;
            ensure!(
                value.name == name && (80.0..120.0).contains(&value.exact),
                "{value:?}"
            );
            let active: Active = keda.lock().await.ask("IsActive", object("20")).await?;
            ensure!(active.result);
            Ok(())
        })
        .await?;
        for load in loads {
            load.finish().await;
        }
        eventually("nobody asks any more", seconds(30), async || {
            let active: Active = keda.lock().await.ask("IsActive", object("20")).await?;
            ensure!(!active.result);
            Ok(())
        })
        .await
    });
}

#[test]
fn a_scaled_object_on_the_workload_is_named_and_left_alone() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        cluster.apply_yaml(DEFINITION).await?;
        let established = [
            "wait",
            "--for=condition=Established",
            "crd/scaledobjects.keda.sh",
            "--timeout=30s",
        ];
        cluster.kubectl().run(established).await?;
        cluster.apply_yaml(SCALED_OBJECT).await?;
        let _operator = install::operator(world, &cluster).await?;
        cluster.apply_yaml(WEB).await?;
        cluster.apply_yaml(&scaled("")).await?;
        let route = until(&cluster, "apiroute", "web", "Scaling", "False/TargetTaken").await?;
        let (_, message) = condition(&route, "Scaling");
        ensure!(message.contains("ScaledObject shop/theirs"), "{message}");
        let left = cluster.kubectl().json(["-n", "shop", "get", "hpa"]).await?;
        ensure!(
            left["items"].as_array().is_some_and(Vec::is_empty),
            "{left}"
        );
        cluster
            .kubectl()
            .run(["-n", "shop", "delete", "scaledobject", "theirs"])
            .await?;
        until(&cluster, "apiroute", "web", "Scaling", "True/Scaling")
            .await
            .map(drop)
    });
}
