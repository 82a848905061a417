//! `kubectl sluice translate`: groups, their units and findings, as the operator would make them of the manifests.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sluice_snapshot::{Unit, UnitKind, UnitMap, UnitName};
use sluice_translate::{Condition, Engine, GroupId, HpaIntent, ObjectId};

use crate::{
    Verdict,
    offline::{self, Input, Translated},
    output::{self, ValueShape},
};

const EXAMPLES: &str = "\
Examples:
  kubectl-sluice translate -f examples/quickstart/base -f examples/quickstart/local
  kubectl-sluice translate -f manifests/ --config sluiceconfig.yaml --group shop/orders
  kustomize build overlays/prod | kubectl-sluice translate -f - -o json

Which pods there are is read from EndpointSlices (targetRef). Where the manifests have none, one pod is assumed for
each selector of a Service. Secrets are never shown, and their hashes neither. Exit code 1: a manifest is broken, so
that part of the answer is missing.";

/// What `translate` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    input: Input,

    /// Only this group of pods: the namespace, and the names of its Services joined by +
    #[arg(long, value_name = "NAMESPACE/GROUP")]
    group: Option<String>,

    /// The shape of the answer
    #[arg(short, long, value_enum, default_value_t = ValueShape::Yaml)]
    output: ValueShape,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum TranslateError {
    /// A group that there is not.
    #[error("there is no group {0}; there {1}")]
    NoGroup(String, String),
}

/// Translates and prints.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let loaded = offline::load(&args.input)?;
    let translated = loaded.translate()?;
    let answer = match &args.group {
        None => everything(&translated),
        Some(name) => one_group(&translated.engine, &group(&translated.engine, name)?),
    };
    let text = match args.output {
        ValueShape::Yaml => output::yaml(&answer)?,
        ValueShape::Json => output::json(&answer)?,
    };
    output::print(&text)?;
    for finding in translated.merged.findings.values().flatten() {
        output::complain(&format!("error: {finding}"));
    }
    Ok(Verdict::of(translated.merged.findings.is_empty()))
}

fn group(engine: &Engine, name: &str) -> Result<GroupId, TranslateError> {
    let found = engine.groups().find(|group| group.to_string() == name);
    found.cloned().ok_or_else(|| {
        let known: Vec<String> = engine.groups().map(GroupId::to_string).collect();
        let known = match known.is_empty() {
            true => "are none: no Service has pods".to_owned(),
            false => format!("are {}", known.join(", ")),
        };
        TranslateError::NoGroup(name.to_owned(), known)
    })
}

fn everything(translated: &Translated<'_>) -> Value {
    let Translated {
        merged: _,
        engine,
        assumed_pods,
    } = translated;
    let names = Names::of(engine);
    let groups: Map<String, Value> = engine
        .groups()
        .map(|group| (group.to_string(), names.group(engine, group)))
        .collect();
    let autoscalers: Map<String, Value> = engine.children().values().map(autoscaler).collect();
    json!({
        "assumedPods": assumed_pods,
        "groups": groups,
        "units": names.units(engine, engine.units().map(|(name, _)| name)),
        "findings": findings(engine, |_| true),
        "horizontalPodAutoscalers": autoscalers,
    })
}

/// One group, its units, and findings of the objects they were made from.
fn one_group(engine: &Engine, group: &GroupId) -> Value {
    let names = Names::of(engine);
    let held: Vec<&UnitName> = engine
        .group_units(group)
        .into_iter()
        .flat_map(UnitMap::sorted)
        .map(|(name, _)| name)
        .collect();
    let objects: BTreeSet<&ObjectId> = held
        .iter()
        .filter_map(|name| engine.unit(name)?.object.as_ref())
        .collect();
    json!({
        "groups": {group.to_string(): names.group(engine, group)},
        "units": names.units(engine, held.iter().copied()),
        "findings": findings(engine, |id| objects.contains(id)),
    })
}

fn findings(engine: &Engine, wanted: impl Fn(&ObjectId) -> bool) -> Vec<Value> {
    let objects = engine.troubled().into_iter().filter(|id| wanted(id));
    let findings = objects.flat_map(|id| engine.findings(id));
    findings
        .map(|finding| {
            json!({
                "object": finding.object,
                "condition": condition(finding.reason.condition()),
                "reason": finding.reason.as_str(),
                "path": finding.path,
                "message": finding.message,
            })
        })
        .collect()
}

/// The condition as status writes it.
pub fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Accepted => "Accepted",
        Condition::ResolvedRefs => "ResolvedRefs",
        Condition::Scaling => "Scaling",
        Condition::Warning => "Warning",
    }
}

fn autoscaler(hpa: &HpaIntent) -> (String, Value) {
    let HpaIntent {
        namespace,
        name,
        target,
        min_replicas,
        max_replicas,
        metrics,
        behavior,
        schedules,
        owners,
    } = hpa;
    let metrics: Vec<Value> = metrics
        .iter()
        .map(|(name, average)| json!({"name": name, "averageValue": average}))
        .collect();
    let owners: Vec<String> = owners.iter().map(|(id, _)| id.to_string()).collect();
    let value = json!({
        "scaleTargetRef": target,
        "minReplicas": min_replicas,
        "maxReplicas": max_replicas,
        "metrics": metrics,
        "behavior": behavior,
        "schedules": schedules.iter().map(|schedule| &schedule.name).collect::<Vec<_>>(),
        "owners": owners,
    });
    (format!("{namespace}/{name}"), value)
}

/// How units are called here: without the hash of a Secret's content, which is one more thing to guess it by.
struct Names(BTreeMap<String, String>);

impl Names {
    fn of(engine: &Engine) -> Self {
        let names = engine.units().map(|(name, _)| name);
        let secrets = names.filter(|name| name.kind() == UnitKind::Secret);
        let shown = secrets.filter_map(|name| {
            let (shown, _) = name.as_str().rsplit_once('@')?;
            Some((name.as_str().to_owned(), shown.to_owned()))
        });
        Self(shown.collect())
    }

    fn shown<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.get(name).map_or(name, String::as_str)
    }

    fn group(&self, engine: &Engine, group: &GroupId) -> Value {
        let pods = engine.pods_of(group).into_iter().map(|pod| pod.name);
        let units = engine
            .group_units(group)
            .into_iter()
            .flat_map(UnitMap::sorted);
        let units = units.map(|(name, _)| self.shown(name.as_str()));
        json!({"pods": pods.collect::<Vec<_>>(), "units": units.collect::<Vec<_>>()})
    }

    fn units<'a>(
        &self,
        engine: &Engine,
        names: impl Iterator<Item = &'a UnitName>,
    ) -> Map<String, Value> {
        let bodies = names.filter_map(|name| {
            let encoded = engine.unit(name)?;
            // What this very process encoded decodes.
            let mut body = Unit::decode(name, &encoded.body).ok()?.redacted();
            self.rename(&mut body);
            Some((self.shown(name.as_str()).to_owned(), body))
        });
        bodies.collect()
    }

    fn rename(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(shown) = self.0.get(text.as_str()) {
                    text.clone_from(shown);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.rename(item)),
            Value::Object(members) => members.values_mut().for_each(|member| self.rename(member)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}
