//! The header fields that tell a client how much is left: `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers).
//!
//! A bucket is told as the quota of the time it takes to fill: `q` is its burst, `w` the seconds from empty to full, so
//! that `q / w` is its rate and `r` is never above `q`. `t` is the seconds until it is full again.

use sluice_snapshot::unit::ObjectRef;

use super::{Bucket, Verdict};

/// The two fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// What is allowed.
    Policy,
    /// What is left.
    Limit,
}

impl Field {
    /// Both, in their order.
    pub const ALL: [Self; 2] = [Self::Policy, Self::Limit];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "ratelimit-policy",
            Self::Limit => "ratelimit",
        }
    }

    /// Writes the field's value for the verdicts of a request, in their order. False: no policy shows them, and nothing is
    /// written.
    pub fn write(self, verdicts: &[Verdict], mut write: impl FnMut(&[u8])) -> bool {
        let mut any = false;
        for verdict in verdicts.iter().filter(|verdict| verdict.shown) {
            if any {
                write(b", ");
            }
            any = true;
            let Fields { short, full } = &verdict.limit.fields;
            let Texts { policy, remaining } =
                if verdicts.len() > 1 && is_ambiguous(verdict, verdicts) {
                    full
                } else {
                    short
                };
            match self {
                Self::Policy => write(policy.as_bytes()),
                Self::Limit => {
                    let mut number = itoa::Buffer::new();
                    write(remaining.as_bytes());
                    let remaining = verdict.remaining.min(verdict.limit.bucket.burst());
                    write(number.format(remaining).as_bytes());
                    write(b";t=");
                    write(number.format(verdict.reset_s).as_bytes());
                }
            }
        }
        any
    }
}

/// Whether another limit of the answer has the same name.
fn is_ambiguous(verdict: &Verdict, all: &[Verdict]) -> bool {
    let limit = &verdict.limit;
    let mut shown = all.iter().filter(|other| other.shown);
    shown.any(|other| other.limit.name == limit.name && other.limit.id != limit.id)
}

/// What of the fields is known of a limit before any request.
#[derive(Debug)]
pub(super) struct Fields {
    /// With the limit's name alone.
    short: Texts,
    /// With its policy's name too.
    full: Texts,
}

#[derive(Debug)]
struct Texts {
    /// `"name";q=20;w=2`.
    policy: Box<str>,
    /// `"name";r=`.
    remaining: Box<str>,
}

impl Fields {
    pub(super) fn new(object: &ObjectRef, limit: &str, bucket: &Bucket) -> Self {
        let texts = |name: &str| {
            let name = quoted(name);
            Texts {
                policy: format!("{name};q={};w={}", bucket.burst(), bucket.fill_s()).into(),
                remaining: format!("{name};r=").into(),
            }
        };
        Self {
            short: texts(limit),
            full: texts(&format!("{}/{limit}", object.name)),
        }
    }
}

/// A name as a structured-field string (RFC 9651 section 3.3.3).
fn quoted(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('"');
    for character in name
        .chars()
        .filter(|character| matches!(character, ' '..='~'))
    {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}
