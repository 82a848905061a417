//! A Service port with the addresses of all its slices merged. Which of them is healthy is live state and not here.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use sluice_snapshot::{
    Hash, UnitName,
    unit::{
        self, Endpoints,
        backend::{BackendProtocol, BackendTls},
    },
};

/// How connections to a backend are protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The same for the same demands, whatever program they are of: what is pooled by it outlives programs.
    pub id: Hash,
    /// What is asked of them.
    pub asked: BackendTls,
}

impl Tls {
    fn of(asked: BackendTls) -> Self {
        let BackendTls {
            policy,
            server_name,
            roots,
            sans,
        } = &asked;
        let text = format!("{policy:?}\n{server_name}\n{roots:?}\n{sans:?}");
        Self {
            id: Hash::of(text.as_bytes()),
            asked,
        }
    }
}

/// Where a forward can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The unit.
    pub name: UnitName,
    /// Namespace of the Service.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// What the endpoints speak.
    pub protocol: BackendProtocol,
    /// How connections are protected; none: they are in the clear.
    pub tls: Option<Arc<Tls>>,
    /// Endpoints that may take new requests, sorted.
    pub ready: Vec<SocketAddr>,
    /// Endpoints that terminate but still answer, sorted: used only where none is ready.
    pub serving: Vec<SocketAddr>,
    /// Endpoints whose sidecar takes hops, with the port where it does.
    pub hops: BTreeMap<SocketAddr, u16>,
}

impl Backend {
    /// Merges `slices`. A slice without the backend's port adds nothing.
    pub(super) fn link<'a>(
        name: &UnitName,
        unit: &unit::Backend,
        slices: impl Iterator<Item = &'a Endpoints>,
    ) -> Self {
        let unit::Backend {
            namespace,
            service,
            port,
            port_name,
            protocol,
            endpoints: _,
            tls,
            broken: _, // whoever needs it is told so instead
        } = unit;
        let (mut ready, mut serving) = (Vec::new(), Vec::new());
        let mut hops = BTreeMap::new();
        for slice in slices {
            let Some(&port) = slice.ports.get(port_name) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let address = SocketAddr::new(endpoint.address, port);
                hops.extend(endpoint.hop.map(|hop| (address, hop)));
                if endpoint.ready {
                    ready.push(address);
                } else if endpoint.serving {
                    serving.push(address);
                }
            }
        }
        for list in [&mut ready, &mut serving] {
            list.sort_unstable();
            // While a slice is split, an address can stand in two of them.
            list.dedup();
        }
        Self {
            name: name.clone(),
            namespace: namespace.clone(),
            service: service.clone(),
            port: *port,
            protocol: *protocol,
            tls: tls.clone().map(|asked| Arc::new(Tls::of(asked))),
            ready,
            serving,
            hops,
        }
    }

    /// Where the sidecar of an endpoint takes hops. What a BackendTLSPolicy protects is spoken to as that asks.
    pub fn hop(&self, endpoint: SocketAddr) -> Option<u16> {
        match self.tls {
            None => self.hops.get(&endpoint).copied(),
            Some(_) => None,
        }
    }

    /// The addresses to choose from: the ready ones, or those that still answer where none is ready.
    pub fn endpoints(&self) -> &[SocketAddr] {
        if self.ready.is_empty() {
            &self.serving
        } else {
            &self.ready
        }
    }
}
