#!/bin/bash
# Everything `make test` runs, in order, stopping at the first failure. Each step says its name and the seconds so far.
#   NO_CLUSTER=1  without the step that starts a cluster, where mounts and control groups may not be made
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

[ "$(id -u)" = 0 ] || die "run this as root, or in a container as root: each test has network namespaces of its own"

step() {
    local name=$1 began=$SECONDS
    shift
    say "[$(printf %4d $SECONDS) s] $name"
    "$@" || die "$name failed after $((SECONDS - began)) s: $*"
}
kubernetes() { KUBEBUILDER_ASSETS=$(hack/kube.sh) && export KUBEBUILDER_ASSETS; }
clients() { hack/clients.sh >/dev/null; }
docs() { RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --workspace; }

# A red run is the change's own doing, and the next one shows it again; `make properties` looks for new cases.
export PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-1}

# The tests that lie beside the crates, as `--test NAME`; those of the tests/ package are the tiers below.
beside=()
shopt -s nullglob
for file in {*,*/*}/tests/{*.rs,*/main.rs}; do
    case $file in tests/* | e2e/* | target/*) continue ;; esac
    name=${file##*/tests/}
    name=${name%.rs}
    beside+=(--test "${name%/main}")
done

# Always the whole workspace, whatever is filtered: a smaller selection has other features and is compiled anew.
step "programs: Debian packages" hack/packages.sh
step "programs: Kubernetes" kubernetes
step "programs: clients of the tests" clients
step "cargo fmt" cargo fmt --all --check
step "cargo clippy" cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
step "cargo deny" hack/deny.sh bans licenses sources
step "cargo doc" docs
# The tiers start the product's binaries, which `cargo test` alone would not bring up to date.
step "cargo build" cargo build --quiet --locked --workspace --all-targets
# Beside the current sidecar, one that lacks a feature, as a former version does.
step "cargo build, the older sidecar" cargo build --quiet --locked --workspace --features sluice-sidecar/without-cache --bin sluice-sidecar-without-cache
# The fuzz targets are binaries that never end.
step "unit tests" cargo test --locked --workspace --exclude sluice-fuzz --lib --bins
[ ${#beside[@]} = 0 ] || step "tests beside the crates" cargo test --locked --workspace "${beside[@]}"
step "documentation tests" cargo test --quiet --locked --workspace --doc
step "fuzzing, a sample" hack/fuzz.sh 16
# One after another: what measures latency must not compete with its neighbours for two cores.
step "in-process tier" cargo test --locked --workspace --test in_process -- --test-threads=1
step "real-server tier" cargo test --locked --workspace --test real_servers -- --test-threads=1
# Of the tests on a real cluster, those of the main way; `make e2e` runs all, with the images as they are shipped.
if [ -z "${NO_CLUSTER:-}" ]; then step "real cluster: the quickstart" env PROFILE=test hack/e2e.sh quickstart; fi
say "[$(printf %4d $SECONDS) s] all passed"
