//! Puts a program together: compiles each unit, gives it what it needs, and keeps what did not change.

mod route;

use std::{collections::BTreeMap, sync::Arc};

use sluice_snapshot::{
    ConfigError, ConfigReason, Hash, Unit, UnitKind, UnitName,
    unit::{
        self, Inbound, Keys, LimitPolicy, Secret, Settings, Store,
        backend::BackendProtocol,
        inbound::{InboundPort, RouteUse},
        policy::Scope,
        table::ListenerRoutes,
    },
};

use super::{
    Backend, CompileError, Content, Edge, Listener, Ports, Program, Route, ServerNames,
    StreamRoute, Table, UnitSet, compile_unit,
    stamp::Stamps,
    table::{Age, Denial},
};
use crate::{auth::keyring::KeyRing, ratelimit::Policy, reject::Decider, shard::CompiledShardMap};

/// Everything compiled, by unit name.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub routes: BTreeMap<UnitName, Arc<Route>>,
    pub stream_routes: BTreeMap<UnitName, Arc<StreamRoute>>,
    pub policies: BTreeMap<UnitName, Result<Arc<Policy>, ConfigError>>,
    pub backends: BTreeMap<UnitName, Arc<Backend>>,
    pub shard_maps: BTreeMap<UnitName, Arc<CompiledShardMap>>,
    pub stores: BTreeMap<UnitName, Arc<Store>>,
    pub secrets: BTreeMap<UnitName, Arc<Secret>>,
    pub keyrings: BTreeMap<UnitName, Result<Arc<KeyRing>, ConfigError>>,
    pub fleets: BTreeMap<UnitName, u32>,
}

/// How the next program recognises a unit.
#[derive(Debug)]
pub(super) struct Seen {
    hash: Hash,
    stamp: Hash,
}

/// See [`Program::compile`].
pub(super) fn compile(set: &UnitSet, previous: Option<&Program>) -> Result<Program, CompileError> {
    check(set, previous)?;
    let mut linker = Linker {
        set,
        previous,
        seen: seen(set),
        parts: Parts::default(),
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
        seen: linker.seen,
        parts: linker.parts,
    })
}

/// Checks every unit that the previous program did not hold.
fn check(set: &UnitSet, previous: Option<&Program>) -> Result<(), CompileError> {
    if let Some((unit, _)) = set
        .units
        .iter()
        .filter(|(name, _)| name.kind() == UnitKind::Inbound)
        .nth(1)
    {
        return Err(CompileError {
            unit: unit.clone(),
            reason: "a snapshot has one inbound unit".into(),
        });
    }
    for (name, held) in &set.units {
        let known = previous
            .and_then(|program| program.seen.get(name))
            .is_some_and(|seen| seen.hash == held.hash);
        if let (Content::Unit(unit), false) = (&held.content, known) {
            compile_unit(name, unit)?;
        }
    }
    Ok(())
}

/// Every unit that is not denied.
fn seen(set: &UnitSet) -> BTreeMap<UnitName, Seen> {
    let mut stamps = Stamps::default();
    set.units
        .iter()
        .filter(|(_, held)| matches!(held.content, Content::Unit(_)))
        .map(|(name, held)| {
            (
                name.clone(),
                Seen {
                    hash: held.hash.clone(),
                    stamp: stamps.of(set, name),
                },
            )
        })
        .collect()
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
    seen: BTreeMap<UnitName, Seen>,
    parts: Parts,
}

impl<'a> Linker<'a> {
    /// Every unit that is not denied.
    fn units(&self) -> impl Iterator<Item = (&'a UnitName, &'a Unit)> + use<'a> {
        let set = self.set;
        set.units
            .iter()
            .filter_map(|(name, held)| match &held.content {
                Content::Unit(unit) => Some((name, unit.as_ref())),
                Content::Denied(_) => None,
            })
    }

    fn unit(&self, name: &UnitName) -> Option<&'a Unit> {
        match &self.set.units.get(name)?.content {
            Content::Unit(unit) => Some(unit),
            Content::Denied(_) => None,
        }
    }

    /// The previous program, if `name` and all it needs were the same there.
    fn same(&self, name: &UnitName) -> Option<&'a Program> {
        let previous = self.previous?;
        (previous.seen.get(name)?.stamp == self.seen.get(name)?.stamp).then_some(previous)
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
                    let kept = self
                        .same(name)
                        .and_then(|previous| previous.parts.stores.get(name))
                        .cloned();
                    self.parts.stores.insert(
                        name.clone(),
                        kept.unwrap_or_else(|| Arc::new(store.clone())),
                    );
                }
                Unit::Secret(secret) => {
                    let kept = self
                        .same(name)
                        .and_then(|previous| previous.parts.secrets.get(name))
                        .cloned();
                    self.parts.secrets.insert(
                        name.clone(),
                        kept.unwrap_or_else(|| Arc::new(secret.clone())),
                    );
                }
                Unit::Fleet(fleet) => {
                    self.parts.fleets.insert(name.clone(), fleet.sessions);
                }
                _ => {}
            }
        }
    }

    fn keyrings(&mut self) {
        for (name, unit) in self.units() {
            let Unit::Keys(keys) = unit else { continue };
            let kept = self
                .same(name)
                .and_then(|previous| previous.parts.keyrings.get(name))
                .cloned();
            let ring = kept.unwrap_or_else(|| self.keyring(keys));
            self.parts.keyrings.insert(name.clone(), ring);
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
            let kept = self
                .same(name)
                .and_then(|previous| previous.parts.backends.get(name))
                .cloned();
            let slices = backend
                .endpoints
                .iter()
                .filter_map(|slice| match self.unit(slice)? {
                    Unit::Endpoints(endpoints) => Some(endpoints),
                    _ => None,
                });
            let linked = kept.unwrap_or_else(|| Arc::new(Backend::link(name, backend, slices)));
            self.parts.backends.insert(name.clone(), linked);
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
            let kept = self
                .same(name)
                .and_then(|previous| previous.parts.shard_maps.get(name))
                .cloned();
            let linked = kept.unwrap_or_else(|| {
                Arc::new(CompiledShardMap::link(name, map, |backend| {
                    self.backend(backend)
                }))
            });
            self.parts.shard_maps.insert(name.clone(), linked);
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
            let kept = self
                .same(name)
                .and_then(|previous| previous.parts.policies.get(name))
                .cloned();
            let linked = kept.unwrap_or_else(|| self.build_policy(policy));
            self.parts.policies.insert(name.clone(), linked);
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
            let kept = self
                .same(name)
                .and_then(|previous| previous.parts.routes.get(name))
                .cloned();
            let linked = kept.unwrap_or_else(|| Arc::new(self.build_route(name, route)));
            self.parts.routes.insert(name.clone(), linked);
        }
    }

    fn stream_routes(&mut self) {
        for (name, unit) in self.units() {
            let Unit::StreamRoute(route) = unit else {
                continue;
            };
            let kept = self
                .same(name)
                .and_then(|previous| previous.parts.stream_routes.get(name))
                .cloned();
            let linked = kept.unwrap_or_else(|| Arc::new(self.build_stream_route(route)));
            self.parts.stream_routes.insert(name.clone(), linked);
        }
    }

    /// What the inbound unit says; without one, and without the settings it needs, every port denies.
    fn root(&self) -> Root {
        let inbound = self.units().find_map(|(_, unit)| match unit {
            Unit::Inbound(inbound) => Some(inbound),
            _ => None,
        });
        let Some(inbound) = inbound else {
            let mut names = self.set.units.keys();
            let denied = names.find(|name| name.kind() == UnitKind::Inbound);
            return Root::denying(match denied {
                Some(name) => self.missing(name, ConfigReason::PolicyUnavailable),
                None => ConfigError::new(
                    ConfigReason::PolicyUnavailable,
                    "the snapshot has no inbound unit",
                ),
            });
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
        let inbound = self.units().find_map(|(_, unit)| match unit {
            Unit::Inbound(inbound) if !inbound.listeners.is_empty() => Some(inbound),
            _ => None,
        })?;
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
