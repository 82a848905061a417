//! Manifests: text in, typed objects and findings out, as an API server would have taken or refused them.
//!
//! Pure: no file is opened here. A document that fails yields findings and its siblings still load; a failed document
//! yields no object at all, for half an object could mean less protection than was written.

mod core;
mod decode;
mod finding;
mod object;
mod outline;
mod tree;

use serde_json::Value;

use crate::{
    ApiRoute, RateLimitPolicy, ShardSet, SluiceConfig, gateway_api, sluice_config,
    validation::{self, Kind, Violation},
};
use decode::decode;
pub use finding::ManifestFinding;
pub use object::{Located, ManifestObject};
pub use outline::{Outline, Outlines, outlines};
use tree::{Document, Node};

/// Text above this size is refused unread, in bytes.
pub const MAX_TEXT_BYTES: usize = 4 << 20;
/// Documents of one text beyond this many are refused.
pub const MAX_DOCUMENTS: usize = 10_000;

const API_VERSION: &str = "sluice.dev/v1alpha1";
const GATEWAY_API_VERSION: &str = "gateway.networking.k8s.io/v1";
/// ReferenceGrants were of this version for long, and are the same in both.
const GRANT_VERSION: &str = "gateway.networking.k8s.io/v1beta1";

/// What a text held.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The objects that are sound, in the order of the text.
    pub objects: Vec<Located>,
    /// What is wrong with the others, in the order of the text.
    pub findings: Vec<ManifestFinding>,
}

/// Reads a text of YAML (or JSON) documents; `file` only names it in findings.
pub fn parse(file: &str, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    if text.len() > MAX_TEXT_BYTES {
        parsed.findings.push(ManifestFinding::of_file(
            file,
            format!("larger than {MAX_TEXT_BYTES} bytes: split it"),
        ));
        return parsed;
    }
    for (index, document) in tree::documents(text).enumerate() {
        if index >= MAX_DOCUMENTS {
            parsed.findings.push(ManifestFinding::of_file(
                file,
                format!("more than {MAX_DOCUMENTS} documents: split it"),
            ));
            break;
        }
        match document {
            Ok(documents) => documents
                .iter()
                .for_each(|document| read_document(file, document, &mut parsed)),
            Err(error) => parsed
                .findings
                .push(ManifestFinding::of_syntax(file, error)),
        }
    }
    parsed
}

fn read_document(file: &str, document: &Document, parsed: &mut Parsed) {
    let value = document.to_value();
    if let Some(items) = list_items(document, &value) {
        items
            .iter()
            .for_each(|item| read_document(file, item, parsed));
        return;
    }
    match read_object(&value) {
        Ok(Some(object)) => parsed.objects.push(Located {
            object,
            file: file.to_owned(),
            line: document.line(),
        }),
        Ok(None) => {}
        Err(violations) => {
            let mut findings: Vec<ManifestFinding> = violations
                .into_iter()
                .map(|Violation { path, message }| {
                    let place = document.place(&path);
                    ManifestFinding {
                        file: file.to_owned(),
                        line: place.line,
                        column: place.column,
                        path,
                        message,
                    }
                })
                .collect();
            findings.sort();
            parsed.findings.extend(findings);
        }
    }
}

/// The documents inside a `kind: List`, as `kubectl get -o yaml` writes it.
fn list_items(document: &Document, value: &Value) -> Option<Vec<Document>> {
    let is_list = value["apiVersion"] == "v1" && value["kind"] == "List";
    match document.get("items") {
        Some(Node::Seq(items)) if is_list => {
            Some(items.iter().map(|item| document.inner(item)).collect())
        }
        _ => None,
    }
}

/// The object a document describes; none for kinds that are none of ours.
fn read_object(value: &Value) -> Result<Option<ManifestObject>, Vec<Violation>> {
    let word = |field: &str| match value.get(field) {
        Some(Value::String(word)) if !word.is_empty() => Ok(word.as_str()),
        _ => Err(vec![Violation {
            path: field.into(),
            message: "required, but missing: every manifest has apiVersion and kind".into(),
        }]),
    };
    let (api_version, kind) = (word("apiVersion")?, word("kind")?);
    let object = match (api_version, kind) {
        (API_VERSION, "ApiRoute") => {
            ManifestObject::ApiRoute(Box::new(own::<ApiRoute>(Kind::ApiRoute, value)?))
        }
        (API_VERSION, "RateLimitPolicy") => {
            ManifestObject::RateLimitPolicy(Box::new(own::<RateLimitPolicy>(
                Kind::RateLimitPolicy,
                value,
            )?))
        }
        (API_VERSION, "ShardSet") => {
            ManifestObject::ShardSet(Box::new(own::<ShardSet>(Kind::ShardSet, value)?))
        }
        (sluice_config::API_VERSION, sluice_config::KIND) => {
            let admitted = validation::admit(Kind::SluiceConfig, value, None)?;
            return Ok(Some(ManifestObject::SluiceConfig(Box::new(decode::<
                SluiceConfig,
            >(
                admitted
            )?))));
        }
        ("v1", "Service") => ManifestObject::Service(Box::new(core::service(value)?)),
        ("v1", "Secret") => ManifestObject::Secret(Box::new(core::secret(value)?)),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            ManifestObject::EndpointSlice(Box::new(core::endpoint_slice(value)?))
        }
        ("v1", "ConfigMap") => ManifestObject::ConfigMap(Box::new(core::config_map(value)?)),
        (GATEWAY_API_VERSION, "Gateway") => {
            ManifestObject::Gateway(Box::new(core::gateway_api::<gateway_api::Gateway>(value)?))
        }
        (GATEWAY_API_VERSION, "BackendTLSPolicy") => {
            ManifestObject::BackendTlsPolicy(Box::new(core::gateway_api::<
                gateway_api::BackendTlsPolicy,
            >(value)?))
        }
        (GATEWAY_API_VERSION, "GatewayClass") => ManifestObject::GatewayClass(Box::new(
            core::gateway_api::<gateway_api::GatewayClass>(value)?,
        )),
        (GATEWAY_API_VERSION, "ListenerSet") => ManifestObject::ListenerSet(Box::new(
            core::gateway_api::<gateway_api::ListenerSet>(value)?,
        )),
        (GATEWAY_API_VERSION, "HTTPRoute") => ManifestObject::HttpRoute(Box::new(
            core::gateway_api::<gateway_api::HttpRoute>(value)?,
        )),
        (GATEWAY_API_VERSION, "GRPCRoute") => ManifestObject::GrpcRoute(Box::new(
            core::gateway_api::<gateway_api::GrpcRoute>(value)?,
        )),
        (GATEWAY_API_VERSION, "TLSRoute") => {
            ManifestObject::TlsRoute(Box::new(core::gateway_api::<gateway_api::TlsRoute>(value)?))
        }
        (GATEWAY_API_VERSION, "TCPRoute") => {
            ManifestObject::TcpRoute(Box::new(core::gateway_api::<gateway_api::TcpRoute>(value)?))
        }
        (GATEWAY_API_VERSION | GRANT_VERSION, "ReferenceGrant") => {
            ManifestObject::ReferenceGrant(Box::new(core::gateway_api::<
                gateway_api::ReferenceGrant,
            >(value)?))
        }
        _ => return foreign(api_version, kind).map_or(Ok(None), |violation| Err(vec![violation])),
    };
    Ok(Some(object.named()?))
}

/// An object of one of the three kinds, as the API server would store it: without status, its schema's checks passed.
fn own<T: serde::de::DeserializeOwned>(kind: Kind, value: &Value) -> Result<T, Vec<Violation>> {
    let mut value = value.clone();
    if let Some(members) = value.as_object_mut() {
        members.remove("status");
    }
    let mut admitted = validation::admit(kind, &value, None)?;
    if let Some(members) = admitted.as_object_mut() {
        // The type says them itself.
        members.remove("apiVersion");
        members.remove("kind");
    }
    decode(admitted)
}

/// Whether a document that is no object of ours was meant to be one.
fn foreign(api_version: &str, kind: &str) -> Option<Violation> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let glimpse = |text: &str| text.chars().take(64).collect::<String>();
    let violation = |path: &str, message: String| {
        Some(Violation {
            path: path.into(),
            message,
        })
    };
    match (group, Kind::ALL.iter().find(|own| own.as_str() == kind)) {
        (_, Some(Kind::SluiceConfig)) => violation(
            "apiVersion",
            format!(
                "SluiceConfig is of {}, not {:?}",
                sluice_config::API_VERSION,
                glimpse(api_version)
            ),
        ),
        (_, Some(kind)) => violation(
            "apiVersion",
            format!(
                "{} is of {API_VERSION}, not {:?}",
                kind.as_str(),
                glimpse(api_version)
            ),
        ),
        (crate::GROUP | crate::CONFIG_GROUP, None) => violation(
            "kind",
            format!(
                "{:?} has no kind {:?}: there are ApiRoute, RateLimitPolicy, ShardSet",
                group,
                glimpse(kind)
            ),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
