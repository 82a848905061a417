//! Why a request belongs to the one rule and to none of the others: what the routing phase decides, told for every match
//! of a table. For people only; a request is never routed by it.

use std::{borrow::Cow, ptr};

use super::{Met, failing, hostname, meet};
use crate::{
    Facts,
    program::{Candidate, HostRules, Match, PathMatcher, Table, ValueMatcher},
    target::Target,
};

/// A part of a match.
#[derive(Debug, Clone, Copy)]
pub enum Condition<'p> {
    /// The path.
    Path(&'p PathMatcher),
    /// The method.
    Method(&'p str),
    /// A header.
    Header(&'p ValueMatcher),
    /// A query parameter.
    Query(&'p ValueMatcher),
    /// A cookie.
    Cookie(&'p ValueMatcher),
}

/// What became of one match.
#[derive(Debug, Clone, Copy)]
pub enum Standing<'p> {
    /// It has the request.
    Decides,
    /// All of it holds, and another goes before.
    Shadowed(Before),
    /// The first of its conditions that does not hold.
    Fails(Condition<'p>),
    /// It is another host's.
    OtherHost,
}

/// By what another goes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Its hostname is more specific.
    Hostname,
    /// Its match is more specific.
    Match,
    /// Its route is the elder, or its rule or match stands before in the same route.
    Order,
    /// The hostname is refused whole, because a route of it cannot serve.
    Denial,
}

/// One match under one hostname.
#[derive(Debug, Clone)]
pub struct Trace<'p> {
    /// The hostname, perhaps with `*.` before it; none is any.
    pub hostname: Option<Cow<'p, str>>,
    /// The match.
    pub candidate: &'p Candidate,
    /// What became of it.
    pub standing: Standing<'p>,
}

impl Trace<'_> {
    /// The match.
    pub fn spec(&self) -> &Match {
        self.candidate.spec()
    }
}

/// By what `decides` goes before a candidate of `rules`.
fn before(decides: Option<&Candidate>, candidate: &Candidate, rules: &HostRules) -> Before {
    let Some(decides) = decides else {
        return Before::Denial;
    };
    let rank = |candidate: &Candidate| (kind(candidate), candidate.spec().specificity());
    if !rules.all().any(|known| ptr::eq(known, decides)) {
        Before::Hostname
    } else if rank(decides) != rank(candidate) {
        Before::Match
    } else {
        Before::Order
    }
}

/// In which order the look-up asks the kinds of paths.
fn kind(candidate: &Candidate) -> u8 {
    match candidate.spec().path {
        PathMatcher::Exact(_) => 0,
        PathMatcher::Regex(_) => 1,
        PathMatcher::Prefix(_) => 2,
    }
}

/// Every match of a table: first those of the hostnames that [`super::find`] asks, in its order, then those of other
/// hosts by name.
pub fn trace<'p>(table: &'p Table, facts: &impl Facts, target: &Target) -> Vec<Trace<'p>> {
    let host = hostname(facts);
    let decides = match meet(table, &host, facts, target) {
        Some(Met::Candidate(candidate)) => Some(candidate),
        Some(Met::Denial(_)) | None => None,
    };
    let asked: Vec<&HostRules> = table.hosts(&host).collect();
    let mut traces: Vec<(usize, Trace<'p>)> = Vec::new();
    for (hostname, rules) in table.all() {
        let position = asked.iter().position(|asked| ptr::eq(*asked, rules));
        let compared: Vec<&Candidate> = match position {
            Some(_) => rules.candidates(target.path()).collect(),
            None => Vec::new(),
        };
        let standing = |candidate: &'p Candidate| {
            if position.is_none() {
                return Standing::OtherHost;
            }
            if decides.is_some_and(|decides| ptr::eq(decides, candidate)) {
                return Standing::Decides;
            }
            if !compared.iter().any(|known| ptr::eq(*known, candidate)) {
                return Standing::Fails(Condition::Path(&candidate.spec().path));
            }
            match failing(candidate.spec(), facts, target) {
                Some(condition) => Standing::Fails(condition),
                None => Standing::Shadowed(before(decides, candidate, rules)),
            }
        };
        let place = position.unwrap_or(asked.len());
        traces.extend(rules.all().map(|candidate| {
            let trace = Trace {
                hostname: hostname.clone(),
                candidate,
                standing: standing(candidate),
            };
            (place, trace)
        }));
    }
    traces.sort_by(|(place, trace), (other_place, other)| {
        let order = |trace: &Trace<'p>| (kind(trace.candidate), trace.candidate.rank());
        let places = place.cmp(other_place);
        places
            .then_with(|| trace.hostname.cmp(&other.hostname))
            .then_with(|| order(trace).cmp(&order(other)))
    });
    traces.into_iter().map(|(_, trace)| trace).collect()
}
