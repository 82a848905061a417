//! Backends, one for each port of a Service, and endpoints, one unit for each EndpointSlice.

use sluice_snapshot::{
    ConfigError, Unit, UnitName,
    unit::{
        Backend, Endpoints,
        backend::{BackendProtocol, BackendTls, Endpoint},
    },
};

use super::{Resolved, report::Report, seal};
use crate::{
    gateway_api::backend_tls,
    view::View,
    world::{EndpointFacts, Pods, ServiceFacts, ServicePort, SliceFacts},
};

/// What a Service says in `appProtocol` for HTTP/2 without TLS.
const H2C: &str = "kubernetes.io/h2c";

pub(super) fn backends(view: &View<'_>, service: &ServiceFacts) -> Resolved {
    let (namespace, name) = (&*service.id.namespace, &*service.id.name);
    let slices = view.slices_of(namespace, name);
    let endpoints: Vec<UnitName> = slices
        .iter()
        .map(|slice| UnitName::endpoints(namespace, slice))
        .collect();
    let mut report = Report::of(&service.id);
    let mut resolved = Resolved::default();
    for port in &service.ports {
        let tls = backend_tls::of_port(view, namespace, name, port);
        let unit = Unit::Backend(backend(service, port, endpoints.clone(), tls));
        let name = UnitName::backend(namespace, name, port.port);
        seal::other(name, unit, &mut resolved, &mut report);
    }
    resolved.findings = report.into_findings();
    resolved
}

fn backend(
    service: &ServiceFacts,
    port: &ServicePort,
    endpoints: Vec<UnitName>,
    tls: Option<Result<BackendTls, ConfigError>>,
) -> Backend {
    let (tls, broken) = match tls {
        None => (None, None),
        Some(Ok(tls)) => (Some(tls), None),
        Some(Err(error)) => (None, Some(error)),
    };
    Backend {
        namespace: service.id.namespace.to_string(),
        service: service.id.name.to_string(),
        port: port.port,
        port_name: port.name.clone(),
        protocol: protocol(port),
        endpoints,
        tls,
        broken,
    }
}

/// What the pods speak behind a port.
pub(crate) fn protocol(port: &ServicePort) -> BackendProtocol {
    match port.app_protocol.as_deref() {
        Some(H2C) => BackendProtocol::H2c,
        _ => BackendProtocol::Http1,
    }
}

/// The port at which the sidecar of an endpoint takes hops: its container declares it, so that one of an elder build does
/// not. Where there are no Pods, the slice says so for all of its endpoints.
pub(crate) fn hop(view: &View<'_>, slice: &SliceFacts, endpoint: &EndpointFacts) -> Option<u16> {
    match view.settings().pods {
        Pods::FromPods => {
            let (name, _) = endpoint.pod.as_ref()?;
            view.pod(&slice.id.namespace, name)?.hop
        }
        Pods::FromSlices => slice.hop,
    }
}

pub(super) fn endpoints(view: &View<'_>, slice: &SliceFacts) -> Resolved {
    let mut endpoints: Vec<Endpoint> = slice
        .endpoints
        .iter()
        .filter_map(|endpoint| {
            Some(Endpoint {
                address: endpoint.address?,
                ready: endpoint.ready && !endpoint.terminating,
                serving: endpoint.serving,
                hop: hop(view, slice, endpoint),
            })
        })
        .collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    let name = UnitName::endpoints(&slice.id.namespace, &slice.id.name);
    let unit = Endpoints {
        ports: slice.ports.clone(),
        endpoints,
    };
    let mut report = Report::of(&slice.id);
    let mut resolved = Resolved::default();
    seal::other(name, Unit::Endpoints(unit), &mut resolved, &mut report);
    resolved.findings = report.into_findings();
    resolved
}
