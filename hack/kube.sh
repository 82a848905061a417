#!/bin/bash
# Prints the folder that holds kube-apiserver, kube-controller-manager and kubectl, building them when needed.
# They come from the Go module registry as pinned in e2e/go.mod; an existing KUBEBUILDER_ASSETS is used as it is.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
programs="kube-apiserver kube-controller-manager kubectl"

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    for program in $programs; do
        [ -x "$KUBEBUILDER_ASSETS/$program" ] || die "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $program: unset it to have the programs built"
    done
    echo "$KUBEBUILDER_ASSETS"
    exit
fi

cd "$ROOT/e2e"
version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' go.mod)
[ -n "$version" ] || die "e2e/go.mod requires no k8s.io/kubernetes"
minor=${version#v1.}

# A build without these reports v0.0.0-master, which clients and feature gates misread.
stamp=""
for package in k8s.io/client-go/pkg/version k8s.io/component-base/version; do
    stamp+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*} -X $package.gitTreeState=clean"
done
flags=(-mod=readonly -trimpath -tags selinux,notest,grpcnotrace "-gcflags=all=-dwarf=false" -ldflags "-s -w $stamp")
pin=$(cat go.mod go.sum <(printf '%s\n' "${flags[@]}") | sha256sum | cut -c1-12)
dir=$CACHE/k8s-$pin

build() {
    say "building $programs $version from Go modules into $dir: 7 to 13 minutes on 2 cores without a warm Go build cache, under a minute with one"
    local start=$SECONDS out=$1 pid
    CGO_ENABLED=0 GOFLAGS= GOWORK=off GOGC=400 go build "${flags[@]}" -o "$out/" tool >&2 &
    pid=$!
    while kill -0 $pid 2>/dev/null; do
        sleep 1
        # A line a minute: a silent build looks like a hung one.
        [ $(((SECONDS - start) % 60)) != 59 ] || say "  still building Kubernetes, $((SECONDS - start)) s"
    done
    wait $pid || return 1
    for program in $programs; do [ -x "$out/$program" ] || { say "the Go build made no $program"; return 1; }; done
    say "built Kubernetes $version in $((SECONDS - start)) s"
}
once "$dir" build
echo "$dir"
