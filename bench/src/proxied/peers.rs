//! Proxies that others have made, each set up to do what the sidecar does: one worker or thread, kept-alive connections
//! on both sides. A module holds one proxy's configuration.

mod envoy;
mod haproxy;
mod nginx;
mod varnish;

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{Server, System, cells::PLAIN, http, poll, running::Running};
use crate::credentials::{Certified, Keys};

/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy that is installed.
#[derive(Debug, Clone)]
pub struct Peer {
    kind: Kind,
    program: PathBuf,
    /// Its version.
    pub version: String,
}

/// How a proxy is found and started.
#[derive(Debug, Clone, Copy)]
struct Kind {
    system: System,
    /// Its program.
    program: &'static str,
    /// What makes it tell its version.
    version: &'static str,
    /// Writes its configuration; the arguments it is started with.
    configure: fn(&Place<'_>) -> Result<Vec<OsString>>,
}

/// Where a proxy is started.
struct Place<'a> {
    /// A folder of its own.
    dir: &'a Path,
    listen: SocketAddr,
    /// Where TLS is spoken.
    secure: SocketAddr,
    /// Where HTTP/2 is spoken in the clear.
    http2: SocketAddr,
    origin: SocketAddr,
    keys: &'a Keys,
}

impl Place<'_> {
    /// Certificate and key in one file; its path.
    fn certificate(&self) -> Result<PathBuf> {
        let Certified { certificate, key } = &self.keys.server;
        self.file("server.pem", &format!("{certificate}{key}"))
    }

    /// Writes a file and returns its path.
    fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Peer {
    /// The one that a shell would start, or where Debian has it.
    pub fn find(system: System) -> Result<Self> {
        let kinds = [nginx::KIND, haproxy::KIND, envoy::KIND, varnish::KIND];
        let kind = kinds.into_iter().find(|kind| kind.system == system);
        let kind = kind.context("it is no peer")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/sbin")])
            .map(|dir| dir.join(kind.program))
            .find(|program| program.is_file())
            .context("not installed")?;
        let said = Command::new(&program)
            .arg(kind.version)
            .output()
            .context("it does not tell its version")?;
        let said = [said.stdout, said.stderr].concat();
        let version = version_in(&String::from_utf8_lossy(&said)).unwrap_or_default();
        Ok(Self {
            kind,
            program,
            version,
        })
    }

    /// Starts it on a core, in front of the upstream.
    pub fn start(
        &self,
        core: usize,
        dir: &Path,
        origin: SocketAddr,
        keys: &Keys,
    ) -> Result<Server> {
        let name = self.kind.system.name();
        let dir = dir.join(self.kind.program);
        fs::create_dir(&dir)?;
        let [listen, secure, http2] = [super::free()?, super::free()?, super::free()?];
        let place = Place {
            dir: &dir,
            listen,
            secure,
            http2,
            origin,
            keys,
        };
        let mut command = Command::new(&self.program);
        command.args((self.kind.configure)(&place)?);
        let mut running = Running::start(name, core, &dir, &mut command)?;
        poll::until(PATIENCE, || {
            running.check()?;
            let head = http::exchange(listen, &http::get(PLAIN, &[]))?;
            ensure!(head.status() == 200, "it answers {}", head.status());
            Ok(())
        })?;
        Ok(Server {
            running,
            address: listen,
            secure: Some(secure),
            http2: Some(http2),
        })
    }
}

/// The first number with two dots.
fn version_in(text: &str) -> Option<String> {
    text.split(|letter: char| letter != '.' && !letter.is_ascii_digit())
        .find(|word| word.split('.').filter(|part| !part.is_empty()).count() == 3)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn each_peer_tells_its_version_in_its_own_way() {
        for (said, version) in [
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/09/09", "2.6.12"),
            (
                "envoy  version: 5f9c/1.40.0/Clean/RELEASE/BoringSSL",
                "1.40.0",
            ),
            ("varnishd (varnish-7.1.1 revision 7cee1c58)", "7.1.1"),
        ] {
            assert_eq!(version_in(said).as_deref(), Some(version));
        }
        assert_eq!(version_in("unknown"), None);
    }
}
