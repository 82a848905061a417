//! The product's own programs as processes. All flags that tests pass stand in this folder, one file per program, so
//! that a renamed flag is one edit. What the programs should do is the tests'.

mod app;
mod operator;
mod sidecar;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

pub use app::App;
pub use operator::{NAME as OPERATOR_NAME, Operator, OperatorOptions};
pub use sidecar::{Sidecar, SidecarOptions};

/// The audience of the tokens that sidecars show the operator.
pub const AUDIENCE: &str = "sluice";

/// A program of the workspace, as cargo built it beside the test binary.
pub fn binary(name: &str) -> Result<PathBuf> {
    // .../target/debug/deps/real_servers-0123456789abcdef
    let test = std::env::current_exe()?;
    let folder = test
        .parent()
        .and_then(|deps| deps.parent())
        .context("a test binary lies in target/PROFILE/deps")?;
    let path = folder.join(name);
    ensure!(
        path.exists(),
        "{} does not exist: `make build` builds the programs that tests start",
        path.display()
    );
    Ok(path)
}
