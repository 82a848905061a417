//! Entry point of `sluice-sidecar`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice_sidecar::run::main()
}
