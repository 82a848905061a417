//! The routing phase: which rule a request belongs to.
//!
//! Precedence follows the Gateway API (HTTPRoute): first the hostname, from the most specific to none; of the first
//! hostname under which any rule matches, the most specific match (`program::HostRules::candidates`), then the elder
//! route, then the order of rules and matches. So a request goes on to a less specific hostname only where *no* rule of
//! the more specific one matches. Where a route of a hostname cannot serve, the hostname is refused and nothing less
//! specific is asked.

use std::{borrow::Cow, sync::Arc};

use sluice_snapshot::ConfigError;

use crate::{
    Decider, Facts, Reject, RejectReason, admit,
    program::{Candidate, Denial, EdgePort, Match, PathMatcher, Route, Rule, Table, ValueMatcher},
    target::Target,
};

mod trace;

pub use trace::{Before, Condition, Standing, Trace, trace};

/// The rule that a request belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'p> {
    /// Its route.
    pub route: &'p Arc<Route>,
    /// The rule.
    pub rule: &'p Arc<Rule>,
    /// Which of the rule's matches.
    pub match_index: usize,
}

/// Finds the rule. Nothing is allocated where the host is in lower case and no header comes twice.
pub fn find<'p>(
    table: &'p Table,
    facts: &impl Facts,
    target: &Target,
) -> Result<Matched<'p>, Reject> {
    match meet(table, &hostname(facts), facts, target) {
        None => Err(Reject::new(RejectReason::NoRoute)),
        Some(Met::Denial(denial)) => Err(misconfigured(&denial.error, denial.decider.clone())),
        Some(Met::Candidate(Candidate {
            route,
            rule,
            match_index,
            ..
        })) => match &rule.broken {
            Some(error) => Err(misconfigured(error, rule.decider())),
            None => Ok(Matched {
                route,
                rule,
                match_index: *match_index,
            }),
        },
    }
}

/// What a request comes to.
#[derive(Clone, Copy)]
enum Met<'p> {
    Denial(&'p Denial),
    Candidate(&'p Candidate),
}

/// The first that applies, whether it can serve or not.
fn meet<'p>(table: &'p Table, host: &str, facts: &impl Facts, target: &Target) -> Option<Met<'p>> {
    table.hosts(host).find_map(|rules| match rules.denied() {
        Some(denial) => Some(Met::Denial(denial)),
        None => rules
            .candidates(target.path())
            .find(|candidate| failing(candidate.spec(), facts, target).is_none())
            .map(Met::Candidate),
    })
}

impl Matched<'_> {
    /// The match.
    pub fn spec(&self) -> &Match {
        &self.rule.matches[self.match_index]
    }

    /// The rule, for the access log.
    pub fn decider(&self) -> Decider {
        self.rule.decider()
    }

    /// A refusal that the rule decided.
    pub fn reject(&self, reason: RejectReason) -> Reject {
        Reject::new(reason).by(self.decider())
    }

    /// Whether the request keeps to the sizes of its route: [`admit::within`].
    pub fn within(&self, facts: &impl Facts, content_length: Option<u64>) -> Result<(), Reject> {
        admit::within(&self.route.limits, facts, content_length)
            .map_err(|reject| reject.by(self.decider()))
    }

    /// A path parameter: a named group of the expression that matched, as it stands in the normalised path.
    pub fn parameter(&self, name: &str, target: &Target) -> Option<String> {
        match &self.spec().path {
            PathMatcher::Regex(regex) => Some(
                regex
                    .captures(target.path())?
                    .name(name)?
                    .as_str()
                    .to_owned(),
            ),
            PathMatcher::Exact(_) | PathMatcher::Prefix(_) => None,
        }
    }
}

/// A refusal for a problem of configuration.
pub(crate) fn misconfigured(error: &ConfigError, decider: Decider) -> Reject {
    Reject::new(RejectReason::Config(error.reason))
        .by(decider)
        .detail(&error.message)
}

/// What a listener of an edge serves. A client that asked for one host in its handshake and for another here, which is
/// another listener's, is sent back to connect for that one: what it proved to the one holds nothing for the other
/// (RFC 9110 section 15.5.20).
pub fn at_edge<'p>(
    port: &'p EdgePort,
    server_name: Option<&str>,
    facts: &impl Facts,
) -> Result<&'p Table, Reject> {
    let listener = port
        .listener(&hostname(facts))
        .ok_or_else(|| Reject::new(RejectReason::NoRoute).detail("no listener has this host"))?;
    if listener.tls.is_some() || listener.passes_tls() {
        let met = port.listener(server_name.unwrap_or_default());
        if met.is_none_or(|met| met.unit != listener.unit) {
            return Err(Reject::new(RejectReason::Misdirected));
        }
    }
    Ok(&listener.table)
}

/// The host a request names: lower-case, without port and without the dot of the root.
pub fn hostname(facts: &impl Facts) -> Cow<'_, str> {
    let host = facts
        .authority()
        .and_then(admit::split_authority)
        .map_or("", |(host, _)| host);
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// The first condition that a request does not meet. Exact paths and prefixes the look-up has compared before.
fn failing<'p>(spec: &'p Match, facts: &impl Facts, target: &Target) -> Option<Condition<'p>> {
    let Match {
        path,
        method,
        headers,
        query,
        cookies,
    } = spec;
    if let PathMatcher::Regex(regex) = path
        && !regex.is_match(target.path())
    {
        return Some(Condition::Path(path));
    }
    if let Some(method) = method
        && method != facts.method()
    {
        return Some(Condition::Method(method));
    }
    if let Some(header) = headers.iter().find(|header| !header_matches(header, facts)) {
        return Some(Condition::Header(header));
    }
    let asked = |parameter: &ValueMatcher| {
        let value = target.parameter(&parameter.name);
        value.is_some_and(|value| parameter.value.matches(value.as_bytes()))
    };
    if let Some(parameter) = query.iter().find(|parameter| !asked(parameter)) {
        return Some(Condition::Query(parameter));
    }
    let kept = |cookie: &ValueMatcher| {
        cookie_value(facts, &cookie.name).is_some_and(|value| cookie.value.matches(value))
    };
    cookies
        .iter()
        .find(|cookie| !kept(cookie))
        .map(Condition::Cookie)
}

/// Several lines of a header are one value with commas between (RFC 9110 section 5.3): a request cannot show a policy
/// one line and the app another.
fn header_matches(matcher: &ValueMatcher, facts: &impl Facts) -> bool {
    let mut lines = facts.header(&matcher.name);
    match (lines.next(), lines.next()) {
        (None, _) => false,
        (Some(line), None) => matcher.value.matches(line),
        (Some(first), Some(second)) => {
            let mut value = first.to_vec();
            for line in std::iter::once(second).chain(lines) {
                value.extend_from_slice(b", ");
                value.extend_from_slice(line);
            }
            matcher.value.matches(&value)
        }
    }
}

/// The first cookie of a name (RFC 6265 section 4.2.1).
fn cookie_value<'a>(facts: &'a impl Facts, name: &str) -> Option<&'a [u8]> {
    facts
        .header("cookie")
        .flat_map(|line| line.split(|byte| *byte == b';'))
        .find_map(|pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=')?;
            (pair[..at] == *name.as_bytes()).then(|| &pair[at + 1..])
        })
}

#[cfg(test)]
mod tests;
