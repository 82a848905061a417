//! A resolved TLSRoute or TCPRoute: where the bytes of a connection go. Nothing of them is read but, for a listener that
//! lets TLS pass, the server name.

use serde::{Deserialize, Serialize};

use super::{ObjectRef, route::WeightedTarget};
use crate::{error::ConfigError, name::UnitName};

/// One TLSRoute or TCPRoute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRoute {
    /// The resource: `TLSRoute` or `TCPRoute`.
    pub object: ObjectRef,
    /// One of these has a connection, by weight; each a backend, or why there is none. Bytes have no headers: nothing is edited.
    pub targets: Vec<WeightedTarget>,
    /// The route cannot serve: its connections are closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<ConfigError>,
}

impl StreamRoute {
    pub(super) fn needs(&self) -> Vec<UnitName> {
        let targets = self.targets.iter().map(|weighted| &weighted.target);
        targets
            .filter_map(|target| target.unit())
            .cloned()
            .collect()
    }
}
