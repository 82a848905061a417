//! Connections to a Redis: made, kept, given up and made again, on the control thread.

use std::{cell::RefCell, rc::Rc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo,
    RedisResult, Script, SetExpiry, SetOptions, TlsCertificates,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use sluice_pipeline::ratelimit::{StoreKey, slice};
use sluice_snapshot::{
    hash::hex,
    unit::store::{RedisMode, Store as Unit, StoreTls},
};
use tokio::{sync::Notify, time::timeout};

use super::{Credentials, breaker::Breaker};
use crate::store_api::StoreError;

/// How long connecting and one probe may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long one call may take before it counts as a time-out. Callers that wait have shorter deadlines of their own.
const DEADLINE: Duration = Duration::from_millis(100);
/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(250);

/// What a connection needs to know.
pub struct Settings {
    pub name: String,
    pub key_prefix: String,
    mode: RedisMode,
    addresses: Vec<String>,
    tls: Option<StoreTls>,
    credentials: Option<Credentials>,
}

impl Settings {
    /// Of a store unit and its credentials.
    pub fn new(unit: &Unit, credentials: Option<Credentials>) -> Self {
        let Unit {
            name,
            mode,
            addresses,
            tls,
            credentials: _,
            key_prefix,
        } = unit.clone();
        Self {
            name,
            key_prefix,
            mode,
            addresses,
            tls,
            credentials,
        }
    }

    fn certificates(&self) -> TlsCertificates {
        let ca = self.tls.as_ref().and_then(|tls| tls.ca.as_ref());
        TlsCertificates {
            client_tls: None,
            root_cert: ca.map(|pem| pem.clone().into_bytes()),
        }
    }

    fn login(&self) -> (Option<String>, Option<String>) {
        let text = |bytes: &sluice_snapshot::SecretBytes| {
            String::from_utf8_lossy(bytes.expose()).into_owned()
        };
        let credentials = self.credentials.as_ref();
        (
            credentials
                .and_then(|credentials| credentials.username.as_ref())
                .map(text),
            credentials
                .and_then(|credentials| credentials.password.as_ref())
                .map(text),
        )
    }

    fn address(&self, address: &str) -> RedisResult<ConnectionAddr> {
        let invalid = || {
            redis::RedisError::from((
                redis::ErrorKind::InvalidClientConfig,
                "an address is host:port",
            ))
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let (host, port) = (
            host.trim_matches(['[', ']']).to_owned(),
            port.parse().map_err(|_| invalid())?,
        );
        Ok(match self.tls {
            Some(_) => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
            None => ConnectionAddr::Tcp(host, port),
        })
    }

    async fn connect(&self) -> RedisResult<Connection> {
        let (username, password) = self.login();
        let addresses = self
            .addresses
            .iter()
            .map(|address| self.address(address))
            .collect::<RedisResult<Vec<_>>>()?;
        match &self.mode {
            RedisMode::Standalone => {
                let mut login = RedisConnectionInfo::default();
                if let Some(username) = username {
                    login = login.set_username(username);
                }
                if let Some(password) = password {
                    login = login.set_password(password);
                }
                let first = addresses
                    .into_iter()
                    .next()
                    .ok_or((redis::ErrorKind::InvalidClientConfig, "no address"))?;
                let info = first.into_connection_info()?.set_redis_settings(login);
                let client = match self.tls {
                    Some(_) => Client::build_with_tls(info, self.certificates())?,
                    None => Client::open(info)?,
                };
                // Deadlines are ours: the library's own would hide which of the two passed.
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT))
                    .set_response_timeout(None);
                Ok(Connection::Single(
                    client
                        .get_multiplexed_async_connection_with_config(&config)
                        .await?,
                ))
            }
            RedisMode::Cluster => {
                let nodes = addresses
                    .into_iter()
                    .map(IntoConnectionInfo::into_connection_info)
                    .collect::<RedisResult<Vec<_>>>()?;
                let mut builder = ClusterClientBuilder::new(nodes).connection_timeout(CONNECT);
                if let Some(username) = username {
                    builder = builder.username(username);
                }
                if let Some(password) = password {
                    builder = builder.password(password);
                }
                if self.tls.is_some() {
                    builder = builder.certs(self.certificates());
                }
                Ok(Connection::Cluster(
                    builder.build()?.get_async_connection().await?,
                ))
            }
            RedisMode::Sentinel { primary } => {
                let mut builder = SentinelClientBuilder::new(
                    addresses,
                    primary.clone(),
                    SentinelServerType::Master,
                )?;
                if let Some(username) = username {
                    builder = builder.set_client_to_redis_username(username);
                }
                if let Some(password) = password {
                    builder = builder.set_client_to_redis_password(password);
                }
                if self.tls.is_some() {
                    builder = builder
                        .set_client_to_redis_tls_mode(redis::TlsMode::Secure)
                        .set_client_to_redis_certificates(self.certificates());
                }
                Ok(Connection::Single(
                    builder.build()?.get_async_connection().await?,
                ))
            }
        }
    }
}

/// A live connection; clones share it.
#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(
        &'a mut self,
        cmd: &'a redis::Cmd,
    ) -> redis::RedisFuture<'a, redis::Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> redis::RedisFuture<'a, Vec<redis::Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// The one connection of a store, for all calls.
pub struct Connections {
    settings: Settings,
    breaker: Breaker,
    /// Told whenever the breaker opens or closes.
    on_change: Box<dyn Fn(bool)>,
    live: RefCell<Option<Connection>>,
    broken: Notify,
    lease_script: Script,
}

impl Connections {
    /// Not connected yet; [`Connections::keep`] connects.
    pub fn new(settings: Settings, on_change: impl Fn(bool) + 'static) -> Self {
        on_change(true);
        Self {
            settings,
            breaker: Breaker::default(),
            on_change: Box::new(on_change),
            live: RefCell::new(None),
            broken: Notify::new(),
            lease_script: Script::new(slice::LEASE_SCRIPT),
        }
    }

    /// Connects, and again whenever the connection was given up. Never ends.
    pub async fn keep(self: Rc<Self>) {
        let store = &self.settings.name;
        let mut told = false;
        loop {
            let failure = match timeout(CONNECT, self.connect_and_probe()).await {
                Ok(Ok(connection)) => {
                    self.live.replace(Some(connection));
                    self.breaker.close();
                    (self.on_change)(false);
                    tracing::info!(store, "the store answers");
                    told = false;
                    self.broken.notified().await;
                    self.live.replace(None);
                    tracing::warn!(
                        store,
                        "the store is away: limits answer as onStoreFailure says"
                    );
                    None
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("it did not answer in time".to_owned()),
            };
            if let Some(reason) = failure
                && !std::mem::replace(&mut told, true)
            {
                tracing::warn!(
                    store,
                    reason,
                    "the store cannot be used; check its address and credentials in SluiceConfig"
                );
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// A connection counts once it has answered: a hung server still accepts.
    async fn connect_and_probe(&self) -> RedisResult<Connection> {
        let mut connection = self.settings.connect().await?;
        redis::cmd("PING")
            .query_async::<()>(&mut connection)
            .await?;
        Ok(connection)
    }

    /// Takes tokens of a global bucket.
    pub async fn lease(
        &self,
        key: &StoreKey,
        request: &slice::Request,
    ) -> Result<slice::Reply, StoreError> {
        let key = key.text(&self.settings.key_prefix);
        let numbers: Vec<i64> = self
            .ask(async |connection| {
                let mut invocation = self.lease_script.key(key);
                for argument in request.args() {
                    invocation.arg(argument);
                }
                invocation.invoke_async(connection).await
            })
            .await?;
        slice::Reply::read(&numbers).ok_or(StoreError::Failed)
    }

    /// Remembers a nonce; whether it was not known before.
    pub async fn nonce(&self, nonce: &[u8; 32], ttl_ms: u64) -> Result<bool, StoreError> {
        let key = format!("{}:nonce:{}", self.settings.key_prefix, hex(nonce));
        let options = SetOptions::default()
            .conditional_set(redis::ExistenceCheck::NX)
            .with_expiration(SetExpiry::PX(ttl_ms.max(1)));
        self.ask(async |connection| {
            let set: Option<String> = redis::cmd("SET")
                .arg(key)
                .arg(1)
                .arg(options)
                .query_async(connection)
                .await?;
            Ok(set.is_some())
        })
        .await
    }

    async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        if self.breaker.is_open() {
            return Err(StoreError::Open);
        }
        let mut connection = self.live.borrow().clone().ok_or(StoreError::Open)?;
        match timeout(DEADLINE, question(&mut connection)).await {
            Ok(Ok(answer)) => {
                self.breaker.answered();
                Ok(answer)
            }
            Ok(Err(error)) => {
                tracing::debug!(store = self.settings.name, %error, "a call failed");
                if error.is_io_error() || error.is_connection_dropped() {
                    self.gave_up(self.breaker.trip());
                }
                Err(StoreError::Failed)
            }
            Err(_) => {
                self.gave_up(self.breaker.timed_out());
                Err(StoreError::TimedOut)
            }
        }
    }

    fn gave_up(&self, now: bool) {
        if now {
            (self.on_change)(true);
            self.broken.notify_one();
        }
    }
}
