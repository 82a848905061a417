//! GRPCRoutes: a call is a request for `/<service>/<method>`, and from there on everything is as with HTTPRoutes.

use std::collections::BTreeSet;

use sluice_crds::gateway_api::{BackendRef, GrpcRouteRule, GrpcRouteSpec, ParentReference};

use super::{
    http_route::{mirrors, profiles},
    matches,
    route::{self, RuleSpec},
};
use crate::{
    resolve::Resolved,
    view::View,
    world::{GatewayApiSpec, GrpcRouteFacts},
};

pub(crate) fn resolve(view: &View<'_>, facts: &GrpcRouteFacts) -> Resolved {
    route::resolve(view, facts, rules)
}

fn rules(spec: &GrpcRouteSpec) -> Vec<RuleSpec<'_>> {
    spec.rules.iter().map(rule).collect()
}

fn rule(spec: &GrpcRouteRule) -> RuleSpec<'_> {
    let GrpcRouteRule {
        name,
        matches,
        filters,
        backend_refs,
        session_persistence,
    } = spec;
    let unread = session_persistence.as_ref().map(|_| "sessionPersistence");
    RuleSpec {
        name: name.as_deref(),
        matches: matches::grpc(matches),
        filters,
        backends: backend_refs,
        timeouts: None,
        ignored: unread.into_iter().collect(),
    }
}

impl GatewayApiSpec for GrpcRouteSpec {
    fn parent_refs(&self) -> &[ParentReference] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn backends(&self) -> Vec<&BackendRef> {
        let rules = self.rules.iter();
        rules
            .flat_map(|rule| rule.backend_refs.iter().chain(mirrors(&rule.filters)))
            .collect()
    }

    fn profiles(&self) -> Vec<&str> {
        profiles(self.rules.iter().flat_map(|rule| &rule.filters))
    }

    fn matches(&self) -> BTreeSet<String> {
        let rules = self.rules.iter();
        matches::texts(
            rules
                .filter_map(|rule| matches::grpc(&rule.matches).ok())
                .flatten(),
        )
    }
}
