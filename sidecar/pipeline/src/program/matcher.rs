//! The conditions of a rule, compiled. A regular expression is anchored at both ends and compiled once.

use std::cmp::Reverse;

use regex::{Regex, RegexBuilder};
use sluice_snapshot::unit::route::{self, PathMatch, ValuePattern};

/// Memory that one compiled expression may take, in bytes: what a user writes must not fill a sidecar.
const REGEX_BYTES: usize = 1 << 20;

/// Conditions that must all hold.
#[derive(Debug)]
pub struct Match {
    /// On the normalised path.
    pub path: PathMatcher,
    /// The method, exact.
    pub method: Option<String>,
    /// On header fields; names lower-case.
    pub headers: Vec<ValueMatcher>,
    /// On query parameters.
    pub query: Vec<ValueMatcher>,
    /// On cookies.
    pub cookies: Vec<ValueMatcher>,
}

/// How a path is matched.
#[derive(Debug)]
pub enum PathMatcher {
    /// The whole path.
    Exact(String),
    /// Whole segments from the start, without the slash at the end: the empty prefix matches everything.
    Prefix(String),
    /// The whole path by an expression.
    Regex(Regex),
}

/// How a named value is matched.
#[derive(Debug)]
pub struct ValueMatcher {
    /// Name of the header, parameter or cookie.
    pub name: String,
    /// The value.
    pub value: Pattern,
}

/// An exact value or an anchored expression.
#[derive(Debug)]
pub enum Pattern {
    /// Byte for byte.
    Exact(String),
    /// Anchored at both ends.
    Regex(Regex),
}

/// How specific a match is among those of the same kind of path; the smaller goes first: the longest path, then a
/// method, then the most headers, then the most query parameters (Gateway API, HTTPRouteRule.matches). Cookies, which it
/// does not know, come last. The kinds are apart in `HostRules`.
pub(crate) type Specificity = (
    Reverse<usize>,
    bool,
    Reverse<usize>,
    Reverse<usize>,
    Reverse<usize>,
);

impl Match {
    /// Compiles `spec`; the error says which part is wrong.
    pub(super) fn compile(spec: &route::Match) -> Result<Self, String> {
        let route::Match {
            path,
            method,
            headers,
            query,
            cookies,
        } = spec;
        let values = |list: &[route::ValueMatch]| {
            list.iter()
                .map(ValueMatcher::compile)
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            path: PathMatcher::compile(path)?,
            method: method.clone(),
            headers: values(headers)?,
            query: values(query)?,
            cookies: values(cookies)?,
        })
    }

    /// See [`Specificity`].
    pub(crate) fn specificity(&self) -> Specificity {
        let length = match &self.path {
            PathMatcher::Exact(path) | PathMatcher::Prefix(path) => path.len(),
            PathMatcher::Regex(regex) => regex.as_str().len(),
        };
        (
            Reverse(length),
            self.method.is_none(),
            Reverse(self.headers.len()),
            Reverse(self.query.len()),
            Reverse(self.cookies.len()),
        )
    }
}

impl PathMatcher {
    fn compile(spec: &PathMatch) -> Result<Self, String> {
        Ok(match spec {
            PathMatch::Exact(path) => Self::Exact(path.clone()),
            PathMatch::Prefix(prefix) => {
                Self::Prefix(prefix.strip_suffix('/').unwrap_or(prefix).to_owned())
            }
            PathMatch::Regex(text) => Self::Regex(anchored(text)?),
        })
    }
}

impl ValueMatcher {
    fn compile(spec: &route::ValueMatch) -> Result<Self, String> {
        let value = match &spec.value {
            ValuePattern::Exact(value) => Pattern::Exact(value.clone()),
            ValuePattern::Regex(text) => Pattern::Regex(anchored(text)?),
        };
        Ok(Self {
            name: spec.name.clone(),
            value,
        })
    }
}

impl Pattern {
    /// Whether a value matches. Bytes that are not UTF-8 match no expression.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(regex) => {
                std::str::from_utf8(value).is_ok_and(|value| regex.is_match(value))
            }
        }
    }
}

/// An expression that must match from the first byte to the last.
fn anchored(text: &str) -> Result<Regex, String> {
    let build = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(REGEX_BYTES)
            .build()
            .map_err(|error| format!("the regular expression {text:?} does not compile: {error}"))
    };
    // By itself first: `a)|(b` would break out of the group that anchors it.
    build(text)?;
    build(&format!("^(?:{text})$"))
}
