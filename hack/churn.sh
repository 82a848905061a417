#!/bin/bash
# Thousands of HTTPRoutes at two edges of one Gateway, on a real API server: routes come and go under load, and what a fleet
# of them costs. One test of the real-servers tier, which there runs as a sample; here with optimised binaries and bounds.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
[ "$(id -u)" = 0 ] || die "run this as root: the test has network namespaces of its own"
KUBEBUILDER_ASSETS=$(hack/kube.sh)
export KUBEBUILDER_ASSETS
# As shipped but for linking: a whole program at a time would take as long again and change little here.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
say "building the optimised binaries: about 10 minutes on 2 cores the first time"
cargo build --quiet --locked --release --workspace --exclude sluice-fuzz --bins
export SLUICE_STANDING_ROUTES=${1:-5000} SLUICE_ROUTE_CHANGES=${2:-3000}
exec cargo test --locked --release --workspace --test real_servers -- --nocapture --test-threads=1 many_routes
