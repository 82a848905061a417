//! The state directory of file mode: what a cluster keeps in Secrets and in objects' status. Private to its owner,
//! written atomically, held by one operator at a time. It knows files, not what they mean to others.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sluice_snapshot::unit::ObjectRef;
use zeroize::Zeroizing;

/// The largest file that is read back, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// A state directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Others could read keys in it.
    #[error("state directory {path} is open to others (mode {mode:03o}): chmod 700 {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another operator uses it.
    #[error(
        "state directory {0} is in use by another operator: stop it, or give this one its own --state-dir"
    )]
    InUse(PathBuf),
    /// A name that would lead elsewhere.
    #[error("{0:?} is not a name inside the state directory")]
    Name(String),
    /// The file system.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// An open, locked state directory.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    /// Distinguishes temporary files of concurrent writers.
    writes: AtomicU64,
    /// Held until the process ends.
    _lock: File,
}

impl StateDir {
    /// Opens `root`, making it 0700 where it is missing; refuses one that others can enter or that is in use.
    pub fn open(root: &Path) -> Result<Self, StateDirError> {
        make_dir(root)?;
        let mode = fs::metadata(root)
            .map_err(io_error("read", root))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(StateDirError::Open {
                path: root.to_owned(),
                mode: mode & 0o777,
            });
        }
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateDirError::InUse(root.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &path)(source)),
        }
        Ok(Self {
            root: root.to_owned(),
            writes: AtomicU64::new(0),
            _lock: lock,
        })
    }

    /// Where a file of the directory is.
    pub fn path(&self, file: &Path) -> PathBuf {
        self.root.join(file)
    }

    /// The status file of an object: `status/<kind>/<ns>/<name>.yaml`, lower-case kind; `-` for no namespace.
    pub fn status_file(object: &ObjectRef) -> Result<PathBuf, StateDirError> {
        let ObjectRef {
            kind,
            namespace,
            name,
        } = object;
        let namespace = if namespace.is_empty() { "-" } else { namespace };
        for part in [kind.as_str(), namespace, name] {
            if !is_plain(part) {
                return Err(StateDirError::Name(part.chars().take(80).collect()));
            }
        }
        Ok(Path::new("status")
            .join(kind.to_lowercase())
            .join(namespace)
            .join(format!("{name}.yaml")))
    }

    /// The content of a file; `None` where there is no such file.
    pub fn read(&self, file: &Path) -> Result<Option<Vec<u8>>, StateDirError> {
        let path = self.inside(file)?;
        let opened = match File::open(&path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let mut content = Vec::new();
        opened
            .take(MAX_FILE_BYTES)
            .read_to_end(&mut content)
            .map_err(io_error("read", &path))?;
        Ok(Some(content))
    }

    /// Like [`StateDir::read`], for what is zeroed after use.
    pub fn read_secret(&self, file: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateDirError> {
        Ok(self.read(file)?.map(Zeroizing::new))
    }

    /// Replaces a file (0644 inside the private directory), unless it holds that content already.
    pub fn write(&self, file: &Path, content: &[u8]) -> Result<(), StateDirError> {
        if self.read(file)?.is_some_and(|held| held == content) {
            return Ok(());
        }
        self.replace(file, content, 0o644)
    }

    /// Replaces a 0600 file.
    pub fn write_secret(&self, file: &Path, content: &[u8]) -> Result<(), StateDirError> {
        self.replace(file, content, 0o600)
    }

    /// Removes a file; one that is missing is removed already.
    pub fn remove(&self, file: &Path) -> Result<(), StateDirError> {
        let path = self.inside(file)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The files directly in a folder of the directory, sorted; none where the folder is missing.
    pub fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, StateDirError> {
        let path = self.inside(folder)?;
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("list", &path)(error)),
        };
        let mut names = entries
            .map(|entry| Ok(folder.join(entry?.file_name())))
            .collect::<io::Result<Vec<_>>>()
            .map_err(io_error("list", &path))?;
        names.sort();
        Ok(names)
    }

    /// Writes beside, flushes to the disk, renames: a reader sees the old content or the new one, and so does whoever
    /// starts after a crash.
    fn replace(&self, file: &Path, content: &[u8], mode: u32) -> Result<(), StateDirError> {
        let path = self.inside(file)?;
        let folder = path.parent().unwrap_or(&self.root);
        make_dir(folder)?;
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let beside = folder.join(format!(".tmp-{}-{number}", std::process::id()));
        let written = (|| {
            let mut temporary = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(mode)
                .open(&beside)?;
            temporary.set_permissions(Permissions::from_mode(mode))?;
            temporary.write_all(content)?;
            temporary.sync_all()?;
            fs::rename(&beside, &path)
        })();
        written.map_err(|source| {
            // The write's own error is the one to tell.
            let _ = fs::remove_file(&beside);
            io_error("write", &path)(source)
        })
    }

    fn inside(&self, file: &Path) -> Result<PathBuf, StateDirError> {
        let plain = file
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain || file.as_os_str().is_empty() {
            return Err(StateDirError::Name(file.display().to_string()));
        }
        Ok(self.root.join(file))
    }
}

/// Whether a name is safe as one segment of a path: letters, digits, `-`, `.`, not beginning with a dot.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

fn make_dir(path: &Path) -> Result<(), StateDirError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error("create", path))
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateDirError {
    let path = path.to_owned();
    move |source| StateDirError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_held_by_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("state");
        let state = StateDir::open(&root).expect("made");
        let mode = fs::metadata(&root).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(matches!(
            StateDir::open(&root),
            Err(StateDirError::InUse(_))
        ));
        drop(state);
        fs::set_permissions(&root, Permissions::from_mode(0o750)).expect("set");
        let error = StateDir::open(&root).expect_err("open to others");
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }

    #[test]
    fn files_are_replaced_whole_and_never_outside() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(&dir.path().join("state")).expect("made");
        let file = Path::new("a/b.yaml");
        assert_eq!(state.read(file).expect("reads"), None);
        state.write(file, b"one").expect("writes");
        state.write(file, b"two").expect("writes");
        assert_eq!(
            state.read(file).expect("reads").as_deref(),
            Some(&b"two"[..])
        );
        assert_eq!(
            state.list(Path::new("a")).expect("lists"),
            [Path::new("a/b.yaml")],
            "no temporary file is left"
        );
        state.remove(file).expect("removes");
        state.remove(file).expect("is removed already");
        for outside in ["../x", "/etc/x", "a/../../x", ""] {
            assert!(
                matches!(
                    state.write(Path::new(outside), b""),
                    Err(StateDirError::Name(_))
                ),
                "{outside}"
            );
        }
    }

    #[test]
    fn names_of_objects_cannot_leave_the_directory() {
        let file = |namespace: &str, name: &str| {
            StateDir::status_file(&ObjectRef::new("ApiRoute", namespace, name))
        };
        assert_eq!(
            file("shop", "orders").expect("plain"),
            Path::new("status/apiroute/shop/orders.yaml")
        );
        for (namespace, name) in [("..", "x"), ("shop", "../x"), ("a/b", "x"), ("shop", "")] {
            assert!(file(namespace, name).is_err(), "{namespace} {name}");
        }
    }
}
