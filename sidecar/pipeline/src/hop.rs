//! The hop assertion: what an edge or a sidecar says of a request that it forwards to another sidecar, how that is written
//! in one field line, and who is believed. Which connection a request came over is the caller's to know: only what a
//! certificate of the own trust domain brought may become a [`Hop`].

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    auth::Method,
    identity::Identity,
    program::Rule,
    reject::{Reject, RejectReason},
};

/// The field. It never reaches an application.
pub const HEADER: &str = "sluice-hop";
/// The longest value, in bytes: an identity that does not fit is not asserted, and is proven again.
pub const MAX_BYTES: usize = 8 << 10;
/// How a value of this version begins.
const VERSION: &str = "1.";

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// An edge: the receiver runs its own route.
    Edge,
    /// A sidecar: the receiver gives the request to its application.
    Sidecar,
}

/// What is asserted of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assertion {
    /// Who forwards.
    pub from: Role,
    /// The port of the pod that the request is for.
    pub port: u16,
    /// The route that decided, as logs name it.
    pub route: String,
    /// Its rule.
    pub rule: String,
    /// Who asks, where a provider proved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Asserted>,
    /// Limits that were charged: `namespace/policy/limit`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charged: Vec<String>,
    /// Keys of the nonces that were claimed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nonces: Vec<[u8; 32]>,
    /// The epoch of the shard map that chose the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// An identity without what only its prover needs: no key id, no claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asserted {
    /// The provider that proved it.
    pub provider: String,
    /// Unique in that provider.
    pub subject: String,
    /// Scopes of a token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Attributes.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub attributes: std::collections::BTreeMap<String, String>,
}

impl From<&Identity> for Asserted {
    fn from(identity: &Identity) -> Self {
        let Identity {
            provider,
            subject,
            key_id: _,
            scopes,
            attributes,
            claims: _,
        } = identity;
        Self {
            provider: provider.clone(),
            subject: subject.clone(),
            scopes: scopes.clone(),
            attributes: attributes.clone(),
        }
    }
}

impl Assertion {
    /// The field's value; none: it would be longer than [`MAX_BYTES`].
    pub fn encode(&self) -> Option<String> {
        let text = serde_json::to_vec(self).ok()?;
        let mut value = String::from(VERSION);
        URL_SAFE_NO_PAD.encode_string(text, &mut value);
        (value.len() <= MAX_BYTES).then_some(value)
    }

    /// Reads a value. None: another version's, of which this build knows nothing. What breaks the form is refused.
    pub fn decode(value: &[u8]) -> Result<Option<Self>, Reject> {
        let bad = |detail: &str| Reject::new(RejectReason::BadRequest).detail(detail);
        if value.len() > MAX_BYTES {
            return Err(bad("the hop assertion is too long"));
        }
        let Some(text) = value.strip_prefix(VERSION.as_bytes()) else {
            return Ok(None);
        };
        let text = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| bad("the hop assertion is no base64url"))?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|_| bad("the hop assertion cannot be read"))
    }
}

/// The other end of a hop, as its certificate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its trust domain.
    pub trust_domain: String,
}

impl Peer {
    /// Reads a SPIFFE id of the form that the operator issues.
    pub fn parse(id: &str) -> Option<Self> {
        let mut parts = id.strip_prefix("spiffe://")?.split('/');
        let names: [&str; 5] = std::array::from_fn(|_| parts.next().unwrap_or_default());
        let [trust_domain, "ns", namespace, "sa", account] = names else {
            return None;
        };
        let whole = parts.next().is_none()
            && [trust_domain, namespace, account]
                .iter()
                .all(|part| !part.is_empty());
        whole.then(|| Self {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            trust_domain: trust_domain.to_owned(),
        })
    }
}

/// A request that came over a hop with an assertion.
#[derive(Debug, Clone, PartialEq)]
pub struct Hop {
    /// Who asserts.
    pub peer: Peer,
    /// What.
    pub assertion: Assertion,
}

impl Hop {
    /// Takes what `peer` asserts of a request for `port`. None: it asserts nothing that this build knows. What is said
    /// twice, or of another port than the connection is for, is refused.
    pub fn arrived<'v>(
        peer: &Peer,
        port: u16,
        mut lines: impl Iterator<Item = &'v [u8]>,
    ) -> Result<Option<Self>, Reject> {
        let Some(line) = lines.next() else {
            return Ok(None);
        };
        if lines.next().is_some() {
            return Err(Reject::new(RejectReason::BadRequest).detail("two hop assertions"));
        }
        let Some(assertion) = Assertion::decode(line)? else {
            return Ok(None);
        };
        if assertion.port != port {
            return Err(Reject::new(RejectReason::Misdirected)
                .detail("the hop assertion is for another port"));
        }
        Ok(Some(Self {
            peer: peer.clone(),
            assertion,
        }))
    }

    /// Whether the request is for the application as it is: a sidecar of the own namespace ran a route for it. Routes of
    /// Services forward within their namespace, so nobody else may say so.
    pub fn delivers(&self, namespace: &str) -> bool {
        self.assertion.from == Role::Sidecar && self.peer.namespace == namespace
    }

    /// Whether an edge is believed about nonces and limits: it is of the own namespace, or the rule names it in a provider
    /// of type Hop. Another namespace's word counts only with this one's consent.
    pub fn is_believed(&self, rule: &Rule, namespace: &str) -> bool {
        let providers = rule
            .auth
            .iter()
            .flat_map(|auth| auth.any_of.iter().flatten());
        self.assertion.from == Role::Edge
            && (self.peer.namespace == namespace
                || providers
                    .filter_map(|provider| match &provider.method {
                        Method::Hop(method) => Some(method),
                        _ => None,
                    })
                    .any(|method| method.accepts(&self.peer.id)))
    }

    /// Whether a limit was charged before.
    pub fn charged(&self, limit: &str) -> bool {
        self.assertion.charged.iter().any(|known| known == limit)
    }

    /// Whether a nonce was claimed before.
    pub fn claimed(&self, nonce: &[u8; 32]) -> bool {
        self.assertion.nonces.contains(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn assertion() -> Assertion {
        Assertion {
            from: Role::Sidecar,
            port: 8080,
            route: "shop/orders".into(),
            rule: "all".into(),
            identity: None,
            charged: vec!["shop/plans/minute".into()],
            nonces: vec![[7; 32]],
            epoch: Some(3),
        }
    }

    fn peer() -> Peer {
        Peer::parse("spiffe://shop.example/ns/shop/sa/default").expect("an id")
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            port in any::<u16>(), rule in ".{0,40}", subject in ".{0,60}",
            scopes in prop::collection::vec(".{0,9}", 0..4),
            nonces in prop::collection::vec(any::<[u8; 32]>(), 0..3), edge in any::<bool>(),
        ) {
            let identity = Asserted { provider: "p".into(), subject, scopes, attributes: [("plan".into(), rule.clone())].into() };
            let from = if edge { Role::Edge } else { Role::Sidecar };
            let written = Assertion { from, port, rule, nonces, identity: Some(identity), ..assertion() };
            let value = written.encode().expect("it is short");
            prop_assert!(value.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(Assertion::decode(value.as_bytes()).expect("it is whole"), Some(written));
        }

        #[test]
        fn whatever_comes_is_read_or_refused(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Assertion::decode(&value);
            let mut versioned = VERSION.as_bytes().to_vec();
            versioned.extend(&value);
            let _ = Assertion::decode(&versioned);
        }
    }

    #[test]
    fn another_version_asserts_nothing_and_what_is_too_long_is_neither_written_nor_read() {
        assert_eq!(Assertion::decode(b"2.e30"), Ok(None));
        assert!(Assertion::decode(b"1.e30").is_err());
        let long = Assertion {
            rule: "x".repeat(MAX_BYTES),
            ..assertion()
        };
        assert_eq!(long.encode(), None);
        assert!(Assertion::decode(&vec![b'2'; MAX_BYTES + 1]).is_err());
    }

    #[test]
    fn an_assertion_stands_once_and_is_for_one_port() {
        let value = assertion().encode().expect("it is short");
        let line = value.as_bytes();
        let at = |port, lines: Vec<&[u8]>| {
            Hop::arrived(
                &peer(),
                port,
                lines.into_iter().collect::<Vec<_>>().into_iter(),
            )
        };
        assert!(at(8080, vec![line]).expect("sound").is_some());
        assert_eq!(at(8080, vec![]), Ok(None));
        assert!(at(8080, vec![line, line]).is_err());
        let elsewhere = at(8081, vec![line]).expect_err("refused");
        assert_eq!(elsewhere.reason, RejectReason::Misdirected);
    }

    #[test]
    fn only_a_sidecar_of_the_own_namespace_delivers() {
        let hop = |from| Hop {
            peer: peer(),
            assertion: Assertion {
                from,
                ..assertion()
            },
        };
        assert!(hop(Role::Sidecar).delivers("shop"));
        assert!(!hop(Role::Sidecar).delivers("bank"));
        assert!(!hop(Role::Edge).delivers("shop"));
    }

    #[test]
    fn ids_have_one_form() {
        assert_eq!(peer().namespace, "shop");
        for bad in [
            "spiffe://x/ns/a/sa/",
            "spiffe://x/ns/a/sa/b/c",
            "spiffe:///ns/a/sa/b",
            "https://x/ns/a/sa/b",
            "spiffe://x/ns/a",
        ] {
            assert_eq!(Peer::parse(bad), None, "{bad}");
        }
    }
}
