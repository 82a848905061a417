//! The place the demo runs on: a folder that vanishes with it, and addresses nobody else uses. The
//! quickstart's `local/` is copied there with the addresses that were free.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::manifests::{Manifests, PodRef, yaml_files};

/// What `local/` has before it is copied.
const WRITTEN_BLOCK: &str = "127.0.10.";
const WRITTEN_PORT: &str = "port: 8080";
const WRITTEN_REDIS: &str = "127.0.0.1:6379";
/// The port of an application that has a sidecar in front of it.
pub(crate) const APP_PORT: u16 = 18080;
/// The port at which sidecars take hops, as the slices say.
pub(crate) const HOP_PORT: u16 = 15008;
/// The edge's own address, in the pods' block.
const EDGE: u8 = 5;

/// Folder and addresses of one run.
pub(crate) struct Ground {
    dir: TempDir,
    /// The quickstart's own `base/`.
    pub(crate) base: PathBuf,
    /// The copy of `local/`.
    pub(crate) local: PathBuf,
    /// Where pods and the edge are reached.
    pub(crate) port: u16,
    /// The edge's address.
    pub(crate) edge: Ipv4Addr,
    /// Where the store is, or would be.
    pub(crate) redis: SocketAddr,
    /// Where sidecars reach the operator.
    pub(crate) operator: SocketAddr,
    /// The operator's health and metrics.
    pub(crate) health: SocketAddr,
}

impl Ground {
    /// Chooses free addresses and writes the copy.
    pub(crate) fn choose(quickstart: &Path) -> Result<Self> {
        let written = Manifests::read(&quickstart.join("local"))?.pods()?;
        let (block, port) = free_block(&written).context(
            "no free addresses between 127.0.10.1 and 127.0.99.255 on the ports 8080 to 8099",
        )?;
        let dir = tempfile::Builder::new()
            .prefix("sluice-demo-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        let ground = Self {
            base: quickstart.join("base"),
            local: dir.path().join("local"),
            port,
            edge: Ipv4Addr::new(127, 0, block, EDGE),
            redis: free()?,
            operator: free()?,
            health: free()?,
            dir,
        };
        for name in ["local", "logs", "operator"] {
            ground.folder(name)?;
        }
        for file in yaml_files(&quickstart.join("local"))? {
            let text = fs::read_to_string(&file)?
                .replace(WRITTEN_BLOCK, &format!("127.0.{block}."))
                .replace(WRITTEN_PORT, &format!("port: {port}"))
                .replace(WRITTEN_REDIS, &ground.redis.to_string());
            let name = file.file_name().context("a file has a name")?;
            fs::write(ground.local.join(name), text)?;
        }
        Ok(ground)
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new folder in the folder, readable by its owner only, as state folders must be.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Lets the folder stay when the demo ends.
    pub(crate) fn keep(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }
}

/// A free port of loopback.
pub(crate) fn free() -> Result<SocketAddr> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on loopback")?;
    Ok(listener.local_addr()?)
}

/// The first block and port where every pod's addresses are free.
fn free_block(pods: &[PodRef]) -> Option<(u8, u16)> {
    let ports = 8080..8100;
    ports
        .flat_map(|port| (10..100).map(move |block| (block, port)))
        .find(|(block, port)| {
            let hosts = pods.iter().map(|pod| pod.address.octets()[3]);
            hosts.chain([EDGE]).all(|host| {
                let address = Ipv4Addr::new(127, 0, *block, host);
                [*port, APP_PORT, HOP_PORT]
                    .iter()
                    .all(|port| TcpListener::bind((address, *port)).is_ok())
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_names_the_addresses_that_were_chosen() {
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../quickstart");
        // Takes one address of the first block, so that another one must be chosen.
        let taken = loop {
            // Another test may be looking at the same address at this moment.
            if let Ok(listener) = TcpListener::bind(("127.0.10.1", APP_PORT)) {
                break listener;
            }
        };
        let ground = Ground::choose(&quickstart).expect("some block is free");
        drop(taken);
        let pods = Manifests::read(&ground.local)
            .and_then(|local| local.pods())
            .expect("the copy is readable");
        assert_eq!(pods.len(), 8);
        assert_ne!(pods[0].address, Ipv4Addr::new(127, 0, 10, 1));
        let config = fs::read_to_string(ground.local.join("sluiceconfig.yaml")).expect("copied");
        assert!(
            config.contains(&format!("\"{}\"", ground.redis)),
            "{config}"
        );
        let slices = fs::read_to_string(ground.local.join("endpointslices.yaml")).expect("copied");
        assert!(
            slices.contains(&format!("port: {},", ground.port)),
            "{slices}"
        );
        let gateway = fs::read_to_string(ground.local.join("gateway.yaml")).expect("copied");
        assert!(
            gateway.contains(&format!("port: {},", ground.port)),
            "{gateway}"
        );
        assert!(pods.iter().all(|pod| pod.address != ground.edge));
    }

    #[test]
    fn the_folder_goes_unless_it_is_kept() {
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../quickstart");
        let ground = Ground::choose(&quickstart).expect("some block is free");
        let path = ground.path("");
        drop(ground);
        assert!(!path.exists());
        let mut ground = Ground::choose(&quickstart).expect("some block is free");
        let path = ground.keep().to_owned();
        drop(ground);
        assert!(path.exists());
        fs::remove_dir_all(path).expect("ours");
    }
}
