#!/bin/bash
# What `make conformance` runs: the Gateway API's own conformance suite against the images and charts of this checkout, on a
# cluster that is started for it (CLUSTER=conform). The report goes to docs/conformance/. Which features are tested is what
# the GatewayClass says in its status. `conformance.sh [FLAG...]`: more flags of the suite
#   RUN=NAME       one test, no report
#   SAMPLE=1       a dozen tests, no report: what `make e2e` runs
#   PROFILE=dev    images in a third of the time; PROFILE=test: from what `make test` has built
#   KEEP=1         leaves the cluster up, to look into; end it before the next run
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
export CLUSTER=${CLUSTER:-conform}
module=$ROOT/e2e/conformance
crds=$(hack/gateway-api.sh)
version=${crds##*-}
report=$ROOT/docs/conformance/gateway-api-$version.yaml
profiles=GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS
# Addresses for documentation (RFC 5737): nobody else has them. One that a Gateway can ask for, and one that it cannot have.
addresses=198.51.100.0/24
usable=198.51.100.200 unusable=203.0.113.1

# The suite, its backends' program and images, the provider of load balancers.
flags=(-mod=readonly -trimpath -ldflags "-s -w")
pin=$(cat "$module"/go.{mod,sum} "$module"/*.go "$module"/*/*.go <(printf '%s\n' "${flags[@]}") | sha256sum | cut -c1-12)
dir=$CACHE/conformance-$pin
build() {
    say "building the conformance suite of the Gateway API $version from Go modules into $dir: about 3 minutes of CPU time without a Go build cache"
    cd "$module" && export CGO_ENABLED=0 GOFLAGS= GOWORK=off &&
        go test "${flags[@]}" -c -o "$1/suite" . >&2 &&
        go build "${flags[@]}" -o "$1/" ./balancer tool >&2 &&
        images "$1" "$(go list -mod=readonly -m -f '{{.Dir}}' sigs.k8s.io/gateway-api/conformance)"
}
# images OUT SUITE: one for each name in the suite's manifests. What backends of UDP run is never asked: nothing of ours
# speaks UDP, but all pods of a namespace are waited for.
images() {
    local name
    mkdir "$1/images"
    for name in $(grep --recursive --no-filename --include='*.yaml' 'image: ' "$2/base" "$2/tests" | awk '{ print $NF }' | sort -u); do
        "$ROOT/hack/oci-image.sh" "$name" "$1/echo-basic" "$1/images/$(tr '/:' '--' <<<"$name").tar" || return 1
    done
}
(once "$dir" build)

hack/packages.sh
hack/packages.sh images
KUBEBUILDER_ASSETS=$(hack/kube.sh)
export KUBEBUILDER_ASSETS
hack/images.sh
hack/cluster.sh up
balancer=
leave() {
    [ -z "$balancer" ] || kill "$balancer"
    [ -n "${KEEP:-}" ] || hack/cluster.sh down
}
trap leave EXIT
hack/cluster.sh load "$dir"/images/*.tar target/images/sluice-{operator,sidecar}.tar
KUBECONFIG=$(hack/cluster.sh kubeconfig)
export KUBECONFIG

kubectl() { hack/cluster.sh kubectl "$@" >&2; }
kubectl apply --server-side --filename "$crds"
kubectl wait --for=condition=Established --timeout=60s crd --all
hack/cluster.sh helm upgrade --install sluice-crds charts/sluice-crds --namespace sluice-system --create-namespace >&2
# Some tests want eight Gateways at once: edges that ask for little, one of each, fit on one node of two cores.
small=(--set config.edges.replicas=1 --set config.edges.resources.requests.cpu=5m --set config.edges.resources.requests.memory=16Mi)
hack/cluster.sh helm upgrade --install sluice charts/sluice --namespace sluice-system "${small[@]}" --wait --timeout 120s >&2
# The same tag may mean another image now.
kubectl --namespace sluice-system rollout restart deployment
kubectl --namespace sluice-system rollout status deployment --timeout=120s
kubectl wait --for=condition=Accepted --timeout=60s gatewayclass/sluice
"$dir/balancer" $addresses >&2 &
balancer=$!

# In the node, where Services and their addresses are reached; the API server's address on this machine is not.
state=$(dirname "$KUBECONFIG")
inside=$state/conformance.kubeconfig
(umask 077 && . "$state/env" && sed "s#https://[0-9.:]*#https://$NODE_IP:6443#" "$KUBECONFIG" >"$inside")
said=$state/report.yaml
product=$(awk -F '"' '/^version = / { print $2; exit }' Cargo.toml)
suite=("$dir/suite" -test.v -test.timeout=60m --gateway-class=sluice "--conformance-profiles=$profiles" --cleanup-base-resources=false
    # One test at a time: all edges of all tests at once are more than one node of two cores takes.
    --disable-parallel-tests "--usable-address=$usable" "--unusable-address=$unusable"
    --organization=sluice --project=sluice --url=https://sluice.dev "--version=$product" --contact=https://sluice.dev "--report-output=$said")
[ -z "${RUN:-}" ] || suite+=("--run-test=$RUN")
# One of each kind of route, of listeners, of grants, of TLS and of status.
sample=(GatewayModifyListeners GatewayObservedGenerationBump GatewayWithAttachedRoutes GatewaySecretMissingReferenceGrant
    HTTPRouteSimpleSameNamespace HTTPRouteMatching HTTPRouteHTTPSListener HTTPRouteReferenceGrant HTTPRouteWeight
    GRPCExactMethodMatching TLSRouteSimpleSameNamespace ListenerSetReferenceGrant BackendTLSPolicy)
[ -z "${SAMPLE:-}" ] || suite+=(-test.run "^TestConformance\$/^($(IFS='|' && echo "${sample[*]}"))\$")
status=0
hack/cluster.sh in env KUBECONFIG="$inside" "${suite[@]}" "$@" | tee "$state/suite.log" || status=$?
# A test whose feature the class does not claim is skipped, and one that is called otherwise now is not there: neither is red.
for name in ${SAMPLE:+"${sample[@]}"}; do
    grep -q "^    --- PASS: TestConformance/$name " "$state/suite.log" || { say "$name did not pass"; status=1; }
done
if [ -z "${RUN:-}${SAMPLE:-}" ] && [ -s "$said" ]; then
    mkdir -p "$(dirname "$report")"
    cp "$said" "$report"
    say "the report is in ${report#"$ROOT/"}"
fi
exit $status
