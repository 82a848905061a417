//! SluiceConfig: what the platform team says once. A file of the resources' shape, never an API object.

mod edges;
mod injection;
mod store;
mod trusted_hops;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{
    api_route::auth::AuthProvider,
    common::{ObjectName, TrustDomain},
};

pub use edges::Edges;
pub use injection::{
    CaptureMode, ImagePullPolicy, Injection, InjectionResources, LogLevel, MAX_APP_STOP_DELAY_S,
};
pub use store::{RedisMode, RedisStore, RedisTls, Store, StoreType, StoreUse};
pub use trusted_hops::{ProxyProtocol, TrustedHops};

/// The `apiVersion` of the file.
pub const API_VERSION: &str = "config.sluice.dev/v1alpha1";
/// The `kind` of the file.
pub const KIND: &str = "SluiceConfig";

/// What the platform team says once: trust, stores, shared auth providers, injection, edges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SluiceConfig {
    /// Always `config.sluice.dev/v1alpha1`.
    #[schemars(length(max = 64), regex(pattern = r"^config\.sluice\.dev/v1alpha1$"))]
    pub api_version: String,
    /// Always `SluiceConfig`.
    #[schemars(length(max = 64), regex(pattern = r"^SluiceConfig$"))]
    pub kind: String,
    /// Name of the file's object, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<ConfigMetadata>,
    /// The SPIFFE trust domain of this installation.
    pub trust_domain: TrustDomain,
    /// Stores that policies name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub stores: Vec<Store>,
    /// Auth providers that every route may name; their Secrets are of the operator's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub auth_providers: Vec<AuthProvider>,
    /// How far sidecars believe what stands in front of them about the client; not at all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_hops: Option<TrustedHops>,
    /// What injected sidecars look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub injection: Option<Injection>,
    /// What the edges of Gateways look like where their own parameters do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edges: Option<Edges>,
}

/// The metadata of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMetadata {
    /// Name of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ObjectName>,
}
