#!/bin/bash
# New connections and changing routes for SECONDS: memory must not grow, descriptors must come back. One test of the
# in-process tier, which there runs as a sample.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
[ "$(id -u)" = 0 ] || die "run this as root: the test has network namespaces of its own"
cargo build --quiet --locked --workspace --bins
SLUICE_SOAK_SECONDS=${1:-120} exec cargo test --locked --workspace --test in_process -- --nocapture --test-threads=1 connections::soak
