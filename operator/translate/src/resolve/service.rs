//! Backends, one for each port of a Service, and endpoints, one unit for each EndpointSlice.

use std::collections::BTreeMap;

use sluice_snapshot::{
    Unit, UnitName,
    unit::{
        Backend, Endpoints,
        backend::{BackendProtocol, Endpoint},
    },
};

use super::Resolved;
use crate::{
    view::View,
    world::{ServiceFacts, ServicePort, SliceFacts},
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
    let units = service.ports.iter().map(|port| {
        let unit = backend(service, port, endpoints.clone());
        (
            UnitName::backend(namespace, name, port.port),
            Unit::Backend(unit),
        )
    });
    Resolved {
        units: units.collect(),
        ..Resolved::default()
    }
}

fn backend(service: &ServiceFacts, port: &ServicePort, endpoints: Vec<UnitName>) -> Backend {
    Backend {
        namespace: service.id.namespace.to_string(),
        service: service.id.name.to_string(),
        port: port.port,
        port_name: port.name.clone(),
        protocol: match port.app_protocol.as_deref() {
            Some(H2C) => BackendProtocol::H2c,
            _ => BackendProtocol::Http1,
        },
        endpoints,
    }
}

pub(super) fn endpoints(slice: &SliceFacts) -> Resolved {
    let mut endpoints: Vec<Endpoint> = slice
        .endpoints
        .iter()
        .filter_map(|endpoint| {
            Some(Endpoint {
                address: endpoint.address?,
                ready: endpoint.ready && !endpoint.terminating,
                serving: endpoint.serving,
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
    Resolved {
        units: BTreeMap::from([(name, Unit::Endpoints(unit))]),
        ..Resolved::default()
    }
}
