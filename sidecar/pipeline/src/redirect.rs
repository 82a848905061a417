//! Where a redirect sends the client: RequestRedirect of the Gateway API.

use sluice_snapshot::unit::route::{Redirect, RedirectPath};

use crate::{
    Facts,
    admit::split_authority,
    program::{Match, PathMatcher},
    target::Target,
};

/// The value of `Location`: an absolute URI. What the redirect does not name is kept from the request; the query always
/// is.
pub fn location(
    redirect: &Redirect,
    matched: &Match,
    facts: &impl Facts,
    target: &Target,
) -> String {
    let (own_host, own_port) = facts
        .authority()
        .and_then(split_authority)
        .unwrap_or_default();
    let scheme = redirect.scheme.as_deref().unwrap_or(facts.scheme());
    let host = redirect.hostname.as_deref().unwrap_or(own_host);
    let well_known = match scheme {
        "https" => 443,
        _ => 80,
    };
    // Gateway API: a redirect that names a scheme and no port means the scheme's port.
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => Some(port),
        (None, Some(_)) => None,
        (None, None) => own_port,
    };
    let port = port
        .filter(|port| *port != well_known)
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let path = match &redirect.path {
        None => target.path().to_owned(),
        Some(RedirectPath::ReplaceFullPath(path)) => path.clone(),
        Some(RedirectPath::ReplacePrefixMatch(with)) => {
            replace_prefix(target.path(), matched, with)
        }
    };
    let query = target
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    format!("{scheme}://{host}{port}{path}{query}")
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
    use super::*;
    use crate::{
        facts::StaticFacts,
        fixture::{APP, compiled, edit_route, find, prefix, rule, shop},
    };
    use sluice_snapshot::unit::route::Action;

    /// The `Location` of a redirect of what matches `under`.
    fn sent(under: &str, redirect: Redirect, authority: &str, uri: &str) -> String {
        let mut set = shop();
        edit_route(&mut set, "orders", |route| {
            route.rules = vec![rule(
                "redirect",
                prefix(under),
                Action::Redirect(redirect.clone()),
            )];
        });
        let facts = StaticFacts::new("GET", authority, uri);
        let program = compiled(&set);
        let (matched, target) = find(&program, APP, &facts).expect("routed");
        location(&redirect, matched.spec(), &facts, &target)
    }

    fn plain() -> Redirect {
        Redirect {
            scheme: None,
            hostname: None,
            port: None,
            path: None,
            status: 302,
        }
    }

    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_says() {
        for (under, with, path, expected) in [
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "", "/foo", "/"),
            ("/foo", "", "/foo/", "/"),
            ("/foo", "/", "/foo", "/"),
            ("/foo", "/", "/foo/bar", "/bar"),
            ("/", "/xyz", "/bar", "/xyz/bar"),
        ] {
            let redirect = Redirect {
                path: Some(RedirectPath::ReplacePrefixMatch(with.into())),
                ..plain()
            };
            assert_eq!(
                sent(under, redirect, "orders.shop", path),
                format!("http://orders.shop{expected}"),
                "{under} {with} {path}"
            );
        }
    }

    #[test]
    fn what_is_not_named_is_kept() {
        let orders = |redirect: Redirect| sent("/", redirect, "Orders.shop:8080", "/a/../b?x=%20");
        assert_eq!(orders(plain()), "http://Orders.shop:8080/b?x=%20");
        assert_eq!(
            orders(Redirect {
                scheme: Some("https".into()),
                ..plain()
            }),
            "https://Orders.shop/b?x=%20"
        );
        assert_eq!(
            orders(Redirect {
                port: Some(80),
                ..plain()
            }),
            "http://Orders.shop/b?x=%20"
        );
        assert_eq!(
            orders(Redirect {
                scheme: Some("https".into()),
                port: Some(8443),
                hostname: Some("new.shop".into()),
                ..plain()
            }),
            "https://new.shop:8443/b?x=%20"
        );
        let full = Redirect {
            path: Some(RedirectPath::ReplaceFullPath("/moved".into())),
            ..plain()
        };
        assert_eq!(orders(full), "http://Orders.shop:8080/moved?x=%20");
    }
}
