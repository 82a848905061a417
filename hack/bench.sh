#!/bin/bash
# What `make bench` runs: the sidecar's static binary, the very one that its image holds, the bench drivers with the same
# optimisation, and the operator that configures the sidecar, whose speed is not measured. The drivers write
# docs/performance.md; `bench.sh gate` holds the limits instead.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
hack/packages.sh bench
# Without it, its column says so.
if envoy=$(hack/envoy.sh); then PATH=$PATH:$envoy; fi
say "building the release binaries: about 10 minutes on 2 cores the first time"
shipped=$(PROFILE=release hack/static.sh sluice-sidecar)
cargo build --quiet --locked --release --package sluice-bench
cargo build --quiet --locked --package sluice-operator
[ "${1:-}" = gate ] || say "measuring: about 15 minutes; what else runs on this machine shows in the figures"
target=${CARGO_TARGET_DIR:-target}
exec "$target/release/sluice-bench" --sidecar "$shipped/sluice-sidecar" --operator "$target/debug/sluice-operator" "$@"
