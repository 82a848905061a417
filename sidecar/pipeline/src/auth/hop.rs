//! An identity that an edge proved: accepted from the certificates that the provider names, over a hop only.

use sluice_snapshot::unit::auth as unit;

use crate::{
    facts::Facts,
    hop::Asserted,
    identity::Identity,
    reject::{Reject, RejectReason},
};

/// Asserted identities.
#[derive(Debug)]
pub struct Hop {
    from: Vec<String>,
}

impl Hop {
    pub(super) fn new(unit: &unit::Hop) -> Self {
        let unit::Hop { from } = unit;
        Self { from: from.clone() }
    }

    /// Whether the provider names this certificate.
    pub(crate) fn accepts(&self, peer: &str) -> bool {
        self.from.iter().any(|known| known == peer)
    }

    fn asserted<'f>(&self, facts: &'f impl Facts) -> Option<&'f Asserted> {
        let hop = facts.hop()?;
        let asserted = hop.assertion.identity.as_ref()?;
        self.accepts(&hop.peer.id).then_some(asserted)
    }

    pub(super) fn present(&self, facts: &impl Facts) -> bool {
        self.asserted(facts).is_some()
    }

    /// The identity is this provider's: its subject says who proved it, so that it meets none of the route's own.
    pub(super) fn verify(&self, provider: &str, facts: &impl Facts) -> Result<Identity, Reject> {
        let Some(asserted) = self.asserted(facts) else {
            return Err(Reject::new(RejectReason::BadCredentials).detail("no identity is asserted"));
        };
        Ok(Identity {
            provider: provider.to_owned(),
            subject: format!("{}|{}", asserted.provider, asserted.subject),
            key_id: None,
            scopes: asserted.scopes.clone(),
            attributes: asserted.attributes.clone(),
            claims: None,
        })
    }
}

pub(super) fn check(unit: &unit::Hop) -> Result<(), String> {
    let unit::Hop { from } = unit;
    match from.iter().find(|id| crate::hop::Peer::parse(id).is_none()) {
        Some(id) => Err(format!(
            "{id:?} is no id of a pod; is it spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT?"
        )),
        None if from.is_empty() => Err("nobody is named".into()),
        None => Ok(()),
    }
}
