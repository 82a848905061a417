#!/bin/bash
# Everything `make test` runs, in order, stopping at the first failure. Each step says its name and the seconds so far.
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
docs() { RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --workspace; }

step "programs: Debian packages" hack/packages.sh
step "programs: Kubernetes" kubernetes
step "cargo fmt" cargo fmt --all --check
step "cargo clippy" cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
step "cargo deny" hack/deny.sh bans licenses sources
step "cargo doc" docs
# Product binaries first: the tiers below start them. The whole workspace at once, so that features unify alike in every step.
step "cargo build" cargo build --quiet --locked --workspace --all-targets
step "unit tests" cargo test --locked --workspace --exclude sluice-tests
step "fixture's own tests" cargo test --locked --package sluice-tests --lib
for tier in in_process real_servers; do
    [ -e "tests/tests/$tier.rs" ] || [ -d "tests/tests/$tier" ] || die "tests/tests/$tier.rs is missing"
    step "tier $tier" cargo test --locked --package sluice-tests --test "$tier"
done
say "[$(printf %4d $SECONDS) s] all passed"
