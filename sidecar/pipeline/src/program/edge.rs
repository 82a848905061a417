//! Where an edge listens, and which listener a host belongs to. Of the listeners of one port the most specific hostname
//! has the request: the exact one, then wildcards from the longest, then the listener without hostname (Gateway API,
//! Gateway.spec.listeners).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use sluice_snapshot::{
    ConfigError, UnitName,
    unit::{
        self, Secret,
        inbound::ListenerUse,
        listener::{ListenerTls, Protocol},
    },
};

use super::{ServerNames, Table, table::Denial};
use crate::reject::Decider;

/// All listeners of an edge.
#[derive(Debug)]
pub struct Edge {
    ports: BTreeMap<u16, EdgePort>,
}

/// The listeners of one port.
#[derive(Debug, Default)]
pub struct EdgePort {
    listeners: Vec<Listener>,
    exact: HashMap<Box<str>, usize>,
    /// Keyed by what follows the `*`.
    wildcard: HashMap<Box<str>, usize>,
    any: Option<usize>,
}

/// One listener.
#[derive(Debug)]
pub struct Listener {
    /// Its unit.
    pub unit: UnitName,
    /// What it shows to clients; none: it speaks in the clear.
    pub tls: Option<Result<Certificates, ConfigError>>,
    /// What it serves, where it speaks HTTP.
    pub table: Table,
    /// Where its connections go, where it speaks none; none: it speaks HTTP.
    pub streams: Option<ServerNames>,
    /// TLS passes through it as it is.
    passes_tls: bool,
    port: u16,
    hostname: Option<Box<str>>,
}

/// The TLS of a listener.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// Certificates and their keys with the units they are of, the preferred first; those that are missing are left out,
    /// and one is there at least.
    pub secrets: Vec<(UnitName, Arc<Secret>)>,
    /// Authorities as PEM, of one of which each client must have a certificate.
    pub client_authorities: Option<Arc<str>>,
}

impl Edge {
    pub(super) fn new(listeners: impl Iterator<Item = Listener>) -> Self {
        let mut ports: BTreeMap<u16, EdgePort> = BTreeMap::new();
        for listener in listeners {
            ports.entry(listener.port).or_default().add(listener);
        }
        Self { ports }
    }

    /// The ports to listen on.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.keys().copied()
    }

    /// The listeners of a port.
    pub fn port(&self, port: u16) -> Option<&EdgePort> {
        self.ports.get(&port)
    }

    /// Every listener.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.ports.values().flat_map(|port| &port.listeners)
    }
}

impl EdgePort {
    fn add(&mut self, listener: Listener) {
        let index = self.listeners.len();
        match listener.hostname.as_deref() {
            None => self.any = Some(index),
            Some(host) => match host.strip_prefix('*') {
                Some(suffix) => drop(self.wildcard.insert(suffix.into(), index)),
                None => drop(self.exact.insert(host.into(), index)),
            },
        }
        self.listeners.push(listener);
    }

    /// Every one of them, in the order of the root unit.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter()
    }

    /// The listener of a host, which is in lower case and has no port.
    pub fn listener(&self, host: &str) -> Option<&Listener> {
        let wildcard = || {
            let mut cuts = host.match_indices('.').filter(|(at, _)| *at > 0);
            cuts.find_map(|(at, _)| self.wildcard.get(&host[at..]))
        };
        let index = self.exact.get(host).or_else(wildcard).copied();
        self.listeners.get(index.or(self.any)?)
    }

    /// Whether clients speak TLS here: the listeners of one port speak it all or none.
    pub fn is_tls(&self) -> bool {
        self.listeners
            .iter()
            .any(|listener| listener.tls.is_some() || listener.passes_tls)
    }

    /// Whether TLS of a client may pass here, so that its server name is to be seen before anything is answered.
    pub fn may_pass_tls(&self) -> bool {
        self.listeners.iter().any(|listener| listener.passes_tls)
    }

    /// The listener of a port that is not told by a name: one of protocol TCP.
    pub fn tcp(&self) -> Option<&Listener> {
        let mut listeners = self.listeners.iter();
        listeners.find(|listener| listener.is_tcp())
    }
}

impl Listener {
    pub(super) fn link(
        used: &ListenerUse,
        unit: &unit::Listener,
        table: Table,
        streams: ServerNames,
        secret: impl Fn(&UnitName) -> Result<Arc<Secret>, ConfigError>,
    ) -> Self {
        if let Some(error) = &unit.broken {
            let broken = Self::broken(used, error.clone());
            return match unit.protocol {
                // What it refuses, it refuses in the clear.
                Protocol::Http => Self {
                    tls: None,
                    ..broken
                },
                Protocol::Https | Protocol::Tls => broken,
                Protocol::Tcp => Self {
                    tls: None,
                    streams: Some(ServerNames::default()),
                    ..broken
                },
            };
        }
        let tls = match (unit.protocol, &unit.tls) {
            (Protocol::Http | Protocol::Tcp, _) | (Protocol::Tls, None) => None,
            (Protocol::Https | Protocol::Tls, Some(tls)) => Some(certificates(tls, secret)),
            (Protocol::Https, None) => return Self::broken(used, nothing()),
        };
        Self {
            unit: used.unit.clone(),
            passes_tls: unit.protocol == Protocol::Tls && tls.is_none(),
            tls,
            table,
            streams: unit.protocol.is_stream().then_some(streams),
            port: used.port,
            hostname: used.hostname.as_deref().map(Into::into),
        }
    }

    /// The hostname it serves, perhaps with `*.` before it; none is any.
    pub fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    /// Whether TLS passes through it as it is.
    pub fn passes_tls(&self) -> bool {
        self.passes_tls
    }

    /// Whether its connections are told apart by nothing.
    pub fn is_tcp(&self) -> bool {
        self.streams.is_some() && self.tls.is_none() && !self.passes_tls
    }

    /// One that refuses everything, handshakes too.
    pub(super) fn broken(used: &ListenerUse, error: ConfigError) -> Self {
        let table = Table::denying(Denial {
            error: error.clone(),
            decider: Decider::default(),
        });
        Self {
            unit: used.unit.clone(),
            tls: Some(Err(error)),
            passes_tls: false,
            table,
            streams: None,
            port: used.port,
            hostname: used.hostname.as_deref().map(Into::into),
        }
    }
}

fn nothing() -> ConfigError {
    ConfigError::new(
        sluice_snapshot::ConfigReason::Invalid,
        "an HTTPS listener without a certificate",
    )
}

fn certificates(
    tls: &ListenerTls,
    secret: impl Fn(&UnitName) -> Result<Arc<Secret>, ConfigError>,
) -> Result<Certificates, ConfigError> {
    let mut secrets = Vec::new();
    let mut missing = None;
    for name in &tls.certificates {
        match secret(name) {
            Ok(secret) => secrets.push((name.clone(), secret)),
            Err(error) => drop(missing.get_or_insert(error)),
        }
    }
    if secrets.is_empty() {
        return Err(missing.unwrap_or_else(nothing));
    }
    Ok(Certificates {
        secrets,
        client_authorities: tls.client_authorities.as_deref().map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(hostnames: &[Option<&str>]) -> EdgePort {
        let mut port = EdgePort::default();
        for (index, hostname) in hostnames.iter().enumerate() {
            let used = ListenerUse {
                unit: UnitName::listener("edge", "public", &format!("l{index}")),
                port: 443,
                hostname: hostname.map(str::to_owned),
                routes: Vec::new(),
            };
            port.add(Listener::broken(&used, nothing()));
        }
        port
    }

    #[test]
    fn the_most_specific_hostname_has_the_request() {
        let port = port(&[
            None,
            Some("*.example"),
            Some("*.a.example"),
            Some("b.a.example"),
        ]);
        for (host, listener) in [
            ("b.a.example", "l3"),
            ("c.a.example", "l2"),
            ("d.c.a.example", "l2"),
            ("a.example", "l1"),
            ("example", "l0"),
            (".example", "l0"),
            ("", "l0"),
        ] {
            let found = port.listener(host).expect("one of them");
            assert!(
                found.unit.as_str().ends_with(listener),
                "{host}: {}",
                found.unit
            );
        }
    }

    #[test]
    fn a_host_of_no_listener_has_none() {
        let port = port(&[Some("a.example")]);
        assert!(port.listener("b.example").is_none());
        assert!(port.listener("").is_none());
    }
}
