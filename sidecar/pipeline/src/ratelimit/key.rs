//! Which bucket of a limit a request takes from: the bytes that tell buckets apart. Whoever keeps buckets hashes them:
//! a sidecar with a secret of its own and fast, for a store with SHA-256. A value may be a credential (a header), so the
//! bytes go into no log and no store.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aws_lc_rs::digest;
use sluice_snapshot::{hash, unit::policy::KeyPart};
use smallvec::SmallVec;

use super::LimitId;
use crate::{facts::Facts, identity::Identity};

/// The readable form is cut here, in characters.
const MAX_LABEL: usize = 160;
/// Keys up to this length, in bytes, need no memory of their own.
const IN_PLACE: usize = 80;

/// The key of a bucket. Equal keys are one bucket, in every sidecar.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketKey(SmallVec<[u8; IN_PLACE]>);

impl fmt::Debug for BucketKey {
    // A header's value may be a credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BucketKey({} bytes)", self.0.len())
    }
}

/// Whether the parts were there.
const WHOLE: u8 = b'K';
const MISSING: u8 = b'S';

impl BucketKey {
    /// The key for a request; `Err` names the part that has no value.
    pub(super) fn of<'k>(
        limit: &LimitId,
        parts: &'k [KeyPart],
        facts: &impl Facts,
        identity: Option<&Identity>,
    ) -> Result<Self, &'k KeyPart> {
        let mut key = Self::begin(limit, WHOLE);
        for part in parts {
            key.part(part, facts, identity).ok_or(part)?;
        }
        Ok(key)
    }

    /// The bucket that all requests with a missing part share.
    pub(super) fn shared(limit: &LimitId) -> Self {
        Self::begin(limit, MISSING)
    }

    /// The limit and the values, each with its length: no two lists of values are the same bytes. Their number is the
    /// caller's choice.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key as stores have it.
    pub fn for_store(&self) -> StoreKey {
        let mut short = [0; 16];
        short.copy_from_slice(&digest::digest(&digest::SHA256, &self.0).as_ref()[..16]);
        StoreKey(short)
    }

    fn begin(limit: &LimitId, kind: u8) -> Self {
        let mut bytes = SmallVec::new();
        bytes.extend_from_slice(limit.stamp());
        bytes.push(kind);
        Self(bytes)
    }

    /// One value, in pieces.
    fn value(&mut self, pieces: &[&[u8]]) {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.0.extend_from_slice(&(length as u64).to_le_bytes());
        for piece in pieces {
            self.0.extend_from_slice(piece);
        }
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
            } => match network(facts.peer(), *prefix_v4, *prefix_v6) {
                (IpAddr::V4(address), kept) => self.value(&[&address.octets(), &[kept]]),
                (IpAddr::V6(address), kept) => self.value(&[&address.octets(), &[kept]]),
            },
            KeyPart::Header { name } => self.value(&[facts.header(name).next()?]),
            KeyPart::Identity => {
                let Identity {
                    provider, subject, ..
                } = identity?;
                self.value(&[provider.as_bytes(), b"|", subject.as_bytes()]);
            }
            KeyPart::IdentityAttribute { name } => {
                self.value(&[identity?.attributes.get(name)?.as_bytes()]);
            }
            KeyPart::Claim { name } => self.value(&[identity?.claim(name)?.as_bytes()]),
        }
        Some(())
    }
}

/// 128 bits over a key: as long as any other whatever a caller sends, and tells nothing of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreKey([u8; 16]);

impl StoreKey {
    /// The key in a store, after the store's own prefix. The braces keep it in one slot of a Redis Cluster.
    pub fn text(&self, prefix: &str) -> String {
        format!("{prefix}:limit:{{{}}}", hash::hex(&self.0))
    }
}

/// The values of a key, readable and cut short, for people. Header values are not shown: they may be credentials.
pub(super) fn label(parts: &[KeyPart], facts: &impl Facts, identity: Option<&Identity>) -> String {
    let mut label = String::new();
    for part in parts {
        let Some(value) = shown(part, facts, identity) else {
            return "(missing)".into();
        };
        if !label.is_empty() {
            label.push(',');
        }
        let room = MAX_LABEL.saturating_sub(label.chars().count());
        let printable = value.chars().filter(|character| !character.is_control());
        label.extend(printable.take(room));
    }
    label
}

fn shown(part: &KeyPart, facts: &impl Facts, identity: Option<&Identity>) -> Option<String> {
    match part {
        KeyPart::ClientAddress {
            prefix_v4,
            prefix_v6,
        } => {
            let (address, kept) = network(facts.peer(), *prefix_v4, *prefix_v6);
            Some(format!("{address}/{kept}"))
        }
        KeyPart::Header { name } => facts.header(name).next().map(|_| name.clone()),
        KeyPart::Identity => identity.map(Identity::key),
        KeyPart::IdentityAttribute { name } => identity?.attributes.get(name).cloned(),
        KeyPart::Claim { name } => identity?.claim(name),
    }
}

pub(super) fn described(part: &KeyPart) -> String {
    match part {
        KeyPart::ClientAddress { .. } => "the client's address".into(),
        KeyPart::Header { name } => format!("header {name}"),
        KeyPart::Identity => "the identity".into(),
        KeyPart::IdentityAttribute { name } => format!("identity attribute {name}"),
        KeyPart::Claim { name } => format!("claim {name}"),
    }
}

/// The network of an address and its prefix: an IPv4 address written as IPv6 is still that IPv4 address.
fn network(address: IpAddr, prefix_v4: u8, prefix_v6: u8) -> (IpAddr, u8) {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let kept = prefix_v4.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(kept)).unwrap_or(0);
            let network = Ipv4Addr::from_bits(address.to_bits() & mask);
            (network.into(), kept)
        }
        IpAddr::V6(address) => {
            let kept = prefix_v6.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(kept)).unwrap_or(0);
            let network = Ipv6Addr::from_bits(address.to_bits() & mask);
            (network.into(), kept)
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_snapshot::unit::ObjectRef;

    use super::*;
    use crate::facts::StaticFacts;

    fn id() -> LimitId {
        named("per-tenant")
    }

    fn named(limit: &str) -> LimitId {
        LimitId::new(&ObjectRef::new("RateLimitPolicy", "shop", "plans"), limit)
    }

    fn header(name: &str) -> KeyPart {
        KeyPart::Header { name: name.into() }
    }

    fn key(parts: &[KeyPart], facts: &StaticFacts) -> BucketKey {
        BucketKey::of(&id(), parts, facts, None).expect("present")
    }

    #[test]
    fn networks_are_cut_and_mapped_addresses_are_ipv4() {
        let text = |(address, kept): (IpAddr, u8)| format!("{address}/{kept}");
        let network = |address: &str| text(network(address.parse().expect("address"), 24, 64));
        assert_eq!(network("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("::ffff:192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("2001:db8:1:2:3::4"), "2001:db8:1:2::/64");
        assert_eq!(
            text(super::network("192.0.2.77".parse().expect("address"), 0, 0)),
            "0.0.0.0/0"
        );
        assert_eq!(
            text(super::network(
                "192.0.2.77".parse().expect("address"),
                200,
                200
            )),
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
        let other = named("other");
        let one = BucketKey::of(&id(), &[], &facts, None).expect("empty");
        assert_ne!(
            one,
            BucketKey::of(&other, &[], &facts, None).expect("empty")
        );
        assert_ne!(one, BucketKey::shared(&id()));
    }

    #[test]
    fn header_values_are_not_shown() {
        let facts = StaticFacts::new("GET", "x", "/").with("x-api-key", "hunter2");
        let parts = [header("x-api-key")];
        assert_eq!(label(&parts, &facts, None), "x-api-key");
        let key = key(&parts, &facts);
        assert!(!format!("{key:?} {:?}", key.for_store()).contains("hunter2"));
        let text = key.for_store().text("sluice");
        assert!(!text.contains("hunter2") && text.len() == 47, "{text}");
    }

    #[test]
    fn identity_parts_need_an_identity() {
        let facts = StaticFacts::new("GET", "x", "/");
        let identity = Identity {
            provider: "keys".into(),
            subject: "alice".into(),
            ..Identity::default()
        };
        BucketKey::of(&id(), &[KeyPart::Identity], &facts, Some(&identity)).expect("present");
        assert_eq!(
            label(&[KeyPart::Identity], &facts, Some(&identity)),
            "keys|alice"
        );
        let parts = [KeyPart::IdentityAttribute {
            name: "tenant".into(),
        }];
        let missing = BucketKey::of(&id(), &parts, &facts, Some(&identity)).expect_err("missing");
        assert_eq!(described(missing), "identity attribute tenant");
        assert_eq!(label(&parts, &facts, Some(&identity)), "(missing)");
    }

    #[test]
    fn long_values_are_cut_in_the_label() {
        let identity = Identity {
            provider: "keys".into(),
            subject: "\u{e9}\n".repeat(500),
            ..Identity::default()
        };
        let facts = StaticFacts::new("GET", "x", "/");
        let label = label(
            &[KeyPart::Identity, KeyPart::Identity],
            &facts,
            Some(&identity),
        );
        assert!(label.chars().count() <= MAX_LABEL + 1 && !label.contains('\n'));
    }
}
