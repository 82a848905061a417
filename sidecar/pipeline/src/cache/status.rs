//! The `Cache-Status` field (RFC 9211): what the cache did, for people and tests.

use super::{Bypass, Lookup, Miss, NotStorable};

/// The name of this cache in the field.
const NAME: &str = "sluice";

/// The field for a request. `ttl_s` is the freshness left of the answer that was given; `stored` says what became of the
/// origin's answer where one was fetched.
pub fn render(
    lookup: &Lookup,
    ttl_s: Option<i64>,
    stored: Option<Result<(), NotStorable>>,
) -> String {
    let mut text = String::with_capacity(48);
    let mut number = itoa::Buffer::new();
    text.extend([NAME, "; ", outcome(lookup)]);
    if let Some(ttl_s) = ttl_s {
        text.extend(["; ttl=", number.format(ttl_s)]);
    }
    match stored {
        Some(Ok(())) => text.push_str("; stored"),
        Some(Err(why)) => text.extend(["; detail=", detail(why)]),
        None => {}
    }
    text
}

fn outcome(lookup: &Lookup) -> &'static str {
    match lookup {
        Lookup::Hit { .. } => "hit",
        Lookup::Stale { .. } => "fwd=stale",
        Lookup::Miss(Miss::Uri) => "fwd=uri-miss",
        Lookup::Miss(Miss::Vary) => "fwd=vary-miss",
        Lookup::Miss(Miss::Request) => "fwd=request",
        Lookup::OnlyIfCached => "detail=only-if-cached",
        Lookup::Bypass(Bypass::Method) => "fwd=method",
        Lookup::Bypass(Bypass::RequestNoStore) => "fwd=request",
        Lookup::Bypass(Bypass::Range | Bypass::Condition) => "fwd=bypass",
    }
}

fn detail(why: NotStorable) -> &'static str {
    match why {
        NotStorable::Request => "request",
        NotStorable::Status => "status",
        NotStorable::NoStore => "no-store",
        NotStorable::NoCache => "no-cache",
        NotStorable::Private => "private",
        NotStorable::Authorization => "authorization",
        NotStorable::Vary => "vary",
        NotStorable::SetCookie => "set-cookie",
        NotStorable::NotFresh => "not-fresh",
    }
}
