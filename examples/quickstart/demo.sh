#!/usr/bin/env bash
# The quickstart without a cluster: builds, starts everything on loopback, sends requests, prints what came
# back. `ONCE=1` (or --once) ends by itself. The work is done by examples/demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

command -v cargo >/dev/null || {
    echo "cargo is missing: install Rust from https://rustup.rs first" >&2
    exit 1
}
case "${ONCE:-}" in
'' | 0) ;;
*) set -- --once "$@" ;;
esac

echo "Building (the first time takes some minutes) ..."
# The same command as `make build`, so that demo and tests share one set of binaries.
cargo build --locked --workspace --bins
exec "${CARGO_TARGET_DIR:-target}/debug/sluice-example-demo" "$@"
