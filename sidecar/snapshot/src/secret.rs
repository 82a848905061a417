//! Secret bytes: no `Debug` content, no `Serialize`, no `PartialEq`, zeroed on drop. The one way out is
//! [`SecretBytes::expose`], so that a search for it finds every use.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Error};
use zeroize::Zeroizing;

/// Bytes that must not be printed, compared by `==` or written anywhere but into a secret unit.
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes ownership; the caller must not keep a copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one computation that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lower-case hexadecimal, zeroed on drop.
    pub(crate) fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(crate::hash::hex(&self.0))
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(redacted)")
    }
}

/// From hexadecimal, the form inside a secret unit.
impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let digit = |byte: u8| (byte as char).to_digit(16).map(|value| value as u8);
        text.as_bytes()
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                _ => None,
            })
            .collect::<Option<Vec<u8>>>()
            .map(Self::new)
            .ok_or_else(|| D::Error::custom("secret bytes must be pairs of hexadecimal digits"))
    }
}
