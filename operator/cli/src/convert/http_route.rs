//! An HTTPRoute: an ApiRoute with the same parents, hosts and rules.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sluice_crds::gateway_api::{
    self, BackendRef, HeaderFilter, HttpPathMatch, HttpRoute, HttpRouteMatch, HttpRouteRule,
    HttpRouteSpec, NamedMatch, ParentReference, RouteFilter,
};

use super::made::{From, Made};

/// The most matches of a rule.
const MAX_MATCHES: usize = 8;
/// What to do about what an ApiRoute has not.
const KEEP: &str = "keep the HTTPRoute for this rule: an ExtensionRef filter to an ApiRoute without parentRefs gives it auth, limits and caching";

/// Converts one.
pub fn convert(route: &HttpRoute, namespace: &str, made: &mut Made) {
    let HttpRoute { metadata, spec } = route;
    let HttpRouteSpec {
        parent_refs,
        use_default_gateways,
        hostnames,
        rules,
    } = spec;
    let name = metadata.name.clone().unwrap_or_default();
    let from = From {
        object: format!("HTTPRoute {namespace}/{name}"),
        namespace,
        metadata,
    };
    if use_default_gateways.is_some() {
        from.leave(
            made,
            "spec.useDefaultGateways",
            "not known to an ApiRoute: name the Gateway in parentRefs",
        );
    }
    let parents = parents(&from, parent_refs, made);
    if parents.is_empty() {
        from.leave(
            made,
            "spec.parentRefs",
            "none is left: the whole HTTPRoute is left out, for an ApiRoute without parents serves nothing",
        );
        return;
    }
    let mut made_rules = Vec::new();
    let mut names = BTreeSet::new();
    for (index, rule) in rules.iter().enumerate() {
        let place = format!("spec.rules[{index}]");
        let name = rule.name.clone().unwrap_or_else(|| format!("rule-{index}"));
        for mut rule in converted(&from, rule, &place, made) {
            let mut own = name.clone();
            let mut copy = 1;
            while !names.insert(own.clone()) {
                copy += 1;
                own = format!("{name}-{copy}");
            }
            rule.insert("name".to_owned(), own.into());
            made_rules.push(Value::Object(rule));
        }
    }
    if made_rules.is_empty() {
        from.leave(
            made,
            "spec.rules",
            "none is left: the whole HTTPRoute is left out, for an ApiRoute without rules serves everything",
        );
        return;
    }
    let mut spec = Map::new();
    spec.insert("parentRefs".to_owned(), parents.into());
    if !hostnames.is_empty() {
        spec.insert("hostnames".to_owned(), json!(hostnames));
    }
    let annotations = from.plain_annotations(|_| false);
    from.add(made, &name, &annotations, &spec, &made_rules);
}

fn parents(from: &From<'_>, parents: &[ParentReference], made: &mut Made) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for (index, parent) in parents.iter().enumerate() {
        let ParentReference {
            group,
            kind,
            namespace,
            name,
            section_name,
            port,
        } = parent;
        let place = format!("spec.parentRefs[{index}]");
        let group = group.as_deref().unwrap_or(gateway_api::GROUP);
        let kind = kind.as_deref().unwrap_or("Gateway");
        let mut reference = match (group, kind) {
            (gateway_api::GROUP, "Gateway") => {
                let mut reference = json!({"group": group, "kind": kind, "name": name});
                if let Some(namespace) = namespace {
                    reference["namespace"] = namespace.as_str().into();
                }
                if let Some(section) = section_name {
                    reference["sectionName"] = section.as_str().into();
                }
                reference
            }
            ("", "Service") if namespace.as_deref().is_none_or(|own| own == from.namespace) => {
                json!({"kind": kind, "name": name})
            }
            _ => {
                from.leave(
                    made,
                    place,
                    format!("a {kind} of group {group:?} is no parent of an ApiRoute: a Gateway is, or a Service of its own namespace"),
                );
                continue;
            }
        };
        if let Some(port) = port {
            reference["port"] = (*port).into();
        }
        if all
            .first()
            .is_some_and(|first| first["kind"] != reference["kind"])
        {
            from.leave(
                made,
                place,
                "the parents of an ApiRoute are of one kind: write a second one for this",
            );
            continue;
        }
        all.push(reference);
    }
    all
}

/// A rule, as several where it has more matches than one may have. None: it was said why it is left out.
fn converted(
    from: &From<'_>,
    rule: &HttpRouteRule,
    place: &str,
    made: &mut Made,
) -> Vec<Map<String, Value>> {
    let HttpRouteRule {
        name: _,
        matches,
        filters,
        backend_refs,
        timeouts,
        retry,
        session_persistence,
    } = rule;
    let mut body = Map::new();
    for (name, there) in [
        ("retry", retry.is_some()),
        ("sessionPersistence", session_persistence.is_some()),
    ] {
        if there {
            from.leave(made, format!("{place}.{name}"), "not known to an ApiRoute");
        }
    }
    let Some(filters) = self::filters(from, filters, place, made) else {
        return Vec::new();
    };
    let redirects = filters
        .iter()
        .any(|filter| filter["type"] == "RequestRedirect");
    if !filters.is_empty() {
        body.insert("filters".to_owned(), filters.into());
    }
    if !redirects {
        let backends = backends(from, backend_refs, place, made);
        if backends.is_empty() {
            from.leave(
                made,
                format!("{place}.backendRefs"),
                "none is left: the rule is left out, for a Gateway has no app of its own",
            );
            return Vec::new();
        }
        body.insert("backendRefs".to_owned(), backends.into());
    }
    if let Some(timeouts) = timeouts {
        body.insert("timeouts".to_owned(), json!(timeouts));
    }
    let mut all = Vec::new();
    for (index, spec) in matches.iter().enumerate() {
        // Without one of its conditions a match would be wider than was meant.
        match self::matched(spec) {
            Ok(spec) => all.push(spec),
            Err(message) => from.leave(made, format!("{place}.matches[{index}]"), message),
        }
    }
    if matches.is_empty() {
        return vec![body];
    }
    let chunks = all.chunks(MAX_MATCHES).map(|chunk| {
        let mut body = body.clone();
        body.insert("matches".to_owned(), chunk.into());
        body
    });
    chunks.collect()
}

fn matched(spec: &HttpRouteMatch) -> Result<Value, String> {
    let HttpRouteMatch {
        path,
        headers,
        query_params,
        method,
    } = spec;
    let HttpPathMatch { type_, value } = path.clone().unwrap_or_default();
    let kind = type_.as_deref().unwrap_or("PathPrefix");
    if !["Exact", "PathPrefix", "RegularExpression"].contains(&kind) {
        return Err(format!(
            "path type {kind:?} is not known: the match is left out"
        ));
    }
    let value = value.as_deref().unwrap_or("/");
    let mut made = json!({"path": {"type": kind, "value": value}});
    if let Some(method) = method {
        made["method"] = method.as_str().into();
    }
    for (field, list, folds) in [
        ("headers", headers, true),
        ("queryParams", query_params, false),
    ] {
        // Of two with one name the first counts (HTTPRouteMatch).
        let mut seen = BTreeSet::new();
        let first = list.iter().filter(|NamedMatch { name, .. }| {
            seen.insert(match folds {
                true => name.to_ascii_lowercase(),
                false => name.clone(),
            })
        });
        let first: Vec<Value> = first.map(|value| json!(value)).collect();
        if !first.is_empty() {
            made[field] = first.into();
        }
    }
    Ok(made)
}

/// The filters; none: without one that is left out the rule would let in more than was meant.
fn filters(
    from: &From<'_>,
    filters: &[RouteFilter],
    place: &str,
    made: &mut Made,
) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    for (index, filter) in filters.iter().enumerate() {
        let place = format!("{place}.filters[{index}]");
        let RouteFilter {
            type_,
            request_header_modifier,
            response_header_modifier,
            request_mirror: _,
            request_redirect,
            url_rewrite: _,
            cors: _,
            external_auth: _,
            extension_ref,
        } = filter;
        let edits = |member: &str, edits: &Option<HeaderFilter>| match edits {
            Some(edits) => json!({"type": type_, member: edits}),
            None => Value::Null,
        };
        let carried = match type_.as_str() {
            "RequestHeaderModifier" => edits("requestHeaderModifier", request_header_modifier),
            "ResponseHeaderModifier" => edits("responseHeaderModifier", response_header_modifier),
            "RequestRedirect" => match request_redirect {
                Some(redirect) => json!({"type": type_, "requestRedirect": redirect}),
                None => Value::Null,
            },
            "ExtensionRef" if extension_ref.as_ref().is_some_and(is_profile) => {
                json!({"type": type_, "extensionRef": extension_ref})
            }
            "URLRewrite" | "RequestMirror" | "CORS" => Value::Null,
            _ => {
                from.leave(
                    made,
                    place,
                    format!("a filter of type {type_:?} may keep somebody out: the whole rule is left out; {KEEP}"),
                );
                return None;
            }
        };
        match carried {
            Value::Null => from.leave(made, place, format!("an ApiRoute has no {type_}; {KEEP}")),
            carried => all.push(carried),
        }
    }
    Some(all)
}

fn is_profile(reference: &gateway_api::LocalReference) -> bool {
    (reference.group.as_str(), reference.kind.as_str()) == (sluice_crds::GROUP, "ApiRoute")
}

fn backends(from: &From<'_>, backends: &[BackendRef], place: &str, made: &mut Made) -> Vec<Value> {
    let mut all = Vec::new();
    for (index, backend) in backends.iter().enumerate() {
        let place = format!("{place}.backendRefs[{index}]");
        let BackendRef {
            group,
            kind,
            name,
            namespace,
            port,
            weight,
            filters,
        } = backend;
        let group = group.as_deref().unwrap_or_default();
        let kind = kind.as_deref().unwrap_or("Service");
        let mut reference = match (group, kind, port) {
            _ if namespace
                .as_deref()
                .is_some_and(|own| own != from.namespace) =>
            {
                from.leave(
                    made,
                    format!("{place}.namespace"),
                    "an ApiRoute leads to Services of its own namespace: the backend is left out",
                );
                continue;
            }
            ("", "Service", Some(port)) => json!({"name": name, "port": port}),
            (sluice_crds::GROUP, "ShardSet", None) => {
                json!({"group": group, "kind": kind, "name": name})
            }
            _ => {
                from.leave(
                    made,
                    place,
                    format!("leads to a {kind}, or has no port: an ApiRoute leads to ports of Services and to ShardSets"),
                );
                continue;
            }
        };
        if !filters.is_empty() {
            from.leave(
                made,
                format!("{place}.filters"),
                format!("an ApiRoute has none of a single backend; {KEEP}"),
            );
        }
        if let Some(weight) = weight {
            reference["weight"] = (*weight).into();
        }
        all.push(reference);
    }
    all
}
