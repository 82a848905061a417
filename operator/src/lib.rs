//! The control plane of Sluice: sources in, config streams and status out. Translation itself is `sluice_translate` and
//! pure; here is all the I/O around it.

pub mod children;
pub mod cli;
pub mod coalesce;
pub mod engine;
pub mod identity;
pub mod leader;
pub mod load;
pub mod moves;
pub mod peers;
pub mod run;
pub mod scaling;
pub mod sinks;
pub mod sources;
pub mod state_dir;
pub mod status;
pub mod stream;
pub mod tls_listener;
pub mod webhook;
