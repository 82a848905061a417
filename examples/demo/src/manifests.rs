//! Reads from the quickstart's YAML what the demo has to know: pods, parents and demo credentials. So a
//! changed manifest changes the demo. Nothing is validated here: that is the operator's.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Documents of a folder's manifests.
#[derive(Debug, Default)]
pub(crate) struct Manifests(Vec<Value>);

/// A pod as an EndpointSlice names it.
#[derive(Debug, PartialEq)]
pub(crate) struct PodRef {
    pub(crate) service: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
}

/// One entry of a Secret.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Key id.
    pub(crate) id: String,
    /// The demo's own published value.
    pub(crate) value: String,
}

impl Manifests {
    /// Reads every `*.yaml` of a folder.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let mut documents = Vec::new();
        for file in yaml_files(dir)? {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let found: Vec<Value> = serde_saphyr::from_multiple(&text)
                .with_context(|| format!("{} is not YAML", file.display()))?;
            documents.extend(found);
        }
        Ok(Self(documents))
    }

    /// The objects of one kind.
    pub(crate) fn kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// One object by kind and name.
    pub(crate) fn named(&self, kind: &str, name: &str) -> Result<&Value> {
        self.kind(kind)
            .find(|object| object["metadata"]["name"] == name)
            .with_context(|| format!("the quickstart has no {kind} {name}"))
    }

    /// Every pod that an EndpointSlice names.
    pub(crate) fn pods(&self) -> Result<Vec<PodRef>> {
        let mut pods = Vec::new();
        for slice in self.kind("EndpointSlice") {
            let service = text(&slice["metadata"]["labels"]["kubernetes.io/service-name"])?;
            for endpoint in list(&slice["endpoints"]) {
                pods.push(PodRef {
                    service: service.clone(),
                    namespace: text(&slice["metadata"]["namespace"])?,
                    name: text(&endpoint["targetRef"]["name"])?,
                    address: text(&endpoint["addresses"][0])?
                        .parse()
                        .context("an endpoint's address is not IPv4")?,
                });
            }
        }
        Ok(pods)
    }

    /// Names of the Services that an ApiRoute has as parent: their pods get sidecars.
    pub(crate) fn parents(&self) -> Result<BTreeSet<String>> {
        self.kind("ApiRoute")
            .flat_map(|route| list(&route["spec"]["parentRefs"]))
            .map(|parent| text(&parent["name"]))
            .collect()
    }

    /// The only entry of a Secret.
    pub(crate) fn secret(&self, name: &str) -> Result<Entry> {
        let secret = self.named("Secret", name)?;
        let (id, value) = secret["stringData"]
            .as_object()
            .and_then(|entries| entries.iter().next())
            .with_context(|| format!("the Secret {name} has no stringData"))?;
        Ok(Entry {
            id: id.clone(),
            value: text(value)?,
        })
    }
}

/// The `*.yaml` of a folder, sorted.
pub(crate) fn yaml_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = std::fs::read_dir(dir)
        .with_context(|| {
            format!(
                "cannot read {}: run from the repository's root",
                dir.display()
            )
        })?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    Ok(files)
}

/// A list's items; none where there is no list.
pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A string that must be there.
pub(crate) fn text(value: &Value) -> Result<String> {
    value
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("the quickstart's manifests: expected a string, found {value}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn quickstart(folder: &str) -> Manifests {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../quickstart");
        Manifests::read(&dir.join(folder)).expect("the quickstart is readable")
    }

    #[test]
    fn pods_parents_and_secrets_are_found() {
        let pods = quickstart("local").pods().expect("well formed");
        assert_eq!(pods.len(), 8);
        assert_eq!(pods[0].name, "orders-0");
        assert_eq!(pods[0].address, Ipv4Addr::new(127, 0, 10, 1));
        let base = quickstart("base");
        let parents = base.parents().expect("well formed");
        assert_eq!(parents, ["inventory", "orders"].map(String::from).into());
        assert_eq!(base.secret("acme-api-key").expect("there").id, "acme-1");
        assert!(base.secret("nobody").is_err());
    }

    /// Two slices of one port: a pod's address must not serve two pods.
    #[test]
    fn every_pod_has_an_address_of_its_own() {
        let pods = quickstart("local").pods().expect("well formed");
        let addresses: BTreeSet<_> = pods.iter().map(|pod| pod.address).collect();
        assert_eq!(addresses.len(), pods.len());
    }
}
