//! One look at all manifest files: what has to be told to the engine, and what is wrong. It blocks (files are read, schemas
//! and CEL rules run), so it belongs on a thread of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use sluice_crds::manifest::{ManifestFinding, ManifestObject};
use sluice_translate::{
    Change, ObjectId,
    manifests::{self, Contents, Declared, Merged, Role},
};
use tokio::time::Instant;

use super::{
    files::{self, Manifests},
    generations::Generations,
};
use crate::{
    sinks::StatusFiles,
    state_dir::{StateDir, StateDirError},
};

/// How long an object must be missing to be gone.
pub const GRACE: Duration = Duration::from_millis(200);

/// Where manifests are.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Directories, in the order in which the first of two equal objects counts.
    pub directories: Vec<PathBuf>,
    /// The file of SluiceConfig; it counts before one in a directory.
    pub config: Option<PathBuf>,
}

/// What is known of the files, and of what the engine was told.
pub(super) struct Scanner {
    places: Places,
    memory: Option<Memory>,
    files: BTreeMap<PathBuf, Manifests>,
    /// What the engine has, by name.
    current: BTreeMap<ObjectId, Declared>,
    /// What is missing, and since when.
    missing: BTreeMap<ObjectId, Instant>,
}

/// What file mode remembers: status and generations. Absent in a cluster, where only SluiceConfig is a file.
struct Memory {
    state: Arc<StateDir>,
    generations: Generations,
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// For the engine.
    pub(super) changes: Vec<Change>,
    /// What is wrong, by file.
    pub(super) findings: BTreeMap<PathBuf, Vec<ManifestFinding>>,
    /// When to look again because of what is missing.
    pub(super) again: Option<Instant>,
}

impl Scanner {
    /// A scanner that has seen nothing.
    pub(super) fn new(places: Places) -> Self {
        Self {
            places,
            memory: None,
            files: BTreeMap::new(),
            current: BTreeMap::new(),
            missing: BTreeMap::new(),
        }
    }

    /// Keeps generations in `state` and reads status back from it.
    pub(super) fn remember(&mut self, state: Arc<StateDir>) -> Result<(), StateDirError> {
        let generations = Generations::load(state.clone())?;
        self.memory = Some(Memory { state, generations });
        Ok(())
    }

    /// Lists and compares everything once.
    pub(super) fn scan(&mut self) -> anyhow::Result<Found> {
        let order = self.read_files();
        let (wanted, findings) = self.merge(&order);
        let changes = self.difference(wanted)?;
        Ok(Found {
            changes,
            findings,
            again: self.missing.values().min().map(|since| *since + GRACE),
        })
    }

    /// Brings `files` up to date and returns them in order. What cannot be read stays as it was read last.
    fn read_files(&mut self) -> Vec<PathBuf> {
        let mut order: Vec<PathBuf> = self.places.config.iter().cloned().collect();
        for directory in &self.places.directories {
            match files::list(directory) {
                Ok(listed) => order.extend(listed),
                Err(error) => {
                    tracing::error!(directory = %directory.display(), %error, "cannot list manifests; what was read stays");
                    let known = self.files.keys();
                    order.extend(
                        known
                            .filter(|file| file.parent() == Some(directory))
                            .cloned(),
                    );
                }
            }
        }
        for file in &order {
            match Manifests::read(file, self.files.get(file)) {
                Ok(None) => {}
                Ok(Some(mut read)) => {
                    if !read.contents.whole
                        && let Some(former) = self.files.remove(file)
                    {
                        keep_last_good(&mut read.contents, former.contents);
                    }
                    self.files.insert(file.clone(), read);
                }
                Err(error) => {
                    tracing::error!(file = %file.display(), %error, "cannot read a manifest; what was read stays");
                }
            }
        }
        let present: BTreeSet<_> = order.iter().collect();
        self.files.retain(|file, _| present.contains(file));
        order
    }

    /// Everything that is declared, the first of two equal ones; and what is wrong, by file.
    fn merge(
        &self,
        order: &[PathBuf],
    ) -> (
        BTreeMap<ObjectId, Declared>,
        BTreeMap<PathBuf, Vec<ManifestFinding>>,
    ) {
        let read = order.iter().filter_map(|path| {
            let role = match self.places.config.as_ref() == Some(path) {
                true => Role::Config,
                false => Role::Manifests,
            };
            let contents = &self.files.get(path)?.contents;
            Some((path.display().to_string(), role, contents))
        });
        let read: Vec<_> = read.collect();
        let files = read
            .iter()
            .map(|(name, role, contents)| (name.as_str(), *role, *contents));
        let Merged { declared, findings } = manifests::merge(files);
        let wanted = declared.into_iter();
        let findings = findings.into_iter();
        (
            wanted
                .map(|(id, (_, declared))| (id, declared.clone()))
                .collect(),
            findings
                .map(|(file, findings)| (PathBuf::from(file), findings))
                .collect(),
        )
    }

    /// What the engine has to be told.
    fn difference(&mut self, wanted: BTreeMap<ObjectId, Declared>) -> anyhow::Result<Vec<Change>> {
        let now = Instant::now();
        let mut changes = Vec::new();
        self.missing.retain(|id, _| !wanted.contains_key(id));
        let gone: Vec<_> = self
            .current
            .keys()
            .filter(|id| !wanted.contains_key(*id))
            .cloned()
            .collect();
        for id in gone {
            let since = *self.missing.entry(id.clone()).or_insert(now);
            if now.duration_since(since) >= GRACE {
                self.missing.remove(&id);
                self.current.remove(&id);
                changes.push(Change::Delete(id));
            }
        }
        for (id, declared) in wanted {
            let declared = self.recall(&id, declared)?;
            if self.current.get(&id) != Some(&declared) {
                changes.push(declared.clone().into_change());
                self.current.insert(id, declared);
            }
        }
        if let Some(memory) = &mut self.memory {
            memory.generations.save()?;
        }
        Ok(changes)
    }

    /// Puts generation and, for ShardSets, status on an object, as the API server would have them.
    fn recall(&mut self, id: &ObjectId, declared: Declared) -> anyhow::Result<Declared> {
        let (Some(memory), Declared::Sound(mut object)) = (&mut self.memory, declared.clone())
        else {
            return Ok(declared);
        };
        match &mut object {
            ManifestObject::ApiRoute(route) => {
                let spec = serde_json::to_value(&route.spec)?;
                route.metadata.generation = Some(memory.generations.of(id, &spec));
            }
            ManifestObject::RateLimitPolicy(policy) => {
                let spec = serde_json::to_value(&policy.spec)?;
                policy.metadata.generation = Some(memory.generations.of(id, &spec));
            }
            ManifestObject::ShardSet(set) => {
                let spec = serde_json::to_value(&set.spec)?;
                set.metadata.generation = Some(memory.generations.of(id, &spec));
                let status = StatusFiles::read(&memory.state, &id.reference())?;
                match status.map(serde_json::from_value).transpose() {
                    Ok(status) => set.status = status,
                    // Which shard owns which slot cannot be guessed: this set denies, all else goes on.
                    Err(error) => {
                        let message = format!(
                            "its status in the state directory does not decode ({error}): restore it, or remove it to start from spec.placement"
                        );
                        let raw = serde_json::to_value(&**set)?;
                        let id = id.clone();
                        return Ok(Declared::Broken { id, message, raw });
                    }
                }
            }
            ManifestObject::SluiceConfig(_)
            | ManifestObject::Service(_)
            | ManifestObject::Secret(_)
            | ManifestObject::EndpointSlice(_)
            | ManifestObject::ConfigMap(_)
            | ManifestObject::Gateway(_)
            | ManifestObject::BackendTlsPolicy(_)
            | ManifestObject::GatewayClass(_)
            | ManifestObject::ListenerSet(_)
            | ManifestObject::HttpRoute(_)
            | ManifestObject::GrpcRoute(_)
            | ManifestObject::TlsRoute(_)
            | ManifestObject::TcpRoute(_)
            | ManifestObject::ReferenceGrant(_) => {}
        }
        Ok(Declared::Sound(object))
    }
}

/// What `former` declared and the unparsable `read` does not name stays.
fn keep_last_good(read: &mut Contents, former: Contents) {
    let named: BTreeSet<_> = read
        .declared
        .iter()
        .map(|placed| placed.declared.id())
        .collect();
    let kept = former.declared.into_iter();
    read.declared
        .extend(kept.filter(|placed| !named.contains(&placed.declared.id())));
}
