//! A shared HTTP cache in memory (RFC 9111): what may be stored, under which key, and what a stored answer may be given
//! for. Storing and evicting bodies is the caller's.
//!
//! Chosen where the RFC leaves a choice: answers are stored for GET only and given for GET and HEAD; nothing without
//! explicit freshness is stored unless the rule has a default; `no-cache` answers are not stored, because nothing here
//! validates; answers with `Set-Cookie` are never stored; `private` answers only where the identity is part of the key.

pub mod control;
pub mod freshness;
pub mod key;
pub mod status;

use sluice_snapshot::unit::cache::{CacheRule, CacheScope};

use crate::{facts::Facts, identity::Identity};
use control::{RequestControl, ResponseControl};
use freshness::Freshness;
pub use key::{FieldHash, Hashes, PrimaryKey, UriKey, key};

/// Names that `Vary` may list; an answer with more is not stored.
const MAX_VARY: usize = 16;

/// A request, as a cache sees it.
#[derive(Debug)]
pub struct Asked<'r, F> {
    /// The store's.
    pub hashes: &'r Hashes,
    /// What its rule says of caching.
    pub rules: &'r CacheRule,
    /// The request.
    pub facts: &'r F,
    /// Who asks.
    pub identity: Option<&'r Identity>,
}

/// Why the cache has no part in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bypass {
    /// Neither GET nor HEAD.
    Method,
    /// The request says `no-store`.
    RequestNoStore,
    /// The request asks for a part, which is not put together here.
    Range,
    /// The request has a precondition that only the origin can judge.
    Condition,
}

/// Why an answer is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStorable {
    /// The answer is not to a GET, or the request bypasses the cache.
    Request,
    /// The status code is not one that is stored.
    Status,
    /// `no-store`.
    NoStore,
    /// `no-cache`: every use would need validation.
    NoCache,
    /// `private`, and the identity is not part of the key.
    Private,
    /// The request is authenticated and the answer does not say that others may have it (RFC 9111 section 3.5).
    Authorization,
    /// `Vary: *`, or more names than are compared.
    Vary,
    /// `Set-Cookie`.
    SetCookie,
    /// Not fresh by itself, and no default.
    NotFresh,
}

/// What is kept beside the body of a stored answer. Header values of the request are kept as hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Status code.
    pub status: u16,
    /// Lower-case names and values, in order; without those of one connection only.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The names of `Vary`, and what the request had there.
    pub vary: Vec<(String, Option<FieldHash>)>,
    /// When it was stored, in monotonic milliseconds.
    pub stored_ms: u64,
    /// Its age then, in seconds.
    pub initial_age_s: u64,
    /// How old it may become, in seconds.
    pub lifetime_s: u64,
    /// `ETag`.
    pub etag: Option<Vec<u8>>,
    /// `Last-Modified`, in Unix seconds.
    pub last_modified_s: Option<i64>,
    /// Not to be given when it is stale, whatever the request says.
    pub must_revalidate: bool,
    /// May be given to requests with an identity or `Authorization` (RFC 9111 section 3.5).
    pub for_authorized: bool,
}

impl Stored {
    /// Age at `now_ms`, in seconds (RFC 9111 section 4.2.3).
    pub fn age_s(&self, now_ms: u64) -> u64 {
        self.initial_age_s
            .saturating_add(now_ms.saturating_sub(self.stored_ms) / 1000)
    }

    /// Seconds of freshness left; negative: stale since.
    pub fn ttl_s(&self, now_ms: u64) -> i64 {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        signed(self.lifetime_s).saturating_sub(signed(self.age_s(now_ms)))
    }
}

/// What the cache has for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// To be answered from the cache.
    Hit {
        /// Which of the variants.
        index: usize,
        /// For `Age`, in seconds.
        age_s: u64,
        /// The client has it already: 304 without body.
        not_modified: bool,
    },
    /// There is one, but it is too old for this request.
    Stale {
        /// Which of the variants.
        index: usize,
    },
    /// There is none for this request.
    Miss(Miss),
    /// There is none, and the client wants no other: 504 (RFC 9111 section 5.2.1.7).
    OnlyIfCached,
    /// The cache has no part in this request.
    Bypass(Bypass),
}

/// Why there is no stored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// Nothing is stored under the key.
    Uri,
    /// Something is, for other header values or other callers.
    Vary,
    /// The request wants the origin's answer.
    Request,
}

/// Which of the fields that decide about a cache's part a request has: few have any, and one look at all of its names costs
/// less than to ask for each.
#[derive(Debug, Clone, Copy, Default)]
struct Has {
    /// `Cache-Control` or `Pragma`.
    control: bool,
    range: bool,
    /// `If-Match`, `If-Unmodified-Since` or `If-Range`: for the origin alone.
    condition: bool,
    /// `If-None-Match` or `If-Modified-Since`.
    validator: bool,
    authorization: bool,
}

impl Has {
    fn of(facts: &impl Facts) -> Self {
        let mut has = Self::default();
        for (name, _) in facts.headers() {
            match name {
                "cache-control" | "pragma" => has.control = true,
                "range" => has.range = true,
                "if-match" | "if-unmodified-since" | "if-range" => has.condition = true,
                "if-none-match" | "if-modified-since" => has.validator = true,
                "authorization" => has.authorization = true,
                _ => {}
            }
        }
        has
    }

    /// What the request says of caching.
    fn control(self, facts: &impl Facts) -> RequestControl {
        match self.control {
            true => RequestControl::read(facts),
            false => RequestControl::default(),
        }
    }
}

/// Whether and with what the request is credentialed in a way the key does not tell apart.
fn is_authorized(asked: &Asked<'_, impl Facts>, has: Has) -> bool {
    match (asked.rules.scope, asked.identity) {
        // The key holds the identity and, unless the identity was read from it, `Authorization`.
        (CacheScope::Identity, Some(_)) => false,
        (CacheScope::Standard, Some(_)) => true,
        (_, None) => has.authorization,
    }
}

fn bypass(facts: &impl Facts, control: &RequestControl, has: Has) -> Option<Bypass> {
    if !matches!(facts.method(), "GET" | "HEAD") {
        Some(Bypass::Method)
    } else if control.no_store {
        Some(Bypass::RequestNoStore)
    } else if has.range {
        Some(Bypass::Range)
    } else if has.condition {
        Some(Bypass::Condition)
    } else {
        None
    }
}

/// Looks among the answers that are stored under the request's key.
pub fn lookup<'s>(
    asked: &Asked<'_, impl Facts>,
    variants: impl Iterator<Item = &'s Stored>,
    now_ms: u64,
) -> Lookup {
    let facts = asked.facts;
    let has = Has::of(facts);
    let control = has.control(facts);
    if let Some(bypass) = bypass(facts, &control, has) {
        return Lookup::Bypass(bypass);
    }
    let authorized = is_authorized(asked, has);
    let mut any = false;
    let fitting = variants
        .enumerate()
        .inspect(|_| any = true)
        .filter(|(_, stored)| (stored.for_authorized || !authorized) && fits(stored, asked))
        // Of several that fit, the most recent (RFC 9111 section 4.1).
        .max_by_key(|(_, stored)| stored.stored_ms);
    let Some((index, stored)) = fitting else {
        return match (control.only_if_cached, any) {
            (true, _) => Lookup::OnlyIfCached,
            (false, true) => Lookup::Miss(Miss::Vary),
            (false, false) => Lookup::Miss(Miss::Uri),
        };
    };
    let age_s = stored.age_s(now_ms);
    if usable(stored, &control, age_s) {
        return Lookup::Hit {
            index,
            age_s,
            not_modified: has.validator && freshness::not_modified(stored, facts),
        };
    }
    match (control.only_if_cached, age_s < stored.lifetime_s) {
        (true, _) => Lookup::OnlyIfCached,
        (false, true) => Lookup::Miss(Miss::Request),
        (false, false) => Lookup::Stale { index },
    }
}

/// Whether a stored answer of an age satisfies the request (RFC 9111 sections 4.2 and 5.2.1).
fn usable(stored: &Stored, control: &RequestControl, age_s: u64) -> bool {
    if control.no_cache || control.max_age.is_some_and(|max| age_s > max) {
        return false;
    }
    let needed_s = age_s.saturating_add(control.min_fresh.unwrap_or(0));
    if needed_s < stored.lifetime_s {
        return true;
    }
    let stale_s = age_s.saturating_sub(stored.lifetime_s);
    // Without `min-fresh` at once: both together ask for the impossible.
    !stored.must_revalidate
        && control.min_fresh.is_none()
        && control.max_stale.is_some_and(|max| stale_s <= max)
}

fn fits(stored: &Stored, asked: &Asked<'_, impl Facts>) -> bool {
    stored
        .vary
        .iter()
        .all(|(name, hash)| asked.hashes.field(asked.facts, name) == *hash)
}

/// Whether an answer may be stored, and what is kept of it (RFC 9111 section 3). `response` gives lower-case names and
/// values; `wall_s` is Unix time, `now_ms` the monotonic clock that `lookup` uses.
pub fn storable<'h>(
    asked: &Asked<'_, impl Facts>,
    status: u16,
    response: impl Iterator<Item = (&'h str, &'h [u8])> + Clone,
    wall_s: i64,
    now_ms: u64,
) -> Result<Stored, NotStorable> {
    let Asked {
        rules,
        facts,
        identity,
        ..
    } = *asked;
    let has = Has::of(facts);
    if facts.method() != "GET" || bypass(facts, &has.control(facts), has).is_some() {
        return Err(NotStorable::Request);
    }
    let values = |name: &'static str| {
        response
            .clone()
            .filter(move |(known, _)| *known == name)
            .map(|(_, value)| value)
    };
    let control = ResponseControl::read(values("cache-control"));
    // Stored with explicit freshness. Others need more understanding (206, 304) or are accidents (5xx).
    if !matches!(
        status,
        200 | 203 | 204 | 300 | 301 | 302 | 307 | 308 | 404 | 405 | 410 | 414 | 501
    ) {
        return Err(NotStorable::Status);
    }
    if control.no_store {
        return Err(NotStorable::NoStore);
    }
    if control.no_cache {
        return Err(NotStorable::NoCache);
    }
    if control.private && !(rules.scope == CacheScope::Identity && identity.is_some()) {
        return Err(NotStorable::Private);
    }
    let for_authorized = control.public || control.must_revalidate || control.s_maxage.is_some();
    if !for_authorized && is_authorized(asked, has) {
        return Err(NotStorable::Authorization);
    }
    if values("set-cookie").next().is_some() {
        return Err(NotStorable::SetCookie);
    }
    let vary = vary(values("vary"), asked).ok_or(NotStorable::Vary)?;
    let default_s = if matches!(status, 200 | 203 | 204) {
        rules.default_ttl_ms / 1000
    } else {
        0
    };
    let Freshness {
        initial_age_s,
        lifetime_s,
    } = freshness::of(&control, &values, default_s, wall_s);
    if initial_age_s >= lifetime_s {
        return Err(NotStorable::NotFresh);
    }
    Ok(Stored {
        status,
        headers: kept(response.clone(), values("connection")),
        vary,
        stored_ms: now_ms,
        initial_age_s,
        lifetime_s,
        etag: values("etag").next().map(<[u8]>::to_vec),
        last_modified_s: values("last-modified")
            .next()
            .and_then(freshness::http_date),
        // `s-maxage` says `proxy-revalidate` too (RFC 9111 section 5.2.2.10).
        must_revalidate: control.must_revalidate
            || control.proxy_revalidate
            || control.s_maxage.is_some(),
        for_authorized,
    })
}

/// The names of `Vary` with the request's values; none: not to be stored.
fn vary<'h>(
    lines: impl Iterator<Item = &'h [u8]>,
    asked: &Asked<'_, impl Facts>,
) -> Option<Vec<(String, Option<FieldHash>)>> {
    let mut names: Vec<String> = Vec::new();
    for line in lines {
        for name in std::str::from_utf8(line)
            .ok()?
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            let name = name.to_ascii_lowercase();
            if name == "*" || names.len() == MAX_VARY {
                return None;
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Some(
        names
            .into_iter()
            .map(|name| {
                let hash = asked.hashes.field(asked.facts, &name);
                (name, hash)
            })
            .collect(),
    )
}

/// Fields that belong to one connection, and `Age`, which is told anew with each answer (RFC 9111 section 3.1).
const DROPPED: [&str; 11] = [
    "age",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn kept<'h>(
    response: impl Iterator<Item = (&'h str, &'h [u8])>,
    connection: impl Iterator<Item = &'h [u8]>,
) -> Vec<(String, Vec<u8>)> {
    let named: Vec<String> = connection
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .collect();
    response
        .filter(|(name, _)| !DROPPED.contains(name) && !named.iter().any(|known| known == name))
        .map(|(name, value)| (name.to_owned(), value.to_vec()))
        .collect()
}

/// Whether an answer makes stored answers for the same URI invalid (RFC 9111 section 4.4): an unsafe method succeeded.
pub fn invalidates(method: &str, status: u16) -> bool {
    !matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE") && (200..400).contains(&status)
}

#[cfg(test)]
mod tests;
