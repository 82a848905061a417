//! Manifest files: which there are, what is in them, and what of it could not be read. Pure but for the reading.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use sluice_crds::{
    GROUP,
    manifest::{self, MAX_TEXT_BYTES, ManifestFinding, ManifestObject},
};
use sluice_translate::{
    Finding, FindingReason, Kind, ObjectId, Undecodable,
    world::{Meta, Object},
};

/// Something that a file declares.
#[derive(Debug, Clone)]
pub(super) enum Declared {
    /// A sound object.
    Sound(ManifestObject),
    /// One of our resources that the schema refuses: it is there, and must not be taken for absent.
    Broken {
        /// Its name.
        id: ObjectId,
        /// Where and why.
        message: String,
        /// The document.
        raw: Value,
    },
}

impl PartialEq for Declared {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sound(one), Self::Sound(two)) => one == two,
            (
                Self::Broken { message, raw, .. },
                Self::Broken {
                    message: other_message,
                    raw: other_raw,
                    ..
                },
            ) => message == other_message && raw == other_raw,
            _ => false,
        }
    }
}

impl Declared {
    /// What it declares.
    pub(super) fn id(&self) -> ObjectId {
        match self {
            Self::Sound(object) => id_of(object),
            Self::Broken { id, .. } => id.clone(),
        }
    }

    /// As the engine takes it.
    pub(super) fn into_change(self) -> sluice_translate::Change {
        match self {
            Self::Sound(object) => sluice_translate::Change::Upsert(match &object {
                ManifestObject::ApiRoute(object) => Object::from(&**object),
                ManifestObject::RateLimitPolicy(object) => Object::from(&**object),
                ManifestObject::ShardSet(object) => Object::from(&**object),
                ManifestObject::SluiceConfig(object) => Object::from(&**object),
                ManifestObject::Service(object) => Object::from(&**object),
                ManifestObject::Secret(object) => Object::from(&**object),
                ManifestObject::EndpointSlice(object) => Object::from(&**object),
            }),
            Self::Broken { id, message, raw } => {
                sluice_translate::Change::Undecodable(Undecodable {
                    id,
                    meta: Meta::default(),
                    message,
                    raw: Some(raw),
                })
            }
        }
    }
}

/// What a file holds, at one content.
#[derive(Debug)]
pub(super) struct Manifests {
    /// Tells one content from another.
    digest: [u8; 32],
    /// What it declares.
    pub(super) declared: Vec<Declared>,
    /// What is wrong with it.
    pub(super) findings: Vec<ManifestFinding>,
    /// Whether all of it could be parsed: only then is what it does not declare gone from it.
    pub(super) whole: bool,
}

impl Manifests {
    /// Reads a file; `None` where it is the content of `former`.
    pub(super) fn read(path: &Path, former: Option<&Self>) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(MAX_TEXT_BYTES as u64 + 1)
            .read_to_end(&mut bytes)?;
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &bytes).as_ref());
        if former.is_some_and(|former| former.digest == hash) {
            return Ok(None);
        }
        Ok(Some(Self::parse(&path.display().to_string(), &bytes, hash)))
    }

    fn parse(file: &str, bytes: &[u8], digest: [u8; 32]) -> Self {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Self {
                digest,
                declared: Vec::new(),
                findings: vec![of_file(file, "it is not UTF-8 text")],
                whole: false,
            };
        };
        let manifest::Parsed { objects, findings } = manifest::parse(file, text);
        let mut declared: Vec<_> = objects
            .into_iter()
            .map(|located| Declared::Sound(located.object))
            .collect();
        let mut whole = true;
        if !findings.is_empty() {
            let sound: BTreeSet<_> = declared.iter().map(Declared::id).collect();
            match serde_saphyr::from_multiple::<Value>(text) {
                Ok(documents) => {
                    declared.extend(
                        documents
                            .into_iter()
                            .filter_map(|raw| broken(raw, &findings))
                            .filter(|broken| !sound.contains(&broken.id())),
                    );
                }
                Err(_) => whole = false,
            }
        }
        Self {
            digest,
            declared,
            findings,
            whole,
        }
    }
}

/// A document that names one of our resources.
fn broken(raw: Value, findings: &[ManifestFinding]) -> Option<Declared> {
    let text = |pointer: &str| raw.pointer(pointer).and_then(Value::as_str);
    let group = text("/apiVersion")?.split('/').next()?;
    let kind = [Kind::ApiRoute, Kind::RateLimitPolicy, Kind::ShardSet]
        .into_iter()
        .find(|kind| text("/kind") == Some(kind.as_str()))
        .filter(|_| group == GROUP)?;
    let namespace = text("/metadata/namespace").unwrap_or("default");
    let name = text("/metadata/name")?;
    if ![namespace, name].into_iter().all(is_name) {
        return None;
    }
    let id = ObjectId::new(kind, namespace, name);
    let message = findings
        .iter()
        .take(4)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    Some(Declared::Broken { id, message, raw })
}

/// Whether an object could have this name: anything else has no place in units, paths or logs.
fn is_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
        })
}

fn id_of(object: &ManifestObject) -> ObjectId {
    let kind = match object {
        ManifestObject::ApiRoute(_) => Kind::ApiRoute,
        ManifestObject::RateLimitPolicy(_) => Kind::RateLimitPolicy,
        ManifestObject::ShardSet(_) => Kind::ShardSet,
        ManifestObject::SluiceConfig(_) => return ObjectId::config(),
        ManifestObject::Service(_) => Kind::Service,
        ManifestObject::Secret(_) => Kind::Secret,
        ManifestObject::EndpointSlice(_) => Kind::EndpointSlice,
    };
    ObjectId::new(kind, object.namespace(), object.name())
}

/// A finding of a file as a whole.
pub(super) fn of_file(file: &str, message: impl Into<String>) -> ManifestFinding {
    ManifestFinding {
        file: file.to_owned(),
        line: 1,
        column: 1,
        path: String::new(),
        message: message.into(),
    }
}

/// A file's finding as the engine takes it; `about` is the file.
pub(super) fn finding(about: &ObjectId, finding: &ManifestFinding) -> Finding {
    let ManifestFinding {
        file: _,
        line,
        column,
        path,
        message,
    } = finding;
    let reason = match (path.is_empty(), message.as_str()) {
        (true, message) if message.starts_with(DUPLICATE) => FindingReason::DuplicateObject,
        (true, _) => FindingReason::UnreadableFile,
        (false, message) if message.starts_with("unknown field") => FindingReason::UnknownField,
        (false, _) => FindingReason::SchemaViolation,
    };
    let path = (!path.is_empty()).then_some(path.as_str());
    let what = format!("line {line}, column {column}: {message}");
    Finding::new(about, reason, path, &what)
}

/// How the message of a duplicate begins.
pub(super) const DUPLICATE: &str = "declares again ";

/// The manifest files directly in a directory, by name: `*.yaml`, `*.yml` and `*.json` that do not begin with a dot, as
/// kubectl takes them (and as a mounted ConfigMap's own `..data` is not one of them). Links are followed.
pub(super) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let extension = path.extension().and_then(|extension| extension.to_str());
        if name.is_some_and(|name| !name.starts_with('.'))
            && matches!(extension, Some("yaml" | "yml" | "json"))
            && !path.is_dir()
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
