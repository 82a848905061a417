//! API keys: a secret that the client sends with the request.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{
    HeaderName, ONE_SECRET_SOURCE, SecretKeys, SecretKeysError, SecretRef, SecretSelector,
};

/// API keys from Secrets labelled `sluice.dev/use: api-keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ONE_SECRET_SOURCE)]
pub struct ApiKey {
    /// One Secret with keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// All Secrets with these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_selector: Option<SecretSelector>,
    /// Header that carries the key; X-Api-Key by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderName>,
}

impl ApiKey {
    /// The Secrets that hold the keys.
    ///
    /// # Errors
    /// None or two sources are named.
    pub fn keys(&self) -> Result<SecretKeys<'_>, SecretKeysError> {
        SecretKeys::of(self.secret_ref.as_ref(), self.secret_selector.as_ref())
    }

    /// The header that carries the key, the default applied.
    pub fn effective_header(&self) -> &str {
        self.header.as_deref().unwrap_or("X-Api-Key")
    }
}
