//! One sidecar's session. One version is under way at a time: while a sidecar works on it, newer snapshots replace each
//! other, so a slow sidecar costs nobody anything and always gets the newest state next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use sluice_snapshot::{
    Hash, UnitName, Version,
    stream::{
        Ack, Certificate, Csr, Down, Hello, LimitReport, Nack, Report, Roots, Settled, Up, down, up,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tonic::{Status, Streaming};

use super::{
    published::{Feed, Manifest, Snapshot},
    server::Context,
    table::{
        Acked, Build, Instance, LostBy, MAX_INSTANCES, Nacked, Row,
        limits::{LimitSeen, MAX_LIMITS},
    },
    update::{Abilities, Denial, Plan, plan},
};
use crate::{identity::Principal, load::Sample};

/// How long a sidecar may take to say Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a sidecar may take to read one message.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a sidecar may take to apply a version.
const ACK_TIMEOUT: Duration = Duration::from_secs(60);
/// Certificates that one session gets, and how soon it may ask for more.
const CSR_BURST: u32 = 4;
const CSR_REFILL: Duration = Duration::from_secs(60);
/// Features a Hello may name; names of units it may hold.
const MAX_FEATURES: usize = 256;
const MAX_HELD: usize = 65_536;
/// Text of a sidecar's that is kept, in characters.
const MAX_TEXT: usize = 512;

/// Why a session ended: a metric label, and a status for the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The sidecar went away.
    Gone,
    /// The sidecar sent what no sidecar sends.
    Protocol(&'static str),
    /// The sidecar does not read, or does not answer.
    Slow(&'static str),
    /// The pod is gone from the operator's store.
    PodGone,
    /// The pod connected again.
    Replaced,
    /// As many sidecars as may share a proof do.
    Crowded,
    /// Another replica has fewer sidecars.
    Elsewhere,
    /// The operator ends.
    Shutdown,
}

impl End {
    const fn label(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Protocol(_) => "protocol",
            Self::Slow(_) => "slow",
            Self::PodGone => "pod-gone",
            Self::Replaced => "replaced",
            Self::Crowded => "crowded",
            Self::Elsewhere => "elsewhere",
            Self::Shutdown => "shutdown",
        }
    }

    fn status(self) -> Option<Status> {
        match self {
            Self::Gone => None,
            Self::Protocol(why) => Some(Status::invalid_argument(why)),
            Self::Slow(why) => Some(Status::deadline_exceeded(why)),
            Self::PodGone => Some(Status::permission_denied(
                "the pod is gone from the operator's store",
            )),
            Self::Replaced => Some(Status::aborted("the pod has connected again")),
            Self::Crowded => Some(Status::resource_exhausted(format!(
                "{MAX_INSTANCES} sidecars share this token already"
            ))),
            Self::Elsewhere => Some(Status::unavailable("another replica has fewer sidecars")),
            Self::Shutdown => Some(Status::unavailable("the operator is shutting down")),
        }
    }

    /// At whose end it was: a sidecar that is sent away is on its way to another replica.
    const fn lost_by(self) -> LostBy {
        match self {
            Self::Elsewhere | Self::Shutdown => LostBy::Replica,
            Self::Gone
            | Self::Protocol(_)
            | Self::Slow(_)
            | Self::PodGone
            | Self::Replaced
            | Self::Crowded => LostBy::Sidecar,
        }
    }
}

/// A version that was sent and not answered yet.
struct UnderWay {
    version: Version,
    manifest: Arc<Manifest>,
    denied: BTreeMap<UnitName, Denial>,
    snapshot: Arc<Snapshot>,
    sent: Instant,
    /// Whether its times say something.
    fresh: bool,
}

struct Session {
    context: Arc<Context>,
    outgoing: mpsc::Sender<Result<Down, Status>>,
    row: Row,
    principal: Principal,
    abilities: Abilities,
    /// What the sidecar holds: by Hello, then by Ack.
    held: Arc<Manifest>,
    under_way: Option<UnderWay>,
    /// Whether there may be something to send.
    dirty: bool,
    /// Whether that is a change this session waited for, so that its times say something.
    fresh: bool,
    /// Whether nothing was sent yet: the first update goes out even if it changes nothing, to be acknowledged.
    first: bool,
    certificates: CsrBudget,
}

/// Runs a session to its end.
pub(super) async fn run(
    context: Arc<Context>,
    principal: Principal,
    feed: watch::Receiver<Feed>,
    mut incoming: Streaming<Up>,
    outgoing: mpsc::Sender<Result<Down, Status>>,
) {
    let hello = tokio::select! {
        () = context.shutdown.begun() => Err(End::Shutdown),
        hello = timeout(HELLO_TIMEOUT, incoming.message()) => match hello {
            Err(_) => Err(End::Slow("no Hello in time")),
            Ok(Err(_)) | Ok(Ok(None)) => Err(End::Gone),
            Ok(Ok(Some(Up { kind: Some(up::Kind::Hello(hello)) }))) => Ok(hello),
            Ok(Ok(Some(_))) => Err(End::Protocol("the first message must be Hello")),
        },
    };
    let end = match hello {
        Err(end) => end,
        Ok(hello) => {
            context.metrics.sessions.inc();
            let end = match Session::new(
                context.clone(),
                principal.clone(),
                &feed,
                hello,
                outgoing.clone(),
            ) {
                Ok(session) => session.run(feed, incoming).await,
                Err(end) => end,
            };
            context.metrics.sessions.dec();
            end
        }
    };
    context
        .metrics
        .ended
        .with_label_values(&[end.label()])
        .inc();
    tracing::info!(%principal, ?end, "session ended");
    if let Some(status) = end.status() {
        // A sidecar that does not read does not get it; the connection ends all the same.
        let _ = timeout(Duration::from_secs(1), outgoing.send(Err(status))).await;
    }
}

impl Session {
    fn new(
        context: Arc<Context>,
        principal: Principal,
        feed: &watch::Receiver<Feed>,
        hello: Hello,
        outgoing: mpsc::Sender<Result<Down, Status>>,
    ) -> Result<Self, End> {
        let Hello {
            build,
            features,
            held,
            instance,
        } = hello;
        if features.len() > MAX_FEATURES || held.len() > MAX_HELD {
            return Err(End::Protocol("Hello names too much"));
        }
        // A name that is none cannot be removed by name either: the sidecar finds out by the version.
        let held = held
            .into_iter()
            .filter_map(|(name, hash)| Some((name.parse().ok()?, Hash::from_wire(hash))))
            .collect();
        let (group, shared) = {
            let feed = feed.borrow();
            (feed.group.clone(), feed.shared)
        };
        let build = build_of(&build, &features);
        tracing::info!(%principal, %group, build = build.name, "session began");
        let (table, now) = (&context.table, Instant::now());
        let row = match shared {
            true => {
                let instance = Instance::read(&instance);
                let instance = instance.ok_or(End::Protocol("Hello names no instance"))?;
                table
                    .seat_beside(&instance, principal.clone(), group, build, now)
                    .ok_or(End::Crowded)?
            }
            false => table.seat(principal.clone(), group, build, now),
        };
        Ok(Self {
            context,
            outgoing,
            row,
            principal,
            abilities: Abilities::new(features),
            held: Arc::new(held),
            under_way: None,
            dirty: true,
            fresh: false,
            first: true,
            certificates: CsrBudget::new(Instant::now()),
        })
    }

    async fn run(mut self, mut feed: watch::Receiver<Feed>, mut incoming: Streaming<Up>) -> End {
        match self.follow(&mut feed, &mut incoming).await {
            Ok(never) => match never {},
            Err(end) => {
                self.row.will_be_lost_by(end.lost_by());
                end
            }
        }
    }

    async fn follow(
        &mut self,
        feed: &mut watch::Receiver<Feed>,
        incoming: &mut Streaming<Up>,
    ) -> Result<std::convert::Infallible, End> {
        let mut roots = self.context.authority.roots();
        let mut snapshots = feed.borrow_and_update().snapshots.clone();
        let pem = roots.borrow_and_update().to_string();
        self.send(down::Kind::Roots(Roots { pem })).await?;
        let (replaced, elsewhere) = (self.row.replaced.clone(), self.row.elsewhere.clone());
        let shutdown = self.context.shutdown.clone();
        loop {
            if self.dirty && self.under_way.is_none() {
                let snapshot = snapshots.borrow_and_update().clone();
                self.update(snapshot).await?;
            }
            let overdue = self.under_way.as_ref().map(|sent| sent.sent + ACK_TIMEOUT);
            tokio::select! {
                biased;
                () = shutdown.begun() => return Err(End::Shutdown),
                () = replaced.cancelled() => return Err(End::Replaced),
                () = elsewhere.cancelled() => return Err(End::Elsewhere),
                moved = feed.changed() => {
                    moved.map_err(|_| End::PodGone)?;
                    let Feed { group, shared: _, snapshots: next } = feed.borrow_and_update().clone();
                    tracing::info!(principal = %self.principal, %group, "pod moved to another group");
                    self.row.moved(group);
                    snapshots = next;
                    (self.dirty, self.fresh) = (true, false);
                }
                // A group ends after its pods have moved; the feed says where to.
                Ok(()) = snapshots.changed() => (self.dirty, self.fresh) = (true, true),
                Ok(()) = roots.changed() => {
                    let pem = roots.borrow_and_update().to_string();
                    self.send(down::Kind::Roots(Roots { pem })).await?;
                }
                message = incoming.message() => match message {
                    Ok(Some(Up { kind })) => self.receive(kind).await?,
                    Ok(None) | Err(_) => return Err(End::Gone),
                },
                () = sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => {
                    return Err(End::Slow("no Ack in time"));
                }
            }
        }
    }

    /// Sends what leads from what the sidecar holds to `snapshot`.
    async fn update(&mut self, snapshot: Arc<Snapshot>) -> Result<(), End> {
        self.dirty = false;
        let snapshot = self.abilities.adapted(snapshot);
        let Plan {
            version,
            manifest,
            denied,
            pieces,
            changes,
        } = plan(&snapshot, &self.held, &self.abilities);
        if !changes && !self.first {
            return Ok(());
        }
        let fresh = std::mem::take(&mut self.fresh) && !self.first;
        self.first = false;
        let metrics = &self.context.metrics;
        let units = pieces.iter().map(|piece| piece.upserts.len() as u64).sum();
        metrics.units.inc_by(units);
        metrics.denied.inc_by(denied.len() as u64);
        tracing::debug!(principal = %self.principal, version = version.short(), units, "update");
        for piece in pieces {
            self.send(down::Kind::Update(piece)).await?;
        }
        let sent = Instant::now();
        if fresh {
            let metrics = &self.context.metrics;
            metrics.sent().observe(seconds(snapshot.published, sent));
        }
        self.under_way = Some(UnderWay {
            version,
            manifest,
            denied,
            snapshot,
            sent,
            fresh,
        });
        Ok(())
    }

    async fn receive(&mut self, kind: Option<up::Kind>) -> Result<(), End> {
        match kind {
            Some(up::Kind::Ack(Ack { version })) => self.acked(&version),
            Some(up::Kind::Nack(nack)) => self.nacked(nack),
            Some(up::Kind::Settled(Settled { unit, epoch, hash })) => {
                let unit = unit
                    .parse()
                    .map_err(|_| End::Protocol("Settled names no unit"))?;
                self.row.settled(unit, epoch, Hash::from_wire(hash));
            }
            Some(up::Kind::Csr(Csr { der })) => self.certify(&der).await?,
            Some(up::Kind::Report(report)) => {
                if report.limits.len() > MAX_LIMITS {
                    return Err(End::Protocol("a Report names too many limits"));
                }
                let Report {
                    requests,
                    in_flight,
                    latency_p95_us,
                    limits,
                } = report;
                let limits = limits.into_iter().filter_map(seen);
                self.row.limits(limits.collect());
                self.row.reported(Sample {
                    at: Instant::now(),
                    requests,
                    in_flight,
                    latency_p95_us,
                });
            }
            Some(up::Kind::Hello(_)) => return Err(End::Protocol("a second Hello")),
            // A newer sidecar's message that this build need not know.
            None => {}
        }
        Ok(())
    }

    fn acked(&mut self, version: &str) {
        // Anything else is an answer to nothing.
        let Some(sent) = self
            .under_way
            .take_if(|sent| sent.version.as_str() == version)
        else {
            return;
        };
        let now = Instant::now();
        let UnderWay {
            version,
            manifest,
            denied,
            snapshot,
            sent,
            fresh,
        } = sent;
        if fresh {
            let metrics = &self.context.metrics;
            metrics.acked().observe(seconds(sent, now));
            metrics.total.observe(seconds(snapshot.seen, now));
        }
        self.held = manifest.clone();
        let acked = Acked {
            version,
            manifest,
            denied,
            at: now,
        };
        self.row.acked(acked, &snapshot);
    }

    /// The former version goes on serving. The unit it names is denied from now on at this content, so that it holds
    /// nothing else back.
    fn nacked(&mut self, nack: Nack) {
        let Nack {
            version,
            unit,
            reason,
        } = nack;
        let Some(sent) = self
            .under_way
            .take_if(|sent| sent.version.as_str() == version)
        else {
            return;
        };
        self.context.metrics.nacks.inc();
        let (unit, reason) = (bounded(&unit), bounded(&reason));
        tracing::error!(principal = %self.principal, unit, reason, "the sidecar refused a version");
        if let Ok(name) = unit.parse::<UnitName>()
            && let Some(entry) = sent.snapshot.unit(&name)
        {
            self.dirty |= self
                .abilities
                .refuse(name, entry.hash.clone(), reason.clone());
        }
        self.row.nacked(Nacked {
            version,
            unit,
            reason,
        });
    }

    async fn certify(&mut self, der: &[u8]) -> Result<(), End> {
        if !self.certificates.take(Instant::now()) {
            return Err(End::Protocol("too many certificate requests"));
        }
        let now_s = self.context.clock.wall_s();
        match self.context.authority.issue(&self.principal, der, now_s) {
            Ok(issued) => {
                self.context.metrics.certificates.inc();
                self.send(down::Kind::Certificate(Certificate {
                    chain: issued.chain_pem,
                    not_after: issued.not_after_s,
                }))
                .await
            }
            Err(error) => {
                tracing::warn!(principal = %self.principal, %error, "certificate request");
                Err(End::Protocol("the certificate request was refused"))
            }
        }
    }

    async fn send(&self, kind: down::Kind) -> Result<(), End> {
        let message = Down { kind: Some(kind) };
        match timeout(SEND_TIMEOUT, self.outgoing.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Slow("a message was not read in time")),
        }
    }
}

/// How many certificates a session may still ask for.
struct CsrBudget {
    left: u32,
    refill_at: Instant,
}

impl CsrBudget {
    fn new(now: Instant) -> Self {
        Self {
            left: CSR_BURST,
            refill_at: now + CSR_REFILL,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        if now >= self.refill_at {
            *self = Self::new(now);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

/// What a sidecar says of itself, bounded.
fn build_of(name: &str, features: &[String]) -> Build {
    let features: BTreeSet<String> = features.iter().map(|feature| bounded(feature)).collect();
    Build {
        name: bounded(name),
        features: features.into_iter().collect(),
    }
}

/// What a sidecar says of one of its limits.
fn seen(report: LimitReport) -> Option<LimitSeen> {
    let LimitReport {
        policy,
        limit,
        state,
        overshoot_ppm,
        shadowed,
    } = report;
    LimitSeen::read(&policy, limit, &state, overshoot_ppm, shadowed)
}

fn bounded(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(MAX_TEXT)
        .collect()
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}
