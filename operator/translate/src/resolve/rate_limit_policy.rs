//! A RateLimitPolicy: its policy unit and the fleet facts it needs. Where it applies stands in the rules that name it.

use sluice_crds::{
    RateLimitPolicySpec,
    gateway_api::HttpRouteRule,
    rate_limit_policy::{
        AlgorithmUse, Consistency, GlobalLimit, KeyPart, KeyPartUse, Limit, LimitHeaders,
        LimitMode, LimitReach, OnMissingKey, StoreFailure, TargetKind,
    },
};
use sluice_snapshot::{
    ConfigError, ConfigReason, Unit, UnitName,
    unit::{Fleet, LimitPolicy, policy},
};

use super::{
    Resolved,
    api_route::auth::{millis, store_unit},
    report::Report,
    seal,
};
use crate::{finding::FindingReason, view::View, world::PolicyFacts};

pub(super) fn resolve(view: &View<'_>, facts: &PolicyFacts) -> Resolved {
    let (namespace, own) = (&*facts.id.namespace, &*facts.id.name);
    let mut report = Report::of(&facts.id);
    let mut resolved = Resolved::default();
    if let Some(defect) = &facts.defect {
        let what = format!("the stored object does not decode ({})", defect.message);
        report.add(FindingReason::Undecodable, "", &what);
    }
    if let Some(spec) = &facts.spec {
        targets(view, namespace, spec, &mut report);
    }
    let name = UnitName::policy(namespace, own);
    let unit = match facts.sound() {
        Some(spec) => unit(view, facts, spec, &mut report),
        None => {
            let what = "the stored RateLimitPolicy does not decode";
            broken(facts, ConfigError::new(ConfigReason::Invalid, what))
        }
    };
    let unit = seal::policy(&name, unit, &mut report);
    if unit
        .needs()
        .iter()
        .any(|need| *need == UnitName::fleet(namespace, own))
    {
        let sessions = view.fleet(namespace, own).unwrap_or(1).max(1);
        resolved.units.insert(
            UnitName::fleet(namespace, own),
            Unit::Fleet(Fleet { sessions }),
        );
    }
    resolved.units.insert(name, unit);
    resolved.findings = report.into_findings();
    resolved
}

/// Whether what the policy is about exists.
fn targets(view: &View<'_>, namespace: &str, spec: &RateLimitPolicySpec, report: &mut Report) {
    for (index, target) in spec.target_refs.iter().enumerate() {
        let path = format!("spec.targetRefs[{index}]");
        let (kind, name) = (target.kind, &*target.name);
        let Some(sections) = sections(view, kind, namespace, name) else {
            let what = format!("{} {namespace}/{name} does not exist", kind.as_str());
            report.add(FindingReason::TargetNotFound, &path, &what);
            continue;
        };
        let (Some(section), Some(sections)) = (&target.section_name, sections) else {
            continue;
        };
        if !sections.iter().any(|one| one == &**section) {
            let part = match kind {
                TargetKind::ApiRoute | TargetKind::HttpRoute => "rule",
                TargetKind::Gateway => "listener",
            };
            let kind = kind.as_str();
            let what = format!("{kind} {namespace}/{name} has no {part} {section}");
            report.add(FindingReason::TargetNotFound, &path, &what);
        }
    }
}

/// The names of a target's rules or listeners: `None` where there is no such target, `Some(None)` where it does not decode.
fn sections(
    view: &View<'_>,
    kind: TargetKind,
    namespace: &str,
    name: &str,
) -> Option<Option<Vec<String>>> {
    match kind {
        TargetKind::ApiRoute => view.route(namespace, name).map(|route| {
            let rules = &route.sound()?.rules;
            Some(match rules.is_empty() {
                true => vec![seal::plain_rule().name],
                false => rules.iter().map(|rule| rule.name.to_string()).collect(),
            })
        }),
        TargetKind::HttpRoute => view.http_route(namespace, name).map(|route| {
            let rules = route.custom.sound()?.rules.iter().enumerate();
            let named = |(index, rule): (usize, &HttpRouteRule)| {
                let name = rule.name.clone().filter(|name| !name.is_empty());
                name.unwrap_or_else(|| format!("rule-{index}"))
            };
            Some(rules.map(named).collect())
        }),
        TargetKind::Gateway => view.gateway(namespace, name).map(|gateway| {
            let listeners = gateway.sound()?.listeners.iter();
            Some(listeners.map(|listener| listener.name.clone()).collect())
        }),
    }
}

fn broken(facts: &PolicyFacts, error: ConfigError) -> LimitPolicy {
    LimitPolicy {
        object: facts.id.reference(),
        mode: policy::Mode::Enforce,
        headers: false,
        limits: Vec::new(),
        broken: Some(error),
    }
}

/// The unit. One limit that cannot be enforced makes the whole policy refuse: a request must pass all of them.
fn unit(
    view: &View<'_>,
    facts: &PolicyFacts,
    spec: &RateLimitPolicySpec,
    report: &mut Report,
) -> LimitPolicy {
    let mut error = None;
    let mut limits = Vec::new();
    for (index, one) in spec.limits.iter().enumerate() {
        match limit(view, facts, one) {
            Ok(limit) => limits.push(limit),
            Err(why) => {
                report.error(&format!("spec.limits[{index}]"), &why);
                error.get_or_insert(why);
            }
        }
    }
    match error {
        Some(error) => broken(facts, error),
        None => LimitPolicy {
            object: facts.id.reference(),
            mode: match spec.effective_mode() {
                LimitMode::Enforce => policy::Mode::Enforce,
                LimitMode::Shadow => policy::Mode::Shadow,
            },
            headers: match spec.effective_headers() {
                LimitHeaders::Standard => true,
                LimitHeaders::None => false,
            },
            limits,
            broken: None,
        },
    }
}

fn limit(view: &View<'_>, facts: &PolicyFacts, spec: &Limit) -> Result<policy::Limit, ConfigError> {
    let AlgorithmUse::TokenBucket(bucket) =
        spec.algorithm.get().map_err(|error| invalid(&error))?;
    Ok(policy::Limit {
        name: spec.name.to_string(),
        key: spec.key.iter().map(key_part).collect::<Result<_, _>>()?,
        on_missing_key: match spec.effective_on_missing_key() {
            OnMissingKey::Deny => policy::OnMissingKey::Deny,
            OnMissingKey::Skip => policy::OnMissingKey::Skip,
            OnMissingKey::SharedBucket => policy::OnMissingKey::SharedBucket,
        },
        bucket: policy::TokenBucket {
            requests: bucket.requests.into(),
            per_ms: millis(bucket.per.get()),
            burst: bucket.effective_burst().into(),
        },
        scope: match spec.reach().map_err(|error| invalid(&error))? {
            LimitReach::Local => policy::Scope::Local,
            LimitReach::Global(spec) => policy::Scope::Global(global(view, facts, spec)?),
        },
    })
}

fn key_part(part: &KeyPart) -> Result<policy::KeyPart, ConfigError> {
    Ok(match part.get().map_err(|error| invalid(&error))? {
        KeyPartUse::ClientAddress(key) => policy::KeyPart::ClientAddress {
            prefix_v4: key.effective_prefix_v4(),
            prefix_v6: key.effective_prefix_v6(),
        },
        KeyPartUse::Header(key) => policy::KeyPart::Header {
            name: key.name.to_ascii_lowercase(),
        },
        KeyPartUse::Identity => policy::KeyPart::Identity,
        KeyPartUse::IdentityAttribute(key) => policy::KeyPart::IdentityAttribute {
            name: key.name.to_string(),
        },
        KeyPartUse::Claim(key) => policy::KeyPart::Claim {
            name: key.name.to_string(),
        },
    })
}

fn global(
    view: &View<'_>,
    facts: &PolicyFacts,
    spec: &GlobalLimit,
) -> Result<policy::Global, ConfigError> {
    Ok(policy::Global {
        store: store_unit(view, &spec.store_ref.name)?,
        consistency: match spec.effective_consistency() {
            Consistency::Leased => policy::Consistency::Leased,
            Consistency::Strict => policy::Consistency::Strict,
        },
        // A thousandth of a percent is ten millionths.
        max_overshoot_ppm: spec.effective_max_overshoot().milli() * 10,
        max_wait_ms: millis(spec.effective_max_wait()),
        on_store_failure: match spec.effective_on_store_failure() {
            StoreFailure::LocalShare => policy::StoreFailure::LocalShare,
            StoreFailure::Allow => policy::StoreFailure::Allow,
            StoreFailure::Deny => policy::StoreFailure::Deny,
        },
        fleet: UnitName::fleet(&facts.id.namespace, &facts.id.name),
    })
}

fn invalid(error: &impl ToString) -> ConfigError {
    ConfigError::new(ConfigReason::Invalid, error.to_string())
}
