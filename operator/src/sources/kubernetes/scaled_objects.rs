//! KEDA's ScaledObjects, where KEDA is installed: what else scales a workload. Without its definition there are none, and
//! nothing is watched; it is looked for again now and then.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
    runtime::watcher::{Config, Event},
};
use sluice_process::Shutdown;
use sluice_translate::{Change, Kind, Object, world::HpaFacts};
use tokio::time::sleep;

use super::follower::{Follower, Reader, id_of};

const DEFINITION: &str = "scaledobjects.keda.sh";
/// How often the definition is looked for: KEDA may be installed later.
const INTERVAL: Duration = Duration::from_secs(30);
/// The same after an error.
const RETRY: Duration = Duration::from_secs(1);

/// Reads ScaledObjects.
struct Scaled {
    definitions: Api<CustomResourceDefinition>,
}

impl Scaled {
    async fn is_defined(&self) -> kube::Result<bool> {
        let found = self.definitions.get_metadata_opt(DEFINITION).await?;
        Ok(found.is_some())
    }
}

impl Reader<DynamicObject> for Scaled {
    /// One that names no workload scales none.
    fn read(&self, object: &DynamicObject) -> Change {
        match HpaFacts::of_scaled_object(&object.metadata, &object.data) {
            Some(facts) => Change::Upsert(Object::ScaledObject(facts.into())),
            None => Change::Delete(id_of(Kind::ScaledObject, object)),
        }
    }

    async fn not_installed(&self) -> bool {
        match self.is_defined().await {
            Ok(defined) => !defined,
            Err(error) => {
                tracing::warn!(DEFINITION, %error, "cannot look for the definition");
                false
            }
        }
    }
}

/// Follows them from the moment that KEDA is there, until shutdown.
pub async fn follow(
    client: Client,
    mut follower: Follower,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let reader = Scaled {
        definitions: Api::all(client.clone()),
    };
    loop {
        let defined = tokio::select! {
            () = shutdown.begun() => return Ok(()),
            defined = reader.is_defined() => defined,
        };
        let wait = match defined {
            Ok(true) => break,
            Ok(false) => {
                let none = Event::<DynamicObject>::InitDone;
                if follower.take(none, &reader).await.is_err() {
                    shutdown.begun().await;
                    return Ok(());
                }
                INTERVAL
            }
            Err(error) => {
                tracing::warn!(DEFINITION, %error, "cannot look for the definition");
                RETRY
            }
        };
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = sleep(wait) => {}
        }
    }
    let kind = GroupVersionKind::gvk("keda.sh", "v1alpha1", Kind::ScaledObject.as_str());
    let resource = ApiResource::from_gvk_with_plural(&kind, "scaledobjects");
    let api = Api::all_with(client, &resource);
    follower.run(api, Config::default(), reader, shutdown).await
}
