//! The control plane of Sluice: sources in, config streams and status out. Translation itself is `sluice_translate` and
//! pure; here is all the I/O around it.

pub mod cli;
pub mod coalesce;
pub mod engine;
pub mod identity;
pub mod run;
pub mod sinks;
pub mod sources;
pub mod state_dir;
pub mod stream;
