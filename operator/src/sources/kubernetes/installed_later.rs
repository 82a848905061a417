//! Kinds of others that may not be installed: KEDA's and the Gateway API's. Without a definition that serves the version we
//! read there are none, and nothing is watched; it is looked for again now and then.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
    runtime::watcher::{Config, Event},
};
use sluice_crds::gateway_api::{
    self, BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet,
    ReferenceGrant, TcpRoute, TlsRoute,
};
use sluice_process::Shutdown;
use sluice_translate::{Change, Kind, Object, ObjectId, Undecodable, world::HpaFacts};
use tokio::time::sleep;

use super::{
    decode,
    follower::{Follower, Reader, id_of},
};
use crate::status::{Known, store};

/// How often a definition is looked for: it may be installed later.
const INTERVAL: Duration = Duration::from_secs(10);
/// The same after an error.
const RETRY: Duration = Duration::from_secs(1);

/// A kind that somebody else defines, and how its objects are read.
pub struct Foreign {
    group: &'static str,
    /// The versions we read, the preferred first.
    versions: &'static [&'static str],
    plural: &'static str,
    kind: Kind,
    read: fn(&DynamicObject) -> Change,
}

/// KEDA's ScaledObjects: what else scales a workload.
pub const SCALED_OBJECTS: Foreign = Foreign {
    group: "keda.sh",
    versions: &["v1alpha1"],
    plural: "scaledobjects",
    kind: Kind::ScaledObject,
    read: scaled_object,
};

/// Gateways.
pub const GATEWAYS: Foreign = Foreign {
    group: gateway_api::GROUP,
    versions: &[gateway_api::VERSION],
    plural: "gateways",
    kind: Kind::Gateway,
    read: |object| decoded(Kind::Gateway, object, decode::<Gateway>),
};

/// BackendTLSPolicies.
pub const BACKEND_TLS_POLICIES: Foreign = Foreign {
    group: gateway_api::GROUP,
    versions: &[gateway_api::VERSION],
    plural: "backendtlspolicies",
    kind: Kind::BackendTlsPolicy,
    read: |object| decoded(Kind::BackendTlsPolicy, object, decode::<BackendTlsPolicy>),
};

/// GatewayClasses.
pub const GATEWAY_CLASSES: Foreign = Foreign {
    group: gateway_api::GROUP,
    versions: &[gateway_api::VERSION],
    plural: "gatewayclasses",
    kind: Kind::GatewayClass,
    read: |object| decoded(Kind::GatewayClass, object, decode::<GatewayClass>),
};

/// ListenerSets.
pub const LISTENER_SETS: Foreign = Foreign {
    group: gateway_api::GROUP,
    versions: &[gateway_api::VERSION],
    plural: "listenersets",
    kind: Kind::ListenerSet,
    read: |object| decoded(Kind::ListenerSet, object, decode::<ListenerSet>),
};

/// HTTPRoutes.
pub const HTTP_ROUTES: Foreign = Foreign {
    group: gateway_api::GROUP,
    versions: &[gateway_api::VERSION],
    plural: "httproutes",
    kind: Kind::HttpRoute,
    read: |object| decoded(Kind::HttpRoute, object, decode::<HttpRoute>),
};

/// GRPCRoutes.
pub const GRPC_ROUTES: Foreign = Foreign {
    group: gateway_api::GROUP,
    versions: &[gateway_api::VERSION],
    plural: "grpcroutes",
    kind: Kind::GrpcRoute,
    read: |object| decoded(Kind::GrpcRoute, object, decode::<GrpcRoute>),
};

/// TLSRoutes.
pub const TLS_ROUTES: Foreign = Foreign {
    group: gateway_api::GROUP,
    versions: &[gateway_api::VERSION],
    plural: "tlsroutes",
    kind: Kind::TlsRoute,
    read: |object| decoded(Kind::TlsRoute, object, decode::<TlsRoute>),
};

/// TCPRoutes.
pub const TCP_ROUTES: Foreign = Foreign {
    group: gateway_api::GROUP,
    versions: &[gateway_api::VERSION],
    plural: "tcproutes",
    kind: Kind::TcpRoute,
    read: |object| decoded(Kind::TcpRoute, object, decode::<TcpRoute>),
};

/// ReferenceGrants.
pub const REFERENCE_GRANTS: Foreign = Foreign {
    group: gateway_api::GROUP,
    versions: &[gateway_api::VERSION, gateway_api::GRANT_VERSION],
    plural: "referencegrants",
    kind: Kind::ReferenceGrant,
    read: |object| decoded(Kind::ReferenceGrant, object, decode::<ReferenceGrant>),
};

/// One that names no workload scales none.
fn scaled_object(object: &DynamicObject) -> Change {
    match HpaFacts::of_scaled_object(&object.metadata, &object.data) {
        Some(facts) => Change::Upsert(Object::ScaledObject(facts.into())),
        None => Change::Delete(id_of(Kind::ScaledObject, object)),
    }
}

fn decoded(
    kind: Kind,
    object: &DynamicObject,
    decode: fn(&DynamicObject) -> Result<Object, String>,
) -> Change {
    decode(object).map_or_else(
        |message| {
            Change::Undecodable(Undecodable {
                id: id_of(kind, object),
                meta: (&object.metadata).into(),
                message,
                raw: Some(object.data.clone()),
            })
        },
        Change::Upsert,
    )
}

/// Reads the objects of one kind.
struct Read {
    foreign: Foreign,
    definitions: Api<CustomResourceDefinition>,
    /// Where statuses go.
    known: Arc<Known>,
}

impl Read {
    /// The name of the definition.
    fn definition(&self) -> String {
        format!("{}.{}", self.foreign.plural, self.foreign.group)
    }

    /// The version to read: the first of ours that is served. Of another one the API server would know no list.
    async fn defined(&self) -> kube::Result<Option<&'static str>> {
        let found = self.definitions.get_opt(&self.definition()).await?;
        Ok(found.and_then(|definition| {
            let serves = |wanted: &&&str| {
                let mut versions = definition.spec.versions.iter();
                versions.any(|version| version.name == **wanted && version.served)
            };
            self.foreign.versions.iter().find(serves).copied()
        }))
    }
}

impl Reader<DynamicObject> for Read {
    fn read(&self, object: &DynamicObject) -> Change {
        let kind = self.foreign.kind;
        if store::resource(kind).is_some() {
            self.known.put(id_of(kind, object), store::stored(object));
        }
        (self.foreign.read)(object)
    }

    fn forget(&self, object: &ObjectId) {
        self.known.remove(object);
    }

    async fn not_installed(&self) -> bool {
        match self.defined().await {
            Ok(version) => version.is_none(),
            Err(error) => {
                tracing::warn!(definition = self.definition(), %error, "cannot look for the definition");
                false
            }
        }
    }
}

/// Follows objects of a kind from the moment that it is there, until shutdown.
pub async fn follow(
    foreign: Foreign,
    client: Client,
    known: Arc<Known>,
    mut follower: Follower,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let reader = Read {
        foreign,
        definitions: Api::all(client.clone()),
        known,
    };
    let version = loop {
        let defined = tokio::select! {
            () = shutdown.begun() => return Ok(()),
            defined = reader.defined() => defined,
        };
        let wait = match defined {
            Ok(Some(version)) => break version,
            Ok(None) => {
                let none = Event::<DynamicObject>::InitDone;
                if follower.take(none, &reader).await.is_err() {
                    shutdown.begun().await;
                    return Ok(());
                }
                INTERVAL
            }
            Err(error) => {
                tracing::warn!(definition = reader.definition(), %error, "cannot look for the definition");
                RETRY
            }
        };
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = sleep(wait) => {}
        }
    };
    let Foreign {
        group,
        plural,
        kind,
        ..
    } = &reader.foreign;
    let kind = GroupVersionKind::gvk(group, version, kind.as_str());
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    let api = Api::all_with(client, &resource);
    follower.run(api, Config::default(), reader, shutdown).await
}
