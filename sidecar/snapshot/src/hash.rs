//! How content is named: the hash of a unit's body, and the version of a list of units.

use std::{collections::BTreeMap, fmt, sync::Arc};

use aws_lc_rs::{digest, hmac};
use serde::{Deserialize, Serialize};

use crate::name::UnitName;

/// Bytes of SHA-256 that are kept: 128 bits, ample against accident and against a chosen second preimage.
const KEPT: usize = 16;

/// The hash of one unit's body: 32 hexadecimal digits. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Hash(Arc<str>);

impl Hash {
    /// The hash of a body that holds no secret.
    pub fn of(body: &[u8]) -> Self {
        Self(hex(&digest::digest(&digest::SHA256, body).as_ref()[..KEPT]).into())
    }

    /// The keyed hash of a secret body, so that the hash tells nothing to whoever guesses contents.
    pub fn keyed(key: &hmac::Key, body: &[u8]) -> Self {
        Self(hex(&hmac::sign(key, body).as_ref()[..KEPT]).into())
    }

    /// A hash as it came over the wire.
    pub fn from_wire(text: impl Into<String>) -> Self {
        Self(text.into().into())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Hash {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.0.as_ref().into()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version of a snapshot: a hash of its list `name -> hash`. [`crate::UnitMap::version`] computes it part by part; in one
/// piece it is what builds without [`crate::Feature::Parts`] know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(String);

impl Version {
    /// The version of a list, hashed in one piece. Equal lists have equal versions, in every process.
    pub fn of<'a>(units: impl IntoIterator<Item = (&'a UnitName, &'a Hash)>) -> Self {
        let sorted: BTreeMap<_, _> = units.into_iter().collect();
        Self::cut(&digest_of(sorted))
    }

    /// The version of a list that was hashed in parts.
    pub(crate) fn of_parts<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        parts.for_each(|part| context.update(part));
        Self::cut(&context.finish())
    }

    fn cut(digest: &digest::Digest) -> Self {
        Self(hex(&digest.as_ref()[..KEPT]))
    }

    /// A version as it came over the wire.
    pub fn from_wire(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first eight digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The digest of a sorted list.
pub(crate) fn digest_of<'a>(
    sorted: impl IntoIterator<Item = (&'a UnitName, &'a Hash)>,
) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for (name, hash) in sorted {
        // Neither part can hold a line feed, so the encoding is unambiguous.
        context.update(name.as_str().as_bytes());
        context.update(b"\n");
        context.update(hash.as_str().as_bytes());
        context.update(b"\n");
    }
    context.finish()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| {
            [
                DIGITS[usize::from(byte >> 4)] as char,
                DIGITS[usize::from(byte & 15)] as char,
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_depends_on_names_and_hashes_but_not_on_order() {
        let (a, b) = (UnitName::route("shop", "a"), UnitName::route("shop", "b"));
        let (x, y) = (Hash::of(b"x"), Hash::of(b"y"));
        assert_eq!(
            Version::of([(&a, &x), (&b, &y)]),
            Version::of([(&b, &y), (&a, &x)])
        );
        assert_ne!(
            Version::of([(&a, &x), (&b, &y)]),
            Version::of([(&a, &y), (&b, &x)])
        );
        assert_ne!(Version::of([(&a, &x)]), Version::of([]));
    }

    #[test]
    fn a_keyed_hash_depends_on_the_key() {
        let key = |byte: u8| hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]);
        assert_eq!(Hash::keyed(&key(1), b"s"), Hash::keyed(&key(1), b"s"));
        assert_ne!(Hash::keyed(&key(1), b"s"), Hash::keyed(&key(2), b"s"));
    }
}
