//! What a sidecar gets whose build knows no tables: the root unit with every route in it, as it was before there were any.
//! Edges are of the operator's own build soon after it, so this is for the minutes of an update. Pure.

use std::{collections::BTreeMap, sync::Arc};

use sluice_snapshot::{
    Hash, MAX_UNIT_BYTES, Unit, UnitKind, UnitName, feature,
    unit::{
        Inbound,
        inbound::RouteUse,
        table::{AgedUse, ListenerRoutes},
    },
};

use super::published::{Entry, Snapshot};

/// The same without tables. Where one unit does not hold all routes, the root stays as it is, and such a sidecar is denied
/// it as it is denied whatever else it does not know.
pub fn without_tables(snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
    let tables = snapshot.manifest.keys();
    let tables: Vec<UnitName> = tables
        .filter(|name| name.kind() == UnitKind::Table)
        .cloned()
        .collect();
    if tables.is_empty() {
        return snapshot;
    }
    let root = snapshot
        .manifest
        .keys()
        .find(|name| name.kind() == UnitKind::Inbound);
    let whole = root.and_then(|root| Some((root.clone(), whole(&snapshot, root, &tables)?)));
    let mut manifest = (*snapshot.manifest).clone();
    for table in &tables {
        manifest.remove(table);
    }
    let mut store = snapshot.store().clone();
    if let Some((root, entry)) = whole {
        manifest.insert(root.clone(), entry.hash.clone());
        store.insert(root, Arc::new(entry));
    }
    let (seen, published) = (snapshot.seen, snapshot.published);
    Arc::new(Snapshot::new(manifest, store, seen, published))
}

/// The root unit with the routes of its tables; none where that is more than a unit holds.
fn whole(snapshot: &Snapshot, root: &UnitName, tables: &[UnitName]) -> Option<Entry> {
    let former = snapshot.unit(root)?;
    let mut routes: BTreeMap<UnitName, Vec<AgedUse>> = BTreeMap::new();
    for name in tables {
        let Unit::Table(table) = decoded(snapshot, name)? else {
            return None;
        };
        for ListenerRoutes {
            listener,
            routes: some,
        } in table.listeners
        {
            routes.entry(listener).or_default().extend(some);
        }
    }
    let Unit::Inbound(inbound) = decoded(snapshot, root)? else {
        return None;
    };
    let mut inbound = Inbound {
        tables: Vec::new(),
        ..inbound
    };
    for listener in &mut inbound.listeners {
        let mut elsewhere = routes.remove(&listener.unit).unwrap_or_default();
        elsewhere.sort_by(AgedUse::by_age);
        let elsewhere: Vec<RouteUse> = elsewhere.iter().map(AgedUse::plain).collect();
        listener.routes.extend(elsewhere);
    }
    let unit = Unit::Inbound(inbound);
    let body = unit.encode();
    (body.len() <= MAX_UNIT_BYTES).then(|| Entry {
        hash: Hash::of(&body),
        features: feature::needed(&unit),
        body,
        since: former.since,
    })
}

fn decoded(snapshot: &Snapshot, name: &UnitName) -> Option<Unit> {
    // What this build encoded decodes.
    Unit::decode(name, &snapshot.unit(name)?.body).ok()
}

#[cfg(test)]
mod tests {
    use sluice_snapshot::unit::{Table, inbound::ListenerUse};

    use super::{super::published::tests::snapshot, *};

    fn listener() -> UnitName {
        UnitName::listener("shop", "public", "http")
    }

    fn parts(routes: usize) -> Arc<Snapshot> {
        let root = UnitName::inbound("shop", "gateway/public");
        let names = ["0", "1"].map(|part| UnitName::table("shop", "gateway/public", part));
        let inbound = Unit::Inbound(Inbound {
            namespace: "shop".into(),
            services: Vec::new(),
            trust_domain: "cluster.local".into(),
            settings: None,
            ports: Vec::new(),
            listeners: vec![ListenerUse {
                unit: listener(),
                port: 80,
                hostname: None,
                routes: Vec::new(),
            }],
            tables: names.to_vec(),
        });
        let table = |part: usize| {
            let numbers = (0..routes).filter(|n| n % 2 == part);
            let routes = numbers.map(|n| AgedUse {
                created: Some(n as i64),
                unit: UnitName::http_route("shop", &format!("route-{n:0>200}")),
                hostnames: Vec::new(),
            });
            Unit::Table(Table {
                listeners: vec![ListenerRoutes {
                    listener: listener(),
                    routes: routes.collect(),
                }],
            })
        };
        let bodies = [&inbound, &table(0), &table(1)].map(Unit::encode);
        let features = [&inbound, &table(0), &table(1)].map(feature::needed);
        snapshot(&[
            (root, &bodies[0], &features[0]),
            (names[0].clone(), &bodies[1], &features[1]),
            (names[1].clone(), &bodies[2], &features[2]),
        ])
    }

    fn root_of(snapshot: &Snapshot) -> Inbound {
        let root = UnitName::inbound("shop", "gateway/public");
        match decoded(snapshot, &root) {
            Some(Unit::Inbound(inbound)) => inbound,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_elder_build_gets_every_route_in_one_unit_elder_first() {
        let whole = without_tables(parts(9));
        assert_eq!(whole.manifest.len(), 1);
        let inbound = root_of(&whole);
        assert!(inbound.tables.is_empty());
        let routes = &inbound.listeners[0].routes;
        let names = routes.iter().map(|used| used.unit.as_str());
        assert!(names.is_sorted() && routes.len() == 9);
        let features = &whole
            .unit(&UnitName::inbound("shop", "gateway/public"))
            .unwrap()
            .features;
        assert!(!features.contains(&sluice_snapshot::Feature::Parts));
        // Nothing to do, nothing done.
        assert!(Arc::ptr_eq(&without_tables(whole.clone()), &whole));
    }

    #[test]
    fn what_one_unit_does_not_hold_is_denied() {
        let whole = without_tables(parts(3_000));
        assert_eq!(whole.manifest.len(), 1);
        assert_eq!(root_of(&whole).tables.len(), 2);
    }
}
