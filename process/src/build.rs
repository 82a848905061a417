//! Which build this is. The commit is given by whoever builds an image (`SLUICE_COMMIT`), so that a plain
//! `cargo build` does not recompile on each commit.

use prometheus::{IntGaugeVec, Opts, Registry};

/// The version of the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, or `unknown` where the build was not told.
pub const COMMIT: &str = match option_env!("SLUICE_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Version and commit for people: `0.1.0 (3f9c1a2)`.
pub fn describe() -> String {
    format!("{VERSION} ({COMMIT})")
}

/// Registers `<prefix>_build_info{version,commit} 1`, the usual join partner of dashboards.
pub fn register(registry: &Registry, prefix: &str) -> Result<(), prometheus::Error> {
    let info = IntGaugeVec::new(
        Opts::new(format!("{prefix}_build_info"), "Which build runs; always 1"),
        &["version", "commit"],
    )?;
    info.with_label_values(&[VERSION, COMMIT]).set(1);
    registry.register(Box::new(info))
}
