//! What is compared: one line of the table is one cell, the same requests to every system.

use anyhow::Result;

use super::http;
use crate::{
    credentials::Keys,
    world::gateway::{CLIENT_HEADER, CLIENTS},
};

/// Callers with a token each.
const CALLERS: usize = 64;

/// The systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// A relay that reads nothing.
    Floor,
    /// nginx.
    Nginx,
    /// The sidecar.
    Sluice,
}

impl System {
    /// In the order of the table.
    pub const ALL: [Self; 3] = [Self::Floor, Self::Nginx, Self::Sluice];
}

/// One workload.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Its name in the table.
    pub name: &'static str,
    /// Connections of the load generator.
    pub connections: usize,
    /// Sent in turn.
    pub requests: Vec<Vec<u8>>,
    /// Whether the upstream must not be asked.
    pub from_cache: bool,
    /// Whether each request is logged.
    pub logged: bool,
    /// Systems that have nothing to show here.
    pub without: &'static [System],
}

impl Cell {
    /// Whether a system takes part.
    pub fn has(&self, system: System) -> bool {
        !self.without.contains(&system)
    }
}

/// All of them.
pub fn all(keys: &Keys) -> Result<Vec<Cell>> {
    let cell = |name, connections, requests| Cell {
        name,
        connections,
        requests,
        from_cache: false,
        logged: false,
        without: &[],
    };
    let plain = |target: &str| vec![http::get(target, &[])];
    let tokens = (0..CALLERS).map(|caller| {
        let token = keys.rs256.token(&format!("caller-{caller}"))?;
        Ok(http::get(
            "/rs256/128",
            &[("authorization", &format!("Bearer {token}"))],
        ))
    });
    let clients = (0..CLIENTS).map(|client| {
        http::get(
            "/limited/128",
            &[(CLIENT_HEADER, &format!("client-{client}"))],
        )
    });
    Ok(vec![
        cell("plain 128 B, 16 connections", 16, plain("/plain/128")),
        cell("plain 128 B, 64 connections", 64, plain("/plain/128")),
        cell("plain 128 B, 1 connection", 1, plain("/plain/128")),
        cell("32 KiB body, 16 connections", 16, plain("/plain/32768")),
        Cell {
            logged: true,
            ..cell(
                "plain 128 B, 16 connections, access log on",
                16,
                plain("/logged/128"),
            )
        },
        cell(
            "token bucket, 1,000 keys by header, 16 connections",
            16,
            clients.collect(),
        ),
        Cell {
            without: &[System::Nginx],
            ..cell(
                "JWT RS256, verified before, 16 connections",
                16,
                tokens.collect::<Result<_>>()?,
            )
        },
        Cell {
            from_cache: true,
            without: &[System::Floor],
            ..cell("cache hit 1 KiB, 16 connections", 16, plain("/cached/1024"))
        },
        Cell {
            from_cache: true,
            without: &[System::Floor],
            ..cell(
                "cache hit 32 KiB, 16 connections",
                16,
                plain("/cached/32768"),
            )
        },
    ])
}
