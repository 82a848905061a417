//! A Gateway of ours: its listeners, one unit each, with the certificates they show and what they ask of clients. A
//! listener that asks for what cannot be served is present and refuses; one that contradicts an elder listener is left to it.

use std::collections::BTreeMap;

use sluice_crds::gateway_api::{
    self, AllowedRoutes, ClientValidation, FrontendConfig, GatewaySpec, Listener,
    ListenerTls as TlsSpec,
};
use sluice_snapshot::{
    ConfigError, ConfigReason, Unit, UnitName,
    unit::{self, listener::Protocol},
};

use super::{Resolved, authorities, report::Report, seal, secrets};
use crate::{
    finding::FindingReason,
    view::View,
    world::{GatewayFacts, ObjectId},
};

/// Listeners of one Gateway that are looked at, as its CRD bounds them.
const MAX_LISTENERS: usize = 64;

/// A Gateway of ours as routes see it.
pub(crate) struct Served {
    /// Its listeners that speak HTTP, in their order.
    pub(crate) listeners: Vec<ServedListener>,
}

/// A listener that routes can attach to.
pub(crate) struct ServedListener {
    /// Its name.
    pub(crate) name: String,
    /// Its port.
    pub(crate) port: u16,
    /// What it speaks.
    pub(crate) protocol: Protocol,
    /// Its hostname, in lower case.
    pub(crate) hostname: Option<String>,
    /// Whose routes it takes.
    pub(crate) allowed: AllowedRoutes,
    /// Its place among the Gateway's.
    index: usize,
}

/// Why a Gateway serves nothing for us, in a clause.
pub(crate) fn served(view: &View<'_>, namespace: &str, name: &str) -> Result<Served, String> {
    let Some(gateway) = view.gateway(namespace, name) else {
        return Err(format!("Gateway {namespace}/{name} does not exist"));
    };
    let Some(spec) = gateway.spec.as_ref().filter(|_| gateway.sound().is_some()) else {
        return Err(format!("Gateway {namespace}/{name} does not decode"));
    };
    if !is_ours(spec) {
        return Err(format!(
            "Gateway {namespace}/{name} is of class {}, not of {}",
            spec.gateway_class_name,
            gateway_api::CLASS
        ));
    }
    Ok(Served {
        listeners: listeners(spec, &mut |_, _, _| {}),
    })
}

pub(crate) fn is_ours(spec: &GatewaySpec) -> bool {
    spec.gateway_class_name == gateway_api::CLASS
}

/// The listeners that can be served, and to `fault` what is wrong with the others.
fn listeners(
    spec: &GatewaySpec,
    fault: &mut impl FnMut(usize, FindingReason, &str),
) -> Vec<ServedListener> {
    let mut found: Vec<ServedListener> = Vec::new();
    for (index, listener) in spec.listeners.iter().enumerate().take(MAX_LISTENERS) {
        match one(index, listener, &found) {
            Ok(listener) => found.push(listener),
            Err((reason, what)) => fault(index, reason, &what),
        }
    }
    found
}

fn one(
    index: usize,
    listener: &Listener,
    elder: &[ServedListener],
) -> Result<ServedListener, (FindingReason, String)> {
    let invalid = |what: String| Err((FindingReason::Invalid, what));
    let hostname = listener
        .hostname
        .as_ref()
        .filter(|host| !host.is_empty())
        .map(|host| host.to_ascii_lowercase());
    let named = !listener.name.is_empty()
        && listener.name.len() <= 253
        && listener.name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
        });
    if !named || elder.iter().any(|elder| elder.name == listener.name) {
        return invalid(format!(
            "listener {:?} has no name of its own",
            listener.name
        ));
    }
    if listener.port == 0 {
        return invalid("there is no port 0".into());
    }
    if let Some(error) = hostname
        .as_deref()
        .and_then(|host| seal::hostname(host).err())
    {
        return invalid(error.message);
    }
    let protocol = match listener.protocol.as_str() {
        "HTTP" => Protocol::Http,
        "HTTPS" => Protocol::Https,
        other => {
            return invalid(format!(
                "protocol {other:?} is not served, HTTP and HTTPS are"
            ));
        }
    };
    let same_port = elder.iter().filter(|elder| elder.port == listener.port);
    for elder in same_port {
        if elder.protocol != protocol {
            let what = format!(
                "listener {} has port {} for another protocol",
                elder.name, elder.port
            );
            return Err((FindingReason::Conflicted, what));
        }
        if elder.hostname == hostname {
            let what = format!("listener {} has this port and hostname", elder.name);
            return Err((FindingReason::Conflicted, what));
        }
    }
    Ok(ServedListener {
        name: listener.name.clone(),
        port: listener.port,
        protocol,
        hostname,
        allowed: listener.allowed_routes.clone().unwrap_or_default(),
        index,
    })
}

/// The units of a Gateway. One of another class is none of ours.
pub(super) fn resolve(view: &View<'_>, facts: &GatewayFacts) -> Resolved {
    let mut report = Report::of(&facts.id);
    let mut resolved = Resolved::default();
    if let Some(defect) = &facts.defect {
        let kept = match defect.outline {
            true => "it listens nowhere",
            false => "its last good form stays in force",
        };
        let what = format!(
            "the stored object does not decode ({}); {kept}",
            defect.message
        );
        report.add(FindingReason::Undecodable, "", &what);
    }
    if let Some(spec) = facts.sound().filter(|spec| is_ours(spec)) {
        let found = listeners(spec, &mut |index, reason, what| {
            report.add(reason, &format!("spec.listeners[{index}]"), what);
        });
        for listener in &found {
            let (namespace, name) = (&*facts.id.namespace, &*facts.id.name);
            let unit = listener_unit(view, &facts.id, spec, listener, &mut report);
            let name = UnitName::listener(namespace, name, &listener.name);
            seal::other(name, Unit::Listener(unit), &mut resolved, &mut report);
        }
    }
    resolved.findings = report.into_findings();
    resolved
}

fn listener_unit(
    view: &View<'_>,
    gateway: &ObjectId,
    spec: &GatewaySpec,
    listener: &ServedListener,
    report: &mut Report,
) -> unit::Listener {
    let made = match listener.protocol {
        Protocol::Http | Protocol::Tls | Protocol::Tcp => Ok(None),
        Protocol::Https => {
            let tls = spec.listeners.get(listener.index);
            let tls = tls.and_then(|listener| listener.tls.as_ref());
            tls_of(view, gateway, spec, listener, tls, report).map(Some)
        }
    };
    let (tls, broken) = match made {
        Ok(tls) => (tls, None),
        Err(error) => {
            report.error(&format!("spec.listeners[{}].tls", listener.index), &error);
            (None, Some(error))
        }
    };
    unit::Listener {
        object: gateway.reference(),
        name: listener.name.clone(),
        port: listener.port,
        protocol: listener.protocol,
        hostname: listener.hostname.clone(),
        tls,
        broken,
    }
}

fn invalid(what: impl Into<String>) -> ConfigError {
    ConfigError::new(ConfigReason::Invalid, what)
}

fn tls_of(
    view: &View<'_>,
    gateway: &ObjectId,
    spec: &GatewaySpec,
    listener: &ServedListener,
    tls: Option<&TlsSpec>,
    report: &mut Report,
) -> Result<unit::listener::ListenerTls, ConfigError> {
    let tls = tls.ok_or_else(|| invalid("an HTTPS listener needs tls.certificateRefs"))?;
    if !matches!(tls.mode.as_deref(), None | Some("Terminate")) {
        return Err(invalid("mode Passthrough is not served, Terminate is"));
    }
    if tls.frontend_validation.is_some() {
        return Err(invalid(
            "frontendValidation is of a former version: write spec.tls.frontend",
        ));
    }
    let mut certificates = Vec::new();
    let mut first = None;
    for (index, reference) in tls.certificate_refs.iter().enumerate() {
        let found = match reference.is_core("Secret", "Secret", &gateway.namespace) {
            true => secrets::certificate(view, &gateway.namespace, &reference.name),
            false => Err(ConfigError::new(
                ConfigReason::SecretNotUsable,
                format!(
                    "certificates are Secrets of the Gateway's namespace, {}",
                    gateway.namespace
                ),
            )),
        };
        match found {
            Ok(name) => certificates.push(name),
            Err(error) => {
                let path = format!(
                    "spec.listeners[{}].tls.certificateRefs[{index}]",
                    listener.index
                );
                report.error(&path, &error);
                first.get_or_insert(error);
            }
        }
    }
    if certificates.is_empty() {
        return Err(first.unwrap_or_else(|| invalid("an HTTPS listener needs tls.certificateRefs")));
    }
    let asked = asked_of_clients(spec, listener.port);
    let client_authorities = match asked {
        None => None,
        Some(validation) => Some(client_authorities(view, gateway, validation)?),
    };
    Ok(unit::listener::ListenerTls {
        certificates,
        client_authorities,
    })
}

/// What clients of a port must have: what `perPort` says, else the default.
fn asked_of_clients(spec: &GatewaySpec, port: u16) -> Option<&ClientValidation> {
    let frontend = spec.tls.as_ref()?.frontend.as_ref()?;
    let of_port = frontend.per_port.iter().find(|one| one.port == port);
    let config: Option<&FrontendConfig> = match of_port {
        Some(one) => Some(&one.tls),
        None => frontend.default.as_ref(),
    };
    config?.validation.as_ref()
}

fn client_authorities(
    view: &View<'_>,
    gateway: &ObjectId,
    validation: &ClientValidation,
) -> Result<String, ConfigError> {
    if !matches!(validation.mode.as_deref(), None | Some("AllowValidOnly")) {
        return Err(invalid(
            "mode AllowInsecureFallback is not served, AllowValidOnly is",
        ));
    }
    authorities::of(view, &gateway.namespace, &validation.ca_certificate_refs)
}

/// Whether a listener takes routes of a namespace.
pub(crate) fn allows(
    view: &View<'_>,
    gateway_namespace: &str,
    allowed: &AllowedRoutes,
    route_namespace: &str,
) -> bool {
    let kind = allowed.kinds.as_ref().is_none_or(|kinds| {
        kinds.iter().any(|kind| {
            kind.kind == "ApiRoute" && kind.group.as_deref() == Some(sluice_crds::GROUP)
        })
    });
    let namespaces = allowed.namespaces.as_ref();
    let from = namespaces.and_then(|namespaces| namespaces.from.as_deref());
    kind && match from {
        None | Some("Same") => gateway_namespace == route_namespace,
        Some("All") => true,
        Some("Selector") => namespaces
            .and_then(|namespaces| namespaces.selector.as_ref())
            .is_some_and(|selector| {
                let labels = view.namespace_labels(route_namespace);
                selects(selector, &labels)
            }),
        Some(_) => false,
    }
}

/// Whether a label selector selects; an empty one selects everything, as everywhere in Kubernetes.
fn selects(
    selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    labels: &BTreeMap<String, String>,
) -> bool {
    let exact = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    exact
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|expression| {
            let value = labels.get(&expression.key);
            let values = expression.values.as_deref().unwrap_or_default();
            match expression.operator.as_str() {
                "In" => value.is_some_and(|value| values.contains(value)),
                "NotIn" => value.is_none_or(|value| !values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
