//! How sidecars share one bucket through a store: each leases a *slice* of tokens and spends it by itself. Here are the
//! rules of both sides: [`LEASE_SCRIPT`] in the store, and [`Lease`], the state that a sidecar keeps for a key. Sending the script and keeping the states is the sidecar's work.
//!
//! # The bound
//! In every window of `t` seconds all sidecars together admit at most `burst x (1 + maxOvershoot) + rate x t`. A slice
//! counts in the store when it is granted, but it is spent up to its time to live later, while the bucket refills.
//! So a slice is charged as if it were granted `hold = ttl - burst x maxOvershoot / rate` later than it is. Proof: take
//! the first slice that is spent in the window `[a, b]`. When it is charged, the theoretical arrival time (`now + debt /
//! rate`) is at least `a - ttl + hold`, each later slice adds its tokens, and the last one is granted at `b` or before
//! only if the sum is at most `b + burst / rate`. A slice that is never spent (its sidecar crashed, its time ran out)
//! makes that less, never more. Tokens that are spent at once when the answer arrives, because a request waits for
//! exactly them, are charged at the store's time, as with `Strict`.
//!
//! Clocks: the store's own clock (`TIME`) rules the bucket. A sidecar measures a slice's time from when it *sent* the
//! request, by its own monotonic clock, so that no two clocks are ever compared.
//!
//! # Commands
//! A slice is as large as the key's demand while it lives, and grows fourfold at a time; a key with little demand leases
//! one token at a time and loses none. How long it lives depends on that demand: see `Terms::longest_us`. That the store
//! is empty is remembered until it has said that waiting helps. Where it is nearly empty and gave less than the demand, a
//! crowd is at the limit, and each further piece would be smaller than the last: the sidecar spends what it has, then
//! lets tokens gather for half the time the bucket takes to fill, a second at most, or for [`REFUSALS_PER_COMMAND`]
//! refusals.
//!
//! So 1,000 requests on one key over two sidecars cost at most 50 commands at the paces the tests list, from far above the
//! rate to a third of it, if the bucket holds what two seconds repay; at most 60 where they come at random, or just at the
//! rate. A smaller bucket has smaller slices, and a demand far below the rate leases few tokens at a time: more commands
//! for each request, fewer in each second.

mod script;

use sluice_snapshot::unit::policy as unit;

use super::token_bucket::BucketError;
pub use script::{LEASE_SCRIPT, Reply, Request, Stored, model};

/// Numbers up to here are exact in Lua, with room for one sum.
const MAX_EXACT: u64 = 1 << 52;
/// The shortest time to live of a slice, in microseconds: a round trip to the store must fit.
const MIN_TTL_US: u64 = 20_000;
/// The longest time to live of a slice, in microseconds: what a crash can lose is forgotten that soon.
const MAX_TTL_US: u64 = 4_000_000;
/// How long tokens that a request waited for may lie between answer and request, in microseconds.
const GRACE_US: u64 = 10_000;
/// How long a refusal of a crowded key is kept at most beyond what the store said, in microseconds.
const MAX_QUIET_US: u64 = 1_000_000;
/// Refusals after which a crowded key asks again before that.
pub const REFUSALS_PER_COMMAND: u64 = 64;
/// A slice grows at most by this factor.
const GROWTH: u64 = 4;
/// An ask that nobody answered or gave up is forgotten after this time, in microseconds.
const MAX_PENDING_US: u64 = 1_000_000;

/// What sharing a bucket comes to: its numbers as the script has them, and the sizes of slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Units of one token.
    token: u64,
    /// Units that are repaid each microsecond.
    rate: u64,
    /// Units of a full bucket.
    capacity: u64,
    /// How long a slice may live without being charged for it.
    tolerated_us: u64,
    /// The most tokens of a slice.
    largest: u64,
    /// Microseconds from empty to full.
    fill_us: u64,
}

impl Terms {
    /// Checks and converts the numbers of a unit. `max_overshoot_ppm` is in parts of a million of the burst.
    pub fn new(unit: &unit::TokenBucket, max_overshoot_ppm: u32) -> Result<Self, BucketError> {
        let unit::TokenBucket {
            requests,
            per_ms,
            burst,
        } = *unit;
        if requests == 0 || per_ms == 0 || burst == 0 {
            return Err(BucketError::Zero);
        }
        let per_us = per_ms.checked_mul(1000).ok_or(BucketError::TooSlow)?;
        // Reduced, so that the numbers stay small: 100 each second are 10,000 units a token and one each microsecond.
        let divisor = greatest_common_divisor(requests, per_us);
        let (token, rate) = (per_us / divisor, requests / divisor);
        let capacity = token
            .checked_mul(burst)
            .filter(|capacity| *capacity <= MAX_EXACT)
            .ok_or(BucketError::TooSlow)?;
        if rate > MAX_EXACT {
            return Err(BucketError::TooFast);
        }
        let fill_us = capacity.div_ceil(rate);
        let tolerated_us = u128::from(fill_us) * u128::from(max_overshoot_ppm) / 1_000_000;
        let each_second = 1_000_000 * u128::from(rate) / u128::from(token);
        // An expired slice is lost. A sixteenth of the burst is no great loss; more, up to a quarter, only where it has
        // come back after a second.
        let refilled = u64::try_from(each_second)
            .unwrap_or(u64::MAX)
            .min(burst / 4);
        Ok(Self {
            token,
            rate,
            capacity,
            tolerated_us: u64::try_from(tolerated_us).unwrap_or(u64::MAX),
            largest: refilled.max(burst / 16).max(1),
            fill_us,
        })
    }

    /// The longest time to live of a slice for a demand of `tokens` in `elapsed_us`.
    ///
    /// A slice is charged for its time to live and for its tokens, and another sidecar's as large as this one should fit
    /// beside it: `ttl x rate + 2 x ttl x demand <= capacity`. A demand far below the rate may so keep tokens for nearly
    /// as long as the bucket takes to fill, one as high as the rate for a third of that.
    fn longest_us(&self, tokens: u128, elapsed_us: u64) -> u64 {
        let repaid = u128::from(elapsed_us) * u128::from(self.rate);
        let spent = tokens.saturating_mul(u128::from(self.token));
        let whole = repaid.saturating_add(spent.saturating_mul(2)).max(1);
        let longest = u128::from(self.fill_us).saturating_mul(repaid) / whole;
        u64::try_from(longest)
            .unwrap_or(u64::MAX)
            .clamp(MIN_TTL_US, MAX_TTL_US)
    }

    /// What is repaid in `us`, in parts of a million of the burst.
    fn share_ppm(&self, us: u64) -> u64 {
        let share = u128::from(us) * 1_000_000 / u128::from(self.fill_us.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Whether so few tokens are left that asking for a part of them is not worth a command.
    fn is_scarce(&self, left: u64) -> bool {
        left <= self.capacity / self.token / 8
    }

    /// Asks for exactly `cost` tokens: `consistency: Strict`.
    pub fn strict(&self, cost: u64, now_us: u64) -> Ask {
        Ask {
            terms: *self,
            needed: cost,
            want: cost,
            ttl_us: 0,
            sent_us: now_us,
        }
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A slice to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    terms: Terms,
    needed: u64,
    want: u64,
    ttl_us: u64,
    sent_us: u64,
}

impl Ask {
    /// How much later than it is granted a slice is charged.
    fn hold_us(&self) -> u64 {
        let Terms {
            tolerated_us,
            fill_us,
            ..
        } = self.terms;
        self.ttl_us.saturating_sub(tolerated_us).min(fill_us)
    }

    /// What the script is called with. `sessions`: among how many sidecars the bucket is shared, as far as is known.
    pub fn request(&self, sessions: u32) -> Request {
        let Self {
            terms:
                Terms {
                    token,
                    rate,
                    capacity,
                    ..
                },
            needed,
            want,
            ..
        } = *self;
        Request {
            token,
            rate,
            capacity,
            needed,
            want,
            divisor: u64::from(sessions.max(2)),
            hold_us: self.hold_us(),
        }
    }
}

/// Tokens that this sidecar may spend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slice {
    tokens: u64,
    expires_us: u64,
    /// When it counts as granted in the store: what is spent later is beyond the limit.
    charged_us: u64,
}

impl Slice {
    fn live(&self, now_us: u64) -> u64 {
        if now_us < self.expires_us {
            self.tokens
        } else {
            0
        }
    }
}

/// The store has nothing left: what it said of when that changes is still believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Denied {
    /// Until here asking is useless.
    retry_at_us: u64,
    /// Until here a crowded key does not ask either.
    quiet_until_us: u64,
    /// Requests refused since.
    refused: u64,
}

/// What one sidecar knows of one bucket in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    terms: Option<Terms>,
    /// Spent in this order.
    held: [Slice; 2],
    denied: Option<Denied>,
    /// The store has run out since it last gave all that was asked for: this key is at its limit.
    exhausted: bool,
    /// When the ask was sent that is on its way.
    pending_us: Option<u64>,
    /// Requests since the last ask, and when that was: the demand.
    seen: u64,
    since_us: u64,
    /// Tokens of the last slice.
    last: u64,
    /// Tokens that the store had left.
    left: u64,
    /// When the bucket is full if nothing more is taken.
    full_at_us: u64,
}

/// Tokens that a request took, by the end of the slices they came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    parts: [(u64, u64); 2],
}

/// What a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Tokens of the slice.
    Admit {
        /// Tokens left, here and in the store, as far as is known.
        remaining: u64,
        /// Microseconds until the bucket is full.
        reset_us: u64,
        /// For [`Lease::give_back`].
        spent: Spent,
        /// How far all sidecars together may have gone beyond the burst by this, in parts of a million of it: never more
        /// than the policy's `maxOvershoot`, but for the way from the store.
        overshoot_ppm: u64,
        /// The slice runs low: to be sent without waiting for the answer.
        ask: Option<Ask>,
    },
    /// The store has refused not long ago.
    Refuse {
        /// Microseconds until a try can succeed.
        retry_after_us: u64,
        /// Microseconds until the bucket is full.
        reset_us: u64,
        /// To be sent without waiting for the answer.
        ask: Option<Ask>,
    },
    /// To be sent; the request waits for the answer (at most `maxWait`) and takes again.
    Ask(Ask),
    /// An ask is on its way; the request waits for that and takes again.
    Wait,
}

impl Lease {
    /// Takes `cost` tokens at `now_us` (microseconds of a monotonic clock). Whoever gets an [`Ask`] must end it with
    /// [`Lease::answered`] or [`Lease::lost`].
    pub fn take(&mut self, terms: &Terms, cost: u64, now_us: u64) -> Taken {
        if self.terms.as_ref() != Some(terms) {
            // Other numbers: what was leased under the old ones is lost, as if it had expired.
            *self = Self {
                terms: Some(*terms),
                since_us: now_us,
                ..Self::default()
            };
        }
        self.seen = self.seen.saturating_add(1);
        let reset_us = self.full_at_us.saturating_sub(now_us);
        if let Some((spent, late_us)) = self.spend(cost, now_us) {
            let here = self.tokens(now_us);
            let low = self.denied.is_none() && self.last >= GROWTH && here <= self.last / 8;
            let ask = (low && !self.is_pending(now_us)).then(|| self.ask(terms, cost, now_us));
            return Taken::Admit {
                remaining: here.saturating_add(self.left),
                reset_us,
                spent,
                overshoot_ppm: terms.share_ppm(late_us),
                ask,
            };
        }
        if let Some(denied) = &mut self.denied {
            denied.refused = denied.refused.saturating_add(1);
            let Denied {
                retry_at_us,
                quiet_until_us,
                refused,
            } = *denied;
            let crowded = now_us < quiet_until_us;
            if now_us < retry_at_us || crowded {
                let again = now_us >= retry_at_us
                    && refused >= REFUSALS_PER_COMMAND
                    && !self.is_pending(now_us);
                let ask = again.then(|| self.ask(terms, cost, now_us));
                let retry_after_us = retry_at_us
                    .max(quiet_until_us.min(now_us))
                    .saturating_sub(now_us)
                    .max(1);
                return Taken::Refuse {
                    retry_after_us,
                    reset_us,
                    ask,
                };
            }
        }
        if self.is_pending(now_us) {
            Taken::Wait
        } else {
            Taken::Ask(self.ask(terms, cost, now_us))
        }
    }

    /// Takes back what a request took that another limit refused. It is lost if its slice has ended or was merged with
    /// another meanwhile: in a younger slice it would live longer than it is charged for.
    pub fn give_back(&mut self, spent: Spent) {
        for (expires_us, tokens) in spent.parts {
            let mut held = self.held.iter_mut();
            if let Some(slice) = held.find(|slice| slice.expires_us == expires_us) {
                slice.tokens = slice.tokens.saturating_add(tokens);
            }
        }
    }

    /// The store's answer to `ask`. One that comes too late, or under other numbers, is lost.
    pub fn answered(&mut self, ask: &Ask, reply: &Reply, now_us: u64) {
        if self.terms != Some(ask.terms) || self.pending_us != Some(ask.sent_us) {
            return;
        }
        self.pending_us = None;
        self.left = reply.left;
        self.full_at_us = now_us.saturating_add(reply.reset_us);
        // A crowd of requests wants more than there is: what comes in meanwhile is handed out in larger slices.
        let crowded = reply.granted < ask.want;
        let empty = reply.granted == 0 || reply.retry_us > 0;
        self.exhausted = crowded && (self.exhausted || empty);
        let scarce = self.exhausted && ask.terms.is_scarce(reply.left);
        self.denied = (empty || scarce).then(|| {
            let quiet_us = if crowded {
                (ask.terms.fill_us / 2)
                    .min(MAX_QUIET_US)
                    .max(reply.retry_us)
            } else {
                0
            };
            Denied {
                retry_at_us: now_us.saturating_add(reply.retry_us),
                quiet_until_us: now_us.saturating_add(quiet_us),
                refused: 0,
            }
        });
        self.last = reply.granted;
        if reply.granted == 0 {
            return;
        }
        let expires_us = ask.sent_us.saturating_add(ask.ttl_us);
        let slice = if reply.granted > ask.needed && now_us < expires_us {
            Slice {
                tokens: reply.granted,
                expires_us,
                charged_us: ask.sent_us.saturating_add(ask.hold_us()),
            }
        } else {
            // For the request that waits, and no other.
            Slice {
                tokens: reply.granted.min(ask.needed),
                expires_us: now_us.saturating_add(GRACE_US),
                charged_us: now_us,
            }
        };
        self.keep(slice, now_us);
    }

    /// The store did not answer `ask`.
    pub fn lost(&mut self, ask: &Ask) {
        if self.pending_us == Some(ask.sent_us) {
            self.pending_us = None;
        }
    }

    /// Whether nothing would be lost if this state were dropped.
    pub fn idle(&self, now_us: u64) -> bool {
        let denied = self
            .denied
            .is_some_and(|denied| now_us < denied.quiet_until_us);
        self.tokens(now_us) == 0 && !denied && !self.is_pending(now_us)
    }

    fn tokens(&self, now_us: u64) -> u64 {
        self.held.iter().map(|slice| slice.live(now_us)).sum()
    }

    fn is_pending(&self, now_us: u64) -> bool {
        self.pending_us
            .is_some_and(|sent_us| now_us.saturating_sub(sent_us) < MAX_PENDING_US)
    }

    /// What was taken, and how many microseconds after its slice was charged for; none: there is not enough.
    fn spend(&mut self, cost: u64, now_us: u64) -> Option<(Spent, u64)> {
        if self.tokens(now_us) < cost {
            return None;
        }
        let (mut owed, mut late_us, mut all) = (cost, 0, Spent::default());
        for (slice, part) in self.held.iter_mut().zip(&mut all.parts) {
            let spent = slice.live(now_us).min(owed);
            slice.tokens -= spent;
            owed -= spent;
            *part = (slice.expires_us, spent);
            if spent > 0 {
                late_us = late_us.max(now_us.saturating_sub(slice.charged_us));
            }
        }
        Some((all, late_us))
    }

    fn keep(&mut self, slice: Slice, now_us: u64) {
        let [first, second] = self.held;
        self.held = match (first.live(now_us), second.live(now_us)) {
            (0, 0) => [slice, Slice::default()],
            (0, _) => [second, slice],
            (_, 0) => [first, slice],
            // Both are in use: together with the second, until the earlier of their ends.
            _ => {
                let merged = Slice {
                    tokens: second.tokens.saturating_add(slice.tokens),
                    expires_us: second.expires_us.min(slice.expires_us),
                    charged_us: second.charged_us.min(slice.charged_us),
                };
                [first, merged]
            }
        };
    }

    /// The next slice: what the key will need while the slice lives, if it goes on as since the last ask.
    fn ask(&mut self, terms: &Terms, cost: u64, now_us: u64) -> Ask {
        let elapsed_us = now_us.saturating_sub(self.since_us).max(1);
        let seen = u128::from(self.seen) * u128::from(cost);
        let longest_us = terms.longest_us(seen, elapsed_us);
        let growth = self
            .last
            .saturating_mul(GROWTH)
            .max(self.seen.saturating_mul(cost));
        let most = growth.min(terms.largest).max(cost);
        let demand = seen.saturating_mul(u128::from(longest_us)) / u128::from(elapsed_us);
        let want = u64::try_from(demand).unwrap_or(u64::MAX).clamp(cost, most);
        // Four times as long as it should last: demand is never even.
        let lasts_us = u128::from(want) * u128::from(elapsed_us) / seen.max(1);
        let ttl_us = u64::try_from(lasts_us.saturating_mul(4))
            .unwrap_or(u64::MAX)
            .clamp(MIN_TTL_US, longest_us);
        self.seen = 0;
        self.since_us = now_us;
        self.pending_us = Some(now_us);
        Ask {
            terms: *terms,
            needed: cost,
            want,
            ttl_us,
            sent_us: now_us,
        }
    }
}

#[cfg(test)]
mod tests;
