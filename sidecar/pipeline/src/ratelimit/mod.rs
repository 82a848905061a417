//! Rate limits: which buckets a request takes from, and what the answers mean. The arithmetic of a bucket is in
//! [`token_bucket`], that of sharing one through a store in [`mod@slice`]. The buckets themselves are live state and the
//! caller's.

pub mod headers;
pub mod key;
pub mod slice;
pub mod token_bucket;

use std::sync::Arc;

use sluice_snapshot::unit::{
    ObjectRef,
    policy::{self as unit, KeyPart, LimitPolicy, Mode, OnMissingKey, Scope},
};

pub use crate::stable_id::StableId as LimitId;
use crate::{
    facts::Facts,
    identity::Identity,
    program::Rule,
    reject::{Decider, Reject, RejectReason},
};
use headers::Fields;
pub use key::{BucketKey, StoreKey};
use slice::Terms;
use smallvec::SmallVec;
pub use token_bucket::{Bucket, BucketError, Decision};

/// The phase in which a limit runs: the earliest one where its key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before authentication: nothing of the key comes from the identity.
    Address,
    /// After authentication.
    Identity,
}

/// A RateLimitPolicy, compiled.
#[derive(Debug)]
pub struct Policy {
    /// The RateLimitPolicy.
    pub object: ObjectRef,
    /// Enforced, or only counted.
    pub mode: Mode,
    /// Whether answers carry `RateLimit` and `RateLimit-Policy`.
    pub headers: bool,
    /// All must admit.
    pub limits: Vec<Arc<Limit>>,
    /// The policy cannot serve: the rules that name it refuse.
    pub broken: Option<sluice_snapshot::ConfigError>,
}

/// One limit, compiled.
#[derive(Debug)]
pub struct Limit {
    /// `namespace/policy/limit`: what live state is kept by. It survives a change of the numbers.
    pub id: LimitId,
    /// The RateLimitPolicy.
    pub object: ObjectRef,
    /// Its name in the policy.
    pub name: String,
    /// The numbers.
    pub bucket: Bucket,
    /// Who shares a bucket.
    pub scope: Scope,
    /// How the bucket is shared through a store; none for [`Scope::Local`].
    pub terms: Option<Terms>,
    /// When it runs.
    pub when: When,
    key: Vec<KeyPart>,
    on_missing_key: OnMissingKey,
    /// What of the header fields does not depend on the request.
    fields: Fields,
}

impl Limit {
    fn compile(object: &ObjectRef, limit: &unit::Limit) -> Result<Self, BucketError> {
        let unit::Limit {
            name,
            key,
            on_missing_key,
            bucket: numbers,
            scope,
        } = limit;
        let bucket = Bucket::new(numbers)?;
        let terms = match scope {
            Scope::Local => None,
            Scope::Global(global) => Some(Terms::new(numbers, global.max_overshoot_ppm)?),
        };
        let of_identity = key.iter().any(|part| match part {
            KeyPart::Identity | KeyPart::IdentityAttribute { .. } | KeyPart::Claim { .. } => true,
            KeyPart::ClientAddress { .. } | KeyPart::Header { .. } => false,
        });
        Ok(Self {
            id: LimitId::new(object, name),
            object: object.clone(),
            name: name.clone(),
            bucket,
            scope: scope.clone(),
            terms,
            when: if of_identity {
                When::Identity
            } else {
                When::Address
            },
            key: key.clone(),
            on_missing_key: *on_missing_key,
            fields: Fields::new(object, name, &bucket),
        })
    }

    /// This limit, for the access log.
    pub fn decider(&self) -> Decider {
        Decider::new(&self.object, &self.name)
    }

    /// The refusal of a request that finds the bucket empty.
    pub fn exceeded(&self, retry_after_s: u64) -> Reject {
        Reject::new(RejectReason::LimitExceeded)
            .by(self.decider())
            .retry_after(retry_after_s)
    }

    /// The refusal while the store does not answer and the policy says to refuse then.
    pub fn store_unavailable(&self) -> Reject {
        Reject::new(RejectReason::LimitStoreUnavailable)
            .by(self.decider())
            .retry_after(1)
    }
}

impl Policy {
    /// Compiles a policy; the error says which numbers cannot be.
    pub fn compile(policy: &LimitPolicy) -> Result<Self, BucketError> {
        let LimitPolicy {
            object,
            mode,
            headers,
            limits,
            broken,
        } = policy;
        Ok(Self {
            object: object.clone(),
            mode: *mode,
            headers: *headers,
            limits: limits
                .iter()
                .map(|limit| Limit::compile(object, limit).map(Arc::new))
                .collect::<Result<_, _>>()?,
            broken: broken.clone(),
        })
    }
}

/// A bucket to take from.
#[derive(Debug, Clone)]
pub struct Charge<'p> {
    /// The policy.
    pub policy: &'p Arc<Policy>,
    /// The limit.
    pub limit: &'p Arc<Limit>,
    /// Which of its buckets.
    pub key: BucketKey,
    /// Tokens.
    pub cost: u64,
}

impl Charge<'_> {
    /// The key's values, readable and cut short. Header values are not shown: they may be credentials.
    pub fn label(&self, facts: &impl Facts, identity: Option<&Identity>) -> String {
        key::label(&self.limit.key, facts, identity)
    }
}

/// The buckets of one phase. A rule seldom has more than one.
pub type Charges<'p> = SmallVec<[Charge<'p>; 1]>;

/// The buckets that a request to `rule` takes from in one phase. All of them must admit; within the phase they are
/// taken all or none.
///
/// A missing or broken policy refuses. A limit in shadow refuses nothing, also not for a missing key.
pub fn charges<'p>(
    rule: &'p Rule,
    when: When,
    facts: &impl Facts,
    identity: Option<&Identity>,
) -> Result<Charges<'p>, Reject> {
    let mut charges = Charges::new();
    for policy in &rule.policies {
        let policy = policy
            .as_ref()
            .map_err(|error| broken(error, rule.decider()))?;
        if let Some(error) = &policy.broken {
            return Err(broken(
                error,
                Decider {
                    object: Some(policy.object.clone()),
                    part: None,
                },
            ));
        }
        for limit in policy.limits.iter().filter(|limit| limit.when == when) {
            let key = match BucketKey::of(&limit.id, &limit.key, facts, identity) {
                Ok(key) => key,
                Err(missing) => match (limit.on_missing_key, policy.mode) {
                    (OnMissingKey::SharedBucket, _) => BucketKey::shared(&limit.id),
                    (OnMissingKey::Skip, _) | (OnMissingKey::Deny, Mode::Shadow) => continue,
                    (OnMissingKey::Deny, Mode::Enforce) => {
                        return Err(Reject::new(RejectReason::LimitKeyMissing)
                            .by(limit.decider())
                            .detail(format!("{} has no value", key::described(missing))));
                    }
                },
            };
            charges.push(Charge {
                policy,
                limit,
                key,
                cost: 1,
            });
        }
    }
    Ok(charges)
}

fn broken(error: &sluice_snapshot::ConfigError, decider: Decider) -> Reject {
    Reject::new(RejectReason::Config(error.reason))
        .by(decider)
        .detail(error.message.clone())
}

/// What a limit said to one request.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The limit.
    pub limit: Arc<Limit>,
    /// Whether it admits.
    pub admitted: bool,
    /// Tokens left.
    pub remaining: u64,
    /// Seconds until the bucket is full.
    pub reset_s: u64,
    /// Seconds until the same request would be admitted; zero where it is.
    pub retry_after_s: u64,
    /// Whether it only counts.
    pub shadow: bool,
    /// Whether the answer's header fields tell it.
    pub shown: bool,
}

impl Verdict {
    /// What a bucket's decision means for a charge.
    pub fn new(charge: &Charge<'_>, decision: Decision) -> Self {
        let seconds = |micros: u64| micros.div_ceil(1_000_000);
        let (admitted, remaining, reset_us, retry_after_s) = match decision {
            Decision::Admit {
                tat: _,
                remaining,
                reset_us,
            } => (true, remaining, reset_us, 0),
            Decision::Refuse {
                retry_after_us,
                remaining,
                reset_us,
            } => (false, remaining, reset_us, seconds(retry_after_us).max(1)),
        };
        let shadow = charge.policy.mode == Mode::Shadow;
        Self {
            limit: charge.limit.clone(),
            admitted,
            remaining,
            reset_s: seconds(reset_us),
            retry_after_s,
            shadow,
            shown: charge.policy.headers && !shadow,
        }
    }
}

/// The refusal that the verdicts of a phase amount to, by the limit with the longest wait; none: all admit.
pub fn refusal(verdicts: &[Verdict]) -> Option<Reject> {
    let refusing = verdicts
        .iter()
        .filter(|verdict| !verdict.admitted && !verdict.shadow);
    refusing
        .max_by_key(|verdict| verdict.retry_after_s)
        .map(|verdict| verdict.limit.exceeded(verdict.retry_after_s))
}

#[cfg(test)]
mod tests;
