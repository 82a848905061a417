//! What conversion makes: ApiRoutes as manifests, each of which the schema takes, and what was left out.

use std::{collections::BTreeMap, str::FromStr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};
use sluice_crds::{
    gateway_api,
    validation::{self, Kind},
};

/// The most rules of an ApiRoute.
pub const MAX_RULES: usize = 64;
/// kubectl's copy of what it applied, which is about the object it was.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    namespace: Option<String>,
    name: String,
}

/// No name of a Gateway.
#[derive(Debug, thiserror::Error)]
#[error("write it as NAME or NAMESPACE/NAME")]
pub struct NoParent;

impl FromStr for Parent {
    type Err = NoParent;

    fn from_str(text: &str) -> Result<Self, NoParent> {
        let (namespace, name) = match text.split_once('/') {
            None => (None, text),
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
        };
        let sound = |word: &str| !word.is_empty() && !word.contains('/');
        match sound(name) && namespace.as_deref().is_none_or(sound) {
            true => Ok(Self {
                namespace,
                name: name.to_owned(),
            }),
            false => Err(NoParent),
        }
    }
}

impl Parent {
    /// As an ApiRoute of `namespace` refers to it.
    pub fn reference(&self, namespace: &str) -> Value {
        let mut reference = json!({
            "group": gateway_api::GROUP,
            "kind": "Gateway",
            "name": self.name,
        });
        if let Some(own) = self.namespace.as_deref().filter(|own| *own != namespace) {
            reference["namespace"] = own.into();
        }
        reference
    }
}

/// Something that was not carried over.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    /// The object: kind, namespace and name.
    pub object: String,
    /// The field.
    pub path: String,
    /// Why, and what to do.
    pub message: String,
}

/// Everything that was made.
#[derive(Debug, Default)]
pub struct Made {
    /// ApiRoutes.
    pub routes: Vec<Value>,
    /// What they do not have.
    pub left: Vec<Left>,
}

/// One object that is converted.
pub struct From<'a> {
    /// Kind, namespace and name, for what is left out.
    pub object: String,
    /// Its namespace.
    pub namespace: &'a str,
    /// What is told of it.
    pub metadata: &'a ObjectMeta,
}

impl From<'_> {
    /// Says that a field is left out.
    pub fn leave(&self, made: &mut Made, path: impl Into<String>, message: impl Into<String>) {
        made.left.push(Left {
            object: self.object.clone(),
            path: path.into(),
            message: message.into(),
        });
    }

    /// Adds an ApiRoute, or several where there are too many rules for one. One that the schema refuses is left out.
    pub fn add(
        &self,
        made: &mut Made,
        name: &str,
        annotations: &BTreeMap<String, String>,
        spec: &Map<String, Value>,
        rules: &[Value],
    ) {
        for (index, rules) in rules.chunks(MAX_RULES).enumerate() {
            let name = match index {
                0 => name.to_owned(),
                more => format!("{name}-{}", more + 1),
            };
            let mut metadata = json!({"name": name, "namespace": self.namespace});
            if let Some(labels) = &self.metadata.labels {
                metadata["labels"] = json!(labels);
            }
            if !annotations.is_empty() {
                metadata["annotations"] = json!(annotations);
            }
            let mut spec = spec.clone();
            spec.insert("rules".to_owned(), rules.into());
            let route = json!({
                "apiVersion": "sluice.dev/v1alpha1",
                "kind": "ApiRoute",
                "metadata": metadata,
                "spec": spec,
            });
            match validation::admit(Kind::ApiRoute, &route, None) {
                Ok(_) => made.routes.push(route),
                Err(violations) => {
                    for violation in violations {
                        self.leave(
                            made,
                            format!("(ApiRoute {name}) {}", violation.path),
                            format!("{}; the whole ApiRoute is left out", violation.message),
                        );
                    }
                }
            }
        }
    }

    /// Annotations that are nobody's order to a controller.
    pub fn plain_annotations(&self, orders: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
        let annotations = self.metadata.annotations.iter().flatten();
        let plain = annotations.filter(|(name, _)| *name != LAST_APPLIED && !orders(name));
        plain
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}
