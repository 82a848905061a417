//! Kubernetes quantities: `64Mi`, `150`, `50m`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::duration::clip;

/// Without exponents and signs, which no size or rate of ours needs.
const PATTERN: &str = r"^[0-9]{1,15}(\.[0-9]{1,3})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";

/// An amount as Kubernetes writes it; the text is kept, for it is copied into other objects verbatim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quantity {
    text: String,
    /// In thousandths; at most 10^15 * 2^50 * 10^3, which fits.
    milli: u128,
}

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form `64Mi`, `1.5`, `50m`.
    #[error(
        "{0:?} is no quantity: write a number with an optional suffix m, k, M, G, T, P, Ki, Mi, Gi, Ti or Pi, such as 64Mi"
    )]
    Form(String),
}

impl Quantity {
    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The amount in whole units (bytes, requests), rounded up; saturates at `u64::MAX`.
    pub fn value(&self) -> u64 {
        u64::try_from(self.milli.div_ceil(1_000)).unwrap_or(u64::MAX)
    }

    /// The amount in thousandths of a unit; saturates at `u64::MAX`.
    pub fn milli_value(&self) -> u64 {
        u64::try_from(self.milli).unwrap_or(u64::MAX)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let milli = parse_milli(text).ok_or_else(|| QuantityError::Form(clip(text)))?;
        Ok(Self {
            text: text.to_owned(),
            milli,
        })
    }
}

fn parse_milli(text: &str) -> Option<u128> {
    let end = text
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
        .count();
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if (1..=3).contains(&fraction.len()) => (whole, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    if !(1..=15).contains(&whole.len()) {
        return None;
    }
    // "1.5" is 1500 thousandths: the fraction padded to three digits.
    let thousandths: u128 = format!("{whole}{fraction:0<3}").parse().ok()?;
    Some(match suffix {
        "m" => thousandths.div_ceil(1_000),
        _ => thousandths * scale(suffix)?,
    })
}

fn scale(suffix: &str) -> Option<u128> {
    Some(match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": 24, "pattern": PATTERN})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str) -> Option<u64> {
        text.parse::<Quantity>()
            .ok()
            .map(|quantity| quantity.value())
    }

    #[test]
    fn counts_as_kubernetes_counts() {
        assert_eq!(value("64Mi"), Some(64 << 20));
        assert_eq!(value("1.5k"), Some(1_500));
        assert_eq!(value("150"), Some(150));
        assert_eq!(value("1500m"), Some(2), "rounded up");
        assert_eq!("50m".parse::<Quantity>().map(|q| q.milli_value()), Ok(50));
        assert_eq!(value("999999999999999Pi"), Some(u64::MAX), "saturates");
        for bad in [
            "", "Mi", "1.", ".5", "-1", "1e3", "1Ei", "1 Mi", "1.5.5", "1.2345",
        ] {
            assert_eq!(value(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn accepts_exactly_what_the_pattern_accepts(text in "[0-9.]{0,17}(m|k|M|Ki|Pi|E|)") {
            let pattern = regex::Regex::new(PATTERN).expect("compiles");
            prop_assert_eq!(text.parse::<Quantity>().is_ok(), pattern.is_match(&text), "{}", text);
        }
    }
}
