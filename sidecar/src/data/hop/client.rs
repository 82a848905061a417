//! Connections to other sidecars, kept for one data thread: a pool for each namespace, port of hops and port that requests
//! are for. New credentials begin with new pools; what runs ends on the old ones.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, sync::Arc};

use sluice_pipeline::program::Backend;
use sluice_snapshot::unit::backend::BackendProtocol;

use super::{credentials::Credentials, server::server_name};
use crate::data::{
    thread::Thread,
    tls::{TlsError, client::Client},
    upstream::{LOOK_EVERY, Pool, UpstreamError},
};

/// Pools at a time; past it all begin anew.
const MAX_POOLS: usize = 256;

/// What one pool is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    hop: u16,
    port: u16,
    http2: bool,
}

/// The pools of one data thread.
#[derive(Default)]
pub struct HopPools {
    made_with: RefCell<Option<Arc<Credentials>>>,
    pools: RefCell<HashMap<Key, Pool>>,
}

impl HopPools {
    /// The connections to endpoints of a backend that take hops at port `hop`. None: this sidecar cannot prove itself, and
    /// the endpoint is to be reached as anybody reaches it.
    pub fn of(
        &self,
        thread: &Thread,
        backend: &Backend,
        endpoint: SocketAddr,
        hop: u16,
    ) -> Result<Option<Pool>, UpstreamError> {
        let wall_s = thread.clock().wall_s();
        let credentials = thread.shared.credentials.load_full();
        let Some(credentials) = credentials.filter(|known| known.is_valid(wall_s)) else {
            return Ok(None);
        };
        let mut made_with = self.made_with.borrow_mut();
        let same = made_with
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &credentials));
        let mut pools = self.pools.borrow_mut();
        if !same || pools.len() >= MAX_POOLS {
            pools.clear();
            *made_with = Some(Arc::clone(&credentials));
        }
        let key = Key {
            namespace: backend.namespace.clone(),
            hop,
            port: endpoint.port(),
            http2: backend.protocol == BackendProtocol::H2c,
        };
        if let Some(pool) = pools.get(&key) {
            return Ok(Some(pool.clone()));
        }
        let client = client(&credentials, &key).map_err(|cause| UpstreamError::Policy {
            policy: "the certificate for hops".into(),
            cause,
        })?;
        let pool = thread.pool.over_hops(Rc::new(client), hop);
        pools.insert(key, pool.clone());
        Ok(Some(pool))
    }

    /// Closes idle connections in the background, for as long as the thread lives.
    pub async fn keep_tidy(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for pool in self.pools.borrow().values() {
                pool.purge();
            }
        }
    }
}

fn client(credentials: &Credentials, key: &Key) -> Result<Client, TlsError> {
    let Key {
        namespace,
        hop: _,
        port,
        http2,
    } = key;
    let config = credentials.client(namespace, *http2)?;
    Client::for_hops(config, &server_name(*port), *http2)
}
