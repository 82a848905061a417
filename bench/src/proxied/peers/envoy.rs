//! Envoy: one worker. A route's own configuration switches on what its path is measured for.

use std::ffi::OsString;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Kind, Place, System};
use crate::{
    credentials::{AUDIENCE, Certified, ISSUER, TokenKey},
    proxied::cells::NEW_TOKENS,
    world::gateway::{CLIENT_HEADER, CLIENTS, HEAVY_LIMIT},
};

pub const KIND: Kind = Kind {
    system: System::Envoy,
    program: "envoy",
    version: "--version",
    configure,
};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

fn configure(place: &Place<'_>) -> Result<Vec<OsString>> {
    // JSON is YAML.
    let file = place.file("envoy.yaml", &bootstrap(place)?.to_string())?;
    let words = [
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
        "-c",
    ];
    let mut args: Vec<OsString> = words.map(OsString::from).into();
    args.push(file.into());
    Ok(args)
}

fn bootstrap(place: &Place<'_>) -> Result<Value> {
    let address = |at: std::net::SocketAddr| json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}});
    let endpoint = json!({"endpoint": {"address": address(place.origin)}});
    let manager = manager(place)?;
    let listener = |name: &str, at, secured: Option<Value>| {
        let mut chain = json!({"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }]});
        if let Some(secured) = secured {
            chain["transport_socket"] = secured;
        }
        json!({"name": name, "address": address(at), "filter_chains": [chain]})
    };
    let Certified { certificate, key } = &place.keys.server;
    let certificate = json!({"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}});
    let secured = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {"tls_certificates": [certificate]},
        },
    });
    Ok(json!({"static_resources": {
        "listeners": [
            listener("in", place.listen, None),
            listener("http2", place.http2, None),
            listener("secure", place.secure, Some(secured)),
        ],
        "clusters": [{
            "name": "origin",
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}]},
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }],
    }}))
}

fn manager(place: &Place<'_>) -> Result<Value> {
    let filter = |name: &str, config: Value| json!({"name": name, "typed_config": config});
    let log = json!({
        "name": "envoy.access_loggers.file",
        "filter": {"header_filter": {"header": {"name": ":path", "string_match": {"prefix": "/all/"}}}},
        "typed_config": {"@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"), "path": "/dev/null", "log_format": {"json_format": {
            "time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "host": "%REQ(:AUTHORITY)%",
            "status": "%RESPONSE_CODE%", "bytes": "%BYTES_SENT%", "ms": "%DURATION%", "upstream": "%UPSTREAM_HOST%",
        }}},
    });
    Ok(json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        "use_remote_address": true,
        "access_log": [log],
        "http_filters": [
            filter("envoy.filters.http.jwt_authn", jwt(place)?),
            filter("envoy.filters.http.local_ratelimit", json!({"@type": format!("{TYPES}.filters.http.local_ratelimit.v3.LocalRateLimit"), "stat_prefix": "limit"})),
            filter("envoy.filters.http.router", json!({"@type": format!("{TYPES}.filters.http.router.v3.Router")})),
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes()}]},
    }))
}

/// One for each path that is measured; the last takes all else.
fn routes() -> Vec<Value> {
    let route = |prefix: &str, own: Value| json!({"match": {"prefix": prefix}, "route": {"cluster": "origin", "timeout": "15s"}, "typed_per_filter_config": own});
    let limit = limit();
    vec![
        limited(route(
            "/limited/",
            json!({"envoy.filters.http.local_ratelimit": limit.clone()}),
        )),
        limited(route(
            "/all/",
            json!({"envoy.filters.http.local_ratelimit": limit}),
        )),
        route("/", json!({})),
    ]
}

/// The route with the action that names whom a request counts for.
fn limited(mut route: Value) -> Value {
    route["route"]["rate_limits"] = json!([{"actions": [{"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": "client"}}]}]);
    route
}

/// A bucket for each client: they are told by name.
fn limit() -> Value {
    let bucket =
        json!({"max_tokens": HEAVY_LIMIT, "tokens_per_fill": HEAVY_LIMIT, "fill_interval": "1s"});
    let descriptor = |client: usize| json!({"entries": [{"key": "client", "value": format!("client-{client}")}], "token_bucket": bucket});
    let always = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}});
    json!({
        "@type": format!("{TYPES}.filters.http.local_ratelimit.v3.LocalRateLimit"),
        "stat_prefix": "limit",
        "token_bucket": bucket,
        "filter_enabled": always,
        "filter_enforced": always,
        "descriptors": (0..CLIENTS).map(descriptor).collect::<Vec<_>>(),
    })
}

/// Tokens that were seen before are remembered where the path says so.
fn jwt(place: &Place<'_>) -> Result<Value> {
    let provider = |key: &TokenKey, remembers: bool| -> Result<Value> {
        let mut provider = json!({
            "issuer": ISSUER,
            "audiences": [AUDIENCE],
            "local_jwks": {"inline_string": key.jwks()?},
            "forward": true,
        });
        if remembers {
            provider["jwt_cache_config"] = json!({"jwt_cache_size": NEW_TOKENS});
        }
        Ok(provider)
    };
    let rule = |prefix: &str, provider: &str| json!({"match": {"prefix": prefix}, "requires": {"provider_name": provider}});
    Ok(json!({
        "@type": format!("{TYPES}.filters.http.jwt_authn.v3.JwtAuthentication"),
        "providers": {
            "seen": provider(&place.keys.rs256, true)?,
            "rs256": provider(&place.keys.rs256, false)?,
            "es256": provider(&place.keys.es256, false)?,
        },
        "rules": [
            rule("/rs256/", "seen"),
            rule("/all/", "seen"),
            rule("/rs256-new/", "rs256"),
            rule("/es256-new/", "es256"),
        ],
    }))
}
