//! Where on a Gateway a route attaches: the listeners that its parentRef names, that take routes of its kind and namespace,
//! and that have a hostname in common with it. Reasons are those of the Gateway API's RouteConditionReason.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::listeners::{self, Served, ServedListener};
use crate::{
    finding::FindingReason,
    resolve::api_route::conflicts,
    view::View,
    world::{ANY_HOST, Age, Claim, GatewayRef, Kind},
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

/// Routes, elder first.
pub(crate) type Routes = BTreeMap<Age, Arc<Claim>>;

/// The routes of each listener of a Gateway, of whatever kind; a listener without any is there too.
pub(crate) fn routes(view: &View<'_>, served: &Served) -> BTreeMap<String, Routes> {
    let listeners = served.listeners.iter();
    let mut tables: BTreeMap<&str, Vec<Arc<Claim>>> = listeners
        .map(|listener| (listener.key.as_str(), Vec::new()))
        .collect();
    let gateway = &served.gateway;
    let mut claims = view.routes_of_gateway(&gateway.namespace, &gateway.name, false);
    for set in &served.sets {
        claims.extend(view.routes_of_gateway(&set.id.namespace, &set.id.name, true));
    }
    for claim in claims {
        if claim.id.kind == Kind::ApiRoute && conflicts::elder(view, &claim).is_some() {
            continue;
        }
        for key in keys(view, served, &claim) {
            if let Some(table) = tables.get_mut(key) {
                table.push(claim.clone());
            }
        }
    }
    // Thousands are sorted at once, not put in their places one by one.
    let sorted = |routes: Vec<Arc<Claim>>| {
        let by_age = routes.into_iter().map(|claim| (claim.age.clone(), claim));
        by_age.collect()
    };
    let tables = tables.into_iter();
    tables
        .map(|(key, routes)| (key.to_owned(), sorted(routes)))
        .collect()
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
