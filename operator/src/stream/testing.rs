//! A stream server on loopback and sidecars that talk to it: real TLS, real gRPC, real join tokens.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Once},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use prometheus::Registry;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use sluice_process::{Clock, Shutdown};
use sluice_snapshot::{
    Feature, UnitName,
    stream::{
        Ack, Csr, Denied, Down, Hello, Nack, Settled, Unit, Up, config_client::ConfigClient, down,
        unit::Content, up,
    },
};
use sluice_translate::{GroupId, PodRef};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::{
    Context, Published, SessionTable,
    metrics::Metrics,
    published::Snapshot,
    published::tests as making,
    serve,
    table::{Acked, Required},
};
use crate::{
    identity::{Authority, CaMaterial, join::JoinTokens},
    peers,
    state_dir::StateDir,
};

/// The operator's name, as sidecars verify it.
pub const NAME: &str = "sluice-operator.sluice-system.svc";
/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub published: Arc<Published>,
    pub table: Arc<SessionTable>,
    pub authority: Arc<Authority>,
    pub shutdown: Shutdown,
    pub serving: JoinHandle<anyhow::Result<()>>,
    pub clock: Clock,
    tokens: Arc<JoinTokens>,
    state: Arc<StateDir>,
    _dir: TempDir,
}

/// How a sidecar proves itself.
#[derive(Clone)]
pub enum Proof {
    None,
    Token(String),
    Certificate { chain_pem: String, key_der: Vec<u8> },
}

/// A connected sidecar.
#[derive(Debug)]
pub struct Sidecar {
    outgoing: mpsc::Sender<Up>,
    incoming: Streaming<Down>,
    pub roots_pem: String,
}

/// A whole update.
#[derive(Debug, Default)]
pub struct Applied {
    pub version: String,
    pub upserts: BTreeMap<String, Unit>,
    pub removes: Vec<String>,
}

impl Server {
    /// A server that knows no pod.
    pub async fn start() -> Self {
        let material = CaMaterial::generate(Clock::start().wall_s()).expect("a CA");
        Self::of(material).await
    }

    /// One more replica with this CA.
    pub async fn of(material: CaMaterial) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(default_provider().install_default()));
        let dir = tempfile::tempdir().expect("a directory");
        let state = Arc::new(StateDir::open(&dir.path().join("state")).expect("made"));
        let clock = Clock::start();
        let authority =
            Authority::new(material, NAME, "shop.example", clock.wall_s()).expect("an authority");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let tokens = Arc::new(JoinTokens::new(state.clone()));
        let context = Context {
            published: Arc::default(),
            table: SessionTable::new(),
            authority: Arc::new(authority),
            tokens: tokens.clone(),
            metrics: Metrics::register(&Registry::new()).expect("registers"),
            clock,
            shutdown: Shutdown::default(),
        };
        let peers = peers::Service {
            replica: address.to_string(),
            table: context.table.clone(),
            metrics: peers::Metrics::register(&Registry::new()).expect("registers"),
            shutdown: context.shutdown.clone(),
        };
        Self {
            address,
            published: context.published.clone(),
            table: context.table.clone(),
            authority: context.authority.clone(),
            shutdown: context.shutdown.clone(),
            clock,
            tokens,
            state,
            _dir: dir,
            serving: tokio::spawn(serve(Arc::new(context), listener, Some(peers))),
        }
    }

    /// Places pods into groups that must hold `snapshot`, and makes their tokens.
    pub fn place(&self, pods: &[(&GroupId, PodRef)], snapshot: &Arc<Snapshot>) {
        making::place(&self.published, pods, snapshot);
        let all = self.published.pods();
        let named = all
            .iter()
            .map(|(_, pod)| (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()));
        self.tokens.keep(named).expect("kept");
    }

    /// The token of a pod.
    pub fn token(&self, pod: &str) -> Proof {
        let file = JoinTokens::file("shop", pod);
        let token = self.state.read(Path::new(&file)).expect("reads");
        Proof::Token(String::from_utf8(token.expect("exists")).expect("text"))
    }

    /// The roots in force.
    pub fn roots(&self) -> String {
        self.authority.roots().borrow().to_string()
    }

    /// Connects, says Hello with every feature and nothing held.
    pub async fn join(&self, proof: Proof) -> Result<Sidecar, Status> {
        let mut sidecar = self.open(proof, &self.roots()).await?;
        sidecar.hello(&Feature::ALL, &BTreeMap::new()).await;
        Ok(sidecar)
    }

    /// Connects and speaks HTTP/2's preface, and no more.
    pub async fn connect(&self) -> Silent {
        let tls = TlsConnector::from(Arc::new(client_config(&self.roots(), &Proof::None)));
        let stream = TcpStream::connect(self.address).await.expect("connects");
        let name = ServerName::try_from(NAME).expect("a name");
        let mut stream = tls.connect(name, stream).await.expect("shakes hands");
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        stream.write_all(preface).await.expect("writes");
        Silent(stream)
    }

    /// Connects and opens the stream.
    pub async fn open(&self, proof: Proof, roots_pem: &str) -> Result<Sidecar, Status> {
        let (outgoing, receiver) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Proof::Token(token) = &proof {
            let value = format!("Bearer {token}").parse().expect("a header");
            request.metadata_mut().insert("authorization", value);
        }
        let channel = self.dial(&proof, roots_pem).await?;
        let mut client = ConfigClient::new(channel).max_decoding_message_size(1024 * 1024);
        let response = timeout(PATIENCE, client.stream(request))
            .await
            .expect("an answer in time")?;
        Ok(Sidecar {
            outgoing,
            incoming: response.into_inner(),
            roots_pem: String::new(),
        })
    }

    /// A connection for any gRPC client; a token is the client's to present.
    pub async fn channel(&self, proof: &Proof) -> Result<Channel, Status> {
        self.dial(proof, &self.roots()).await
    }

    async fn dial(&self, proof: &Proof, roots_pem: &str) -> Result<Channel, Status> {
        let tls = TlsConnector::from(Arc::new(client_config(roots_pem, proof)));
        let address = self.address;
        let connect = tower::service_fn(move |_| {
            let tls = tls.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from(NAME).expect("a name");
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
            }
        });
        Endpoint::from_static("http://operator")
            .connect_with_connector(connect)
            .await
            .map_err(|error| Status::unavailable(format!("{error:?}")))
    }
}

/// A TLS connection that asks for nothing.
pub struct Silent(TlsStream<TcpStream>);

impl Silent {
    pub async fn read_exact(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        timeout(PATIENCE, self.0.read_exact(bytes))
            .await
            .expect("in time")
    }

    /// Whether the other side ends it while that long nothing else comes.
    pub async fn is_closed_within(&mut self, quiet: Duration) -> bool {
        let mut bytes = [0; 1024];
        loop {
            match timeout(quiet, self.0.read(&mut bytes)).await {
                Err(_) => return false,
                Ok(Ok(0) | Err(_)) => return true,
                Ok(Ok(_)) => {}
            }
        }
    }
}

/// TLS of a sidecar that trusts `roots_pem`.
fn client_config(roots_pem: &str, proof: &Proof) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        roots.add(root.expect("PEM")).expect("a root");
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match proof {
        Proof::Certificate { chain_pem, key_der } => {
            let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
                .map(|certificate| certificate.expect("PEM"))
                .collect();
            let key = PrivateKeyDer::try_from(key_der.clone()).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("accepted")
        }
        Proof::None | Proof::Token(_) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

impl Sidecar {
    pub async fn say(&self, kind: up::Kind) {
        let up = Up { kind: Some(kind) };
        self.outgoing.send(up).await.expect("the stream is open");
    }

    pub async fn hello(&mut self, features: &[Feature], held: &BTreeMap<String, String>) {
        self.say(up::Kind::Hello(Hello {
            build: "test".into(),
            features: features
                .iter()
                .map(|feature| feature.name().to_owned())
                .collect(),
            held: held.clone().into_iter().collect(),
            instance: String::new(),
        }))
        .await;
    }

    pub async fn ack(&self, applied: &Applied) {
        let version = applied.version.clone();
        self.say(up::Kind::Ack(Ack { version })).await;
    }

    pub async fn nack(&self, applied: &Applied, unit: &UnitName) {
        self.say(up::Kind::Nack(Nack {
            version: applied.version.clone(),
            unit: unit.to_string(),
            reason: "it does not compile".into(),
        }))
        .await;
    }

    pub async fn settled(&self, unit: &UnitName, epoch: u64, hash: &str) {
        self.say(up::Kind::Settled(Settled {
            unit: unit.to_string(),
            epoch,
            hash: hash.to_owned(),
        }))
        .await;
    }

    /// The next message, or how the stream ended.
    pub async fn message(&mut self) -> Result<down::Kind, Status> {
        let message = timeout(PATIENCE, self.incoming.message())
            .await
            .expect("a message in time")?;
        message
            .and_then(|down| down.kind)
            .ok_or_else(|| Status::cancelled("the stream ended"))
    }

    /// The next whole update; roots on the way are kept.
    pub async fn update(&mut self) -> Result<Applied, Status> {
        let mut applied = Applied::default();
        loop {
            match self.message().await? {
                down::Kind::Update(piece) => {
                    applied.version = piece.version;
                    applied.removes.extend(piece.removes);
                    let upserts = piece.upserts.into_iter();
                    applied
                        .upserts
                        .extend(upserts.map(|unit| (unit.name.clone(), unit)));
                    if piece.last {
                        return Ok(applied);
                    }
                }
                down::Kind::Roots(roots) => self.roots_pem = roots.pem,
                down::Kind::Certificate(_) => {}
            }
        }
    }

    /// An update that is acknowledged.
    pub async fn apply(&mut self) -> Applied {
        let applied = self.update().await.expect("an update");
        self.ack(&applied).await;
        applied
    }

    /// Asks for a certificate; the request names `wish`, which must be ignored.
    pub async fn certificate(&mut self, wish: &str) -> Proof {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new([wish.to_owned()]).expect("parameters");
        let request = params.serialize_request(&key).expect("a request");
        let der = request.der().to_vec();
        self.say(up::Kind::Csr(Csr { der })).await;
        loop {
            if let down::Kind::Certificate(certificate) = self.message().await.expect("a message") {
                return Proof::Certificate {
                    chain_pem: certificate.chain,
                    key_der: key.serialize_der(),
                };
            }
        }
    }

    /// How the stream ended.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.message().await {
                return status;
            }
        }
    }
}

impl Applied {
    /// Names of what came.
    pub fn names(&self) -> Vec<&str> {
        self.upserts.keys().map(String::as_str).collect()
    }

    /// Why a unit is denied.
    pub fn denied(&self, name: &UnitName) -> Option<&str> {
        match &self.upserts.get(name.as_str())?.content {
            Some(Content::Denied(Denied { reason })) => Some(reason),
            _ => None,
        }
    }

    /// `name -> hash`, as Hello says it.
    pub fn held(&self) -> BTreeMap<String, String> {
        self.upserts
            .iter()
            .map(|(name, unit)| (name.clone(), unit.hash.clone()))
            .collect()
    }
}

/// The whole of a snapshot, acknowledged.
pub fn acked(snapshot: &Snapshot, at: Instant) -> Acked {
    Acked {
        version: snapshot.version.clone(),
        manifest: snapshot.manifest.clone(),
        denied: BTreeMap::new(),
        at,
    }
}

/// That these pods must hold the whole of a snapshot.
pub fn required(snapshot: &Snapshot, pods: &[PodRef]) -> [Required; 1] {
    [Required {
        units: snapshot
            .manifest
            .iter()
            .map(|(name, hash)| (name.clone(), hash.clone()))
            .collect(),
        pods: pods.to_vec(),
    }]
}

/// Waits until a condition holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("{what}: not in time"));
}
