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

use anyhow::Context as _;
use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use prometheus::{IntCounter, IntGauge, Registry};
use serde_json::json;
use sluice_crds::manifest::ManifestFinding;
use sluice_process::Shutdown;
use sluice_snapshot::{hash::hex, unit::ObjectRef};
use sluice_translate::{Kind, ObjectId, manifests};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    Inlet,
    scanner::{Found, Scanner},
};
use crate::state_dir::StateDir;

pub use super::scanner::{GRACE, Places};

/// How often everything is compared without an event.
pub const INTERVAL: Duration = Duration::from_secs(10);

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
    /// Absent only while a blocking thread works with it.
    scanner: Option<Scanner>,
    /// Where findings of files are written: file mode only.
    state: Option<Arc<StateDir>>,
    /// Wakes the source when a status was written.
    written: Arc<Notify>,
    /// Files with findings, as last reported.
    reported: BTreeMap<PathBuf, Vec<ManifestFinding>>,
}

impl Directory {
    /// A source that remembers nothing, for a cluster, where SluiceConfig alone is a file.
    pub fn new(places: Places, inlet: Inlet, metrics: Metrics) -> Self {
        Self {
            scanner: Some(Scanner::new(places.clone())),
            places,
            inlet,
            metrics,
            state: None,
            written: Arc::new(Notify::new()),
            reported: BTreeMap::new(),
        }
    }

    /// The source of file mode, which reads status back from `state` when `written` says so.
    pub fn with_state(
        mut self,
        state: Arc<StateDir>,
        written: Arc<Notify>,
    ) -> anyhow::Result<Self> {
        // Findings of a former run are not this one's.
        for file in state.list(Path::new("status/file/-"))? {
            state.remove(&file)?;
        }
        if let Some(scanner) = &mut self.scanner {
            scanner.remember(state.clone())?;
        }
        self.state = Some(state);
        self.written = written;
        Ok(self)
    }

    /// Delivers the first list, then follows changes until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let hint = Arc::new(Notify::new());
        let _watcher = self.watch(hint.clone());
        let written = self.written.clone();
        let mut again = self.scan().await?;
        self.inlet.synced().await?;
        loop {
            let next = again.unwrap_or_else(|| Instant::now() + INTERVAL);
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                () = hint.notified() => {}
                () = written.notified() => {}
                () = sleep_until(next) => {}
            }
            again = self.scan().await?;
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

    /// Compares everything once and hands the difference to the engine. The answer is when to look again.
    async fn scan(&mut self) -> anyhow::Result<Option<Instant>> {
        self.metrics.scans.inc();
        let mut scanner = self.scanner.take().context("the scanner is lent out")?;
        let (scanner, found) = tokio::task::spawn_blocking(move || {
            let found = scanner.scan();
            (scanner, found)
        })
        .await
        .context("reading manifests panicked")?;
        self.scanner = Some(scanner);
        let Found {
            changes,
            findings,
            again,
        } = found?;
        self.report(findings).await?;
        self.inlet.send(changes).await?;
        Ok(again)
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
                .map(|finding| manifests::finding(&about, finding))
                .collect();
            self.inlet.note(about, notes).await?;
            if let Some(state) = &self.state {
                write_file_status(state, file, now)?;
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
