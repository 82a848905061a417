//! The status of objects in a cluster, by the user's own kubeconfig. Objects are read without their types, so that one
//! that does not decode stops nothing.

use std::{env, path::PathBuf, time::Duration};

use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use serde_json::Value;
use sluice_crds::{GROUP, VERSION};

use super::{
    kind::{Kind, Selector},
    report::Seen,
};
use crate::output::chain;

const CONNECT: Duration = Duration::from_secs(5);
const READ: Duration = Duration::from_secs(20);
/// Objects of one page of a list.
const PAGE: u32 = 500;

/// Why a cluster does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nothing says where one is.
    #[error(
        "no cluster: tried {0}. Name a kubeconfig with --kubeconfig FILE, or the state directory of an operator without a cluster with --state-dir DIR"
    )]
    NoConfig(String),
    /// A kubeconfig that was named and cannot be used.
    #[error("the kubeconfig cannot be used{}", .0.as_ref().map(|context| format!(" with context {context:?} (kubectl config get-contexts lists them)")).unwrap_or_default())]
    Config(Option<String>, #[source] KubeconfigError),
    /// Nobody there, or not who was expected.
    #[error(
        "{url} does not answer: {cause}. Is the cluster up, and is this the right context (kubectl config current-context)?"
    )]
    Unreachable {
        /// The API server.
        url: String,
        /// What the connection said.
        cause: String,
    },
    /// No such resource.
    #[error(
        "{url} knows no {plural}.sluice.dev: Sluice is not installed there. Install its kinds with `kubectl apply -f crds/yaml`"
    )]
    NotInstalled {
        /// The API server.
        url: String,
        /// The resource.
        plural: &'static str,
    },
    /// Not allowed.
    #[error(
        "not allowed to read {plural}.sluice.dev {place}: {message}. `kubectl auth can-i list {plural}.sluice.dev` tells; -n asks for one namespace only"
    )]
    Forbidden {
        /// The resource.
        plural: &'static str,
        /// Where.
        place: String,
        /// What the API server said.
        message: String,
    },
    /// Not recognised.
    #[error("{url} does not recognise you: {message}. Log in again, or choose another --context")]
    Unauthorized {
        /// The API server.
        url: String,
        /// What the API server said.
        message: String,
    },
    /// Anything else.
    #[error("{url} answers {code}: {message}")]
    Refused {
        /// The API server.
        url: String,
        /// The HTTP status.
        code: u16,
        /// What the API server said.
        message: String,
    },
}

/// What the command line says about the cluster.
#[derive(Debug)]
pub struct Wish {
    /// The kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// The context.
    pub context: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// Or all of them.
    pub all_namespaces: bool,
}

/// A cluster and what is asked of it.
pub struct Cluster {
    client: Client,
    url: String,
    /// None: all.
    namespace: Option<String>,
}

impl Cluster {
    /// Finds the cluster; it is asked only by [`Cluster::read`].
    pub async fn connect(wish: Wish) -> Result<Self, ClusterError> {
        let mut config = config(&wish).await?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(READ);
        let url = config.cluster_url.to_string();
        let namespace = match wish.all_namespaces {
            true => None,
            false => Some(
                wish.namespace
                    .unwrap_or_else(|| config.default_namespace.clone()),
            ),
        };
        let client = Client::try_from(config).map_err(|error| ClusterError::Unreachable {
            url: url.clone(),
            cause: chain(&error),
        })?;
        Ok(Self {
            client,
            url,
            namespace,
        })
    }

    /// The client, the API server's address, and the namespace that is meant; none: all.
    pub fn parts(&self) -> (Client, &str, Option<&str>) {
        (self.client.clone(), &self.url, self.namespace.as_deref())
    }

    /// The objects that are meant.
    pub async fn read(&self, selector: &Selector) -> Result<Vec<Seen>, ClusterError> {
        let kind = selector.kind;
        let gvk = GroupVersionKind::gvk(GROUP, VERSION, kind.as_str());
        let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural());
        let client = self.client.clone();
        let api: Api<DynamicObject> = match &self.namespace {
            None => Api::all_with(client, &resource),
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        };
        // A list with a field selector: it works over all namespaces too, and tells a missing object from a missing kind.
        let mut params = ListParams::default().limit(PAGE);
        if let Some(name) = &selector.name {
            params = params.fields(&format!("metadata.name={name}"));
        }
        let mut seen = Vec::new();
        loop {
            let page = api
                .list(&params)
                .await
                .map_err(|error| self.explain(error, kind))?;
            seen.extend(page.items.into_iter().map(|object| seen_as(object, kind)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(seen),
            }
        }
    }

    fn explain(&self, error: kube::Error, kind: Kind) -> ClusterError {
        let url = self.url.clone();
        let kube::Error::Api(status) = error else {
            return ClusterError::Unreachable {
                url,
                cause: chain(&error),
            };
        };
        let message = status.message.clone();
        match status.code {
            401 => ClusterError::Unauthorized { url, message },
            403 => ClusterError::Forbidden {
                plural: kind.plural(),
                place: match &self.namespace {
                    None => "in all namespaces".to_owned(),
                    Some(namespace) => format!("in namespace {namespace}"),
                },
                message,
            },
            404 => ClusterError::NotInstalled {
                url,
                plural: kind.plural(),
            },
            code => ClusterError::Refused { url, code, message },
        }
    }
}

fn seen_as(object: DynamicObject, kind: Kind) -> Seen {
    let DynamicObject {
        types: _,
        metadata,
        mut data,
    } = object;
    Seen {
        kind,
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        created: metadata.creation_timestamp,
        generation: metadata.generation,
        status: data.get_mut("status").map(Value::take).unwrap_or_default(),
    }
}

/// The kubeconfig that was named; else the one kubectl would take; else, where nothing was named, the pod's own account.
async fn config(wish: &Wish) -> Result<Config, ClusterError> {
    let options = KubeConfigOptions {
        context: wish.context.clone(),
        ..KubeConfigOptions::default()
    };
    let unusable = |error| ClusterError::Config(wish.context.clone(), error);
    if let Some(path) = &wish.kubeconfig {
        let read = Kubeconfig::read_from(path).map_err(unusable)?;
        return Config::from_custom_kubeconfig(read, &options)
            .await
            .map_err(unusable);
    }
    let outside = match Config::from_kubeconfig(&options).await {
        Ok(config) => return Ok(config),
        Err(error @ (KubeconfigError::ReadConfig(..) | KubeconfigError::FindPath)) => error,
        Err(error) => return Err(unusable(error)),
    };
    Config::incluster().map_err(|_| {
        let named = match env::var_os("KUBECONFIG") {
            Some(path) => format!("$KUBECONFIG ({})", path.to_string_lossy()),
            None => "$KUBECONFIG (not set), ~/.kube/config".to_owned(),
        };
        ClusterError::NoConfig(format!(
            "{named}, a pod's service account (this is no pod); {}",
            chain(&outside)
        ))
    })
}
