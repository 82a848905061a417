//! What the operator writes into the webhook configurations, where they exist: the `caBundle` of both, at the roots in
//! force, and on the injecting one the image that new pods get, by which `kubectl sluice outdated` knows old ones. The
//! leader owns those fields and makes no configuration.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sluice_process::Shutdown;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{leader::Leadership, status::store::FIELD_MANAGER};

/// The name of both configurations.
pub const NAME: &str = "sluice-operator";
/// The annotation that says which image new pods get.
pub const IMAGE_ANNOTATION: &str = "sluice.dev/sidecar-image";
/// The end of our webhooks' names.
const SUFFIX: &str = ".sluice.dev";
/// How often the configurations are looked at; they may be installed later, or overwritten.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long one configuration may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps both until shutdown, from the moment that this replica leads.
pub async fn keep(
    client: Client,
    mut roots: watch::Receiver<Arc<str>>,
    sidecar_image: String,
    leadership: Leadership,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown.begun() => return Ok(()),
        () = leadership.won() => {}
    }
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client);
    loop {
        let bundle = STANDARD.encode(roots.borrow_and_update().as_bytes());
        let validates = Wanted {
            bundle: &bundle,
            image: None,
        };
        let injects = Wanted {
            image: Some(&sidecar_image),
            ..validates
        };
        let looks = async {
            one(&validating, validates, &leadership).await;
            one(&mutating, injects, &leadership).await;
        };
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = looks => {}
        }
        let next = Instant::now() + INTERVAL;
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            changed = roots.changed() => changed?,
            () = sleep_until(next) => {}
        }
    }
}

/// What a configuration should say.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    /// Base64 of the PEM bundle.
    bundle: &'a str,
    /// What [`IMAGE_ANNOTATION`] says, where it belongs.
    image: Option<&'a str>,
}

async fn one<K>(api: &Api<K>, wanted: Wanted<'_>, leadership: &Leadership)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let kind = K::kind(&());
    match timeout(TIMEOUT, look(api, wanted, leadership)).await {
        Ok(Ok(true)) => tracing::info!(%kind, NAME, "webhook configuration written"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => {
            tracing::warn!(%kind, NAME, error = format!("{error:#}"), "webhook configuration")
        }
        Err(_) => {
            tracing::warn!(%kind, NAME, "webhook configuration: the API server did not answer in time")
        }
    }
}

/// Whether something was written.
async fn look<K>(api: &Api<K>, wanted: Wanted<'_>, leadership: &Leadership) -> anyhow::Result<bool>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let Some(found) = api.get_opt(NAME).await? else {
        return Ok(false);
    };
    let Some(patch) = patch(
        &serde_json::to_value(&found)?,
        &K::api_version(&()),
        &K::kind(&()),
        wanted,
    ) else {
        return Ok(false);
    };
    leadership.check()?;
    api.patch(
        NAME,
        &PatchParams::apply(FIELD_MANAGER).force(),
        &Patch::Apply(&patch),
    )
    .await?;
    Ok(true)
}

/// The patch that brings a configuration to what is wanted; none where it is there. It carries the version that was looked at:
/// an apply to a configuration that is gone would make one.
fn patch(found: &Value, api_version: &str, kind: &str, wanted: Wanted<'_>) -> Option<Value> {
    let Wanted { bundle, image } = wanted;
    let webhooks = found.get("webhooks").and_then(Value::as_array)?;
    let name = |webhook: &Value| {
        webhook
            .get("name")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let ours: Vec<_> = webhooks
        .iter()
        .filter(|webhook| name(webhook).is_some_and(|name| name.ends_with(SUFFIX)))
        .collect();
    let has = |webhook: &&Value| {
        webhook
            .pointer("/clientConfig/caBundle")
            .and_then(Value::as_str)
            == Some(bundle)
    };
    let annotations = found.pointer("/metadata/annotations");
    let said = annotations.and_then(|annotations| annotations.get(IMAGE_ANNOTATION));
    if ours.iter().all(has) && image.is_none_or(|image| said == Some(&image.into())) {
        return None;
    }
    let entry =
        |webhook: &&Value| json!({"name": name(webhook), "clientConfig": {"caBundle": bundle}});
    let mut patch = json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": NAME, "resourceVersion": found.pointer("/metadata/resourceVersion")},
        "webhooks": ours.iter().map(entry).collect::<Vec<_>>(),
    });
    if let Some(image) = image {
        patch["metadata"]["annotations"] = json!({IMAGE_ANNOTATION: image});
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_webhooks_are_brought_to_the_roots_and_only_when_they_differ() {
        let found = json!({
            "metadata": {"resourceVersion": "7", "annotations": {"sluice.dev/sidecar-image": "sidecar:1", "other": "x"}},
            "webhooks": [
                {"name": "inject.sluice.dev", "clientConfig": {"caBundle": "b2xk"}},
                {"name": "other.example", "clientConfig": {"caBundle": "b2xk"}},
            ],
        });
        let patch = |bundle, image| {
            patch(
                &found,
                "admissionregistration.k8s.io/v1",
                "MutatingWebhookConfiguration",
                Wanted { bundle, image },
            )
        };
        let written = patch("bmV3", None).expect("differs");
        assert_eq!(
            written["webhooks"],
            json!([{"name": "inject.sluice.dev", "clientConfig": {"caBundle": "bmV3"}}])
        );
        assert_eq!(written["metadata"]["resourceVersion"], "7");
        assert_eq!(patch("b2xk", None), None);
        assert_eq!(patch("b2xk", Some("sidecar:1")), None);
        let annotated = patch("b2xk", Some("sidecar:2")).expect("differs");
        assert_eq!(
            annotated["metadata"]["annotations"],
            json!({"sluice.dev/sidecar-image": "sidecar:2"})
        );
    }
}
