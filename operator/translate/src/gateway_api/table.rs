//! One part of the routes of a Gateway or ListenerSet: how many attach to each listener, and, where there are more parts than
//! one, the unit that lists them. One part alone stands in the root unit.

use std::collections::BTreeMap;

use sluice_snapshot::{
    MAX_UNIT_BYTES, Unit,
    unit::{
        Table,
        inbound::RouteUse,
        table::{AgedUse, ListenerRoutes},
    },
};

use super::{
    attach::{self, Owner, Routes},
    gateway,
    listeners::ServedListener,
};
use crate::{
    groups::{self, Tables},
    resolve::Resolved,
    view::View,
    world::{Claim, GatewayRef, Part},
};

/// What a part amounts to; nothing where its owner is none of ours.
pub(crate) fn resolve(view: &View<'_>, owner: Owner<'_>, part: Part) -> Resolved {
    let mut resolved = Resolved::default();
    let parent = GatewayRef {
        namespace: owner.namespace.to_owned(),
        name: owner.name.to_owned(),
        section: None,
        port: None,
        set: owner.set,
        index: 0,
    };
    let Ok(served) = attach::served(view, &parent) else {
        return resolved;
    };
    let tables = attach::routes(view, &served, owner, part);
    let own = |key: &String| served.listeners.iter().find(|one| one.key == *key);
    resolved.attached = tables
        .iter()
        .filter_map(|(key, routes)| Some((own(key)?.name.clone(), routes.len())))
        .collect();
    if part == Part::WHOLE {
        return resolved;
    }
    let name = owner.table(part);
    let (unit, findings) = groups::fitted(name.as_str(), Tables::of(tables), fits, |tables| {
        let listeners = tables.0.iter().filter_map(|(key, table)| {
            let listener = own(key)?;
            Some(ListenerRoutes {
                listener: gateway::unit_of(&served.gateway, listener),
                routes: aged(listener, &table.routes),
            })
        });
        Table {
            listeners: listeners.collect(),
        }
    });
    resolved.units = BTreeMap::from([(name, Unit::Table(unit))]);
    resolved.findings = findings;
    resolved
}

fn aged(listener: &ServedListener, routes: &Routes) -> Vec<AgedUse> {
    let routes = routes.values();
    routes
        .filter_map(|claim| {
            let RouteUse { unit, hostnames } = used(claim, listener)?;
            Some(AgedUse {
                created: claim.age.created(),
                unit,
                hostnames,
            })
        })
        .collect()
}

/// A route as a listener's table has it; none where they have no host in common.
pub(crate) fn used(claim: &Claim, listener: &ServedListener) -> Option<RouteUse> {
    let hostname = listener.hostname.as_deref();
    match listener.protocol.is_stream() {
        true => groups::stream_use(claim, hostname),
        false => groups::route_use(claim, hostname),
    }
}

fn fits(unit: &Table) -> bool {
    serde_json::to_vec(unit).is_ok_and(|body| body.len() <= MAX_UNIT_BYTES)
}
