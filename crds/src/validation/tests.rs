//! Each CEL rule with a case it accepts and one it refuses, and the whole schema seen from one complete example.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;

const COMPLETE: &str = include_str!("../../testdata/complete.yaml");

/// The complete example of a kind.
fn complete(kind: Kind) -> Value {
    let documents: Vec<Value> = serde_saphyr::from_multiple(COMPLETE).expect("YAML");
    documents
        .into_iter()
        .find(|document| document["kind"] == kind.as_str())
        .expect("an example of each kind")
}

/// One rule: where a value of the complete example is replaced, by what the rule accepts, and by what it refuses.
struct Case {
    kind: Kind,
    at: &'static str,
    good: Value,
    bad: Value,
    message: &'static str,
}

fn case(kind: Kind, at: &'static str, good: Value, bad: Value, message: &'static str) -> Case {
    Case {
        kind,
        at,
        good,
        bad,
        message,
    }
}

/// `namespace` is a word of CEL: the rule must name the field as the API server escapes it.
const OF_A_SERVICE: &str = "a Service is of the route's own namespace and has no sections: leave namespace and sectionName out";

fn cases() -> Vec<Case> {
    use Kind::{ApiRoute, RateLimitPolicy, ShardSet, SluiceConfig};
    let union = "exactly the member that type names must be set";
    let header = json!({"set": [{"name": "A", "value": "b"}]});
    let selector = json!({"matchLabels": {"a": "b"}});
    let reference = json!({"name": "a"});
    let one_source = "exactly one of secretRef and secretSelector must be set";
    let one_key_source = "exactly one of jwks, secretRef and secretSelector must be set";
    let jwks = json!({"inline": "{}"});
    let bucket = |per: &str| json!({"requests": 1, "per": per});
    vec![
        // ApiRoute
        case(
            ApiRoute,
            "/spec",
            json!({"parentRefs": [{"kind": "Service", "name": "a"}], "scaling": complete(ApiRoute)["spec"]["scaling"]}),
            json!({"scaling": complete(ApiRoute)["spec"]["scaling"]}),
            "scaling needs a parentRef: a profile has no pods to scale",
        ),
        case(
            ApiRoute,
            "/spec/parentRefs/0/group",
            json!(""),
            json!("apps"),
            "a Service is of the core group: leave group out or empty",
        ),
        case(
            ApiRoute,
            "/spec/parentRefs",
            json!([{"kind": "Service", "name": "a"}]),
            json!([{"kind": "Service", "name": "a"}, {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "a"}]),
            "parentRefs are all of one kind: a route for Services and for a Gateway is two routes",
        ),
        case(
            ApiRoute,
            "/spec",
            json!({"parentRefs": [{"kind": "Service", "name": "a"}], "scaling": complete(ApiRoute)["spec"]["scaling"]}),
            json!({"parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "a"}], "scaling": complete(ApiRoute)["spec"]["scaling"]}),
            "scaling is of the pods of Services: a Gateway's are not the route's to scale",
        ),
        case(
            ApiRoute,
            "/spec/parentRefs/0/kind",
            json!("Service"),
            json!("Gateway"),
            "a Gateway is of group gateway.networking.k8s.io",
        ),
        case(
            RateLimitPolicy,
            "/spec/targetRefs/0/kind",
            json!("ApiRoute"),
            json!("HTTPRoute"),
            "an ApiRoute is of group sluice.dev, an HTTPRoute or Gateway of gateway.networking.k8s.io",
        ),
        case(
            ApiRoute,
            "/spec/parentRefs/0",
            json!({"kind": "Service", "name": "a"}),
            json!({"kind": "Service", "name": "a", "sectionName": "other"}),
            OF_A_SERVICE,
        ),
        case(
            ApiRoute,
            "/spec/parentRefs/0",
            json!({"kind": "Service", "name": "a"}),
            json!({"kind": "Service", "name": "a", "namespace": "other"}),
            OF_A_SERVICE,
        ),
        case(
            ApiRoute,
            "/spec/rules/2/filters",
            json!([{"type": "RequestRedirect", "requestRedirect": {"port": 1}}]),
            json!([{"type": "RequestRedirect", "requestRedirect": {"port": 1}}, {"type": "RequestRedirect", "requestRedirect": {"port": 2}}]),
            "at most one RequestRedirect filter in a rule",
        ),
        case(
            ApiRoute,
            "/spec/rules/0/filters",
            json!([{"type": "ExtensionRef", "extensionRef": {"group": "sluice.dev", "kind": "ApiRoute", "name": "a"}}]),
            json!([{"type": "RequestRedirect", "requestRedirect": {"port": 1}}]),
            "a rule redirects or forwards, not both: remove backendRefs or the RequestRedirect filter",
        ),
        case(
            ApiRoute,
            "/spec/rules/0/matches/0/path",
            json!({"value": "/a"}),
            json!({"value": "a"}),
            "a path begins with /",
        ),
        case(
            ApiRoute,
            "/spec/rules/0/matches/0/path",
            json!({"type": "RegularExpression", "value": "//|[?#]"}),
            json!({"type": "Exact", "value": "/a/../b"}),
            "a path is written as it is compared: without //, /., /.., ? and #",
        ),
        case(
            ApiRoute,
            "/spec/rules/0/filters/0",
            json!({"type": "RequestHeaderModifier", "requestHeaderModifier": header}),
            json!({"type": "RequestHeaderModifier", "responseHeaderModifier": header}),
            union,
        ),
        case(
            ApiRoute,
            "/spec/rules/0/filters/0",
            json!({"type": "RequestHeaderModifier", "requestHeaderModifier": header}),
            json!({"type": "RequestHeaderModifier"}),
            union,
        ),
        case(
            ApiRoute,
            "/spec/rules/0/filters/0/requestHeaderModifier",
            json!({"remove": ["A"]}),
            json!({}),
            "a header edit sets, adds or removes something",
        ),
        case(
            ApiRoute,
            "/spec/rules/2/filters/0/requestRedirect",
            json!({"scheme": "https"}),
            json!({"statusCode": 301}),
            "a redirect changes scheme, hostname, path or port; else it leads to itself",
        ),
        case(
            ApiRoute,
            "/spec/rules/2/filters/0/requestRedirect/hostname",
            json!("a.b"),
            json!("*.b"),
            "a redirect leads to one host, not to a wildcard",
        ),
        case(
            ApiRoute,
            "/spec/rules/2/filters/0/requestRedirect/statusCode",
            json!(307),
            json!(304),
            "a redirect answers 301, 302, 303, 307 or 308",
        ),
        case(
            ApiRoute,
            "/spec/rules/2/filters/0/requestRedirect/path",
            json!({"type": "ReplaceFullPath", "replaceFullPath": "/"}),
            json!({"type": "ReplaceFullPath", "replacePrefixMatch": "/"}),
            union,
        ),
        case(
            ApiRoute,
            "/spec/rules/0/timeouts",
            json!({"request": "0s", "backendRequest": "5s"}),
            json!({"request": "2s", "backendRequest": "2001ms"}),
            "backendRequest cannot be longer than request",
        ),
        case(
            ApiRoute,
            "/spec/rules/0/backendRefs/0",
            json!({"kind": "ShardSet", "group": "sluice.dev", "name": "a"}),
            json!({"kind": "ShardSet", "name": "a"}),
            "a ShardSet is of group sluice.dev, a Service of the core group (empty)",
        ),
        case(
            ApiRoute,
            "/spec/rules/0/backendRefs/0",
            json!({"name": "a", "port": 1}),
            json!({"group": "apps", "name": "a", "port": 1}),
            "a ShardSet is of group sluice.dev, a Service of the core group (empty)",
        ),
        case(
            ApiRoute,
            "/spec/rules/0/backendRefs/0",
            json!({"kind": "Service", "name": "a", "port": 1}),
            json!({"kind": "Service", "name": "a"}),
            "a Service needs a port, a ShardSet has none",
        ),
        case(
            ApiRoute,
            "/spec/scaling/minReplicas",
            json!(40),
            json!(41),
            "minReplicas cannot be above maxReplicas",
        ),
        case(
            ApiRoute,
            "/spec/scaling/schedules/0/minReplicas",
            json!(40),
            json!(41),
            "minReplicas of a schedule cannot be above maxReplicas",
        ),
        case(
            ApiRoute,
            "/spec/scaling/schedules/0/duration",
            json!("168h"),
            json!("168h1ms"),
            "a schedule lasts between 1m and 168h",
        ),
        case(
            ApiRoute,
            "/spec/scaling/metrics/0",
            json!({"type": "InFlight", "inFlight": {"averageValue": "1"}}),
            json!({"type": "InFlight"}),
            union,
        ),
        // auth
        case(
            ApiRoute,
            "/spec/auth",
            json!({"anonymous": "Allow"}),
            json!({"mode": "Enforce"}),
            "auth needs anyOf, providers, or anonymous: Allow",
        ),
        case(
            ApiRoute,
            "/spec/auth",
            json!({"anonymous": "Deny", "anyOf": [{"allOf": ["corp"]}]}),
            json!({"anonymous": "Deny", "providers": [{"name": "a", "type": "APIKey", "apiKey": {"secretRef": reference}}]}),
            "anonymous: Deny without anyOf refuses everyone: name a provider in anyOf",
        ),
        case(
            ApiRoute,
            "/spec/rules/1/auth",
            json!({"anonymous": "Allow"}),
            json!({}),
            "a rule's auth needs anyOf, or anonymous: Allow to open the rule",
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/0",
            json!({"name": "keys", "type": "APIKey", "apiKey": {"secretRef": reference}}),
            json!({"name": "keys", "type": "JWT", "apiKey": {"secretRef": reference}}),
            union,
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/0/apiKey",
            json!({"secretRef": reference}),
            json!({"secretRef": reference, "secretSelector": selector}),
            one_source,
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/2/httpMessageSignature/keys",
            json!({"secretSelector": selector}),
            json!({}),
            one_source,
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/2/httpMessageSignature/digest",
            json!("Buffered"),
            json!("None"),
            "maxBuffered belongs to digest: Buffered",
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/2/httpMessageSignature/created",
            json!({"maxAge": "1h"}),
            json!({"maxAge": "0s"}),
            "maxAge is above 0s and at most 1h",
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/2/httpMessageSignature/created",
            json!({"skew": "5m"}),
            json!({"skew": "301s"}),
            "skew is at most 5m",
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/2/httpMessageSignature/nonce",
            json!({"scope": "Local"}),
            json!({"scope": "Shared"}),
            "scope: Shared needs a storeRef, scope: Local has none",
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/2/httpMessageSignature/nonce",
            json!({"required": true}),
            json!({"onStoreFailure": "Deny"}),
            "onStoreFailure belongs to scope: Shared",
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/4/jwt/algorithms",
            json!(["ES256"]),
            json!(["RS256", "HS256"]),
            "HS256 takes its keys from Secrets, RS256 and ES256 from jwks: one provider cannot have both",
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/5/jwt/algorithms",
            json!(["HS256"]),
            json!(["RS256"]),
            "HS256 takes its keys from Secrets, RS256 and ES256 from jwks: one provider cannot have both",
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/4/jwt/keys",
            json!({"jwks": jwks}),
            json!({"jwks": jwks, "secretRef": reference}),
            one_key_source,
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/5/jwt/keys",
            json!({"secretRef": reference}),
            json!({}),
            one_key_source,
        ),
        case(
            ApiRoute,
            "/spec/auth/providers/4/jwt/leeway",
            json!("5m"),
            json!("6m"),
            "leeway is at most 5m",
        ),
        // RateLimitPolicy
        case(
            RateLimitPolicy,
            "/spec/limits/0/key/0",
            json!({"type": "Identity"}),
            json!({"type": "Identity", "claim": {"name": "a"}}),
            union,
        ),
        case(
            RateLimitPolicy,
            "/spec/limits/0/key/0",
            json!({"type": "ClientAddress"}),
            json!({"type": "Header"}),
            union,
        ),
        case(
            RateLimitPolicy,
            "/spec/limits/0/key/1",
            json!({"type": "Header", "header": {"name": "A"}}),
            json!({"type": "Header", "header": {"name": "A"}, "clientAddress": {}}),
            union,
        ),
        case(
            RateLimitPolicy,
            "/spec/limits/0/algorithm",
            json!({"type": "TokenBucket", "tokenBucket": bucket("1s")}),
            json!({"type": "TokenBucket"}),
            union,
        ),
        case(
            RateLimitPolicy,
            "/spec/limits/0/algorithm/tokenBucket",
            bucket("24h"),
            bucket("0s"),
            "per is from 1ms to 24h",
        ),
        case(
            RateLimitPolicy,
            "/spec/limits/0/algorithm/tokenBucket",
            bucket("1ms"),
            bucket("25h"),
            "per is from 1ms to 24h",
        ),
        case(
            RateLimitPolicy,
            "/spec/limits/0/scope",
            json!("Global"),
            json!("Local"),
            "scope: Global needs a global block, scope: Local has none",
        ),
        case(
            RateLimitPolicy,
            "/spec/limits/1/scope",
            json!("Local"),
            json!("Global"),
            "scope: Global needs a global block, scope: Local has none",
        ),
        case(
            RateLimitPolicy,
            "/spec/limits/0/global/consistency",
            json!("Leased"),
            json!("Strict"),
            "maxOvershoot belongs to consistency: Leased; Strict admits none",
        ),
        case(
            RateLimitPolicy,
            "/spec/limits/0/global/maxWait",
            json!("1s"),
            json!("1001ms"),
            "maxWait is at most 1s",
        ),
        // ShardSet
        case(
            ShardSet,
            "/spec/key/from/0",
            json!({"type": "PathSegment", "pathSegment": {"index": 0}}),
            json!({"type": "PathSegment", "query": {"name": "a"}}),
            union,
        ),
        case(
            ShardSet,
            "/spec/shards/0/members/1/role",
            json!("Replica"),
            json!("Primary"),
            "a shard has exactly one member with role Primary",
        ),
        case(
            ShardSet,
            "/spec/shards/1/members/0/role",
            json!("Primary"),
            json!("Replica"),
            "a shard has exactly one member with role Primary",
        ),
        case(
            ShardSet,
            "/spec/change/maxPause",
            json!("30s"),
            json!("31s"),
            "maxPause is from 10ms to 30s",
        ),
        case(
            ShardSet,
            "/spec/change/maxPause",
            json!("10ms"),
            json!("0s"),
            "maxPause is from 10ms to 30s",
        ),
        // SluiceConfig
        case(
            SluiceConfig,
            "/stores/0",
            json!({"name": "default", "type": "Redis", "redis": {"addresses": ["a:1"]}}),
            json!({"name": "default", "type": "Redis"}),
            union,
        ),
        case(
            SluiceConfig,
            "/stores/1/redis/mode",
            json!("Sentinel"),
            json!("Cluster"),
            "mode: Sentinel needs sentinelMaster, other modes have none",
        ),
        case(
            SluiceConfig,
            "/stores/0/redis/mode",
            json!("Cluster"),
            json!("Standalone"),
            "mode: Standalone has exactly one address",
        ),
    ]
}

fn with(mut object: Value, at: &str, value: Value) -> Value {
    match object.pointer_mut(at) {
        Some(place) => *place = value,
        None => panic!("{at} is not in the complete example"),
    }
    object
}

#[test]
fn each_rule_accepts_and_refuses() {
    for Case {
        kind,
        at,
        good,
        bad,
        message,
    } in cases()
    {
        if let Err(violations) = admit(kind, &with(complete(kind), at, good), None) {
            panic!(
                "{} {at}: the good value is refused: {violations:?}",
                kind.as_str()
            );
        }
        let violations = admit(kind, &with(complete(kind), at, bad), None).expect_err(message);
        let parent = |path: &str| {
            at.trim_start_matches('/')
                .replace('/', ".")
                .starts_with(&path.replace('[', ".").replace(']', ""))
        };
        let hit = violations
            .iter()
            .any(|violation| violation.message == message && parent(&violation.path));
        assert!(
            hit,
            "{} {at}: {message:?} is not among {violations:?}",
            kind.as_str()
        );
    }
}

#[test]
fn no_rule_is_without_its_case() {
    let tested: BTreeSet<&str> = cases().iter().map(|case| case.message).collect();
    let mut rules = BTreeSet::new();
    for kind in Kind::ALL {
        collect_messages(
            &RULES[kind as usize].as_ref().expect("compiles").schema,
            &mut rules,
        );
    }
    // The rule about changes has a test of its own below.
    rules
        .retain(|message| message != "the keyspace is immutable: every key would change its owner");
    assert_eq!(rules, tested.into_iter().map(str::to_owned).collect());
}

fn collect_messages(schema: &Value, messages: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            for rule in members
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                messages.insert(
                    rule["message"]
                        .as_str()
                        .expect("every rule has a message")
                        .to_owned(),
                );
            }
            members
                .values()
                .for_each(|member| collect_messages(member, messages));
        }
        Value::Array(members) => members
            .iter()
            .for_each(|member| collect_messages(member, messages)),
        _ => {}
    }
}

#[test]
fn every_schema_compiles_with_all_its_rules() {
    fn errors(compiled: &CompiledSchema) -> usize {
        let children = compiled
            .properties
            .values()
            .chain(compiled.items.as_deref())
            .chain(compiled.additional_properties.as_deref());
        compiled.compilation_errors().len() + children.map(errors).sum::<usize>()
    }
    for kind in Kind::ALL {
        assert_eq!(
            errors(&RULES[kind as usize].as_ref().expect("compiles").compiled),
            0,
            "{}",
            kind.as_str()
        );
    }
}

#[test]
fn the_keyspace_cannot_change() {
    let old = complete(Kind::ShardSet);
    let rules = RULES[Kind::ShardSet as usize].as_ref().expect("compiles");
    // The structure admits one number of slots only, so the rule is asked past it.
    let new = with(old.clone(), "/spec/keyspace/slots", json!(1024));
    let broken = rules.broken(&new, Some(&old));
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert_eq!(broken[0].path, "spec.keyspace");
    assert_eq!(
        rules.broken(
            &with(old.clone(), "/spec/placement/0/slots", json!("0-1")),
            Some(&old)
        ),
        []
    );
    assert_eq!(admit(Kind::ShardSet, &old, Some(&old)), Ok(old.clone()));
}

#[test]
fn null_auth_is_absent_auth() {
    let route = admit(
        Kind::ApiRoute,
        &with(complete(Kind::ApiRoute), "/spec/auth", Value::Null),
        None,
    )
    .expect("nullable");
    let route: crate::ApiRoute = serde_json::from_value(route).expect("decodes");
    assert_eq!(route.spec.auth, None);
}

#[test]
fn the_complete_example_has_every_field() {
    for kind in Kind::ALL {
        let example = admit(kind, &complete(kind), None).expect("admitted");
        let mut missing = BTreeMap::new();
        absent_fields(
            &RULES[kind as usize].as_ref().expect("compiles").schema,
            "",
            &[&example],
            &mut missing,
        );
        // Parents are all of one kind, and it has Services: a golden of translation has a Gateway's fields.
        for gateways in ["namespace", "sectionName"] {
            missing.remove(format!(".spec.parentRefs[].{gateways}").as_str());
        }
        assert_eq!(
            missing.into_keys().collect::<Vec<_>>(),
            Vec::<String>::new(),
            "{}",
            kind.as_str()
        );
    }
}

/// Fields of the schema that no value at their place has.
fn absent_fields(
    schema: &Value,
    path: &str,
    values: &[&Value],
    missing: &mut BTreeMap<String, ()>,
) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let found: Vec<&Value> = values.iter().filter_map(|value| value.get(name)).collect();
        if found.is_empty() {
            missing.insert(path.clone(), ());
        }
        absent_fields(field, &path, &found, missing);
    }
    if schema["items"].is_object() {
        let items: Vec<&Value> = values
            .iter()
            .filter_map(|value| value.as_array())
            .flatten()
            .collect();
        absent_fields(&schema["items"], &format!("{path}[]"), &items, missing);
    }
}

#[test]
fn every_field_survives_decoding_and_encoding() {
    fn round<T: serde::Serialize + serde::de::DeserializeOwned>(value: &Value) -> Value {
        let typed: T = serde_json::from_value(value.clone()).expect("decodes");
        serde_json::to_value(typed).expect("encodes")
    }
    for kind in Kind::ALL {
        let example = complete(kind);
        let again = match kind {
            Kind::ApiRoute => round::<crate::ApiRoute>(&example),
            Kind::RateLimitPolicy => round::<crate::RateLimitPolicy>(&example),
            Kind::ShardSet => round::<crate::ShardSet>(&example),
            Kind::SluiceConfig => round::<crate::SluiceConfig>(&example),
        };
        assert_eq!(again, example, "{}", kind.as_str());
    }
}

#[test]
fn types_accept_no_more_than_the_schema_for_what_they_parse() {
    for (at, bad) in [
        ("/spec/rules/0/timeouts/request", json!("1d")),
        ("/spec/requestLimits/maxBodySize", json!("1Q")),
    ] {
        let violations = admit(
            Kind::ApiRoute,
            &with(complete(Kind::ApiRoute), at, bad),
            None,
        )
        .expect_err("no such form");
        assert!(
            violations[0].message.contains("does not have the form"),
            "{violations:?}"
        );
    }
}
