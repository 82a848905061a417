//! What is compared: one line of the table is one cell, the same requests to every system.

use anyhow::Result;

use super::http;
use crate::{
    credentials::{Keys, TokenKey},
    world::gateway::{CLIENT_HEADER, CLIENTS},
};

/// A target that every system passes on.
pub const PLAIN: &str = "/plain/128";
/// Requests that a connection of HTTP/2 has under way.
const HTTP2_STREAMS: usize = 16;
/// Callers with a token each.
const CALLERS: usize = 64;
/// Tokens that come round so seldom that each is new again: more than the sidecar remembers.
pub const NEW_TOKENS: usize = 9_000;

/// The systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// A relay that reads nothing.
    Floor,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
    /// Varnish.
    Varnish,
    /// The sidecar.
    Sluice,
}
use System::{Envoy, Floor, Haproxy, Nginx, Sluice, Varnish};

impl System {
    /// In the order of the table.
    pub const ALL: [Self; 6] = [Floor, Nginx, Haproxy, Envoy, Varnish, Sluice];
    /// Those that others have made.
    pub const PEERS: [Self; 4] = [Nginx, Haproxy, Envoy, Varnish];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Floor => "floor",
            Nginx => "nginx",
            Haproxy => "HAProxy",
            Envoy => "Envoy",
            Varnish => "Varnish",
            Sluice => "sluice-sidecar",
        }
    }
}

/// What clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// HTTP/1.1 in the clear.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 in the clear.
    Http2,
}

/// One workload.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Its name in the table.
    pub name: &'static str,
    /// Connections of the load generator.
    pub connections: usize,
    /// What they speak.
    pub over: Over,
    /// Requests under way on each: more than one of HTTP/2 only.
    pub streams: usize,
    /// Sent in turn; of [`Over::Plain`] only, the others ask for [`PLAIN`].
    pub requests: Vec<Vec<u8>>,
    /// Whether the upstream must not be asked.
    pub from_cache: bool,
    /// Whether each request is logged.
    pub logged: bool,
    /// Systems that take part beside the sidecar: the others have nothing to show here.
    pub with: &'static [System],
    /// The most that the sidecar may cost, as a ratio to that system.
    pub must: &'static [(System, f64)],
    /// What was tried and where the cost is: told where the sidecar costs more than it must; may be empty.
    pub note: &'static str,
}

impl Cell {
    /// Whether a system takes part.
    pub fn has(&self, system: System) -> bool {
        system == Sluice || self.with.contains(&system)
    }
}

/// What a plain request costs beside nginx.
const HEADS: &str = "tried: an engine of HTTP/1.1 of our own on both sides in place of hyper's (53.1 k user instructions \
                     before), heads that keep one place from arrival to upstream, names that are recognised and not read. \
                     Of what is left a third is heads: read (6.4 k), made a map and back (9 k, most of it http's \
                     HeaderMap: hashing, probing, growing); then allocation (16 calls) and what moves answers from hand to \
                     hand. nginx changes its fields in lists and needs 9.9 k.";
/// What a hit costs.
const HITS: &str = "tried: keys by a keyed SipHash in place of two SHA-256 (38.8 k user instructions before, 27.8 k now), \
                    names of fields that are recognised, a status that is not formatted. What is left is the request's head \
                    (8 k), its phases, the stored fields' copy and the answer's head; nine look-ups of fields that decide \
                    whether the cache may answer are 2.5 k, the key 1.6 k.";

/// All of them.
pub fn all(keys: &Keys) -> Result<Vec<Cell>> {
    let cell = |name, connections, requests| Cell {
        name,
        connections,
        over: Over::Plain,
        streams: 1,
        requests,
        from_cache: false,
        logged: false,
        with: &[Floor, Nginx, Haproxy, Envoy],
        must: &[],
        note: "",
    };
    let get = |target: &str| vec![http::get(target, &[])];
    let client = |target: &str| {
        let of = |client| (CLIENT_HEADER, format!("client-{client}"));
        let requests = (0..CLIENTS).map(of);
        let ask = |(name, value): (&str, String)| http::get(target, &[(name, &value)]);
        requests.map(ask).collect::<Vec<_>>()
    };
    Ok(vec![
        Cell {
            must: &[(Nginx, 1.20), (Envoy, 0.50)],
            ..cell("plain 128 B, 16 connections", 16, get(PLAIN))
        },
        Cell {
            must: &[(Nginx, 1.10), (Envoy, 0.50)],
            note: HEADS,
            ..cell("plain 128 B, 64 connections", 64, get(PLAIN))
        },
        Cell {
            must: &[(Nginx, 1.05), (Envoy, 0.70)],
            note: "most of it is the kernel's: the floor, which reads nothing, is within a fifth. The rest is as with more \
                   connections, but for one call of epoll in each request.",
            ..cell("plain 128 B, 1 connection", 1, get(PLAIN))
        },
        cell("32 KiB body", 16, get("/plain/32768")),
        Cell {
            over: Over::Tls,
            with: &[Nginx, Haproxy, Envoy],
            must: &[(Nginx, 0.92), (Envoy, 0.47)],
            note: "the head is read and written as without TLS, which is what nginx has ahead. Records of rustls and its \
                   handshakes, which are counted here, were not taken apart.",
            ..cell("TLS in, 128 B", 16, Vec::new())
        },
        Cell {
            over: Over::Http2,
            streams: HTTP2_STREAMS,
            with: &[Nginx, Haproxy, Envoy],
            must: &[(Nginx, 0.65), (Haproxy, 1.20), (Envoy, 0.50)],
            note: "HTTP/2 is read by hyper's engine, h2: frames, HPACK, a task and a queue for each stream. Nothing of it was \
                   tried; the upstream's side is our own HTTP/1.1.",
            ..cell(
                "HTTP/2 in, 128 B, 4 connections of 16 streams",
                4,
                Vec::new(),
            )
        },
        Cell {
            logged: true,
            with: &[Nginx],
            ..cell("plain 128 B, access log on", 16, get("/logged/128"))
        },
        Cell {
            with: &[Nginx, Envoy],
            must: &[(Nginx, 0.90), (Envoy, 0.42)],
            note: "the plain request under it is dearer than nginx's by more than the limit costs; of the limit see the gate.",
            ..cell(
                "token bucket, 1,000 keys by header",
                16,
                client("/limited/128"),
            )
        },
        Cell {
            with: &[Envoy],
            must: &[(Envoy, 0.42)],
            ..cell(
                "JWT RS256, verified before",
                16,
                tokens(&keys.rs256, "/rs256/128", CALLERS)?,
            )
        },
        Cell {
            with: &[Haproxy, Envoy],
            must: &[(Envoy, 0.55)],
            ..cell(
                "JWT RS256, never seen",
                16,
                tokens(&keys.rs256, "/rs256-new/128", NEW_TOKENS)?,
            )
        },
        Cell {
            with: &[Haproxy, Envoy],
            must: &[(Envoy, 0.70)],
            ..cell(
                "JWT ES256, never seen",
                16,
                tokens(&keys.es256, "/es256-new/128", NEW_TOKENS)?,
            )
        },
        Cell {
            logged: true,
            with: &[Envoy],
            must: &[(Envoy, 0.42)],
            ..cell(
                "JWT verified before, limit and access log",
                16,
                everything(keys)?,
            )
        },
        Cell {
            from_cache: true,
            with: &[Nginx, Haproxy, Varnish],
            must: &[(Nginx, 0.42), (Haproxy, 0.85), (Varnish, 0.42)],
            note: HITS,
            ..cell("cache hit 1 KiB", 16, get("/cached/1024"))
        },
        Cell {
            from_cache: true,
            with: &[Nginx, Haproxy, Varnish],
            must: &[(Nginx, 0.55), (Haproxy, 0.85), (Varnish, 0.55)],
            note: HITS,
            ..cell("cache hit 32 KiB", 16, get("/cached/32768"))
        },
    ])
}

fn bearer(key: &TokenKey, caller: usize) -> Result<String> {
    Ok(format!(
        "Bearer {}",
        key.token(&format!("caller-{caller}"))?
    ))
}

/// Requests of so many callers, each with a token of its own.
fn tokens(key: &TokenKey, target: &str, callers: usize) -> Result<Vec<Vec<u8>>> {
    (0..callers)
        .map(|caller| {
            Ok(http::get(
                target,
                &[("authorization", &bearer(key, caller)?)],
            ))
        })
        .collect()
}

/// Requests with a token that is counted by client too.
fn everything(keys: &Keys) -> Result<Vec<Vec<u8>>> {
    (0..CALLERS)
        .map(|caller| {
            let (token, client) = (bearer(&keys.rs256, caller)?, format!("client-{caller}"));
            let more = [("authorization", token.as_str()), (CLIENT_HEADER, &client)];
            Ok(http::get("/all/128", &more))
        })
        .collect()
}
