//! Which objects an edge has, what they are called, and which of that name are ours.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
};
use sluice_crds::gateway_api;
use sluice_snapshot::hash::hex;
use sluice_translate::{Kind, world::GATEWAY_LABEL};

use super::super::hpa::MANAGED_BY;
use crate::status::store::FIELD_MANAGER;

/// The longest name of a Service (RFC 1035).
const LONGEST_NAME: usize = 63;

/// An object of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    Account,
    Service,
    Budget,
    Deployment,
}

impl Made {
    /// All of them, in the order in which they are made.
    pub(super) const ALL: [Self; 4] =
        [Self::Account, Self::Service, Self::Budget, Self::Deployment];

    pub(super) fn resource(self) -> ApiResource {
        fn of<K: Resource<DynamicType = ()>>() -> ApiResource {
            ApiResource::erase::<K>(&())
        }
        match self {
            Self::Account => of::<ServiceAccount>(),
            Self::Service => of::<Service>(),
            Self::Budget => of::<PodDisruptionBudget>(),
            Self::Deployment => of::<Deployment>(),
        }
    }

    /// For messages about all of them.
    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Account => "ServiceAccounts",
            Self::Service => "Services",
            Self::Budget => "PodDisruptionBudgets",
            Self::Deployment => "Deployments",
        }
    }

    /// For messages about one.
    pub(super) fn describe(self, namespace: &str, name: &str) -> String {
        format!("{} {namespace}/{name}", self.resource().kind)
    }
}

/// The name of every object of a Gateway's edge: the Gateway's and the class (GEP-1762); where that is no name of a Service,
/// a hash of it.
pub(super) fn name(gateway: &str) -> String {
    let plain = format!("{gateway}-{}", gateway_api::CLASS);
    let is_label = plain.len() <= LONGEST_NAME
        && plain.starts_with(|first: char| first.is_ascii_lowercase())
        && plain
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_label {
        return plain;
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, gateway.as_bytes());
    format!(
        "gateway-{}-{}",
        hex(&digest.as_ref()[..8]),
        gateway_api::CLASS
    )
}

/// Whether an object was made for a Gateway of this uid.
pub(super) fn is_ours(object: &DynamicObject, uid: &str) -> bool {
    is_labelled(object)
        && object
            .owner_references()
            .iter()
            .any(|owner| owner.uid == uid)
}

/// Whether an object was made for a Gateway of this name.
pub(super) fn is_of(object: &DynamicObject, gateway: &str) -> bool {
    let owned = |owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
        owner.kind == Kind::Gateway.as_str() && owner.name == gateway
    };
    is_labelled(object)
        && object
            .labels()
            .get(GATEWAY_LABEL)
            .is_some_and(|of| of == gateway)
        && object.owner_references().iter().any(owned)
}

fn is_labelled(object: &DynamicObject) -> bool {
    let by = object.labels().get(MANAGED_BY);
    by.is_some_and(|by| by == FIELD_MANAGER)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_names_of_services() {
        assert_eq!(name("public"), "public-sluice");
        for odd in ["9to5", "a.b", &"a".repeat(60)] {
            let name = name(odd);
            assert!(
                name.starts_with("gateway-") && name.len() <= LONGEST_NAME,
                "{name}"
            );
        }
        assert_ne!(name("a.b"), name("a.c"));
    }

    #[test]
    fn a_foreign_object_is_not_ours_whatever_it_is_called() {
        let object = |labels: serde_json::Value, uid: &str| -> DynamicObject {
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "public-sluice", "namespace": "shop", "labels": labels, "ownerReferences": [
                    {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "public", "uid": uid}]},
            }))
            .expect("an object")
        };
        let labels = json!({MANAGED_BY: FIELD_MANAGER, GATEWAY_LABEL: "public"});
        let ours = object(labels.clone(), "u");
        assert!(is_ours(&ours, "u") && is_of(&ours, "public"));
        assert!(!is_ours(&ours, "v"), "of a Gateway that was there before");
        assert!(!is_of(&ours, "other"));
        let foreign = object(json!({GATEWAY_LABEL: "public"}), "u");
        assert!(!is_ours(&foreign, "u") && !is_of(&foreign, "public"));
    }
}
