//! The chart of the CRDs: the definitions of `crds/yaml`, kept when the release goes. Its templates hold no template
//! language, so that the same folder is a kustomize base.

use anyhow::Result;
use serde_json::json;

use crate::File;

const FOLDER: &str = "charts/sluice-crds";

/// The templates, and the kustomization that lists them.
pub(crate) fn chart() -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut list =
        "# Made by `make charts`. The kinds alone; the operator is in deploy/kustomize.\n\
         apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
            .to_owned();
    for mut crd in sluice_crds::crd::definitions()? {
        let name = crd["spec"]["names"]["plural"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        crd["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
        let yaml = serde_yaml::to_string(&crd)?;
        anyhow::ensure!(
            !yaml.contains("{{"),
            "{name}: Helm would take a part of its text for template language"
        );
        list += &format!("- templates/{name}.yaml\n");
        files.push((format!("{FOLDER}/templates/{name}.yaml").into(), yaml));
    }
    files.push((format!("{FOLDER}/kustomization.yaml").into(), list));
    Ok(files)
}
