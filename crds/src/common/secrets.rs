//! How a resource points at Secrets. Only Secrets labelled `sluice.dev/use` for the purpose at hand count.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{LabelValue, ObjectName};

/// The rule of a block that points at Secrets, for use in `#[x_kube(validation)]`.
pub(crate) const ONE_SECRET_SOURCE: (&str, &str) = (
    "has(self.secretRef) != has(self.secretSelector)",
    "exactly one of secretRef and secretSelector must be set",
);

/// One Secret by name, in the namespace of the object that points at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    pub name: ObjectName,
    /// One entry of it; without, all entries count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

/// Secrets by label, in the namespace of the object that points at them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretSelector {
    /// Labels that a Secret must carry, all of them.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub match_labels: BTreeMap<String, LabelValue>,
}

/// Which Secrets a block names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKeys<'a> {
    /// One Secret, or one entry of it.
    Ref(&'a SecretRef),
    /// All Secrets with these labels.
    Selector(&'a SecretSelector),
}

/// A block that names its Secrets twice or not at all; the schema refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("exactly one of secretRef and secretSelector must be set")]
pub struct SecretKeysError;

impl<'a> SecretKeys<'a> {
    pub(crate) fn of(
        one: Option<&'a SecretRef>,
        many: Option<&'a SecretSelector>,
    ) -> Result<Self, SecretKeysError> {
        match (one, many) {
            (Some(one), None) => Ok(Self::Ref(one)),
            (None, Some(many)) => Ok(Self::Selector(many)),
            (Some(_), Some(_)) | (None, None) => Err(SecretKeysError),
        }
    }
}
