//! Who this sidecar says it is, read from its own token without verifying it: only the operator decides what it is sent.
//! Used for one thing: not to serve a last-known-good that was written for another pod.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

/// The pod a token names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} (uid {})", self.namespace, self.pod, self.uid)
    }
}

/// A token that names no pod.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the token names no pod: expected a service-account token bound to a pod, or a join token of the operator's state directory"
)]
pub struct NoPrincipal;

impl Principal {
    /// The pod of a projected service-account token, or of a join token `<ns>/<pod>/<uid>.<random>`.
    pub fn of_token(token: &str) -> Result<Self, NoPrincipal> {
        join_token(token)
            .or_else(|| service_account_token(token))
            .ok_or(NoPrincipal)
    }
}

fn join_token(token: &str) -> Option<Principal> {
    let (subject, _random) = token.trim().rsplit_once('.')?;
    match *subject.split('/').collect::<Vec<_>>() {
        [namespace, pod, uid] if ![namespace, pod, uid].contains(&"") => Some(Principal {
            namespace: namespace.into(),
            pod: pod.into(),
            uid: uid.into(),
        }),
        _ => None,
    }
}

fn service_account_token(token: &str) -> Option<Principal> {
    let payload = BASE64_URL_SAFE_NO_PAD
        .decode(token.trim().split('.').nth(1)?)
        .ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    let bound = claims.get("kubernetes.io")?;
    let text = |value: Option<&serde_json::Value>| value?.as_str().map(str::to_owned);
    Some(Principal {
        namespace: text(bound.get("namespace"))?,
        pod: text(bound.pointer("/pod/name"))?,
        uid: text(bound.pointer("/pod/uid"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_token_name_their_pod() {
        let expected = Principal {
            namespace: "shop".into(),
            pod: "orders-0".into(),
            uid: "u-1".into(),
        };
        assert_eq!(
            Principal::of_token("shop/orders-0/u-1.c2VjcmV0\n"),
            Ok(expected.clone())
        );
        let claims =
            r#"{"kubernetes.io":{"namespace":"shop","pod":{"name":"orders-0","uid":"u-1"}}}"#;
        let token = format!("e30.{}.sig", BASE64_URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(Principal::of_token(&token), Ok(expected));
    }

    #[test]
    fn other_text_names_none() {
        for token in ["", "a.b.c", "shop/orders-0.x", "//.x", "e30.e30.e30"] {
            assert_eq!(Principal::of_token(token), Err(NoPrincipal), "{token:?}");
        }
    }
}
