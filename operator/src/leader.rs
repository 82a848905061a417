//! Which replica writes to the API server: leader election by a Lease. It knows nothing of what is written.
//!
//! Every write of the Lease carries the resourceVersion that was read, so the API server decides between two candidates.
//! Nobody's clock is compared with another's: a candidate waits a whole lease from the moment it *saw* the holder renew,
//! and a holder trusts its lease for two thirds of that from the moment it *began* to renew, both on its own monotonic
//! clock. So a process that was stopped for longer finds its lease over at once, whatever it remembers.
//!
//! A holder that cannot renew stops writing and goes on serving; it may renew later if nobody took over. One that sees
//! another holder ends, with whatever it was about to write; the kubelet starts it again as a candidate.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use sluice_process::Shutdown;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// The Lease, in the operator's namespace.
pub const LEASE: &str = "sluice-operator";
/// How long a lease lasts, in the default settings.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// What a lease is trusted for by its holder, of its duration.
const TRUSTED: (u32, u32) = (2, 3);
/// Renewals in the time that the lease is trusted.
const TRIES: u32 = 5;
/// A Lease whose holder names no duration, or a nonsensical one, is taken to last this long.
const MAX_DURATION: Duration = Duration::from_secs(600);

/// Whether this replica may write, now. Clones are the same.
#[derive(Debug, Clone)]
pub struct Leadership {
    /// Until when the lease is trusted; none before it was won.
    trusted_until: watch::Receiver<Option<Instant>>,
    /// What else must have come about before the first write.
    informed: Option<watch::Receiver<bool>>,
}

/// A write was not begun: this replica does not lead, or cannot be sure that it still does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the leader (any more): the Lease {LEASE} could not be renewed in time")]
pub struct NotLeader;

impl Leadership {
    /// Of an operator that is alone: file mode.
    pub fn alone() -> Self {
        let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        let (_, trusted_until) = watch::channel(Some(Instant::now() + century));
        Self {
            trusted_until,
            informed: None,
        }
    }

    /// The same leadership for those whose writes need more than the lease: it is not won before `informed` holds, once.
    pub fn once(&self, informed: watch::Receiver<bool>) -> Self {
        Self {
            trusted_until: self.trusted_until.clone(),
            informed: Some(informed),
        }
    }

    /// Whether the lease is held for sure. To be asked right before each write.
    pub fn is_held(&self) -> bool {
        let until = *self.trusted_until.borrow();
        let informed = self.informed.as_ref();
        until.is_some_and(|until| Instant::now() < until)
            && informed.is_none_or(|informed| *informed.borrow())
    }

    /// [`Leadership::is_held`] for code that returns errors.
    pub fn check(&self) -> Result<(), NotLeader> {
        match self.is_held() {
            true => Ok(()),
            false => Err(NotLeader),
        }
    }

    /// Waits until the lease is won, and whatever else is needed has come about.
    pub async fn won(&self) {
        let mut trusted_until = self.trusted_until.clone();
        let mut won = trusted_until.wait_for(Option::is_some).await.is_ok();
        if let Some(mut informed) = self.informed.clone() {
            won &= informed.wait_for(|informed| *informed).await.is_ok();
        }
        if !won {
            // Whoever decides has ended: nobody wins any more.
            std::future::pending::<()>().await;
        }
    }
}

/// Holds from the first moment on in which `leadership` is held and `complete` says so. What comes up later is not waited
/// for: a leader does not fall silent because a new replica starts.
pub async fn inform(
    leadership: Leadership,
    mut complete: watch::Receiver<bool>,
    informed: watch::Sender<bool>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let both = async {
        leadership.won().await;
        complete
            .wait_for(|complete| *complete)
            .await
            .map(drop)
            .context("nobody knows any more whether the table is complete")
    };
    tokio::select! {
        () = shutdown.begun() => return Ok(()),
        both = both => both?,
    }
    tracing::info!("knows every session; writes");
    informed.send_replace(true);
    shutdown.begun().await;
    Ok(())
}

/// How to stand for election.
#[derive(Debug, Clone)]
pub struct Candidacy {
    /// The operator's namespace.
    pub namespace: String,
    /// This replica's name; unique among replicas and restarts.
    pub identity: String,
    /// How long a lease lasts. A new leader waits as long after the old one fell silent.
    pub duration: Duration,
}

/// Stands for election, and renews.
pub struct Elector {
    leases: Api<Lease>,
    candidacy: Candidacy,
    seen: Option<Seen>,
    trusted_until: watch::Sender<Option<Instant>>,
}

/// A record of the Lease and when this replica first saw it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    spec: LeaseSpec,
    at: Instant,
}

/// What a look at the Lease comes to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is ours, or free, or its holder fell silent: write it.
    Take,
    /// Somebody else holds it.
    Held(String),
}

impl Elector {
    /// A candidate, and the handle that tells whether it leads.
    pub fn new(client: Client, candidacy: Candidacy) -> (Self, Leadership) {
        let (sender, trusted_until) = watch::channel(None);
        let elector = Self {
            leases: Api::namespaced(client, &candidacy.namespace),
            candidacy,
            seen: None,
            trusted_until: sender,
        };
        let leadership = Leadership {
            trusted_until,
            informed: None,
        };
        (elector, leadership)
    }

    /// Stands and renews until shutdown, then gives the lease back. An error means that another replica leads now.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let interval = trusted(self.candidacy.duration) / TRIES;
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.begun() => break,
                _ = ticks.tick() => {}
            }
            let led = self.trusted_until.borrow().is_some();
            match timeout(2 * interval, self.turn()).await {
                Ok(Ok(Verdict::Take)) => {
                    if !led {
                        tracing::info!(identity = self.candidacy.identity, "leads");
                    }
                }
                Ok(Ok(Verdict::Held(holder))) if led => {
                    anyhow::bail!("lost the Lease {LEASE}: {holder} leads now");
                }
                Ok(Ok(Verdict::Held(_))) => {}
                Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), led, "Lease"),
                Err(_) => tracing::warn!(led, "Lease: the API server did not answer in time"),
            }
        }
        match timeout(2 * interval, self.release()).await {
            Ok(Err(error)) => {
                tracing::warn!(error = format!("{error:#}"), "Lease was not given back")
            }
            Err(_) => {
                tracing::warn!("Lease was not given back: the API server did not answer in time")
            }
            Ok(Ok(())) => {}
        }
        Ok(())
    }

    /// One look, and the write it calls for.
    async fn turn(&mut self) -> anyhow::Result<Verdict> {
        let began = Instant::now();
        let lease = self.leases.get_opt(LEASE).await.context("reading")?;
        let spec = lease
            .as_ref()
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let seen = seen(self.seen.take(), spec, Instant::now());
        let mine = seen.spec.holder_identity.as_deref() == Some(&self.candidacy.identity);
        let verdict = match self.trusted_until.borrow().is_some() && !mine {
            // Whoever led in between has written what this replica does not know of.
            true => Verdict::Held(
                seen.spec
                    .holder_identity
                    .clone()
                    .unwrap_or_else(|| "nobody".into()),
            ),
            false => judge(&seen, &self.candidacy.identity, Instant::now()),
        };
        self.seen = Some(seen.clone());
        if let Verdict::Held(_) = verdict {
            return Ok(verdict);
        }
        let spec = taken(&seen.spec, &self.candidacy, Timestamp::now());
        match self.write(lease, spec).await? {
            Some(lease) => {
                self.seen = Some(Seen {
                    spec: lease.spec.unwrap_or_default(),
                    at: Instant::now(),
                });
                self.trusted_until
                    .send_replace(Some(began + trusted(self.candidacy.duration)));
                Ok(Verdict::Take)
            }
            // Somebody else wrote in between; the next look shows who.
            None => anyhow::bail!("another replica wrote it in between"),
        }
    }

    /// Writes over exactly the Lease that was read; `None` where it is another by now.
    async fn write(&self, read: Option<Lease>, spec: LeaseSpec) -> anyhow::Result<Option<Lease>> {
        let post = PostParams::default();
        let written = match read {
            Some(lease) => {
                let lease = Lease {
                    spec: Some(spec),
                    ..lease
                };
                self.leases.replace(LEASE, &post, &lease).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(LEASE.to_owned()),
                    ..ObjectMeta::default()
                };
                let lease = Lease {
                    metadata,
                    spec: Some(spec),
                };
                self.leases.create(&post, &lease).await
            }
        };
        match written {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error).context("writing"),
        }
    }

    /// Frees the lease, so that the next leader need not wait. Nothing is written by this replica afterwards.
    async fn release(self) -> anyhow::Result<()> {
        if self.trusted_until.send_replace(None).is_none() {
            return Ok(());
        }
        let Some(lease) = self.leases.get_opt(LEASE).await.context("reading")? else {
            return Ok(());
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.candidacy.identity) {
            return Ok(());
        }
        let spec = LeaseSpec {
            holder_identity: None,
            ..spec
        };
        self.write(Some(lease), spec).await.map(drop)
    }
}

/// What a lease is trusted for by its holder.
fn trusted(duration: Duration) -> Duration {
    duration * TRUSTED.0 / TRUSTED.1
}

/// A record counts as old as this replica has known it: the times written in it are another clock's.
fn seen(before: Option<Seen>, spec: LeaseSpec, now: Instant) -> Seen {
    match before {
        Some(before) if before.spec == spec => before,
        _ => Seen { spec, at: now },
    }
}

fn judge(seen: &Seen, identity: &str, now: Instant) -> Verdict {
    let Seen { spec, at } = seen;
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let duration = seconds
        .map_or(MAX_DURATION, Duration::from_secs)
        .min(MAX_DURATION);
    if holder.is_empty() || holder == identity || now.duration_since(*at) >= duration {
        return Verdict::Take;
    }
    Verdict::Held(holder.to_owned())
}

/// The record of a holder that takes or renews the lease.
fn taken(former: &LeaseSpec, candidacy: &Candidacy, now: Timestamp) -> LeaseSpec {
    let renews = former.holder_identity.as_deref() == Some(&candidacy.identity);
    let transitions = former.lease_transitions.unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(candidacy.identity.clone()),
        lease_duration_seconds: i32::try_from(candidacy.duration.as_secs().max(1)).ok(),
        acquire_time: match renews {
            true => former.acquire_time.clone(),
            false => Some(MicroTime(now)),
        },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if renews {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidacy(identity: &str) -> Candidacy {
        Candidacy {
            namespace: "sluice-system".into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_holder_is_followed_after_a_whole_lease_seen() {
        let spec = taken(&LeaseSpec::default(), &candidacy("a"), at(0));
        let first = seen(None, spec.clone(), Instant::now());
        let held = Verdict::Held("a".into());
        assert_eq!(judge(&first, "b", Instant::now()), held);
        assert_eq!(judge(&first, "a", Instant::now()), Verdict::Take, "its own");

        tokio::time::advance(Duration::from_secs(14)).await;
        let same = seen(Some(first), spec.clone(), Instant::now());
        assert_eq!(judge(&same, "b", Instant::now()), held, "not yet");
        let renewed = seen(
            Some(same),
            taken(&spec, &candidacy("a"), at(14)),
            Instant::now(),
        );
        tokio::time::advance(Duration::from_millis(14_999)).await;
        assert_eq!(judge(&renewed, "b", Instant::now()), held, "it renewed");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(judge(&renewed, "b", Instant::now()), Verdict::Take);
    }

    #[tokio::test]
    async fn a_lease_given_back_is_free_at_once() {
        let spec = taken(&LeaseSpec::default(), &candidacy("a"), at(0));
        let free = LeaseSpec {
            holder_identity: None,
            ..spec
        };
        assert_eq!(
            judge(&seen(None, free, Instant::now()), "b", Instant::now()),
            Verdict::Take
        );
    }

    #[test]
    fn a_change_of_holder_is_counted_and_a_renewal_is_not() {
        let first = taken(&LeaseSpec::default(), &candidacy("a"), at(1));
        let renewed = taken(&first, &candidacy("a"), at(2));
        assert_eq!(renewed.lease_transitions, Some(1));
        assert_eq!(renewed.acquire_time, Some(MicroTime(at(1))));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(2))));
        let next = taken(&renewed, &candidacy("b"), at(3));
        assert_eq!(
            (next.lease_transitions, next.acquire_time),
            (Some(2), Some(MicroTime(at(3))))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_ends_by_itself() {
        let (sender, trusted_until) = watch::channel(None);
        let leadership = Leadership {
            trusted_until,
            informed: None,
        };
        assert_eq!(leadership.check(), Err(NotLeader));
        sender.send_replace(Some(Instant::now() + Duration::from_secs(10)));
        leadership.won().await;
        assert!(leadership.is_held());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!leadership.is_held(), "nobody had to say so");
        assert!(Leadership::alone().is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_waits_until_it_is_informed_and_only_once() {
        let (lease, trusted_until) = watch::channel(None);
        let leadership = Leadership {
            trusted_until,
            informed: None,
        };
        let (complete, is_complete) = watch::channel(true);
        let (informed, is_informed) = watch::channel(false);
        let writer = leadership.once(is_informed);
        let shutdown = Shutdown::default();
        let informing = tokio::spawn(inform(
            leadership.clone(),
            is_complete,
            informed,
            shutdown.clone(),
        ));
        // Complete while it was a follower; a replica came that it has not heard when it wins.
        tokio::task::yield_now().await;
        complete.send_replace(false);
        lease.send_replace(Some(Instant::now() + Duration::from_secs(60)));
        leadership.won().await;
        assert!(leadership.is_held() && !writer.is_held());
        let waits = tokio::time::timeout(Duration::from_secs(30), writer.won());
        waits.await.expect_err("not informed yet");
        complete.send_replace(true);
        writer.won().await;
        assert!(writer.is_held());
        complete.send_replace(false);
        tokio::task::yield_now().await;
        assert!(writer.is_held(), "a new replica silences nobody");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(!writer.is_held(), "without the lease it is nothing");
        shutdown.begin("the end");
        informing.await.expect("joined").expect("ended well");
    }
}
