#!/bin/bash
# What `make bench` runs: the sidecar as it is shipped (release profile, built by itself so that no other's features are in
# it), the bench drivers with the same optimisation, and the operator that configures the sidecar, whose speed is not
# measured. The drivers write docs/performance.md.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
hack/packages.sh bench
say "building the release binaries: about 10 minutes on 2 cores the first time"
for package in sluice-sidecar sluice-bench; do
    cargo build --quiet --locked --release --package $package
done
cargo build --quiet --locked --package sluice-operator
say "measuring: about 6 minutes; what else runs on this machine shows in the figures"
target=${CARGO_TARGET_DIR:-target}
exec "$target/release/sluice-bench" --sidecar "$target/release/sluice-sidecar" --operator "$target/debug/sluice-operator" "$@"
