//! A ShardSet: the map in force. Status is the truth; `spec.placement` is a wish, in force only before there is a status.

use std::collections::BTreeMap;

use sluice_crds::{
    ShardSetSpec,
    shard_set::{
        MovePhase, Placement, ReadTarget, Shard, ShardKeyPartUse, SlotTable, SlotTableError,
    },
};
use sluice_snapshot::{
    ConfigError, ConfigReason, UnitName,
    unit::{
        ShardMap,
        shard_map::{self, Held, KeySource, Pin, SlotRange},
    },
};

use super::{
    Resolved,
    api_route::{auth::millis, backends},
    report::Report,
    seal,
};
use crate::{finding::FindingReason, view::View, world::ShardSetFacts};

pub(super) fn resolve(view: &View<'_>, facts: &ShardSetFacts) -> Resolved {
    let custom = &facts.custom;
    let mut report = Report::of(&custom.id);
    if let Some(defect) = &custom.defect {
        let what = format!("the stored object does not decode ({})", defect.message);
        report.add(FindingReason::Undecodable, "", &what);
    }
    let map = match custom.sound() {
        Some(spec) => sound(view, facts, spec, &mut report),
        None => {
            let what = "the stored ShardSet does not decode";
            seal::broken_map(empty(facts), ConfigError::new(ConfigReason::Invalid, what))
        }
    };
    let name = UnitName::shard_map(&custom.id.namespace, &custom.id.name);
    let unit = seal::shard_map(&name, map, &mut report);
    Resolved {
        units: BTreeMap::from([(name, unit)]),
        findings: report.into_findings(),
        ..Resolved::default()
    }
}

fn empty(facts: &ShardSetFacts) -> ShardMap {
    let custom = &facts.custom;
    ShardMap {
        object: custom.id.reference(),
        uid: custom.meta.uid.clone(),
        // A set that nobody moved yet is at its first epoch.
        epoch: facts
            .epoch
            .and_then(|epoch| u64::try_from(epoch).ok())
            .unwrap_or(1),
        key: Vec::new(),
        slots: Vec::new(),
        hold: Vec::new(),
        max_pause_ms: 0,
        pins: Vec::new(),
        shards: Vec::new(),
        replica_methods: Vec::new(),
        broken: None,
    }
}

/// Faults of the wish that do not touch what is in force are findings and no more.
fn sound(
    view: &View<'_>,
    facts: &ShardSetFacts,
    spec: &ShardSetSpec,
    report: &mut Report,
) -> ShardMap {
    let wish = table(&spec.placement, &spec.shards);
    if let Err(errors) = &wish {
        errors
            .iter()
            .for_each(|error| report.error("spec.placement", error));
    }
    let in_force = match facts.placement.is_empty() {
        true => wish,
        false => table(&facts.placement, &spec.shards).inspect_err(|errors| {
            for error in errors {
                let what = format!("the placement in force no longer holds: {}", error.message);
                report.add(error.reason.into(), "status.placement", &what);
            }
        }),
    };
    let map = in_force
        .map_err(|errors| errors.into_iter().next())
        .and_then(|slots| map(view, facts, spec, slots, report).map_err(Some));
    match map {
        Ok(map) => map,
        Err(error) => {
            let unknown = || ConfigError::new(ConfigReason::SlotsUncovered, "no placement");
            seal::broken_map(empty(facts), error.unwrap_or_else(unknown))
        }
    }
}

/// A placement as ranges over indexes of `shards`, sorted, every slot once. Also what a move must ask of its wish.
pub fn table(
    placement: &[Placement],
    shards: &[Shard],
) -> Result<Vec<SlotRange>, Vec<ConfigError>> {
    let table = SlotTable::new(placement)
        .map_err(|errors| errors.iter().map(slots_error).collect::<Vec<_>>())?;
    let mut errors = Vec::new();
    let mut ranges = Vec::new();
    for Placement { slots, shard } in table.to_placement() {
        match (index_of(shards, &shard), slots.range()) {
            (Ok(shard), Ok(range)) => ranges.push(SlotRange {
                first: *range.start(),
                last: *range.end(),
                shard,
            }),
            (Err(error), _) => errors.push(error),
            (_, Err(error)) => {
                errors.push(ConfigError::new(ConfigReason::Invalid, error.to_string()))
            }
        }
    }
    match errors.is_empty() {
        true => Ok(ranges),
        false => {
            errors.dedup();
            Err(errors)
        }
    }
}

fn slots_error(error: &SlotTableError) -> ConfigError {
    let reason = match error {
        SlotTableError::Range(_) => ConfigReason::Invalid,
        SlotTableError::Twice { .. } | SlotTableError::Uncovered { .. } => {
            ConfigReason::SlotsUncovered
        }
    };
    ConfigError::new(reason, error.to_string())
}

fn index_of(shards: &[Shard], name: &str) -> Result<u16, ConfigError> {
    let index = shards.iter().position(|shard| shard.name == name);
    index
        .and_then(|index| u16::try_from(index).ok())
        .ok_or_else(|| {
            let what = format!(
                "there is no shard {name}; a shard that still owns slots cannot be removed"
            );
            ConfigError::new(ConfigReason::Invalid, what)
        })
}

fn map(
    view: &View<'_>,
    facts: &ShardSetFacts,
    spec: &ShardSetSpec,
    slots: Vec<SlotRange>,
    report: &mut Report,
) -> Result<ShardMap, ConfigError> {
    let mut fatal = None;
    let mut keep = |path: String, error: ConfigError, report: &mut Report| {
        report.error(&path, &error);
        fatal.get_or_insert(error);
    };
    let mut key = Vec::new();
    for (index, source) in spec.key.from.iter().enumerate() {
        match source.get() {
            Ok(source) => key.push(key_source(&source)),
            Err(error) => {
                let error = ConfigError::new(ConfigReason::Invalid, error.to_string());
                keep(format!("spec.key.from[{index}]"), error, report);
            }
        }
    }
    let mut pins = Vec::new();
    for (index, pin) in spec.pins.iter().enumerate() {
        match index_of(&spec.shards, &pin.shard) {
            Ok(shard) => pins.push(Pin {
                key: pin.key.clone(),
                shard,
            }),
            Err(error) => keep(format!("spec.pins[{index}]"), error, report),
        }
    }
    let mut shards = Vec::new();
    for (index, one) in spec.shards.iter().enumerate() {
        let path = format!("spec.shards[{index}]");
        if let Err((path, error)) = members(view, facts, one, &path, report) {
            keep(path, error, report);
        }
        match shard(facts, one) {
            Ok(shard) => shards.push(shard),
            Err(error) => keep(path, error, report),
        }
    }
    if let Some(error) = fatal {
        return Err(error);
    }
    pins.sort_unstable();
    Ok(ShardMap {
        key,
        slots,
        hold: hold(facts),
        max_pause_ms: millis(spec.effective_max_pause()),
        pins,
        shards,
        replica_methods: replica_methods(spec),
        ..empty(facts)
    })
}

/// Slots that are held now: those of a move of this epoch that has come so far.
fn hold(facts: &ShardSetFacts) -> Vec<Held> {
    let holding = facts.moving.iter().filter(|moving| {
        moving.phase == MovePhase::Holding && facts.epoch.unwrap_or(1) == moving.epoch
    });
    let ranges = holding
        .flat_map(|moving| &moving.slots)
        .filter_map(|slots| slots.range().ok());
    let mut held: Vec<Held> = ranges
        .map(|range| Held {
            first: *range.start(),
            last: *range.end(),
        })
        .collect();
    held.sort_unstable();
    held
}

fn key_source(source: &ShardKeyPartUse<'_>) -> KeySource {
    match source {
        ShardKeyPartUse::Header(key) => KeySource::Header {
            name: key.name.to_ascii_lowercase(),
        },
        ShardKeyPartUse::PathParameter(key) => KeySource::PathParameter {
            name: key.name.to_string(),
        },
        ShardKeyPartUse::PathSegment(key) => KeySource::PathSegment { index: key.index },
        ShardKeyPartUse::Query(key) => KeySource::Query {
            name: key.name.to_string(),
        },
        ShardKeyPartUse::Claim(key) => KeySource::Claim {
            name: key.name.to_string(),
        },
    }
}

/// Whether the members take forwards. A missing one refuses its own shard only, for lack of its backend unit; one that
/// enforces something of its own would run it twice, so the set refuses.
fn members(
    view: &View<'_>,
    facts: &ShardSetFacts,
    shard: &Shard,
    path: &str,
    report: &mut Report,
) -> Result<(), (String, ConfigError)> {
    let namespace = &*facts.custom.id.namespace;
    for (index, member) in shard.members.iter().enumerate() {
        let path = format!("{path}.members[{index}].backendRef");
        let backend = &member.backend_ref;
        match backends::plain(view, namespace, &backend.name, backend.port) {
            Ok(()) => {}
            Err(error) if error.reason == ConfigReason::BackendNotFound => {
                report.error(&path, &error);
            }
            Err(error) => return Err((path, error)),
        }
    }
    Ok(())
}

fn shard(facts: &ShardSetFacts, spec: &Shard) -> Result<shard_map::Shard, ConfigError> {
    let namespace = &*facts.custom.id.namespace;
    let backend = |member: &sluice_crds::shard_set::ShardMember| {
        UnitName::backend(namespace, &member.backend_ref.name, member.backend_ref.port)
    };
    let primary = spec.primary().ok_or_else(|| {
        let what = format!("shard {} has no member with role Primary", spec.name);
        ConfigError::new(ConfigReason::Invalid, what)
    })?;
    Ok(shard_map::Shard {
        name: spec.name.to_string(),
        primary: backend(primary),
        replicas: spec.replicas().map(backend).collect(),
    })
}

fn replica_methods(spec: &ShardSetSpec) -> Vec<String> {
    let reads = spec.read_write_split.iter().map(|split| &split.reads);
    let split = reads.filter(|reads| reads.to == ReadTarget::PreferReplica);
    split
        .flat_map(|reads| &reads.methods)
        .map(|method| method.as_str().to_owned())
        .collect()
}
