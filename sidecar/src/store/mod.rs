//! The stores of the platform (Redis): takes the data plane's calls from their queue, on the control thread, and answers
//! each. Every call has a deadline; a store that fails is given up at once for all and tried again in the background.
//! Nothing of HTTP and no policy is here: the arithmetic of leases is `sluice_pipeline::ratelimit::slice`.

mod breaker;
mod redis;

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use sluice_pipeline::program::{Content, UnitSet};
use sluice_snapshot::{Hash, SecretBytes, Unit, UnitName, unit};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_local},
};

use crate::{
    shared::Shared,
    store_api::{StoreCall, StoreError},
};

/// Answers the data plane's calls for as long as the process lives, with connections that follow the snapshot in force.
/// Must run inside a `LocalSet`.
pub async fn serve(shared: Arc<Shared>, mut calls: mpsc::Receiver<StoreCall>, metrics: Metrics) {
    let mut changes = shared.live.subscribe();
    let mut stores = Stores {
        open: BTreeMap::new(),
        metrics,
    };
    stores.follow(&shared);
    loop {
        tokio::select! {
            biased;
            changed = changes.changed() => match changed {
                Ok(()) => stores.follow(&shared),
                Err(_) => return,
            },
            call = calls.recv() => match call {
                Some(call) => stores.answer(call),
                None => return,
            },
        }
    }
}

/// The stores of the snapshot in force.
struct Stores {
    open: BTreeMap<UnitName, Open>,
    metrics: Metrics,
}

struct Open {
    /// Of the store unit and of its credentials: a change of either makes a new connection.
    identity: (Hash, Option<Hash>),
    connections: Rc<redis::Connections>,
    keeper: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Stores {
    /// Opens what the snapshot names, keeps what is unchanged, closes the rest.
    fn follow(&mut self, shared: &Arc<Shared>) {
        let set = shared.live.units();
        let wanted = wanted(&set);
        self.open.retain(|name, open| {
            wanted
                .get(name)
                .is_some_and(|wanted| wanted.identity == open.identity)
        });
        for (
            name,
            Wanted {
                identity,
                unit,
                credentials,
            },
        ) in wanted
        {
            if !self.open.contains_key(&name) {
                let settings = redis::Settings::new(&unit, credentials);
                let (handle, unit_name, up) = (
                    shared.stores.clone(),
                    name.clone(),
                    self.metrics.up.with_label_values(&[&unit.name]),
                );
                let connections = Rc::new(redis::Connections::new(settings, move |open| {
                    handle.set_open(&unit_name, open);
                    up.set(i64::from(!open));
                }));
                let keeper = spawn_local(connections.clone().keep());
                self.open.insert(
                    name,
                    Open {
                        identity,
                        connections,
                        keeper,
                    },
                );
            }
        }
    }

    /// Answers in a task of its own, so that calls share the connection and none waits for another.
    fn answer(&self, call: StoreCall) {
        let store = match &call {
            StoreCall::Lease(lease) => &lease.store,
            StoreCall::Nonce(nonce) => &nonce.store,
        };
        let connections = self.open.get(store).map(|open| open.connections.clone());
        let metrics = self.metrics.clone();
        let name = store.rest().to_owned();
        spawn_local(async move {
            let label = match call {
                StoreCall::Lease(lease) => {
                    let result = match connections {
                        Some(connections) => connections.lease(&lease.key, &lease.request).await,
                        None => Err(StoreError::Unknown),
                    };
                    let label = label(&result);
                    lease.reply.answer(result);
                    label
                }
                StoreCall::Nonce(nonce) => {
                    let result = match connections {
                        Some(connections) => connections.nonce(&nonce.key, nonce.ttl_ms).await,
                        None => Err(StoreError::Unknown),
                    };
                    let label = label(&result);
                    nonce.reply.answer(result);
                    label
                }
            };
            metrics
                .calls
                .with_label_values(&[name.as_str(), label])
                .inc();
        });
    }
}

/// A store as the snapshot has it.
struct Wanted {
    identity: (Hash, Option<Hash>),
    unit: unit::Store,
    credentials: Option<Credentials>,
}

/// The user name and password of a store.
struct Credentials {
    username: Option<SecretBytes>,
    password: Option<SecretBytes>,
}

fn wanted(set: &UnitSet) -> BTreeMap<UnitName, Wanted> {
    let mut wanted = BTreeMap::new();
    for (name, held) in &set.units {
        if let Content::Unit(unit) = &held.content
            && let Unit::Store(store) = &**unit
        {
            let secret = store
                .credentials
                .as_ref()
                .and_then(|name| set.units.get(name));
            let identity = (held.hash.clone(), secret.map(|secret| secret.hash.clone()));
            let credentials = secret.and_then(|secret| match &secret.content {
                Content::Unit(unit) => match &**unit {
                    Unit::Secret(secret) => Some(Credentials {
                        username: secret.entries.get("username").cloned(),
                        password: secret.entries.get("password").cloned(),
                    }),
                    _ => None,
                },
                Content::Denied(_) => None,
            });
            wanted.insert(
                name.clone(),
                Wanted {
                    identity,
                    unit: store.clone(),
                    credentials,
                },
            );
        }
    }
    wanted
}

const fn label<T>(result: &Result<T, StoreError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(StoreError::Open) => "open",
        Err(StoreError::TimedOut) => "timed-out",
        Err(StoreError::Failed) => "failed",
        Err(StoreError::Unknown) => "unknown",
        Err(StoreError::Overloaded) => "overloaded",
    }
}

/// Metrics of all stores.
#[derive(Clone)]
pub struct Metrics {
    calls: IntCounterVec,
    up: IntGaugeVec,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let calls = IntCounterVec::new(
            Opts::new(
                "sluice_store_calls_total",
                "Calls to a store, by result (`open`: it was given up before).",
            ),
            &["store", "result"],
        )?;
        let up = IntGaugeVec::new(
            Opts::new("sluice_store_up", "1 while the store answers."),
            &["store"],
        )?;
        registry.register(Box::new(calls.clone()))?;
        registry.register(Box::new(up.clone()))?;
        Ok(Self { calls, up })
    }
}
