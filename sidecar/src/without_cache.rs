//! Entry point of `sluice-sidecar-without-cache`, a build for tests that lacks one feature, as a sidecar of a former
//! version would beside a newer operator.

use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluice_sidecar::run::main()
}
