//! Matches, from the Gateway API's words to the sidecar's: plain functions of what is written.

use std::collections::BTreeSet;

use sluice_crds::gateway_api::{GrpcMethodMatch, GrpcRouteMatch, HttpRouteMatch, NamedMatch};
use sluice_snapshot::unit::route::{Match, PathMatch, ValueMatch, ValuePattern};

use crate::resolve::seal::any_match;

/// What a rule of an HTTPRoute matches; without matches every request.
///
/// # Errors
/// A type that is not served, in a clause.
pub(super) fn http(specs: &[HttpRouteMatch]) -> Result<Vec<Match>, String> {
    match specs {
        [] => Ok(vec![any_match()]),
        specs => specs.iter().map(http_one).collect(),
    }
}

fn http_one(spec: &HttpRouteMatch) -> Result<Match, String> {
    let HttpRouteMatch {
        path,
        headers,
        query_params,
        method,
    } = spec;
    let path = path.clone().unwrap_or_default();
    let value = path.value.unwrap_or_else(|| "/".into());
    Ok(Match {
        path: match path.type_.as_deref() {
            None | Some("PathPrefix") => PathMatch::Prefix(whole_segments(value)),
            Some("Exact") => PathMatch::Exact(value),
            Some("RegularExpression") => PathMatch::Regex(value),
            Some(other) => return Err(format!("path matches of type {other:?} are not served")),
        },
        method: method.clone(),
        headers: values(headers, str::to_ascii_lowercase)?,
        query: values(query_params, str::to_owned)?,
        cookies: Vec::new(),
    })
}

/// `/v1/` and `/v1` are the same prefix.
fn whole_segments(value: String) -> String {
    match value.strip_suffix('/') {
        Some("") | None => value,
        Some(cut) => cut.to_owned(),
    }
}

/// Of two with one name the first counts.
fn values(specs: &[NamedMatch], named: fn(&str) -> String) -> Result<Vec<ValueMatch>, String> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for NamedMatch { type_, name, value } in specs {
        let name = named(name);
        if !seen.insert(name.clone()) {
            continue;
        }
        let value = match type_.as_deref() {
            None | Some("Exact") => ValuePattern::Exact(value.clone()),
            Some("RegularExpression") => ValuePattern::Regex(value.clone()),
            Some(other) => return Err(format!("matches of type {other:?} are not served")),
        };
        found.push(ValueMatch { name, value });
    }
    Ok(found)
}

/// What a rule of a GRPCRoute matches; without matches every call. A call's path is `/<service>/<method>`.
///
/// # Errors
/// A type that is not served, in a clause.
pub(super) fn grpc(specs: &[GrpcRouteMatch]) -> Result<Vec<Match>, String> {
    match specs {
        [] => Ok(vec![any_match()]),
        specs => specs.iter().map(grpc_one).collect(),
    }
}

fn grpc_one(spec: &GrpcRouteMatch) -> Result<Match, String> {
    let GrpcRouteMatch { method, headers } = spec;
    Ok(Match {
        path: match method {
            None => any_match().path,
            Some(method) => call(method)?,
        },
        headers: values(headers, str::to_ascii_lowercase)?,
        ..any_match()
    })
}

fn call(spec: &GrpcMethodMatch) -> Result<PathMatch, String> {
    let GrpcMethodMatch {
        type_,
        service,
        method,
    } = spec;
    let (service, method) = (
        service.as_deref().filter(|service| !service.is_empty()),
        method.as_deref().filter(|method| !method.is_empty()),
    );
    Ok(match (type_.as_deref(), service, method) {
        (None | Some("Exact" | "RegularExpression"), None, None) => any_match().path,
        (None | Some("Exact"), Some(service), Some(method)) => {
            PathMatch::Exact(format!("/{service}/{method}"))
        }
        (None | Some("Exact"), Some(service), None) => PathMatch::Prefix(format!("/{service}")),
        (None | Some("Exact"), None, Some(method)) => {
            PathMatch::Regex(format!("/[^/]+/{}", regex::escape(method)))
        }
        (Some("RegularExpression"), service, method) => PathMatch::Regex(format!(
            "/(?:{})/(?:{})",
            service.unwrap_or("[^/]+"),
            method.unwrap_or("[^/]+")
        )),
        (Some(other), ..) => {
            return Err(format!("method matches of type {other:?} are not served"));
        }
    })
}

/// Matches as texts: equal where they ask for the same.
pub(super) fn texts(matches: impl IntoIterator<Item = Match>) -> BTreeSet<String> {
    matches.into_iter().map(|one| text(&one)).collect()
}

/// One match as a text.
pub(super) fn text(one: &Match) -> String {
    let mut one = one.clone();
    for list in [&mut one.headers, &mut one.query] {
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }
    serde_json::to_string(&one).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn path_of(method: Value) -> PathMatch {
        let spec: GrpcRouteMatch =
            serde_json::from_value(json!({"method": method})).expect("decodes");
        grpc_one(&spec).expect("is served").path
    }

    #[test]
    fn calls_are_paths() {
        let exact = |text: &str| PathMatch::Exact(text.into());
        let regex = |text: &str| PathMatch::Regex(text.into());
        assert_eq!(
            path_of(json!({"service": "a.B", "method": "C"})),
            exact("/a.B/C")
        );
        assert_eq!(
            path_of(json!({"type": "Exact", "service": "a.B"})),
            PathMatch::Prefix("/a.B".into())
        );
        assert_eq!(path_of(json!({"method": "C.d"})), regex(r"/[^/]+/C\.d"));
        assert_eq!(
            path_of(json!({"type": "RegularExpression", "service": "a.*"})),
            regex("/(?:a.*)/(?:[^/]+)")
        );
        assert_eq!(path_of(json!({})), PathMatch::Prefix("/".into()));
    }

    #[test]
    fn of_two_headers_with_one_name_the_first_counts() {
        let spec: HttpRouteMatch = serde_json::from_value(json!({
            "headers": [{"name": "Version", "value": "one"}, {"name": "version", "value": "two"}],
        }))
        .expect("decodes");
        let one = http_one(&spec).expect("is served");
        assert_eq!(one.headers.len(), 1);
        assert_eq!(one.headers[0].value, ValuePattern::Exact("one".into()));
    }

    #[test]
    fn what_is_not_served_is_said() {
        let spec: HttpRouteMatch =
            serde_json::from_value(json!({"path": {"type": "Suffix", "value": "/a"}}))
                .expect("decodes");
        assert!(http(&[spec]).is_err());
    }
}
