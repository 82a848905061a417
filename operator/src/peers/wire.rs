//! A session as it travels between replicas, and back. Times travel as ages. Pure.

use std::{sync::Arc, time::Duration};

use sluice_snapshot::{Feature, Hash, UnitName, Version};
use sluice_translate::GroupId;
use tokio::time::Instant;

use super::proto;
use crate::{
    identity::Principal,
    load::Load,
    stream::{
        published::Manifest,
        table::{
            Acked, Build, Lost, LostBy, MAX_SETTLED, Nacked, Own, Record,
            limits::{LimitSeen, MAX_LIMITS},
        },
        update::Denial,
    },
};

/// What another replica sent does not fit together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// A required part is absent.
    #[error("{0} is missing; is the other replica of another version?")]
    Missing(&'static str),
    /// Something refers to what was not sent.
    #[error("it refers to {0}, which it did not send")]
    Unknown(&'static str),
    /// A name that is none.
    #[error("{0:?} is not the name of a unit; is the other replica of another version?")]
    Name(String),
    /// A list whose hash is not its version.
    #[error("the list of version {0} hashes to another one")]
    Version(Version),
    /// More than any replica has.
    #[error("it names too many {0}")]
    TooMany(&'static str),
}

/// Who a session is of; it travels once.
#[derive(Debug, Clone)]
pub struct Identity {
    principal: Principal,
    group: GroupId,
    build: Build,
}

fn age(at: Instant, now: Instant) -> u64 {
    let age = now.saturating_duration_since(at).as_millis();
    u64::try_from(age).unwrap_or(u64::MAX)
}

fn instant(ms_ago: u64, now: Instant) -> Instant {
    now.checked_sub(Duration::from_millis(ms_ago))
        .unwrap_or(now)
}

/// One of this replica's sessions, with who it is of where the follower does not know.
pub fn session(own: &Own, with_identity: bool, now: Instant) -> proto::Session {
    let Own {
        id,
        version,
        placed: _,
        record,
    } = own;
    let Record {
        principal,
        group,
        build,
        connected_at,
        lost,
        acked,
        nacked,
        load: _, // travels by itself, more often
        limits,
        settled,
        latencies,
    } = &**record;
    proto::Session {
        id: *id,
        version: *version,
        identity: with_identity.then(|| proto::Identity {
            namespace: principal.namespace.clone(),
            service_account: principal.service_account.clone(),
            pod: principal.pod.clone(),
            uid: principal.uid.clone(),
            services: group.parents().to_vec(),
            build: build.name.clone(),
            features: build.features.to_vec(),
        }),
        connected_ms_ago: age(*connected_at, now),
        lost: lost.map(|Lost { at, by }| proto::Lost {
            ms_ago: age(at, now),
            by_replica: by == LostBy::Replica,
        }),
        acked: acked.as_ref().map(|acked| proto::Acked {
            version: acked.version.to_string(),
            ms_ago: age(acked.at, now),
            denied: acked.denied.iter().map(denied).collect(),
            latencies: policy_units(&acked.manifest)
                .map(|(name, hash)| match latencies.get(name) {
                    Some((of, ms)) if of == hash => ms.saturating_add(1),
                    _ => 0,
                })
                .collect(),
        }),
        nacked: nacked.as_ref().map(|nacked| proto::Nacked {
            version: nacked.version.clone(),
            unit: nacked.unit.clone(),
            reason: nacked.reason.clone(),
        }),
        settled: settled
            .iter()
            .map(|(unit, (epoch, hash))| proto::Settled {
                unit: unit.to_string(),
                epoch: *epoch,
                hash: hash.to_string(),
            })
            .collect(),
        limits: limits.iter().map(limit).collect(),
    }
}

fn limit(seen: &LimitSeen) -> proto::Limit {
    let LimitSeen {
        policy,
        limit,
        state: _, // written below
        overshoot_ppm,
        shadowed,
    } = seen;
    proto::Limit {
        policy: policy.to_string(),
        limit: limit.clone(),
        state: seen.state(),
        overshoot_ppm: *overshoot_ppm,
        shadowed: *shadowed,
    }
}

fn limit_seen(limit: proto::Limit) -> Option<LimitSeen> {
    let proto::Limit {
        policy,
        limit,
        state,
        overshoot_ppm,
        shadowed,
    } = limit;
    LimitSeen::read(&policy, limit, &state, overshoot_ppm, shadowed)
}

/// In the order of their names, by which both sides know whose latency is whose.
fn policy_units(manifest: &Manifest) -> impl Iterator<Item = (&UnitName, &Hash)> {
    let units = manifest.sorted().into_iter();
    units.filter(|(name, _)| name.kind().is_policy())
}

fn denied((unit, denial): (&UnitName, &Denial)) -> proto::Denied {
    let unit = unit.to_string();
    match denial {
        Denial::TooOld { lacks } => proto::Denied {
            unit,
            lacks: lacks.iter().map(ToString::to_string).collect(),
            reason: String::new(),
        },
        Denial::Refused { reason } => proto::Denied {
            unit,
            lacks: Vec::new(),
            reason: reason.clone(),
        },
    }
}

/// Who a session is of.
pub fn identity(identity: proto::Identity) -> Identity {
    let proto::Identity {
        namespace,
        service_account,
        pod,
        uid,
        services,
        build,
        features,
    } = identity;
    Identity {
        group: GroupId::new(&namespace, services.into_iter().collect()),
        principal: Principal {
            namespace,
            service_account,
            pod,
            uid,
        },
        build: Build {
            name: build,
            features: features.into(),
        },
    }
}

/// The record of a session; `list` is the manifest of the version that it acknowledged.
pub fn record(
    session: proto::Session,
    identity: &Identity,
    list: Option<&Arc<Manifest>>,
    now: Instant,
) -> Result<Record, WireError> {
    let proto::Session {
        id: _,
        version: _,
        identity: _,
        connected_ms_ago,
        lost,
        acked,
        nacked,
        settled,
        limits,
    } = session;
    if settled.len() > MAX_SETTLED {
        return Err(WireError::TooMany("settled units"));
    }
    if limits.len() > MAX_LIMITS {
        return Err(WireError::TooMany("limits"));
    }
    let Identity {
        principal,
        group,
        build,
    } = identity.clone();
    let connected_at = instant(connected_ms_ago, now);
    let mut record = Record::new(principal, group, build, connected_at);
    record.limits = limits.into_iter().filter_map(limit_seen).collect();
    record.lost = lost.map(|proto::Lost { ms_ago, by_replica }| Lost {
        at: instant(ms_ago, now),
        by: if by_replica {
            LostBy::Replica
        } else {
            LostBy::Sidecar
        },
    });
    if let Some(acked) = acked {
        let proto::Acked {
            version,
            ms_ago,
            denied,
            latencies,
        } = acked;
        let manifest = list.ok_or(WireError::Unknown("a list"))?.clone();
        for ((name, hash), ms) in policy_units(&manifest).zip(latencies) {
            if let Some(ms) = ms.checked_sub(1) {
                record.latencies.insert(name.clone(), (hash.clone(), ms));
            }
        }
        record.acked = Some(Acked {
            version: Version::from_wire(version),
            manifest,
            denied: denied.into_iter().map(denial).collect::<Result<_, _>>()?,
            at: instant(ms_ago, now),
        });
    }
    record.nacked = nacked.map(
        |proto::Nacked {
             version,
             unit,
             reason,
         }| Nacked {
            version,
            unit,
            reason,
        },
    );
    for proto::Settled { unit, epoch, hash } in settled {
        let settled = (epoch, Hash::from_wire(hash));
        record.settled.insert(unit_name(unit)?, settled);
    }
    Ok(record)
}

fn denial(denied: proto::Denied) -> Result<(UnitName, Denial), WireError> {
    let proto::Denied {
        unit,
        lacks,
        reason,
    } = denied;
    let denial = match lacks.is_empty() {
        true => Denial::Refused { reason },
        false => Denial::TooOld {
            lacks: lacks.iter().map(|name| feature(name)).collect(),
        },
    };
    Ok((unit_name(unit)?, denial))
}

/// A feature by name; a newer replica may know more of them.
fn feature(name: &str) -> &'static str {
    Feature::ALL
        .iter()
        .map(|feature| feature.name())
        .find(|known| *known == name)
        .unwrap_or("a newer feature")
}

fn unit_name(name: String) -> Result<UnitName, WireError> {
    name.parse().map_err(|_| WireError::Name(name))
}

/// A list as what differs from `base`.
pub fn manifest(
    version: &Version,
    list: &Manifest,
    base: Option<(&Version, &Manifest)>,
) -> proto::Manifest {
    let empty = Manifest::new();
    let former = base.map_or(&empty, |(_, former)| former);
    let changed = list.changed_since(former);
    let upserts = changed
        .iter()
        .filter_map(|name| Some((name, list.get(name)?)));
    proto::Manifest {
        version: version.to_string(),
        base: base.map(|(base, _)| base.to_string()).unwrap_or_default(),
        upserts: upserts
            .map(|(name, hash)| (name.to_string(), hash.to_string()))
            .collect(),
        removes: changed
            .iter()
            .filter(|name| !list.contains_key(name))
            .map(ToString::to_string)
            .collect(),
    }
}

/// The list that `wire` makes of `base`; it must hash to its version.
pub fn list(
    wire: proto::Manifest,
    base: Option<&Manifest>,
) -> Result<(Version, Manifest), WireError> {
    let proto::Manifest {
        version,
        base: _,
        upserts,
        removes,
    } = wire;
    let mut list = base.cloned().unwrap_or_default();
    for name in removes {
        list.remove(&unit_name(name)?);
    }
    for (name, hash) in upserts {
        list.insert(unit_name(name)?, Hash::from_wire(hash));
    }
    let version = Version::from_wire(version);
    // As a sidecar of this build has it, or one of an earlier.
    match list.version() == version || list.flat_version() == version {
        true => Ok((version, list)),
        false => Err(WireError::Version(version)),
    }
}

/// A session's load.
pub fn load(id: u64, load: &Load, now: Instant) -> proto::Load {
    let Load {
        requests_per_second,
        in_flight,
        latency_p95_us,
        at,
    } = *load;
    proto::Load {
        id,
        ms_ago: age(at, now),
        requests_per_second,
        in_flight,
        latency_p95_us,
    }
}

/// A load that is a number; `None` for what is none.
pub fn measured(load: proto::Load, now: Instant) -> Option<(u64, Load)> {
    let proto::Load {
        id,
        ms_ago,
        requests_per_second,
        in_flight,
        latency_p95_us,
    } = load;
    let is_number = |value: f64| value.is_finite() && value >= 0.0;
    (is_number(requests_per_second) && is_number(in_flight)).then(|| {
        let load = Load {
            requests_per_second,
            in_flight,
            latency_p95_us,
            at: instant(ms_ago, now),
        };
        (id, load)
    })
}
