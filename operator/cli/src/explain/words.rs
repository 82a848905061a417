//! Parts of a route in words: conditions, what fails of them, filters, providers.

use sluice_pipeline::{
    Facts, auth,
    facts::StaticFacts,
    program::{Match, PathMatcher, Pattern, Rule, TargetEdits, ValueMatcher},
    route::Condition,
    target::Target,
};
use sluice_snapshot::unit::{
    ObjectRef,
    cache::{CacheRule, CacheScope},
    route::{HeaderEdits, RedirectPath},
};

/// The longest value that is quoted, in characters.
const QUOTED: usize = 80;

/// An object.
pub fn object(object: &ObjectRef) -> String {
    let ObjectRef {
        kind,
        namespace,
        name,
    } = object;
    format!("{kind} {namespace}/{name}")
}

/// A match.
pub fn spec(spec: &Match) -> String {
    let Match {
        path,
        method,
        headers,
        query,
        cookies,
    } = spec;
    let mut words = Vec::new();
    words.extend(method.clone());
    words.push(self::path(path));
    let mut add = |what: &str, list: &[ValueMatcher]| {
        words.extend(
            list.iter()
                .map(|matcher| format!("{what} {} {}", matcher.name, pattern(&matcher.value))),
        );
    };
    add("header", headers);
    add("query", query);
    add("cookie", cookies);
    words.join(", ")
}

fn path(path: &PathMatcher) -> String {
    match path {
        PathMatcher::Exact(path) => format!("path = {path}"),
        PathMatcher::Prefix(prefix) if prefix.is_empty() => "any path".to_owned(),
        PathMatcher::Prefix(prefix) => format!("path below {prefix}"),
        PathMatcher::Regex(regex) => format!("path ~ {}", unanchored(regex.as_str())),
    }
}

fn pattern(pattern: &Pattern) -> String {
    match pattern {
        Pattern::Exact(value) => format!("= {value:?}"),
        Pattern::Regex(regex) => format!("~ {}", unanchored(regex.as_str())),
    }
}

/// An expression as it was written.
fn unanchored(text: &str) -> &str {
    let inner = text.strip_prefix("^(?:");
    inner
        .and_then(|text| text.strip_suffix(")$"))
        .unwrap_or(text)
}

/// What fails of a match: its kind, and the words.
pub fn failure(
    condition: &Condition<'_>,
    facts: &StaticFacts,
    target: &Target,
) -> (&'static str, String) {
    let named = |what: &str, matcher: &ValueMatcher, value: Option<String>| {
        let name = &matcher.name;
        let wanted = pattern(&matcher.value);
        match value {
            None => format!("{what} {name} is not there; asked for {wanted}"),
            Some(value) => format!("{what} {name} is {:?}; asked for {wanted}", cut(&value)),
        }
    };
    match condition {
        Condition::Path(PathMatcher::Exact(path)) => {
            ("path", format!("the path {} is not {path}", target.path()))
        }
        Condition::Path(PathMatcher::Prefix(prefix)) => (
            "path",
            format!("the path {} is not below {prefix}", target.path()),
        ),
        Condition::Path(PathMatcher::Regex(regex)) => {
            let regex = unanchored(regex.as_str());
            (
                "path",
                format!("the path {} does not match {regex}", target.path()),
            )
        }
        Condition::Method(method) => (
            "method",
            format!("the method is {}, not {method}", facts.method()),
        ),
        Condition::Header(matcher) => {
            let lines: Vec<_> = facts
                .header(&matcher.name)
                .map(|line| String::from_utf8_lossy(line).into_owned())
                .collect();
            let value = (!lines.is_empty()).then(|| lines.join(", "));
            ("header", named("the header", matcher, value))
        }
        Condition::Query(matcher) => {
            let value = target.parameter(&matcher.name).map(|value| value.into());
            ("query", named("the query parameter", matcher, value))
        }
        Condition::Cookie(matcher) => {
            // Cookies are credentials more often than not: the value is not shown.
            let wanted = pattern(&matcher.value);
            let name = &matcher.name;
            (
                "cookie",
                format!("the cookie {name} is not there or has another value; asked for {wanted}"),
            )
        }
    }
}

fn cut(text: &str) -> String {
    match text.chars().count() > QUOTED {
        true => text.chars().take(QUOTED).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// What a rule changes of requests and answers.
pub fn filters(rule: &Rule) -> Vec<String> {
    let mut words = Vec::new();
    edits("request", &rule.request_headers, &mut words);
    if let Some(extras) = &rule.extras {
        if let Some(rewrite) = &extras.rewrite {
            let host = rewrite.hostname.iter().map(|host| format!("host {host}"));
            let path = rewrite.path.iter().map(|path| match path {
                RedirectPath::ReplaceFullPath(path) => format!("path {path}"),
                RedirectPath::ReplacePrefixMatch(prefix) => format!("prefix by {prefix}"),
            });
            let changes: Vec<String> = host.chain(path).collect();
            words.push(format!("rewrite: {}", changes.join(", ")));
        }
        for mirror in &extras.mirrors {
            let share = f64::from(mirror.numerator) * 100.0 / f64::from(mirror.denominator.max(1));
            words.push(match &mirror.backend {
                Ok(backend) => format!(
                    "mirror: {share:.1} % to {}/{}:{}",
                    backend.namespace, backend.service, backend.port
                ),
                Err(error) => format!("mirror: none, {}", error.message),
            });
        }
        if let Some(cors) = &extras.cors {
            words.push(format!("cors: origins {}", cors.allow_origins.join(" ")));
        }
    }
    edits("response", &rule.response_headers, &mut words);
    words
}

/// What is changed for one target alone.
pub fn target_edits(edits_of: &TargetEdits) -> Vec<String> {
    let mut words = Vec::new();
    edits("request", &edits_of.request, &mut words);
    edits("response", &edits_of.response, &mut words);
    words
}

fn edits(what: &str, edits: &HeaderEdits, words: &mut Vec<String>) {
    let HeaderEdits { remove, set, add } = edits;
    let pairs = |list: &[(String, String)]| {
        let pairs = list
            .iter()
            .map(|(name, value)| format!("{name}: {}", cut(value)));
        pairs.collect::<Vec<_>>().join("; ")
    };
    if !remove.is_empty() {
        words.push(format!("{what} headers: remove {}", remove.join(", ")));
    }
    if !set.is_empty() {
        words.push(format!("{what} headers: set {}", pairs(set)));
    }
    if !add.is_empty() {
        words.push(format!("{what} headers: add {}", pairs(add)));
    }
}

/// A provider with its method.
pub fn provider(provider: &auth::Provider) -> String {
    let method = match &provider.method {
        auth::Method::ApiKey(_) => "ApiKey",
        auth::Method::Signature(_) => "Signature",
        auth::Method::Jwt(_) => "Jwt",
        auth::Method::Hop(_) => "Hop",
        auth::Method::Broken(_) => "broken",
    };
    format!("{} ({method})", provider.name)
}

/// Caching of a rule.
pub fn cache(rule: &CacheRule) -> String {
    let CacheRule {
        scope,
        default_ttl_ms,
        ignored_query: _,
        key_headers,
        max_bytes,
    } = rule;
    let scope = match scope {
        CacheScope::Standard => "shared",
        CacheScope::Identity => "for each caller by itself",
    };
    let ttl = match default_ttl_ms {
        0 => "only what the origin gives a freshness".to_owned(),
        ttl => format!("{ttl} ms where the origin says nothing"),
    };
    let headers = match key_headers.as_slice() {
        [] => String::new(),
        some => format!(", by the headers {}", some.join(", ")),
    };
    format!("{scope}, {ttl}{headers}, at most {max_bytes} bytes")
}
