//! Which port of the pods a Service's port leads to, as EndpointSlices give it.

use std::collections::BTreeSet;

use crate::{
    view::View,
    world::{Claim, ServiceFacts, ServicePort, TargetPort},
};

/// The targetPorts behind one port of a Service: several where pods name them differently. Before there is any slice, the
/// number that the Service gives; where it gives a name, the pods' own ports of that name.
pub fn targets(view: &View<'_>, service: &ServiceFacts, port: &ServicePort) -> BTreeSet<u16> {
    let (namespace, name) = (&*service.id.namespace, &*service.id.name);
    let slices = view.slice_ports(namespace, name);
    let given: BTreeSet<u16> = slices
        .iter()
        .filter_map(|ports| ports.get(&port.name).copied())
        .collect();
    match (given.is_empty(), &port.target) {
        (false, _) => given,
        (true, TargetPort::Number(target)) => BTreeSet::from([*target]),
        (true, TargetPort::Name(target)) => view.pod_ports(namespace, name, target),
    }
}

/// The targetPorts of a Service that a route claims.
pub fn claimed(view: &View<'_>, claim: &Claim, service: &ServiceFacts) -> BTreeSet<u16> {
    let name = &*service.id.name;
    let ports = service
        .ports
        .iter()
        .filter(|port| claim.attaches(name, port.port));
    ports
        .flat_map(|port| targets(view, service, port))
        .collect()
}

/// A Service and all that share a pod with it, by name.
pub fn sharing_pods(view: &View<'_>, namespace: &str, service: &str) -> BTreeSet<String> {
    let groups = view.groups_with(namespace, service);
    let shared = groups
        .iter()
        .flat_map(|group| group.services().iter().cloned());
    shared.chain([service.to_owned()]).collect()
}
