//! One API with a rule for each thing that is measured on a request. The operations are run on its program, the sidecars
//! on its manifests.

use anyhow::Result;
use serde_json::{Value, json};
use sluice_pipeline::facts::StaticFacts;

use super::{api_route, limit_by_header, secret, service, slice};
use crate::credentials::{AUDIENCE, ISSUER, Keys, SIGNATURE_KEY_ID, TokenKey};

/// The hostname of the API.
pub const HOST: &str = "gateway.bench.example";
/// The header that the limit counts by.
pub const CLIENT_HEADER: &str = "x-client";
/// Clients that the limit tells apart.
pub const CLIENTS: usize = 1000;

/// Requests a second that a client may send: none is refused.
pub const HEAVY_LIMIT: u32 = 1_000_000;

/// Headers of every request beside `Host` and what a bench adds: with them a typical request has eight.
pub const TYPICAL: [(&str, &str); 6] = [
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)",
    ),
    ("accept", "application/json, text/plain;q=0.9, */*;q=0.8"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-language", "en-GB,en;q=0.7"),
    ("x-request-id", "5f0c2f64-8c1b-4f25-9d61-0a6d4ef1b1c7"),
    ("x-tenant", "acme"),
];

/// Where the API is.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The targetPort.
    pub port: u16,
    /// Pods by name and address.
    pub pods: Vec<(String, String)>,
    /// Further ApiRoutes on hostnames of their own, which nobody asks for.
    pub others: usize,
}

impl Gateway {
    /// One pod, for a program that nobody connects to.
    pub fn unreachable() -> Self {
        Self {
            port: 8080,
            pods: vec![("gateway-0".into(), "10.0.0.1".into())],
            others: 0,
        }
    }

    /// Every manifest.
    pub fn documents(&self, keys: &Keys) -> Result<Vec<Value>> {
        let rule = |name: &str| json!({"group": "sluice.dev", "kind": "ApiRoute", "name": "gateway", "sectionName": name});
        let mut documents = vec![
            service("gateway", self.port),
            slice("gateway", self.port, &self.pods),
            secret(
                "signer",
                "signature-keys",
                SIGNATURE_KEY_ID,
                &keys.signature_secret,
            ),
            secret("tokens", "jwt-keys", keys.hs256.id(), &keys.token_secret),
            api_route(
                "gateway",
                "gateway",
                HOST,
                &json!({"providers": providers(keys)?}),
                &rules(),
            ),
            limit_by_header("by-client", &rule("limited"), CLIENT_HEADER),
            limit_by_header("all-by-client", &rule("all"), CLIENT_HEADER),
        ];
        documents.extend((0..self.others).map(|other| {
            let host = format!("other-{other}.bench.example");
            let rules = json!([{"name": "all", "matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]);
            api_route(&format!("other-{other}"), "gateway", &host, &json!({}), &rules)
        }));
        Ok(documents)
    }
}

fn providers(keys: &Keys) -> Result<Value> {
    let public = |key: &TokenKey| Ok::<_, anyhow::Error>(json!({"jwks": {"inline": key.jwks()?}}));
    let jwt = |name: &str, algorithm: &str, keys: Value| {
        json!({"name": name, "type": "JWT", "jwt": {
            "issuer": ISSUER, "audiences": [AUDIENCE], "keys": keys, "algorithms": [algorithm],
            "attributes": [{"name": "plan", "claim": "plan"}], "scopesClaim": "scope",
        }})
    };
    Ok(json!([
        {"name": "signature", "type": "HTTPMessageSignature", "httpMessageSignature": {
            "keys": {"secretSelector": {"matchLabels": {"sluice.dev/use": "signature-keys"}}},
            "algorithms": ["hmac-sha256"], "requiredComponents": ["@method", "@target-uri"],
            "nonce": {"required": true, "scope": "Local"}, "digest": "None",
        }},
        jwt("hs256", "HS256", json!({"secretRef": {"name": "tokens"}})),
        jwt("rs256", "RS256", public(&keys.rs256)?),
        jwt("es256", "ES256", public(&keys.es256)?),
    ]))
}

fn rules() -> Value {
    let matching =
        |name: &str| json!([{"path": {"type": "PathPrefix", "value": format!("/{name}")}}]);
    let open = |name: &str| json!({"name": name, "matches": matching(name)});
    let proven = |name: &str, provider: &str| json!({"name": name, "matches": matching(name), "auth": {"anyOf": [{"allOf": [provider]}]}});
    json!([
        open("plain"),
        open("logged"),
        open("limited"),
        {"name": "cached", "matches": matching("cached"), "cache": {"mode": "Enabled", "scope": "Standard"}},
        proven("signature", "signature"),
        proven("hs256", "hs256"),
        proven("rs256", "rs256"),
        proven("es256", "es256"),
        proven("rs256-new", "rs256"),
        proven("es256-new", "es256"),
        proven("all", "rs256"),
    ])
}

/// A GET of the API with typical headers.
pub fn get(target: &str) -> StaticFacts {
    let facts = StaticFacts::new("GET", HOST, target).with("host", HOST);
    TYPICAL
        .iter()
        .fold(facts, |facts, (name, value)| facts.with(name, value))
}

#[cfg(test)]
mod tests {
    use sluice_pipeline::Program;

    use super::*;
    use crate::world;

    #[test]
    fn every_path_leads_to_the_rule_of_its_name() {
        let gateway = Gateway::unreachable();
        let documents = gateway
            .documents(&Keys::generate().expect("keys"))
            .expect("manifests");
        let program: Program = world::program(&documents).expect("no finding");
        for name in [
            "plain",
            "logged",
            "limited",
            "cached",
            "signature",
            "hs256",
            "rs256",
            "es256",
            "rs256-new",
            "es256-new",
            "all",
        ] {
            let (rule, _) =
                world::rule(&program, gateway.port, &get(&format!("/{name}/128"))).expect("a rule");
            assert_eq!(rule.name, name);
            assert_eq!(rule.cache.is_some(), name == "cached");
            assert_eq!(
                !rule.policies.is_empty(),
                ["limited", "all"].contains(&name)
            );
        }
        world::rule(&program, gateway.port, &get("/other")).expect_err("no rule names it");
    }
}
