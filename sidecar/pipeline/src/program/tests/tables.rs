//! Routes of listeners that stand in tables: their order, what is compiled anew when one changes, what is refused when a
//! table is missing.

use sluice_snapshot::unit::{
    self, Inbound,
    inbound::ListenerUse,
    listener::Protocol,
    route::Target,
    table::{AgedUse, ListenerRoutes},
};

use super::*;
use crate::{fixture::route_of, route, target};

const PORT: u16 = 8000;

fn listener() -> UnitName {
    UnitName::listener("shop", "public", "http")
}

fn table(part: usize) -> UnitName {
    UnitName::table("shop", "gateway/public", &part.to_string())
}

fn put_route(set: &mut UnitSet, name: &str, path: &str) {
    let route = route_of(
        name,
        vec![rule("all", prefix(path), to(&[(1, Target::App)]))],
    );
    put(set, UnitName::route("shop", name), Unit::Route(route));
}

/// Routes by name, and when they were created.
fn put_table(set: &mut UnitSet, part: usize, routes: &[(&str, i64)]) {
    let used = |(name, created): &(&str, i64)| AgedUse {
        created: Some(*created),
        unit: UnitName::route("shop", name),
        hostnames: vec!["a.example".into()],
    };
    let unit = unit::Table {
        listeners: vec![ListenerRoutes {
            listener: listener(),
            routes: routes.iter().map(used).collect(),
        }],
    };
    put(set, table(part), Unit::Table(unit));
}

/// An edge whose routes stand in so many tables.
fn edge(tables: usize) -> UnitSet {
    let mut set = UnitSet::default();
    let inbound = Inbound {
        namespace: "shop".into(),
        services: Vec::new(),
        trust_domain: "eu.example".into(),
        settings: None,
        ports: Vec::new(),
        listeners: vec![ListenerUse {
            unit: listener(),
            port: PORT,
            hostname: None,
            routes: Vec::new(),
        }],
        tables: (0..tables).map(table).collect(),
    };
    let root = UnitName::inbound("shop", "gateway/public");
    put(&mut set, root, Unit::Inbound(inbound));
    let http = unit::Listener {
        object: ObjectRef::new("Gateway", "shop", "public"),
        name: "http".into(),
        port: PORT,
        protocol: Protocol::Http,
        hostname: None,
        tls: None,
        broken: None,
    };
    put(&mut set, listener(), Unit::Listener(http));
    set
}

/// Which route has a request.
fn who(program: &Program, path: &str) -> String {
    let facts = StaticFacts::new("GET", "a.example", path);
    let target = target::normalise(&facts).expect("a target");
    let port = program.edge().and_then(|edge| edge.port(PORT));
    let listener = port.and_then(|port| port.listener("a.example"));
    match route::find(&listener.expect("a listener").table, &facts, &target) {
        Ok(matched) => matched.decider().path(),
        Err(reject) => format!("{:?}", reject.reason),
    }
}

#[test]
fn of_equal_matches_the_elder_route_has_the_request_whichever_table_it_stands_in() {
    for swapped in [false, true] {
        let mut set = edge(2);
        ["elder", "same", "a-same", "younger"]
            .into_iter()
            .for_each(|name| put_route(&mut set, name, "/x"));
        let (first, second) = match swapped {
            true => (1, 0),
            false => (0, 1),
        };
        put_table(&mut set, first, &[("younger", 3), ("same", 2)]);
        put_table(&mut set, second, &[("elder", 1), ("a-same", 2)]);
        assert_eq!(who(&compiled(&set), "/x"), "shop/elder/all");
        put_table(&mut set, second, &[("a-same", 2)]);
        assert_eq!(who(&compiled(&set), "/x"), "shop/a-same/all", "by name");
        put_table(&mut set, second, &[]);
        assert_eq!(who(&compiled(&set), "/x"), "shop/same/all");
    }
}

#[test]
fn one_route_among_many_is_one_to_compile() {
    let mut set = edge(8);
    let names: Vec<String> = (0..400).map(|n| format!("r{n}")).collect();
    for name in &names {
        put_route(&mut set, name, &format!("/{name}"));
    }
    for (part, names) in names.chunks(50).enumerate() {
        let routes: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        put_table(&mut set, part, &routes);
    }
    let first = compiled(&set);
    assert_eq!(first.compiled(), set.units.len());
    let again = Program::compile(&set, Some(&first)).expect("compiles");
    assert_eq!(again.compiled(), 0);

    put_route(&mut set, "r7", "/other");
    let edited = Program::compile(&set, Some(&again)).expect("compiles");
    assert_eq!(edited.compiled(), 1, "the route");
    assert_eq!(who(&edited, "/other"), "shop/r7/all");
    assert_eq!(who(&edited, "/r7"), "NoRoute");
    assert_eq!(who(&edited, "/r8"), "shop/r8/all");

    put_route(&mut set, "r400", "/r400");
    let mut last: Vec<_> = names[350..].iter().map(|name| (name.as_str(), 1)).collect();
    last.push(("r400", 2));
    put_table(&mut set, 7, &last);
    let added = Program::compile(&set, Some(&edited)).expect("compiles");
    assert_eq!(added.compiled(), 2, "the route and its table");
    assert_eq!(who(&added, "/r400"), "shop/r400/all");

    last.pop();
    put_table(&mut set, 7, &last);
    set.units.remove(&UnitName::route("shop", "r400"));
    let removed = Program::compile(&set, Some(&added)).expect("compiles");
    assert_eq!(removed.compiled(), 2);
    assert_eq!(who(&removed, "/r400"), "NoRoute");
    assert!(removed.route(&UnitName::route("shop", "r400")).is_none());
    let kept = |program: &Program| program.route(&UnitName::route("shop", "r8")).cloned();
    assert!(Arc::ptr_eq(
        &kept(&first).expect("there"),
        &kept(&removed).expect("there")
    ));
}

#[test]
fn while_a_table_is_missing_nothing_is_served() {
    let mut set = edge(2);
    put_route(&mut set, "a", "/a");
    put_table(&mut set, 0, &[("a", 1)]);
    put_table(&mut set, 1, &[]);
    assert_eq!(who(&compiled(&set), "/a"), "shop/a/all");
    for (loss, reason) in losses(&set, table(1).as_str()) {
        let program = compiled(&loss);
        // Nobody knows which routes it had: one of them may be what denies.
        assert_eq!(who(&program, "/a"), format!("Config({reason:?})"));
        let back = Program::compile(&set, Some(&program)).expect("compiles");
        assert_eq!(who(&back, "/a"), "shop/a/all");
    }
}
