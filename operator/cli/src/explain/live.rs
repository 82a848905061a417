//! The objects of a cluster as manifests, by the user's own kubeconfig: what its API server has goes the same way as files.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::Value;

use crate::{
    input::Source,
    offline::Loaded,
    output::{self, chain},
    status::cluster::Cluster,
};

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// The ConfigMap in which the chart keeps SluiceConfig, and its entry.
const CONFIG: (&str, &str) = ("sluice-config", "config.yaml");

/// Of what is read: group, version, kind, plural, and which of its objects by label or field.
const KINDS: [(&str, &str, &str, &str, Select); 18] = [
    (
        "sluice.dev",
        "v1alpha1",
        "ApiRoute",
        "apiroutes",
        Select::All,
    ),
    (
        "sluice.dev",
        "v1alpha1",
        "RateLimitPolicy",
        "ratelimitpolicies",
        Select::All,
    ),
    (
        "sluice.dev",
        "v1alpha1",
        "ShardSet",
        "shardsets",
        Select::All,
    ),
    ("", "v1", "Service", "services", Select::All),
    ("", "v1", "Namespace", "namespaces", Select::All),
    ("", "v1", "ConfigMap", "configmaps", Select::All),
    (
        "",
        "v1",
        "Secret",
        "secrets",
        Select::Labels("sluice.dev/use"),
    ),
    (
        "",
        "v1",
        "Secret",
        "secrets",
        Select::Fields("type=kubernetes.io/tls"),
    ),
    (
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        Select::All,
    ),
    (GATEWAY, "v1", "GatewayClass", "gatewayclasses", Select::All),
    (GATEWAY, "v1", "Gateway", "gateways", Select::All),
    (GATEWAY, "v1", "ListenerSet", "listenersets", Select::All),
    (GATEWAY, "v1", "HTTPRoute", "httproutes", Select::All),
    (GATEWAY, "v1", "GRPCRoute", "grpcroutes", Select::All),
    (GATEWAY, "v1", "TLSRoute", "tlsroutes", Select::All),
    (GATEWAY, "v1", "TCPRoute", "tcproutes", Select::All),
    (
        GATEWAY,
        "v1",
        "BackendTLSPolicy",
        "backendtlspolicies",
        Select::All,
    ),
    (
        GATEWAY,
        "v1beta1",
        "ReferenceGrant",
        "referencegrants",
        Select::All,
    ),
];

const GATEWAY: &str = sluice_crds::gateway_api::GROUP;

/// Which objects of a kind.
#[derive(Clone, Copy)]
enum Select {
    All,
    Labels(&'static str),
    Fields(&'static str),
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// Not recognised.
    #[error("{url} does not recognise you: {message}. Log in again, or choose another --context")]
    Unauthorized {
        /// The API server.
        url: String,
        /// What it said.
        message: String,
    },
    /// Anything else.
    #[error(
        "{url} does not answer for {plural}: {cause}. Is the cluster up, and is this the right context (kubectl config current-context)?"
    )]
    Unreachable {
        /// The API server.
        url: String,
        /// What was asked for.
        plural: &'static str,
        /// What went wrong.
        cause: String,
    },
}

/// Everything that translation reads. A kind that is not installed is empty; one that may not be read is said.
pub async fn read(cluster: &Cluster, operator_namespace: &str) -> Result<Loaded, LiveError> {
    let (client, url, _) = cluster.parts();
    let mut manifests = Vec::new();
    let mut config = None;
    for (group, version, kind, plural, select) in KINDS {
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let objects = match list(&client, &resource, select).await {
            Ok(objects) => objects,
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                output::complain(&format!(
                    "warning: not allowed to read {plural}: what needs them is shown as if there were none ({})",
                    status.message
                ));
                continue;
            }
            Err(kube::Error::Api(status)) if status.code == 401 => {
                return Err(LiveError::Unauthorized {
                    url: url.to_owned(),
                    message: status.message.clone(),
                });
            }
            Err(error) => {
                return Err(LiveError::Unreachable {
                    url: url.to_owned(),
                    plural,
                    cause: chain(&error),
                });
            }
        };
        for object in objects {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let (namespace, name) = (
                text(&object.metadata.namespace),
                text(&object.metadata.name),
            );
            let entry = &object.data["data"][CONFIG.1];
            if kind == "ConfigMap"
                && (namespace.as_str(), name.as_str()) == (operator_namespace, CONFIG.0)
                && let Value::String(text) = entry
            {
                config = Some(Source {
                    name: format!("configmap {namespace}/{name}"),
                    text: text.clone(),
                });
            }
            manifests.push(Source {
                name: format!("{plural} {namespace}/{name}"),
                text: manifest(object, &resource).to_string(),
            });
        }
    }
    Ok(Loaded::of(config, manifests, operator_namespace))
}

async fn list(
    client: &Client,
    resource: &ApiResource,
    select: Select,
) -> Result<Vec<DynamicObject>, kube::Error> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let mut params = ListParams::default().limit(PAGE);
    params = match select {
        Select::All => params,
        Select::Labels(selector) => params.labels(selector),
        Select::Fields(selector) => params.fields(selector),
    };
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

/// An object as a file would have it: an item of a list does not say what it is.
fn manifest(object: DynamicObject, resource: &ApiResource) -> Value {
    let DynamicObject {
        types: _,
        mut metadata,
        mut data,
    } = object;
    // Half of most objects, and of no meaning here.
    metadata.managed_fields = None;
    if let Some(members) = data.as_object_mut() {
        members.insert("apiVersion".into(), resource.api_version.clone().into());
        members.insert("kind".into(), resource.kind.clone().into());
        members.insert(
            "metadata".into(),
            serde_json::to_value(metadata).unwrap_or_default(),
        );
    }
    data
}
