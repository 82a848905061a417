//! Which bucket of a limit a request takes from. A key is a hash: it is as long as any other whatever a caller sends,
//! and a value that may be a credential (a header) goes into no log and no store.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aws_lc_rs::digest;
use sluice_snapshot::{hash, unit::policy::KeyPart};

use super::LimitId;
use crate::{facts::Facts, identity::Identity};

/// The readable form is cut here, in characters.
const MAX_LABEL: usize = 160;

/// The key of a bucket. Equal keys are one bucket, in every sidecar.
#[derive(Debug, Clone)]
pub struct BucketKey {
    hash: [u8; 16],
    label: String,
}

impl PartialEq for BucketKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for BucketKey {}

impl std::hash::Hash for BucketKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl BucketKey {
    /// The key for a request; `Err` names the part that has no value.
    pub(super) fn of(
        limit: &LimitId,
        parts: &[KeyPart],
        facts: &impl Facts,
        identity: Option<&Identity>,
    ) -> Result<Self, String> {
        let mut builder = Builder::new(limit, b'K');
        for part in parts {
            builder
                .part(part, facts, identity)
                .ok_or_else(|| format!("{} has no value", described(part)))?;
        }
        Ok(builder.finish())
    }

    /// The bucket that all requests with a missing part share.
    pub(super) fn shared(limit: &LimitId) -> Self {
        let mut builder = Builder::new(limit, b'S');
        builder.label.push_str("(missing)");
        builder.finish()
    }

    /// 128 bits over limit and parts.
    pub fn hash(&self) -> &[u8; 16] {
        &self.hash
    }

    /// The key in a store, after the store's own prefix. The braces keep it in one slot of a Redis Cluster.
    pub fn store_key(&self, prefix: &str) -> String {
        format!("{prefix}:limit:{{{}}}", hash::hex(&self.hash))
    }

    /// The parts, readable and cut short, for the access log. Header values are not shown: they may be credentials.
    pub fn label(&self) -> &str {
        &self.label
    }
}

impl fmt::Display for BucketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

struct Builder {
    context: digest::Context,
    label: String,
}

impl Builder {
    fn new(limit: &LimitId, kind: u8) -> Self {
        let mut builder = Self {
            context: digest::Context::new(&digest::SHA256),
            label: String::new(),
        };
        builder.bytes(limit.as_str().as_bytes());
        builder.context.update(&[kind]);
        builder
    }

    /// Length first: no two lists of parts are the same bytes.
    fn bytes(&mut self, bytes: &[u8]) {
        self.context.update(&(bytes.len() as u64).to_be_bytes());
        self.context.update(bytes);
    }

    fn shown(&mut self, value: &str) {
        if !self.label.is_empty() {
            self.label.push(',');
        }
        let room = MAX_LABEL.saturating_sub(self.label.chars().count());
        self.label.extend(
            value
                .chars()
                .filter(|character| !character.is_control())
                .take(room),
        );
    }

    fn part(
        &mut self,
        part: &KeyPart,
        facts: &impl Facts,
        identity: Option<&Identity>,
    ) -> Option<()> {
        match part {
            KeyPart::ClientAddress {
                prefix_v4,
                prefix_v6,
            } => {
                let network = network(facts.peer(), *prefix_v4, *prefix_v6);
                self.bytes(network.as_bytes());
                self.shown(&network);
            }
            KeyPart::Header { name } => {
                let value = facts.header(name).next()?;
                self.bytes(value);
                self.shown(name);
            }
            KeyPart::Identity => {
                let key = identity?.key();
                self.bytes(key.as_bytes());
                self.shown(&key);
            }
            KeyPart::IdentityAttribute { name } => {
                let value = identity?.attributes.get(name)?;
                self.bytes(value.as_bytes());
                self.shown(value);
            }
            KeyPart::Claim { name } => {
                let value = identity?.claim(name)?;
                self.bytes(value.as_bytes());
                self.shown(&value);
            }
        }
        Some(())
    }

    fn finish(self) -> BucketKey {
        let mut hash = [0; 16];
        hash.copy_from_slice(&self.context.finish().as_ref()[..16]);
        BucketKey {
            hash,
            label: self.label,
        }
    }
}

fn described(part: &KeyPart) -> String {
    match part {
        KeyPart::ClientAddress { .. } => "the client's address".into(),
        KeyPart::Header { name } => format!("header {name}"),
        KeyPart::Identity => "the identity".into(),
        KeyPart::IdentityAttribute { name } => format!("identity attribute {name}"),
        KeyPart::Claim { name } => format!("claim {name}"),
    }
}

/// The network of an address: an IPv4 address written as IPv6 is still that IPv4 address.
fn network(address: IpAddr, prefix_v4: u8, prefix_v6: u8) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let kept = prefix_v4.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(kept)).unwrap_or(0);
            format!("{}/{kept}", Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let kept = prefix_v6.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(kept)).unwrap_or(0);
            format!("{}/{kept}", Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::StaticFacts;

    fn id() -> LimitId {
        LimitId("shop/plans/per-tenant".into())
    }

    fn header(name: &str) -> KeyPart {
        KeyPart::Header { name: name.into() }
    }

    fn key(parts: &[KeyPart], facts: &StaticFacts) -> BucketKey {
        BucketKey::of(&id(), parts, facts, None).expect("present")
    }

    #[test]
    fn networks_are_cut_and_mapped_addresses_are_ipv4() {
        let network = |address: &str| network(address.parse().expect("address"), 24, 64);
        assert_eq!(network("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("::ffff:192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("2001:db8:1:2:3::4"), "2001:db8:1:2::/64");
        assert_eq!(
            super::network("192.0.2.77".parse().expect("address"), 0, 0),
            "0.0.0.0/0"
        );
        assert_eq!(
            super::network("192.0.2.77".parse().expect("address"), 200, 200),
            "192.0.2.77/32"
        );
    }

    #[test]
    fn parts_cannot_be_shifted_into_each_other() {
        let facts = |a: &str, b: &str| StaticFacts::new("GET", "x", "/").with("a", a).with("b", b);
        let parts = [header("a"), header("b")];
        assert_ne!(
            key(&parts, &facts("xy", "z")),
            key(&parts, &facts("x", "yz"))
        );
        assert_eq!(
            key(&parts, &facts("xy", "z")),
            key(&parts, &facts("xy", "z"))
        );
    }

    #[test]
    fn limits_and_the_bucket_of_missing_keys_are_apart() {
        let facts = StaticFacts::new("GET", "x", "/");
        let other = LimitId("shop/plans/other".into());
        let one = BucketKey::of(&id(), &[], &facts, None).expect("empty");
        assert_ne!(
            one,
            BucketKey::of(&other, &[], &facts, None).expect("empty")
        );
        assert_ne!(one, BucketKey::shared(&id()));
    }

    #[test]
    fn header_values_are_not_shown() {
        let key = key(
            &[header("x-api-key")],
            &StaticFacts::new("GET", "x", "/").with("x-api-key", "hunter2"),
        );
        assert_eq!(key.label(), "x-api-key");
        assert!(!format!("{key:?}").contains("hunter2"));
    }

    #[test]
    fn identity_parts_need_an_identity() {
        let facts = StaticFacts::new("GET", "x", "/");
        let identity = Identity {
            provider: "keys".into(),
            subject: "alice".into(),
            ..Identity::default()
        };
        let key =
            BucketKey::of(&id(), &[KeyPart::Identity], &facts, Some(&identity)).expect("present");
        assert_eq!(key.label(), "keys|alice");
        let parts = [KeyPart::IdentityAttribute {
            name: "tenant".into(),
        }];
        let missing = BucketKey::of(&id(), &parts, &facts, Some(&identity)).expect_err("missing");
        assert_eq!(missing, "identity attribute tenant has no value");
    }

    #[test]
    fn long_values_are_cut_in_the_label() {
        let identity = Identity {
            provider: "keys".into(),
            subject: "\u{e9}\n".repeat(500),
            ..Identity::default()
        };
        let facts = StaticFacts::new("GET", "x", "/");
        let key = BucketKey::of(
            &id(),
            &[KeyPart::Identity, KeyPart::Identity],
            &facts,
            Some(&identity),
        )
        .expect("present");
        assert!(key.label().chars().count() <= MAX_LABEL + 1 && !key.label().contains('\n'));
    }
}
