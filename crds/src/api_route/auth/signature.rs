//! HTTP message signatures (RFC 9421) with body digests (RFC 9530).

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{
    Duration, ONE_SECRET_SOURCE, Quantity, SecretKeys, SecretKeysError, SecretRef, SecretSelector,
    SignatureComponent, StoreRef, choice,
};

/// Signatures made with keys from Secrets labelled `sluice.dev/use: signature-keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.maxBuffered) || !has(self.digest) || self.digest == 'Buffered'")
    .message("maxBuffered belongs to digest: Buffered"))]
pub struct HttpMessageSignature {
    /// The keys that clients sign with.
    pub keys: SignatureKeys,
    /// The algorithms a signature may use; a key never chooses another.
    #[schemars(length(min = 1, max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub algorithms: Vec<SignatureAlgorithm>,
    /// What a signature must cover at least; `@method` and `@target-uri` by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub required_components: Vec<SignatureComponent>,
    /// How old a signature may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<SignatureAge>,
    /// Whether a signature counts once only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Nonce>,
    /// How the body is checked against a covered Content-Digest; Buffered by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<DigestMode>,
    /// The largest body that is held back for the check; 256Ki by default, a larger one is 413.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_buffered: Option<Quantity>,
}

impl HttpMessageSignature {
    /// What a signature must cover where the block names nothing.
    pub const DEFAULT_COMPONENTS: [&'static str; 2] = ["@method", "@target-uri"];
    /// The largest body held back where the block names none, in bytes.
    pub const DEFAULT_MAX_BUFFERED: u64 = 256 << 10;

    /// What a signature must cover at least, the default applied.
    pub fn effective_components(&self) -> Vec<&str> {
        match self.required_components.as_slice() {
            [] => Self::DEFAULT_COMPONENTS.to_vec(),
            named => named.iter().map(SignatureComponent::as_str).collect(),
        }
    }

    /// How old a signature may be, the default (5m) applied.
    pub fn effective_max_age(&self) -> std::time::Duration {
        let named = self.created.as_ref().and_then(|created| created.max_age);
        named.map_or(std::time::Duration::from_secs(300), Duration::get)
    }

    /// How far in the future a signature may be dated, the default (30s) applied.
    pub fn effective_skew(&self) -> std::time::Duration {
        let named = self.created.as_ref().and_then(|created| created.skew);
        named.map_or(std::time::Duration::from_secs(30), Duration::get)
    }

    /// How the body is checked, the default applied.
    pub fn effective_digest(&self) -> DigestMode {
        self.digest.unwrap_or(DigestMode::Buffered)
    }

    /// The largest body that is held back, in bytes, the default applied.
    pub fn effective_max_buffered(&self) -> u64 {
        self.max_buffered
            .as_ref()
            .map_or(Self::DEFAULT_MAX_BUFFERED, Quantity::value)
    }
}

/// Where the keys come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ONE_SECRET_SOURCE)]
pub struct SignatureKeys {
    /// One Secret with keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// All Secrets with these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_selector: Option<SecretSelector>,
}

impl SignatureKeys {
    /// The Secrets that hold the keys.
    ///
    /// # Errors
    /// None or two sources are named.
    pub fn source(&self) -> Result<SecretKeys<'_>, SecretKeysError> {
        SecretKeys::of(self.secret_ref.as_ref(), self.secret_selector.as_ref())
    }
}

choice! {
    /// Signature algorithms (RFC 9421 section 3.3).
    pub enum SignatureAlgorithm {
        /// HMAC with SHA-256.
        HmacSha256 = "hmac-sha256",
    }
}

/// How old a signature may be, by its `created` parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxAge) || (duration(self.maxAge) > duration('0s') && duration(self.maxAge) <= duration('1h'))")
        .message("maxAge is above 0s and at most 1h"),
    validation = Rule::new("!has(self.skew) || duration(self.skew) <= duration('5m')").message("skew is at most 5m")
)]
pub struct SignatureAge {
    /// The oldest that counts; 5m by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// How far in the future it may be dated; 30s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skew: Option<Duration>,
}

choice! {
    /// Who remembers nonces.
    pub enum NonceScope {
        /// Each sidecar for itself: a replay at another pod passes.
        Local,
        /// All sidecars together, through a store.
        Shared,
    }
}

choice! {
    /// What happens while the store of nonces does not answer.
    pub enum NonceStoreFailure {
        /// Each sidecar remembers for itself.
        Local,
        /// The request is refused.
        Deny,
    }
}

/// Whether a signature counts once only, by its `nonce` parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.scope) && self.scope == 'Shared') == has(self.storeRef)")
        .message("scope: Shared needs a storeRef, scope: Local has none"),
    validation = Rule::new("!has(self.onStoreFailure) || has(self.storeRef)").message("onStoreFailure belongs to scope: Shared")
)]
pub struct Nonce {
    /// Whether a signature must have one; true by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// Who remembers nonces; Local by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<NonceScope>,
    /// The store that sidecars share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_ref: Option<StoreRef>,
    /// What happens while the store does not answer; Deny by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_store_failure: Option<NonceStoreFailure>,
}

/// Who remembers nonces, with no wrong state left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceMemory<'a> {
    /// Each sidecar for itself.
    Local,
    /// All sidecars through a store.
    Shared {
        /// The store.
        store: &'a StoreRef,
        /// What happens while it does not answer.
        on_failure: NonceStoreFailure,
    },
}

/// A shared nonce scope without its store; the schema refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nonce scope Shared needs a storeRef, scope Local has none")]
pub struct NonceError;

impl Nonce {
    /// Whether a signature must have one, the default applied.
    pub fn effective_required(&self) -> bool {
        self.required.unwrap_or(true)
    }

    /// Who remembers nonces.
    ///
    /// # Errors
    /// Scope and storeRef contradict each other.
    pub fn memory(&self) -> Result<NonceMemory<'_>, NonceError> {
        let Self {
            required: _,
            scope,
            store_ref,
            on_store_failure,
        } = self;
        match (scope.unwrap_or(NonceScope::Local), store_ref) {
            (NonceScope::Local, None) => Ok(NonceMemory::Local),
            (NonceScope::Shared, Some(store)) => Ok(NonceMemory::Shared {
                store,
                on_failure: on_store_failure.unwrap_or(NonceStoreFailure::Deny),
            }),
            (NonceScope::Local, Some(_)) | (NonceScope::Shared, None) => Err(NonceError),
        }
    }
}

choice! {
    /// How a body is checked against Content-Digest (RFC 9530).
    pub enum DigestMode {
        /// The body is held back until it is verified.
        Buffered,
        /// The digest is not checked.
        None,
    }
}
