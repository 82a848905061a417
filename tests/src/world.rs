//! The world of one test: a folder that vanishes with it and addresses that belong to it alone. Nothing here starts
//! a process.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};

/// Every address of this network is local inside a test's namespace.
pub const NETWORK: &str = "10.123.0.1/16";

/// Where the API server of a test listens. The API server itself refuses loopback addresses for endpoints, so nothing
/// that a cluster must know lives on 127.0.0.1.
pub const API_SERVER: Ipv4Addr = Ipv4Addr::new(10, 123, 0, 1);

/// How much of each log a failing test prints.
const TAIL_LINES: usize = 40;

/// The folder and the addresses of one test.
#[derive(Debug)]
pub struct World {
    dir: PathBuf,
    addresses: AtomicU16,
    ports: AtomicU16,
}

impl World {
    /// A world in `dir`, which exists.
    pub(crate) fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(dir.join("logs"))
            .with_context(|| format!("making {}/logs", dir.display()))?;
        Ok(Self {
            dir,
            addresses: AtomicU16::new(0),
            ports: AtomicU16::new(20_000),
        })
    }

    /// The test's folder: memory-backed, gone when the test ends.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new, empty folder of the test: mode 0700, as a state folder must be.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        use std::os::unix::fs::DirBuilderExt;
        let path = self.dir.join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("making {}: is the name taken?", path.display()))?;
        Ok(path)
    }

    /// Writes a file of the test (its folders are made), mode 0600.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_ref()))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// An address no one else in this world has: 10.123.1.1 and up.
    pub fn address(&self) -> Ipv4Addr {
        let [high, low] = (0x0101 + self.addresses.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
        Ipv4Addr::new(10, 123, high, low)
    }

    /// A port no one else in this world has: for what listens on loopback, which all processes of a world share.
    pub fn port(&self) -> u16 {
        self.ports.fetch_add(1, Ordering::Relaxed)
    }

    /// Where the logs of started programs are.
    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Prints the end of every log, for a test that failed.
    pub(crate) fn print_logs(&self) {
        let mut files: Vec<_> = fs::read_dir(self.logs())
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect();
        files.sort();
        for file in files {
            let text = fs::read(&file)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default();
            if !text.is_empty() {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                eprintln!("---- the last lines of {name}\n{}", tail(&text, TAIL_LINES));
            }
        }
    }
}

/// The last `lines` lines of a text, without what Kubernetes' programs say when all is well.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().filter(|line| !is_klog_info(line)).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// klog's format: a severity letter and the date, as in `I1122 15:49:05.639785`.
fn is_klog_info(line: &str) -> bool {
    let mut bytes = line.bytes();
    bytes.next() == Some(b'I') && bytes.take(4).filter(u8::is_ascii_digit).count() == 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_all_different() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(dir.path().into()).unwrap();
        let all: std::collections::BTreeSet<_> = (0..1000).map(|_| world.address()).collect();
        assert_eq!(all.len(), 1000);
        assert!(
            all.iter()
                .all(|a| a.octets()[..2] == [10, 123] && *a != API_SERVER)
        );
    }

    #[test]
    fn the_tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
        assert_eq!(
            tail("E1122 15:49 bad\nI1122 15:49 good\nI am", 2),
            "E1122 15:49 bad\nI am"
        );
    }
}
