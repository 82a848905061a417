//! TLSRoutes and TCPRoutes with their targets at hand, and which of them a server name belongs to. What is chosen for a
//! connection is `crate::stream`.

use std::{collections::HashMap, sync::Arc};

use sluice_snapshot::{ConfigError, unit::ObjectRef};

use super::WeightedTarget;

/// One route of bytes.
#[derive(Debug)]
pub struct StreamRoute {
    /// The resource.
    pub object: ObjectRef,
    /// In the order of the resource.
    pub targets: Vec<WeightedTarget>,
    /// The sum of the weights.
    pub total: u64,
    /// The route cannot serve: its connections are closed.
    pub broken: Option<ConfigError>,
}

/// The routes of one listener by server name. Of those that fit the most specific has a connection, of equals the elder.
#[derive(Debug, Default)]
pub struct ServerNames {
    exact: HashMap<Box<str>, Arc<StreamRoute>>,
    /// Keyed by what follows the `*`.
    wildcard: HashMap<Box<str>, Arc<StreamRoute>>,
    any: Option<Arc<StreamRoute>>,
}

impl ServerNames {
    /// Adds a route that is younger than all before.
    pub(super) fn add(&mut self, hostnames: &[String], route: &Arc<StreamRoute>) {
        let any = hostnames.is_empty() || hostnames.iter().any(|name| name == "*");
        if any {
            self.any.get_or_insert_with(|| Arc::clone(route));
        }
        for hostname in hostnames.iter().filter(|name| *name != "*") {
            let (names, name) = match hostname.strip_prefix('*') {
                Some(suffix) => (&mut self.wildcard, suffix),
                None => (&mut self.exact, hostname.as_str()),
            };
            names
                .entry(name.into())
                .or_insert_with(|| Arc::clone(route));
        }
    }

    /// The route of a server name, which is in lower case; the empty name is that of a client that gave none.
    pub fn route(&self, server_name: &str) -> Option<&Arc<StreamRoute>> {
        let wildcard = || {
            let mut cuts = server_name.match_indices('.').filter(|(at, _)| *at > 0);
            cuts.find_map(|(at, _)| self.wildcard.get(&server_name[at..]))
        };
        let exact = self.exact.get(server_name);
        exact.or_else(wildcard).or(self.any.as_ref())
    }
}
