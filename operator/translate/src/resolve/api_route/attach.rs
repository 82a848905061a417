//! Where on a Gateway a route attaches: the listeners that its parentRef names, that take routes of its namespace, and that
//! have a hostname in common with it. Reasons are those of the Gateway API's RouteConditionReason.

use std::collections::BTreeSet;

use crate::{
    finding::FindingReason,
    resolve::gateway::{self, Served, ServedListener},
    view::View,
    world::{ANY_HOST, Claim, GatewayRef},
};

/// What one parentRef leads to: names of listeners, or why to none.
pub(crate) fn attached(
    view: &View<'_>,
    claim: &Claim,
    parent: &GatewayRef,
) -> Result<BTreeSet<String>, (FindingReason, String)> {
    let GatewayRef {
        namespace,
        name,
        section,
        port,
        index: _,
    } = parent;
    let Served { listeners } = gateway::served(view, namespace, name)
        .map_err(|what| (FindingReason::ParentNotFound, what))?;
    let named: Vec<&ServedListener> = listeners
        .iter()
        .filter(|listener| {
            section
                .as_ref()
                .is_none_or(|section| *section == listener.name)
                && port.is_none_or(|port| port == listener.port)
        })
        .collect();
    let none = |reason, what: &str| {
        Err((
            reason,
            format!("Gateway {namespace}/{name} has no listener {what}"),
        ))
    };
    if named.is_empty() {
        return none(
            FindingReason::NoMatchingParent,
            "of this sectionName and port that can be served",
        );
    }
    let allowed: Vec<&ServedListener> = named
        .into_iter()
        .filter(|listener| gateway::allows(view, namespace, &listener.allowed, &claim.id.namespace))
        .collect();
    if allowed.is_empty() {
        let what = format!(
            "there that takes ApiRoutes of namespace {}",
            claim.id.namespace
        );
        return none(FindingReason::NotAllowedByListeners, &what);
    }
    let names: BTreeSet<String> = allowed
        .into_iter()
        .filter(|listener| {
            let hostname = listener.hostname.as_deref();
            claim.hostnames.iter().any(|host| meet(host, hostname))
        })
        .map(|listener| listener.name.clone())
        .collect();
    if names.is_empty() {
        let what = "there whose hostname has one of the route's in common";
        return none(FindingReason::NoMatchingListenerHostname, what);
    }
    Ok(names)
}

/// The listeners of one Gateway that a route attaches to by all of its parentRefs.
pub(crate) fn listeners(
    view: &View<'_>,
    claim: &Claim,
    namespace: &str,
    name: &str,
) -> BTreeSet<String> {
    let parents = claim.gateways.iter();
    parents
        .filter(|parent| parent.namespace == namespace && parent.name == name)
        .filter_map(|parent| attached(view, claim, parent).ok())
        .flatten()
        .collect()
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
