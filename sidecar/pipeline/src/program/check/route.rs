//! Checks of a route unit.

use sluice_snapshot::{
    UnitKind,
    unit::{
        Route,
        auth::{Method, NonceScope, Requirement},
        cache::CacheRule,
        route::{
            Action, Cors, HeaderEdits, Match, Mirror, PathMatch, Redirect, RedirectPath, Rewrite,
            Rule, Target, ValueMatch, WeightedTarget,
        },
    },
};

use super::{field_name, hostname, refers, require, unique};
use crate::{admit::is_token, auth, cors, program::matcher, target::normal_path};

/// Field names that only the proxy itself may set: framing, the connection, the loop guard, and the host, on which
/// routing and signatures rest.
const OURS: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "date",
];

pub(super) fn check(route: &Route) -> Result<(), String> {
    let Route {
        object: _,
        request_limits: _,
        providers,
        rules,
        broken,
    } = route;
    unique(
        "provider",
        providers.iter().map(|provider| provider.name.as_str()),
    )?;
    for provider in providers {
        keys(&provider.method)
            .and_then(|()| auth::check(provider).map_err(|error| error.to_string()))
            .map_err(|reason| format!("provider {:?}: {reason}", provider.name))?;
    }
    // A route that cannot serve may have lost its rules with what is wrong.
    require(!rules.is_empty() || broken.is_some(), || {
        "a route has at least one rule".into()
    })?;
    unique("rule", rules.iter().map(|rule| rule.name.as_str()))?;
    for rule in rules {
        let known = |name: &String| providers.iter().any(|provider| provider.name == *name);
        check_rule(rule, known).map_err(|reason| format!("rule {:?}: {reason}", rule.name))?;
    }
    Ok(())
}

/// Keys and stores of a method lead to units of their kind.
fn keys(method: &Method) -> Result<(), String> {
    match method {
        Method::ApiKey(method) => {
            field_name(&method.header).and_then(|()| refers(&method.keys, UnitKind::Keys))
        }
        Method::Signature(method) => {
            if let Some(NonceScope::Shared { store, .. }) =
                method.nonce.as_ref().map(|nonce| &nonce.scope)
            {
                refers(store, UnitKind::Store)?;
            }
            refers(&method.keys, UnitKind::Keys)
        }
        Method::Jwt(method) => method
            .keys
            .unit()
            .map_or(Ok(()), |keys| refers(keys, UnitKind::Keys)),
        Method::Hop(_) | Method::Broken(_) => Ok(()),
    }
}

fn check_rule(rule: &Rule, known: impl Fn(&String) -> bool) -> Result<(), String> {
    let Rule {
        name: _,
        matches,
        auth,
        policies,
        cache,
        request_headers,
        response_headers,
        rewrite,
        mirrors,
        cors,
        timeouts: _,
        action,
        broken,
    } = rule;
    require(!matches.is_empty() || broken.is_some(), || {
        "a rule has at least one match".into()
    })?;
    matches.iter().try_for_each(check_match)?;
    auth.iter()
        .try_for_each(|requirement| check_requirement(requirement, &known))?;
    policies
        .iter()
        .try_for_each(|policy| refers(policy, UnitKind::Policy))?;
    cache.iter().try_for_each(check_cache)?;
    check_edits(request_headers)?;
    check_edits(response_headers)?;
    rewrite
        .iter()
        .try_for_each(|rewrite| check_rewrite(rewrite, matches))?;
    require(mirrors.len() <= Rule::MAX_MIRRORS, || {
        format!("more than {} mirrors", Rule::MAX_MIRRORS)
    })?;
    mirrors.iter().try_for_each(check_mirror)?;
    cors.iter().try_for_each(check_cors)?;
    check_action(action, matches)
}

fn check_match(spec: &Match) -> Result<(), String> {
    let Match {
        path,
        method,
        headers,
        query,
        cookies,
    } = spec;
    match path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => {
            let normal = normal_path(path)
                .map_err(|reason| format!("the match {path:?} never matches: {reason}"))?;
            require(normal == *path, || {
                format!("the match {path:?} never matches: paths are normalised, write {normal:?}")
            })?;
        }
        PathMatch::Regex(_) => {}
    }
    if let Some(method) = method {
        require(is_token(method), || format!("{method:?} is not a method"))?;
    }
    headers
        .iter()
        .try_for_each(|header| field_name(&header.name))?;
    let named = |values: &[ValueMatch]| values.iter().all(|value| !value.name.is_empty());
    require(named(query) && named(cookies), || {
        "a query parameter or cookie has no name".into()
    })?;
    matcher::Match::compile(spec).map(|_| ())
}

fn check_requirement(
    requirement: &Requirement,
    known: impl Fn(&String) -> bool,
) -> Result<(), String> {
    let Requirement {
        any_of,
        anonymous: _,
    } = requirement;
    for alternative in any_of {
        require(!alternative.all_of.is_empty(), || {
            "an alternative without providers would admit everyone".into()
        })?;
        let stranger = alternative.all_of.iter().find(|name| !known(name));
        stranger.map_or(Ok(()), |name| {
            Err(format!("the route has no provider {name:?}"))
        })?;
    }
    Ok(())
}

fn check_cache(cache: &CacheRule) -> Result<(), String> {
    let CacheRule {
        scope: _,
        default_ttl_ms: _,
        ignored_query: _,
        key_headers,
        max_bytes: _,
    } = cache;
    key_headers.iter().try_for_each(|name| field_name(name))
}

fn check_edits(edits: &HeaderEdits) -> Result<(), String> {
    let HeaderEdits { remove, set, add } = edits;
    let names = remove
        .iter()
        .chain(set.iter().chain(add).map(|(name, _)| name));
    for name in names {
        field_name(name)?;
        require(!OURS.contains(&name.as_str()), || {
            format!("{name:?} is the proxy's own: leave it out of the edits")
        })?;
    }
    for (name, value) in set.iter().chain(add) {
        let visible = value
            .bytes()
            .all(|byte| !byte.is_ascii_control() || byte == b'\t');
        require(visible && value.trim_ascii() == value, || {
            format!("the value for {name:?} holds a control character, or a space at an end")
        })?;
    }
    Ok(())
}

fn check_action(action: &Action, matches: &[Match]) -> Result<(), String> {
    match action {
        Action::Backends(targets) => {
            require(!targets.is_empty(), || "no backend".into())?;
            targets.iter().try_for_each(check_weighted)
        }
        Action::Redirect(redirect) => check_redirect(redirect, matches),
    }
}

fn check_weighted(weighted: &WeightedTarget) -> Result<(), String> {
    let WeightedTarget {
        weight: _,
        target,
        request_headers,
        response_headers,
    } = weighted;
    check_edits(request_headers)?;
    check_edits(response_headers)?;
    match target {
        Target::App | Target::Broken(_) => Ok(()),
        Target::Backend(name) => refers(name, UnitKind::Backend),
        Target::Shards(name) => {
            let edited = !request_headers.is_empty() || !response_headers.is_empty();
            require(!edited, || {
                "the edits of a ShardSet are those of the rule".into()
            })?;
            refers(name, UnitKind::ShardMap)
        }
    }
}

fn check_rewrite(rewrite: &Rewrite, matches: &[Match]) -> Result<(), String> {
    let Rewrite {
        hostname: host,
        path,
    } = rewrite;
    host.iter().try_for_each(|host| hostname(host, false))?;
    if let Some(RedirectPath::ReplaceFullPath(with) | RedirectPath::ReplacePrefixMatch(with)) = path
    {
        require(!with.contains(['?', '#']), || {
            format!("{with:?} is more than a path; the query is always kept")
        })?;
    }
    check_path(path.as_ref(), matches)
}

fn check_mirror(mirror: &Mirror) -> Result<(), String> {
    let Mirror {
        target,
        numerator,
        denominator,
    } = mirror;
    require(*denominator != 0 && numerator <= denominator, || {
        format!("{numerator} of {denominator} requests cannot be mirrored")
    })?;
    match target {
        Target::Backend(name) => refers(name, UnitKind::Backend),
        Target::Broken(_) => Ok(()),
        Target::App | Target::Shards(_) => Err("requests are mirrored to Services only".into()),
    }
}

fn check_cors(spec: &Cors) -> Result<(), String> {
    let Cors {
        allow_origins,
        allow_methods,
        allow_headers,
        expose_headers,
        allow_credentials: _,
        max_age_s: _,
    } = spec;
    for origin in allow_origins {
        require(cors::is_origin_pattern(origin), || {
            format!("{origin:?} is neither `*` nor an origin such as https://*.example.com")
        })?;
    }
    let lists = [allow_methods, allow_headers, expose_headers];
    for list in lists {
        let stranger = list.iter().find(|name| !is_token(name));
        stranger.map_or(Ok(()), |name| {
            Err(format!("{name:?} is neither a name nor `*`"))
        })?;
        require(
            list.len() == 1 || !list.iter().any(|name| name == "*"),
            || "`*` stands alone: it is every other name, too".into(),
        )?;
    }
    Ok(())
}

fn check_redirect(redirect: &Redirect, matches: &[Match]) -> Result<(), String> {
    let Redirect {
        scheme,
        hostname: host,
        port,
        path,
        status,
    } = redirect;
    require(matches!(status, 301 | 302 | 303 | 307 | 308), || {
        format!("{status} is not the status of a redirect")
    })?;
    require(
        scheme
            .as_deref()
            .is_none_or(|scheme| matches!(scheme, "http" | "https")),
        || "the scheme of a redirect is http or https".into(),
    )?;
    require(*port != Some(0), || "port 0".into())?;
    host.iter().try_for_each(|host| hostname(host, false))?;
    check_path(path.as_ref(), matches)
}

fn check_path(path: Option<&RedirectPath>, matches: &[Match]) -> Result<(), String> {
    let sendable =
        |path: &str| path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    match path {
        None => Ok(()),
        Some(RedirectPath::ReplaceFullPath(path)) => require(sendable(path), || {
            format!("{path:?} is not a path; escape what is not ASCII")
        }),
        Some(RedirectPath::ReplacePrefixMatch(with)) => {
            require(with.is_empty() || sendable(with), || {
                format!("{with:?} is not a path; escape what is not ASCII")
            })?;
            let prefixes = matches
                .iter()
                .all(|spec| matches!(spec.path, PathMatch::Prefix(_)));
            require(prefixes, || {
                "ReplacePrefixMatch goes with PathPrefix matches only".into()
            })
        }
    }
}
