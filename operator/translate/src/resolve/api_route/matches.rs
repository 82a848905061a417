//! Matches and header edits, from the resource's words to the sidecar's.

use std::collections::BTreeSet;

use sluice_crds::api_route::{
    RouteMatch,
    filters::{HeaderEdit, HeaderModifier, RedirectPathChange, RedirectScheme, RequestRedirect},
    matches::{PathMatchType, ValueMatchType},
};
use sluice_snapshot::unit::route::{
    HeaderEdits, Match, PathMatch, Redirect, RedirectPath, ValueMatch, ValuePattern,
};

use crate::resolve::seal::any_match;

/// The matches of a rule; none means every request.
pub(super) fn matches(specs: &[RouteMatch]) -> Vec<Match> {
    match specs {
        [] => vec![any_match()],
        specs => specs.iter().map(one).collect(),
    }
}

fn one(spec: &RouteMatch) -> Match {
    let RouteMatch {
        path,
        method,
        headers,
        query_params,
        cookies,
    } = spec;
    Match {
        path: path.as_ref().map_or(any_match().path, |path| {
            let value = path.value.to_string();
            match path.effective_kind() {
                PathMatchType::Exact => PathMatch::Exact(value),
                PathMatchType::PathPrefix => PathMatch::Prefix(prefix(value)),
                PathMatchType::RegularExpression => PathMatch::Regex(value),
            }
        }),
        method: method.map(|method| method.as_str().to_owned()),
        headers: headers
            .iter()
            .map(|one| {
                value(
                    one.effective_kind(),
                    one.name.to_ascii_lowercase(),
                    &one.value,
                )
            })
            .collect(),
        query: query_params
            .iter()
            .map(|one| value(one.effective_kind(), one.name.to_string(), &one.value))
            .collect(),
        cookies: cookies
            .iter()
            .map(|one| value(one.effective_kind(), one.name.to_string(), &one.value))
            .collect(),
    }
}

/// Whole segments are compared, so `/v1/` and `/v1` are the same prefix (as the Gateway API has it).
fn prefix(value: String) -> String {
    match value.strip_suffix('/') {
        Some("") | None => value,
        Some(cut) => cut.to_owned(),
    }
}

fn value(kind: ValueMatchType, name: String, text: &str) -> ValueMatch {
    let text = text.to_owned();
    ValueMatch {
        name,
        value: match kind {
            ValueMatchType::Exact => ValuePattern::Exact(text),
            ValueMatchType::RegularExpression => ValuePattern::Regex(text),
        },
    }
}

/// Adds a filter's edits. A name that it removes is gone at the end, whatever else the filter says of it.
pub(super) fn edit(edits: &mut HeaderEdits, spec: &HeaderModifier) {
    let HeaderModifier { set, add, remove } = spec;
    let removed: BTreeSet<String> = remove
        .iter()
        .map(|name| name.to_ascii_lowercase())
        .collect();
    let keep = |edit: &&HeaderEdit| !removed.contains(&edit.name.to_ascii_lowercase());
    let pair = |edit: &HeaderEdit| (edit.name.to_ascii_lowercase(), edit.value.to_string());
    edits.set.extend(set.iter().filter(keep).map(pair));
    edits.add.extend(add.iter().filter(keep).map(pair));
    edits.remove.extend(removed);
}

/// A redirect.
pub(super) fn redirect(
    spec: &RequestRedirect,
) -> Result<Redirect, sluice_crds::common::WrongMember> {
    let RequestRedirect {
        scheme,
        hostname,
        path,
        port,
        status_code: _,
    } = spec;
    let path = path.as_ref().map(|path| {
        Ok(match path.get()? {
            RedirectPathChange::ReplaceFullPath(path) => {
                RedirectPath::ReplaceFullPath(path.to_string())
            }
            RedirectPathChange::ReplacePrefixMatch(prefix) => {
                RedirectPath::ReplacePrefixMatch(prefix.to_string())
            }
        })
    });
    Ok(Redirect {
        scheme: scheme.map(|scheme| {
            match scheme {
                RedirectScheme::Http => "http",
                RedirectScheme::Https => "https",
            }
            .to_owned()
        }),
        hostname: hostname.as_ref().map(|host| host.to_ascii_lowercase()),
        port: *port,
        path: path.transpose()?,
        status: spec.effective_status(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_is_no_part_of_a_prefix() {
        assert_eq!(prefix("/v1/".into()), "/v1");
        assert_eq!(prefix("/v1".into()), "/v1");
        assert_eq!(prefix("/".into()), "/");
    }

    #[test]
    fn what_a_filter_removes_it_does_not_set() {
        let spec = serde_json::from_value(serde_json::json!({
            "set": [{"name": "X-A", "value": "1"}, {"name": "X-B", "value": "2"}],
            "add": [{"name": "x-a", "value": "3"}],
            "remove": ["X-a"],
        }));
        let mut edits = HeaderEdits::default();
        edit(&mut edits, &spec.expect("decodes"));
        assert_eq!(edits.remove, ["x-a"]);
        assert_eq!(edits.set, [("x-b".to_owned(), "2".to_owned())]);
        assert!(edits.add.is_empty());
    }
}
