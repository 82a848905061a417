//! Who answers a rule's requests.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{GroupName, ObjectName, WrongMember, choice};

choice! {
    /// The kind of a backend.
    pub enum BackendKind {
        /// A core Service; the parent itself means the own app.
        Service,
        /// A ShardSet: the request's key decides.
        ShardSet,
    }
}

/// One backend with its share of the requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "(has(self.kind) && self.kind == 'ShardSet') ? (has(self.group) && self.group == 'sluice.dev') : (!has(self.group) || self.group == '')")
        .message("a ShardSet is of group sluice.dev, a Service of the core group (empty)"),
    validation = Rule::new("(has(self.kind) && self.kind == 'ShardSet') != has(self.port)")
        .message("a Service needs a port, a ShardSet has none")
)]
pub struct BackendRef {
    /// API group of the backend; empty, the default, for Services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Kind of the backend; Service by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<BackendKind>,
    /// Name of the backend, in the route's namespace.
    pub name: ObjectName,
    /// Port of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Share of the requests, in proportion to the sum of all weights; 1 by default, 0 takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub weight: Option<u32>,
}

/// What a [`BackendRef`] names, with no wrong state left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendTarget<'a> {
    /// A port of a Service.
    Service {
        /// Name of the Service.
        name: &'a ObjectName,
        /// Port of the Service.
        port: u16,
    },
    /// A ShardSet.
    ShardSet {
        /// Name of the ShardSet.
        name: &'a ObjectName,
    },
}

impl BackendRef {
    /// What it names.
    ///
    /// # Errors
    /// A Service without a port.
    pub fn target(&self) -> Result<BackendTarget<'_>, WrongMember> {
        let Self {
            group: _,
            kind,
            name,
            port,
            weight: _,
        } = self;
        match (kind.unwrap_or(BackendKind::Service), port) {
            (BackendKind::Service, Some(port)) => Ok(BackendTarget::Service { name, port: *port }),
            (BackendKind::Service, None) => Err(WrongMember::Missing {
                kind: "Service",
                member: "port",
            }),
            (BackendKind::ShardSet, None) => Ok(BackendTarget::ShardSet { name }),
            (BackendKind::ShardSet, Some(_)) => Err(WrongMember::Foreign {
                kind: "ShardSet",
                member: "port",
            }),
        }
    }

    /// The share of the requests, the default applied.
    pub fn effective_weight(&self) -> u32 {
        self.weight.unwrap_or(1)
    }
}
