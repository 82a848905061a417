//! What sidecars say of the limits they enforce. It is bounded and made coarse when it comes in, because every other value
//! is told to the other replicas and may be another write of a status; it is merged over pods when a status is made.

use sluice_crds::{
    common::Percent,
    rate_limit_policy::{LimitState, LimitStatus},
};
use sluice_snapshot::UnitName;

/// Limits that one sidecar may name.
pub const MAX_LIMITS: usize = 4096;
/// Overshoot is told in steps of a tenth of a percent.
const STEP_PPM: u64 = 1_000;

/// What one sidecar says of one limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LimitSeen {
    /// The policy's unit.
    pub policy: UnitName,
    /// The limit's name.
    pub limit: String,
    /// Who answers for it.
    pub state: LimitState,
    /// How far it went beyond the burst at most, in parts of a million of it.
    pub overshoot_ppm: u64,
    /// Requests that it would have refused, had it been enforced.
    pub shadowed: u64,
}

impl LimitSeen {
    /// What came over the wire; none: a newer sidecar's words, or nobody's.
    pub fn read(
        policy: &str,
        limit: String,
        state: &str,
        overshoot_ppm: u64,
        shadowed: u64,
    ) -> Option<Self> {
        (limit.len() <= 63).then_some(())?;
        Some(Self {
            policy: policy.parse().ok()?,
            limit,
            state: serde_json::from_value(state.into()).ok()?,
            overshoot_ppm: overshoot_ppm.div_ceil(STEP_PPM).saturating_mul(STEP_PPM),
            shadowed: coarse(shadowed),
        })
    }

    /// The state as it is written.
    pub fn state(&self) -> String {
        match serde_json::to_value(self.state) {
            Ok(serde_json::Value::String(text)) => text,
            _ => String::new(),
        }
    }
}

/// Rounded down to 1, 2 or 5 and zeros.
fn coarse(count: u64) -> u64 {
    let magnitude = 10_u64.pow(count.checked_ilog10().unwrap_or(0));
    let step = match count / magnitude {
        leading @ 0..2 => leading,
        2..5 => 2,
        _ => 5,
    };
    step * magnitude
}

/// One line for each limit of a policy: the worst state of any sidecar, the highest overshoot, the sum of what was let
/// through. Slices are charged so that all sidecars together overshoot by no more than the one that did the most.
pub fn statuses(seen: &[LimitSeen]) -> Vec<LimitStatus> {
    let mut seen: Vec<_> = seen.iter().collect();
    seen.sort_by(|a, b| a.limit.cmp(&b.limit));
    let same = |a: &&LimitSeen, b: &&LimitSeen| a.limit == b.limit;
    seen.chunk_by(same)
        .filter_map(|of| {
            let state = of.iter().map(|seen| seen.state).max()?;
            let overshoot_ppm = of.iter().map(|seen| seen.overshoot_ppm).max()?;
            let shadowed = of
                .iter()
                .fold(0, |sum: u64, seen| sum.saturating_add(seen.shadowed));
            let milli = u32::try_from(overshoot_ppm / 10).unwrap_or(u32::MAX);
            Some(LimitStatus {
                name: of.first()?.limit.as_str().into(),
                state,
                // Without the store nobody measures.
                measured_overshoot: matches!(state, LimitState::Leased | LimitState::Strict)
                    .then(|| Percent::from_milli(milli)),
                shadowed: i64::try_from(coarse(shadowed)).unwrap_or(i64::MAX),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(limit: &str, state: &str, overshoot_ppm: u64, shadowed: u64) -> LimitSeen {
        let policy = UnitName::policy("shop", "plans").to_string();
        LimitSeen::read(&policy, limit.into(), state, overshoot_ppm, shadowed).expect("reads")
    }

    #[test]
    fn the_worst_of_the_sidecars_speaks_for_all() {
        let all = [
            seen("each", "Leased", 3_100, 7),
            seen("other", "Local", 0, 0),
            seen("each", "Leased", 900, 1),
        ];
        let statuses = statuses(&all);
        let text = serde_json::to_value(&statuses).expect("JSON");
        assert_eq!(
            text,
            serde_json::json!([
                {"name": "each", "state": "Leased", "measuredOvershoot": "0.4%", "shadowed": 5},
                {"name": "other", "state": "Local", "shadowed": 0},
            ])
        );
        let away = super::statuses(&[all[0].clone(), seen("each", "Allow", 0, 0)]);
        assert_eq!(
            (away[0].state, away[0].measured_overshoot),
            (LimitState::Allow, None)
        );
    }

    #[test]
    fn what_hardly_changes_does_not_change_and_what_is_no_limit_is_left_out() {
        assert_eq!(
            seen("a", "Leased", 1, 1_999),
            seen("a", "Leased", 1_000, 1_000)
        );
        let counts = [0, 1, 2, 4, 5, 9, 10, 49, 50, u64::MAX];
        let expected = [0, 1, 2, 2, 5, 5, 10, 20, 50, 10_000_000_000_000_000_000];
        assert_eq!(counts.map(coarse), expected);
        let policy = UnitName::policy("shop", "plans").to_string();
        for (policy, limit, state) in [
            ("nothing", "a", "Leased"),
            (policy.as_str(), "a", "Dreaming"),
            (policy.as_str(), &*"a".repeat(64), "Leased"),
        ] {
            assert_eq!(LimitSeen::read(policy, limit.into(), state, 0, 0), None);
        }
    }
}
