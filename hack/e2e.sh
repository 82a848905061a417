#!/bin/bash
# What `make e2e` runs: the tests on a real cluster, with the images and charts of this checkout, and a part of the Gateway
# API's own suite on another. `e2e.sh [FILTER...]`: `conformance` is that part
#   KUBECONFIG            the cluster; without it one is started (CLUSTER=e2e) and ended
#   SLUICE_E2E_REGISTRY   where that cluster pulls our images, like registry.example/sluice/; they are pushed by you
#   PROFILE=dev           images in a third of the time; PROFILE=test: from what `make test` has built
#   KEEP=1                leaves the cluster up
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
export CLUSTER=${CLUSTER:-e2e}
out=$ROOT/target/images
# On a cluster that is given, nobody knows what answers for load balancers.
conformance() {
    [ -n "${KUBECONFIG:-}" ] || CLUSTER=conform SAMPLE=1 hack/conformance.sh
}
if [ "${1:-}" = conformance ]; then
    conformance
    exit
fi
libraries=
[ "${PROFILE:-release}" != test ] || libraries=1

# The tests' own images: a client, and Debian's Redis with the libraries it needs.
own_images() {
    local work version
    work=$(mktemp -d)
    version=$(awk -F '"' '/^version = / { print $2; exit }' Cargo.toml)
    strip -o "$work/sluice-e2e-client" "$(programs sluice-e2e)/sluice-e2e-client"
    LIBRARIES=$libraries hack/oci-image.sh "sluice-e2e-client:$version" "$work/sluice-e2e-client" "$out/sluice-e2e-client.tar"
    LIBRARIES=1 hack/oci-image.sh "sluice-e2e-redis:$version" "$(command -v redis-server)" "$out/sluice-e2e-redis.tar"
    rm -rf "$work"
}

hack/packages.sh
hack/packages.sh images
KUBEBUILDER_ASSETS=$(hack/kube.sh)
export KUBEBUILDER_ASSETS
if [ -z "${SLUICE_E2E_REGISTRY:-}" ]; then
    hack/images.sh
    own_images
fi
[ $# != 0 ] || conformance
if [ -z "${KUBECONFIG:-}" ]; then
    hack/cluster.sh up
    [ -n "${KEEP:-}" ] || trap 'hack/cluster.sh down' EXIT
    hack/cluster.sh load "$out"/*.tar
    KUBECONFIG=$(hack/cluster.sh kubeconfig)
    export KUBECONFIG
fi
"$KUBEBUILDER_ASSETS/kubectl" apply --server-side --filename "$(hack/gateway-api.sh)" >&2
# With the figures that the tests print.
cargo test --locked --workspace --test e2e -- --test-threads=1 --nocapture "$@"
