#!/usr/bin/env bash
# The quickstart without a cluster: builds, starts everything on loopback, sends requests, prints what came
# back. `ONCE=1` (or --once) ends by itself. The work is done by examples/demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

die() {
    echo "demo: $*" >&2
    exit 1
}
command -v cargo >/dev/null || die "cargo is missing: install Rust 1.92 or newer (https://rustup.rs)"
if ! command -v cc >/dev/null; then
    # One dependency, the cryptography library, is compiled from C.
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || die "a C compiler is missing: install gcc and libc6-dev"
    echo "Installing a C compiler ..."
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev >&2
fi
case "${ONCE:-}" in
'' | 0) ;;
*) set -- --once "$@" ;;
esac

echo "Building (the first time takes some minutes) ..."
# The same command as `make build`, so that demo and tests share one set of binaries.
cargo build --locked --workspace --bins
exec "${CARGO_TARGET_DIR:-target}/debug/sluice-example-demo" "$@"
