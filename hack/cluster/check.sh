#!/bin/bash
# Starts a cluster, sees that it works, ends it, and compares the machine before, meanwhile and afterwards.
# It does so in process, network and mount namespaces of its own: to a cluster they are the machine, and nobody else's
# processes and devices come and go in them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
export CLUSTER=check

if [ -z "${SLUICE_CHECK_INSIDE:-}" ]; then
    # Builds and installs what is missing; that may change the machine, and is not what is compared.
    "$here/../cluster.sh" build
    SLUICE_CHECK_INSIDE=1 exec unshare --net --mount --pid --fork --kill-child --mount-proc "$0"
fi
mount --make-rshared / # as on most machines: what the node mounts must not come back
mount -t tmpfs tmpfs /run
ip link set lo up
work=$(mktemp -d)
cluster() { "$here/../cluster.sh" "$@"; }
trap '[ ! -e /run/sluice/check ] || cluster down; rm -rf "$work"' EXIT

# network, mounts, ...: what a cluster must not touch while it is up.
untouched() {
    cat /proc/self/mountinfo
    ip netns list
    ip -o link | sed 's/ qlen.*//'
    ip -o address
    ip route show table all
    ip rule
    nft list ruleset
    iptables-save | grep -v '^[#:]' || true
    ip6tables-save | grep -v '^[#:]' || true
    sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys \
        kernel.keys.root_maxbytes net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables net.netfilter.nf_conntrack_max 2>&1 || true
    ls -A /opt /etc/cni /var/lib/kubelet /var/lib/containerd /var/log/pods /var/log/containers /etc/kubernetes /usr/libexec/kubernetes 2>&1 || true
}
# And what must be gone afterwards. This process, its parent and what they start to look are no difference.
traces() {
    untouched
    ls -A /run /var/lib/cni 2>&1 || true
    ss -Hlntup
    find /sys/fs/cgroup -name 'sluice-check*' -prune
    local process
    for process in /proc/[0-9]*; do
        [ "${process#/proc/}" = $$ ] || [ "${process#/proc/}" = $BASHPID ] || tr '\0' ' ' 2>/dev/null <"$process/cmdline" || true
    done
}

untouched >"$work/untouched"
traces >"$work/before"
cluster up
untouched | diff "$work/untouched" - >&2 || die "the cluster changed this machine's network, mounts, rules, settings or folders (above)"
say "while it is up: network, mounts, rules, settings and folders of the machine are as before"

say "pods"
cluster kubectl apply -f "$here/check.yaml" >/dev/null
cluster kubectl --namespace check rollout status deployment/web --timeout=60s >&2
cluster kubectl --namespace check wait pod/client pod/redirected pod/api --for=condition=Ready --timeout=60s >&2
answer() { # SERVICE TEXT: what the client pod is told, by the Service's name
    local answer
    answer=$(cluster kubectl --namespace check exec client -- /kit get -within 30s -text "$2" "http://$1/") || die "$1 does not answer with \"$2\""
    say "$1: $answer"
}
answer web "answers on :8080"
answer redirected "answers on :15006"
[ "$(cluster kubectl --namespace check get pod redirected -o 'jsonpath={.status.initContainerStatuses[1].state.running.startedAt}')" ] ||
    die "the native sidecar does not run beside the application"
cluster kubectl wait apiservice/v1.check.sluice.dev --for=condition=Available --timeout=30s >&2
cluster kubectl get --raw /apis/check.sluice.dev/v1 | grep -q '"groupVersion":"check.sluice.dev/v1"' || die "the extension API does not answer"
say "apiservice: answers through the API server"
cluster kubectl delete apiservice v1.check.sluice.dev >&2
cluster kubectl delete namespace check --timeout=60s >&2
cluster status >&2

cluster down
for _ in $(seq 100); do # the kernel takes dead namespaces apart a moment later
    traces >"$work/after"
    if cmp -s "$work/before" "$work/after"; then
        say "after cluster-down nothing is left: mounts, devices, routes, rules, sockets, cgroups, processes, files"
        exit
    fi
    sleep 0.05
done
diff "$work/before" "$work/after" >&2 || true
die "cluster-down left this behind (above)"
