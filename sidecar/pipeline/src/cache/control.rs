//! `Cache-Control` of requests and answers (RFC 9111 section 5.2). What is not understood is passed over; of what
//! contradicts itself the more restrictive counts: the least of several lifetimes, zero for one that is no number.

use crate::facts::Facts;

/// What a request says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestControl {
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, or `Pragma: no-cache` where there is no `Cache-Control`.
    pub no_cache: bool,
    /// `only-if-cached`.
    pub only_if_cached: bool,
    /// `max-age`, in seconds.
    pub max_age: Option<u64>,
    /// `min-fresh`, in seconds.
    pub min_fresh: Option<u64>,
    /// `max-stale`, in seconds; without a value: as stale as it may be.
    pub max_stale: Option<u64>,
}

/// What an answer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseControl {
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, also for named fields only.
    pub no_cache: bool,
    /// `private`, also for named fields only.
    pub private: bool,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `max-age`, in seconds.
    pub max_age: Option<u64>,
    /// `s-maxage`, in seconds.
    pub s_maxage: Option<u64>,
}

impl RequestControl {
    /// Reads a request.
    pub fn read(facts: &impl Facts) -> Self {
        let mut control = Self::default();
        let mut any = false;
        for line in facts.header("cache-control") {
            any = true;
            for (name, value) in directives(line) {
                let seconds = || seconds(value.as_deref());
                match name.as_str() {
                    "no-store" => control.no_store = true,
                    "no-cache" => control.no_cache = true,
                    "only-if-cached" => control.only_if_cached = true,
                    "max-age" => control.max_age = least(control.max_age, seconds()),
                    "min-fresh" => {
                        // One that is no number asks for more than there is.
                        let asked = seconds().unwrap_or(u64::MAX);
                        control.min_fresh =
                            Some(control.min_fresh.map_or(asked, |known| known.max(asked)));
                    }
                    "max-stale" if value.is_none() => {
                        control.max_stale = control.max_stale.or(Some(u64::MAX))
                    }
                    "max-stale" => control.max_stale = least(control.max_stale, seconds()),
                    _ => {}
                }
            }
        }
        if !any {
            let pragma = |line: &[u8]| directives(line).any(|(name, _)| name == "no-cache");
            control.no_cache = facts.header("pragma").any(pragma);
        }
        control
    }
}

impl ResponseControl {
    /// Reads the lines of an answer.
    pub fn read<'h>(lines: impl Iterator<Item = &'h [u8]>) -> Self {
        let mut control = Self::default();
        for (name, value) in lines.flat_map(directives) {
            let seconds = || seconds(value.as_deref());
            match name.as_str() {
                "no-store" => control.no_store = true,
                "no-cache" => control.no_cache = true,
                "private" => control.private = true,
                "public" => control.public = true,
                "must-revalidate" => control.must_revalidate = true,
                "proxy-revalidate" => control.proxy_revalidate = true,
                "max-age" => control.max_age = least(control.max_age, seconds()),
                "s-maxage" => control.s_maxage = least(control.s_maxage, seconds()),
                _ => {}
            }
        }
        control
    }
}

/// The lesser of what was known and what is read; what is no number counts as zero.
fn least(known: Option<u64>, read: Option<u64>) -> Option<u64> {
    let read = read.unwrap_or(0);
    Some(known.map_or(read, |known| known.min(read)))
}

/// A delta-seconds (RFC 9111 section 1.2.2): too large a number is as large as can be.
pub(super) fn seconds(value: Option<&str>) -> Option<u64> {
    let digits = value?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX).min(1 << 31))
}

/// The directives of a line: lower-case name, and the value without quotes. Bytes that are not UTF-8 are replaced, so
/// that a known directive beside them still counts.
fn directives(line: &[u8]) -> impl Iterator<Item = (String, Option<String>)> {
    let mut parts = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for character in String::from_utf8_lossy(line).chars() {
        match character {
            ',' if !quoted => {
                parts.push(String::new());
                continue;
            }
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = quoted && character == '\\' && !escaped;
        if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    parts.into_iter().filter_map(|part| {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name, Some(unquoted(value.trim()))),
            None => (part.as_str(), None),
        };
        let name = name.trim().to_ascii_lowercase();
        (!name.is_empty()).then_some((name, value))
    })
}

fn unquoted(value: &str) -> String {
    match value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
    {
        Some(inner) => inner.to_owned(),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::StaticFacts;

    fn response(value: &str) -> ResponseControl {
        ResponseControl::read([value.as_bytes()].into_iter())
    }

    #[test]
    fn directives_are_read_whatever_their_case_and_quotes() {
        let control = response(
            "Max-Age=\"60\", PUBLIC ,s-maxage=7, x-unknown=\"a, no-store\", must-revalidate",
        );
        let expected = ResponseControl {
            max_age: Some(60),
            s_maxage: Some(7),
            public: true,
            must_revalidate: true,
            ..ResponseControl::default()
        };
        assert_eq!(control, expected);
    }

    #[test]
    fn named_fields_count_for_the_whole_answer() {
        let control = response("private=\"x-a, x-b\", no-cache=\"set-cookie\"");
        assert!(control.private && control.no_cache);
    }

    #[test]
    fn of_several_lifetimes_the_least_counts_and_nonsense_is_zero() {
        assert_eq!(response("max-age=60, max-age=5").max_age, Some(5));
        assert_eq!(response("max-age=5, max-age=60").max_age, Some(5));
        for nonsense in [
            "max-age",
            "max-age=",
            "max-age=-1",
            "max-age=1.5",
            "max-age=60s",
            "max-age=9, max-age=x",
        ] {
            assert_eq!(response(nonsense).max_age, Some(0), "{nonsense}");
        }
        assert_eq!(
            response("max-age=99999999999999999999999").max_age,
            Some(1 << 31)
        );
    }

    #[test]
    fn an_unfinished_quote_hides_nothing_before_it() {
        assert!(response("no-store, x=\"abc").no_store);
    }

    #[test]
    fn requests_are_read() {
        let read = |value: &str| {
            RequestControl::read(&StaticFacts::new("GET", "x", "/").with("cache-control", value))
        };
        assert_eq!(read("max-stale").max_stale, Some(u64::MAX));
        assert_eq!(read("max-stale=5").max_stale, Some(5));
        assert_eq!(read("min-fresh=5, min-fresh=9").min_fresh, Some(9));
        assert!(read("only-if-cached").only_if_cached);
        let pragma = StaticFacts::new("GET", "x", "/").with("pragma", "no-cache");
        assert!(RequestControl::read(&pragma).no_cache);
        assert!(!RequestControl::read(&pragma.with("cache-control", "max-age=5")).no_cache);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hide_no_store(
            before in proptest::collection::vec(any::<u8>().prop_filter("no quote", |byte| *byte != b'"'), 0..60),
            after in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let line = [before.as_slice(), b",no-store,", after.as_slice()].concat();
            prop_assert!(ResponseControl::read([line.as_slice()].into_iter()).no_store);
        }
    }
}
