//! The Secret `sluice-ca`: CA and hash key, made once by the leader, the same for all replicas. Writes go over exactly
//! what was read, so that of two writers one loses and reads again.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use anyhow::Context as _;
use futures::future::BoxFuture;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use sluice_snapshot::SecretBytes;
use zeroize::Zeroizing;

use super::hpa::MANAGED_BY;
use crate::{
    identity::{
        CaMaterial,
        rotation::{CaStore, Stored},
    },
    leader::Leadership,
    status::store::FIELD_MANAGER,
};

/// The Secret, in the operator's namespace.
pub const NAME: &str = "sluice-ca";
/// An annotation with any value asks for a rotation; the rotation removes it.
pub const ROTATE: &str = "sluice.dev/rotate";

const KEY: &str = "ca.key";
const CERTIFICATE: &str = "ca.crt";
const CROSS: &str = "ca-cross.crt";
const ROOTS: &str = "roots.pem";
const HASH_KEY: &str = "hash.key";

/// CA material in the Secret.
pub struct CaSecret {
    secrets: Api<Secret>,
    leadership: Leadership,
    /// The version that was read last; none where there was no Secret.
    version: Mutex<Option<String>>,
}

impl CaSecret {
    /// Reads and, while `leadership` is held, writes the Secret of `namespace`.
    pub fn new(client: Client, namespace: &str, leadership: Leadership) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            leadership,
            version: Mutex::default(),
        }
    }

    fn remember(&self, version: Option<String>) {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }

    async fn read(&self) -> anyhow::Result<Option<Stored>> {
        let secret = self
            .secrets
            .get_opt(NAME)
            .await
            .with_context(|| format!("reading Secret {NAME}"))?;
        self.remember(secret.as_ref().and_then(ResourceExt::resource_version));
        secret.map(|secret| from_secret(&secret)).transpose()
    }

    async fn put(&self, material: &CaMaterial) -> anyhow::Result<()> {
        let version = self
            .version
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let secret = to_secret(material, version.clone());
        let post = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        self.leadership.check()?;
        let written = match version {
            Some(_) => self.secrets.replace(NAME, &post, &secret).await,
            None => self.secrets.create(&post, &secret).await,
        };
        let written = written.with_context(|| format!("writing Secret {NAME}"))?;
        self.remember(written.resource_version());
        Ok(())
    }
}

impl CaStore for CaSecret {
    fn load(&self) -> BoxFuture<'_, anyhow::Result<Option<Stored>>> {
        Box::pin(self.read())
    }

    fn save<'a>(&'a self, material: &'a CaMaterial) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.put(material))
    }
}

fn to_secret(material: &CaMaterial, version: Option<String>) -> Secret {
    let CaMaterial {
        key_pem,
        certificate_pem,
        cross_pem,
        roots_pem,
        hash_key,
    } = material;
    let mut data = BTreeMap::from([
        (KEY, key_pem.as_bytes()),
        (CERTIFICATE, certificate_pem.as_bytes()),
        (ROOTS, roots_pem.as_bytes()),
        (HASH_KEY, hash_key.expose()),
    ]);
    data.extend(cross_pem.as_ref().map(|cross| (CROSS, cross.as_bytes())));
    Secret {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            labels: Some(BTreeMap::from([(
                MANAGED_BY.to_owned(),
                FIELD_MANAGER.to_owned(),
            )])),
            resource_version: version,
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(
            data.into_iter()
                .map(|(name, value)| (name.to_owned(), ByteString(value.to_vec())))
                .collect(),
        ),
        ..Secret::default()
    }
}

/// An error names the entry and never its content.
fn from_secret(secret: &Secret) -> anyhow::Result<Stored> {
    let entries = secret.data.clone().unwrap_or_default();
    let bytes = |name: &str| entries.get(name).map(|ByteString(bytes)| bytes.clone());
    let text = |name: &str| {
        let found = bytes(name).map(String::from_utf8);
        found
            .transpose()
            .map_err(|_| anyhow::anyhow!("entry {name} of Secret {NAME} is not text"))
    };
    let needed = |name: &str| {
        let hint = "restore it from a backup, or delete the Secret to have a new CA made (every sidecar must then be restarted)";
        text(name)?.with_context(|| format!("Secret {NAME} lacks entry {name}; {hint}"))
    };
    let hash_key = bytes(HASH_KEY).filter(|key| key.len() >= 16);
    let material = CaMaterial {
        key_pem: Zeroizing::new(needed(KEY)?),
        certificate_pem: needed(CERTIFICATE)?,
        cross_pem: text(CROSS)?,
        roots_pem: needed(ROOTS)?,
        hash_key: SecretBytes::new(
            hash_key.with_context(|| format!("Secret {NAME} lacks entry {HASH_KEY}"))?,
        ),
    };
    Ok(Stored {
        material,
        rotation_requested: secret.annotations().contains_key(ROTATE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn material_reads_back_and_a_rotation_clears_its_request() {
        let material = CaMaterial::generate(1_800_000_000).expect("made");
        let rotated = material.rotated(1_800_000_000).expect("rotated");
        for material in [material, rotated] {
            let mut secret = to_secret(&material, Some("7".into()));
            assert_eq!(secret.metadata.resource_version.as_deref(), Some("7"));
            let read = from_secret(&secret).expect("reads");
            assert!(read.material.same_as(&material) && !read.rotation_requested);
            assert_eq!(read.material.hash_key.expose(), material.hash_key.expose());
            assert_eq!(read.material.cross_pem, material.cross_pem);
            secret.metadata.annotations =
                Some(BTreeMap::from([(ROTATE.to_owned(), "now".to_owned())]));
            assert!(from_secret(&secret).expect("reads").rotation_requested);
        }
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_is_shown() {
        let material = CaMaterial::generate(1_800_000_000).expect("made");
        for entry in [KEY, CERTIFICATE, ROOTS, HASH_KEY] {
            let mut secret = to_secret(&material, None);
            secret.data.as_mut().expect("data").remove(entry);
            let error = format!("{:#}", from_secret(&secret).expect_err("refused"));
            assert!(
                error.contains(entry) && !error.contains("PRIVATE"),
                "{error}"
            );
        }
    }
}
