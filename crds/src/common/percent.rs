//! Shares of a whole, written `1%` or `0.5%`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::duration::clip;

const PATTERN: &str = r"^(100(\.0{1,3})?|[0-9]{1,2}(\.[0-9]{1,3})?)%$";

/// A share from 0 to 100 percent, exact to a thousandth of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent {
    /// Thousandths of a percent, at most 100,000.
    milli: u32,
}

/// A text that is no percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PercentError {
    /// Not of the form `1%`, or above 100 %.
    #[error("{0:?} is no percentage: write 0% to 100%, with at most three decimals, such as 0.5%")]
    Form(String),
}

impl Percent {
    /// So many thousandths of a percent; more than 100 % becomes 100 %.
    pub const fn from_milli(milli: u32) -> Self {
        Self {
            milli: if milli > 100_000 { 100_000 } else { milli },
        }
    }

    /// Thousandths of a percent, 0 to 100,000.
    pub const fn milli(self) -> u32 {
        self.milli
    }

    /// The share as a ratio, 0.0 to 1.0.
    pub fn ratio(self) -> f64 {
        f64::from(self.milli) / 100_000.0
    }
}

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, PercentError> {
        parse_milli(text)
            .map(|milli| Self { milli })
            .ok_or_else(|| PercentError::Form(clip(text)))
    }
}

fn parse_milli(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?;
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if (1..=3).contains(&fraction.len()) => (whole, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let short = (1..=2).contains(&whole.len()) || whole == "100";
    if !short || !digits(whole) || !digits(fraction) {
        return None;
    }
    let milli = format!("{whole}{fraction:0<3}").parse().ok()?;
    (milli <= 100_000).then_some(milli)
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.milli / 1_000, self.milli % 1_000);
        match fraction {
            0 => write!(f, "{whole}%"),
            _ => write!(
                f,
                "{whole}.{}%",
                format!("{fraction:03}").trim_end_matches('0')
            ),
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for Percent {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 2, "maxLength": 8, "pattern": PATTERN})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_weighs_a_share() {
        assert_eq!("1%".parse::<Percent>().map(Percent::ratio), Ok(0.01));
        assert_eq!("0.5%".parse::<Percent>().map(Percent::milli), Ok(500));
        assert_eq!("100%".parse::<Percent>().map(Percent::ratio), Ok(1.0));
        for bad in [
            "1", "%", "101%", "100.5%", "-1%", "1.%", "1.2345%", "+1%", "1 %",
        ] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn prints_what_it_reads(milli in 0u32..=100_000) {
            let percent = Percent::from_milli(milli);
            prop_assert_eq!(percent.to_string().parse::<Percent>(), Ok(percent));
        }

        #[test]
        fn accepts_exactly_what_the_pattern_accepts(text in "[0-9.]{0,7}%?") {
            let pattern = regex::Regex::new(PATTERN).expect("compiles");
            prop_assert_eq!(text.parse::<Percent>().is_ok(), pattern.is_match(&text), "{}", text);
        }
    }
}
