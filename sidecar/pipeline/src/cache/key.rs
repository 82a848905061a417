//! What stored answers are found by. Two requests with one key may be given the same stored answer, so everything that
//! tells callers apart is part of it.

use std::{borrow::Cow, fmt, hash::Hasher as _};

use siphasher::sip128::{Hasher128 as _, SipHasher24};
use sluice_snapshot::unit::cache::{CacheRule, CacheScope};

use super::Asked;
use crate::{facts::Facts, target::Target};

/// Authority and path: what an unsafe method invalidates, whatever the query, the rule and the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UriKey(pub [u8; 16]);

/// The key of the answers to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrimaryKey {
    /// For invalidation.
    pub uri: UriKey,
    /// Over everything.
    pub full: [u8; 16],
}

/// What a request has in a field.
pub type FieldHash = [u8; 16];

/// The hashes of one store: SipHash-2-4 of 128 bits, with a secret that nobody learns. Who sends requests chooses what is
/// hashed, and can choose no two that share a key.
#[derive(Clone, Copy)]
pub struct Hashes(SipHasher24);

impl fmt::Debug for Hashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hashes")
    }
}

impl Hashes {
    /// Those of a store with this secret.
    pub fn new([one, other]: [u64; 2]) -> Self {
        Self(SipHasher24::new_with_keys(one, other))
    }

    /// The key by which an unsafe method finds what it makes invalid.
    pub fn uri(&self, authority: &str, path: &str) -> UriKey {
        let mut hash = Hash(self.0);
        hash.part(b'a', lower(authority).as_bytes());
        hash.part(b'p', path.as_bytes());
        UriKey(hash.finish())
    }

    /// Over all lines of a field; none: the field is absent. A hash, because the value may be a credential.
    pub(super) fn field(&self, facts: &impl Facts, name: &str) -> Option<FieldHash> {
        let mut hash = Hash(self.0);
        let mut any = false;
        for line in facts.header(name) {
            any = true;
            hash.part(b'l', line.trim_ascii());
        }
        any.then(|| hash.finish())
    }
}

/// Hashes parts with their lengths, so that no two lists of parts are the same bytes.
struct Hash(SipHasher24);

impl Hash {
    fn part(&mut self, kind: u8, bytes: &[u8]) {
        self.0.write_u64(u64::from(kind) << 56 | bytes.len() as u64);
        self.0.write(bytes);
    }

    fn finish(self) -> [u8; 16] {
        self.0.finish128().as_bytes()
    }
}

/// The key of a request under a rule. `rule` tells rules of all routes apart (namespace, route, rule): two rules may
/// send the same URI to different places.
///
/// GET and HEAD have one key. With scope Identity the identity is part of it, and `Authorization` too unless the
/// identity was read from a token: an app behind an API key may tell its users apart by it.
pub fn key(asked: &Asked<'_, impl Facts>, rule: [&str; 3], target: &Target) -> PrimaryKey {
    let Asked {
        hashes,
        rules,
        facts,
        identity,
    } = *asked;
    let uri = hashes.uri(facts.authority().unwrap_or_default(), &target.path);
    let mut hasher = Hash(hashes.0);
    for part in rule {
        hasher.part(b'r', part.as_bytes());
    }
    hasher.part(b's', facts.scheme().as_bytes());
    // Two URIs have no hash in common.
    hasher.part(b'u', &uri.0);
    if let Some(query) = &target.query {
        for pair in query.split('&').filter(|pair| !is_ignored(rules, pair)) {
            hasher.part(b'q', pair.as_bytes());
        }
    }
    for name in &rules.key_headers {
        match hashes.field(facts, name) {
            Some(hash) => hasher.part(b'h', &hash),
            None => hasher.part(b'-', &[]),
        }
    }
    if rules.scope == CacheScope::Identity {
        match identity {
            Some(identity) => {
                hasher.part(b'i', identity.key().as_bytes());
                if identity.claims.is_none()
                    && let Some(hash) = hashes.field(facts, "authorization")
                {
                    hasher.part(b'c', &hash);
                }
            }
            None => hasher.part(b'n', &[]),
        }
    }
    PrimaryKey {
        uri,
        full: hasher.finish(),
    }
}

/// What a request with an unsafe method makes invalid where its answer succeeds (see [`super::invalidates`]): its own
/// URI, and what `Location` and `Content-Location` name on the same host (RFC 9111 section 4.4).
pub fn invalidated<'h>(
    hashes: &Hashes,
    facts: &impl Facts,
    target: &Target,
    locations: impl Iterator<Item = &'h [u8]>,
) -> Vec<UriKey> {
    let own = facts.authority().unwrap_or_default();
    let mut keys = vec![hashes.uri(own, &target.path)];
    for location in locations.filter_map(|location| std::str::from_utf8(location).ok()) {
        let rest = match location.split_once("://") {
            Some((_, rest)) => match rest.find('/') {
                Some(slash) if rest[..slash].eq_ignore_ascii_case(own) => &rest[slash..],
                _ => continue,
            },
            None if location.starts_with('/') && !location.starts_with("//") => location,
            None => continue,
        };
        let path = rest.split(['?', '#']).next().unwrap_or(rest);
        let key = hashes.uri(own, path);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

fn lower(authority: &str) -> Cow<'_, str> {
    match authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(authority.to_ascii_lowercase()),
        false => Cow::Borrowed(authority),
    }
}

/// Whether a query parameter is no part of the key. Its name is compared as it is written: an encoded name is another
/// key, which costs a miss and never a wrong hit.
fn is_ignored(rule: &CacheRule, pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or(pair);
    rule.ignored_query.iter().any(|ignored| ignored == name)
}
