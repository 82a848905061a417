//! Groups of pods, and the inbound unit of each: which routes its ports serve.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use sluice_snapshot::{
    MAX_UNIT_BYTES, Unit, UnitName,
    hash::hex,
    unit::{
        backend::BackendProtocol,
        inbound::{Inbound, InboundPort, RouteUse},
    },
};

use crate::{
    finding::{Finding, FindingReason},
    resolve::{api_route::conflicts, ports, seal, service},
    view::View,
    world::{ANY_HOST, Age, Claim, PodFacts, PodKey, Sidecar, SliceFacts},
};

/// The longest group name written out; a unit's name has room for no more.
const LONGEST_NAME: usize = 200;

/// The pods of one namespace that have the same parents. A pod without any belongs to the group of no Services.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    namespace: Arc<str>,
    services: Arc<[String]>,
}

impl GroupId {
    /// The group of these Services.
    pub fn new(namespace: &str, services: BTreeSet<String>) -> Self {
        Self {
            namespace: namespace.into(),
            services: services.into_iter().collect(),
        }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its Services, sorted.
    pub fn services(&self) -> &[String] {
        &self.services
    }

    /// Its name: the Services joined by `+`, `-` for none. What is too long is cut and told apart by a hash.
    pub fn name(&self) -> String {
        if self.services.is_empty() {
            return "-".into();
        }
        let joined = self.services.join("+");
        if joined.len() <= LONGEST_NAME {
            return joined;
        }
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, joined.as_bytes());
        let cut: String = joined.chars().take(LONGEST_NAME - 17).collect();
        format!("{cut}~{}", hex(&digest.as_ref()[..8]))
    }

    /// The name of its root unit.
    pub fn inbound(&self) -> UnitName {
        UnitName::inbound(&self.namespace, &self.name())
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name())
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A pod as identity and status know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The account it runs under.
    pub service_account: String,
    /// Whether status counts it: not terminating, and ready now or once.
    pub counts: bool,
    /// Whether it has no sidecar though its namespace asks for one: it was made while the webhook was not there, or before
    /// the namespace asked. Only a new pod in its place gets one.
    pub bare: bool,
}

impl PodRef {
    /// `injects`: whether its namespace asks for sidecars.
    pub(crate) fn from_pod(pod: &PodFacts, injects: bool) -> Self {
        Self {
            namespace: pod.id.namespace.to_string(),
            name: pod.id.name.to_string(),
            uid: pod.uid.clone(),
            service_account: pod.service_account.clone(),
            counts: !pod.terminating && pod.was_ready,
            bare: injects && !pod.terminating && pod.sidecar == Sidecar::Absent,
        }
    }

    /// The pod that `targetRef`s name; `None` where none does.
    pub(crate) fn from_slices<'a>(
        key: &PodKey,
        slices: impl Iterator<Item = &'a SliceFacts>,
    ) -> Option<Self> {
        let mut named = slices
            .flat_map(|slice| &slice.endpoints)
            .filter_map(|endpoint| {
                let (name, uid) = endpoint.pod.as_ref()?;
                (**name == *key.name).then_some((endpoint, uid))
            })
            .peekable();
        named.peek()?;
        let (mut uids, mut counts) = (BTreeSet::new(), false);
        for (endpoint, uid) in named {
            uids.insert(uid);
            counts |= !endpoint.terminating;
        }
        let uid = uids.into_iter().find(|uid| !uid.is_empty());
        Some(Self {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: uid.cloned().unwrap_or_else(|| invented_uid(key)),
            service_account: "default".into(),
            counts,
            // Nobody injects here.
            bare: false,
        })
    }
}

/// The uid of a pod that nobody gave one: always the same for the same name.
fn invented_uid(key: &PodKey) -> String {
    let text = format!("{}/{}", key.namespace, key.name);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hex(&digest.as_ref()[..16])
}

/// What one targetPort serves.
#[derive(Default)]
struct PortTable {
    protocol: BackendProtocol,
    routes: BTreeMap<Age, Arc<Claim>>,
}

/// By targetPort.
type Tables = BTreeMap<u16, PortTable>;

/// The root unit of a group, and findings on routes that found no room in it.
pub fn inbound(view: &View<'_>, group: &GroupId) -> (Inbound, Vec<Finding>) {
    let mut tables = Tables::new();
    for service in group.services() {
        let Some(facts) = view.service(group.namespace(), service) else {
            continue;
        };
        for claim in view.routes_of_parent(group.namespace(), service) {
            if conflicts::elder(view, &claim).is_some() {
                continue;
            }
            for port in facts
                .ports
                .iter()
                .filter(|port| claim.attaches(service, port.port))
            {
                for target in ports::targets(view, &facts, port) {
                    let table = tables.entry(target).or_default();
                    table.routes.insert(claim.age.clone(), claim.clone());
                    // One Service that knows what its pods speak is enough.
                    if table.protocol.is_http1() {
                        table.protocol = service::protocol(port);
                    }
                }
            }
        }
    }
    fitted(view, group, tables)
}

/// The unit, without the youngest routes where all of them are more than the stream carries.
fn fitted(view: &View<'_>, group: &GroupId, mut tables: Tables) -> (Inbound, Vec<Finding>) {
    let mut findings = Vec::new();
    loop {
        let unit = unit(view, group, &tables);
        if Unit::Inbound(unit.clone()).encode().len() <= MAX_UNIT_BYTES {
            return (unit, findings);
        }
        let Some(youngest) = tables
            .values()
            .filter_map(|table| table.routes.keys().next_back())
            .max()
            .cloned()
        else {
            return (unit, findings);
        };
        for table in tables.values_mut() {
            if let Some(claim) = table.routes.remove(&youngest) {
                let what = format!(
                    "group {group} has more hostnames than one unit holds, and this route is its youngest"
                );
                findings.push(Finding::new(
                    &claim.id,
                    FindingReason::TooLarge,
                    None,
                    &what,
                ));
            }
        }
        findings.dedup();
    }
}

fn unit(view: &View<'_>, group: &GroupId, tables: &Tables) -> Inbound {
    let port = |(port, table): (&u16, &PortTable)| InboundPort {
        port: *port,
        protocol: table.protocol,
        routes: table
            .routes
            .values()
            .filter_map(|claim| route_use(claim))
            .collect(),
    };
    Inbound {
        namespace: group.namespace().to_owned(),
        services: group.services().to_vec(),
        trust_domain: view.trust_domain(),
        settings: view.settings_unit(),
        ports: tables.iter().map(port).collect(),
    }
}

/// Nothing where no request can carry any of its hostnames: without them it would answer to all.
fn route_use(claim: &Claim) -> Option<RouteUse> {
    let unit = UnitName::route(&claim.id.namespace, &claim.id.name);
    if claim.hostnames.contains(ANY_HOST) {
        return Some(RouteUse {
            unit,
            hostnames: Vec::new(),
        });
    }
    let hostnames = claim
        .hostnames
        .iter()
        .filter(|host| seal::hostname(host).is_ok());
    let hostnames: Vec<String> = hostnames.cloned().collect();
    (!hostnames.is_empty()).then_some(RouteUse { unit, hostnames })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let group = |last: &str| {
            let many = (0..50).map(|n| format!("service-with-a-long-name-{n:02}"));
            GroupId::new("shop", many.chain([last.to_owned()]).collect())
        };
        let (a, b) = (group("zz-a").name(), group("zz-b").name());
        assert_ne!(a, b);
        assert!(a.len() <= LONGEST_NAME && b.len() <= LONGEST_NAME);
        assert_eq!(GroupId::new("shop", BTreeSet::new()).name(), "-");
    }
}
