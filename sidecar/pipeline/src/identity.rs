//! Who a request is. Made by an authentication method, read by limits, cache and shard keys. It never holds a credential.

use std::collections::BTreeMap;

/// A proven identity.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    /// Name of the provider that proved it.
    pub provider: String,
    /// Unique in the provider: the Secret's subject, or `<iss>|<sub>` of a token.
    pub subject: String,
    /// The key that verified, where there is one.
    pub key_id: Option<String>,
    /// Scopes of a token.
    pub scopes: Vec<String>,
    /// From the Secret's annotations, or mapped from claims.
    pub attributes: BTreeMap<String, String>,
    /// All claims of a token.
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Identity {
    /// `provider|subject`: what cache and limit keys use. A provider's name holds no `|`, so two identities never meet.
    pub fn key(&self) -> String {
        format!("{}|{}", self.provider, self.subject)
    }

    /// A top-level claim as text: strings as they are, numbers and booleans as JSON writes them, nothing else.
    pub fn claim(&self, name: &str) -> Option<String> {
        match self.claims.as_ref()?.get(name)? {
            serde_json::Value::String(text) => Some(text.clone()),
            value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
                Some(value.to_string())
            }
            _ => None,
        }
    }
}
