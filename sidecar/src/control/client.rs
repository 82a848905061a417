//! The stream from the operator: connect, prove, receive, apply, acknowledge.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sluice_pipeline::Program;
use sluice_snapshot::{
    MAX_MESSAGE_BYTES, Version,
    stream::{self, config_client::ConfigClient, down, up},
};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Endpoint};

use super::{
    DataPlane, Metrics, Settings, abilities,
    identity::{self, Certificate, IdentityError, Proof, Roots, TokenFile},
    last_known_good::{LastKnownGood, LastKnownGoodError},
    principal::Principal,
    snapshot::{Pending, Snapshot, UpdateError},
};
use crate::{data::hop::credentials::Issued, metrics::Told, random};

/// How long a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// An idle stream is probed this often, and given up when no answer comes within [`CONNECT`].
const KEEPALIVE: Duration = Duration::from_secs(10);
const REPORT: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// Before anything was sent.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No connection.
    #[error("the operator cannot be reached: {}", chain(.0))]
    Connect(#[from] tonic::transport::Error),
    /// Refused or broken off.
    #[error("the operator ended the stream: {}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    /// Ended without error.
    #[error("the operator closed the stream")]
    Closed,
    /// The two sides disagree on what is held.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The last-known-good cannot be written, so nothing can be acknowledged.
    #[error("the last-known-good cannot be written: {0}")]
    LastKnownGood(std::io::Error),
}

/// The stream's client. It lives as long as the process; sessions come and go.
pub struct Client {
    settings: Settings,
    plane: Arc<dyn DataPlane>,
    metrics: Arc<Metrics>,
    settled: mpsc::Receiver<stream::Settled>,
    file: LastKnownGood,
    roots: Roots,
    token: TokenFile,
    certificate: Certificate,
    snapshot: Snapshot,
    /// Tells this process from others that share its token.
    instance: String,
    /// An update was applied since the last look.
    progress: bool,
}

impl Client {
    /// A client that holds nothing yet.
    pub fn new(
        settings: Settings,
        plane: Arc<dyn DataPlane>,
        metrics: Arc<Metrics>,
        settled: mpsc::Receiver<stream::Settled>,
    ) -> Result<Self, IdentityError> {
        let file =
            LastKnownGood::open(&settings.state_dir).map_err(|error| IdentityError::Roots {
                origin: settings.state_dir.display().to_string(),
                reason: format!("--state-dir cannot be used: {error}"),
            })?;
        Ok(Self {
            roots: Roots::new(settings.roots.clone(), &settings.state_dir),
            token: TokenFile(settings.token_file.clone()),
            certificate: Certificate::default(),
            snapshot: Snapshot::default(),
            instance: instance(),
            progress: false,
            settings,
            plane,
            metrics,
            settled,
            file,
        })
    }

    /// Serves from the last-known-good, if there is one that is whole and ours.
    pub fn restore(&mut self) {
        match self.read_last_known_good() {
            Ok(version) => tracing::info!(%version, "serving from the last-known-good"),
            Err(RestoreError::File(LastKnownGoodError::Absent)) => {
                tracing::info!("no last-known-good: not ready until the operator sends a version");
            }
            Err(error) => tracing::error!(%error, "not serving from the last-known-good"),
        }
    }

    fn read_last_known_good(&mut self) -> Result<Version, RestoreError> {
        let principal = self.principal()?;
        let (version, units) = self.file.read(&principal)?;
        let snapshot = Snapshot::restore(units)?;
        self.compile_and_install(&snapshot)?;
        self.snapshot = snapshot;
        Ok(version)
    }

    /// Whether a session applied something since the last call.
    pub fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// One stream, from connecting to its end.
    pub async fn session(&mut self) -> SessionEnd {
        let end = match self.stream().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        self.metrics.connected.set(0);
        end
    }

    async fn stream(&mut self) -> Result<std::convert::Infallible, SessionEnd> {
        let proof = self.proof()?;
        let (outgoing, receiver) = mpsc::channel(16);
        let hello = stream::Hello {
            build: self.settings.build.clone(),
            features: abilities::features(),
            held: self.snapshot.held(),
            instance: self.instance.clone(),
        };
        // The channel is new and has room.
        let _ = outgoing.send(up_message(up::Kind::Hello(hello))).await;
        let mut incoming = match self.open(&proof, receiver).await {
            Ok(incoming) => incoming,
            Err(end) => {
                if matches!(proof, Proof::Certificate(..)) {
                    // Expired, of an old authority or of a pod the operator no longer knows: the token decides.
                    self.certificate.forget();
                }
                return Err(end);
            }
        };
        self.metrics.connected.set(1);
        self.metrics.connections.inc();
        if self.certificate.renew_at().is_none() {
            let request = self.certificate.request()?;
            self.send(&outgoing, up::Kind::Csr(request)).await?;
        }
        let mut pending = Pending::default();
        let mut told = Told::default();
        let mut report = tokio::time::interval(REPORT);
        report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = incoming.message() => match message.map_err(|status| SessionEnd::Status(Box::new(status)))? {
                    Some(message) => self.receive(message, &mut pending, &outgoing).await?,
                    None => return Err(SessionEnd::Closed),
                },
                Some(settled) = self.settled.recv() => self.send(&outgoing, up::Kind::Settled(settled)).await?,
                _ = report.tick() => {
                    self.send(&outgoing, up::Kind::Report(self.plane.report(&mut told))).await?;
                    if self.certificate.renew_at().is_some_and(|at| at <= unix_now()) {
                        let request = self.certificate.request()?;
                        self.send(&outgoing, up::Kind::Csr(request)).await?;
                    }
                }
            }
        }
    }

    fn proof(&self) -> Result<Proof, IdentityError> {
        match self.certificate.usable(unix_now()) {
            Some((chain, key)) => Ok(Proof::Certificate(chain, key)),
            None => Ok(Proof::Token(self.token.read()?)),
        }
    }

    async fn open(
        &self,
        proof: &Proof,
        receiver: mpsc::Receiver<stream::Up>,
    ) -> Result<Streaming<stream::Down>, SessionEnd> {
        let tls = TlsConnector::from(identity::client_config(self.roots.load()?, proof)?);
        let name = ServerName::try_from(self.settings.operator_name.clone()).map_err(|error| {
            IdentityError::Roots {
                origin: "--operator-name".into(),
                reason: error.to_string(),
            }
        })?;
        let address = self.settings.operator.clone();
        let connect = tower::service_fn(move |_| {
            let (tls, name, address) = (tls.clone(), name.clone(), address.clone());
            async move {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
            }
        });
        let channel = Endpoint::try_from(format!("http://{}", self.settings.operator_name))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(CONNECT)
            .keep_alive_while_idle(true)
            .connect_with_connector(connect)
            .await?;
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Proof::Token(token) = proof {
            let value = format!("Bearer {token}")
                .parse()
                .map_err(|_| IdentityError::Token {
                    path: self.token.0.clone(),
                    source: std::io::Error::other("it is no text that a header can carry"),
                })?;
            request.metadata_mut().insert("authorization", value);
        }
        let mut client =
            ConfigClient::new(channel).max_decoding_message_size(2 * MAX_MESSAGE_BYTES);
        let response = client
            .stream(request)
            .await
            .map_err(|status| SessionEnd::Status(Box::new(status)))?;
        Ok(response.into_inner())
    }

    async fn receive(
        &mut self,
        message: stream::Down,
        pending: &mut Pending,
        outgoing: &mpsc::Sender<stream::Up>,
    ) -> Result<(), SessionEnd> {
        match message.kind {
            Some(down::Kind::Update(piece)) => {
                if let Some(version) = pending.push(piece) {
                    let answer = self.apply(std::mem::take(pending), version)?;
                    self.send(outgoing, answer).await?;
                }
            }
            Some(down::Kind::Certificate(certificate)) => {
                self.certificate.accept(&certificate, unix_now())?;
                self.identify()?;
            }
            Some(down::Kind::Roots(stream::Roots { pem })) => {
                self.roots.replace(&pem)?;
                self.identify()?;
            }
            // A newer operator's message that this build need not know.
            None => {}
        }
        Ok(())
    }

    /// Tells the data plane what proves this sidecar to others.
    fn identify(&self) -> Result<(), IdentityError> {
        if let Some((chain, key)) = self.certificate.usable(unix_now()) {
            self.plane.identify(Issued {
                chain,
                key,
                roots: self.roots.load()?,
                not_after: self.certificate.ends_at(),
            });
        }
        Ok(())
    }

    /// Applies a whole update and writes the last-known-good before it says so. Requests do not wait for the disk: what is in
    /// force and was not written was not acknowledged either.
    fn apply(&mut self, pending: Pending, version: Version) -> Result<up::Kind, SessionEnd> {
        let nack = |unit: String, reason: String| {
            self.metrics.updates.with_label_values(&["refused"]).inc();
            tracing::error!(%version, unit, reason, "a version is refused; the former one goes on serving");
            up::Kind::Nack(stream::Nack {
                version: version.to_string(),
                unit,
                reason,
            })
        };
        let snapshot = match self.snapshot.apply(pending, &version) {
            Ok(snapshot) => snapshot,
            Err(UpdateError::Unit { unit, reason }) => return Ok(nack(unit, reason)),
            Err(error @ UpdateError::Version { .. }) => return Err(error.into()),
        };
        let set = snapshot.unit_set();
        let program = match Program::compile(&set, Some(&self.plane.current())) {
            Ok(program) => program,
            Err(error) => return Ok(nack(error.unit.to_string(), error.reason)),
        };
        let principal = self
            .principal()
            .map_err(|error| SessionEnd::LastKnownGood(std::io::Error::other(error.to_string())))?;
        self.plane.install(program, &set);
        self.snapshot = snapshot;
        self.file
            .write(&principal, &version, self.snapshot.encoded())
            .map_err(SessionEnd::LastKnownGood)?;
        self.progress = true;
        self.metrics.updates.with_label_values(&["applied"]).inc();
        self.metrics.applied_at.set(unix_now());
        tracing::debug!(version = version.short(), "applied");
        Ok(up::Kind::Ack(stream::Ack {
            version: version.to_string(),
        }))
    }

    fn compile_and_install(
        &self,
        snapshot: &Snapshot,
    ) -> Result<(), sluice_pipeline::program::CompileError> {
        let set = snapshot.unit_set();
        let program = Program::compile(&set, Some(&self.plane.current()))?;
        self.plane.install(program, &set);
        Ok(())
    }

    fn principal(&self) -> Result<Principal, RestoreError> {
        Ok(Principal::of_token(&self.token.read()?)?)
    }

    async fn send(
        &self,
        outgoing: &mpsc::Sender<stream::Up>,
        kind: up::Kind,
    ) -> Result<(), SessionEnd> {
        outgoing
            .send(up_message(kind))
            .await
            .map_err(|_| SessionEnd::Closed)
    }
}

/// Why nothing is served from the last-known-good.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    File(#[from] LastKnownGoodError),
    #[error(transparent)]
    Token(#[from] IdentityError),
    #[error(transparent)]
    Principal(#[from] super::principal::NoPrincipal),
    #[error("it does not decode: {0}; was it written by another build?")]
    Update(#[from] UpdateError),
    #[error("it does not compile: {0}; was it written by another build?")]
    Compile(#[from] sluice_pipeline::program::CompileError),
}

fn up_message(kind: up::Kind) -> stream::Up {
    stream::Up { kind: Some(kind) }
}

/// A name that nobody else has.
fn instance() -> String {
    format!("{:016x}{:016x}", random::seed(), random::seed())
}

fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}

/// An error with its causes: transport errors name the reason only there.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
