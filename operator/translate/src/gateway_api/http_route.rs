//! HTTPRoutes.

use std::collections::BTreeSet;

use sluice_crds::{
    common::Duration,
    gateway_api::{
        BackendRef, HttpRouteRule, HttpRouteSpec, HttpRouteTimeouts, ParentReference, RouteFilter,
    },
};
use sluice_snapshot::unit::route::Timeouts;

use super::{
    matches,
    route::{self, RuleSpec},
};
use crate::{
    resolve::{Resolved, api_route::auth::millis},
    view::View,
    world::{GatewayApiSpec, HttpRouteFacts},
};

pub(crate) fn resolve(view: &View<'_>, facts: &HttpRouteFacts) -> Resolved {
    route::resolve(view, facts, rules)
}

fn rules(spec: &HttpRouteSpec) -> Vec<RuleSpec<'_>> {
    spec.rules.iter().map(rule).collect()
}

fn rule(spec: &HttpRouteRule) -> RuleSpec<'_> {
    let HttpRouteRule {
        name,
        matches,
        filters,
        backend_refs,
        timeouts,
        retry,
        session_persistence,
    } = spec;
    let unread = [
        ("retry", retry.is_some()),
        ("sessionPersistence", session_persistence.is_some()),
    ];
    RuleSpec {
        name: name.as_deref(),
        matches: matches::http(matches),
        filters,
        backends: backend_refs,
        timeouts: timeouts.as_ref().map(self::timeouts),
        ignored: unread
            .into_iter()
            .filter_map(|(field, there)| there.then_some(field))
            .collect(),
    }
}

/// Zero is without end (GEP-1742); a try lasts no longer than the whole.
fn timeouts(spec: &HttpRouteTimeouts) -> Result<Timeouts, String> {
    let HttpRouteTimeouts {
        request,
        backend_request,
    } = spec;
    let read = |text: &Option<String>| {
        let text = text.as_deref();
        text.map(|text| match text.parse::<Duration>() {
            Ok(duration) => Ok(millis(duration.get())),
            Err(error) => Err(format!("{text:?}: {error}")),
        })
        .transpose()
    };
    let defaults = Timeouts::default();
    let request_ms = read(request)?.unwrap_or(defaults.request_ms);
    let backend_request_ms = match (read(backend_request)?.unwrap_or(request_ms), request_ms) {
        (backend, 0) => backend,
        (0, request) => request,
        (backend, request) => backend.min(request),
    };
    Ok(Timeouts {
        request_ms,
        backend_request_ms,
    })
}

impl GatewayApiSpec for HttpRouteSpec {
    fn parent_refs(&self) -> &[ParentReference] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn backends(&self) -> Vec<&BackendRef> {
        let rules = self.rules.iter();
        rules
            .flat_map(|rule| rule.backend_refs.iter().chain(mirrors(&rule.filters)))
            .collect()
    }

    fn profiles(&self) -> Vec<&str> {
        let filters = self.rules.iter().flat_map(|rule| &rule.filters);
        profiles(filters)
    }

    fn matches(&self) -> BTreeSet<String> {
        let rules = self.rules.iter();
        matches::texts(
            rules
                .filter_map(|rule| matches::http(&rule.matches).ok())
                .flatten(),
        )
    }
}

/// Where copies go.
pub(super) fn mirrors(filters: &[RouteFilter]) -> impl Iterator<Item = &BackendRef> {
    let mirrors = filters
        .iter()
        .filter_map(|filter| filter.request_mirror.as_ref());
    mirrors.map(|mirror| &mirror.backend_ref)
}

/// Profiles that filters name.
pub(super) fn profiles<'a>(filters: impl Iterator<Item = &'a RouteFilter>) -> Vec<&'a str> {
    filters
        .filter_map(|filter| Some(filter.extension_ref.as_ref()?.name.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn zero_is_without_end() {
        let of = |value: serde_json::Value| {
            let spec = serde_json::from_value(value).expect("decodes");
            let Timeouts {
                request_ms,
                backend_request_ms,
            } = timeouts(&spec).expect("durations");
            (request_ms, backend_request_ms)
        };
        assert_eq!(of(json!({"request": "0s"})), (0, 0));
        assert_eq!(
            of(json!({"request": "0s", "backendRequest": "1s"})),
            (0, 1_000)
        );
        assert_eq!(
            of(json!({"request": "500ms", "backendRequest": "0s"})),
            (500, 500)
        );
        assert_eq!(
            of(json!({"request": "1s", "backendRequest": "200ms"})),
            (1_000, 200)
        );
        assert_eq!(of(json!({"backendRequest": "200ms"})), (15_000, 200));
        let spec = serde_json::from_value(json!({"request": "soon"})).expect("decodes");
        assert!(timeouts(&spec).is_err());
    }
}
