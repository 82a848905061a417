//! GEP-2257 durations: what the Gateway API writes as `1h30m`, `250ms`.

use std::{borrow::Cow, fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The pattern of GEP-2257: one to four numbers of at most five digits, each with its unit.
const PATTERN: &str = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// What four numbers of five digits hold: `99999` of the largest unit, four times.
const LARGEST_PART: u64 = 99_999;

/// A span of time in whole milliseconds, written as GEP-2257 says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(time::Duration);

/// A text that is no GEP-2257 duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not of the form `1h30m`, `250ms`.
    #[error(
        "{0:?} is no duration: write up to four numbers, each with h, m, s or ms, such as 1m30s or 250ms"
    )]
    Form(String),
}

impl Duration {
    /// A duration of so many milliseconds; what GEP-2257 cannot write (above about 99,999 hours) becomes the largest it can.
    pub fn from_millis(millis: u64) -> Self {
        Self(time::Duration::from_millis(millis.min(LARGEST_PART * HOUR)))
    }

    /// The same span as the standard library has it.
    pub fn get(self) -> time::Duration {
        self.0
    }

    /// Whether it is `0s`.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse_millis(text)
            .map(|millis| Self(time::Duration::from_millis(millis)))
            .ok_or_else(|| DurationError::Form(clip(text)))
    }
}

/// At most 4 x 99,999 hours: far below `u64::MAX` milliseconds, so the sums cannot overflow.
fn parse_millis(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut millis = 0;
    let mut parts = 0;
    while !rest.is_empty() {
        parts += 1;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if parts > 4 || !(1..=5).contains(&digits) {
            return None;
        }
        let (number, tail) = rest.split_at(digits);
        let (unit, tail) = unit(tail)?;
        millis += number.parse::<u64>().ok()? * unit;
        rest = tail;
    }
    (parts > 0).then_some(millis)
}

fn unit(text: &str) -> Option<(u64, &str)> {
    // "ms" before "m": the longer unit wins.
    [("ms", 1), ("s", SECOND), ("m", MINUTE), ("h", HOUR)]
        .into_iter()
        .find_map(|(name, millis)| text.strip_prefix(name).map(|tail| (millis, tail)))
}

/// The start of a hostile text, enough for a message.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        if rest / HOUR > LARGEST_PART {
            // Only a sum of several hour parts parses to this: write it as such a sum.
            while rest / HOUR > LARGEST_PART {
                write!(f, "{LARGEST_PART}h")?;
                rest -= LARGEST_PART * HOUR;
            }
            return write!(f, "{}h", rest / HOUR);
        }
        for (name, unit) in [("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", 1)] {
            if rest / unit > 0 {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 2, "maxLength": 28, "pattern": PATTERN})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_the_gateway_api_reads() {
        let millis = |text: &str| text.parse::<Duration>().map(|d| d.get().as_millis());
        assert_eq!(millis("250ms"), Ok(250));
        assert_eq!(millis("1m30s"), Ok(90_000));
        assert_eq!(millis("1h1m1s1ms"), Ok(3_661_001));
        assert_eq!(millis("0s"), Ok(0));
        for bad in [
            "",
            "1",
            "s",
            "1.5s",
            "-1s",
            "1s1s1s1s1s",
            "100000s",
            "1d",
            "1 s",
            "1s ",
        ] {
            assert!(millis(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_shows_no_more_than_a_glimpse() {
        let error = "x"
            .repeat(10_000)
            .parse::<Duration>()
            .expect_err("no duration");
        assert!(error.to_string().len() < 250);
    }

    proptest! {
        #[test]
        fn parses_what_the_pattern_allows_and_prints_it_back(text in "([0-9]{1,5}(h|m|s|ms)){1,4}") {
            let parsed: Duration = text.parse().expect("the pattern's language");
            let printed = parsed.to_string();
            let pattern = regex::Regex::new(PATTERN).expect("compiles");
            prop_assert!(pattern.is_match(&printed), "{text} -> {printed}");
            // Sums of very large hour parts lose at most what is below an hour.
            let again: Duration = printed.parse().expect("what it printed");
            let exact = parsed.get().as_millis() <= u128::from(LARGEST_PART * HOUR);
            prop_assert!(!exact || again == parsed, "{text} -> {printed}");
        }

        #[test]
        fn refuses_exactly_what_the_pattern_refuses(text in "[0-9hms. ]{0,12}") {
            let pattern = regex::Regex::new(PATTERN).expect("compiles");
            prop_assert_eq!(text.parse::<Duration>().is_ok(), pattern.is_match(&text));
        }
    }
}
