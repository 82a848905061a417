//! What another replica tells, put together again: pieces in, whole turns out. Pure. The other replica is ourselves by
//! identity, not by version: whatever does not fit together ends the stream, which begins anew with everything.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use sluice_snapshot::Version;
use tokio::time::Instant;

use super::{
    proto,
    wire::{self, Identity, WireError},
};
use crate::stream::{
    published::Manifest,
    table::{Remote, Turn},
};

/// Sessions that a replica may have.
const MAX_SESSIONS: usize = 65_536;

/// One stream from another replica.
#[derive(Debug, Default)]
pub struct Incoming {
    replica: Option<String>,
    sessions: HashMap<u64, Known>,
    lists: HashMap<Version, Arc<Manifest>>,
    turn: Turn,
    /// Whether a whole turn was put together.
    complete: bool,
}

#[derive(Debug)]
struct Known {
    identity: Identity,
    list: Option<Version>,
}

impl Incoming {
    /// The life of the replica that speaks; known from its first piece on.
    pub fn replica(&self) -> Option<&str> {
        self.replica.as_deref()
    }

    /// Takes a piece in; the turn that it completes.
    pub fn part(&mut self, part: proto::Part, now: Instant) -> Result<Option<Turn>, WireError> {
        let proto::Part {
            replica,
            gone,
            manifests,
            sessions,
            loads,
            last,
        } = part;
        if self.replica.is_none() {
            if replica.is_empty() {
                return Err(WireError::Missing("the replica's name"));
            }
            self.replica = Some(replica);
        }
        for id in &gone {
            self.sessions.remove(id);
        }
        self.turn.gone.extend(gone);
        for manifest in manifests {
            self.list(manifest)?;
        }
        for session in sessions {
            let remote = self.session(session, now)?;
            self.turn.changed.push(remote);
        }
        if self.sessions.len() > MAX_SESSIONS || self.turn.changed.len() > MAX_SESSIONS {
            return Err(WireError::TooMany("sessions"));
        }
        let loads = loads
            .into_iter()
            .filter_map(|load| wire::measured(load, now));
        self.turn.loads.extend(loads);
        if self.turn.loads.len() > MAX_SESSIONS {
            return Err(WireError::TooMany("loads"));
        }
        if !last {
            return Ok(None);
        }
        let used: HashSet<&Version> = self
            .sessions
            .values()
            .filter_map(|known| known.list.as_ref())
            .collect();
        self.lists.retain(|version, _| used.contains(version));
        let mut turn = std::mem::take(&mut self.turn);
        turn.whole = !std::mem::replace(&mut self.complete, true);
        Ok(Some(turn))
    }

    fn list(&mut self, manifest: proto::Manifest) -> Result<(), WireError> {
        let base = match manifest.base.is_empty() {
            true => None,
            false => Some(
                self.lists
                    .get(&Version::from_wire(manifest.base.as_str()))
                    .ok_or(WireError::Unknown("the base of a list"))?,
            ),
        };
        let (version, list) = wire::list(manifest, base.map(|base| &**base))?;
        self.lists.insert(version, Arc::new(list));
        if self.lists.len() > 2 * MAX_SESSIONS {
            return Err(WireError::TooMany("lists"));
        }
        Ok(())
    }

    fn session(&mut self, mut session: proto::Session, now: Instant) -> Result<Remote, WireError> {
        let (id, version) = (session.id, session.version);
        let list = session
            .acked
            .as_ref()
            .map(|acked| Version::from_wire(acked.version.as_str()));
        if let Some(identity) = session.identity.take() {
            let known = Known {
                identity: wire::identity(identity),
                list: None,
            };
            self.sessions.insert(id, known);
        }
        let known = self
            .sessions
            .get_mut(&id)
            .ok_or(WireError::Unknown("a session's identity"))?;
        known.list = list;
        let list = known.list.as_ref().and_then(|list| self.lists.get(list));
        Ok(Remote {
            id,
            version,
            record: wire::record(session, &known.identity, list, now)?,
        })
    }
}
