//! The contract between operator and sidecar: the units of configuration as plain serde types, how they are named and
//! hashed, and the stream that carries them. It holds no behaviour: no kube, no tokio, no clock, no I/O.
//!
//! A *snapshot* is the list `name -> hash` that one group of pods must hold, with the bodies. Its version is a hash of that
//! list, so that two operators that agree on the resources agree on the version.

pub mod error;
pub mod feature;
pub mod hash;
pub mod map;
pub mod name;
pub mod secret;
pub mod unit;

/// The gRPC types of the config stream, generated from `proto/stream.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)] // generated
pub mod stream {
    tonic::include_proto!("sluice.stream.v1");
}

pub use error::{ConfigError, ConfigReason};
pub use feature::Feature;
pub use hash::{Hash, Version};
pub use map::UnitMap;
pub use name::{UnitKind, UnitName};
pub use secret::SecretBytes;
pub use unit::Unit;

/// The largest body of a unit, in bytes. `resolve` turns a larger one into a finding.
pub const MAX_UNIT_BYTES: usize = 512 * 1024;

/// The largest encoded message of the stream, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// The ALPN protocol of the stream and the audience of the tokens that open it.
pub const TOKEN_AUDIENCE: &str = "sluice";
