//! Puts a program together: compiles each unit, gives it what it needs, and keeps what did not change. What changed is what
//! the set does not share with that of the previous program, and whatever needs any of it.

mod route;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_snapshot::{
    ConfigError, ConfigReason, Unit, UnitKind, UnitMap, UnitName,
    unit::{
        self, Inbound, Keys, LimitPolicy, Secret, Settings, Store,
        backend::BackendProtocol,
        inbound::{InboundPort, RouteUse},
        policy::Scope,
        table::ListenerRoutes,
    },
};

use super::{
    Backend, CompileError, Content, Edge, Held, Listener, Ports, Program, Route, ServerNames,
    StreamRoute, Table, UnitSet, compile_unit,
    table::{Age, Denial},
};
use crate::{auth::keyring::KeyRing, ratelimit::Policy, reject::Decider, shard::CompiledShardMap};

/// Everything compiled, by unit name. A program shares with its predecessor what both have.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    pub routes: UnitMap<Arc<Route>>,
    pub stream_routes: UnitMap<Arc<StreamRoute>>,
    pub policies: UnitMap<Result<Arc<Policy>, ConfigError>>,
    pub backends: UnitMap<Arc<Backend>>,
    pub shard_maps: UnitMap<Arc<CompiledShardMap>>,
    pub stores: UnitMap<Arc<Store>>,
    pub secrets: UnitMap<Arc<Secret>>,
    pub keyrings: UnitMap<Result<Arc<KeyRing>, ConfigError>>,
    pub fleets: UnitMap<u32>,
}

impl Parts {
    fn forget(&mut self, name: &UnitName) {
        match name.kind() {
            UnitKind::Route => drop(self.routes.remove(name)),
            UnitKind::StreamRoute => drop(self.stream_routes.remove(name)),
            UnitKind::Policy => drop(self.policies.remove(name)),
            UnitKind::Backend => drop(self.backends.remove(name)),
            UnitKind::ShardMap => drop(self.shard_maps.remove(name)),
            UnitKind::Store => drop(self.stores.remove(name)),
            UnitKind::Secret => drop(self.secrets.remove(name)),
            UnitKind::Keys => drop(self.keyrings.remove(name)),
            UnitKind::Fleet => drop(self.fleets.remove(name)),
            UnitKind::Inbound
            | UnitKind::Endpoints
            | UnitKind::Settings
            | UnitKind::Listener
            | UnitKind::Table => {}
        }
    }
}

/// See [`Program::compile`].
pub(super) fn compile(set: &UnitSet, previous: Option<&Program>) -> Result<Program, CompileError> {
    let nothing = UnitMap::new();
    let former = previous.map_or(&nothing, |previous| &previous.units);
    let changed = set.units.changed_since(former);
    let inbound = inbound(set, previous, &changed)?;
    check(set, &changed)?;
    let dirty = dirty(set, changed);
    let mut parts = previous.map_or_else(Parts::default, |previous| previous.parts.clone());
    dirty.iter().for_each(|name| parts.forget(name));
    let mut linker = Linker {
        set,
        previous,
        dirty,
        inbound,
        parts,
    };
    linker.leaves();
    linker.keyrings();
    linker.backends();
    linker.shard_maps();
    linker.policies();
    linker.routes();
    linker.stream_routes();
    let Root {
        namespace,
        trust_domain,
        settings,
        ports,
    } = linker.root();
    let edge = match &ports {
        Ports::Tables(_) => linker.edge(),
        Ports::Unknown(_) => None,
    };
    Ok(Program {
        version: set.version(),
        namespace,
        trust_domain,
        settings,
        ports,
        edge,
        compiled: linker.dirty.len(),
        inbound: linker.inbound,
        units: set.units.clone(),
        parts: linker.parts,
    })
}

/// The inbound unit, whether it is denied or not.
fn inbound(
    set: &UnitSet,
    previous: Option<&Program>,
    changed: &[UnitName],
) -> Result<Option<UnitName>, CompileError> {
    let former = previous.and_then(|previous| previous.inbound.as_ref());
    let inbound = |name: &&UnitName| name.kind() == UnitKind::Inbound;
    let candidates = former.into_iter().chain(changed.iter().filter(inbound));
    let there: BTreeSet<&UnitName> = candidates
        .filter(|name| set.units.contains_key(name))
        .collect();
    let mut there = there.into_iter();
    match (there.next(), there.next()) {
        (_, Some(second)) => Err(CompileError {
            unit: second.clone(),
            reason: "a snapshot has one inbound unit".into(),
        }),
        (first, None) => Ok(first.cloned()),
    }
}

/// Checks every unit that the previous program did not hold so.
fn check(set: &UnitSet, changed: &[UnitName]) -> Result<(), CompileError> {
    for name in changed {
        if let Some(Content::Unit(unit)) = set.units.get(name).map(|held| &held.content) {
            compile_unit(name, unit)?;
        }
    }
    Ok(())
}

/// What changed, and whatever needs any of it. Needs are a tree by kind (`compile_unit` sees to it), so this ends.
fn dirty(set: &UnitSet, changed: Vec<UnitName>) -> BTreeSet<UnitName> {
    let mut dirty: BTreeSet<UnitName> = changed.into_iter().collect();
    // Who needs these is linked anew each time: the root.
    let is_leaf = |name: &UnitName| {
        matches!(
            name.kind(),
            UnitKind::Route
                | UnitKind::StreamRoute
                | UnitKind::Table
                | UnitKind::Inbound
                | UnitKind::Listener
                | UnitKind::Settings
        )
    };
    let mut news: BTreeSet<UnitName> = dirty
        .iter()
        .filter(|name| !is_leaf(name))
        .cloned()
        .collect();
    while !news.is_empty() {
        let needs_any = |held: &Held| match &held.content {
            Content::Unit(unit) => unit.needs().iter().any(|need| news.contains(need)),
            Content::Denied(_) => false,
        };
        let found: Vec<UnitName> = set
            .units
            .iter()
            .filter(|(name, held)| !dirty.contains(*name) && needs_any(held))
            .map(|(name, _)| name.clone())
            .collect();
        news = found
            .iter()
            .filter(|name| !is_leaf(name))
            .cloned()
            .collect();
        dirty.extend(found);
    }
    dirty
}

/// What the inbound unit says, linked.
struct Root {
    namespace: String,
    trust_domain: String,
    settings: Settings,
    ports: Ports,
}

impl Root {
    /// Nothing is known: every port denies.
    fn denying(error: ConfigError) -> Self {
        let decider = Decider::default();
        Self {
            namespace: String::new(),
            trust_domain: String::new(),
            settings: Settings::default(),
            ports: Ports::Unknown(Box::new(Table::denying(Denial { error, decider }))),
        }
    }
}

struct Linker<'a> {
    set: &'a UnitSet,
    previous: Option<&'a Program>,
    /// What is to be compiled.
    dirty: BTreeSet<UnitName>,
    inbound: Option<UnitName>,
    parts: Parts,
}

impl<'a> Linker<'a> {
    /// Every unit that is to be compiled and not denied.
    fn units(&self) -> Vec<(UnitName, &'a Unit)> {
        let dirty = self.dirty.iter();
        dirty
            .filter_map(|name| Some((name.clone(), self.unit(name)?)))
            .collect()
    }

    fn unit(&self, name: &UnitName) -> Option<&'a Unit> {
        match &self.set.units.get(name)?.content {
            Content::Unit(unit) => Some(unit),
            Content::Denied(_) => None,
        }
    }

    /// Why `name` cannot be had.
    fn missing(&self, name: &UnitName, reason: ConfigReason) -> ConfigError {
        match self.set.units.get(name).map(|held| &held.content) {
            Some(Content::Denied(error)) => error.clone(),
            _ => ConfigError::new(reason, format!("unit {name} is not part of the snapshot")),
        }
    }

    /// Units that need nothing to be compiled.
    fn leaves(&mut self) {
        for (name, unit) in self.units() {
            match unit {
                Unit::Store(store) => {
                    self.parts.stores.insert(name, Arc::new(store.clone()));
                }
                Unit::Secret(secret) => {
                    self.parts.secrets.insert(name, Arc::new(secret.clone()));
                }
                Unit::Fleet(fleet) => {
                    self.parts.fleets.insert(name, fleet.sessions);
                }
                _ => {}
            }
        }
    }

    fn keyrings(&mut self) {
        for (name, unit) in self.units() {
            let Unit::Keys(keys) = unit else { continue };
            let ring = self.keyring(keys);
            self.parts.keyrings.insert(name, ring);
        }
    }

    /// All of its Secrets or nothing: with the elder of two Secrets gone, the younger's key would be taken for it.
    fn keyring(&self, keys: &Keys) -> Result<Arc<KeyRing>, ConfigError> {
        let secrets = keys
            .secrets
            .iter()
            .map(|name| {
                let secret = self.parts.secrets.get(name).cloned();
                secret.ok_or_else(|| self.missing(name, ConfigReason::SecretNotFound))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(KeyRing::build(keys, &secrets)))
    }

    fn backends(&mut self) {
        for (name, unit) in self.units() {
            let Unit::Backend(backend) = unit else {
                continue;
            };
            let slices = backend
                .endpoints
                .iter()
                .filter_map(|slice| match self.unit(slice)? {
                    Unit::Endpoints(endpoints) => Some(endpoints),
                    _ => None,
                });
            let linked = Arc::new(Backend::link(&name, backend, slices));
            self.parts.backends.insert(name, linked);
        }
    }

    fn backend(&self, name: &UnitName) -> Result<Arc<Backend>, ConfigError> {
        if let Some(Unit::Backend(unit::Backend {
            broken: Some(error),
            ..
        })) = self.unit(name)
        {
            return Err(error.clone());
        }
        let backend = self.parts.backends.get(name).cloned();
        backend.ok_or_else(|| self.missing(name, ConfigReason::BackendNotFound))
    }

    fn shard_maps(&mut self) {
        for (name, unit) in self.units() {
            let Unit::ShardMap(map) = unit else { continue };
            let linked = CompiledShardMap::link(&name, map, |backend| self.backend(backend));
            self.parts.shard_maps.insert(name, Arc::new(linked));
        }
    }

    /// The store, unless it or its credentials are missing.
    fn store(&self, name: &UnitName) -> Result<(), ConfigError> {
        let store = self
            .parts
            .stores
            .get(name)
            .ok_or_else(|| self.missing(name, ConfigReason::StoreNotFound))?;
        match &store.credentials {
            Some(secret) if !self.parts.secrets.contains_key(secret) => {
                Err(self.missing(secret, ConfigReason::SecretNotFound))
            }
            _ => Ok(()),
        }
    }

    fn policies(&mut self) {
        for (name, unit) in self.units() {
            let Unit::Policy(policy) = unit else { continue };
            let linked = self.build_policy(policy);
            self.parts.policies.insert(name, linked);
        }
    }

    fn build_policy(&self, policy: &LimitPolicy) -> Result<Arc<Policy>, ConfigError> {
        if let Some(error) = &policy.broken {
            return Err(error.clone());
        }
        for limit in &policy.limits {
            if let Scope::Global(global) = &limit.scope {
                self.store(&global.store)?;
            }
        }
        let compiled = Policy::compile(policy);
        compiled
            .map(Arc::new)
            .map_err(|error| ConfigError::new(ConfigReason::Invalid, error.to_string()))
    }

    fn policy(&self, name: &UnitName) -> Result<Arc<Policy>, ConfigError> {
        let policy = self.parts.policies.get(name).cloned();
        policy.unwrap_or_else(|| Err(self.missing(name, ConfigReason::PolicyUnavailable)))
    }

    fn routes(&mut self) {
        for (name, unit) in self.units() {
            let Unit::Route(route) = unit else { continue };
            let linked = Arc::new(self.build_route(&name, route));
            self.parts.routes.insert(name, linked);
        }
    }

    fn stream_routes(&mut self) {
        for (name, unit) in self.units() {
            let Unit::StreamRoute(route) = unit else {
                continue;
            };
            let linked = Arc::new(self.build_stream_route(route));
            self.parts.stream_routes.insert(name, linked);
        }
    }

    /// What the inbound unit says; without one, and without the settings it needs, every port denies.
    fn root(&self) -> Root {
        let Some(name) = &self.inbound else {
            return Root::denying(ConfigError::new(
                ConfigReason::PolicyUnavailable,
                "the snapshot has no inbound unit",
            ));
        };
        let Some(Unit::Inbound(inbound)) = self.unit(name) else {
            return Root::denying(self.missing(name, ConfigReason::PolicyUnavailable));
        };
        let Inbound {
            namespace,
            services: _,
            trust_domain,
            settings,
            ports,
            listeners: _, // see `edge`
            tables: _,    // likewise
        } = inbound;
        let settings = match settings.as_ref().map(|name| (name, self.unit(name))) {
            None => Settings::default(),
            Some((_, Some(Unit::Settings(settings)))) => *settings,
            Some((name, _)) => {
                return Root::denying(self.missing(name, ConfigReason::PolicyUnavailable));
            }
        };
        let table = |port: &InboundPort| {
            let routes = in_order(&port.routes);
            (port.port, self.table(port.protocol, routes))
        };
        let tables = ports.iter().map(table);
        Root {
            namespace: namespace.clone(),
            trust_domain: trust_domain.clone(),
            settings,
            ports: Ports::Tables(tables.collect()),
        }
    }

    /// Where an edge listens; none: this is no edge.
    fn edge(&self) -> Option<Edge> {
        let inbound = match self.unit(self.inbound.as_ref()?)? {
            Unit::Inbound(inbound) if !inbound.listeners.is_empty() => inbound,
            _ => return None,
        };
        let elsewhere = self.elsewhere(&inbound.tables);
        let listeners = inbound.listeners.iter();
        Some(Edge::new(listeners.map(|used| {
            let elsewhere = match &elsewhere {
                Ok(tables) => tables.get(&used.unit).into_iter().flatten(),
                // Nobody knows which of its routes are missing.
                Err(error) => return Listener::broken(used, error.clone()),
            };
            let all = in_order(&used.routes).chain(elsewhere.cloned());
            let is_stream = |used: &Used<'_>| used.unit.kind() == UnitKind::StreamRoute;
            let (mut streams, routes) = all.partition::<Vec<_>, _>(is_stream);
            streams.sort_by(|one, other| one.age.cmp(&other.age));
            // It has no application of its own.
            let table = self.table(BackendProtocol::default(), routes);
            let streams = self.server_names(&streams);
            let secret = |certificate: &UnitName| {
                let secret = self.parts.secrets.get(certificate).cloned();
                secret.ok_or_else(|| self.missing(certificate, ConfigReason::SecretNotFound))
            };
            match self.unit(&used.unit) {
                Some(Unit::Listener(unit)) => Listener::link(used, unit, table, streams, secret),
                _ => {
                    let error = self.missing(&used.unit, ConfigReason::PolicyUnavailable);
                    Listener::broken(used, error)
                }
            }
        })))
    }

    /// The routes of each listener that stand in tables; an error where one of those is missing.
    fn elsewhere(
        &self,
        tables: &[UnitName],
    ) -> Result<BTreeMap<&'a UnitName, Vec<Used<'a>>>, ConfigError> {
        let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for name in tables {
            let Some(Unit::Table(table)) = self.unit(name) else {
                return Err(self.missing(name, ConfigReason::PolicyUnavailable));
            };
            for ListenerRoutes { listener, routes } in &table.listeners {
                let routes = routes.iter().map(|used| Used {
                    age: Age::new(used.created, &used.unit),
                    unit: &used.unit,
                    hostnames: &used.hostnames,
                });
                found.entry(listener).or_default().extend(routes);
            }
        }
        Ok(found)
    }

    /// Stream routes by server name. One that is missing closes the connections of its own names.
    fn server_names(&self, routes: &[Used<'_>]) -> ServerNames {
        let mut names = ServerNames::default();
        for used in routes {
            let known = self.parts.stream_routes.get(used.unit).cloned();
            let route = known.unwrap_or_else(|| {
                Arc::new(StreamRoute {
                    object: unit::ObjectRef::of_route(used.unit),
                    targets: Vec::new(),
                    total: 0,
                    broken: Some(self.missing(used.unit, ConfigReason::PolicyUnavailable)),
                })
            });
            names.add(used.hostnames, &route);
        }
        names
    }

    fn table<'u>(
        &self,
        protocol: BackendProtocol,
        routes: impl IntoIterator<Item = Used<'u>>,
    ) -> Table {
        let mut table = Table::before(protocol);
        for Used {
            age,
            unit,
            hostnames,
        } in routes
        {
            match self.parts.routes.get(unit) {
                Some(route) => table.add(hostnames, &age, route),
                None => {
                    let object = unit::ObjectRef::of_route(unit);
                    let error = self.missing(unit, ConfigReason::PolicyUnavailable);
                    let decider = Decider {
                        object: Some(object),
                        part: None,
                    };
                    table.deny(hostnames, &age, &Denial { error, decider });
                }
            }
        }
        table.sort();
        table
    }
}

/// A route as a table uses it.
#[derive(Clone)]
struct Used<'u> {
    age: Age,
    unit: &'u UnitName,
    hostnames: &'u [String],
}

/// Routes whose place says how old they are.
fn in_order(routes: &[RouteUse]) -> impl Iterator<Item = Used<'_>> {
    (0..).zip(routes).map(|(place, used)| Used {
        age: Age::new(Some(place), &used.unit),
        unit: &used.unit,
        hostnames: &used.hostnames,
    })
}
