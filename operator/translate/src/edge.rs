//! What the operator is to run for a Gateway: the ports of its listeners, and what `infrastructure` and the ConfigMap that
//! `parametersRef` names say about it. How the objects look that come of it is the operator's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde_json::{Map, Value, json};
use sluice_crds::{
    common::Quantity,
    gateway_api::{GatewayAddress, GatewaySpec, Infrastructure},
    sluice_config::Edges,
};

use crate::{
    gateway_api::{class, listeners},
    view::View,
    world::{GatewayFacts, ObjectId},
};

/// Most pods that are asked for at first; an autoscaler may ask for more.
const MAX_REPLICAS: i32 = 100;
/// Pods at first, where nothing is said: one may go at any time.
const REPLICAS: i32 = 2;

/// The edge that should run for a Gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct EdgeIntent {
    /// The Gateway.
    pub gateway: ObjectId,
    /// Its uid.
    pub uid: String,
    /// Labels of every object that is made for it, from `infrastructure`.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the same.
    pub annotations: BTreeMap<String, String>,
    /// Ports that clients connect to; empty where no listener can be served, which is no reason to give an address up.
    pub ports: BTreeSet<u16>,
    /// Addresses that clients are to reach it at; empty: the provider of load balancers chooses.
    pub addresses: BTreeSet<IpAddr>,
    /// What the platform says about it.
    pub parameters: EdgeParameters,
}

/// What the ConfigMap of `infrastructure.parametersRef` may say.
#[derive(Debug, Clone, PartialEq)]
pub struct EdgeParameters {
    /// `serviceType`: how clients reach the Service.
    pub service_type: ServiceType,
    /// `replicas`: how many pods there are at first; from then on the number is the user's, or an autoscaler's.
    pub replicas: i32,
    /// `cpuRequest`, `cpuLimit`, `memoryRequest`, `memoryLimit`: as a container has them.
    pub resources: Value,
}

/// How clients reach a Service (Kubernetes' `spec.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceType {
    /// At an address that the cluster's provider assigns.
    LoadBalancer,
    /// At a port of every node.
    NodePort,
    /// From inside the cluster.
    ClusterIp,
}

impl ServiceType {
    /// As Kubernetes spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
            Self::ClusterIp => "ClusterIP",
        }
    }
}

impl Default for EdgeParameters {
    fn default() -> Self {
        Self {
            service_type: ServiceType::LoadBalancer,
            replicas: REPLICAS,
            // No CPU limit: throttling delays answers long before it saves anything.
            resources: json!({"requests": {"cpu": "100m", "memory": "64Mi"}}),
        }
    }
}

/// What a Gateway asks of its edge that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntentError {
    /// Not a ConfigMap.
    #[error(
        "infrastructure.parametersRef names {group:?}/{kind}: name a ConfigMap of the Gateway's namespace, group \"\""
    )]
    Kind {
        /// The group.
        group: String,
        /// The kind.
        kind: String,
    },
    /// An address that no Service can be asked for.
    #[error("spec.addresses has {type_} {value:?}: only addresses of type IPAddress are served")]
    Address {
        /// Its type, bounded.
        type_: String,
        /// Its value, bounded.
        value: String,
    },
    /// No such ConfigMap.
    #[error("infrastructure.parametersRef names ConfigMap {0}/{1}, which does not exist")]
    NotFound(String, String),
    /// An entry that says nothing usable.
    #[error("ConfigMap {map}: {entry} is {value:?}: {mend}")]
    Entry {
        /// Namespace and name of the ConfigMap.
        map: String,
        /// The entry.
        entry: String,
        /// What it is, bounded.
        value: String,
        /// What it should be.
        mend: &'static str,
    },
}

impl IntentError {
    /// The reason of `Accepted` (Gateway API, GatewayConditionReason).
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Address { .. } => "UnsupportedAddress",
            Self::Kind { .. } | Self::NotFound(..) | Self::Entry { .. } => "InvalidParameters",
        }
    }
}

/// The edge of a Gateway: `None` where the Gateway is not ours, an error where it is and cannot be read now: then what
/// runs stays as it is.
pub fn intent(view: &View<'_>, facts: &GatewayFacts) -> Option<Result<EdgeIntent, IntentError>> {
    let spec = facts.spec.as_ref()?;
    if !class::is_ours(view, &spec.gateway_class_name) {
        return None;
    }
    let (namespace, name) = (&facts.id.namespace, &facts.id.name);
    let served = listeners::served(view, namespace, name);
    let Infrastructure {
        labels,
        annotations,
        parameters_ref: _,
    } = spec.infrastructure.clone().unwrap_or_default();
    Some(asked(view, namespace, spec).map(|(addresses, parameters)| {
        EdgeIntent {
            gateway: facts.id.clone(),
            uid: facts.meta.uid.clone(),
            labels,
            annotations,
            ports: served
                .map(|served| served.listeners.iter().map(|found| found.port).collect())
                .unwrap_or_default(),
            addresses,
            parameters,
        }
    }))
}

/// What a Gateway asks of its edge: addresses and parameters.
pub fn asked(
    view: &View<'_>,
    namespace: &str,
    spec: &GatewaySpec,
) -> Result<(BTreeSet<IpAddr>, EdgeParameters), IntentError> {
    let addresses = addresses(&spec.addresses)?;
    Ok((addresses, parameters(view, namespace, spec)?))
}

/// The addresses that are asked for by value.
fn addresses(asked: &[GatewayAddress]) -> Result<BTreeSet<IpAddr>, IntentError> {
    const IP: &str = "IPAddress";
    let mut found = BTreeSet::new();
    for GatewayAddress { type_, value } in asked {
        let type_ = type_.as_deref().unwrap_or(IP);
        let value = value.as_deref().unwrap_or_default();
        match (type_, value.parse()) {
            (IP, Ok(address)) => drop(found.insert(address)),
            // Any address will do.
            (IP, Err(_)) if value.is_empty() => {}
            _ => {
                return Err(IntentError::Address {
                    type_: type_.chars().take(64).collect(),
                    value: value.chars().take(64).collect(),
                });
            }
        }
    }
    Ok(found)
}

/// What `infrastructure.parametersRef` says; the platform's defaults where there is none.
fn parameters(
    view: &View<'_>,
    namespace: &str,
    spec: &GatewaySpec,
) -> Result<EdgeParameters, IntentError> {
    let config = view.config();
    let defaults = EdgeParameters::of(config.as_ref().and_then(|config| config.edges.as_ref()));
    let infrastructure = spec.infrastructure.as_ref();
    let Some(reference) = infrastructure.and_then(|found| found.parameters_ref.as_ref()) else {
        return Ok(defaults);
    };
    if !matches!(reference.group.as_str(), "" | "core") || reference.kind != "ConfigMap" {
        return Err(IntentError::Kind {
            group: reference.group.clone(),
            kind: reference.kind.clone(),
        });
    }
    let Some(map) = view.authorities(namespace, &reference.name) else {
        let (namespace, name) = (namespace.to_owned(), reference.name.clone());
        return Err(IntentError::NotFound(namespace, name));
    };
    let mut found = defaults;
    for (entry, value) in &map.edge {
        found
            .take(entry, value.trim())
            .map_err(|mend| IntentError::Entry {
                map: format!("{namespace}/{}", reference.name),
                entry: entry.clone(),
                value: value.chars().take(64).collect(),
                mend,
            })?;
    }
    Ok(found)
}

/// Entries of a ConfigMap that are about an edge.
pub(crate) const ENTRIES: [&str; 6] = [
    "serviceType",
    "replicas",
    "cpuRequest",
    "cpuLimit",
    "memoryRequest",
    "memoryLimit",
];

impl EdgeParameters {
    /// The defaults of the platform, over ours.
    fn of(edges: Option<&Edges>) -> Self {
        let mut found = Self::default();
        let Some(Edges {
            replicas,
            resources,
        }) = edges
        else {
            return found;
        };
        found.replicas = replicas.unwrap_or(found.replicas);
        if let Some(resources) = resources {
            for (kind, amounts) in [
                ("requests", &resources.requests),
                ("limits", &resources.limits),
            ] {
                for (resource, amount) in amounts {
                    found.set(kind, resource, amount);
                }
            }
        }
        found
    }

    fn set(&mut self, kind: &str, resource: &str, amount: &Quantity) {
        if let Some(resources) = self.resources.as_object_mut() {
            let there = resources.entry(kind).or_insert(Value::Object(Map::new()));
            there[resource] = amount.as_str().into();
        }
    }

    fn take(&mut self, entry: &str, value: &str) -> Result<(), &'static str> {
        let (kind, resource) = match entry {
            "serviceType" => {
                let types = [
                    ServiceType::LoadBalancer,
                    ServiceType::NodePort,
                    ServiceType::ClusterIp,
                ];
                self.service_type = types
                    .into_iter()
                    .find(|known| known.as_str() == value)
                    .ok_or("write LoadBalancer, NodePort or ClusterIP")?;
                return Ok(());
            }
            "replicas" => {
                self.replicas = value
                    .parse()
                    .ok()
                    .filter(|number| (0..=MAX_REPLICAS).contains(number))
                    .ok_or("write a number from 0 to 100")?;
                return Ok(());
            }
            "cpuRequest" => ("requests", "cpu"),
            "cpuLimit" => ("limits", "cpu"),
            "memoryRequest" => ("requests", "memory"),
            "memoryLimit" => ("limits", "memory"),
            _ => return Err("there is no such entry"),
        };
        let quantity: Quantity = value
            .parse()
            .map_err(|_| "write a quantity, such as 500m or 128Mi")?;
        self.set(kind, resource, &quantity);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_platform_says_counts_before_what_we_say_and_after_the_gateway() {
        let edges: Edges = serde_json::from_value(json!({
            "replicas": 1,
            "resources": {"requests": {"cpu": "5m"}, "limits": {"memory": "1Gi"}},
        }))
        .expect("of the shape");
        let mut found = EdgeParameters::of(Some(&edges));
        assert_eq!(found.replicas, 1);
        assert_eq!(
            found.resources,
            json!({"requests": {"cpu": "5m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}})
        );
        found.take("replicas", "3").expect("a number");
        assert_eq!(found.replicas, 3);
        assert_eq!(EdgeParameters::of(None), EdgeParameters::default());
    }

    #[test]
    fn addresses_are_ip_addresses_or_none_in_particular() {
        let asked = |type_: Option<&str>, value: Option<&str>| {
            addresses(&[GatewayAddress {
                type_: type_.map(Into::into),
                value: value.map(Into::into),
            }])
        };
        let one = BTreeSet::from([IpAddr::from([192, 0, 2, 1])]);
        assert_eq!(asked(None, Some("192.0.2.1")), Ok(one.clone()));
        assert_eq!(asked(Some("IPAddress"), Some("192.0.2.1")), Ok(one));
        assert_eq!(asked(Some("IPAddress"), None), Ok(BTreeSet::new()));
        for (type_, value) in [
            (Some("Hostname"), Some("shop.example")),
            (Some("example.com/lease"), None),
            (None, Some("shop.example")),
        ] {
            let error = asked(type_, value).expect_err("no address");
            assert_eq!(error.reason(), "UnsupportedAddress");
        }
    }

    #[test]
    fn entries_are_read_and_what_is_none_is_refused() {
        let mut found = EdgeParameters::default();
        for (entry, value) in [
            ("serviceType", "ClusterIP"),
            ("replicas", "3"),
            ("cpuLimit", "2"),
            ("memoryRequest", "128Mi"),
        ] {
            found.take(entry, value).expect("readable");
        }
        assert_eq!(
            (found.service_type, found.replicas),
            (ServiceType::ClusterIp, 3)
        );
        assert_eq!(
            found.resources,
            json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2"}})
        );
        for (entry, value) in [
            ("serviceType", "ExternalName"),
            ("replicas", "-1"),
            ("replicas", "101"),
            ("cpuLimit", "much"),
            ("moon", "1"),
        ] {
            found.take(entry, value).expect_err(entry);
        }
    }
}
