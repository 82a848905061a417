//! Where a rule leads: Services, of other namespaces only with their consent. A backendRef that cannot serve refuses its own
//! share.

use sluice_crds::gateway_api::BackendRef;
use sluice_snapshot::{
    ConfigError, ConfigReason, UnitName,
    unit::route::{HeaderEdits, Target, WeightedTarget},
};

use super::{
    filters::{self, Fault},
    grants,
};
use crate::{
    finding::FindingReason,
    resolve::{api_route::backends::exists, report::Report},
    view::View,
    world::{ObjectId, is_service},
};

/// The targets of a rule; never empty.
pub(super) fn targets(
    view: &View<'_>,
    route: &ObjectId,
    path: &str,
    refs: &[BackendRef],
    report: &mut Report,
) -> Vec<WeightedTarget> {
    let target = |(index, backend): (usize, &BackendRef)| {
        let path = format!("{path}.backendRefs[{index}]");
        let mut target = target(view, route, backend, &path, report);
        let edits = filters::of_backend(&backend.filters);
        let (request_headers, response_headers) = edits.unwrap_or_else(|(reason, error)| {
            report.add(reason, &format!("{path}.filters"), &error.message);
            target = Target::Broken(error);
            Default::default()
        });
        WeightedTarget {
            weight: backend.weight.unwrap_or(1),
            target,
            request_headers,
            response_headers,
        }
    };
    let targets: Vec<_> = refs.iter().enumerate().map(target).collect();
    match targets.iter().any(|target| target.weight > 0) {
        true => targets,
        false => vec![nobody()],
    }
}

/// What a rule that leads nowhere has for a target: its owner wrote it so, and nothing is wrong with it.
fn nobody() -> WeightedTarget {
    let what = "the rule has no backendRef with a weight";
    WeightedTarget {
        weight: 1,
        target: Target::Broken(ConfigError::new(ConfigReason::BackendNotFound, what)),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    }
}

/// One backend, or what refuses in its place.
pub(super) fn target(
    view: &View<'_>,
    route: &ObjectId,
    backend: &BackendRef,
    path: &str,
    report: &mut Report,
) -> Target {
    match one(view, route, backend) {
        Ok(unit) => Target::Backend(unit),
        Err((reason, error)) => {
            report.add(reason, path, &error.message);
            Target::Broken(error)
        }
    }
}

fn one(view: &View<'_>, route: &ObjectId, backend: &BackendRef) -> Result<UnitName, Fault> {
    if !is_service(backend) {
        let kind = backend.kind.as_deref().unwrap_or("Service");
        let what = format!("{kind} is no kind of backend here, Service is");
        return Err(filters::fault(FindingReason::InvalidKind, what));
    }
    let name = &backend.name;
    let namespace = backend.namespace.as_deref().unwrap_or(&route.namespace);
    if !grants::permits(view, route, "Service", namespace, name) {
        let what = grants::missing(route, "Service", namespace, name);
        return Err(filters::fault(FindingReason::RefNotPermitted, what));
    }
    let Some(port) = backend.port else {
        let error = ConfigError::new(
            ConfigReason::BackendNotFound,
            format!("the reference to Service {namespace}/{name} names no port"),
        );
        return Err((FindingReason::BackendNotFound, error));
    };
    exists(view, namespace, name, port)
        .map(|_| UnitName::backend(namespace, name, port))
        .map_err(|error| (error.reason.into(), error))
}
