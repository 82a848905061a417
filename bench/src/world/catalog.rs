//! Many routes in many groups: what translation and the routing table are measured on.

use serde_json::{Value, json};

use super::{NAMESPACE, api_route, limit_by_header, secret, service, slice};

/// The targetPort of every Service.
pub const PORT: u16 = 8080;

/// Routes and groups.
#[derive(Debug, Clone, Copy)]
pub struct Catalog {
    /// ApiRoutes, in turn over the groups.
    pub routes: usize,
    /// Services, each with two pods of its own.
    pub groups: usize,
}

impl Catalog {
    /// Every manifest: a Service, an EndpointSlice and a RateLimitPolicy for each group, the routes, one Secret.
    pub fn documents(&self) -> Vec<Value> {
        let groups = (0..self.groups).flat_map(|group| self.group(group));
        let routes = (0..self.routes).map(|route| self.route(route, "1"));
        let key = secret(
            "consumer",
            "api-keys",
            "consumer-1",
            "a-key-that-is-long-enough",
        );
        groups.chain(routes).chain([key]).collect()
    }

    fn group(&self, group: usize) -> [Value; 3] {
        let name = service_of(group);
        let pod = |pod: usize| {
            (
                format!("{name}-{pod}"),
                format!("10.{}.{}.{}", group / 250, group % 250, pod + 1),
            )
        };
        let route = json!({"group": "sluice.dev", "kind": "ApiRoute", "name": name_of(group)});
        [
            service(&name, PORT),
            slice(&name, PORT, &[pod(0), pod(1)]),
            limit_by_header(&format!("limit-{group}"), &route, "X-Client"),
        ]
    }

    /// One route: API keys, three rules; `version` is a header that one of them sets.
    pub fn route(&self, route: usize, version: &str) -> Value {
        let auth = json!({
            "anyOf": [{"allOf": ["keys"]}],
            "providers": [{"name": "keys", "type": "APIKey", "apiKey": {
                "secretSelector": {"matchLabels": {"sluice.dev/use": "api-keys"}},
            }}],
        });
        let regex = "/v1/tenants/(?P<tenant>[a-z0-9-]{1,40})/orders";
        let edit = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {
            "set": [{"name": "X-Version", "value": version}],
        }});
        let rules = json!([
            {"name": "read", "matches": [{"path": {"type": "PathPrefix", "value": "/v1/orders"}, "method": "GET"}], "filters": [edit]},
            {"name": "write", "matches": [{"path": {"type": "PathPrefix", "value": "/v1/orders"}, "method": "POST"}]},
            {"name": "tenant", "matches": [{"path": {"type": "RegularExpression", "value": regex}}]},
        ]);
        api_route(
            &name_of(route),
            &service_of(route % self.groups),
            &hostname_of(route),
            &auth,
            &rules,
        )
    }
}

/// The name of a route.
pub fn name_of(route: usize) -> String {
    format!("route-{route}")
}

/// The hostname of a route.
pub fn hostname_of(route: usize) -> String {
    format!("r{route}.{NAMESPACE}.example")
}

fn service_of(group: usize) -> String {
    format!("api-{group}")
}
