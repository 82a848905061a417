//! Tokens that verified lately, for one data thread: a signature is checked once for as long as its keys and its expiry
//! hold. Bounded; a forgotten token is only verified again.

use std::{collections::HashMap, sync::Arc};

use sluice_pipeline::{Identity, auth::VerifiedTokens};

/// Tokens kept at most, in two halves.
const MAX_TOKENS: usize = 8192;

/// Two generations: what was not asked for while the younger one filled is forgotten with the elder.
#[derive(Debug, Default)]
pub struct Tokens {
    young: HashMap<[u8; 32], Verified>,
    old: HashMap<[u8; 32], Verified>,
}

#[derive(Debug, Clone)]
struct Verified {
    identity: Arc<Identity>,
    expires_s: i64,
}

impl VerifiedTokens for Tokens {
    fn get(&mut self, key: &[u8; 32], wall_s: i64) -> Option<Arc<Identity>> {
        if let Some(found) = self.young.get(key) {
            return (wall_s < found.expires_s).then(|| Arc::clone(&found.identity));
        }
        let found = self.old.remove(key)?;
        if wall_s >= found.expires_s {
            return None;
        }
        let identity = Arc::clone(&found.identity);
        self.keep(*key, found);
        Some(identity)
    }

    fn put(&mut self, key: [u8; 32], identity: Arc<Identity>, expires_s: i64) {
        self.keep(
            key,
            Verified {
                identity,
                expires_s,
            },
        );
    }
}

impl Tokens {
    fn keep(&mut self, key: [u8; 32], verified: Verified) {
        if self.young.len() >= MAX_TOKENS / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, verified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> [u8; 32] {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        key
    }

    #[test]
    fn a_token_is_known_until_it_expires() {
        let mut tokens = Tokens::default();
        tokens.put(key(1), Arc::default(), 100);
        assert!(tokens.get(&key(1), 99).is_some());
        assert!(tokens.get(&key(1), 100).is_none());
        assert!(tokens.get(&key(2), 0).is_none());
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut tokens = Tokens::default();
        for number in 0..4 * MAX_TOKENS {
            tokens.put(key(number), Arc::default(), 100);
            assert!(
                tokens.get(&key(0), 0).is_some(),
                "the token in use at {number}"
            );
        }
        assert!(tokens.young.len() + tokens.old.len() <= MAX_TOKENS);
        assert!(tokens.get(&key(1), 0).is_none());
    }
}
