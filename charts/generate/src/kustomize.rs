//! The kustomize base of `deploy/kustomize`: the chart's render with its default values, one file per template, without
//! the labels that say Helm, and with the namespace that Helm would make.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::File;

const FOLDER: &str = "deploy/kustomize";
const MADE: &str = "# Made by `make charts` from charts/sluice; edit the chart.\n";
const SOURCE: &str = "# Source: sluice/templates/";
/// Lines that are true of a Helm release only.
const HELMS: [&str; 2] = ["app.kubernetes.io/managed-by: Helm", "helm.sh/chart: "];

const NAMESPACE: &str = "apiVersion: v1
kind: Namespace
metadata:
  name: sluice-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
";

/// The base from a render: the namespace, the kinds by reference to their chart, the rest.
pub(crate) fn base(render: &str) -> Result<Vec<File>> {
    let mut files = BTreeMap::from([("namespace.yaml".to_owned(), format!("{MADE}{NAMESPACE}"))]);
    for document in render.split("---\n").filter(|part| !part.trim().is_empty()) {
        let (source, body) = document
            .strip_prefix(SOURCE)
            .and_then(|rest| rest.split_once('\n'))
            .context("each document of a render begins with its template's name")?;
        let kept = body.trim_end().lines().filter(|line| {
            let line = line.trim_start();
            !HELMS.iter().any(|helms| line.starts_with(helms))
        });
        let body: String = kept.flat_map(|line| [line, "\n"]).collect();
        let file = files
            .entry(source.to_owned())
            .or_insert_with(|| MADE.into());
        if file != MADE {
            *file += "---\n";
        }
        *file += &body;
    }
    let mut list = format!(
        "{MADE}# Another namespace, replicas, images: by Helm, or by patches of your overlay.\n\
         apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n\
         - ../../charts/sluice-crds\n"
    );
    for name in files.keys() {
        list += &format!("- {name}\n");
    }
    files.insert("kustomization.yaml".into(), list);
    let path = |name: &String| format!("{FOLDER}/{name}").into();
    Ok(files
        .iter()
        .map(|(name, text)| (path(name), text.clone()))
        .collect())
}
