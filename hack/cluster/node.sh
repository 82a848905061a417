#!/bin/bash
# The node itself, from the outside in: `node.sh enter STATE` gives this process cgroups and namespaces of its own and
# becomes process 1 in them, `node.sh init STATE`, which lays out mounts and starts the daemons. cluster.sh starts it.
set -eEuo pipefail
here=$(cd "$(dirname "$0")" && pwd)
verb=$1 STATE=$2
. "$here/../lib.sh"
. "$here/cgroups.sh"
. "$here/config.sh"
. "$STATE/env" # NAME NODE_IP POD_SUBNET SERVICE_SUBNET SERVICE_IP DNS_IP PROGRAMS IMAGES
umask 022

enter() {
    cgroups_enter "$STATE/cgroups"
    # Two steps: the cgroup namespace's root is where its maker is, and process 1 shall not be in the root.
    exec unshare --cgroup "$0" settle "$STATE"
}

settle() {
    cgroups_settle "$STATE/cgroups"
    exec unshare --net --mount --pid --uts --ipc --fork --kill-child --mount-proc --propagation slave "$0" init "$STATE"
}

# Everything below happens in the node.

# The node's files are in memory: they end with its mount namespace, no disk is waited for, and overlayfs works on top
# even where this machine's root is an overlay itself.
NODE=$STATE/node

mounts() {
    # First an empty /run that still has STATE in it, as mount(8) writes into /run. The order leaves no mount hidden below
    # another: kubelet takes any mount of a file system to ask how full it is, and fails when it cannot reach it.
    mount --no-mtab -t tmpfs -o mode=0755 run "$NODE"
    mkdir -p "$NODE${STATE#/run}"
    mount --no-mtab --bind "$STATE" "$NODE${STATE#/run}"
    mount --no-mtab --move "$NODE" /run
    mount -t sysfs sysfs /sys # shows the devices of this network namespace
    cgroups_mount "$STATE/cgroups"
    mount -t tmpfs -o mode=0755 node "$NODE"
    mkdir -p "$NODE"/{containerd,etcd,kubelet,log/pods,cni,cni-state,plugins,sysctl}
    mount --bind "$NODE/log" /var/log
    mount --bind "$NODE/cni-state" /var/lib/cni
    # kubelet sets these for the whole machine. It finds them as it wants them, in files that lie over the real ones.
    local setting
    for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
        kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
        [ -e "/proc/sys/${setting%=*}" ] || continue
        echo "${setting#*=}" >"$NODE/sysctl/${setting//\//.}"
        mount --bind "$NODE/sysctl/${setting//\//.}" "/proc/sys/${setting%=*}"
    done
    # Commands in the node resolve the cluster's names. On some machines the file is a link into /run.
    echo "nameserver $DNS_IP
search default.svc.cluster.local svc.cluster.local cluster.local
options ndots:5" >"$NODE/resolv.conf"
    local resolver
    resolver=$(readlink -m /etc/resolv.conf)
    mkdir -p "$(dirname "$resolver")"
    [ -e "$resolver" ] || : >"$resolver"
    mount --bind "$NODE/resolv.conf" "$resolver"
    mount --make-rshared / # what kubelet mounts has to reach the containers
}

network() {
    ip link set lo up
    wait_for "the network device, which cluster.sh makes" test -e /sys/class/net/eth0
    ip address add "$NODE_IP/24" dev eth0
    ip link set eth0 up
    ip route add default via "${NODE_IP%.*}.1"
    # Without the second, a Service's answer from a pod on the same bridge would not be translated back.
    sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
}

# wait_for WHAT COMMAND...: for at most 30 seconds.
wait_for() {
    local what=$1 try
    shift
    for try in $(seq 600); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.05
    done
    say "waited 30 s for $what: $*"
    return 1
}

declare -A daemons=()

# run NAME COMMAND...: starts a daemon that logs to NAME.log.
run() {
    local name=$1
    shift
    "$@" >"$STATE/log/$name.log" 2>&1 </dev/null &
    daemons[$!]=$name
}

init() {
    trap 'say "node.sh: line $LINENO failed: $BASH_COMMAND"; echo "the node did not start: see the log \"node\"" >>"$STATE/ended"' ERR
    hostname "$NAME"
    ulimit -n "$(ulimit -Hn)"
    mounts
    run forward "$PROGRAMS/kit" forward "$NODE_IP:6443"
    exec {SLUICE_FORWARD_FD}>&- # the machine's port is held by its forwarder alone, and ends with it
    unset SLUICE_FORWARD_FD
    network
    write_config

    run etcd "$PROGRAMS/etcd" "${etcd_flags[@]}"
    run containerd containerd --config "$NODE/containerd.toml"
    run kube-apiserver "$PROGRAMS/kube-apiserver" "${apiserver_flags[@]}"
    wait_for containerd ctr version
    local image
    for image in "$IMAGES"/*.tar; do
        ctr --namespace k8s.io images import "$image" >>"$STATE/log/images.log" 2>&1
    done
    touch "$STATE/images-imported"
    "$PROGRAMS/kit" get -within 60s "https://$NODE_IP:6443/readyz" >/dev/null
    run kube-controller-manager "$PROGRAMS/kube-controller-manager" "${controller_manager_flags[@]}"
    run kube-scheduler "$PROGRAMS/kube-scheduler" "${scheduler_flags[@]}"
    run kubelet "$PROGRAMS/kubelet" "${kubelet_flags[@]}"
    run kube-proxy "$PROGRAMS/kube-proxy" --config "$NODE/kube-proxy.yaml"

    # From here on process 1 reaps what others leave behind, and writes down which daemon has ended.
    trap - ERR
    local pid status
    while :; do
        status=0
        wait -n -p pid || status=$?
        [ -n "${pid:-}" ] || { sleep 1; continue; }
        echo "${daemons[$pid]} ended with status $status: see its log" >>"$STATE/ended"
        unset "daemons[$pid]"
    done
}

case $verb in
enter | settle | init) $verb ;;
*) die "node.sh enter|settle|init STATE; cluster.sh calls it" ;;
esac
