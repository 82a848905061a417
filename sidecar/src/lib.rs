//! The data plane of Sluice: takes its configuration from the operator over one stream and enforces it on the requests
//! of one pod.
//!
//! | folder | holds |
//! |---|---|
//! | [`control`] | the stream to the operator, the last-known-good, roots and certificate |
//! | [`capture`] | the init step that redirects a pod's connections, and whom they were for |
//! | [`store`] | stores that sidecars share (Redis), behind [`store_api`] |
//! | [`data`] | data threads: listeners, the phases of a request in order, upstream connections |
//! | [`limits`], [`nonces`], [`cache`], [`tokens`], [`shards`] | live state, keyed by stable ids, that outlives programs |
//! | [`parent`], [`listeners`], [`drain`] | process 1 and the sockets it holds; how a sidecar leaves |
//! | [`probes`] | the kubelet's probes, performed in its place |
//! | [`metrics`], [`log`], [`admin`] | what people see |
//!
//! Policy itself is decided in `sluice-pipeline`; here is the I/O around it.

pub mod admin;
pub mod cache;
pub mod capture;
pub mod cli;
pub mod control;
pub mod data;
pub mod drain;
pub mod limits;
pub mod listeners;
pub mod log;
mod memory;
pub mod metrics;
pub mod nonces;
pub mod parent;
pub mod probes;
mod random;
pub mod run;
pub mod shards;
pub mod shared;
pub mod store;
pub mod store_api;
mod supervise;
pub mod tokens;
