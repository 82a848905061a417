//! Where on a Gateway a route attaches: the listeners that its parentRef names, that take routes of its kind and namespace,
//! and that have a hostname in common with it. Reasons are those of the Gateway API's RouteConditionReason.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    sync::Arc,
};

use sluice_snapshot::UnitName;

use super::listeners::{self, Served, ServedListener};
use crate::{
    finding::FindingReason,
    resolve::api_route::conflicts,
    view::View,
    world::{ANY_HOST, Age, Claim, GatewayRef, Kind, Part},
};

/// Why a parentRef leads to no listener, and in a clause.
pub(crate) type Detached = (FindingReason, String);

/// Namespace and name of the Gateway that a parentRef leads to, itself or through a ListenerSet.
pub(crate) fn gateway_of(view: &View<'_>, parent: &GatewayRef) -> Option<(String, String)> {
    if !parent.set {
        return Some((parent.namespace.clone(), parent.name.clone()));
    }
    let set = view.listener_set(&parent.namespace, &parent.name)?;
    let gateway = &set.sound()?.parent_ref;
    let namespace = gateway.namespace.as_ref().unwrap_or(&parent.namespace);
    Some((namespace.clone(), gateway.name.clone()))
}

/// The Gateway of ours that a parentRef leads to, or why there is none, in a clause.
pub(crate) fn served(view: &View<'_>, parent: &GatewayRef) -> Result<Served, String> {
    let Some((namespace, name)) = gateway_of(view, parent) else {
        let GatewayRef {
            namespace, name, ..
        } = parent;
        return Err(format!("ListenerSet {namespace}/{name} does not exist"));
    };
    listeners::served(view, &namespace, &name)
}

/// What one parentRef of an ApiRoute leads to: the keys of listeners, or why to none.
pub(crate) fn attached(
    view: &View<'_>,
    claim: &Claim,
    parent: &GatewayRef,
) -> Result<BTreeSet<String>, Detached> {
    let served = served(view, parent).map_err(|what| (FindingReason::ParentNotFound, what))?;
    let keys = attach(view, &served, claim, parent)?;
    Ok(keys.into_iter().map(str::to_owned).collect())
}

/// What one parentRef, which leads to this Gateway, leads to there: the keys of listeners, or why to none.
pub(crate) fn attach<'s>(
    view: &View<'_>,
    served: &'s Served,
    claim: &Claim,
    parent: &GatewayRef,
) -> Result<BTreeSet<&'s str>, Detached> {
    let GatewayRef {
        namespace,
        name,
        section,
        port,
        set,
        index: _,
    } = parent;
    let kind = match set {
        true => Kind::ListenerSet,
        false => Kind::Gateway,
    };
    let owns = |listener: &ServedListener| {
        listener.owner.kind == kind
            && *listener.owner.namespace == **namespace
            && *listener.owner.name == **name
    };
    let none = |reason, what: &str| {
        let kind = kind.as_str();
        Err((
            reason,
            format!("{kind} {namespace}/{name} has no listener {what}"),
        ))
    };
    let mut named = served
        .listeners
        .iter()
        .filter(|listener| {
            owns(listener)
                && section
                    .as_ref()
                    .is_none_or(|section| *section == listener.name)
                && port.is_none_or(|port| port == listener.port)
        })
        .peekable();
    if named.peek().is_none() {
        return none(
            FindingReason::NoMatchingParent,
            "of this sectionName and port that can be served",
        );
    }
    let mut allowed = named
        .filter(|listener| {
            listener.kinds.contains(&claim.id.kind)
                && listeners::allows(view, listener, &claim.id.namespace)
        })
        .peekable();
    if allowed.peek().is_none() {
        let what = format!(
            "there that takes {}s of namespace {}",
            claim.id.kind.as_str(),
            claim.id.namespace
        );
        return none(FindingReason::NotAllowedByListeners, &what);
    }
    let keys: BTreeSet<&str> = allowed
        .filter(|listener| {
            let hostname = listener.hostname.as_deref();
            claim.hostnames.iter().any(|host| meet(host, hostname))
        })
        .map(|listener| listener.key.as_str())
        .collect();
    if keys.is_empty() {
        let what = "there whose hostname has one of the route's in common";
        return none(FindingReason::NoMatchingListenerHostname, what);
    }
    Ok(keys)
}

/// The listeners of a Gateway that a route attaches to by all of its parentRefs.
pub(crate) fn keys<'s>(view: &View<'_>, served: &'s Served, claim: &Claim) -> BTreeSet<&'s str> {
    let leads_here = |parent: &&GatewayRef| match parent.set {
        false => {
            *served.gateway.namespace == *parent.namespace && *served.gateway.name == *parent.name
        }
        true => served
            .sets
            .iter()
            .any(|set| *set.id.namespace == *parent.namespace && *set.id.name == *parent.name),
    };
    let parents = claim.gateways.iter().filter(leads_here);
    parents
        .filter_map(|parent| attach(view, served, claim, parent).ok())
        .flatten()
        .collect()
}

/// The same by namespace and name; none where it is none of ours.
pub(crate) fn listeners(
    view: &View<'_>,
    claim: &Claim,
    namespace: &str,
    name: &str,
) -> BTreeSet<String> {
    match listeners::served(view, namespace, name) {
        Ok(served) => {
            let keys = keys(view, &served, claim).into_iter();
            keys.map(str::to_owned).collect()
        }
        Err(_) => BTreeSet::new(),
    }
}

/// A Gateway or ListenerSet whose own listeners routes attach to by naming it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// Its namespace.
    pub(crate) namespace: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
    /// Whether it is a ListenerSet.
    pub(crate) set: bool,
}

impl Owner<'_> {
    /// The unit of one part of its routes.
    pub(crate) fn table(&self, part: Part) -> UnitName {
        let kind = match self.set {
            true => "listenerset",
            false => "gateway",
        };
        let owner = format!("{kind}/{}", self.name);
        UnitName::table(self.namespace, &owner, &part.to_string())
    }
}

/// Whoever has listeners of a Gateway: itself, then the ListenerSets that it lets in.
pub(crate) fn owners(served: &Served) -> impl Iterator<Item = Owner<'_>> {
    let own = iter::once((&served.gateway, false));
    let sets = served.sets.iter().map(|set| (&set.id, true));
    own.chain(sets).map(|(id, set)| Owner {
        namespace: &id.namespace,
        name: &id.name,
        set,
    })
}

/// Routes, elder first.
pub(crate) type Routes = BTreeMap<Age, Arc<Claim>>;

/// The routes of one part, by the keys of the owner's listeners that they attach to.
pub(crate) fn routes(
    view: &View<'_>,
    served: &Served,
    owner: Owner<'_>,
    part: Part,
) -> BTreeMap<String, Routes> {
    let mut tables: BTreeMap<String, Routes> = BTreeMap::new();
    let Owner {
        namespace,
        name,
        set,
    } = owner;
    for claim in view.routes_of_gateway(namespace, name, set, part) {
        if claim.id.kind == Kind::ApiRoute && conflicts::elder(view, &claim).is_some() {
            continue;
        }
        let of_owner = |parent: &&GatewayRef| {
            parent.set == set && parent.namespace == namespace && parent.name == name
        };
        let parents = claim.gateways.iter().filter(of_owner);
        for key in parents
            .filter_map(|parent| attach(view, served, &claim, parent).ok())
            .flatten()
        {
            let table = tables.entry(key.to_owned()).or_default();
            table.insert(claim.age.clone(), claim.clone());
        }
    }
    tables
}

/// The hosts that a hostname of a route and that of a listener have in common, where there are any.
pub(crate) fn common(route: &str, listener: Option<&str>) -> Option<String> {
    let listener = listener.unwrap_or(ANY_HOST);
    if !meet(route, Some(listener).filter(|host| *host != ANY_HOST)) {
        return None;
    }
    // Of two that meet, one covers the other: an exact one is the narrower, else the longer.
    let narrower = match (route.starts_with('*'), listener.starts_with('*')) {
        (false, _) => route,
        (true, false) => listener,
        (true, true) if route.len() >= listener.len() => route,
        (true, true) => listener,
    };
    Some(narrower.to_owned())
}

/// Whether a hostname of a route and that of a listener have a host in common. A wildcard stands for one label or more.
pub(crate) fn meet(route: &str, listener: Option<&str>) -> bool {
    let Some(listener) = listener else {
        return true;
    };
    let covers = |wildcard: &str, host: &str| {
        wildcard
            .strip_prefix('*')
            .is_some_and(|suffix| host.len() > suffix.len() && host.ends_with(suffix))
    };
    route == ANY_HOST || route == listener || covers(route, listener) || covers(listener, route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_is_the_narrower() {
        for (route, listener, both) in [
            ("a.example", Some("*.example"), Some("a.example")),
            ("*.example", Some("a.example"), Some("a.example")),
            ("*.b.example", Some("*.example"), Some("*.b.example")),
            ("*.example", Some("*.b.example"), Some("*.b.example")),
            ("*", Some("a.example"), Some("a.example")),
            ("a.example", None, Some("a.example")),
            ("*", None, Some("*")),
            ("a.example", Some("b.example"), None),
        ] {
            assert_eq!(
                common(route, listener).as_deref(),
                both,
                "{route} {listener:?}"
            );
        }
    }

    #[test]
    fn hostnames_meet_where_one_host_has_both() {
        for (route, listener, common) in [
            ("a.example", Some("a.example"), true),
            ("a.example", Some("b.example"), false),
            ("a.example", None, true),
            ("*", Some("a.example"), true),
            ("*.example", Some("a.example"), true),
            ("*.example", Some("a.b.example"), true),
            ("*.example", Some("example"), false),
            ("a.example", Some("*.example"), true),
            ("example", Some("*.example"), false),
            ("aexample", Some("*.example"), false),
            ("*.b.example", Some("*.example"), true),
            ("*.example", Some("*.b.example"), true),
            ("*.a.example", Some("*.b.example"), false),
        ] {
            assert_eq!(meet(route, listener), common, "{route} {listener:?}");
        }
    }
}
