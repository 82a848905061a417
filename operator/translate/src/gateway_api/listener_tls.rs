//! What a listener shows to clients that speak TLS, and what it asks of them.

use sluice_crds::gateway_api::{
    ClientValidation, FrontendConfig, GatewaySpec, ListenerTls as TlsSpec, ObjectReference,
};
use sluice_snapshot::{
    ConfigError, ConfigReason,
    unit::listener::{ListenerTls, Protocol},
};

use super::{grants, listeners::ServedListener};
use crate::{
    finding::FindingReason,
    resolve::{authorities, report::Report, secrets},
    standing::Outcome,
    view::View,
    world::ObjectId,
};

/// The TLS of a listener, and what is to be said about it.
#[derive(Default)]
pub(super) struct Made {
    /// As the unit has it; none in the clear, for Passthrough, and where it is broken.
    pub(super) tls: Option<ListenerTls>,
    /// Why it refuses everything.
    pub(super) broken: Option<ConfigError>,
    /// Why `Accepted` is false.
    pub(super) accepted: Option<Outcome>,
    /// Why `ResolvedRefs` is.
    pub(super) resolved_refs: Option<Outcome>,
}

impl Made {
    fn refused(what: &str) -> Self {
        let error = invalid(what);
        Self {
            accepted: Some(Outcome::bad("UnsupportedValue", what)),
            broken: Some(error),
            ..Self::default()
        }
    }
}

fn invalid(what: impl Into<String>) -> ConfigError {
    ConfigError::new(ConfigReason::Invalid, what)
}

/// The TLS of a listener of `gateway`. Findings are about its owner's field at `path`.
pub(super) fn of(
    view: &View<'_>,
    gateway: &ObjectId,
    spec: &GatewaySpec,
    listener: &ServedListener,
    tls: Option<&TlsSpec>,
    report: &mut Report,
) -> Made {
    let path = format!("spec.listeners[{}].tls", listener.index);
    let mode = tls.and_then(|tls| tls.mode.as_deref());
    let mut made = match (listener.protocol, mode) {
        (Protocol::Http | Protocol::Tcp, _) => return Made::default(),
        (Protocol::Tls, Some("Passthrough")) => return Made::default(),
        (Protocol::Https, Some("Passthrough")) => {
            Made::refused("mode Passthrough is of TLS listeners; HTTPS ends here")
        }
        (Protocol::Https | Protocol::Tls, None | Some("Terminate")) => {
            ended_here(view, gateway, spec, listener, tls, &path, report)
        }
        (Protocol::Https | Protocol::Tls, Some(_)) => {
            Made::refused("modes are Terminate and Passthrough")
        }
    };
    if let Some(error) = &made.broken {
        report.error(&path, error);
        made.tls = None;
    }
    made
}

fn ended_here(
    view: &View<'_>,
    gateway: &ObjectId,
    spec: &GatewaySpec,
    listener: &ServedListener,
    tls: Option<&TlsSpec>,
    path: &str,
    report: &mut Report,
) -> Made {
    const WITHOUT: &str = "a listener where TLS ends needs tls.certificateRefs";
    let Some(tls) = tls.filter(|tls| !tls.certificate_refs.is_empty()) else {
        return Made::refused(WITHOUT);
    };
    if tls.frontend_validation.is_some() {
        return Made::refused("frontendValidation is of a former version: write spec.tls.frontend");
    }
    let owner = &listener.owner;
    let mut made = Made::default();
    let (mut certificates, mut first) = (Vec::new(), None);
    for (index, reference) in tls.certificate_refs.iter().enumerate() {
        let namespace = reference.namespace.as_deref().unwrap_or(&owner.namespace);
        let found = if !reference.is_core("Secret", "Secret", namespace) {
            let error = ConfigError::new(
                ConfigReason::SecretNotUsable,
                "certificates are Secrets of the core group",
            );
            Err((FindingReason::SecretNotUsable, error))
        } else if !grants::permits(view, owner, "Secret", namespace, &reference.name) {
            let what = grants::missing(owner, "Secret", namespace, &reference.name);
            let error = ConfigError::new(ConfigReason::SecretNotUsable, what);
            Err((FindingReason::RefNotPermitted, error))
        } else {
            secrets::certificate(view, namespace, &reference.name)
                .map_err(|error| (error.reason.into(), error))
        };
        match found {
            Ok(name) => certificates.push(name),
            Err((reason, error)) => {
                let path = format!("{path}.certificateRefs[{index}]");
                report.add(reason, &path, &error.message);
                let word = match reason {
                    FindingReason::RefNotPermitted => "RefNotPermitted",
                    _ => "InvalidCertificateRef",
                };
                let said = || Outcome::bad(word, report.last_message());
                made.resolved_refs.get_or_insert_with(said);
                first.get_or_insert(error);
            }
        }
    }
    if certificates.is_empty() {
        made.broken = Some(first.unwrap_or_else(|| invalid(WITHOUT)));
        return made;
    }
    let asked = asked_of_clients(spec, listener.port);
    let client_authorities = asked.map(|asked| client_authorities(view, gateway, asked));
    match client_authorities.transpose() {
        Ok(client_authorities) => {
            made.tls = Some(ListenerTls {
                certificates,
                client_authorities,
            });
        }
        Err((word, error)) => {
            let said = Outcome::bad("NoValidCACertificate", error.message.clone());
            made.accepted = Some(said);
            made.resolved_refs = Some(Outcome::bad(word, error.message.clone()));
            made.broken = Some(error);
        }
    }
    made
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

/// Authorities as PEM, or the word of `ResolvedRefs` and the error.
fn client_authorities(
    view: &View<'_>,
    gateway: &ObjectId,
    validation: &ClientValidation,
) -> Result<String, (&'static str, ConfigError)> {
    const INVALID: &str = "InvalidCACertificateRef";
    if !matches!(validation.mode.as_deref(), None | Some("AllowValidOnly")) {
        let what = "mode AllowInsecureFallback is not served, AllowValidOnly is";
        return Err((INVALID, invalid(what)));
    }
    let namespace = &*gateway.namespace;
    let references = &validation.ca_certificate_refs;
    let forbidden = |namespace: &str, name: &str| {
        let permitted = grants::permits(view, gateway, "ConfigMap", namespace, name);
        (!permitted).then(|| grants::missing(gateway, "ConfigMap", namespace, name))
    };
    let is_forbidden = |reference: &ObjectReference| {
        let namespace = reference.namespace.as_deref().unwrap_or(namespace);
        forbidden(namespace, &reference.name).is_some()
    };
    let word = if !references.iter().all(authorities::is_config_map) {
        "InvalidCACertificateKind"
    } else if references.iter().any(is_forbidden) {
        "RefNotPermitted"
    } else {
        INVALID
    };
    authorities::of(view, namespace, references, forbidden).map_err(|error| (word, error))
}
