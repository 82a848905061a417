//! What translation keeps of Services and EndpointSlices: their ports, and who is behind them.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;

use super::id::{Kind, ObjectId, id_of};

/// The annotation of an EndpointSlice manifest with the port at which its pods' sidecars take hops.
const HOP_ANNOTATION: &str = "sluice.dev/hop-port";
/// The label by which an EndpointSlice names its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its name.
    pub id: ObjectId,
    /// Labels of its pods; empty where EndpointSlices alone say which they are.
    pub selector: BTreeMap<String, String>,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where it has none.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// The pods' port.
    pub target: TargetPort,
    /// What the pods speak there, as `appProtocol` has it.
    pub app_protocol: Option<String>,
}

/// How a Service names the pods' port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// By its number.
    Number(u16),
    /// By the name the pods give it.
    Name(String),
}

impl From<&Service> for ServiceFacts {
    fn from(service: &Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        // An ExternalName is a DNS alias: it has neither pods nor ports of ours.
        let alias = spec.type_.as_deref() == Some("ExternalName");
        let ports = spec.ports.unwrap_or_default();
        Self {
            id: id_of(Kind::Service, &service.metadata),
            selector: spec.selector.filter(|_| !alias).unwrap_or_default(),
            ports: ports
                .iter()
                .filter(|_| !alias)
                .filter_map(service_port)
                .collect(),
        }
    }
}

/// A port that one can listen on.
pub(super) fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn service_port(port: &k8s_openapi::api::core::v1::ServicePort) -> Option<ServicePort> {
    if !matches!(port.protocol.as_deref(), None | Some("TCP")) {
        return None;
    }
    let number = port_number(port.port)?;
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
        Some(IntOrString::Int(target)) => TargetPort::Number(port_number(*target)?),
        Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
    };
    Some(ServicePort {
        name: port.name.clone().unwrap_or_default(),
        port: number,
        target,
        app_protocol: port.app_protocol.clone(),
    })
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceFacts {
    /// Its name.
    pub id: ObjectId,
    /// The Service it belongs to.
    pub service: Option<String>,
    /// The port at which the sidecars of its endpoints take hops, where it says so: file mode alone believes it.
    pub hop: Option<u16>,
    /// TCP ports: name (empty where it has none) -> number.
    pub ports: BTreeMap<String, u16>,
    /// Its endpoints, in the slice's order.
    pub endpoints: Vec<EndpointFacts>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointFacts {
    /// Its address; none where the slice gives a DNS name or nonsense.
    pub address: Option<IpAddr>,
    /// May take new requests.
    pub ready: bool,
    /// Answers.
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// Name and uid of the pod behind it; an empty uid where the slice gives none.
    pub pod: Option<(String, String)>,
}

impl From<&EndpointSlice> for SliceFacts {
    fn from(slice: &EndpointSlice) -> Self {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let ports = slice.ports.iter().flatten();
        let endpoints = slice.endpoints.iter().flatten();
        Self {
            id: id_of(Kind::EndpointSlice, &slice.metadata),
            service: slice.labels().get(SERVICE_NAME_LABEL).cloned(),
            hop: slice
                .annotations()
                .get(HOP_ANNOTATION)
                .and_then(|port| port.parse().ok())
                .filter(|port| *port != 0),
            ports: ports
                .filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP")))
                .filter_map(|port| {
                    let number = port.port.and_then(port_number)?;
                    Some((port.name.clone().unwrap_or_default(), number))
                })
                .collect(),
            endpoints: endpoints.map(|one| endpoint(namespace, one)).collect(),
        }
    }
}

fn endpoint(namespace: &str, one: &k8s_openapi::api::discovery::v1::Endpoint) -> EndpointFacts {
    let conditions = one.conditions.clone().unwrap_or_default();
    // An absent condition means yes (ready, serving) or no (terminating), says the API.
    let ready = conditions.ready.unwrap_or(true);
    let target = one.target_ref.as_ref().filter(|target| {
        matches!(target.kind.as_deref(), Some("Pod"))
            && target.namespace.as_deref().unwrap_or(namespace) == namespace
    });
    EndpointFacts {
        address: one
            .addresses
            .first()
            .and_then(|address| address.parse().ok())
            .filter(|address: &IpAddr| !address.is_unspecified() && !address.is_multicast()),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        pod: target.and_then(|target| {
            Some((target.name.clone()?, target.uid.clone().unwrap_or_default()))
        }),
    }
}
