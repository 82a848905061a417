//! Where a redirect sends the client: RequestRedirect of the Gateway API. How a path is changed is [`crate::rewrite`]'s.

use sluice_snapshot::unit::route::Redirect;

use crate::{Facts, admit::split_authority, program::Match, rewrite, target::Target};

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
    // Gateway API: a redirect that names a scheme and no port means the scheme's port, one that names neither the
    // listener's.
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => Some(port),
        (None, Some(_)) => None,
        (None, None) => facts.listener_port().or(own_port),
    };
    let port = port
        .filter(|port| *port != well_known)
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let path = rewrite::path(redirect.path.as_ref(), matched, target.path());
    let query = target
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    format!("{scheme}://{host}{port}{path}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::StaticFacts,
        fixture::{APP, compiled, edit_route, find, prefix, rule, shop},
    };
    use sluice_snapshot::unit::route::{Action, RedirectPath};

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

    #[test]
    fn at_a_listener_its_port_counts_and_not_the_one_of_the_authority() {
        let sent = |scheme: Option<&str>, own: &str, port: u16| {
            let redirect = Redirect {
                scheme: scheme.map(str::to_owned),
                ..plain()
            };
            let mut facts = StaticFacts::new("GET", "orders.shop:31080", "/a");
            facts.scheme = own.into();
            facts.listener_port = Some(port);
            let mut set = shop();
            edit_route(&mut set, "orders", |route| {
                route.rules = vec![rule("all", prefix("/"), Action::Redirect(redirect.clone()))];
            });
            let program = compiled(&set);
            let (matched, target) = find(&program, APP, &facts).expect("routed");
            location(&redirect, matched.spec(), &facts, &target)
        };
        assert_eq!(sent(None, "http", 80), "http://orders.shop/a");
        assert_eq!(sent(None, "http", 8080), "http://orders.shop:8080/a");
        assert_eq!(sent(None, "https", 443), "https://orders.shop/a");
        assert_eq!(sent(None, "https", 8443), "https://orders.shop:8443/a");
        assert_eq!(sent(Some("https"), "http", 8080), "https://orders.shop/a");
        assert_eq!(sent(Some("http"), "http", 8080), "http://orders.shop/a");
    }
}
