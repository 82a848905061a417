//! A BackendTLSPolicy: how connections to a Service are protected and whom they trust. One that cannot be honoured breaks
//! the Service's backends: nothing is sent in the clear in its place.

use std::collections::BTreeSet;

use serde_json::json;
use sluice_crds::gateway_api::{
    self, BackendTlsPolicySpec, PolicyTarget, SubjectAltName, Validation,
};
use sluice_snapshot::{
    ConfigError, ConfigReason,
    unit::backend::{BackendTls, San, TrustedRoots},
};

use super::attach;
use crate::{
    finding::{Condition, FindingReason},
    resolve::{Resolved, authorities, report::Report, seal},
    standing::{Outcome, ReferenceStanding, Standing},
    view::View,
    world::{BackendTlsFacts, ServicePort},
};

/// Gateways that a status names, as the Gateway API bounds them.
const MAX_ANCESTORS: usize = 16;

/// Findings of a policy and how it stands; it is the Service's backends that carry it.
pub(crate) fn resolve(view: &View<'_>, policy: &BackendTlsFacts) -> Resolved {
    let mut report = Report::of(&policy.id);
    if let Some(defect) = &policy.defect {
        let kept = match defect.outline {
            true => "nothing is sent to what it targets",
            false => "its last good form stays in force",
        };
        let what = format!(
            "the stored object does not decode ({}); {kept}",
            defect.message
        );
        report.add(FindingReason::Undecodable, "", &what);
    }
    if let Some(spec) = policy.sound() {
        if let Err(error) = validation(view, policy, &spec.validation) {
            report.error("spec.validation", &error);
        }
        for (index, target) in spec.target_refs.iter().enumerate() {
            let path = format!("spec.targetRefs[{index}]");
            if let Some(what) = nowhere(view, policy, target) {
                report.add(FindingReason::TargetNotFound, &path, &what);
            } else if let Some(elder) = overruled(view, policy, target) {
                report.add(FindingReason::Conflicted, &path, &elder);
            }
        }
    }
    Resolved {
        standing: Some(standing(view, policy, &report)),
        findings: report.into_findings(),
        ..Resolved::default()
    }
}

/// The same words for every Gateway that routes to a target.
fn standing(view: &View<'_>, policy: &BackendTlsFacts, report: &Report) -> Standing {
    let mut accepted = report.outcome(Condition::Accepted, "Accepted");
    let mut resolved_refs = Outcome::good("ResolvedRefs");
    if let Some(error) = report.first(FindingReason::ReferenceNotFound) {
        accepted = Outcome::bad("NoValidCACertificate", error);
        let spec = policy.spec.as_ref();
        let references = spec.map(|spec| spec.validation.ca_certificate_refs.as_slice());
        let word = match references.unwrap_or_default() {
            references if references.iter().all(authorities::is_config_map) => {
                "InvalidCACertificateRef"
            }
            _ => "InvalidKind",
        };
        resolved_refs = Outcome::bad(word, error);
    } else if let Some(error) = report.first(FindingReason::TargetNotFound)
        && accepted.status
    {
        accepted = Outcome::bad("TargetNotFound", error);
    } else if accepted.reason == FindingReason::UnsupportedValue.as_str() {
        accepted.reason = "Invalid";
    }
    let ancestors = ancestors(view, policy).into_iter();
    Standing::Policy {
        ancestors: ancestors
            .map(|(namespace, name)| ReferenceStanding {
                reference: json!({
                    "group": gateway_api::GROUP, "kind": "Gateway", "namespace": namespace, "name": name,
                }),
                accepted: accepted.clone(),
                resolved_refs: resolved_refs.clone(),
            })
            .collect(),
    }
}

/// The Gateways of ours from which a route leads to a target, by namespace and name.
fn ancestors(view: &View<'_>, policy: &BackendTlsFacts) -> BTreeSet<(String, String)> {
    let services = targets(policy).filter(|target| is_service(target));
    let services: BTreeSet<&str> = services.map(|target| target.name.as_str()).collect();
    let mut found = BTreeSet::new();
    for service in services {
        for claim in view.routes_to(&policy.id.namespace, service) {
            for parent in &claim.gateways {
                let Some(gateway) = attach::gateway_of(view, parent) else {
                    continue;
                };
                if !found.contains(&gateway) && attach::attached(view, &claim, parent).is_ok() {
                    found.insert(gateway);
                }
            }
        }
    }
    found.into_iter().take(MAX_ANCESTORS).collect()
}

/// Why a target is none.
fn nowhere(view: &View<'_>, policy: &BackendTlsFacts, target: &PolicyTarget) -> Option<String> {
    let (namespace, name) = (&*policy.id.namespace, &target.name);
    if !is_service(target) {
        return Some(format!("{} is no Service", target.kind));
    }
    let Some(service) = view.service(namespace, name) else {
        return Some(format!("Service {namespace}/{name} does not exist"));
    };
    let section = target.section_name.as_deref()?;
    let found = service.ports.iter().any(|port| port.name == section);
    (!found).then(|| format!("Service {namespace}/{name} has no TCP port {section}"))
}

/// The elder policy for exactly this target, which counts.
fn overruled(view: &View<'_>, policy: &BackendTlsFacts, target: &PolicyTarget) -> Option<String> {
    let rivals = view.backend_tls_of(&policy.id.namespace, &target.name);
    let elder = rivals.iter().find(|rival| {
        rival.age() < policy.age()
            && targets(rival).any(|other| is_service(other) && same_place(other, target))
    })?;
    Some(format!("{} is elder and has this target", elder.id))
}

fn same_place(one: &PolicyTarget, other: &PolicyTarget) -> bool {
    one.name == other.name && one.section_name == other.section_name
}

fn is_service(target: &PolicyTarget) -> bool {
    target.group.is_empty() && target.kind == "Service"
}

fn targets(policy: &BackendTlsFacts) -> impl Iterator<Item = &PolicyTarget> {
    policy.spec.iter().flat_map(|spec| &spec.target_refs)
}

/// What connections to a port of a Service must do: the policy that names the port, else the one that names the Service;
/// of several the eldest. `None`: they are in the clear.
pub(crate) fn of_port(
    view: &View<'_>,
    namespace: &str,
    service: &str,
    port: &ServicePort,
) -> Option<Result<BackendTls, ConfigError>> {
    let policies = view.backend_tls_of(namespace, service);
    let mut found: Vec<_> = policies
        .iter()
        .flat_map(|policy| targets(policy).map(move |target| (policy, target)))
        .filter(|(_, target)| is_service(target) && target.name == service)
        .filter(|(_, target)| {
            let section = target.section_name.as_deref();
            section.is_none_or(|section| section == port.name)
        })
        .collect();
    found.sort_by_key(|(policy, target)| (target.section_name.is_none(), policy.age()));
    let (policy, _) = found.first()?;
    Some(match policy.sound() {
        Some(BackendTlsPolicySpec {
            validation: asked, ..
        }) => validation(view, policy, asked).map_err(|error| named(policy, error)),
        None => Err(named(
            policy,
            ConfigError::new(ConfigReason::Invalid, "the stored object does not decode"),
        )),
    })
}

/// The error as the access log of a refused request has it.
fn named(policy: &BackendTlsFacts, error: ConfigError) -> ConfigError {
    ConfigError::new(error.reason, format!("{}: {}", policy.id, error.message))
}

fn validation(
    view: &View<'_>,
    policy: &BackendTlsFacts,
    asked: &Validation,
) -> Result<BackendTls, ConfigError> {
    let invalid = |what: String| ConfigError::new(ConfigReason::Invalid, what);
    let Validation {
        ca_certificate_refs,
        well_known_ca_certificates,
        hostname,
        subject_alt_names,
    } = asked;
    let plain = |host: &str| -> Result<String, ConfigError> {
        let host = host.to_ascii_lowercase();
        match seal::hostname(&host) {
            Ok(()) if !host.starts_with('*') => Ok(host),
            _ => Err(invalid(format!("{host:?} is no hostname"))),
        }
    };
    let roots = match (
        ca_certificate_refs.as_slice(),
        well_known_ca_certificates.as_deref(),
    ) {
        ([], Some("System")) => TrustedRoots::System,
        ([], _) => {
            return Err(invalid(
                "neither caCertificateRefs nor wellKnownCACertificates: System".into(),
            ));
        }
        (_, Some(_)) => {
            return Err(invalid(
                "both caCertificateRefs and wellKnownCACertificates".into(),
            ));
        }
        (references, None) => {
            let own = &*policy.id.namespace;
            let foreign = |namespace: &str, _: &str| {
                (namespace != own).then(|| format!("authorities are ConfigMaps of namespace {own}"))
            };
            TrustedRoots::Pem(authorities::of(view, own, references, foreign)?)
        }
    };
    let sans = subject_alt_names.iter().map(|san| {
        let SubjectAltName {
            type_,
            hostname,
            uri,
        } = san;
        match (type_.as_str(), hostname, uri) {
            ("Hostname", Some(host), None) => plain(host).map(San::Hostname),
            ("URI", None, Some(uri)) if !uri.is_empty() && uri.len() <= 2048 => {
                Ok(San::Uri(uri.clone()))
            }
            _ => Err(invalid(format!(
                "a subjectAltName of type {type_:?} needs the member of its type"
            ))),
        }
    });
    Ok(BackendTls {
        policy: policy.id.reference(),
        server_name: plain(hostname)?,
        roots,
        sans: sans.collect::<Result<_, _>>()?,
    })
}
