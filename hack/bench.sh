#!/bin/bash
# What `make bench` runs: the product as it is shipped (release profile, each binary built by itself so that no other's
# features are in it), then the bench drivers, which write docs/performance.md.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
hack/packages.sh bench
say "building the release binaries: about 10 minutes on 2 cores the first time"
for package in sluice-sidecar sluice-example-app sluice-bench; do
    cargo build --quiet --locked --release --package $package
done
exec "${CARGO_TARGET_DIR:-target}/release/sluice-bench" "$@"
