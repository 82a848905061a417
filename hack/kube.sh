#!/bin/bash
# Prints the folder that holds the programs of Kubernetes (with etcd, helm, CoreDNS and e2e/cmd/kit), building them when
# needed. They come from the Go module registry as pinned in e2e/go.mod. An existing KUBEBUILDER_ASSETS is used as it is:
# the API-server tests need no more than the four programs that are looked for there; hack/cluster.sh needs all.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
# The names that e2e/cmd/kube is called by.
programs=(etcd helm kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet)

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    for program in etcd kube-apiserver kube-controller-manager kubectl; do
        [ -x "$KUBEBUILDER_ASSETS/$program" ] || die "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $program: unset it to have the programs built"
    done
    echo "$KUBEBUILDER_ASSETS"
    exit
fi

cd "$ROOT/e2e"
required() { awk -v module="$1" '$1 == module { print $2 }' go.mod; }
version=$(required k8s.io/kubernetes)
[ -n "$version" ] || die "e2e/go.mod requires no k8s.io/kubernetes"
minor=${version#v1.}

# A build without these reports v0.0.0-master, which clients and feature gates misread.
stamp="-X helm.sh/helm/v4/internal/version.version=$(required helm.sh/helm/v4)"
for package in k8s.io/client-go/pkg/version k8s.io/component-base/version; do
    stamp+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*} -X $package.gitTreeState=clean"
done
flags=(-mod=readonly -trimpath -tags selinux,notest,grpcnotrace "-gcflags=all=-dwarf=false" -ldflags "-s -w $stamp")
pin=$(cat go.mod go.sum cmd/*/*.go <(printf '%s\n' "${flags[@]}") | sha256sum | cut -c1-12)
dir=$CACHE/k8s-$pin

build() {
    say "building Kubernetes $version, etcd, helm and CoreDNS from Go modules into $dir: about 9 minutes of CPU time without a Go build cache, under a minute with one"
    local start=$SECONDS out=$1 pid
    CGO_ENABLED=0 GOFLAGS= GOWORK=off GOGC=400 go build "${flags[@]}" -o "$out/" ./cmd/... >&2 &
    pid=$!
    while kill -0 $pid 2>/dev/null; do
        sleep 1
        # A line a minute: a silent build looks like a hung one.
        [ $(((SECONDS - start) % 60)) != 59 ] || say "  still building Kubernetes, $((SECONDS - start)) s"
    done
    wait $pid || return 1
    for program in "${programs[@]}"; do ln -s kube "$out/$program"; done
    say "built Kubernetes $version in $((SECONDS - start)) s"
}
# Two builds at once would do the same work twice: the second waits here and finds it done.
mkdir -p "$CACHE"
exec 9>"$CACHE/kube.lock"
flock 9
once "$dir" build 9>&-
echo "$dir"
