//! Which rules a port serves under which hostname: the look-up structure of the routing phase. The phase itself is
//! `crate::route`.

use std::{borrow::Cow, cmp::Ordering, iter, sync::Arc};

use sluice_snapshot::{ConfigError, UnitName, unit::backend::BackendProtocol};

use super::{
    Match, Route, Rule,
    matcher::{PathMatcher, Specificity},
};
use crate::{quick::QuickMap, reject::Decider};

/// The routes of one port.
#[derive(Debug, Default)]
pub struct Table {
    /// What the app speaks there.
    pub protocol: BackendProtocol,
    exact: QuickMap<Box<str>, HostRules>,
    /// Keyed by what follows the `*`: `.example.com`.
    wildcard: QuickMap<Box<str>, HostRules>,
    any: HostRules,
}

/// Everything that is served under one hostname.
#[derive(Debug, Default)]
pub struct HostRules {
    denied: Option<(Age, Denial)>,
    exact: QuickMap<Box<str>, Vec<Candidate>>,
    regex: Vec<Candidate>,
    /// Keyed by the prefix without the slash at its end.
    prefix: QuickMap<Box<str>, Vec<Candidate>>,
    longest_prefix: usize,
}

/// A route of the hostname cannot serve. Since nobody knows what it would have matched, nothing of the hostname is
/// served; no two accepted routes share a hostname, so no other route suffers.
#[derive(Debug, Clone)]
pub struct Denial {
    /// Why.
    pub error: ConfigError,
    /// The route.
    pub decider: Decider,
}

/// One match of one rule.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The route.
    pub route: Arc<Route>,
    /// The rule.
    pub rule: Arc<Rule>,
    /// Index into the rule's matches.
    pub match_index: usize,
    /// The route's place among the table's.
    age: Age,
}

/// A route's place among those of a table: elder first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Age {
    /// When it was created, or the place it was given: those of one table have all the one or all the other.
    created: i64,
    /// What decides between equals.
    unit: UnitName,
}

impl Age {
    pub(super) fn new(created: Option<i64>, unit: &UnitName) -> Self {
        Self {
            created: created.unwrap_or(i64::MAX),
            unit: unit.clone(),
        }
    }
}

impl Ord for Age {
    fn cmp(&self, other: &Self) -> Ordering {
        let created = self.created.cmp(&other.created);
        created.then_with(|| self.unit.by_object(&other.unit))
    }
}

impl PartialOrd for Age {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Table {
    /// An empty table of a port on which the app speaks `protocol`.
    pub(super) fn before(protocol: BackendProtocol) -> Self {
        Self {
            protocol,
            ..Self::default()
        }
    }

    /// A table that serves nothing and refuses everything.
    pub(super) fn denying(denial: Denial) -> Self {
        Self {
            any: HostRules {
                denied: Some((Age::new(None, &UnitName::settings()), denial)),
                ..HostRules::default()
            },
            ..Self::default()
        }
    }

    /// Denies `hostnames`; the elder denial stays.
    pub(super) fn deny(&mut self, hostnames: &[String], age: &Age, denial: &Denial) {
        self.each(hostnames, |rules| {
            let elder = rules.denied.as_ref();
            if elder.is_none_or(|(elder, _)| age < elder) {
                rules.denied = Some((age.clone(), denial.clone()));
            }
        });
    }

    /// Adds a route.
    pub(super) fn add(&mut self, hostnames: &[String], age: &Age, route: &Arc<Route>) {
        if let Some(error) = &route.broken {
            let decider = Decider {
                object: Some(route.object.clone()),
                part: None,
            };
            return self.deny(
                hostnames,
                age,
                &Denial {
                    error: error.clone(),
                    decider,
                },
            );
        }
        self.each(hostnames, |rules| {
            for rule in &route.rules {
                for match_index in 0..rule.matches.len() {
                    rules.add(Candidate {
                        route: route.clone(),
                        rule: rule.clone(),
                        match_index,
                        age: age.clone(),
                    });
                }
            }
        });
    }

    fn each(&mut self, hostnames: &[String], mut act: impl FnMut(&mut HostRules)) {
        if hostnames.is_empty() {
            act(&mut self.any);
        }
        for hostname in hostnames {
            act(match hostname.strip_prefix('*') {
                Some("") => &mut self.any,
                Some(suffix) => self.wildcard.entry(suffix.into()).or_default(),
                None => self.exact.entry(hostname.as_str().into()).or_default(),
            });
        }
    }

    /// Puts every list in order of precedence.
    pub(super) fn sort(&mut self) {
        let hosts = self
            .exact
            .values_mut()
            .chain(self.wildcard.values_mut())
            .chain(iter::once(&mut self.any));
        for rules in hosts {
            let lists = rules
                .exact
                .values_mut()
                .chain(iter::once(&mut rules.regex))
                .chain(rules.prefix.values_mut());
            for list in lists {
                list.sort_by(|one, other| one.rank().cmp(&other.rank()));
            }
        }
    }

    /// What is served under `host` (lower-case, without port), the most specific hostname first: the exact one, then
    /// wildcards from the longest, then routes without hostnames. A wildcard stands for one label or more (Gateway API,
    /// HTTPRouteSpec.hostnames).
    pub fn hosts<'p>(&'p self, host: &str) -> impl Iterator<Item = &'p HostRules> {
        let wildcards = host
            .match_indices('.')
            .filter_map(|(at, _)| self.wildcard.get(&host[at..]));
        self.exact
            .get(host)
            .into_iter()
            .chain(wildcards)
            .chain(iter::once(&self.any))
    }

    /// Every hostname, perhaps with `*.` before it, none for any, and what is served under it; in no order.
    pub fn all(&self) -> impl Iterator<Item = (Option<Cow<'_, str>>, &HostRules)> {
        let exact = self.exact.iter();
        let exact = exact.map(|(host, rules)| (Some(Cow::Borrowed(&**host)), rules));
        let wildcard = self.wildcard.iter();
        let wildcard =
            wildcard.map(|(suffix, rules)| (Some(Cow::Owned(format!("*{suffix}"))), rules));
        exact.chain(wildcard).chain(iter::once((None, &self.any)))
    }
}

impl HostRules {
    fn add(&mut self, candidate: Candidate) {
        match &candidate.spec().path {
            PathMatcher::Exact(path) => self
                .exact
                .entry(path.as_str().into())
                .or_default()
                .push(candidate),
            PathMatcher::Regex(_) => self.regex.push(candidate),
            PathMatcher::Prefix(prefix) => {
                self.longest_prefix = self.longest_prefix.max(prefix.len());
                self.prefix
                    .entry(prefix.as_str().into())
                    .or_default()
                    .push(candidate);
            }
        }
    }

    /// Whether nothing of the hostname may be served.
    pub fn denied(&self) -> Option<&Denial> {
        self.denied.as_ref().map(|(_, denial)| denial)
    }

    /// What may match a normalised path, in order of precedence: exact paths, then expressions, then prefixes, the longest
    /// first. The Gateway API leaves expressions open: they stand before prefixes because whoever writes one means those
    /// paths and not the prefix around them. Paths of exact and prefix matches have been compared here; an expression
    /// has not.
    pub fn candidates(&self, path: &str) -> impl Iterator<Item = &Candidate> {
        let exact = self.exact.get(path).into_iter().flatten();
        exact
            .chain(&self.regex)
            .chain(self.prefixes(path).flatten())
    }

    /// Every match, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Candidate> {
        let lists = self.exact.values().chain(iter::once(&self.regex));
        lists.chain(self.prefix.values()).flatten()
    }

    /// The lists of every prefix of whole segments, the longest first. A path may have thousands of segments, so only
    /// cuts that a prefix could have are looked up.
    fn prefixes<'p>(&'p self, path: &str) -> impl Iterator<Item = &'p Vec<Candidate>> {
        let bytes = path.as_bytes();
        let longest = self.longest_prefix.min(bytes.len());
        let cuts = (0..=longest)
            .rev()
            .filter(|cut| matches!(bytes.get(*cut), None | Some(b'/')));
        // Every cut is the end or stands before a slash: a character boundary.
        cuts.filter_map(|cut| self.prefix.get(path.get(..cut)?))
    }
}

impl Candidate {
    /// The match.
    pub fn spec(&self) -> &Match {
        &self.rule.matches[self.match_index]
    }

    /// The order of precedence, total: specificity, then the elder route, then the order within it.
    pub(crate) fn rank(&self) -> (Specificity, &Age, usize, usize) {
        (
            self.spec().specificity(),
            &self.age,
            self.rule.index,
            self.match_index,
        )
    }
}
