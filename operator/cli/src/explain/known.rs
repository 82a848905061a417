//! What is known of the configuration: the operator's own translation of some objects, compiled as sidecars compile it, and
//! which of the places that it configures would get a request.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    rc::Rc,
    str::FromStr,
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sluice_crds::manifest::ManifestObject;
use sluice_pipeline::{
    Program, UnitSet,
    program::{CompileError, Content, Held},
    route,
};
use sluice_snapshot::{
    Unit, UnitName,
    unit::{Inbound, table::AgedUse},
};
use sluice_translate::{Engine, GroupId, Kind, ObjectId, Standing, manifests::Declared};

use super::ask::Ask;
use crate::offline::{Input, Loaded, OfflineError, Translated};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// The manifests.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// Nothing is configured.
    #[error(
        "no Gateway of class sluice and no Service with a route: there is nothing that could take the request"
    )]
    Nothing,
    /// Several places.
    #[error("several places could take the request: say which with --at {}", list(.0))]
    Several(Vec<At>),
    /// None of that name.
    #[error("there is no {0} that routes requests; there {places}", places = known(.1))]
    Unknown(At, Vec<At>),
    /// What the operator made does not compile.
    #[error("a sidecar would refuse this configuration")]
    Compile(#[from] CompileError),
}

fn list(places: &[At]) -> String {
    let places: Vec<String> = places.iter().take(8).map(At::to_string).collect();
    places.join(", or ")
}

fn known(places: &[At]) -> String {
    match places {
        [] => "is none".to_owned(),
        some => format!("is {}", list(some)),
    }
}

/// Where a request arrives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// A Gateway, or else a Service.
    pub gateway: bool,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The listener's port, or the Service's; none is that of the URL.
    pub port: Option<u16>,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            gateway,
            namespace,
            name,
            port,
        } = self;
        let kind = if *gateway { "gateway" } else { "service" };
        write!(f, "{kind}/{namespace}/{name}")?;
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// No place.
#[derive(Debug, thiserror::Error)]
#[error(
    "write it as gateway/NAMESPACE/NAME or service/NAMESPACE/NAME, with :PORT behind where it is not the URL's"
)]
pub struct NoPlace;

impl FromStr for At {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (place, port) = match text.rsplit_once(':') {
            None => (text, None),
            Some((place, port)) => (place, Some(port.parse().map_err(|_| NoPlace)?)),
        };
        let mut words = place.split('/');
        let (Some(kind), Some(namespace), Some(name), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(NoPlace);
        };
        let gateway = match kind.to_ascii_lowercase().as_str() {
            "gateway" | "gtw" | "gateways" => true,
            "service" | "svc" | "services" => false,
            _ => return Err(NoPlace),
        };
        if namespace.is_empty() || name.is_empty() {
            return Err(NoPlace);
        }
        Ok(Self {
            gateway,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port,
        })
    }
}

/// A port of a Service: its name, its number, and what it leads to.
struct ServicePort {
    name: String,
    port: u16,
    target: Option<u16>,
}

/// A configuration that can be asked.
pub struct Known {
    engine: Engine,
    /// Whether pods were assumed: then nobody knows which endpoints there are.
    pub assumed_pods: bool,
    /// What is wrong with the texts that were read.
    pub unread: Vec<String>,
    services: BTreeMap<(String, String), Vec<ServicePort>>,
    /// Every route that was read, of whatever kind.
    pub routes: Vec<ObjectId>,
    programs: RefCell<BTreeMap<GroupId, Rc<Program>>>,
}

impl Known {
    /// What manifests amount to.
    pub fn load(paths: &[PathBuf]) -> Result<Self, KnownError> {
        let loaded = crate::offline::load(&Input::of(paths))?;
        Self::of(&loaded)
    }

    pub(super) fn of(loaded: &Loaded) -> Result<Self, KnownError> {
        let Translated {
            merged,
            engine,
            assumed_pods,
        } = loaded.translate()?;
        let findings = merged.findings.values().flatten();
        let services = merged.declared.values();
        let services = services.filter_map(|(_, declared)| match declared {
            Declared::Sound(ManifestObject::Service(service)) => Some(ports_of(service)),
            _ => None,
        });
        Ok(Self {
            unread: findings.map(ToString::to_string).collect(),
            services: services.collect(),
            routes: merged.declared.keys().filter(is_route).cloned().collect(),
            engine,
            assumed_pods,
            programs: RefCell::default(),
        })
    }

    /// What a group's sidecars or edges hold, compiled.
    pub fn program(&self, group: &GroupId) -> Result<Rc<Program>, KnownError> {
        if let Some(program) = self.programs.borrow().get(group) {
            return Ok(Rc::clone(program));
        }
        let mut set = UnitSet::default();
        for (name, hash) in self.engine.group_units(group).into_iter().flatten() {
            // What this very process encoded decodes.
            let Some(unit) = self.unit(name) else {
                continue;
            };
            let held = Held {
                hash: hash.clone(),
                content: Content::Unit(Arc::new(unit)),
            };
            set.units.insert(name.clone(), held);
        }
        let program = Rc::new(Program::compile(&set, None)?);
        let mut programs = self.programs.borrow_mut();
        programs.insert(group.clone(), Rc::clone(&program));
        Ok(program)
    }

    fn unit(&self, name: &UnitName) -> Option<Unit> {
        Unit::decode(name, &self.engine.unit(name)?.body).ok()
    }

    /// The root unit of a group, with the routes of its tables, whose order says nothing here.
    pub fn inbound(&self, group: &GroupId) -> Option<Inbound> {
        let Unit::Inbound(mut inbound) = self.unit(&group.inbound())? else {
            return None;
        };
        for name in std::mem::take(&mut inbound.tables) {
            let Some(Unit::Table(table)) = self.unit(&name) else {
                continue;
            };
            for part in table.listeners {
                let mut listeners = inbound.listeners.iter_mut();
                if let Some(used) = listeners.find(|used| used.unit == part.listener) {
                    used.routes.extend(part.routes.iter().map(AgedUse::plain));
                }
            }
        }
        Some(inbound)
    }

    /// The name of a listener in its Gateway.
    pub fn listener(&self, unit: &UnitName) -> String {
        match self.unit(unit) {
            Some(Unit::Listener(listener)) => listener.name,
            _ => unit.to_string(),
        }
    }

    /// What is wrong with an object, in words.
    pub fn findings(&self, id: &ObjectId) -> Vec<String> {
        let findings = self.engine.findings(id);
        let mut words: BTreeSet<String> = findings
            .iter()
            // The message begins with the path.
            .map(|finding| format!("{}: {}", finding.reason.as_str(), finding.message))
            .collect();
        if let (true, Some(Standing::Route { parents })) =
            (words.is_empty(), self.engine.standing(id))
        {
            let outcomes = parents
                .iter()
                .flat_map(|parent| [&parent.accepted, &parent.resolved_refs]);
            let bad = outcomes.filter(|outcome| !outcome.status);
            words.extend(bad.map(|outcome| format!("{}: {}", outcome.reason, outcome.message)));
        }
        words.into_iter().collect()
    }

    /// The groups that hold an object.
    pub fn holders(&self, id: &ObjectId) -> Vec<GroupId> {
        self.engine.groups_holding(id)
    }

    /// The groups that route requests, and what they are.
    fn places(&self) -> Vec<(At, GroupId)> {
        let mut places = Vec::new();
        for group in self.engine.groups() {
            let at = |gateway: bool, name: &str| At {
                gateway,
                namespace: group.namespace().to_owned(),
                name: name.to_owned(),
                port: None,
            };
            if let Some(gateway) = group.of_gateway() {
                places.push((at(true, gateway), group.clone()));
            } else if self
                .inbound(group)
                .is_some_and(|inbound| !inbound.ports.is_empty())
            {
                let services = group.services().iter();
                places.extend(services.map(|name| (at(false, name), group.clone())));
            }
        }
        places
    }

    /// Where a request arrives: what is said by name, else the Service that the host names, else the only Gateway that has
    /// the host, else the only place there is.
    pub fn place(&self, ask: &Ask, at: Option<&At>) -> Result<(At, GroupId), KnownError> {
        let places = self.places();
        if let Some(at) = at {
            let bare = At {
                port: None,
                ..at.clone()
            };
            let found = places.iter().find(|(place, _)| *place == bare);
            return match found {
                Some((_, group)) => Ok((at.clone(), group.clone())),
                None => {
                    let all = places.into_iter().map(|(place, _)| place);
                    Err(KnownError::Unknown(at.clone(), all.collect()))
                }
            };
        }
        let host = route::hostname(&ask.facts);
        let of_service = |place: &At| !place.gateway && is_service(&host, place);
        if let Some(place) = places.iter().find(|(place, _)| of_service(place)) {
            return Ok(place.clone());
        }
        let mut having = Vec::new();
        for place in places.iter().filter(|(place, _)| place.gateway) {
            let program = self.program(&place.1)?;
            let edge = program.edge();
            if edge
                .and_then(|edge| edge.port(ask.port))
                .is_some_and(|port| port.listener(&host).is_some())
            {
                having.push(place);
            }
        }
        let gateways = places.iter().filter(|(place, _)| place.gateway);
        let candidates = match (having.is_empty(), gateways.clone().next()) {
            (false, _) => having,
            (true, Some(_)) => gateways.collect(),
            (true, None) => places.iter().collect(),
        };
        match candidates.as_slice() {
            [] => Err(KnownError::Nothing),
            [one] => Ok((*one).clone()),
            several => Err(KnownError::Several(
                several.iter().map(|(place, _)| place.clone()).collect(),
            )),
        }
    }

    /// The port of the pods that a port of a Service leads to; none: the Service has no such port.
    pub fn target_port(&self, at: &At, port: u16) -> Option<u16> {
        let key = (at.namespace.clone(), at.name.clone());
        let ports = self.services.get(&key)?;
        let found = ports.iter().find(|known| known.port == port)?;
        let backend = UnitName::backend(&at.namespace, &at.name, port);
        let slices = match self.unit(&backend) {
            Some(Unit::Backend(backend)) => backend.endpoints,
            _ => Vec::new(),
        };
        let given = slices.iter().find_map(|slice| match self.unit(slice)? {
            Unit::Endpoints(endpoints) => endpoints.ports.get(&found.name).copied(),
            _ => None,
        });
        // A name without pods: the number that `offline` gives to the pods it assumes.
        given.or(found.target).or(Some(port))
    }

    /// The ports of a Service.
    pub fn service_ports(&self, at: &At) -> Vec<u16> {
        let key = (at.namespace.clone(), at.name.clone());
        let ports = self.services.get(&key).into_iter().flatten();
        ports.map(|port| port.port).collect()
    }
}

/// Whether a host is how a Service is called inside a cluster.
fn is_service(host: &str, place: &At) -> bool {
    let own = format!("{}.{}", place.name, place.namespace);
    let rest = host.strip_prefix(&own);
    rest.is_some_and(|rest| matches!(rest, "" | ".svc" | ".svc.cluster.local"))
}

fn is_route(id: &&ObjectId) -> bool {
    matches!(
        id.kind,
        Kind::ApiRoute | Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute
    )
}

fn ports_of(service: &k8s_openapi::api::core::v1::Service) -> ((String, String), Vec<ServicePort>) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    let ports = ports.filter_map(|port| {
        Some(ServicePort {
            name: text(&port.name),
            port: u16::try_from(port.port).ok()?,
            target: match &port.target_port {
                Some(IntOrString::Int(target)) => u16::try_from(*target).ok(),
                _ => None,
            },
        })
    });
    let metadata = &service.metadata;
    let key = (text(&metadata.namespace), text(&metadata.name));
    (key, ports.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_it_is_read() {
        for text in ["gateway/shop/public", "service/shop/orders:8080"] {
            assert_eq!(text.parse::<At>().expect("a place").to_string(), text);
        }
        for text in [
            "public",
            "pod/shop/a",
            "gateway/shop",
            "gateway/shop/a:x",
            "service//a",
        ] {
            assert!(text.parse::<At>().is_err(), "{text}");
        }
    }
}
