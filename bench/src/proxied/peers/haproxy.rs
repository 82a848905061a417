//! HAProxy: one thread. It verifies tokens anew with each request, and keeps answers in memory.

use std::ffi::OsString;

use anyhow::Result;

use super::{Kind, Place, System};
use crate::world::gateway::{CLIENT_HEADER, HEAVY_LIMIT};

pub const KIND: Kind = Kind {
    system: System::Haproxy,
    program: "haproxy",
    version: "-v",
    configure,
};

fn configure(place: &Place<'_>) -> Result<Vec<OsString>> {
    let rsa = place.file("rs256.pem", place.keys.rs256.public_pem())?;
    let ec = place.file("es256.pem", place.keys.es256.public_pem())?;
    let (listen, origin) = (place.listen, place.origin);
    let (secure, http2) = (place.secure, place.http2);
    let certificate = place.certificate()?;
    let certificate = certificate.display();
    let token = |path: &str, algorithm: &str, key: &std::path::Path| {
        format!(
            "    http-request set-var(txn.token) http_auth_bearer if {{ path_beg {path} }}\n    \
             http-request deny deny_status 401 if {{ path_beg {path} }} !{{ var(txn.token),jwt_verify(\"{algorithm}\",\"{}\") -m int 1 }}\n",
            key.display()
        )
    };
    let tokens = token("/rs256-new/", "RS256", &rsa) + &token("/es256-new/", "ES256", &ec);
    let text = format!(
        r#"global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    option http-keep-alive
    http-reuse always
cache answers
    total-max-size 64
    max-object-size 131072
    max-age 86400
frontend in
    bind {listen}
    bind {http2} proto h2
    bind {secure} ssl crt {certificate} alpn http/1.1
    stick-table type string len 32 size 100k expire 60s store http_req_rate(1s)
    http-request track-sc0 hdr({CLIENT_HEADER}) if {{ path_beg /limited/ }}
    http-request deny deny_status 429 if {{ path_beg /limited/ }} {{ sc_http_req_rate(0) gt {HEAVY_LIMIT} }}
{tokens}    http-request set-var(txn.cached) int(1) if {{ path_beg /cached/ }}
    http-request cache-use answers if {{ path_beg /cached/ }}
    http-response cache-store answers if {{ var(txn.cached) -m int 1 }}
    default_backend origin
backend origin
    server origin {origin}
"#
    );
    let file = place.file("haproxy.cfg", &text)?;
    Ok(vec!["-db".into(), "-f".into(), file.into()])
}
