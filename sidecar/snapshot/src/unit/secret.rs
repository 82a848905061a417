//! The content of one Secret. The only unit that holds secret bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::secret::SecretBytes;

/// One Secret: one consumer, its keys by id.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Secret {
    /// What it may be used for; equals the label and the type of the Secret.
    pub purpose: Purpose,
    /// The identity's subject.
    pub subject: String,
    /// The identity's attributes.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// Key id -> material. For API keys the material is HMAC-SHA-256 of the key under `salt`.
    pub entries: BTreeMap<String, SecretBytes>,
    /// The HMAC key of `entries`, for API keys; derived for the namespace, so that it opens nothing elsewhere.
    #[serde(default)]
    pub salt: Option<SecretBytes>,
}

/// What a Secret may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// API keys.
    ApiKeys,
    /// Keys of HTTP message signatures.
    SignatureKeys,
    /// Shared keys of tokens.
    JwtKeys,
    /// Credentials of a Redis.
    RedisAuth,
    /// A certificate and its key, for listeners: entries [`CERTIFICATE_ENTRY`] and [`KEY_ENTRY`], PEM.
    Tls,
}

/// The entry with the chain of certificates, the server's own first.
pub const CERTIFICATE_ENTRY: &str = "tls.crt";
/// The entry with the private key.
pub const KEY_ENTRY: &str = "tls.key";

impl Purpose {
    /// Every purpose that a label can name. A certificate has none: its Secret's type says what it is.
    pub const LABELLED: [Self; 4] = [
        Self::ApiKeys,
        Self::SignatureKeys,
        Self::JwtKeys,
        Self::RedisAuth,
    ];

    /// The value of the label `sluice.dev/use`, and the Secret's type after `sluice.dev/`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ApiKeys => "api-keys",
            Self::SignatureKeys => "signature-keys",
            Self::JwtKeys => "jwt-keys",
            Self::RedisAuth => "redis-auth",
            Self::Tls => "tls",
        }
    }
}

/// What leaves the process; made for the encoder and dropped, zeroed, right after.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    purpose: Purpose,
    subject: &'a str,
    attributes: &'a BTreeMap<String, String>,
    entries: BTreeMap<&'a str, Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    salt: Option<Zeroizing<String>>,
}

impl Secret {
    pub(super) fn encode(&self) -> Bytes {
        let Self {
            purpose,
            subject,
            attributes,
            entries,
            salt,
        } = self;
        super::json(&Wire {
            purpose: *purpose,
            subject,
            attributes,
            entries: entries
                .iter()
                .map(|(id, value)| (id.as_str(), value.to_hex()))
                .collect(),
            salt: salt.as_ref().map(SecretBytes::to_hex),
        })
    }

    pub(super) fn redacted(&self) -> serde_json::Value {
        let Self {
            purpose,
            subject,
            attributes,
            entries,
            salt,
        } = self;
        serde_json::json!({
            "purpose": purpose,
            "subject": subject,
            "attributes": attributes,
            "entries": entries.iter().map(|(id, value)| (id.clone(), format!("{} secret bytes", value.len()))).collect::<BTreeMap<_, _>>(),
            "salted": salt.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{name::UnitName, unit::Unit};

    fn secret() -> Secret {
        Secret {
            purpose: Purpose::ApiKeys,
            subject: "alice".into(),
            attributes: BTreeMap::from([("plan".into(), "gold".into())]),
            entries: BTreeMap::from([(
                "k1".into(),
                SecretBytes::new(b"top secret bytes".to_vec()),
            )]),
            salt: None,
        }
    }

    #[test]
    fn it_reads_back_and_never_shows_its_bytes() {
        let name = UnitName::secret("shop", "alice", "00");
        let unit = Unit::Secret(secret());
        let Ok(Unit::Secret(read)) = Unit::decode(&name, &unit.encode()) else {
            panic!("decodes")
        };
        assert_eq!(read.entries["k1"].expose(), b"top secret bytes");
        let shown = format!("{unit:?} {}", unit.redacted());
        assert!(
            !shown.contains("top secret") && !shown.contains(&crate::hash::hex(b"top secret")),
            "{shown}"
        );
    }

    #[test]
    fn a_malformed_secret_is_refused_without_quoting_it() {
        let name = UnitName::secret("shop", "alice", "00");
        let error = Unit::decode(&name, br#"{"purpose":"hunter2"}"#).expect_err("refused");
        let mut text = error.to_string();
        text.push_str(&format!("{error:?}"));
        assert!(!text.contains("hunter2"), "{text}");
    }
}
