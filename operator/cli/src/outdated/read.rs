//! What is read of the cluster: the injecting webhook's configuration, pods, and which namespaces ask for sidecars.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{Namespace, Pod},
};
use kube::{Api, ResourceExt, api::ListParams};
use sluice_translate::world::INJECTION_LABEL;

use crate::{output::chain, status::cluster::Cluster};

/// The configuration's name, and the annotation by which the operator says what it injects.
const WEBHOOK: &str = "sluice-operator";
const IMAGE_ANNOTATION: &str = "sluice.dev/sidecar-image";
/// Pods of one page of a list.
const PAGE: u32 = 500;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing says what new pods get.
    #[error(
        "nothing says which sidecar new pods get: mutatingwebhookconfiguration {WEBHOOK} {0}. Is Sluice installed there, with injection, and its operator running? --image IMAGE asks without it"
    )]
    NotSaid(&'static str),
    /// Not allowed.
    #[error("not allowed to read {what}: {message}. {hint}")]
    Forbidden {
        /// What was asked for.
        what: &'static str,
        /// What the API server said.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// Anything else.
    #[error(
        "{url} does not answer for {what}: {cause}. Is the cluster up, and is this the right context (kubectl config current-context)?"
    )]
    Unreachable {
        /// The API server.
        url: String,
        /// What was asked for.
        what: &'static str,
        /// What went wrong.
        cause: String,
    },
}

/// The image that a new pod gets.
pub async fn wanted(cluster: &Cluster) -> Result<String, ReadError> {
    let (client, url, _) = cluster.parts();
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let hint = "--image IMAGE asks without it";
    let found = api
        .get_metadata_opt(WEBHOOK)
        .await
        .map_err(|error| explain(&error, url, "webhook configurations", hint))?
        .ok_or(ReadError::NotSaid("does not exist"))?;
    let image = found.annotations().get(IMAGE_ANNOTATION).cloned();
    image.ok_or(ReadError::NotSaid("names no image"))
}

/// The pods that are meant.
pub async fn pods(cluster: &Cluster) -> Result<Vec<Pod>, ReadError> {
    let (client, url, namespace) = cluster.parts();
    let api: Api<Pod> = match namespace {
        None => Api::all(client),
        Some(namespace) => Api::namespaced(client, namespace),
    };
    let mut params = ListParams::default().limit(PAGE);
    let mut pods = Vec::new();
    loop {
        let page = api
            .list(&params)
            .await
            .map_err(|error| explain(&error, url, "pods", "-n asks for one namespace only"))?;
        pods.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(pods),
        }
    }
}

/// The namespaces that ask for sidecars; `None`: this user may not know.
pub async fn injected_namespaces(cluster: &Cluster) -> Result<Option<BTreeSet<String>>, ReadError> {
    let (client, url, namespace) = cluster.parts();
    let mut params = ListParams::default().labels(&format!("{INJECTION_LABEL}=enabled"));
    if let Some(namespace) = namespace {
        params = params.fields(&format!("metadata.name={namespace}"));
    }
    match Api::<Namespace>::all(client).list_metadata(&params).await {
        Ok(found) => Ok(Some(
            found.items.iter().map(ResourceExt::name_any).collect(),
        )),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(error) => Err(explain(&error, url, "namespaces", "")),
    }
}

fn explain(error: &kube::Error, url: &str, what: &'static str, hint: &'static str) -> ReadError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => ReadError::Forbidden {
            what,
            message: status.message.clone(),
            hint,
        },
        error => ReadError::Unreachable {
            url: url.to_owned(),
            what,
            cause: chain(error),
        },
    }
}
