//! A key that is sent as it is, in a header field. The sidecar holds its keyed hash only.

use std::sync::Arc;

use sluice_snapshot::unit::auth as unit;

use super::keyring::KeyRing;
use crate::{
    facts::Facts,
    identity::Identity,
    reject::{Reject, RejectReason},
};

/// The longest key that is looked at, in bytes.
const MAX_KEY: usize = 4096;

/// API keys in one header field.
#[derive(Debug)]
pub struct ApiKey {
    header: String,
    ring: Arc<KeyRing>,
}

impl ApiKey {
    pub(super) fn new(unit: &unit::ApiKey, ring: Arc<KeyRing>) -> Self {
        let unit::ApiKey { header, keys: _ } = unit;
        Self {
            header: header.clone(),
            ring,
        }
    }

    pub(super) fn header(&self) -> &str {
        &self.header
    }

    pub(super) fn present(&self, facts: &impl Facts) -> bool {
        facts.header(&self.header).next().is_some()
    }

    pub(super) fn verify(&self, provider: &str, facts: &impl Facts) -> Result<Identity, Reject> {
        let mut lines = facts.header(&self.header);
        let (Some(sent), None) = (lines.next(), lines.next()) else {
            return Err(bad("the header field must stand once"));
        };
        let sent = sent.trim_ascii();
        if sent.is_empty() || sent.len() > MAX_KEY {
            return Err(bad("the key is empty or too long"));
        }
        match self.ring.api_key(provider, sent) {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) => Err(bad("unknown key")),
            Err(error) => Err(super::broken(error)),
        }
    }
}

fn bad(detail: &str) -> Reject {
    Reject::new(RejectReason::BadCredentials).detail(detail)
}

pub(super) fn check(unit: &unit::ApiKey) -> Result<(), String> {
    let unit::ApiKey { header, keys: _ } = unit;
    if is_field_name(header) {
        Ok(())
    } else {
        Err(format!("{header:?} is not a lower-case header name"))
    }
}

/// A field name as facts know it: a lower-case token (RFC 9110 section 5.6.2).
pub(super) fn is_field_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
        })
}
