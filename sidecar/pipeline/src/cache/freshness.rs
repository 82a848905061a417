//! How long an answer is fresh (RFC 9111 section 4.2), and whether a client has it already (section 4.3.2). There are no
//! heuristics.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Stored, control::ResponseControl, control::seconds};
use crate::facts::Facts;

/// Age and lifetime of an answer as it arrives, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Its age.
    pub initial_age_s: u64,
    /// The age at which it is stale.
    pub lifetime_s: u64,
}

/// Freshness of an answer that arrives at `wall_s` (Unix seconds). `default_s` where it states no lifetime itself.
pub(super) fn of<'h, I: Iterator<Item = &'h [u8]>>(
    control: &ResponseControl,
    values: &impl Fn(&'static str) -> I,
    default_s: u64,
    wall_s: i64,
) -> Freshness {
    let date_s = values("date").next().and_then(http_date).unwrap_or(wall_s);
    // What is no age at all makes the answer as old as it can be (section 5.1 leaves it open).
    let stated = values("age")
        .map(|age| seconds(std::str::from_utf8(age).ok().map(str::trim)).unwrap_or(u64::MAX));
    let age_s = stated.max().unwrap_or(0);
    let apparent_s = u64::try_from(wall_s.saturating_sub(date_s)).unwrap_or(0);
    let stated = control.s_maxage.or(control.max_age);
    let lifetime_s = stated
        .or_else(|| expires(values, date_s))
        .unwrap_or(default_s);
    Freshness {
        initial_age_s: apparent_s.max(age_s),
        lifetime_s,
    }
}

/// The lifetime that `Expires` gives: the least of several, and none at all for what is no date (section 5.3).
fn expires<'h, I: Iterator<Item = &'h [u8]>>(
    values: &impl Fn(&'static str) -> I,
    date_s: i64,
) -> Option<u64> {
    let lifetime = |value: &[u8]| {
        http_date(value).map_or(0, |expires_s| {
            u64::try_from(expires_s.saturating_sub(date_s)).unwrap_or(0)
        })
    };
    values("expires").map(lifetime).min()
}

/// An HTTP date (RFC 9110 section 5.6.7) in Unix seconds.
pub(super) fn http_date(value: &[u8]) -> Option<i64> {
    let date: SystemTime =
        httpdate::parse_http_date(std::str::from_utf8(value).ok()?.trim()).ok()?;
    i64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// Whether the client's own copy is the stored one (RFC 9110 sections 13.1.2, 13.1.3 and 13.2.2).
pub(super) fn not_modified(stored: &Stored, facts: &impl Facts) -> bool {
    if stored.status != 200 {
        return false;
    }
    let mut tags = facts.header("if-none-match").peekable();
    if tags.peek().is_some() {
        return tags.any(|line| names_tag(line, stored.etag.as_deref()));
    }
    let since = facts.header("if-modified-since").next().and_then(http_date);
    matches!((since, stored.last_modified_s), (Some(since), Some(modified)) if modified <= since)
}

/// Whether a line of `If-None-Match` names the tag, by weak comparison (RFC 9110 section 8.8.3.2).
fn names_tag(line: &[u8], etag: Option<&[u8]>) -> bool {
    if line.trim_ascii() == b"*" {
        return true;
    }
    let Some(wanted) = etag.map(opaque) else {
        return false;
    };
    let mut rest = line;
    while let Some(start) = rest.iter().position(|byte| *byte == b'"') {
        let Some(length) = rest[start + 1..].iter().position(|byte| *byte == b'"') else {
            return false;
        };
        let end = start + 1 + length;
        if &rest[start..=end] == wanted {
            return true;
        }
        rest = &rest[end + 1..];
    }
    false
}

/// A tag without its weakness.
fn opaque(tag: &[u8]) -> &[u8] {
    let tag = tag.trim_ascii();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}
