//! Caching of a rule.

use std::collections::BTreeSet;

use sluice_crds::api_route::cache::{Cache, CacheMode, CacheScope};
use sluice_snapshot::unit::cache;

use super::auth::millis;

/// The sidecar's part of the block; nothing where it is disabled.
pub(crate) fn rule(spec: &Cache) -> Option<cache::CacheRule> {
    if spec.effective_mode() == CacheMode::Disabled {
        return None;
    }
    let key = spec.key.clone().unwrap_or_default();
    let ignored = key.query.map(|query| query.ignore).unwrap_or_default();
    let ignored: BTreeSet<String> = ignored.iter().map(ToString::to_string).collect();
    let headers: BTreeSet<String> = key
        .headers
        .iter()
        .map(|name| name.to_ascii_lowercase())
        .collect();
    Some(cache::CacheRule {
        scope: match spec.effective_scope() {
            CacheScope::Standard => cache::CacheScope::Standard,
            CacheScope::Identity => cache::CacheScope::Identity,
        },
        default_ttl_ms: millis(spec.effective_default_ttl()),
        ignored_query: ignored.into_iter().collect(),
        key_headers: headers.into_iter().collect(),
        max_bytes: spec.effective_max_bytes(),
    })
}
