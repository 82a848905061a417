//! The dispatch phase: exactly one place that answers a request. Which of its endpoints is healthy is the caller's to
//! know.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use sluice_snapshot::{ConfigError, ConfigReason, UnitName, unit::shard_map::KeySource};

use crate::{
    Decider, Facts, Identity, Reject, RejectReason,
    program::{Action, Backend, Target as Destination, TargetEdits, WeightedTarget},
    redirect,
    route::{Matched, misconfigured},
    shard::{self, CompiledShardMap, pick},
    target::{Target, decoded},
};

pub use crate::shard::Role;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Dispatch<'p> {
    /// This pod's own app.
    App {
        /// Edits of what goes there and comes from there.
        edits: Option<&'p Arc<TargetEdits>>,
    },
    /// Another Service.
    Forward {
        /// Which.
        backend: &'p Arc<Backend>,
        /// Edits of what goes there and comes from there.
        edits: Option<&'p Arc<TargetEdits>>,
    },
    /// A shard.
    Shard(ShardChoice<'p>),
    /// Back to the client.
    Redirect {
        /// Status code.
        status: u16,
        /// Value of `Location`.
        location: String,
    },
}

/// Which shard, and who of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShardChoice<'p> {
    /// The map's unit.
    pub map: &'p UnitName,
    /// The map's epoch.
    pub epoch: u64,
    /// The key's slot.
    pub slot: u16,
    /// The shard's name.
    pub shard: &'p str,
    /// Who of it.
    pub role: Role,
    /// Where that is.
    pub backend: &'p Arc<Backend>,
    /// The slot is being moved: the request waits.
    pub held: bool,
    /// How long it waits at most, in milliseconds.
    pub max_pause_ms: u64,
}

/// Chooses. `random` decides among weights and replicas.
pub fn choose<'p>(
    matched: &Matched<'p>,
    facts: &impl Facts,
    target: &Target,
    identity: Option<&Identity>,
    random: u32,
) -> Result<Dispatch<'p>, Reject> {
    match &matched.rule.action {
        Action::Redirect(to) => Ok(Dispatch::Redirect {
            status: to.status,
            location: redirect::location(to, matched.spec(), facts, target),
        }),
        Action::Backends { targets, total } => {
            let chosen = weighted(targets, *total, random).ok_or_else(|| {
                matched
                    .reject(RejectReason::NoEndpoint)
                    .detail("every weight is zero")
            })?;
            let edits = chosen.edits.as_ref();
            match &chosen.target {
                Err(error) => Err(misconfigured(error, matched.decider())),
                Ok(Destination::App) => Ok(Dispatch::App { edits }),
                Ok(Destination::Backend(backend)) => Ok(Dispatch::Forward { backend, edits }),
                Ok(Destination::Shards(map)) => {
                    let key = shard_key(map, matched, facts, target, identity);
                    choose_shard(map, key.as_deref(), facts.method(), spread(random))
                        .map(Dispatch::Shard)
                }
            }
        }
    }
}

/// One of the backend's endpoints; none: nobody is there, [`RejectReason::NoEndpoint`].
pub fn endpoint(backend: &Backend, random: u32) -> Option<SocketAddr> {
    let endpoints = backend.endpoints();
    endpoints.get(pick(random, endpoints.len())).copied()
}

/// Before a request leaves for another pod: what a sidecar has forwarded no sidecar forwards again. Where the chosen
/// endpoint is this pod itself there is no hop, and this is not asked.
pub fn may_forward(matched: &Matched<'_>, facts: &impl Facts) -> Result<(), Reject> {
    if was_forwarded(facts) {
        Err(matched.reject(RejectReason::Loop))
    } else {
        Ok(())
    }
}

/// How the received-by part of an edge's `Via` begins; the group's hash follows.
pub const VIA_EDGE: &str = "sluice-edge-";

/// How the received-by part of our own `Via` begins (RFC 9110 section 7.6.3); the group's hash follows.
pub const VIA_FORWARD: &str = "sluice-fwd-";

/// Whether a sidecar has forwarded this request.
fn was_forwarded(facts: &impl Facts) -> bool {
    let received_by = |member: &[u8]| {
        let mut words = member
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|name| {
            name.get(..VIA_FORWARD.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(VIA_FORWARD.as_bytes()))
        })
    };
    facts
        .header("via")
        .any(|line| line.split(|byte| *byte == b',').any(received_by))
}

/// One of the targets by weight; none: every weight is zero.
pub(crate) fn weighted(
    targets: &[WeightedTarget],
    total: u64,
    random: u32,
) -> Option<&WeightedTarget> {
    // Multiply and shift: as even as a remainder, and total 0 needs no case of its own.
    let mut point = (u128::from(random) * u128::from(total)) >> 32;
    for target in targets {
        match point.checked_sub(u128::from(target.weight)) {
            Some(left) => point = left,
            None => return Some(target),
        }
    }
    None
}

/// A second number from the same draw: it must not follow from which target was chosen (Knuth's multiplicative hash).
fn spread(random: u32) -> u32 {
    random.wrapping_mul(0x9E37_79B1)
}

/// The key: the first source that is present and not empty, as the app would read it.
fn shard_key<'a>(
    map: &'a CompiledShardMap,
    matched: &Matched<'_>,
    facts: &'a impl Facts,
    target: &'a Target,
    identity: Option<&Identity>,
) -> Option<Cow<'a, [u8]>> {
    let text = |text: Cow<'a, str>| match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    map.key
        .iter()
        .filter_map(|source| match source {
            KeySource::Header { name } => facts.header(name).next().map(Cow::Borrowed),
            KeySource::PathParameter { name } => matched
                .parameter(name, target)
                .map(|value| Cow::Owned(decoded(&value).into_owned())),
            KeySource::PathSegment { index } => target.segment(usize::from(*index)).map(decoded),
            KeySource::Query { name } => target.parameter(name).map(text),
            KeySource::Claim { name } => identity?
                .claim(name)
                .map(|value| Cow::Owned(value.into_bytes())),
        })
        .find(|key| !key.is_empty())
}

fn choose_shard<'p>(
    map: &'p CompiledShardMap,
    key: Option<&[u8]>,
    method: &str,
    random: u32,
) -> Result<ShardChoice<'p>, Reject> {
    if let Some(error) = &map.broken {
        return Err(misconfigured(error, map.decider()));
    }
    let key = key.ok_or_else(|| Reject::new(RejectReason::ShardKeyMissing).by(map.decider()))?;
    let slot = shard::slot(key);
    let shard = map.shard_of(key, slot).ok_or_else(|| {
        let error = ConfigError::new(
            ConfigReason::SlotsUncovered,
            format!("no shard has slot {slot}"),
        );
        misconfigured(&error, map.decider())
    })?;
    let (role, backend) = shard.choose(map.reads(method), random);
    let backend =
        backend.map_err(|error| misconfigured(error, Decider::new(&map.object, &shard.name)))?;
    Ok(ShardChoice {
        map: &map.name,
        epoch: map.epoch,
        slot,
        shard: &shard.name,
        role,
        backend,
        held: map.is_held(slot),
        max_pause_ms: map.max_pause_ms,
    })
}

#[cfg(test)]
mod tests;
