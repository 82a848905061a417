//! The pages of `docs/reference` that are made from code, so that they cannot disagree with it: the fields of
//! each kind, the reasons of refusals, the annotations of pods. Prose is written by hand elsewhere.

mod fields;
mod labels;
mod reasons;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// First line of every page made here.
const MADE: &str =
    "<!-- Made by `cargo run -p sluice-docs`; edit the code it is made from. -->\n\n";

/// Every page: file name and text.
pub fn pages() -> Result<Vec<(String, String)>> {
    let mut pages = Vec::new();
    for definition in sluice_crds::crd::definitions()? {
        pages.push(kind(&definition)?);
    }
    let schema = sluice_crds::crd::config_schema()?;
    let intro = format!(
        "`apiVersion: {}`. A file, not a resource: in a cluster a mounted ConfigMap that the operator is given with \
         `--config`, without a cluster a document of the manifests folder.\n\n",
        sluice_crds::sluice_config::API_VERSION
    );
    let body = fields::tables(&schema, "");
    let text = format!(
        "{MADE}# SluiceConfig\n\n{}\n\n{intro}{body}",
        description(&schema)
    );
    pages.push(("sluiceconfig.md".into(), text));
    pages.push((
        "rejections.md".into(),
        format!("{MADE}{}", reasons::rejections()),
    ));
    pages.push((
        "findings.md".into(),
        format!("{MADE}{}", reasons::findings()),
    ));
    pages.push(("labels.md".into(), format!("{MADE}{}", labels::page())));
    Ok(pages)
}

/// The page of one custom resource.
fn kind(definition: &Value) -> Result<(String, String)> {
    let spec = &definition["spec"];
    let name = spec["names"]["kind"]
        .as_str()
        .context("a definition has a kind")?;
    let short = spec["names"]["shortNames"][0]
        .as_str()
        .context("every kind has a short name")?;
    let group = spec["group"].as_str().context("a definition has a group")?;
    let version = &spec["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let text = format!(
        "{MADE}# {name}\n\n{}\n\n`apiVersion: {group}/{}`, short name `{short}`, namespaced.\n\n{}{}",
        description(schema),
        version["name"].as_str().context("a version has a name")?,
        fields::tables(&schema["properties"]["spec"], "spec"),
        fields::table("status", &schema["properties"]["status"]),
    );
    Ok((format!("{}.md", name.to_lowercase()), text))
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn the_reference_is_fresh() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference");
        for (name, text) in super::pages().expect("pages") {
            let stored = fs::read_to_string(folder.join(&name)).unwrap_or_default();
            assert!(
                stored == text,
                "docs/reference/{name} is stale: run `cargo run -p sluice-docs`"
            );
        }
    }
}
