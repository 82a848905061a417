//! Whether a unit compiles by itself: the one check that operator (as a finding) and sidecar (as a NACK) share. Whether
//! what it names exists is no matter of one unit and not asked here.

mod route;

use std::collections::BTreeSet;

use sluice_snapshot::{
    Unit, UnitKind, UnitName,
    unit::{
        Backend, Endpoints, Fleet, Inbound, Keys, LimitPolicy, Listener, Settings, ShardMap, Store,
        StreamRoute, Table,
        backend::{BackendTls, San},
        inbound::RouteUse,
        listener::{ListenerTls, Protocol},
        policy::{KeyPart, Scope},
        route::Target,
        shard_map::{KeySource, SLOTS},
        table::ListenerRoutes,
    },
};

use super::CompileError;
use crate::{
    admit::{is_token, split_authority},
    ratelimit::Policy,
};

/// Whether `unit` compiles: expressions, names, numbers, slots. Run on every unit before it is sent and again before it
/// is used.
pub fn compile_unit(name: &UnitName, unit: &Unit) -> Result<(), CompileError> {
    let outcome = match unit {
        _ if unit.kind() != name.kind() => Err(format!("the body is a {:?}", unit.kind())),
        Unit::Inbound(unit) => inbound(unit),
        Unit::Route(unit) => route::check(unit),
        Unit::Policy(unit) => policy(unit),
        Unit::Backend(unit) => backend(unit),
        Unit::Endpoints(unit) => endpoints(unit),
        Unit::ShardMap(unit) => shard_map(unit),
        Unit::Store(unit) => store(unit),
        Unit::Keys(unit) => keys(unit),
        // What a Secret holds is checked where it is used: one bad entry must not silence the others.
        Unit::Secret(_) => Ok(()),
        Unit::Fleet(unit) => fleet(*unit),
        Unit::Settings(unit) => settings(*unit),
        Unit::Listener(unit) => listener(unit),
        Unit::StreamRoute(unit) => stream_route(unit),
        Unit::Table(unit) => table(unit),
    };
    outcome.map_err(|reason| CompileError {
        unit: name.clone(),
        reason,
    })
}

/// `Ok` where `holds`.
fn require(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

/// A reference must lead to a unit of the kind it stands for: needs are a tree by kind, so they cannot be a circle.
fn refers(name: &UnitName, kind: UnitKind) -> Result<(), String> {
    require(name.kind() == kind, || {
        format!("{name} is not a unit of kind {}", kind.prefix())
    })
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        require(!name.is_empty(), || format!("a {what} has no name"))?;
        require(seen.insert(name), || {
            format!("two {what}s are named {name:?}: rename one")
        })?;
    }
    Ok(())
}

/// A lower-case field name.
fn field_name(name: &str) -> Result<(), String> {
    require(
        is_token(name) && !name.bytes().any(|byte| byte.is_ascii_uppercase()),
        || format!("{name:?} is not a header name in lower case"),
    )
}

/// A lower-case hostname without port, of at most 253 bytes; with `wildcard`, also `*.` before one.
fn hostname(name: &str, wildcard: bool) -> Result<(), String> {
    let plain = name.strip_prefix("*.").filter(|_| wildcard).unwrap_or(name);
    let whole = matches!(split_authority(plain), Some((host, None)) if host == plain);
    let lower = !plain.ends_with('.') && !plain.bytes().any(|byte| byte.is_ascii_uppercase());
    require(whole && lower && name.len() <= 253, || {
        format!("{name:?} is not a hostname in lower case without port")
    })
}

fn inbound(unit: &Inbound) -> Result<(), String> {
    let Inbound {
        namespace: _,
        services: _,
        trust_domain: _,
        settings,
        ports,
        listeners,
        tables,
    } = unit;
    settings
        .iter()
        .try_for_each(|name| refers(name, UnitKind::Settings))?;
    let mut seen = BTreeSet::new();
    for port in ports {
        require(port.port != 0 && seen.insert(port.port), || {
            format!("port {} is zero or stands twice", port.port)
        })?;
        routes(&port.routes, &[UnitKind::Route])?;
    }
    require(ports.is_empty() || listeners.is_empty(), || {
        "both ports of pods and listeners of a Gateway".into()
    })?;
    let mut seen = BTreeSet::new();
    for listener in listeners {
        refers(&listener.unit, UnitKind::Listener)?;
        let host = listener.hostname.as_deref();
        require(
            listener.port != 0 && seen.insert((listener.port, host)),
            || {
                format!(
                    "a port is zero, or port {} and a hostname stand twice",
                    listener.port
                )
            },
        )?;
        host.map_or(Ok(()), |name| hostname(name, true))?;
        // Which of them it serves, its own unit says.
        routes(&listener.routes, &[UnitKind::Route, UnitKind::StreamRoute])?;
    }
    require(tables.is_empty() || !listeners.is_empty(), || {
        "tables without a listener".into()
    })?;
    unique("table", tables.iter().map(UnitName::as_str))?;
    tables
        .iter()
        .try_for_each(|name| refers(name, UnitKind::Table))
}

fn table(unit: &Table) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for ListenerRoutes {
        listener,
        routes: aged,
    } in &unit.listeners
    {
        refers(listener, UnitKind::Listener)?;
        require(seen.insert(listener), || format!("{listener} stands twice"))?;
        for used in aged {
            routes(&[used.plain()], &[UnitKind::Route, UnitKind::StreamRoute])?;
        }
    }
    Ok(())
}

fn routes(routes: &[RouteUse], kinds: &[UnitKind]) -> Result<(), String> {
    for used in routes {
        require(kinds.contains(&used.unit.kind()), || {
            format!("{} is no route that is served here", used.unit)
        })?;
        used.hostnames
            .iter()
            .try_for_each(|name| hostname(name, true))?;
    }
    Ok(())
}

fn listener(unit: &Listener) -> Result<(), String> {
    let Listener {
        object: _,
        name: _,
        port,
        protocol,
        hostname: host,
        tls,
        broken,
    } = unit;
    require(*port != 0, || "port 0".into())?;
    host.as_deref()
        .map_or(Ok(()), |name| hostname(name, true))?;
    let fits = match protocol {
        Protocol::Https => tls.is_some(),
        Protocol::Http | Protocol::Tcp => tls.is_none(),
        Protocol::Tls => true,
    };
    require(broken.is_some() || fits, || {
        "an HTTPS listener has TLS, one of TLS may have, and no other has".into()
    })?;
    if let Some(ListenerTls {
        certificates,
        client_authorities: _,
    }) = tls
    {
        require(!certificates.is_empty(), || "no certificate".into())?;
        certificates
            .iter()
            .try_for_each(|name| refers(name, UnitKind::Secret))?;
    }
    Ok(())
}

fn stream_route(unit: &StreamRoute) -> Result<(), String> {
    let StreamRoute {
        object: _,
        targets,
        broken,
    } = unit;
    require(!targets.is_empty() || broken.is_some(), || {
        "no backend".into()
    })?;
    for weighted in targets {
        match &weighted.target {
            Target::Backend(name) => refers(name, UnitKind::Backend)?,
            Target::Broken(_) => {}
            Target::App | Target::Shards(_) => {
                return Err("connections go to Services only".into());
            }
        }
        let edited = !weighted.request_headers.is_empty() || !weighted.response_headers.is_empty();
        require(!edited, || "bytes have no headers to edit".into())?;
    }
    Ok(())
}

fn policy(unit: &LimitPolicy) -> Result<(), String> {
    let LimitPolicy {
        object: _,
        mode: _,
        headers: _,
        limits,
        broken,
    } = unit;
    if broken.is_some() {
        // It says itself why it cannot serve; its limits are not used.
        return Ok(());
    }
    unique("limit", limits.iter().map(|limit| limit.name.as_str()))?;
    for limit in limits {
        for part in &limit.key {
            match part {
                KeyPart::Header { name } => field_name(name)?,
                KeyPart::ClientAddress {
                    prefix_v4,
                    prefix_v6,
                } => {
                    require(*prefix_v4 <= 32 && *prefix_v6 <= 128, || {
                        "an address has 32 or 128 bits".into()
                    })?;
                }
                KeyPart::Identity | KeyPart::IdentityAttribute { .. } | KeyPart::Claim { .. } => {}
            }
        }
        if let Scope::Global(global) = &limit.scope {
            refers(&global.store, UnitKind::Store)?;
            refers(&global.fleet, UnitKind::Fleet)?;
        }
    }
    Policy::compile(unit)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

fn backend(unit: &Backend) -> Result<(), String> {
    let Backend {
        namespace: _,
        service: _,
        port,
        port_name: _,
        protocol: _,
        endpoints,
        tls,
        broken: _,
    } = unit;
    require(*port != 0, || "port 0".into())?;
    if let Some(BackendTls {
        policy: _,
        server_name,
        roots: _,
        sans,
    }) = tls
    {
        hostname(server_name, false)?;
        for san in sans {
            match san {
                San::Hostname(name) => hostname(name, false)?,
                San::Uri(uri) => require(!uri.is_empty(), || "an empty URI".into())?,
            }
        }
    }
    endpoints
        .iter()
        .try_for_each(|name| refers(name, UnitKind::Endpoints))
}

fn endpoints(unit: &Endpoints) -> Result<(), String> {
    let Endpoints { ports, endpoints } = unit;
    require(!ports.values().any(|port| *port == 0), || "port 0".into())?;
    let strange = endpoints
        .iter()
        .find(|endpoint| endpoint.address.is_unspecified() || endpoint.address.is_multicast());
    strange.map_or(Ok(()), |endpoint| {
        Err(format!("{} is no address of a pod", endpoint.address))
    })
}

fn shard_map(unit: &ShardMap) -> Result<(), String> {
    let ShardMap {
        object: _,
        uid: _,
        epoch: _,
        key,
        slots,
        hold,
        max_pause_ms: _,
        pins,
        shards,
        replica_methods,
        broken,
    } = unit;
    for source in key {
        match source {
            KeySource::Header { name } => field_name(name)?,
            KeySource::PathParameter { .. }
            | KeySource::PathSegment { .. }
            | KeySource::Query { .. }
            | KeySource::Claim { .. } => {}
        }
    }
    for shard in shards {
        shard
            .replicas
            .iter()
            .chain([&shard.primary])
            .try_for_each(|name| refers(name, UnitKind::Backend))?;
    }
    unique("shard", shards.iter().map(|shard| shard.name.as_str()))?;
    require(shards.len() < usize::from(SLOTS), || {
        "more shards than slots".into()
    })?;
    let exists = |shard: u16| usize::from(shard) < shards.len();
    for range in slots {
        require(range.first <= range.last && exists(range.shard), || {
            format!(
                "slots {}-{} lead to shard {} of {}",
                range.first,
                range.last,
                range.shard,
                shards.len()
            )
        })?;
    }
    // A set that cannot serve says why itself; its slots may be what is wrong.
    if broken.is_none() {
        require(!key.is_empty(), || "no source of the key".into())?;
        covered(slots.iter().map(|range| (range.first, range.last)))?;
    }
    for range in hold {
        require(range.first <= range.last && range.last < SLOTS, || {
            format!(
                "held slots {}-{} are no range of slots",
                range.first, range.last
            )
        })?;
    }
    unique("pin", pins.iter().map(|pin| pin.key.as_str()))?;
    for pin in pins {
        require(exists(pin.shard), || {
            format!("the pin of {:?} leads to shard {}", pin.key, pin.shard)
        })?;
    }
    let method = replica_methods.iter().find(|method| !is_token(method));
    method.map_or(Ok(()), |method| Err(format!("{method:?} is not a method")))
}

/// Whether sorted ranges cover every slot exactly once.
fn covered(ranges: impl Iterator<Item = (u16, u16)>) -> Result<(), String> {
    let mut next = 0;
    for (first, last) in ranges {
        require(first <= next, || {
            format!("slots {next}-{} have no shard", first - 1)
        })?;
        require(first == next, || {
            format!("slot {first} has two shards, or the ranges are not sorted")
        })?;
        require(last < SLOTS, || {
            format!("there are {SLOTS} slots, the last is {}", SLOTS - 1)
        })?;
        next = last + 1;
    }
    require(next == SLOTS, || {
        format!("slots {next}-{} have no shard", SLOTS - 1)
    })
}

fn store(unit: &Store) -> Result<(), String> {
    let Store {
        name: _,
        mode: _,
        addresses,
        tls: _,
        credentials,
        key_prefix: _,
    } = unit;
    require(!addresses.is_empty(), || {
        "a store has at least one address".into()
    })?;
    for address in addresses {
        let whole = matches!(split_authority(address), Some((_, Some(port))) if port != 0);
        require(whole, || format!("{address:?} is not host:port"))?;
    }
    credentials
        .iter()
        .try_for_each(|name| refers(name, UnitKind::Secret))
}

fn keys(unit: &Keys) -> Result<(), String> {
    let Keys { secrets, entry: _ } = unit;
    secrets
        .iter()
        .try_for_each(|name| refers(name, UnitKind::Secret))
}

fn fleet(unit: Fleet) -> Result<(), String> {
    let Fleet { sessions } = unit;
    require(sessions >= 1, || "a fleet has at least one session".into())
}

fn settings(unit: Settings) -> Result<(), String> {
    let Settings {
        proxy_protocol: _,
        forwarded_for,
    } = unit;
    require(forwarded_for <= Settings::MAX_FORWARDED_FOR, || {
        let most = Settings::MAX_FORWARDED_FOR;
        format!("{forwarded_for} proxies in front are more than {most}")
    })
}

#[cfg(test)]
mod tests;
