//! What stored answers are found by. Two requests with one key may be given the same stored answer, so everything that
//! tells callers apart is part of it.

use aws_lc_rs::digest;
use sluice_snapshot::unit::cache::{CacheRule, CacheScope};

use crate::{facts::Facts, identity::Identity, target::Target};

/// Authority and path: what an unsafe method invalidates, whatever the query, the rule and the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UriKey(pub [u8; 16]);

/// The key of the answers to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrimaryKey {
    /// For invalidation.
    pub uri: UriKey,
    /// Over everything.
    pub full: [u8; 32],
}

/// Hashes parts with their lengths, so that no two lists of parts are the same bytes.
struct Hasher(digest::Context);

impl Hasher {
    fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    fn part(&mut self, kind: u8, bytes: &[u8]) {
        self.0.update(&[kind]);
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

/// The key of a request under a rule. `rule_id` tells rules of all routes apart (`namespace/route/rule`): two rules may
/// send the same URI to different places.
///
/// GET and HEAD have one key. With scope Identity the identity is part of it, and `Authorization` too unless the
/// identity was read from a token: an app behind an API key may tell its users apart by it.
pub fn key(
    rule: &CacheRule,
    rule_id: &str,
    facts: &impl Facts,
    target: &Target,
    identity: Option<&Identity>,
) -> PrimaryKey {
    let mut hasher = Hasher::new();
    hasher.part(b'r', rule_id.as_bytes());
    hasher.part(b's', facts.scheme().as_bytes());
    hasher.part(b'a', authority(facts).as_bytes());
    hasher.part(b'p', target.path.as_bytes());
    if let Some(query) = &target.query {
        for pair in query.split('&').filter(|pair| !is_ignored(rule, pair)) {
            hasher.part(b'q', pair.as_bytes());
        }
    }
    for name in &rule.key_headers {
        match field_hash(facts, name) {
            Some(hash) => hasher.part(b'h', &hash),
            None => hasher.part(b'-', &[]),
        }
    }
    if rule.scope == CacheScope::Identity {
        match identity {
            Some(identity) => {
                hasher.part(b'i', identity.key().as_bytes());
                if identity.claims.is_none()
                    && let Some(hash) = field_hash(facts, "authorization")
                {
                    hasher.part(b'c', &hash);
                }
            }
            None => hasher.part(b'n', &[]),
        }
    }
    PrimaryKey {
        uri: uri_key(&authority(facts), &target.path),
        full: hasher.finish(),
    }
}

/// The key by which an unsafe method finds what it makes invalid.
pub fn uri_key(authority: &str, path: &str) -> UriKey {
    let mut hasher = Hasher::new();
    hasher.part(b'a', authority.to_ascii_lowercase().as_bytes());
    hasher.part(b'p', path.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finish()[..16]);
    UriKey(short)
}

/// What a request with an unsafe method makes invalid where its answer succeeds (see [`super::invalidates`]): its own
/// URI, and what `Location` and `Content-Location` name on the same host (RFC 9111 section 4.4).
pub fn invalidated<'h>(
    facts: &impl Facts,
    target: &Target,
    locations: impl Iterator<Item = &'h [u8]>,
) -> Vec<UriKey> {
    let own = authority(facts);
    let mut keys = vec![uri_key(&own, &target.path)];
    for location in locations.filter_map(|location| std::str::from_utf8(location).ok()) {
        let rest = match location.split_once("://") {
            Some((_, rest)) => match rest.find('/') {
                Some(slash) if rest[..slash].eq_ignore_ascii_case(&own) => &rest[slash..],
                _ => continue,
            },
            None if location.starts_with('/') && !location.starts_with("//") => location,
            None => continue,
        };
        let path = rest.split(['?', '#']).next().unwrap_or(rest);
        let key = uri_key(&own, path);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

fn authority(facts: &impl Facts) -> String {
    facts.authority().unwrap_or_default().to_ascii_lowercase()
}

/// Whether a query parameter is no part of the key. Its name is compared as it is written: an encoded name is another
/// key, which costs a miss and never a wrong hit.
fn is_ignored(rule: &CacheRule, pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or(pair);
    rule.ignored_query.iter().any(|ignored| ignored == name)
}

/// SHA-256 over all lines of a field; none: the field is absent. A hash, because the value may be a credential.
pub(super) fn field_hash(facts: &impl Facts, name: &str) -> Option<Vec<u8>> {
    let mut hasher = Hasher::new();
    let mut any = false;
    for line in facts.header(name) {
        any = true;
        hasher.part(b'l', line.trim_ascii());
    }
    any.then(|| hasher.finish().to_vec())
}
