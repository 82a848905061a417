//! Why a piece of configuration is present but cannot serve. It travels inside units: what is broken denies, it is never
//! left out.

use serde::{Deserialize, Serialize};

/// A problem of configuration that makes requests be refused with 503 `config-*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigError {
    /// What kind of problem.
    pub reason: ConfigReason,
    /// For the operator's people (status, access log); never sent to a client, never holds a secret.
    pub message: String,
}

impl ConfigError {
    /// A problem with its explanation.
    pub fn new(reason: ConfigReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// The closed list of such problems. The reject reason a client sees is [`ConfigReason::reject`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConfigReason {
    /// A value does not compile or contradicts another (regular expression, unknown provider, slots).
    Invalid,
    /// A backendRef names nothing that exists.
    BackendNotFound,
    /// A forward target enforces policy of its own, which a forward without hop assertion would run twice.
    TargetEnforces,
    /// A referenced Secret does not exist or lacks the entry.
    SecretNotFound,
    /// A referenced Secret exists but its label or type does not allow this use.
    SecretNotUsable,
    /// A referenced store is not declared in SluiceConfig.
    StoreNotFound,
    /// An `ExtensionRef` or provider name leads nowhere.
    ReferenceNotFound,
    /// A policy that covers the rule is not part of the snapshot or does not compile.
    PolicyUnavailable,
    /// The slots of a ShardSet are covered twice or not at all.
    SlotsUncovered,
    /// The unit is larger than the stream carries.
    TooLarge,
    /// The sidecar lacks a feature the unit needs: restart the pod to update it.
    SidecarTooOld,
}

impl ConfigReason {
    /// Every reason, for tests that demand an example of each.
    pub const ALL: [Self; 11] = [
        Self::Invalid,
        Self::BackendNotFound,
        Self::TargetEnforces,
        Self::SecretNotFound,
        Self::SecretNotUsable,
        Self::StoreNotFound,
        Self::ReferenceNotFound,
        Self::PolicyUnavailable,
        Self::SlotsUncovered,
        Self::TooLarge,
        Self::SidecarTooOld,
    ];

    /// The reject reason: problem type, metric label and access-log field.
    pub const fn reject(self) -> &'static str {
        match self {
            Self::Invalid => "config-invalid",
            Self::BackendNotFound => "config-backend-not-found",
            Self::TargetEnforces => "config-target-enforces",
            Self::SecretNotFound => "config-secret-not-found",
            Self::SecretNotUsable => "config-secret-not-usable",
            Self::StoreNotFound => "config-store-not-found",
            Self::ReferenceNotFound => "config-reference-not-found",
            Self::PolicyUnavailable => "config-policy-unavailable",
            Self::SlotsUncovered => "config-slots-uncovered",
            Self::TooLarge => "config-too-large",
            Self::SidecarTooOld => "config-sidecar-too-old",
        }
    }
}
