//! A snapshot compiled for look-up: what one request needs is reachable from its port's [`Table`] by reference. A
//! program never changes; the next snapshot makes the next program. It holds no live state: no buckets, no pools.
//!
//! What is missing or denied is present as a [`ConfigError`] at the place that needs it, and denies there and nowhere
//! else. Only a unit that does not compile at all ends the compilation: the sidecar refuses that snapshot.

mod backend;
mod check;
mod edge;
mod link;
mod matcher;
mod route;
mod stream;
mod table;

use std::{collections::BTreeMap, sync::Arc};

use sluice_snapshot::{
    ConfigError, ConfigReason, Hash, Unit, UnitMap, UnitName, Version,
    map::Hashed,
    unit::{Secret, Settings, Store, backend::BackendProtocol},
};

use crate::{auth::keyring::KeyRing, ratelimit::Policy, shard::CompiledShardMap};

pub use backend::{Backend, Tls};
pub use check::compile_unit;
pub use edge::{Certificates, Edge, EdgePort, Listener};
pub use matcher::{Match, PathMatcher, Pattern, ValueMatcher};
pub use route::{
    Action, Extras, Mirror, Requirement, Route, Rule, Target, TargetEdits, WeightedTarget,
};
pub use stream::{ServerNames, StreamRoute};
pub use table::{Candidate, Denial, HostRules, Table};

/// What a sidecar holds: decoded units by name.
#[derive(Debug, Clone, Default)]
pub struct UnitSet {
    /// The units.
    pub units: UnitMap<Held>,
}

/// One unit as it is held.
#[derive(Debug, Clone)]
pub struct Held {
    /// The hash of its body, also where the body is denied.
    pub hash: Hash,
    /// The body.
    pub content: Content,
}

impl PartialEq for Held {
    /// The hash stands for the body.
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.content, &other.content) {
            (Content::Unit(_), Content::Unit(_)) => true,
            (Content::Denied(ours), Content::Denied(theirs)) => ours == theirs,
            _ => false,
        };
        same && self.hash == other.hash
    }
}

impl Hashed for Held {
    fn hash(&self) -> &Hash {
        &self.hash
    }
}

/// The body of a unit.
#[derive(Debug, Clone)]
pub enum Content {
    /// Decoded.
    Unit(Arc<Unit>),
    /// Present, but not to be honoured by this sidecar: whatever needs it is refused.
    Denied(ConfigError),
}

/// A unit that does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unit {unit} does not compile: {reason}")]
pub struct CompileError {
    /// The unit.
    pub unit: UnitName,
    /// What is wrong and, where it can be told, what to write instead.
    pub reason: String,
}

impl UnitSet {
    /// The version of the snapshot: of its names and hashes.
    pub fn version(&self) -> Version {
        self.units.version()
    }
}

impl CompileError {
    /// What takes the unit's place in a set that shall serve all the same: what needs the unit is refused.
    pub fn denial(&self) -> Content {
        Content::Denied(ConfigError::new(ConfigReason::Invalid, self.reason.clone()))
    }
}

/// A compiled snapshot.
#[derive(Debug)]
pub struct Program {
    version: Version,
    namespace: String,
    trust_domain: String,
    settings: Settings,
    ports: Ports,
    edge: Option<Edge>,
    /// How many units were not taken from the previous program.
    compiled: usize,
    /// What the next program may keep of this one.
    parts: link::Parts,
    /// The name of the inbound unit.
    inbound: Option<UnitName>,
    units: UnitMap<Held>,
}

/// The tables of all ports.
#[derive(Debug)]
enum Ports {
    /// From the inbound unit.
    Tables(BTreeMap<u16, Table>),
    /// There is no inbound unit: which ports have routes is not known, so every port denies.
    Unknown(Box<Table>),
}

impl Program {
    /// What a sidecar has before its first snapshot: every port denies.
    pub fn empty() -> Self {
        link::compile(&UnitSet::default(), None)
            .expect("nothing is there that could fail to compile")
    }

    /// Compiles `set`. What did not change since `previous`, with all it needs, is taken from there.
    pub fn compile(set: &UnitSet, previous: Option<&Self>) -> Result<Self, CompileError> {
        link::compile(set, previous)
    }

    /// The version of the snapshot.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// How many units were compiled for it and not taken from its predecessor.
    pub fn compiled(&self) -> usize {
        self.compiled
    }

    /// Namespace of the group.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The trust domain of hop certificates.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// What the platform says once for every sidecar; where it says nothing, nothing in front is believed.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The routes of a port. None: the port has no route, its bytes pass as they are.
    pub fn table(&self, port: u16) -> Option<&Table> {
        match &self.ports {
            Ports::Tables(tables) => tables.get(&port),
            Ports::Unknown(table) => Some(table),
        }
    }

    /// What the app speaks on a port.
    pub fn app_protocol(&self, port: u16) -> BackendProtocol {
        self.table(port)
            .map(|table| table.protocol)
            .unwrap_or_default()
    }

    /// Where an edge listens. None: this is no edge.
    pub fn edge(&self) -> Option<&Edge> {
        self.edge.as_ref()
    }

    /// A route that is present and not denied.
    pub fn route(&self, name: &UnitName) -> Option<&Arc<Route>> {
        self.parts.routes.get(name)
    }

    /// A policy that can serve.
    pub fn policy(&self, name: &UnitName) -> Option<&Arc<Policy>> {
        self.parts.policies.get(name)?.as_ref().ok()
    }

    /// A backend.
    pub fn backend(&self, name: &UnitName) -> Option<&Arc<Backend>> {
        self.parts.backends.get(name)
    }

    /// A shard map.
    pub fn shard_map(&self, name: &UnitName) -> Option<&Arc<CompiledShardMap>> {
        self.parts.shard_maps.get(name)
    }

    /// A store.
    pub fn store(&self, name: &UnitName) -> Option<&Arc<Store>> {
        self.parts.stores.get(name)
    }

    /// A secret, for the credentials of a store.
    pub fn secret(&self, name: &UnitName) -> Option<&Arc<Secret>> {
        self.parts.secrets.get(name)
    }

    /// The keys of a provider.
    pub fn keyring(&self, name: &UnitName) -> Option<&Arc<KeyRing>> {
        self.parts.keyrings.get(name)?.as_ref().ok()
    }

    /// Among how many sidecars a limit is divided while its store does not answer; none: never heard.
    pub fn fleet(&self, name: &UnitName) -> Option<u32> {
        self.parts.fleets.get(name).copied()
    }

    /// Every store.
    pub fn stores(&self) -> impl Iterator<Item = (&UnitName, &Arc<Store>)> {
        self.parts.stores.iter()
    }

    /// Every shard map.
    pub fn shard_maps(&self) -> impl Iterator<Item = (&UnitName, &Arc<CompiledShardMap>)> {
        self.parts.shard_maps.iter()
    }

    /// Every backend.
    pub fn backends(&self) -> impl Iterator<Item = (&UnitName, &Arc<Backend>)> {
        self.parts.backends.iter()
    }
}

#[cfg(test)]
mod tests;
