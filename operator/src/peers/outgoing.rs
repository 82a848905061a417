//! What one follower has to be told next: everything at first, then what has changed. Pure but for the table it reads.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use prost::Message;
use sluice_snapshot::{MAX_MESSAGE_BYTES, Version};
use tokio::time::Instant;

use super::{proto, wire};
use crate::stream::{
    SessionTable,
    published::Manifest,
    table::{Own, Record},
};

/// Room for a piece's own fields beside what it carries.
const ENVELOPE_BYTES: usize = 1024;

/// What one follower was told.
#[derive(Debug)]
pub struct Outgoing {
    /// This life of this replica, until it was told.
    replica: Option<String>,
    sessions: HashMap<u64, Told>,
    /// The lists that it has: those that its sessions refer to.
    lists: HashMap<Version, Arc<Manifest>>,
}

/// What it was told of one session.
#[derive(Debug, Default)]
struct Told {
    version: u64,
    placed: u64,
    list: Option<Version>,
    load_at: Option<Instant>,
}

impl Outgoing {
    /// Nothing was told yet. `replica` names this life of this replica.
    pub fn new(replica: &str) -> Self {
        Self {
            replica: Some(replica.to_owned()),
            sessions: HashMap::new(),
            lists: HashMap::new(),
        }
    }

    /// The pieces of the next turn, the last of which says so. Never empty: a turn that tells nothing says that this
    /// replica is there.
    pub fn turn(&mut self, table: &SessionTable, now: Instant) -> Vec<proto::Part> {
        let own = table.own();
        let mut draft = Draft::new(self.replica.take().unwrap_or_default());
        self.forget(&own, &mut draft);
        for own in &own {
            self.tell(own, &mut draft, now);
        }
        let used: HashSet<&Version> = self
            .sessions
            .values()
            .filter_map(|told| told.list.as_ref())
            .collect();
        self.lists.retain(|version, _| used.contains(version));
        draft.finish()
    }

    fn forget(&mut self, own: &[Own], draft: &mut Draft) {
        let there: HashSet<u64> = own.iter().map(|own| own.id).collect();
        self.sessions.retain(|id, _| {
            let stays = there.contains(id);
            if !stays {
                draft.push(Item::Gone(*id));
            }
            stays
        });
    }

    fn tell(&mut self, own: &Own, draft: &mut Draft, now: Instant) {
        let is_new = !self.sessions.contains_key(&own.id);
        let told = self.sessions.entry(own.id).or_default();
        if is_new || told.version != own.version {
            if let Some(list) = list_of(&own.record, &mut self.lists, told.list.take()) {
                draft.push(Item::Manifest(list));
            }
            let with_identity = is_new || told.placed != own.placed;
            let session = wire::session(own, with_identity, now);
            draft.push(Item::Session(Box::new(session)));
            let acked = own.record.acked.as_ref();
            told.list = acked.map(|acked| acked.version.clone());
            (told.version, told.placed) = (own.version, own.placed);
        }
        if let Some(load) = &own.record.load
            && told.load_at.is_none_or(|at| at < load.at)
        {
            told.load_at = Some(load.at);
            draft.push(Item::Load(wire::load(own.id, load, now)));
        }
    }
}

/// The list that the record refers to, if the follower has not got it, as what differs from the one it referred to before.
fn list_of(
    record: &Record,
    lists: &mut HashMap<Version, Arc<Manifest>>,
    before: Option<Version>,
) -> Option<proto::Manifest> {
    let acked = record.acked.as_ref()?;
    if lists.contains_key(&acked.version) {
        return None;
    }
    let base = before
        .as_ref()
        .and_then(|version| lists.get_key_value(version))
        .map(|(version, list)| (version, &**list));
    let told = wire::manifest(&acked.version, &acked.manifest, base);
    lists.insert(acked.version.clone(), acked.manifest.clone());
    Some(told)
}

enum Item {
    Gone(u64),
    Manifest(proto::Manifest),
    Session(Box<proto::Session>),
    Load(proto::Load),
}

impl Item {
    /// How much it adds to a piece, at most.
    fn bytes(&self) -> usize {
        8 + match self {
            Self::Gone(_) => 8,
            Self::Manifest(manifest) => manifest.encoded_len(),
            Self::Session(session) => session.encoded_len(),
            Self::Load(load) => load.encoded_len(),
        }
    }
}

/// Pieces of at most [`MAX_MESSAGE_BYTES`] each, in order; a list that is larger by itself is a piece by itself.
struct Draft {
    done: Vec<proto::Part>,
    current: proto::Part,
    bytes: usize,
}

impl Draft {
    fn new(replica: String) -> Self {
        Self {
            done: Vec::new(),
            current: proto::Part {
                replica,
                ..proto::Part::default()
            },
            bytes: 0,
        }
    }

    fn push(&mut self, item: Item) {
        let bytes = item.bytes();
        if self.bytes + bytes > MAX_MESSAGE_BYTES - ENVELOPE_BYTES && self.bytes > 0 {
            self.done.push(std::mem::take(&mut self.current));
            self.bytes = 0;
        }
        self.bytes += bytes;
        match item {
            Item::Gone(id) => self.current.gone.push(id),
            Item::Manifest(manifest) => self.current.manifests.push(manifest),
            Item::Session(session) => self.current.sessions.push(*session),
            Item::Load(load) => self.current.loads.push(load),
        }
    }

    fn finish(mut self) -> Vec<proto::Part> {
        self.current.last = true;
        self.done.push(self.current);
        self.done
    }
}
