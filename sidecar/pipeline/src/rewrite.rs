//! What an upstream sees in place of a request's host and path: URLRewrite of the Gateway API. What was matched, signed and
//! limited is the request as it came; this is decided after all of that.

use sluice_snapshot::unit::route::{RedirectPath, Rewrite};

use crate::{
    program::{Match, PathMatcher},
    target::Target,
};

/// The target that is sent: the query always stays.
pub fn target(rewrite: &Rewrite, matched: &Match, target: &Target) -> Target {
    Target {
        raw_path: target.raw_path.clone(),
        path: path(rewrite.path.as_ref(), matched, target.path()),
        query: target.query.clone(),
    }
}

/// A path as a redirect or a rewrite changes it.
pub(crate) fn path(change: Option<&RedirectPath>, matched: &Match, path: &str) -> String {
    match change {
        None => path.to_owned(),
        Some(RedirectPath::ReplaceFullPath(path)) => path.clone(),
        Some(RedirectPath::ReplacePrefixMatch(with)) => replace_prefix(path, matched, with),
    }
}

/// `/foo/bar` under the prefix `/foo` with `/xyz` is `/xyz/bar`; with an empty one or `/` it is `/bar`.
fn replace_prefix(path: &str, matched: &Match, with: &str) -> String {
    let rest = match &matched.path {
        PathMatcher::Prefix(prefix) => path.strip_prefix(prefix.as_str()).unwrap_or(path),
        // `compile_unit` admits this only where every match is a prefix.
        PathMatcher::Exact(_) | PathMatcher::Regex(_) => path,
    };
    let with = with.strip_suffix('/').unwrap_or(with);
    match (with, rest) {
        ("", "") => "/".into(),
        _ => format!("{with}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_snapshot::unit::route::Action;

    use super::*;
    use crate::{
        facts::StaticFacts,
        fixture::{APP, compiled, edit_route, find, prefix, rule, shop, to},
    };
    use sluice_snapshot::unit::route::Target as Destination;

    /// What is sent of a request that matches the prefix `under`.
    fn sent(under: &str, change: Option<RedirectPath>, uri: &str) -> String {
        let rewrite = Rewrite {
            hostname: None,
            path: change,
        };
        let mut set = shop();
        edit_route(&mut set, "orders", |route| {
            let action: Action = to(&[(1, Destination::App)]);
            let mut rewriting = rule("rewrite", prefix(under), action);
            rewriting.rewrite = Some(rewrite.clone());
            route.rules = vec![rewriting];
        });
        let facts = StaticFacts::new("GET", "orders.shop", uri);
        let program = compiled(&set);
        let (matched, target) = find(&program, APP, &facts).expect("routed");
        let extras = matched.rule.extras.as_ref().expect("a rewrite");
        assert_eq!(extras.rewrite.as_ref(), Some(&rewrite));
        super::target(&rewrite, matched.spec(), &target).path_and_query()
    }

    fn with_prefix(with: &str) -> Option<RedirectPath> {
        Some(RedirectPath::ReplacePrefixMatch(with.into()))
    }

    #[test]
    fn paths_change_as_the_gateway_api_says_and_queries_stay() {
        for (under, with, uri, expected) in [
            (
                "/prefix/one",
                "/one",
                "/prefix/one/two?a=%20",
                "/one/two?a=%20",
            ),
            ("/strip", "/", "/strip/three", "/three"),
            ("/strip", "/", "/strip", "/"),
            ("/strip", "", "/strip/", "/"),
            ("/strip", "/", "/strip?x", "/?x"),
            ("/foo/", "/xyz/", "/foo/bar/", "/xyz/bar/"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
        ] {
            assert_eq!(
                sent(under, with_prefix(with), uri),
                expected,
                "{under} {with} {uri}"
            );
        }
        let full = Some(RedirectPath::ReplaceFullPath("/one".into()));
        assert_eq!(sent("/full", full, "/full/a/b?q=1"), "/one?q=1");
        assert_eq!(
            sent("/", None, "/a/../b?q=1"),
            "/b?q=1",
            "normalised as ever"
        );
    }

    proptest! {
        /// Whatever follows the prefix: a path that starts with what stands in its place, and ends as it did.
        #[test]
        fn what_follows_the_prefix_is_kept(rest in "(/[a-z0-9]{1,4}){0,4}/?", with in "(/[a-z]{1,3}){0,2}/?", query in "(\\?[a-z=]{0,5})?") {
            let uri = format!("/under{rest}{query}");
            let sent = sent("/under", with_prefix(&with), &uri);
            let plain = with.strip_suffix('/').unwrap_or(&with);
            prop_assert!(sent.starts_with('/'), "{}", sent);
            let expected = format!("{plain}{rest}");
            let expected = if expected.is_empty() { "/".to_owned() } else { expected };
            prop_assert_eq!(sent, format!("{expected}{query}"));
        }
    }
}
