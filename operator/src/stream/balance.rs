//! Evening out who has the sessions. Sidecars stay where they are, so that after a rollout the replica that came last has
//! none and another has all. A replica that has clearly more than its share for a while asks a few of its sidecars a second
//! to connect again, which a Service leads to any replica; nothing else about them changes.
//!
//! Each replica judges by its own merged table and only about its own sessions: nobody coordinates, and the others do
//! nothing about the same surplus.

use std::{sync::Arc, time::Duration};

use sluice_process::Shutdown;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::SessionTable;

/// More than the mean by a fifth and this many is clearly more: fewer are not worth a reconnect.
const SLACK: usize = 8;
/// A round asks this part of the surplus each time, so that it takes some ten times and does not overshoot.
const PART: usize = 16;
/// Sidecars that are asked at a time, at most.
const MOST: usize = 32;
/// A replica that asks in vain waits longer each time, up to this many times [`Pace::patience`].
const MOST_PATIENT: u32 = 120;

/// How often is looked and how soon is acted.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks.
    pub tick: Duration,
    /// How long a surplus must last, and how long a round of asking goes on.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(1),
            patience: Duration::from_secs(30),
        }
    }
}

/// How many sessions a replica has above the mean, where that is clearly more; none where it is alone.
pub fn surplus(own: usize, others: &[usize]) -> usize {
    let replicas = others.len() + 1;
    let all = others.iter().fold(own, |all, one| all.saturating_add(*one));
    let bound = (all / replicas * 6 / 5).saturating_add(SLACK);
    if others.is_empty() || own <= bound {
        0
    } else {
        own - all.div_ceil(replicas)
    }
}

/// What is remembered from look to look.
#[derive(Debug)]
struct Balance {
    patience: Duration,
    /// How often the patience has doubled.
    factor: u32,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Even,
    /// There has been a surplus since.
    Waiting(Instant),
    /// A round of asking began then, with so many sessions, and has asked so many sidecars.
    Asking {
        since: Instant,
        had: usize,
        asked: usize,
    },
}

impl Balance {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            factor: 1,
            phase: Phase::Even,
        }
    }

    /// How many sidecars to ask now.
    fn look(&mut self, own: usize, others: &[usize], now: Instant) -> usize {
        let surplus = surplus(own, others);
        if surplus == 0 {
            *self = Self::new(self.patience);
            return 0;
        }
        if let Phase::Asking { since, had, asked } = self.phase
            && now.duration_since(since) >= self.patience
        {
            // Of two replicas every second sidecar comes back; where nearly all do, the others cannot be reached.
            let in_vain = had.saturating_sub(own) < asked / 8;
            self.factor = match in_vain {
                true => (self.factor * 2).min(MOST_PATIENT),
                false => 1,
            };
            self.phase = Phase::Waiting(now);
        }
        match &mut self.phase {
            phase @ Phase::Even => {
                *phase = Phase::Waiting(now);
                0
            }
            Phase::Waiting(since) if now.duration_since(*since) < self.patience * self.factor => 0,
            phase @ Phase::Waiting(_) => {
                let count = share(surplus);
                *phase = Phase::Asking {
                    since: now,
                    had: own,
                    asked: count,
                };
                count
            }
            Phase::Asking { asked, .. } => {
                let count = share(surplus);
                *asked += count;
                count
            }
        }
    }
}

/// What of a surplus is asked at a time.
fn share(surplus: usize) -> usize {
    surplus.div_ceil(PART).min(MOST)
}

/// Keeps the sessions even until shutdown.
pub async fn keep(table: Arc<SessionTable>, pace: Pace, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut balance = Balance::new(pace.patience);
    let mut ticks = interval(pace.tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let (own, others) = table.shares();
        let count = balance.look(own, &others, Instant::now());
        if count > 0 {
            let asked = table.send_elsewhere(count);
            tracing::info!(own, ?others, asked, "sidecars are asked to connect again");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn only_what_is_clearly_more_is_a_surplus() {
        for (own, others, expected) in [
            (1000, &[][..], 0),
            (0, &[1000], 0),
            (40, &[0], 20),
            (18, &[0], 0),
            (19, &[0], 9),
            (128, &[72], 0),
            (129, &[71], 29),
            (300, &[0, 0], 200),
            (100, &[100, 100], 0),
        ] {
            assert_eq!(surplus(own, others), expected, "{own} beside {others:?}");
        }
    }

    #[test]
    fn a_surplus_is_waited_with_and_one_that_passes_is_forgotten() {
        let (began, mut balance) = (Instant::now(), Balance::new(PATIENCE));
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(balance.look(100, &[0], began), 0);
        assert_eq!(balance.look(100, &[0], after(29)), 0);
        assert_eq!(balance.look(60, &[50], after(30)), 0, "it has passed");
        assert_eq!(balance.look(100, &[0], after(31)), 0);
        assert_eq!(balance.look(100, &[0], after(60)), 0);
        assert_eq!(balance.look(100, &[0], after(61)), 4, "50 / 16, rounded up");
    }

    #[test]
    fn whoever_asks_in_vain_asks_less_and_less_often() {
        let (began, mut balance) = (Instant::now(), Balance::new(PATIENCE));
        let asked: usize = (0..24 * 3600)
            .map(|second| balance.look(1000, &[0], began + Duration::from_secs(second)))
            .sum();
        // A day of asking each second would be 2.7 million.
        assert!((1000..60_000).contains(&asked), "{asked}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Whatever the fleet: nobody asks while the spread is even, nobody asks for more than its surplus, and asking ends
        /// with nobody clearly above the mean when sidecars land anywhere.
        #[test]
        fn it_comes_to_an_end(shares in proptest::collection::vec(0_usize..5_000, 1..6), landing in any::<u64>()) {
            let (mut shares, mut landing) = (shares, landing);
            let replicas = shares.len();
            let mut balances: Vec<_> = shares.iter().map(|_| Balance::new(PATIENCE)).collect();
            let began = Instant::now();
            for second in 0..3_600 {
                let now = began + Duration::from_secs(second);
                for replica in 0..replicas {
                    let own = shares[replica];
                    let mut others = shares.clone();
                    others.remove(replica);
                    let count = balances[replica].look(own, &others, now);
                    prop_assert!(count <= surplus(own, &others).min(MOST));
                    for _ in 0..count {
                        landing = landing.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        shares[replica] -= 1;
                        shares[(landing >> 33) as usize % replicas] += 1;
                    }
                }
            }
            for replica in 0..replicas {
                let mut others = shares.clone();
                let own = others.remove(replica);
                prop_assert_eq!(surplus(own, &others), 0, "{:?}", shares);
            }
        }
    }
}
