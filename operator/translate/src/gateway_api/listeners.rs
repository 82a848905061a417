//! The listeners of a Gateway, its own and those that ListenerSets add: which can be served, which contradict an elder one,
//! whose routes each takes. What they show to clients is `listener_tls`'s.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use sluice_crds::{
    GROUP,
    gateway_api::{self, AllowedRoutes, GatewaySpec, Listener, RouteNamespaces},
};
use sluice_snapshot::unit::listener::Protocol;

use super::class;
use crate::{
    finding::FindingReason,
    resolve::seal,
    view::View,
    world::{Kind, ListenerSetFacts, ObjectId},
};

/// Listeners of one Gateway or ListenerSet that are looked at, as the CRDs bound them.
const MAX_LISTENERS: usize = 64;
/// Listeners of one Gateway with all its sets.
const MAX_TOGETHER: usize = 512;

/// Ports of an edge that are not its listeners': hops, and readiness with metrics.
const TAKEN_PORTS: [u16; 2] = [15_008, 15_020];

/// A Gateway of ours as routes see it.
pub(crate) struct Served {
    /// The Gateway.
    pub(crate) gateway: ObjectId,
    /// Its listeners that can be served, in order of precedence.
    pub(crate) listeners: Vec<ServedListener>,
    /// The ListenerSets that it lets in.
    pub(crate) sets: Vec<Arc<ListenerSetFacts>>,
}

/// A listener that routes can attach to.
pub(crate) struct ServedListener {
    /// What tells it from the others of the Gateway: its name, before it those of its ListenerSet.
    pub(crate) key: String,
    /// The Gateway, or the ListenerSet that adds it.
    pub(crate) owner: ObjectId,
    /// Its place among its owner's.
    pub(crate) index: usize,
    /// Its name.
    pub(crate) name: String,
    /// Its port.
    pub(crate) port: u16,
    /// What it speaks.
    pub(crate) protocol: Protocol,
    /// Its hostname, in lower case.
    pub(crate) hostname: Option<String>,
    /// Of which kinds it takes routes.
    pub(crate) kinds: Vec<Kind>,
    /// Of which namespaces.
    pub(crate) allowed: AllowedRoutes,
}

/// Why a listener is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nobody here speaks that.
    UnsupportedProtocol,
    /// A value that is none.
    UnsupportedValue,
    /// A port that every edge has for itself.
    PortUnavailable,
    /// An elder listener has port and hostname.
    HostnameConflict,
    /// An elder listener has the port for something else.
    ProtocolConflict,
}

impl Refusal {
    /// As conditions have it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::PortUnavailable => "PortUnavailable",
            Self::HostnameConflict => "HostnameConflict",
            Self::ProtocolConflict => "ProtocolConflict",
        }
    }

    /// As findings have it.
    pub(crate) const fn finding(self) -> FindingReason {
        match self {
            Self::UnsupportedProtocol | Self::UnsupportedValue | Self::PortUnavailable => {
                FindingReason::Invalid
            }
            Self::HostnameConflict | Self::ProtocolConflict => FindingReason::Conflicted,
        }
    }
}

/// Why a listener is not served, and in a clause.
pub(crate) type Refused = (Refusal, String);

/// Why a Gateway serves nothing for us, in a clause.
pub(crate) fn served(view: &View<'_>, namespace: &str, name: &str) -> Result<Served, String> {
    let Some(gateway) = view.gateway(namespace, name) else {
        return Err(format!("Gateway {namespace}/{name} does not exist"));
    };
    let Some(spec) = gateway.sound() else {
        return Err(format!("Gateway {namespace}/{name} does not decode"));
    };
    let class = &spec.gateway_class_name;
    if !class::is_ours(view, class) {
        return Err(format!(
            "Gateway {namespace}/{name} is of class {class}, not of {}",
            gateway_api::CLASS
        ));
    }
    Ok(judged(view, &gateway.id, spec, &mut |_, _, _| {}))
}

/// The listeners that can be served, and to `fault` owner and place of the others, and why.
pub(crate) fn judged(
    view: &View<'_>,
    gateway: &ObjectId,
    spec: &GatewaySpec,
    fault: &mut impl FnMut(&ObjectId, usize, Refused),
) -> Served {
    let sets = sets(view, gateway, spec);
    let mut found: Vec<ServedListener> = Vec::new();
    let own = [(gateway, spec.listeners.as_slice())];
    let added = sets
        .iter()
        .filter_map(|set| Some((&set.id, set.sound()?.listeners.as_slice())));
    let all = own.into_iter().chain(added).flat_map(|(owner, listeners)| {
        let listeners = listeners.iter().enumerate().take(MAX_LISTENERS);
        listeners.map(move |(index, listener)| (owner, index, listener))
    });
    for (owner, index, listener) in all.take(MAX_TOGETHER) {
        match one(owner, index, listener, &found) {
            Ok(listener) => found.push(listener),
            Err(refused) => fault(owner, index, refused),
        }
    }
    Served {
        gateway: gateway.clone(),
        listeners: found,
        sets,
    }
}

/// The ListenerSets that a Gateway lets in, elder first.
fn sets(view: &View<'_>, gateway: &ObjectId, spec: &GatewaySpec) -> Vec<Arc<ListenerSetFacts>> {
    let mut sets = view.listener_sets_of(&gateway.namespace, &gateway.name);
    let namespaces = spec.allowed_listeners.as_ref();
    let namespaces = namespaces.and_then(|allowed| allowed.namespaces.as_ref());
    sets.retain(|set| {
        let group = set
            .spec
            .as_ref()
            .and_then(|spec| spec.parent_ref.group.as_deref());
        let kind = set
            .spec
            .as_ref()
            .and_then(|spec| spec.parent_ref.kind.as_deref());
        group.is_none_or(|group| group == gateway_api::GROUP)
            && kind.is_none_or(|kind| kind == "Gateway")
            && from(
                view,
                namespaces,
                "None",
                &gateway.namespace,
                &set.id.namespace,
            )
    });
    sets.sort_by_key(|set| set.age());
    sets
}

fn one(
    owner: &ObjectId,
    index: usize,
    listener: &Listener,
    elder: &[ServedListener],
) -> Result<ServedListener, Refused> {
    let unsupported = |what: String| Err((Refusal::UnsupportedValue, what));
    let hostname = listener
        .hostname
        .as_ref()
        .filter(|host| !host.is_empty())
        .map(|host| host.to_ascii_lowercase());
    let named = !listener.name.is_empty()
        && listener.name.len() <= 253
        && listener.name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
        });
    let taken = |elder: &ServedListener| elder.owner == *owner && elder.name == listener.name;
    if !named || elder.iter().any(taken) {
        return unsupported(format!(
            "listener {:?} has no name of its own",
            listener.name
        ));
    }
    if listener.port == 0 {
        return unsupported("there is no port 0".into());
    }
    if TAKEN_PORTS.contains(&listener.port) {
        let what = format!(
            "port {} is the edge's own, for hops or for readiness and metrics: choose another",
            listener.port
        );
        return Err((Refusal::PortUnavailable, what));
    }
    if let Some(error) = hostname
        .as_deref()
        .and_then(|host| seal::hostname(host).err())
    {
        return unsupported(error.message);
    }
    let protocol = match listener.protocol.as_str() {
        "HTTP" => Protocol::Http,
        "HTTPS" => Protocol::Https,
        "TLS" => Protocol::Tls,
        "TCP" => Protocol::Tcp,
        other => {
            let what = format!("protocol {other:?} is not served, HTTP, HTTPS, TLS and TCP are");
            return Err((Refusal::UnsupportedProtocol, what));
        }
    };
    let same_port = elder.iter().filter(|elder| elder.port == listener.port);
    for elder in same_port {
        if elder.protocol != protocol {
            let what = format!(
                "listener {} has port {} for another protocol",
                elder.key, elder.port
            );
            return Err((Refusal::ProtocolConflict, what));
        }
        if elder.hostname == hostname || protocol == Protocol::Tcp {
            let what = format!("listener {} has this port and hostname", elder.key);
            return Err((Refusal::HostnameConflict, what));
        }
    }
    let key = match owner.kind {
        Kind::ListenerSet => format!("{}/{}/{}", owner.namespace, owner.name, listener.name),
        _ => listener.name.clone(),
    };
    Ok(ServedListener {
        key,
        owner: owner.clone(),
        index,
        name: listener.name.clone(),
        port: listener.port,
        protocol,
        hostname: hostname.filter(|_| protocol != Protocol::Tcp),
        kinds: kinds(listener).0,
        allowed: listener.allowed_routes.clone().unwrap_or_default(),
    })
}

/// The kinds of route that a listener takes, and whether it asks for others too.
pub(crate) fn kinds(listener: &Listener) -> (Vec<Kind>, bool) {
    let served: &[Kind] = match listener.protocol.as_str() {
        "HTTP" | "HTTPS" => &[Kind::HttpRoute, Kind::GrpcRoute, Kind::ApiRoute],
        "TLS" => &[Kind::TlsRoute],
        "TCP" => &[Kind::TcpRoute],
        _ => &[],
    };
    let asked = listener.allowed_routes.as_ref();
    let asked = asked.and_then(|allowed| allowed.kinds.as_deref());
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else {
        return (served.to_vec(), false);
    };
    let is = |kind: Kind, asked: &gateway_api::RouteKind| {
        asked.kind == kind.as_str()
            && asked.group.as_deref().unwrap_or(gateway_api::GROUP) == group_of(kind)
    };
    let found = served.iter().copied();
    let found = found.filter(|kind| asked.iter().any(|asked| is(*kind, asked)));
    let others = asked
        .iter()
        .any(|asked| !served.iter().any(|kind| is(*kind, asked)));
    (found.collect(), others)
}

/// The API group of a kind of route.
pub(crate) const fn group_of(kind: Kind) -> &'static str {
    match kind {
        Kind::ApiRoute => GROUP,
        _ => gateway_api::GROUP,
    }
}

/// Whether a listener takes routes of a namespace.
pub(crate) fn allows(view: &View<'_>, listener: &ServedListener, namespace: &str) -> bool {
    let namespaces = listener.allowed.namespaces.as_ref();
    from(
        view,
        namespaces,
        "Same",
        &listener.owner.namespace,
        namespace,
    )
}

/// Whether `allowed` lets objects of a namespace in; `default` is what it says where it says nothing.
fn from(
    view: &View<'_>,
    allowed: Option<&RouteNamespaces>,
    default: &str,
    own: &str,
    namespace: &str,
) -> bool {
    let word = allowed.and_then(|allowed| allowed.from.as_deref());
    match word.unwrap_or(default) {
        "Same" => own == namespace,
        "All" => true,
        "Selector" => allowed
            .and_then(|allowed| allowed.selector.as_ref())
            .is_some_and(|selector| selects(selector, &view.namespace_labels(namespace))),
        _ => false,
    }
}

/// Whether a label selector selects; an empty one selects everything, as everywhere in Kubernetes.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let exact = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    exact
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|expression| {
            let value = labels.get(&expression.key);
            let values = expression.values.as_deref().unwrap_or_default();
            match expression.operator.as_str() {
                "In" => value.is_some_and(|value| values.contains(value)),
                "NotIn" => value.is_none_or(|value| !values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
