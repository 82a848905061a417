//! References that several resources share, and the methods of HTTP.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{DnsLabel, ObjectName, choice};

choice! {
    /// The methods of HTTP (RFC 9110 section 9, RFC 5789).
    pub enum HttpMethod {
        /// Read a resource.
        Get = "GET",
        /// Read its headers only.
        Head = "HEAD",
        /// Process the enclosed content.
        Post = "POST",
        /// Replace the resource.
        Put = "PUT",
        /// Remove the resource.
        Delete = "DELETE",
        /// Establish a tunnel.
        Connect = "CONNECT",
        /// Ask what is possible.
        Options = "OPTIONS",
        /// Loop the request back.
        Trace = "TRACE",
        /// Change parts of the resource.
        Patch = "PATCH",
    }
}

choice! {
    /// The kind of a reference that can only be a Service.
    pub enum ServiceKind {
        /// A core Service.
        Service,
    }
}

choice! {
    /// The kind of what a route attaches to.
    pub enum ParentKind {
        /// A core Service: the sidecars of its pods enforce the route.
        Service,
        /// A Gateway: its edge enforces the route.
        Gateway,
    }
}

/// A port of a Service in the namespace of the object that points at it.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// Kind of the backend; Service is the only one and the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<ServiceKind>,
    /// Name of the Service.
    pub name: ObjectName,
    /// Port of the Service (not of its pods).
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

/// A store of SluiceConfig by name; its address never stands in a policy.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct StoreRef {
    /// Name of an entry of SluiceConfig's `stores`.
    pub name: DnsLabel,
}
