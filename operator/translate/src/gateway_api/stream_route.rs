//! TLSRoutes and TCPRoutes: connections that are taken whole.

use sluice_crds::gateway_api::{
    BackendRef, ParentReference, StreamRule, TcpRouteSpec, TlsRouteSpec,
};
use sluice_snapshot::{ConfigError, ConfigReason, Unit, unit::StreamRoute};

use super::{
    backends,
    route::{self, Parents},
};
use crate::{
    finding::FindingReason,
    resolve::{self, Resolved, report::Report, seal},
    view::View,
    world::{GatewayApiSpec, ObjectId, Routed, TcpRouteFacts, TlsRouteFacts},
};

/// A TLSRoute.
pub(crate) fn tls(view: &View<'_>, facts: &TlsRouteFacts) -> Resolved {
    resolve(view, facts, |spec| &spec.rules)
}

/// A TCPRoute.
pub(crate) fn tcp(view: &View<'_>, facts: &TcpRouteFacts) -> Resolved {
    resolve(view, facts, |spec| &spec.rules)
}

fn resolve<S: GatewayApiSpec>(
    view: &View<'_>,
    facts: &Routed<S>,
    rules_of: impl for<'s> Fn(&'s S) -> &'s [StreamRule],
) -> Resolved {
    let Some(parents) = Parents::of(view, facts) else {
        return Resolved::default();
    };
    let id = &facts.custom.id;
    let mut report = Report::of(id);
    route::undecodable(&facts.custom, &mut report);
    let unit = match facts.custom.sound() {
        Some(spec) => {
            route::hostnames(spec.hostnames(), &mut report);
            made(view, id, rules_of(spec), &mut report)
        }
        None => broken(id, "the stored object does not decode"),
    };
    let mut resolved = Resolved::default();
    if let Some(name) = resolve::unit_of(id) {
        seal::other(name, Unit::StreamRoute(unit), &mut resolved, &mut report);
    }
    resolved.standing = Some(parents.standing(&mut report));
    resolved.findings = report.into_findings();
    resolved
}

fn broken(id: &ObjectId, what: &str) -> StreamRoute {
    StreamRoute {
        object: id.reference(),
        targets: Vec::new(),
        broken: Some(ConfigError::new(ConfigReason::Invalid, what)),
    }
}

fn made(view: &View<'_>, id: &ObjectId, rules: &[StreamRule], report: &mut Report) -> StreamRoute {
    let [only] = rules else {
        let what = "connections have one rule";
        report.add(FindingReason::UnsupportedValue, "spec.rules", what);
        return broken(id, what);
    };
    let StreamRule {
        name: _,
        backend_refs,
    } = only;
    if let Some(index) = backend_refs.iter().position(|one| !one.filters.is_empty()) {
        let what = "connections have no filters";
        let path = format!("spec.rules[0].backendRefs[{index}].filters");
        report.add(FindingReason::UnsupportedValue, &path, what);
        return broken(id, what);
    }
    StreamRoute {
        object: id.reference(),
        targets: backends::targets(view, id, "spec.rules[0]", backend_refs, report),
        broken: None,
    }
}

impl GatewayApiSpec for TlsRouteSpec {
    fn parent_refs(&self) -> &[ParentReference] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn backends(&self) -> Vec<&BackendRef> {
        let rules = self.rules.iter();
        rules.flat_map(|rule| &rule.backend_refs).collect()
    }
}

impl GatewayApiSpec for TcpRouteSpec {
    fn parent_refs(&self) -> &[ParentReference] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &[]
    }

    fn backends(&self) -> Vec<&BackendRef> {
        let rules = self.rules.iter();
        rules.flat_map(|rule| &rule.backend_refs).collect()
    }
}
