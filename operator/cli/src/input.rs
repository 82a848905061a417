//! Reading manifests as `kubectl -f` takes them: files, directories, standard input. It does not look at what they hold.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use sluice_crds::manifest::MAX_TEXT_BYTES;

/// The most files that are read at once.
const MAX_FILES: usize = 10_000;
/// What findings call standard input.
const STDIN: &str = "stdin";

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A path that leads nowhere.
    #[error("{0}: no such file or directory")]
    Missing(PathBuf),
    /// A directory without manifests.
    #[error("{0}: no manifests (*.yaml, *.yml, *.json) directly in it; --recursive looks below it")]
    Empty(PathBuf),
    /// Something that is no text.
    #[error("{0}: not UTF-8 text; is it a manifest?")]
    NotText(String),
    /// More than anybody means.
    #[error("more than {MAX_FILES} files; name a smaller directory")]
    TooMany,
    /// Standard input named twice.
    #[error("standard input (-) can be read once only")]
    StdinTwice,
    /// The file system.
    #[error("cannot read {0}")]
    Io(String, #[source] io::Error),
}

/// A text and what to call it.
#[derive(Debug)]
pub struct Source {
    /// The path as it was given; [`STDIN`] for standard input.
    pub name: String,
    /// Its content; where it is longer than a manifest may be, only enough of it to see that.
    pub text: String,
}

/// Reads everything that `-f` names, in that order, the files of a directory by name.
pub fn read_all(places: &[PathBuf], recursive: bool) -> Result<Vec<Source>, InputError> {
    let mut sources = Vec::new();
    for place in places {
        if place.as_os_str() == "-" {
            if sources.iter().any(|source: &Source| source.name == STDIN) {
                return Err(InputError::StdinTwice);
            }
            sources.push(read(STDIN.to_owned(), io::stdin().lock())?);
        } else if place.is_dir() {
            let mut files = Vec::new();
            list(place, recursive, &mut files)?;
            if files.is_empty() {
                return Err(InputError::Empty(place.clone()));
            }
            for file in files {
                sources.push(read_file(&file)?);
            }
        } else {
            sources.push(read_file(place)?);
        }
        if sources.len() > MAX_FILES {
            return Err(InputError::TooMany);
        }
    }
    Ok(sources)
}

/// Reads one file.
pub fn read_file(path: &Path) -> Result<Source, InputError> {
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => read(name, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(InputError::Missing(path.to_owned()))
        }
        Err(error) => Err(InputError::Io(name, error)),
    }
}

fn read(name: String, from: impl Read) -> Result<Source, InputError> {
    let mut bytes = Vec::new();
    // One byte more than is allowed: the parser says that it is too long.
    let bound = MAX_TEXT_BYTES as u64 + 1;
    if let Err(error) = from.take(bound).read_to_end(&mut bytes) {
        return Err(InputError::Io(name, error));
    }
    let cut = bytes.len() > MAX_TEXT_BYTES;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { name, text }),
        // The cut may have gone through a character.
        Err(error) if cut => {
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            Ok(Source { name, text })
        }
        Err(_) => Err(InputError::NotText(name)),
    }
}

/// The manifests of a directory as the operator's file mode takes them: by extension, none that begins with a dot.
fn list(directory: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> Result<(), InputError> {
    let failed = |error| InputError::Io(directory.display().to_string(), error);
    let mut entries = fs::read_dir(directory)
        .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
        .map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Not through links to directories: they can lead in a circle.
        if recursive && entry.file_type().map_err(failed)?.is_dir() {
            list(&path, recursive, files)?;
        } else if is_manifest(&path) && !path.is_dir() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(InputError::TooMany);
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(place: &Path, recursive: bool) -> Vec<String> {
        let sources = read_all(&[place.to_owned()], recursive).expect("reads");
        let prefix = format!("{}/", place.display());
        sources
            .iter()
            .map(|source| source.name.replace(&prefix, ""))
            .collect()
    }

    #[test]
    fn a_directory_is_its_manifests() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("below")).expect("made");
        for file in [
            "b.yml",
            "a.yaml",
            "c.json",
            "d.txt",
            ".e.yaml",
            "below/f.yaml",
        ] {
            fs::write(dir.path().join(file), "").expect("written");
        }
        assert_eq!(names(dir.path(), false), ["a.yaml", "b.yml", "c.json"]);
        assert_eq!(
            names(dir.path(), true),
            ["a.yaml", "b.yml", "below/f.yaml", "c.json"]
        );
    }

    #[test]
    fn nothing_to_read_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let empty = read_all(&[dir.path().to_owned()], false).expect_err("empty");
        assert!(empty.to_string().contains("--recursive"), "{empty}");
        let missing = read_all(&[dir.path().join("x")], false).expect_err("missing");
        assert!(matches!(missing, InputError::Missing(_)));
        fs::write(dir.path().join("x.yaml"), b"\xff\xfe").expect("written");
        let binary = read_all(&[dir.path().to_owned()], false).expect_err("no text");
        assert!(matches!(binary, InputError::NotText(_)));
    }
}
