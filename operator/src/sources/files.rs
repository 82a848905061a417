//! Manifest files: which there are, and whether one has new content. What a text declares is
//! [`sluice_translate::manifests`], shared with all that read files.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use sluice_crds::manifest::MAX_TEXT_BYTES;
use sluice_translate::manifests::{self, Contents};

/// What a file holds, at one content.
#[derive(Debug)]
pub(super) struct Manifests {
    /// Tells one content from another.
    digest: [u8; 32],
    /// What it declares, and what is wrong with it.
    pub(super) contents: Contents,
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
        let contents = parse(&path.display().to_string(), &bytes);
        Ok(Some(Self {
            digest: hash,
            contents,
        }))
    }
}

fn parse(file: &str, bytes: &[u8]) -> Contents {
    match std::str::from_utf8(bytes) {
        Ok(text) => manifests::read(file, text),
        Err(_) => Contents {
            declared: Vec::new(),
            findings: vec![manifests::of_file(file, "it is not UTF-8 text".into())],
            whole: false,
        },
    }
}

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
