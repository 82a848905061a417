//! The configuration that the benches run on, on the product's own way: manifests, through translation, to a program.

pub mod catalog;
pub mod edge;
pub mod gateway;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::hmac;
use serde_json::{Value, json};
use sluice_pipeline::{
    Program, UnitSet,
    facts::StaticFacts,
    program::{Content, Held, Rule},
    route,
    target::{self, Target},
};
use sluice_snapshot::Unit;
use sluice_translate::{Change, Engine, GroupId, Pods, Settings, manifests};

/// The namespace of everything.
pub const NAMESPACE: &str = "bench";

/// Manifests as one text of YAML documents (JSON is YAML).
pub fn text(documents: &[Value]) -> String {
    documents
        .iter()
        .map(|document| format!("---\n{document}\n"))
        .collect()
}

/// Manifests as the engine takes them. Fails where one has a finding.
pub fn changes(documents: &[Value]) -> Result<Vec<Change>> {
    let mut changes = Vec::with_capacity(documents.len());
    for document in documents {
        let contents = manifests::read("bench", &document.to_string());
        if let Some(finding) = contents.findings.first() {
            anyhow::bail!("a manifest of the bench is refused: {finding}");
        }
        ensure!(
            contents.declared.len() == 1,
            "a manifest of the bench is not understood: {document}"
        );
        changes.extend(
            contents
                .declared
                .into_iter()
                .map(|placed| placed.declared.into_change()),
        );
    }
    Ok(changes)
}

/// An engine with nothing in it.
pub fn empty() -> Engine {
    Engine::new(Settings {
        hash_key: hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]),
        operator_namespace: "sluice-system".into(),
        pods: Pods::FromSlices,
    })
}

/// An engine with everything in it. Fails where translation has a finding.
pub fn engine(documents: &[Value]) -> Result<Engine> {
    let mut engine = empty();
    engine.apply(changes(documents)?);
    if let Some(id) = engine.troubled().first() {
        let findings: Vec<&str> = engine
            .findings(id)
            .iter()
            .map(|finding| finding.message.as_str())
            .collect();
        anyhow::bail!("{id} of the bench has findings: {}", findings.join("; "));
    }
    Ok(engine)
}

/// What a sidecar of the group holds.
pub fn units(engine: &Engine, group: &GroupId) -> Result<UnitSet> {
    let mut set = UnitSet::default();
    for (name, hash) in engine.group_units(group).context("no such group")? {
        let encoded = engine
            .unit(name)
            .with_context(|| format!("{name} is listed and not there"))?;
        let content = Content::Unit(Arc::new(Unit::decode(name, &encoded.body)?));
        set.units.insert(
            name.clone(),
            Held {
                hash: hash.clone(),
                content,
            },
        );
    }
    Ok(set)
}

/// The program of a world with one group.
pub fn program(documents: &[Value]) -> Result<Program> {
    let engine = engine(documents)?;
    let group = engine
        .groups()
        .next()
        .context("the bench's world has no group")?;
    Ok(Program::compile(&units(&engine, group)?, None)?)
}

/// The rule that a request to a port belongs to, and its target.
pub fn rule(program: &Program, port: u16, facts: &StaticFacts) -> Result<(Arc<Rule>, Target)> {
    let table = program.table(port).context("the port has no routes")?;
    let refused =
        |reject: sluice_pipeline::Reject| anyhow::anyhow!("{:?} for {}", reject.reason, facts.path);
    let target = target::normalise(facts).map_err(refused)?;
    let matched = route::find(table, facts, &target).map_err(refused)?;
    Ok((Arc::clone(matched.rule), target))
}

/// A Service whose port 80 is `target_port` of its pods.
fn service(name: &str, target_port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": target_port, "protocol": "TCP"}]},
    })
}

/// The EndpointSlice of a Service: pods by name and address.
fn slice(service: &str, port: u16, pods: &[(String, String)]) -> Value {
    let endpoint = |(pod, address): &(String, String)| {
        json!({
            "addresses": [address], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": pod},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// A Secret for a use, with one entry.
fn secret(name: &str, purpose: &str, key_id: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": format!("sluice.dev/{purpose}"),
        "metadata": {
            "name": name, "namespace": NAMESPACE, "labels": {"sluice.dev/use": purpose},
            "annotations": {"sluice.dev/subject": name},
        },
        "stringData": {key_id: value},
    })
}

/// An ApiRoute of a Service.
fn api_route(name: &str, service: &str, hostname: &str, auth: &Value, rules: &Value) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "ApiRoute",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"kind": "Service", "name": service, "port": 80}],
            "hostnames": [hostname], "auth": auth, "rules": rules,
        },
    })
}

/// A RateLimitPolicy with one local bucket for each value of a header.
fn limit_by_header(name: &str, target: &Value, header: &str) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "RateLimitPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "targetRefs": [target], "mode": "Enforce", "headers": "Standard",
            "limits": [{
                "name": "by-header", "key": [{"type": "Header", "header": {"name": header}}], "scope": "Local",
                "algorithm": {"type": "TokenBucket", "tokenBucket": {
                    "requests": gateway::HEAVY_LIMIT, "per": "1s", "burst": gateway::HEAVY_LIMIT,
                }},
            }],
        },
    })
}
