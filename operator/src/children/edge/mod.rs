//! The edge of a Gateway: account, Deployment, Service and disruption budget, made by server-side apply and owned by the
//! Gateway. Applied where they differ from what was applied, and now and then anew; deleted when the Gateway is not ours any
//! more (with the Gateway itself the API server's garbage collection takes them). Somebody else's object of the same name is
//! left alone. How many pods there are is said once, at first: from then on the number is the user's, or an autoscaler's.

mod addresses;
mod build;
mod objects;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context as _;
use kube::{
    Api, Client, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
    },
};
use prometheus::{IntCounterVec, Opts, Registry};
use serde_json::{Value, json};
use sluice_process::Shutdown;
use sluice_translate::{EdgeIntent, View, edge::IntentError, world::GATEWAY_LABEL};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::hpa::MANAGED_BY;
use crate::{
    engine::Handle,
    leader::{Leadership, NotLeader},
    status::store::FIELD_MANAGER,
    webhook::Sidecar,
};
pub use addresses::{Address, follow};
use build::Pod;
use objects::{Made, is_ours};

/// The manager of `spec.replicas`, which is said once.
const FIRST_MANAGER: &str = "sluice-operator-first";
/// How often everything is applied anew, so that edits by others do not last.
const RESYNC: Duration = Duration::from_secs(60);
/// When to try again after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Changes are collected for as long.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Namespace and name of a Gateway.
pub type Name = (String, String);

/// How far the edge of a Gateway has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Why its objects are not as they should be.
    pub trouble: Option<String>,
    /// Addresses that the Gateway asks for.
    pub asked: BTreeSet<IpAddr>,
    /// Where clients reach it.
    pub addresses: Vec<Address>,
}

impl State {
    /// An address that is asked for and was not given.
    pub fn not_given(&self) -> Option<IpAddr> {
        let given = |asked: &IpAddr| {
            let is_it = |address: &Address| match address {
                Address::Ip(ip) => ip.parse() == Ok(*asked),
                Address::Hostname(_) => false,
            };
            self.addresses.iter().any(is_it)
        };
        self.asked.iter().find(|asked| !given(asked)).copied()
    }
}

/// How far edges have come.
#[derive(Debug)]
pub struct Edges {
    states: RwLock<HashMap<Name, State>>,
    /// Whether edges are made here at all: without a cluster their addresses are not known.
    made: bool,
    changes: watch::Sender<u64>,
}

impl Edges {
    /// Of a cluster.
    pub fn of_cluster() -> Self {
        Self::new(true)
    }

    /// Of file mode: whoever starts edges knows where they are.
    pub fn of_files() -> Self {
        Self::new(false)
    }

    fn new(made: bool) -> Self {
        Self {
            states: RwLock::default(),
            made,
            changes: watch::Sender::new(0),
        }
    }

    /// How far one has come; `None` where no edges are made.
    pub fn get(&self, namespace: &str, name: &str) -> Option<State> {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        self.made
            .then(|| states.get(&key).cloned().unwrap_or_default())
    }

    /// Ticks with every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn change(&self, name: &Name, change: impl FnOnce(&mut State)) {
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = states.get(name).cloned().unwrap_or_default();
        change(&mut state);
        let former = match state == State::default() {
            true => states.remove(name),
            false => states.insert(name.clone(), state.clone()),
        };
        drop(states);
        if former.unwrap_or_default() != state {
            self.changes.send_modify(|count| *count += 1);
        }
    }
}

/// What the keeper works with.
pub struct Wiring {
    /// The API server.
    pub client: Client,
    /// What should be there.
    pub engine: Handle,
    /// Whether to write.
    pub leadership: Leadership,
    /// Who is told how far it came.
    pub edges: Arc<Edges>,
    /// What an edge runs.
    pub sidecar: Sidecar,
    /// Roots that a new edge trusts first.
    pub roots: watch::Receiver<Arc<str>>,
}

/// Why an object is not as it should be.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error("{0} exists and is not this Gateway's: rename it, or the Gateway")]
    Taken(String),
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    #[error("{0} could not be written: {1}")]
    Api(String, Box<kube::Error>),
    #[error("{0}: the API server did not answer in time")]
    Timeout(String),
}

/// Keeps the objects of edges.
pub struct Keeper {
    wiring: Wiring,
    writes: IntCounterVec,
    /// What was applied and not changed since.
    applied: BTreeMap<Name, (EdgeIntent, Pod)>,
}

type Wanted = BTreeMap<Name, Result<EdgeIntent, IntentError>>;

impl Keeper {
    /// A keeper that has applied nothing yet.
    pub fn new(wiring: Wiring, registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "sluice_operator_edge_writes_total",
            "Writes of the objects of edges, by outcome",
        );
        let writes = IntCounterVec::new(opts, &["outcome"])?;
        registry.register(Box::new(writes.clone()))?;
        Ok(Self {
            wiring,
            writes,
            applied: BTreeMap::new(),
        })
    }

    /// Keeps until shutdown, from the moment that this replica leads.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = self.wiring.leadership.won() => {}
        }
        let mut deltas = self.wiring.engine.deltas();
        let mut roots = self.wiring.roots.clone();
        let mut resync = Instant::now();
        loop {
            let read = |engine: &sluice_translate::Engine| {
                (engine.edges(), View::new(engine.world()).config())
            };
            let Ok((wanted, config)) = self.wiring.engine.read(read).await else {
                shutdown.begun().await;
                return Ok(());
            };
            let due = Instant::now() >= resync;
            if due {
                self.applied.clear();
            }
            let injection = config.and_then(|config| config.injection.clone());
            let pod = Pod::new(
                &self.wiring.sidecar,
                &roots.borrow_and_update(),
                injection.as_ref(),
            );
            let mut done = self.apply_all(&wanted, &pod).await;
            if due {
                done &= self.sweep(&wanted).await;
                resync = Instant::now() + RESYNC;
            }
            let wait = match done {
                true => resync.saturating_duration_since(Instant::now()),
                false => RETRY,
            };
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                _ = deltas.recv() => {}
                changed = roots.changed() => changed.context("nobody knows the roots any more")?,
                () = sleep(wait) => {}
            }
            sleep(PAUSE).await;
            while deltas.try_recv().is_ok() {}
        }
    }

    /// Applies what differs and deletes what is not wanted any more: whether all of it succeeded.
    async fn apply_all(&mut self, wanted: &Wanted, pod: &Pod) -> bool {
        let mut done = true;
        let gone: Vec<_> = self
            .applied
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            match self.delete_all(&name).await {
                Ok(()) => drop(self.applied.remove(&name)),
                Err(error) => done = self.failed(&name, &error),
            }
            self.wiring
                .edges
                .change(&name, |state| *state = State::default());
        }
        for (name, intent) in wanted {
            // Where the parameters cannot be read, what runs stays as it is; the Gateway's status says why.
            let Ok(intent) = intent else {
                continue;
            };
            let is_applied = self
                .applied
                .get(name)
                .is_some_and(|(applied, with)| applied == intent && with == pod);
            if is_applied {
                continue;
            }
            let trouble = match self.apply(intent, pod).await {
                Ok(()) => {
                    self.applied
                        .insert(name.clone(), (intent.clone(), pod.clone()));
                    None
                }
                Err(error) => {
                    done = self.failed(name, &error);
                    match error {
                        ApplyError::NotLeader(_) => continue,
                        error => Some(error.to_string()),
                    }
                }
            };
            self.wiring.edges.change(name, |state| {
                state.trouble = trouble;
                state.asked.clone_from(&intent.addresses);
            });
        }
        done
    }

    fn failed(&self, (namespace, gateway): &Name, error: &ApplyError) -> bool {
        self.writes.with_label_values(&["failed"]).inc();
        tracing::warn!(namespace, gateway, %error, "the edge of a Gateway");
        false
    }

    async fn apply(&self, intent: &EdgeIntent, pod: &Pod) -> Result<(), ApplyError> {
        for (made, object) in build::all(intent, pod) {
            let written = self.apply_one(made, intent, &object).await?;
            if made == Made::Deployment && !says_replicas(&written) {
                self.first_replicas(&written, intent).await?;
            }
        }
        Ok(())
    }

    async fn apply_one(
        &self,
        made: Made,
        intent: &EdgeIntent,
        object: &Value,
    ) -> Result<DynamicObject, ApplyError> {
        let name = objects::name(&intent.gateway.name);
        let what = made.describe(&intent.gateway.namespace, &name);
        let api = self.api(made, &intent.gateway.namespace);
        let there = within(&what, api.get_opt(&name)).await?;
        let mut object = object.clone();
        match &there {
            Some(there) if !is_ours(there, &intent.uid) => return Err(ApplyError::Taken(what)),
            // That very object: one that somebody makes in its place is not taken over. Its version is no matter, controllers
            // write its status all the time.
            Some(there) => object["metadata"]["uid"] = json!(there.uid()),
            None => {}
        }
        let params = PatchParams::apply(FIELD_MANAGER);
        let params = match there {
            Some(_) => params.force(),
            // What somebody makes in between says otherwise, and is left alone.
            None => params,
        };
        self.wiring.leadership.check()?;
        let written = within(&what, api.patch(&name, &params, &Patch::Apply(&object))).await?;
        self.writes.with_label_values(&["applied"]).inc();
        Ok(written)
    }

    /// Says how many pods there are, as somebody who says it once: whoever says otherwise later wins.
    async fn first_replicas(
        &self,
        deployment: &DynamicObject,
        intent: &EdgeIntent,
    ) -> Result<(), ApplyError> {
        let name = deployment.name_any();
        let what = Made::Deployment.describe(&intent.gateway.namespace, &name);
        let resource = Made::Deployment.resource();
        let object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "uid": deployment.uid()},
            "spec": {"replicas": intent.parameters.replicas},
        });
        self.wiring.leadership.check()?;
        let api = self.api(Made::Deployment, &intent.gateway.namespace);
        let params = PatchParams::apply(FIRST_MANAGER).force();
        within(&what, api.patch(&name, &params, &Patch::Apply(&object)))
            .await
            .map(drop)
    }

    /// Deletes the objects of a Gateway that are ours.
    async fn delete_all(&self, (namespace, gateway): &Name) -> Result<(), ApplyError> {
        let name = objects::name(gateway);
        for made in Made::ALL {
            let what = made.describe(namespace, &name);
            let api = self.api(made, namespace);
            let there = within(&what, api.get_opt(&name)).await?;
            let Some(there) = there.filter(|there| objects::is_of(there, gateway)) else {
                continue;
            };
            self.delete(made, &there).await?;
        }
        Ok(())
    }

    async fn delete(&self, made: Made, there: &DynamicObject) -> Result<(), ApplyError> {
        let (namespace, name) = (there.namespace().unwrap_or_default(), there.name_any());
        let what = made.describe(&namespace, &name);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: there.uid(),
                ..Preconditions::default()
            }),
            // Pods go with their Deployment, and drain.
            ..DeleteParams::background()
        };
        self.wiring.leadership.check()?;
        let api = self.api(made, &namespace);
        match within(&what, api.delete(&name, &params)).await {
            Ok(_) => {
                self.writes.with_label_values(&["deleted"]).inc();
                tracing::info!(what, "deleted: its Gateway is not ours any more");
                Ok(())
            }
            Err(ApplyError::Api(_, error)) if is_gone(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes what a former leader has left of Gateways that are not ours any more.
    async fn sweep(&self, wanted: &Wanted) -> bool {
        let ours = format!("{MANAGED_BY}={FIELD_MANAGER},{GATEWAY_LABEL}");
        let ours = ListParams::default().labels(&ours);
        let mut done = true;
        for made in Made::ALL {
            let all: Api<DynamicObject> =
                Api::all_with(self.wiring.client.clone(), &made.resource());
            let list = match within(made.plural(), all.list(&ours)).await {
                Ok(list) => list,
                Err(error) => {
                    tracing::warn!(%error, "cannot look for edges that a former leader has left");
                    done = false;
                    continue;
                }
            };
            for there in list {
                let gateway = there.labels().get(GATEWAY_LABEL).cloned();
                let name = (
                    there.namespace().unwrap_or_default(),
                    gateway.unwrap_or_default(),
                );
                if wanted.contains_key(&name) || !objects::is_of(&there, &name.1) {
                    continue;
                }
                if let Err(error) = self.delete(made, &there).await {
                    done = self.failed(&name, &error);
                }
            }
        }
        done
    }

    fn api(&self, made: Made, namespace: &str) -> Api<DynamicObject> {
        let resource: ApiResource = made.resource();
        Api::namespaced_with(self.wiring.client.clone(), namespace, &resource)
    }
}

async fn within<T>(
    what: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApplyError> {
    timeout(TIMEOUT, request)
        .await
        .map_err(|_| ApplyError::Timeout(what.to_owned()))?
        .map_err(|error| ApplyError::Api(what.to_owned(), Box::new(error)))
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether somebody has said how many pods there are: a user, an autoscaler, or we at first.
fn says_replicas(deployment: &DynamicObject) -> bool {
    deployment.managed_fields().iter().any(|manager| {
        let fields = manager.fields_v1.as_ref();
        fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_ticks_and_what_says_nothing_is_forgotten() {
        let edges = Edges::of_cluster();
        let name = ("shop".to_owned(), "public".to_owned());
        let mut changes = edges.changes();
        edges.change(&name, |state| state.trouble = None);
        assert!(!changes.has_changed().expect("open"));
        edges.change(&name, |state| state.trouble = Some("no".into()));
        assert!(changes.has_changed().expect("open"));
        changes.mark_unchanged();
        edges.change(&name, |state| state.trouble = Some("no".into()));
        assert!(!changes.has_changed().expect("open"));
        edges.change(&name, |state| state.trouble = None);
        assert!(edges.states.read().expect("sound").is_empty());
        assert_eq!(edges.get("shop", "public"), Some(State::default()));
        assert_eq!(Edges::of_files().get("shop", "public"), None);
    }

    #[test]
    fn replicas_are_said_once() {
        let by = |manager: &str, fields: Value| -> DynamicObject {
            serde_json::from_value(json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "a", "managedFields": [{"manager": manager, "operation": "Apply", "fieldsV1": fields}]},
            }))
            .expect("an object")
        };
        let strategy = json!({"f:spec": {"f:strategy": {}}});
        assert!(!says_replicas(&by(FIELD_MANAGER, strategy)));
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        assert!(says_replicas(&by("kubectl", replicas)));
    }
}
