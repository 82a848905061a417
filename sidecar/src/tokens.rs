//! Tokens that verified lately, for one data thread: a signature is checked once for as long as its keys and its expiry
//! hold. Bounded; a forgotten token is only verified again.
//!
//! A token is found by its end, which is its signature's and hardly ever another's, hashed with a secret of this thread;
//! known is it only if all of it and its keys are the same. The bytes are compared in a time that does not depend on
//! them: else a caller could find a token that somebody else uses byte by byte, by how long its refusal takes. (The
//! secret hash already keeps guesses from being compared at all; a caller who saw the end of a token, in a log that cuts
//! its lines, would pass it.)

use std::{hint::black_box, sync::Arc};

use siphasher::sip::SipHasher13;
use sluice_pipeline::{Identity, auth::VerifiedTokens, quick::QuickMap};
use zeroize::Zeroizing;

use crate::random;

/// Tokens kept at most, in two halves.
const MAX_TOKENS: usize = 8192;
/// And their text, in bytes.
const MAX_BYTES: usize = 8 << 20;
/// A token is found by so many bytes of its end: 192 bits of its signature.
const END: usize = 32;
/// And by so many of its keys: these are a hash already, and a few tell providers apart.
const OF_KEYS: usize = 8;

/// Two generations: what was not asked for while the younger one filled is forgotten with the elder.
pub struct Tokens {
    secret: SipHasher13,
    young: Generation,
    old: Generation,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("young", &self.young)
            .field("old", &self.old)
            .finish_non_exhaustive()
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            secret: SipHasher13::new_with_keys(random::seed(), random::seed()),
            young: Generation::default(),
            old: Generation::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Generation {
    /// By the keyed hash.
    known: QuickMap<u64, Verified>,
    /// Of all tokens.
    bytes: usize,
}

struct Verified {
    keys: [u8; 32],
    token: Zeroizing<Box<[u8]>>,
    identity: Arc<Identity>,
    expires_s: i64,
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verified({} bytes)", self.token.len())
    }
}

impl Verified {
    fn is(&self, keys: &[u8; 32], token: &[u8]) -> bool {
        is_same(&self.keys, keys) & is_same(&self.token, token)
    }
}

/// Compares in a time that depends on the lengths alone: all bytes are read, and only their sum decides.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut differences = [0; WORDS];
    match (one.last_chunk(), other.last_chunk()) {
        (Some(one_end), Some(other_end)) => {
            let ((one, _), (other, _)) = (one.as_chunks(), other.as_chunks());
            for (one, other) in one.iter().zip(other) {
                compare(&mut differences, one, other);
            }
            // What is left of it, and a little again.
            compare(&mut differences, one_end, other_end);
        }
        _ => {
            for (one, other) in one.iter().zip(other) {
                differences[0] |= u64::from(one ^ other);
            }
        }
    }
    // Without it the loops might end at the first difference.
    black_box(differences) == [0; WORDS]
}

/// Words that are compared together.
const WORDS: usize = 4;

fn compare(differences: &mut [u64; WORDS], one: &[u8; 8 * WORDS], other: &[u8; 8 * WORDS]) {
    let words = one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
    for (difference, (one, other)) in differences.iter_mut().zip(words) {
        *difference |= u64::from_ne_bytes(*one) ^ u64::from_ne_bytes(*other);
    }
}

impl VerifiedTokens for Tokens {
    fn get(&mut self, keys: &[u8; 32], token: &[u8], wall_s: i64) -> Option<Arc<Identity>> {
        let at = self.place(keys, token);
        if let Some(found) = self.young.known.get(&at) {
            return (found.is(keys, token) && wall_s < found.expires_s)
                .then(|| Arc::clone(&found.identity));
        }
        let found = self.old.known.get(&at)?;
        if !found.is(keys, token) || wall_s >= found.expires_s {
            return None;
        }
        let found = self.old.known.remove(&at)?;
        let identity = Arc::clone(&found.identity);
        self.keep(at, found);
        Some(identity)
    }

    fn put(&mut self, keys: &[u8; 32], token: &[u8], identity: Arc<Identity>, expires_s: i64) {
        let verified = Verified {
            keys: *keys,
            token: Zeroizing::new(token.into()),
            identity,
            expires_s,
        };
        self.keep(self.place(keys, token), verified);
    }
}

impl Tokens {
    fn place(&self, keys: &[u8; 32], token: &[u8]) -> u64 {
        let mut hashed = [0; OF_KEYS + END];
        let (of_keys, of_token) = hashed.split_at_mut(OF_KEYS);
        of_keys.copy_from_slice(&keys[..OF_KEYS]);
        match token.last_chunk::<END>() {
            Some(end) => of_token.copy_from_slice(end),
            None => of_token[..token.len()].copy_from_slice(token),
        }
        self.secret.hash(&hashed)
    }

    fn keep(&mut self, at: u64, verified: Verified) {
        let bytes = verified.token.len();
        let Generation { known, bytes: held } = &self.young;
        if known.len() >= MAX_TOKENS / 2 || held + bytes > MAX_BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += bytes;
        if let Some(former) = self.young.known.insert(at, verified) {
            self.young.bytes -= former.token.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [u8; 32] = [7; 32];

    fn token(number: usize) -> Vec<u8> {
        format!("header.claims.{number:0>43}").into_bytes()
    }

    fn keep(tokens: &mut Tokens, token: &[u8]) {
        tokens.put(&KEYS, token, Arc::default(), 100);
    }

    #[test]
    fn a_token_is_known_until_it_expires() {
        let mut tokens = Tokens::default();
        keep(&mut tokens, &token(1));
        assert!(tokens.get(&KEYS, &token(1), 99).is_some());
        assert!(tokens.get(&KEYS, &token(1), 100).is_none());
        assert!(tokens.get(&KEYS, &token(2), 0).is_none());
    }

    /// The end finds, the whole decides.
    #[test]
    fn a_token_with_one_other_byte_or_other_keys_is_another() {
        let mut tokens = Tokens::default();
        let known: Vec<u8> = (0..100).map(|byte| b'a' + byte % 26).collect();
        for length in [1, 15, 16, 17, 31, 32, 33, 64, 100] {
            let known = &known[..length];
            keep(&mut tokens, known);
            assert!(tokens.get(&KEYS, known, 0).is_some());
            for at in 0..length {
                let mut other = known.to_vec();
                other[at] ^= 1;
                assert!(tokens.get(&KEYS, &other, 0).is_none(), "{at} of {length}");
            }
            let longer = [b"x", known].concat();
            assert!(tokens.get(&KEYS, &longer, 0).is_none());
            for at in [0, 8, 31] {
                let mut others = KEYS;
                others[at] ^= 1;
                assert!(tokens.get(&others, known, 0).is_none(), "{at}");
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut tokens = Tokens::default();
        keep(&mut tokens, &token(0));
        for number in 1..4 * MAX_TOKENS {
            keep(&mut tokens, &token(number));
            assert!(
                tokens.get(&KEYS, &token(0), 0).is_some(),
                "the token in use at {number}"
            );
        }
        let Tokens { young, old, .. } = &tokens;
        assert!(young.known.len() + old.known.len() <= MAX_TOKENS);
        assert!(tokens.get(&KEYS, &token(1), 0).is_none());
    }

    #[test]
    fn long_tokens_are_bounded_by_their_bytes() {
        let mut tokens = Tokens::default();
        for number in 0..2000 {
            keep(&mut tokens, &[vec![b'x'; 16 << 10], token(number)].concat());
        }
        let held = |generation: &Generation| {
            let lengths = generation.known.values().map(|known| known.token.len());
            let sum: usize = lengths.sum();
            assert_eq!(sum, generation.bytes);
            sum
        };
        let (young, old) = (held(&tokens.young), held(&tokens.old));
        assert!(
            young + old <= MAX_BYTES && old > MAX_BYTES / 3,
            "{young} {old}"
        );
    }
}
