//! The last-known-good: what a sidecar that starts while the operator is away serves from. One file, written before the
//! version is acknowledged. It holds secret units, so its directory is memory-backed and private (DESIGN: secrets).
//!
//! Format: one line of JSON (the [`Header`]), then the payload, a JSON list of units. The header's sha256 covers the
//! payload, so that a file cut short is refused; the principal keeps a file from serving another pod.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use sluice_snapshot::{ConfigError, Hash, UnitMap, UnitName, Version, hash::hex};
use zeroize::Zeroizing;

use super::{
    principal::Principal,
    snapshot::{Body, Encoded},
};

/// The format this build writes, and the newest it reads.
const FORMAT: u32 = 1;
const FILE: &str = "last-known-good";

/// The first line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    sha256: String,
    principal: Principal,
    version: Version,
}

/// One unit as it came over the stream. The body stays the stream's own JSON text: nothing is encoded twice.
#[derive(Serialize, Deserialize)]
struct Stored<B> {
    name: UnitName,
    hash: Hash,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    body: Option<B>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    denied: Option<ConfigError>,
}

/// Why a file is not served. None of these is served in part.
#[derive(Debug, thiserror::Error)]
pub enum LastKnownGoodError {
    /// There is none: a first start.
    #[error("there is no last-known-good yet")]
    Absent,
    /// It cannot be read.
    #[error("the last-known-good cannot be read: {0}; check the mount of --state-dir")]
    Io(#[from] io::Error),
    /// Cut short or altered.
    #[error("the last-known-good is damaged ({0}): it is refused, waiting for the operator")]
    Damaged(&'static str),
    /// Written by a newer build.
    #[error(
        "the last-known-good has format {found}, this build reads up to {FORMAT}: it is refused, waiting for the operator"
    )]
    Newer {
        /// The format of the file.
        found: u32,
    },
    /// Written for another pod.
    #[error(
        "the last-known-good was written for {theirs}, this is {ours}: it is refused, waiting for the operator; was a volume shared?"
    )]
    Foreign {
        /// Whom it was written for.
        theirs: Box<Principal>,
        /// Who reads.
        ours: Box<Principal>,
    },
}

/// The file of one sidecar.
#[derive(Debug, Clone)]
pub struct LastKnownGood {
    path: PathBuf,
}

impl LastKnownGood {
    /// The file in `directory`, which is made private first.
    pub fn open(directory: &Path) -> io::Result<Self> {
        if directory.exists() {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        } else {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
        }
        Ok(Self {
            path: directory.join(FILE),
        })
    }

    /// Replaces the file, whole or not at all.
    pub fn write(
        &self,
        principal: &Principal,
        version: &Version,
        units: &UnitMap<Encoded>,
    ) -> io::Result<()> {
        let payload = payload(units)?;
        let header = Header {
            format: FORMAT,
            sha256: sha256(&payload),
            principal: principal.clone(),
            version: version.clone(),
        };
        let temporary = self.path.with_extension("tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        serde_json::to_writer(&mut file, &header)?;
        file.write_all(b"\n")?;
        file.write_all(&payload)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)
    }

    /// Reads the file, if it is whole, of a known format and ours.
    pub fn read(
        &self,
        ours: &Principal,
    ) -> Result<(Version, Vec<(UnitName, Encoded)>), LastKnownGoodError> {
        let content = match fs::read(&self.path) {
            Ok(content) => Zeroizing::new(content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LastKnownGoodError::Absent);
            }
            Err(error) => return Err(error.into()),
        };
        let end = content
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or(LastKnownGoodError::Damaged("no header"))?;
        let (header, payload) = (&content[..end], &content[end + 1..]);
        // The format decides how the rest of the header is read, so it is looked at alone first.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(header)
            .map_err(|_| LastKnownGoodError::Damaged("bad header"))?;
        if format > FORMAT {
            return Err(LastKnownGoodError::Newer { found: format });
        }
        let header: Header = serde_json::from_slice(header)
            .map_err(|_| LastKnownGoodError::Damaged("bad header"))?;
        if header.principal != *ours {
            return Err(LastKnownGoodError::Foreign {
                theirs: Box::new(header.principal),
                ours: Box::new(ours.clone()),
            });
        }
        if header.sha256 != sha256(payload) {
            return Err(LastKnownGoodError::Damaged("checksum differs"));
        }
        let stored: Vec<Stored<Box<serde_json::value::RawValue>>> = serde_json::from_slice(payload)
            .map_err(|_| LastKnownGoodError::Damaged("bad payload"))?;
        let units = stored
            .into_iter()
            .map(
                |Stored {
                     name,
                     hash,
                     body,
                     denied,
                 }| {
                    let content = match (body, denied) {
                        (Some(body), None) => super::snapshot::Body::Json(bytes::Bytes::from(
                            String::from(Box::<str>::from(body)),
                        )),
                        (None, Some(error)) => super::snapshot::Body::Denied(error),
                        _ => {
                            return Err(LastKnownGoodError::Damaged(
                                "a unit has neither or both of body and denial",
                            ));
                        }
                    };
                    Ok((name, Encoded { hash, content }))
                },
            )
            .collect::<Result<Vec<_>, _>>()?;
        Ok((header.version, units))
    }
}

/// The list of [`Stored`]. Bodies are copied as they are: they were decoded before, so they are JSON, and there may be
/// thousands at every update.
fn payload(units: &UnitMap<Encoded>) -> io::Result<Zeroizing<Vec<u8>>> {
    const AROUND: usize = 64;
    let size = |(name, unit): (&UnitName, &Encoded)| match &unit.content {
        Body::Json(bytes) => name.as_str().len() + unit.hash.as_str().len() + bytes.len() + AROUND,
        Body::Denied(error) => 2 * (name.as_str().len() + error.message.len()) + 4 * AROUND,
    };
    // At once: what is outgrown would leave secrets behind.
    let mut payload = Zeroizing::new(Vec::with_capacity(
        units.iter().map(size).sum::<usize>() + 2,
    ));
    payload.push(b'[');
    for (at, (name, unit)) in units.iter().enumerate() {
        if at > 0 {
            payload.push(b',');
        }
        let (body, denied) = match &unit.content {
            Body::Json(bytes) => (Some(bytes), None),
            Body::Denied(error) => (None, Some(error.clone())),
        };
        let stored = Stored::<()> {
            name: name.clone(),
            hash: unit.hash.clone(),
            body: None,
            denied,
        };
        serde_json::to_writer(&mut *payload, &stored)?;
        if let Some(body) = body {
            // Into the object, before the brace that ends it.
            payload.pop();
            payload.extend_from_slice(b",\"body\":");
            payload.extend_from_slice(body);
            payload.push(b'}');
        }
    }
    payload.push(b']');
    Ok(payload)
}

fn sha256(payload: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, payload).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    fn principal(pod: &str) -> Principal {
        Principal {
            namespace: "shop".into(),
            pod: pod.into(),
            uid: format!("uid-{pod}"),
        }
    }

    fn units() -> Vec<(UnitName, Encoded)> {
        let body = br#"{"sessions":2}"#;
        vec![
            (
                UnitName::fleet("shop", "a"),
                Encoded {
                    hash: Hash::of(body),
                    content: Body::Json(bytes::Bytes::from_static(body)),
                },
            ),
            (
                UnitName::route("shop", "b"),
                Encoded {
                    hash: Hash::of(b"x"),
                    content: Body::Denied(ConfigError::new(
                        sluice_snapshot::ConfigReason::SidecarTooOld,
                        "restart it",
                    )),
                },
            ),
        ]
    }

    fn written(directory: &Path) -> LastKnownGood {
        let file = LastKnownGood::open(directory).expect("opens");
        file.write(
            &principal("p0"),
            &Version::from_wire("v1"),
            &units().into_iter().collect(),
        )
        .expect("writes");
        file
    }

    #[test]
    fn what_was_written_reads_back_for_the_same_pod() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = written(&directory.path().join("state"));
        let (version, read) = file.read(&principal("p0")).expect("reads");
        assert_eq!(version, Version::from_wire("v1"));
        let read: UnitMap<Encoded> = read.into_iter().collect();
        assert_eq!(read, units().into_iter().collect());
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!(mode(&file.path), 0o600);
        assert_eq!(mode(&directory.path().join("state")), 0o700);
    }

    #[test]
    fn a_truncated_newer_or_foreign_file_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = written(directory.path());
        assert!(matches!(
            file.read(&principal("p1")),
            Err(LastKnownGoodError::Foreign { .. })
        ));

        let whole = fs::read(&file.path).expect("reads");
        for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
            fs::write(&file.path, &whole[..cut]).expect("writes");
            assert!(
                matches!(
                    file.read(&principal("p0")),
                    Err(LastKnownGoodError::Damaged(_))
                ),
                "cut at {cut}"
            );
        }

        let newer =
            String::from_utf8(whole)
                .expect("text")
                .replacen("\"format\":1", "\"format\":2", 1);
        fs::write(&file.path, newer).expect("writes");
        assert!(matches!(
            file.read(&principal("p0")),
            Err(LastKnownGoodError::Newer { found: 2 })
        ));
    }
}
