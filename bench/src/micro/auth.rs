//! Authentication: signatures and tokens that were never seen, and tokens that were.

use std::sync::Arc;

use anyhow::{Result, ensure};
use sluice_pipeline::{
    Identity, Program,
    auth::{NoMemory, Outcome, VerifiedTokens, authenticate},
    facts::StaticFacts,
    program::Rule,
    target::Target,
};
use sluice_sidecar::tokens::Tokens;

use super::Bench;
use crate::{
    credentials::{ISSUER, Keys, TokenKey, now_s, sign},
    world::{self, gateway},
};

/// Credentials that take turns.
const CALLERS: usize = 64;

/// Callers of one rule.
struct Callers {
    rule: Arc<Rule>,
    requests: Vec<(StaticFacts, Target, String)>,
    wall_s: i64,
    turn: usize,
}

pub(super) fn benches(program: &Program, port: u16, keys: &Keys) -> Result<Vec<Bench>> {
    let signed = Callers::new(program, port, |caller| {
        let facts = gateway::get(&format!("/signature/128?caller={caller}"));
        Ok((
            sign(facts, &keys.signature_secret, &format!("nonce-{caller}"))?,
            "signer".into(),
        ))
    })?;
    let with_tokens = |key: &TokenKey, path: &str| {
        Callers::new(program, port, |caller| {
            let subject = format!("caller-{caller}");
            let token = key.token(&subject)?;
            let facts = gateway::get(&format!("/{path}/128"))
                .with("authorization", &format!("Bearer {token}"));
            Ok((facts, format!("{ISSUER}|{subject}")))
        })
    };
    Ok(vec![
        signed.never_seen(
            "HMAC signature, verify",
            "HTTP message signature over @method and @target-uri with a nonce: parsed, base rebuilt, verified",
        ),
        with_tokens(&keys.hs256, "hs256")?.never_seen("JWT HS256, never seen", "parsed, verified, claims checked"),
        with_tokens(&keys.rs256, "rs256")?.never_seen("JWT RS256, never seen", "the same with RSA, 2,048 bits"),
        with_tokens(&keys.es256, "es256")?.never_seen("JWT ES256, never seen", "the same with ECDSA, P-256"),
        with_tokens(&keys.rs256, "rs256")?.seen("JWT RS256, verified before", "found in a data thread's cache of verified tokens"),
    ])
}

impl Callers {
    /// The requests that `make` gives, with the subject each must prove. Fails where a bad credential passes.
    fn new(
        program: &Program,
        port: u16,
        make: impl Fn(usize) -> Result<(StaticFacts, String)>,
    ) -> Result<Self> {
        let mut requests = Vec::with_capacity(CALLERS);
        let mut found = None;
        for caller in 0..CALLERS {
            let (facts, subject) = make(caller)?;
            let (rule, target) = world::rule(program, port, &facts)?;
            found = Some(rule);
            requests.push((facts, target, subject));
        }
        let rule = found.ok_or_else(|| anyhow::anyhow!("no callers"))?;
        let callers = Self {
            rule,
            requests,
            wall_s: now_s()?,
            turn: 0,
        };
        let (facts, target, _) = &callers.requests[0];
        let spoilt = authenticate(
            &callers.rule,
            &spoilt(facts),
            target,
            &mut NoMemory,
            callers.wall_s,
        );
        ensure!(
            spoilt.is_err(),
            "rule {} takes a spoilt credential",
            callers.rule.name
        );
        Ok(callers)
    }

    /// Whether the next caller proves who it is.
    fn next(&mut self, memory: &mut impl VerifiedTokens) -> bool {
        self.turn = (self.turn + 1) % self.requests.len();
        let (facts, target, subject) = &self.requests[self.turn];
        match authenticate(&self.rule, facts, target, memory, self.wall_s) {
            Ok(Outcome::Identified(proven)) => proven.identity.subject == *subject,
            _ => false,
        }
    }

    fn never_seen(mut self, name: &'static str, what: &str) -> Bench {
        Bench::new(name, what, move || self.next(&mut NoMemory))
    }

    fn seen(mut self, name: &'static str, what: &str) -> Bench {
        let mut memory = Counting::default();
        for _ in 0..self.requests.len() {
            self.next(&mut memory);
        }
        Bench::new(name, what, move || {
            let before = memory.hits;
            self.next(&mut memory) && memory.hits == before + 1
        })
    }
}

/// The request with another signature: the last characters but one of its credential are exchanged.
fn spoilt(facts: &StaticFacts) -> StaticFacts {
    let mut facts = facts.clone();
    for (name, value) in &mut facts.headers {
        if matches!(name.as_str(), "signature" | "authorization") {
            let at = value.len() - 10;
            value[at] = if value[at] == b'A' { b'B' } else { b'A' };
        }
    }
    facts
}

/// A data thread's memory that tells how often it knew the token.
#[derive(Default)]
struct Counting {
    tokens: Tokens,
    hits: u64,
}

impl VerifiedTokens for Counting {
    fn get(&mut self, keys: &[u8; 32], token: &[u8], wall_s: i64) -> Option<Arc<Identity>> {
        let found = self.tokens.get(keys, token, wall_s);
        self.hits += u64::from(found.is_some());
        found
    }

    fn put(&mut self, keys: &[u8; 32], token: &[u8], identity: Arc<Identity>, expires_s: i64) {
        self.tokens.put(keys, token, identity, expires_s);
    }
}
