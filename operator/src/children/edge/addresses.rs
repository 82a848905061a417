//! Where clients reach an edge: what the provider of load balancers writes into its Service, else the Service's own address.

use std::{collections::HashMap, sync::Arc};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{Config, Event, watcher},
    },
};
use sluice_process::Shutdown;
use sluice_translate::world::GATEWAY_LABEL;

use super::{super::hpa::MANAGED_BY, Edges, Name};
use crate::status::store::FIELD_MANAGER;

/// Addresses of one Gateway that are published, as its CRD bounds them.
const MAX_ADDRESSES: usize = 16;

/// Where clients reach an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An IP address.
    Ip(String),
    /// A name.
    Hostname(String),
}

/// Follows the Services of edges until shutdown.
pub async fn follow(client: Client, edges: Arc<Edges>, shutdown: Shutdown) -> anyhow::Result<()> {
    let ours = Config::default().labels(&format!("{MANAGED_BY}={FIELD_MANAGER},{GATEWAY_LABEL}"));
    let mut events = watcher(Api::<Service>::all(client), ours)
        .default_backoff()
        .boxed();
    let mut known: HashMap<Name, Vec<Address>> = HashMap::new();
    let mut listing = HashMap::new();
    loop {
        let event = tokio::select! {
            () = shutdown.begun() => return Ok(()),
            event = events.next() => event,
        };
        match event {
            None => anyhow::bail!("the watch of edges' Services has ended"),
            Some(Err(error)) => tracing::warn!(%error, "watch of edges' Services"),
            Some(Ok(Event::Init)) => listing.clear(),
            Some(Ok(Event::InitApply(service))) => {
                listing.extend(gateway(&service).map(|name| (name, of(&service))));
            }
            Some(Ok(Event::InitDone)) => {
                let listed = std::mem::take(&mut listing);
                for gone in known.keys().filter(|name| !listed.contains_key(*name)) {
                    edges.change(gone, |state| state.addresses.clear());
                }
                for (name, addresses) in &listed {
                    edges.change(name, |state| state.addresses.clone_from(addresses));
                }
                known = listed;
            }
            Some(Ok(Event::Apply(service))) => {
                if let Some(name) = gateway(&service) {
                    let addresses = of(&service);
                    edges.change(&name, |state| state.addresses.clone_from(&addresses));
                    known.insert(name, addresses);
                }
            }
            Some(Ok(Event::Delete(service))) => {
                if let Some(name) = gateway(&service) {
                    edges.change(&name, |state| state.addresses.clear());
                    known.remove(&name);
                }
            }
        }
    }
}

/// The Gateway that a Service is of.
fn gateway(service: &Service) -> Option<Name> {
    let name = service.labels().get(GATEWAY_LABEL)?;
    Some((service.namespace().unwrap_or_default(), name.clone()))
}

/// The addresses of a Service.
fn of(service: &Service) -> Vec<Address> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let mut found: Vec<Address> = match balanced {
        true => {
            let status = service.status.as_ref();
            let ingress = status
                .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref())
                .into_iter()
                .flatten();
            let address = |entry: &k8s_openapi::api::core::v1::LoadBalancerIngress| {
                let ip = entry.ip.clone().map(Address::Ip);
                ip.or_else(|| entry.hostname.clone().map(Address::Hostname))
            };
            ingress.filter_map(address).collect()
        }
        false => {
            let ips = spec.cluster_ips.iter().flatten();
            ips.filter(|ip| *ip != "None")
                .cloned()
                .map(Address::Ip)
                .collect()
        }
    };
    found.truncate(MAX_ADDRESSES);
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(value: serde_json::Value) -> Service {
        serde_json::from_value(value).expect("a Service")
    }

    #[test]
    fn a_load_balancers_addresses_are_what_its_provider_wrote() {
        let mut balanced = json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.7"]}});
        assert_eq!(of(&service(balanced.clone())), [], "none is assigned yet");
        balanced["status"] =
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example"}]}});
        assert_eq!(
            of(&service(balanced)),
            [
                Address::Ip("192.0.2.1".into()),
                Address::Hostname("lb.example".into())
            ]
        );
    }

    #[test]
    fn other_services_have_their_own() {
        let own =
            service(json!({"spec": {"type": "ClusterIP", "clusterIPs": ["10.0.0.7", "fd00::7"]}}));
        assert_eq!(
            of(&own),
            [
                Address::Ip("10.0.0.7".into()),
                Address::Ip("fd00::7".into())
            ]
        );
        let headless = service(json!({"spec": {"clusterIPs": ["None"]}}));
        assert_eq!(of(&headless), []);
    }
}
