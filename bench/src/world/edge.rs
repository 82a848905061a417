//! The same API at an edge: a Gateway with a listener of TLS, whose one route leads to the plain upstream.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{NAMESPACE, gateway::HOST, service, slice};
use crate::credentials::Keys;

/// The Gateway.
pub const GATEWAY: &str = "public";

/// Every manifest: TLS on `port`, requests to `origin`.
pub fn documents(keys: &Keys, port: u16, origin: SocketAddr) -> Vec<Value> {
    let pods = [("origin-0".to_owned(), origin.ip().to_string())];
    vec![
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": GATEWAY, "namespace": NAMESPACE},
            "stringData": {"tls.crt": keys.server.certificate, "tls.key": keys.server.key},
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": GATEWAY, "namespace": NAMESPACE},
            "spec": {"gatewayClassName": "sluice", "listeners": [{
                "name": "https", "port": port, "protocol": "HTTPS", "hostname": HOST,
                "tls": {"certificateRefs": [{"name": GATEWAY}]},
            }]},
        }),
        service("origin", origin.port()),
        slice("origin", origin.port(), &pods),
        json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "ApiRoute",
            "metadata": {"name": "edge", "namespace": NAMESPACE},
            "spec": {
                "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}],
                "hostnames": [HOST],
                "rules": [{
                    "name": "plain", "matches": [{"path": {"type": "PathPrefix", "value": "/plain"}}],
                    "backendRefs": [{"name": "origin", "port": 80}],
                }],
            },
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world;

    #[test]
    fn the_gateway_has_no_finding() {
        let keys = Keys::generate().expect("keys");
        let documents = documents(&keys, 8443, SocketAddr::from(([127, 0, 0, 1], 8080)));
        world::engine(&documents).expect("no finding");
    }
}
