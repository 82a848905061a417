//! The CA in the state directory: `ca/ca.key`, `ca/ca.crt`, `ca/cross.crt`, `ca/hash.key`, and `roots.pem`, which
//! sidecars are started with. An empty file `ca/rotate` asks for a rotation.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use futures::future::BoxFuture;
use sluice_snapshot::SecretBytes;
use zeroize::Zeroizing;

use super::{
    ca::CaMaterial,
    rotation::{CaStore, Stored},
};
use crate::state_dir::StateDir;

const KEY: &str = "ca/ca.key";
const CERTIFICATE: &str = "ca/ca.crt";
const CROSS: &str = "ca/cross.crt";
const HASH_KEY: &str = "ca/hash.key";
const ROTATE: &str = "ca/rotate";
/// The bundle for sidecars.
pub const ROOTS: &str = "roots.pem";

/// CA material as files.
#[derive(Debug)]
pub struct CaFiles(Arc<StateDir>);

impl CaFiles {
    /// In `state`.
    pub fn new(state: Arc<StateDir>) -> Self {
        Self(state)
    }

    fn text(&self, file: &str) -> anyhow::Result<Option<String>> {
        let content = self.0.read(Path::new(file))?;
        content
            .map(|content| String::from_utf8(content).with_context(|| format!("{file} is no text")))
            .transpose()
    }

    fn load_now(&self) -> anyhow::Result<Option<Stored>> {
        // The key is written last: without it nothing was made, or not to the end.
        let Some(key) = self.0.read_secret(Path::new(KEY))? else {
            return Ok(None);
        };
        let key_pem = std::str::from_utf8(&key).context("ca/ca.key is no text")?;
        let hash_key = self
            .0
            .read(Path::new(HASH_KEY))?
            .context("ca/hash.key is missing: restore it, or remove ca/ca.key to begin anew")?;
        let part = |file| {
            self.text(file)?.with_context(|| {
                format!("{file} is missing: restore it, or remove ca/ca.key to begin anew")
            })
        };
        Ok(Some(Stored {
            material: CaMaterial {
                key_pem: Zeroizing::new(key_pem.to_owned()),
                certificate_pem: part(CERTIFICATE)?,
                cross_pem: self.text(CROSS)?,
                roots_pem: part(ROOTS)?,
                hash_key: SecretBytes::new(hash_key),
            },
            rotation_requested: self.0.read(Path::new(ROTATE))?.is_some(),
        }))
    }

    fn save_now(&self, material: &CaMaterial) -> anyhow::Result<()> {
        let CaMaterial {
            key_pem,
            certificate_pem,
            cross_pem,
            roots_pem,
            hash_key,
        } = material;
        let state = &self.0;
        // Roots first: whoever crashes in between leaves sidecars that trust one root too many, not one too few.
        state.write(Path::new(ROOTS), roots_pem.as_bytes())?;
        state.write_secret(Path::new(HASH_KEY), hash_key.expose())?;
        match cross_pem {
            Some(cross) => state.write(Path::new(CROSS), cross.as_bytes())?,
            None => state.remove(Path::new(CROSS))?,
        }
        state.write(Path::new(CERTIFICATE), certificate_pem.as_bytes())?;
        state.write_secret(Path::new(KEY), key_pem.as_bytes())?;
        state.remove(Path::new(ROTATE))?;
        Ok(())
    }
}

impl CaStore for CaFiles {
    fn load(&self) -> BoxFuture<'_, anyhow::Result<Option<Stored>>> {
        Box::pin(async move { self.load_now() })
    }

    fn save<'a>(&'a self, material: &'a CaMaterial) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move { self.save_now(material) })
    }
}
