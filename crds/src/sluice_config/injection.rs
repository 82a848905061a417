//! What injected sidecars look like.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Quantity, choice};

/// What injected sidecars look like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Injection {
    /// Threads that carry traffic; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub data_threads: Option<u16>,
    /// Requests and limits of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<InjectionResources>,
    /// What the sidecar logs beside accesses; info by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
}

impl Injection {
    /// Threads that carry traffic, the default applied.
    pub fn effective_data_threads(&self) -> u16 {
        self.data_threads.unwrap_or(1)
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
