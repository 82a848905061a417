//! The status of an operator in file mode: files below `status/` of its state directory. It only reads, so that it needs
//! no lock; a file that is replaced meanwhile is read whole, old or new.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    kind::Selector,
    report::{BrokenFile, Seen},
};

/// The largest file that is read, in bytes; the operator writes none that is larger.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// No directory.
    #[error("{0}: no such directory; name what sluice-operator was given as --state-dir")]
    Missing(PathBuf),
    /// A directory of something else, or of an operator that has only just begun.
    #[error(
        "{0} holds no status: is it the --state-dir of a running sluice-operator? It writes status once it has read its manifests"
    )]
    NoStatus(PathBuf),
    /// 0700, and not ours.
    #[error(
        "{0} may not be read: it is private to the user the operator runs as; ask as that user"
    )]
    Private(PathBuf),
    /// The file system.
    #[error("cannot read {0}")]
    Io(PathBuf, #[source] io::Error),
    /// A file that somebody else wrote.
    #[error("{0} is no status file: {1}")]
    Malformed(PathBuf, String),
}

/// A state directory.
#[derive(Debug)]
pub struct StateDir {
    /// Where it is.
    pub root: PathBuf,
    /// The namespace that is asked about; none: all.
    pub namespace: Option<String>,
}

/// What the operator writes about a manifest file.
#[derive(Debug, Deserialize)]
struct FileStatus {
    path: String,
    findings: Vec<FileFinding>,
}

#[derive(Debug, Deserialize)]
struct FileFinding {
    line: u64,
    column: u64,
    #[serde(default)]
    path: String,
    message: String,
}

impl StateDir {
    /// The objects that are meant.
    pub fn read(&self, selector: &Selector) -> Result<Vec<Seen>, StateDirError> {
        let status = self.status()?;
        let kind = status.join(selector.kind.as_str().to_lowercase());
        let mut seen = Vec::new();
        for folder in entries(&kind)? {
            let namespace = name_of(&folder);
            if self
                .namespace
                .as_ref()
                .is_some_and(|wanted| *wanted != namespace)
            {
                continue;
            }
            for file in entries(&folder)? {
                let Some(name) = name_of(&file).strip_suffix(".yaml").map(str::to_owned) else {
                    continue;
                };
                if selector.name.as_ref().is_some_and(|wanted| *wanted != name) {
                    continue;
                }
                let Some(mut object) = read_yaml(&file)? else {
                    continue;
                };
                seen.push(Seen {
                    kind: selector.kind,
                    namespace: namespace.clone(),
                    name,
                    created: None,
                    generation: None,
                    status: object
                        .get_mut("status")
                        .map(Value::take)
                        .unwrap_or_default(),
                });
            }
        }
        Ok(seen)
    }

    /// Manifest files with findings.
    pub fn broken_files(&self) -> Result<Vec<BrokenFile>, StateDirError> {
        let mut broken = Vec::new();
        for file in entries(&self.status()?.join("file").join("-"))? {
            let Some(value) = read_yaml(&file)? else {
                continue;
            };
            let FileStatus { path, findings } = serde_json::from_value(value)
                .map_err(|error| StateDirError::Malformed(file, error.to_string()))?;
            broken.push(BrokenFile {
                path,
                findings: findings.iter().map(told).collect(),
            });
        }
        Ok(broken)
    }

    fn status(&self) -> Result<PathBuf, StateDirError> {
        match fs::metadata(&self.root) {
            Ok(found) if found.is_dir() => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(StateDirError::Private(self.root.clone()));
            }
            Ok(_) | Err(_) => return Err(StateDirError::Missing(self.root.clone())),
        }
        let status = self.root.join("status");
        match fs::metadata(&status) {
            Ok(found) if found.is_dir() => Ok(status),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(StateDirError::Private(self.root.clone()))
            }
            Ok(_) | Err(_) => Err(StateDirError::NoStatus(self.root.clone())),
        }
    }
}

fn told(finding: &FileFinding) -> String {
    let FileFinding {
        line,
        column,
        path,
        message,
    } = finding;
    match path.is_empty() {
        true => format!("{line}:{column}: {message}"),
        false => format!("{line}:{column}: {path}: {message}"),
    }
}

/// What is in a folder, by name, without what is only being written; nothing where there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, StateDirError> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed.collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let listed = listed.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => StateDirError::Private(folder.to_owned()),
        _ => StateDirError::Io(folder.to_owned(), error),
    })?;
    let mut paths: Vec<PathBuf> = listed.iter().map(fs::DirEntry::path).collect();
    paths.retain(|path| !name_of(path).starts_with('.'));
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A file as JSON; none where it went away meanwhile.
fn read_yaml(path: &Path) -> Result<Option<Value>, StateDirError> {
    let failed = |error| StateDirError::Io(path.to_owned(), error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let parsed: Result<Value, _> = serde_saphyr::from_str(&text);
    parsed.map(Some).map_err(|error| {
        StateDirError::Malformed(path.to_owned(), error.without_snippet().to_string())
    })
}
