//! How content is named: the hash of a unit's body, and the version of a list of units.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::{digest, hmac};
use serde::{Deserialize, Serialize};

use crate::name::UnitName;

/// Bytes of SHA-256 that are kept: 128 bits, ample against accident and against a chosen second preimage.
const KEPT: usize = 16;

/// The hash of one unit's body: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hash(String);

impl Hash {
    /// The hash of a body that holds no secret.
    pub fn of(body: &[u8]) -> Self {
        Self(hex(&digest::digest(&digest::SHA256, body).as_ref()[..KEPT]))
    }

    /// The keyed hash of a secret body, so that the hash tells nothing to whoever guesses contents.
    pub fn keyed(key: &hmac::Key, body: &[u8]) -> Self {
        Self(hex(&hmac::sign(key, body).as_ref()[..KEPT]))
    }

    /// A hash as it came over the wire.
    pub fn from_wire(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version of a snapshot: the hash of its sorted list `name -> hash`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(String);

impl Version {
    /// The version of a list. Equal lists have equal versions, in every process.
    pub fn of<'a>(units: impl IntoIterator<Item = (&'a UnitName, &'a Hash)>) -> Self {
        let sorted: BTreeMap<_, _> = units.into_iter().collect();
        let mut context = digest::Context::new(&digest::SHA256);
        for (name, hash) in sorted {
            // Neither part can hold a line feed, so the encoding is unambiguous.
            context.update(name.as_str().as_bytes());
            context.update(b"\n");
            context.update(hash.as_str().as_bytes());
            context.update(b"\n");
        }
        Self(hex(&context.finish().as_ref()[..KEPT]))
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
