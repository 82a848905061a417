//! What injected sidecars look like.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Duration, Quantity, choice};

/// How long an app goes on after its pod was deleted, where nobody says: what an endpoint's removal takes, and some more.
const DEFAULT_APP_STOP_DELAY_S: u64 = 5;
/// The longest such delay.
pub const MAX_APP_STOP_DELAY_S: u64 = 600;

/// What injected sidecars look like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Injection {
    /// Threads that carry traffic; by default 1, and 2 in a pod that asks for a whole core or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub data_threads: Option<u16>,
    /// Requests and limits of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<InjectionResources>,
    /// What the sidecar logs beside accesses; info by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// How traffic reaches the sidecar of a pod that does not say; Redirect by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureMode>,
    /// How long an app without a preStop hook of its own goes on after its pod was deleted: whole seconds up to 10m, 5s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_stop_delay: Option<Duration>,
    /// When the sidecar's image is pulled; by its tag by default, as Kubernetes does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
}

impl Injection {
    /// How traffic reaches the sidecar, the default applied.
    pub fn effective_capture(&self) -> CaptureMode {
        self.capture.unwrap_or(CaptureMode::Redirect)
    }

    /// How long an app goes on after its pod was deleted, in whole seconds, the default applied.
    pub fn effective_app_stop_delay_s(&self) -> u64 {
        let Some(delay) = self.app_stop_delay else {
            return DEFAULT_APP_STOP_DELAY_S;
        };
        let millis = u64::try_from(delay.get().as_millis()).unwrap_or(u64::MAX);
        millis.div_ceil(1000).min(MAX_APP_STOP_DELAY_S)
    }

    /// What the sidecar logs, the default applied.
    pub fn effective_log_level(&self) -> LogLevel {
        self.log_level.unwrap_or(LogLevel::Info)
    }
}

/// Requests and limits of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InjectionResources {
    /// What the scheduler sets aside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub requests: BTreeMap<String, Quantity>,
    /// What the container may not exceed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub limits: BTreeMap<String, Quantity>,
}

choice! {
    /// How traffic reaches the sidecar.
    pub enum CaptureMode {
        /// The kernel redirects the pod's inbound TCP connections; an init container sets that up, with NET_ADMIN.
        Redirect,
        /// The names of the app's ports move to the sidecar, for Services whose targetPort is a name; no privilege.
        NamedPorts,
    }
}

choice! {
    /// When an image is pulled.
    pub enum ImagePullPolicy {
        /// At every start.
        Always,
        /// Where the node has none.
        IfNotPresent,
        /// By somebody else.
        Never,
    }
}

choice! {
    /// What a process logs.
    pub enum LogLevel {
        /// Failures only.
        Error = "error",
        /// And what may become one.
        Warn = "warn",
        /// And what changes.
        Info = "info",
        /// And how it is decided.
        Debug = "debug",
        /// And everything else.
        Trace = "trace",
    }
}
