//! Kinds that file mode needs beside ours, Kubernetes' own and the Gateway API's, with the defaults an API server would
//! apply.

use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{ConfigMap, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::decode::decode;
use crate::validation::Violation;

/// A Service; a port without protocol is TCP, one without targetPort leads to the port of its own number.
pub(super) fn service(value: &Value) -> Result<Service, Vec<Violation>> {
    let mut service: Service = decode(value.clone())?;
    for port in service
        .spec
        .iter_mut()
        .flat_map(|spec| spec.ports.iter_mut().flatten())
    {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        port.target_port.get_or_insert(IntOrString::Int(port.port));
    }
    Ok(service)
}

/// A Secret, `stringData` winning over `data` as on the API server. No message shows what it holds.
pub(super) fn secret(value: &Value) -> Result<Secret, Vec<Violation>> {
    let mut secret: Secret = decode(value.clone())
        .map_err(|violations| violations.into_iter().map(silent).collect::<Vec<_>>())?;
    for (name, text) in secret.string_data.take().into_iter().flatten() {
        secret
            .data
            .get_or_insert_default()
            .insert(name, ByteString(text.into_bytes()));
    }
    secret.type_.get_or_insert_with(|| "Opaque".to_owned());
    Ok(secret)
}

/// The decoder's own words may quote a value.
fn silent(violation: Violation) -> Violation {
    let Violation { path, message } = violation;
    let message = match message.as_str() {
        "unknown field" => message,
        _ => "has the wrong type, or is in data without being base64 (the value is not shown)"
            .to_owned(),
    };
    Violation { path, message }
}

/// A ConfigMap.
pub(super) fn config_map(value: &Value) -> Result<ConfigMap, Vec<Violation>> {
    decode(value.clone())
}

/// An object of the Gateway API, without status.
pub(super) fn gateway_api<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<Violation>> {
    let mut value = value.clone();
    if let Some(members) = value.as_object_mut() {
        // The type says the first two itself.
        for member in ["apiVersion", "kind", "status"] {
            members.remove(member);
        }
    }
    decode(value)
}

/// An EndpointSlice.
pub(super) fn endpoint_slice(value: &Value) -> Result<EndpointSlice, Vec<Violation>> {
    decode(value.clone())
}
