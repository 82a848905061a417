//! The cache phases of one request: look up, wait for another that fetches the same, store what passes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{AGE, CONTENT_LENGTH, HOST},
    request::Parts,
};
use sluice_pipeline::{
    Facts, Reject, RejectReason,
    cache::{self, Lookup, NotStorable, PrimaryKey, Stored, status},
    program::Rule,
    target::Target,
};
use sluice_snapshot::unit::cache::CacheRule;

use super::{body::Body, facts::RequestFacts, record::Settle};
use crate::{
    cache::{Account, Entry, Fetching, NewEntry, Turn},
    metrics::CacheEvent,
    shared::Shared,
};

/// What the cache has for a request.
pub enum Looked {
    /// The answer.
    Answer(Box<Response<Body>>),
    /// Nothing: an upstream is asked, and its answer may be stored.
    Fetch(Box<Miss>),
}

/// A request that goes on to an upstream.
pub struct Miss {
    key: PrimaryKey,
    lookup: Lookup,
    /// The request as the cache saw it, before edits.
    parts: Parts,
    fetching: Option<Fetching>,
}

/// An answer that is being stored while it passes.
pub struct Fill {
    shared: Arc<Shared>,
    key: PrimaryKey,
    rule: String,
    max_bytes: u64,
    stored: Stored,
    status: StatusCode,
    headers: HeaderMap,
    body: BytesMut,
    /// Whoever asked for the same waits for this.
    _fetching: Option<Fetching>,
}

/// Looks for a stored answer. Equal misses are fetched once: the others wait, and then fetch for themselves if nothing
/// was stored.
pub async fn look(
    settle: &mut Settle,
    rule: &Rule,
    cache: &CacheRule,
    parts: &Parts,
    target: &Target,
    deadline_ms: u64,
) -> Result<Looked, Reject> {
    let facts = RequestFacts::new(parts, &settle.client);
    let hashes = *settle.thread.shared.cache.hashes();
    let identity = settle.identity.clone();
    let asked = cache::Asked {
        hashes: &hashes,
        rules: cache,
        facts: &facts,
        identity: identity.as_deref(),
    };
    let of_rule = [&rule.object.namespace, &rule.object.name, &rule.name].map(String::as_str);
    let key = cache::key(&asked, of_rule, target);
    let (mut lookup, mut found) = find(settle, &asked, &key);
    let mut fetching = None;
    if matches!(lookup, Lookup::Miss(_) | Lookup::Stale { .. }) && facts.method() == "GET" {
        match Fetching::turn(&settle.thread.shared, &key) {
            Turn::Fetch(turn) => fetching = Some(turn),
            Turn::Wait(mut over) => {
                // The sender says nothing: it only goes.
                let _ = settle
                    .thread
                    .ticker
                    .within(deadline_ms, over.changed())
                    .await;
                (lookup, found) = find(settle, &asked, &key);
            }
        }
    }
    match (lookup, found) {
        (
            Lookup::Hit {
                age_s,
                not_modified,
                ..
            },
            Some(entry),
        ) => {
            let ttl_s = entry.stored.ttl_s(settle.thread.clock().now_ms());
            settle.cache_status = Some(status::render(&lookup, Some(ttl_s), None));
            settle.cache_event = Some(if not_modified {
                CacheEvent::Revalidated
            } else {
                CacheEvent::Hit
            });
            Ok(Looked::Answer(Box::new(answer(
                &entry,
                age_s,
                not_modified,
            ))))
        }
        (Lookup::OnlyIfCached, _) => {
            settle.cache_status = Some(status::render(&lookup, None, None));
            settle.cache_event = Some(CacheEvent::Miss);
            Err(Reject::new(RejectReason::UpstreamTimeout)
                .by(rule.decider())
                .detail("only-if-cached, and it is not"))
        }
        _ => {
            settle.cache_event = Some(match lookup {
                Lookup::Bypass(_) => CacheEvent::Bypass,
                Lookup::Stale { .. } => CacheEvent::Stale,
                _ => CacheEvent::Miss,
            });
            settle.cache_status = Some(status::render(&lookup, None, None));
            Ok(Looked::Fetch(Box::new(Miss {
                key,
                lookup,
                parts: parts.clone(),
                fetching,
            })))
        }
    }
}

fn find(
    settle: &Settle,
    asked: &cache::Asked<'_, impl Facts>,
    key: &PrimaryKey,
) -> (Lookup, Option<Arc<Entry>>) {
    let now_ms = settle.thread.clock().now_ms();
    settle.thread.shared.cache.find(key, |variants| {
        let variants = variants.iter().map(|entry| &entry.stored);
        let lookup = cache::lookup(asked, variants, now_ms);
        let chosen = match lookup {
            Lookup::Hit { index, .. } => Some(index),
            _ => None,
        };
        (lookup, chosen)
    })
}

fn answer(entry: &Entry, age_s: u64, not_modified: bool) -> Response<Body> {
    let body = if not_modified {
        Bytes::new()
    } else {
        entry.body.clone()
    };
    let mut response = Response::new(Body::memory(body));
    *response.status_mut() = if not_modified {
        StatusCode::NOT_MODIFIED
    } else {
        entry.status
    };
    let headers = response.headers_mut();
    headers.clone_from(&entry.headers);
    if not_modified {
        headers.remove(CONTENT_LENGTH);
    }
    headers.insert(AGE, HeaderValue::from(age_s));
    response
}

fn rule_id(rule: &Rule) -> String {
    format!(
        "{}/{}/{}",
        rule.object.namespace, rule.object.name, rule.name
    )
}

impl Miss {
    /// The upstream's head is there: whether its body is stored as it passes.
    pub fn keep(
        self,
        settle: &mut Settle,
        rule: &Rule,
        cache: &CacheRule,
        head: &http::response::Parts,
        wall_s: i64,
    ) -> Option<Box<Fill>> {
        let Self {
            key,
            lookup,
            parts,
            fetching,
        } = self;
        let facts = RequestFacts::new(&parts, &settle.client);
        let now_ms = settle.thread.clock().now_ms();
        let lines: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let asked = cache::Asked {
            hashes: settle.thread.shared.cache.hashes(),
            rules: cache,
            facts: &facts,
            identity: settle.identity.as_deref(),
        };
        let storable = cache::storable(
            &asked,
            head.status.as_u16(),
            lines.into_iter(),
            wall_s,
            now_ms,
        );
        // A body that is known to be too large is not begun.
        let length = head
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let storable = storable.and_then(|stored| {
            if length.is_some_and(|length| length > cache.max_bytes) {
                Err(NotStorable::Request)
            } else {
                Ok(stored)
            }
        });
        let said = storable.as_ref().map(|_| ()).map_err(|why| *why);
        settle.cache_status = Some(status::render(&lookup, None, Some(said)));
        let stored = storable.ok()?;
        let headers = stored
            .headers
            .iter()
            .filter_map(|(name, value)| {
                let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                Some((name, HeaderValue::from_bytes(value).ok()?))
            })
            .collect();
        Some(Box::new(Fill {
            shared: Arc::clone(&settle.thread.shared),
            key,
            rule: rule_id(rule),
            max_bytes: cache.max_bytes,
            stored,
            status: head.status,
            headers,
            body: BytesMut::with_capacity(
                length
                    .and_then(|length| usize::try_from(length).ok())
                    .unwrap_or(0),
            ),
            _fetching: fetching,
        }))
    }
}

impl Fill {
    /// A part of the body passes.
    pub fn push(&mut self, data: &Bytes) {
        if self.max_bytes == 0 {
            return;
        }
        // Copied: the chunk is a part of the connection's buffer, which would otherwise stay as long as the answer.
        if (self.body.len() + data.len()) as u64 <= self.max_bytes {
            self.body.extend_from_slice(data);
        } else {
            self.max_bytes = 0;
            self.body = BytesMut::new();
        }
    }

    /// The body has ended well: it is stored.
    pub fn finish(self) {
        let Self {
            shared,
            key,
            rule,
            max_bytes,
            stored,
            status,
            headers,
            body,
            _fetching,
        } = self;
        if max_bytes > 0 {
            let account = Account {
                rule: &rule,
                max_bytes,
            };
            shared.cache.put(
                key,
                account,
                NewEntry {
                    stored,
                    status,
                    headers,
                    body: body.freeze(),
                },
            );
        }
    }
}

/// What an unsafe request may make invalid, noted before it leaves (RFC 9111 section 4.4).
pub struct Invalidation {
    parts: Parts,
}

impl Invalidation {
    /// None where nothing could become invalid, as for most requests: the others' is boxed.
    pub fn of(settle: &Settle, parts: &Parts) -> Option<Box<Self>> {
        if parts.method.is_safe() || settle.thread.shared.cache.bytes() == 0 {
            return None;
        }
        let (mut view, ()) = http::Request::new(()).into_parts();
        view.method = parts.method.clone();
        view.uri = parts.uri.clone();
        if let Some(host) = parts.headers.get(HOST) {
            view.headers.insert(HOST, host.clone());
        }
        Some(Box::new(Self { parts: view }))
    }

    /// The answer is there.
    pub fn apply(self, settle: &Settle, target: &Target, head: &http::response::Parts) {
        if !cache::invalidates(self.parts.method.as_str(), head.status.as_u16()) {
            return;
        }
        let facts = RequestFacts::new(&self.parts, &settle.client);
        let locations = ["location", "content-location"]
            .into_iter()
            .flat_map(|name| head.headers.get_all(name));
        let store = &settle.thread.shared.cache;
        let locations = locations.map(|value| value.as_bytes());
        for key in cache::key::invalidated(store.hashes(), &facts, target, locations) {
            store.invalidate(&key);
        }
    }
}
