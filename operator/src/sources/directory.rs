//! The directory source: manifests in directories, and SluiceConfig from a file of its own. Events are a hint; after one,
//! and every [`INTERVAL`], everything is listed and compared, so that an editor's rename and a ConfigMap's symlink swap
//! are one path.
//!
//! An object is gone only when it was missing for [`GRACE`]: an editor that renames or rewrites a file never takes a
//! policy away for a moment. A file that does not parse keeps its last good objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use prometheus::{IntCounter, IntGauge, Registry};
use serde_json::json;
use sluice_crds::manifest::{ManifestFinding, ManifestObject};
use sluice_process::Shutdown;
use sluice_snapshot::{hash::hex, unit::ObjectRef};
use sluice_translate::{Change, Kind, ObjectId};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    Inlet,
    files::{self, DUPLICATE, Declared, Manifests},
    generations::Generations,
};
use crate::{sinks::StatusFiles, state_dir::StateDir};

/// How often everything is compared without an event.
pub const INTERVAL: Duration = Duration::from_secs(10);
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

/// The source's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    scans: IntCounter,
    findings: IntGauge,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            scans: IntCounter::new(
                "sluice_operator_manifest_scans_total",
                "Times that all manifest files were compared",
            )?,
            findings: IntGauge::new(
                "sluice_operator_manifest_findings",
                "Findings of manifest files, SluiceConfig included",
            )?,
        };
        registry.register(Box::new(metrics.scans.clone()))?;
        registry.register(Box::new(metrics.findings.clone()))?;
        Ok(metrics)
    }
}

/// The source.
pub struct Directory {
    places: Places,
    inlet: Inlet,
    metrics: Metrics,
    memory: Option<Memory>,
    files: BTreeMap<PathBuf, Manifests>,
    /// What the engine has, by name.
    current: BTreeMap<ObjectId, Declared>,
    /// What is missing, and since when.
    missing: BTreeMap<ObjectId, Instant>,
    /// Files with findings, as last reported.
    reported: BTreeMap<PathBuf, Vec<ManifestFinding>>,
}

/// What file mode remembers: status and generations. Absent in a cluster, where only SluiceConfig is a file.
struct Memory {
    state: Arc<StateDir>,
    generations: Generations,
    /// Wakes the source when a status was written.
    written: Arc<Notify>,
}

impl Directory {
    /// A source that knows SluiceConfig's file only, for a cluster.
    pub fn new(places: Places, inlet: Inlet, metrics: Metrics) -> Self {
        Self {
            places,
            inlet,
            metrics,
            memory: None,
            files: BTreeMap::new(),
            current: BTreeMap::new(),
            missing: BTreeMap::new(),
            reported: BTreeMap::new(),
        }
    }

    /// The source of file mode, which reads status back from `state` when `written` says so.
    pub fn with_state(
        mut self,
        state: Arc<StateDir>,
        written: Arc<Notify>,
    ) -> anyhow::Result<Self> {
        let generations = Generations::load(state.clone())?;
        // Findings of a former run are not this one's.
        for file in state.list(Path::new("status/file/-"))? {
            state.remove(&file)?;
        }
        self.memory = Some(Memory {
            state,
            generations,
            written,
        });
        Ok(self)
    }

    /// Delivers the first list, then follows changes until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let hint = Arc::new(Notify::new());
        let _watcher = self.watch(hint.clone());
        let written = match &self.memory {
            Some(memory) => memory.written.clone(),
            None => Arc::new(Notify::new()),
        };
        self.scan().await?;
        self.inlet.synced().await?;
        loop {
            let again = self.missing.values().min().map(|since| *since + GRACE);
            let next = again.unwrap_or_else(|| Instant::now() + INTERVAL);
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                () = hint.notified() => {}
                () = written.notified() => {}
                () = sleep_until(next) => {}
            }
            self.scan().await?;
        }
    }

    /// Watches the directories; without a watch, the interval alone finds changes.
    fn watch(&self, hint: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
        let on_event = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_hint(event.kind)) {
                hint.notify_one();
            }
        };
        let mut watcher = notify::recommended_watcher(on_event)
            .inspect_err(
                |error| tracing::warn!(%error, "no watch; changes are seen every {INTERVAL:?}"),
            )
            .ok()?;
        let parent = self
            .places
            .config
            .as_deref()
            .map(|file| match file.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            });
        for directory in self
            .places
            .directories
            .iter()
            .map(PathBuf::as_path)
            .chain(parent)
        {
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                tracing::warn!(directory = %directory.display(), %error, "no watch; changes are seen every {INTERVAL:?}");
            }
        }
        Some(watcher)
    }

    /// Lists and compares everything once, and hands the difference to the engine.
    pub async fn scan(&mut self) -> anyhow::Result<()> {
        self.metrics.scans.inc();
        let order = self.read_files();
        let (wanted, findings) = self.merge(&order);
        let changes = self.difference(wanted)?;
        self.report(findings).await?;
        self.inlet.send(changes).await?;
        Ok(())
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
                    if !read.whole
                        && let Some(former) = self.files.remove(file)
                    {
                        keep_last_good(&mut read, former);
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
        let mut wanted: BTreeMap<ObjectId, Declared> = BTreeMap::new();
        let mut origin: BTreeMap<ObjectId, &Path> = BTreeMap::new();
        let mut findings: BTreeMap<PathBuf, Vec<ManifestFinding>> = BTreeMap::new();
        for file in order {
            let Some(manifests) = self.files.get(file) else {
                continue;
            };
            let name = file.display().to_string();
            let of_file = findings.entry(file.clone()).or_default();
            of_file.extend(manifests.findings.iter().cloned());
            let is_config = self.places.config.as_ref() == Some(file);
            for declared in &manifests.declared {
                let id = declared.id();
                if is_config && id.kind != Kind::Config {
                    of_file.push(files::of_file(
                        &name,
                        format!(
                            "{id} does not belong into the file of SluiceConfig; it is ignored"
                        ),
                    ));
                } else if let Some(first) = origin.get(&id) {
                    let message = format!(
                        "{DUPLICATE}{id}, which {} declares: that one counts",
                        first.display()
                    );
                    of_file.push(files::of_file(&name, message));
                } else {
                    origin.insert(id.clone(), file);
                    wanted.insert(id, declared.clone());
                }
            }
        }
        findings.retain(|_, findings| !findings.is_empty());
        (wanted, findings)
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
            | ManifestObject::EndpointSlice(_) => {}
        }
        Ok(Declared::Sound(object))
    }

    /// Tells findings to the engine, the log, the metric and the state directory.
    async fn report(
        &mut self,
        findings: BTreeMap<PathBuf, Vec<ManifestFinding>>,
    ) -> anyhow::Result<()> {
        if findings == self.reported {
            return Ok(());
        }
        let total: usize = findings.values().map(Vec::len).sum();
        self.metrics
            .findings
            .set(i64::try_from(total).unwrap_or(i64::MAX));
        let files: BTreeSet<_> = findings.keys().chain(self.reported.keys()).collect();
        for file in files {
            let now = findings.get(file).map(Vec::as_slice).unwrap_or_default();
            if self
                .reported
                .get(file)
                .map(Vec::as_slice)
                .unwrap_or_default()
                == now
            {
                continue;
            }
            for finding in now {
                tracing::error!(
                    file = finding.file,
                    line = finding.line,
                    column = finding.column,
                    "manifest: {finding}"
                );
            }
            if now.is_empty() {
                tracing::info!(file = %file.display(), "manifest is sound again");
            }
            let about = ObjectId::new(Kind::File, "", &file.display().to_string());
            let notes = now
                .iter()
                .map(|finding| files::finding(&about, finding))
                .collect();
            self.inlet.note(about, notes).await?;
            if let Some(memory) = &self.memory {
                write_file_status(&memory.state, file, now)?;
            }
        }
        self.reported = findings;
        Ok(())
    }
}

/// Whether an event may mean that a file has new content. A file that is being written is read when it is closed; opening
/// and reading, which this source does itself, mean nothing.
fn is_hint(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) => true,
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Any | EventKind::Other => true,
        EventKind::Access(_) | EventKind::Create(_) | EventKind::Modify(_) => false,
    }
}

/// What `former` declared and the unparsable `read` does not name stays.
fn keep_last_good(read: &mut Manifests, former: Manifests) {
    let named: BTreeSet<_> = read.declared.iter().map(Declared::id).collect();
    let kept = former.declared.into_iter();
    read.declared
        .extend(kept.filter(|declared| !named.contains(&declared.id())));
}

/// `status/file/-/<name>.yaml`: the name is the file's, with a hash of the whole path.
fn write_file_status(
    state: &StateDir,
    file: &Path,
    findings: &[ManifestFinding],
) -> anyhow::Result<()> {
    let path = file.display().to_string();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, path.as_bytes());
    let name: String = file
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default()
        .chars()
        .filter(|character| character.is_ascii_alphanumeric() || matches!(character, '-' | '.'))
        .take(100)
        .collect();
    let name = format!(
        "{}-{}",
        name.trim_start_matches('.'),
        hex(&digest.as_ref()[..4])
    );
    let target = StateDir::status_file(&ObjectRef::new("File", "", &name))?;
    if findings.is_empty() {
        state.remove(&target)?;
        return Ok(());
    }
    let findings: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "line": finding.line,
                "column": finding.column,
                "path": finding.path,
                "message": finding.message,
            })
        })
        .collect();
    let whole = json!({"kind": "File", "path": path, "findings": findings});
    state.write(&target, serde_saphyr::to_string(&whole)?.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests;
