//! The values of `charts/sluice` as types: `values.schema.json` is made from them, and `values.yaml` must decode into
//! them. Every field is required, because the defaults are in `values.yaml`: one that is missing was removed by `null`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Values of the chart of the operator.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Values {
    /// The operator's image.
    pub image: OperatorImage,
    /// The image that the webhook writes into pods.
    pub sidecar_image: SidecarImage,
    /// Secrets for the operator's image.
    pub image_pull_secrets: Vec<PullSecret>,
    /// Each replica serves; one of them leads and writes.
    #[schemars(range(max = 20))]
    pub replicas: u8,
    /// Requests and limits of the operator.
    pub resources: Resources,
    /// SluiceConfig without apiVersion and kind.
    pub config: Map<String, Value>,
    /// How a HorizontalPodAutoscaler gets our metrics.
    pub metrics_api: MetricsApi,
    /// Which events the operator logs.
    #[schemars(length(min = 1, max = 256))]
    pub log_level: String,
    /// More arguments of sluice-operator.
    #[schemars(inner(regex(pattern = r"^--[a-z]")))]
    pub extra_args: Vec<String>,
    /// Annotations of the operator's pods.
    pub pod_annotations: BTreeMap<String, String>,
    /// More labels of the operator's pods.
    pub pod_labels: BTreeMap<String, String>,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that are tolerated.
    pub tolerations: Vec<Toleration>,
    /// More about the choice of nodes.
    pub affinity: Affinity,
    /// PriorityClass of the operator's pods.
    pub priority_class_name: String,
    /// Who reaches the operator.
    pub network_policy: NetworkPolicy,
    /// PodMonitors of the Prometheus operator.
    pub pod_monitor: PodMonitor,
    /// What an umbrella chart says to all its charts; not read.
    pub global: Option<Map<String, Value>>,
}

/// An image and when it is pulled.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorImage {
    /// Registry and name, without tag.
    #[schemars(length(min = 1), regex(pattern = r"^[^@\s]+$"))]
    pub repository: String,
    /// The chart's appVersion where empty.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]{0,128}$"))]
    pub tag: String,
    /// Wins over the tag.
    #[schemars(regex(pattern = r"^(sha256:[0-9a-f]{64})?$"))]
    pub digest: String,
    /// When it is pulled.
    pub pull_policy: PullPolicy,
}

/// An image.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SidecarImage {
    /// Registry and name, without tag.
    #[schemars(length(min = 1), regex(pattern = r"^[^@\s]+$"))]
    pub repository: String,
    /// The chart's appVersion where empty.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]{0,128}$"))]
    pub tag: String,
    /// Wins over the tag.
    #[schemars(regex(pattern = r"^(sha256:[0-9a-f]{64})?$"))]
    pub digest: String,
}

/// When an image is pulled.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum PullPolicy {
    /// With each start.
    Always,
    /// Where the node lacks it.
    IfNotPresent,
    /// By hand only.
    Never,
}

/// A Secret of the release's namespace.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PullSecret {
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// Requests and limits of a container.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// What the scheduler sets aside.
    #[serde(default)]
    pub requests: BTreeMap<String, Amount>,
    /// What the container may not exceed.
    #[serde(default)]
    pub limits: BTreeMap<String, Amount>,
}

/// A Quantity, which YAML may take for a number.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Amount {
    /// As in `500m`.
    Text(
        #[schemars(regex(pattern = r"^[0-9.]+([eE][0-9]+|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"))]
        String,
    ),
    /// As in `1`.
    Number(f64),
}

/// Who serves metrics to HorizontalPodAutoscalers.
#[derive(Debug, Deserialize, JsonSchema)]
pub enum MetricsApi {
    /// The operator, where nobody else does.
    Auto,
    /// KEDA, which asks the operator.
    #[serde(rename = "KEDA")]
    Keda,
    /// The prometheus-adapter.
    Prometheus,
    /// Nobody.
    None,
}

/// A taint that is tolerated, as in a pod.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Toleration {
    /// The taint's key; every key without.
    #[serde(default)]
    pub key: String,
    /// How the value is compared.
    #[serde(default)]
    pub operator: Option<TolerationOperator>,
    /// The taint's value.
    #[serde(default)]
    pub value: String,
    /// The taint's effect; every effect without.
    #[serde(default)]
    pub effect: Option<TaintEffect>,
    /// How long, with NoExecute.
    #[serde(default)]
    pub toleration_seconds: Option<i64>,
}

/// How a taint's value is compared.
#[derive(Debug, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// Any value.
    Exists,
    /// The same value.
    Equal,
}

/// What a taint does.
#[derive(Debug, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// No new pods.
    NoSchedule,
    /// New pods where nothing else is free.
    PreferNoSchedule,
    /// Running ones go, too.
    NoExecute,
}

/// As in a pod; the API server checks what is in the three.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Affinity {
    /// To nodes.
    #[serde(default)]
    pub node_affinity: Map<String, Value>,
    /// To pods.
    #[serde(default)]
    pub pod_affinity: Map<String, Value>,
    /// Away from pods.
    #[serde(default)]
    pub pod_anti_affinity: Map<String, Value>,
}

/// Who reaches the operator.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicy {
    /// Whether there is one.
    pub enabled: bool,
    /// Who may scrape metrics; anyone where empty.
    pub metrics_from: Vec<Peer>,
    /// Who may ask the external scaler; anyone where empty.
    pub scaler_from: Vec<Peer>,
    /// Where the operator may go.
    pub egress: Egress,
}

/// As in a NetworkPolicy; the API server checks what is in the three.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// Namespaces.
    #[serde(default)]
    pub namespace_selector: Option<Map<String, Value>>,
    /// Pods of them.
    #[serde(default)]
    pub pod_selector: Option<Map<String, Value>>,
    /// Addresses.
    #[serde(default)]
    pub ip_block: Option<Map<String, Value>>,
}

/// Where the operator may go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// Whether that is limited.
    pub enabled: bool,
    /// Ports of the API server, as seen behind its Service.
    #[schemars(length(min = 1), inner(range(min = 1)))]
    pub api_server_ports: Vec<u16>,
}

/// PodMonitors of the Prometheus operator.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PodMonitor {
    /// Of the operator.
    pub operator: bool,
    /// Of all sidecars.
    pub sidecars: bool,
    /// Between two scrapes.
    #[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub interval: String,
    /// What Prometheus selects PodMonitors by.
    pub labels: BTreeMap<String, String>,
}

/// The text of `values.schema.json`.
///
/// # Errors
/// Where a type yields no schema.
pub fn schema() -> Result<String> {
    let generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator();
    let mut schema = serde_json::to_value(generator.into_root_schema_for::<Values>())?;
    schema["$comment"] = "Made by `make charts` from charts/generate/src/values.rs.".into();
    schema["properties"]["config"] = config()?;
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// The schema of SluiceConfig, strict, without what the chart writes itself and without what only an API server reads.
fn config() -> Result<Value> {
    let mut schema = sluice_crds::crd::config_schema()?;
    strict(&mut schema);
    let own = ["apiVersion", "kind", "metadata"];
    let fields = schema["properties"].as_object_mut().context("an object")?;
    for name in own {
        fields.remove(name).with_context(|| format!("no {name}"))?;
    }
    let required = schema["required"].as_array_mut().context("a list")?;
    required.retain(|name| !own.iter().any(|own| name == own));
    Ok(schema)
}

fn strict(node: &mut Value) {
    match node {
        Value::Object(fields) => {
            fields.retain(|key, _| !key.starts_with("x-kubernetes-"));
            // What OpenAPI calls nullable, JSON Schema says by a type.
            if fields.remove("nullable") == Some(json!(true)) {
                if let Some(of) = fields.get_mut("type").filter(|of| of.is_string()) {
                    *of = json!([of.take(), "null"]);
                }
                if let Some(Value::Array(choice)) = fields.get_mut("enum") {
                    choice.push(Value::Null);
                }
            }
            if fields.get("properties").is_some_and(Value::is_object) {
                fields
                    .entry("additionalProperties")
                    .or_insert(Value::Bool(false));
            }
            fields.values_mut().for_each(strict);
        }
        Value::Array(items) => items.iter_mut().for_each(strict),
        _ => {}
    }
}
