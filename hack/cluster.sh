#!/bin/bash
# One real Kubernetes node on this machine, in namespaces of its own. docs/cluster.md explains it.
#   cluster.sh up                start it and wait until it answers; nothing happens if it is up
#   cluster.sh down              end it and remove every trace
#   cluster.sh kubeconfig        print the path of its kubeconfig, for use on this machine
#   cluster.sh kubectl|helm ...  with that kubeconfig
#   cluster.sh load FILE.tar...  import images (OCI archives) into the node
#   cluster.sh in COMMAND...     run a command in the node: its network, its mounts, the cluster's DNS
#   cluster.sh wan COMMAND...    run a command in the network that joins the clusters of this machine
#   cluster.sh logs [NAME]       a daemon's log, or the list of them
#   cluster.sh status            what runs, and how much memory it takes
#   cluster.sh build             only build and install what it is made of
#   cluster.sh check             start one named "check", see that it works, and that nothing of it is left
# CLUSTER names it (default: default), so that several run at once; PORT chooses the API server's port on this machine.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
. "$here/cluster/pki.sh"
. "$here/cluster/cgroups.sh"
. "$here/cluster/wan.sh"

NAME=${CLUSTER:-default}
# It is a host name, a node name and, after "to-", the name of a network device, which has at most 15 letters.
[[ $NAME =~ ^[a-z]([a-z0-9-]{0,10}[a-z0-9])?$ ]] || die "CLUSTER=$NAME: use at most 12 of a-z, 0-9 and -, a letter first"
STATES=/run/sluice STATE=/run/sluice/$NAME

# What kubectl and helm remember belongs to this cluster and ends with it.
export KUBECACHEDIR=$STATE/cache/kube HELM_CACHE_HOME=$STATE/cache/helm HELM_CONFIG_HOME=$STATE/cache/helm HELM_DATA_HOME=$STATE/cache/helm

# process FILE: the process id that FILE remembers, if that very process still lives.
process() {
    local pid born
    read -r pid born 2>/dev/null <"$1" || return 1
    [ "$(born "$pid")" = "$born" ] && echo "$pid"
}
# born PID: when it started, which tells it from a later process of the same number (proc(5), stat).
born() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
remember() { echo "$1 $(born "$1")" >"$2"; }

# alive: sets PID, the process whose namespaces are the node's.
alive() { PID=$(process "$STATE/process"); }
need() { alive || die "cluster $NAME is not up: make cluster"; . "$STATE/env"; }
inside() { # nsenter keeps no working folder across mount namespaces
    nsenter --target "$PID" --net --mount --uts --ipc --cgroup "--pid=/proc/$PID/ns/pid_for_children" \
        /bin/sh -c 'cd "$0" 2>/dev/null; exec "$@"' "$PWD" env PATH="$PROGRAMS:$PATH" "$@"
}
# locked: one start or end at a time. The lock is on a folder that is there anyway, so that none has to be removed.
locked() {
    exec 9</run
    flock 9
}

# step WHAT COMMAND...: runs it and prints how long it took and how long it has taken so far.
step() {
    local what=$1 began now
    shift
    began=$(now)
    "$@" || failed "$what"
    now=$(now)
    say "$(printf '%6d.%d s  %-44s %3d.%d s' $(((now - started) / 10)) $(((now - started) % 10)) "$what" $(((now - began) / 10)) $(((now - began) % 10)))"
}
now() { echo $(($(date +%s%N) / 100000000)); } # tenths of a second
failed() {
    [ ! -e "$STATE/ended" ] || cat "$STATE/ended" >&2
    local log
    for log in "$STATE"/log/*.log; do
        [ ! -s "$log" ] || tail -n 4 "$log" | sed "s|^|  $(basename "$log" .log): |" >&2
    done
    die "$1: failed. The node is left as it is: hack/cluster.sh logs NAME, then make cluster-down"
}

up() {
    [ "$(id -u)" = 0 ] || die "run this as root: the node has network and mount namespaces of its own"
    [ -e /proc/sys/net/bridge ] || die "the kernel module br_netfilter is not loaded: modprobe br_netfilter"
    started=$(now)
    step "programs (built once: hack/kube.sh)" programs
    locked
    if alive; then
        say "cluster $NAME is up: export KUBECONFIG=$STATE/kubeconfig"
        return
    fi
    clear_away
    started=$(now)
    mkdir -p "$STATES"
    mkdir "$STATE" "$STATE/node" "$STATE/log"
    settings >"$STATE/env"
    . "$STATE/env"
    step "certificates" certificates
    step "namespaces, cgroups, network" namespaces
    step "API server answers on $(cat "$STATE/address")" wait_api
    step "images imported" wait_file "$STATE/images-imported"
    step "DNS and its Service applied" dns
    step "node Ready" node_ready
    step "DNS rolled out" kubectl --namespace kube-system rollout status deployment/coredns --timeout=60s
    step "a Service answers by name" inside kit get -within 30s https://kubernetes.default.svc.cluster.local/readyz
    local images=("$ROOT"/target/images/*.tar)
    [ ! -e "${images[0]}" ] || step "images of target/images" load "${images[@]}"
    say "cluster $NAME is up: export KUBECONFIG=$STATE/kubeconfig"
}

# programs: sets PROGRAMS and IMAGES, building both when they are not in the cache.
programs() {
    "$here/packages.sh" cluster || return 1
    PROGRAMS=$(KUBEBUILDER_ASSETS='' "$here/kube.sh") || return 1
    IMAGES=$CACHE/images-${PROGRAMS##*-}
    once "$IMAGES" node_images
}
node_images() {
    "$here/oci-image.sh" sluice-kit:1 "$PROGRAMS/kit" "$1/kit.tar" && "$here/oci-image.sh" sluice-coredns:1 "$PROGRAMS/coredns" "$1/coredns.tar"
}

# settings: STATE/env, with the first index that no other cluster of this machine has.
settings() {
    local index=0
    while grep -qsx "INDEX=$index" "$STATES"/*/env; do index=$((index + 1)); done
    [ $index -lt 100 ] || die "a hundred clusters are up"
    cat <<END
NAME=$NAME
INDEX=$index
NODE_IP=$WAN_NET.$((10 + index))
POD_SUBNET=10.244.$index.0/24
SERVICE_SUBNET=10.$((100 + index)).0.0/16
SERVICE_IP=10.$((100 + index)).0.1
DNS_IP=10.$((100 + index)).0.10
PROGRAMS=$PROGRAMS
IMAGES=$IMAGES
END
}

certificates() (pki_make "$STATE/pki" "$NAME" "$NODE_IP" "$SERVICE_IP")

namespaces() {
    cgroups_list "$NAME" >"$STATE/cgroups"
    wan_up || return 1
    setsid "$PROGRAMS/kit" listen "127.0.0.1:${PORT:-0}" "$STATE/address" "$here/cluster/node.sh" enter "$STATE" \
        9>&- </dev/null >"$STATE/log/node.log" 2>&1 &
    PID=$!
    remember $PID "$STATE/process"
    wait_netns $PID || return 1
    wan_join $PID "$NAME" || return 1
    (umask 077 && cd "$STATE/pki" && kubeconfig admin "https://$(cat "$STATE/address")" "sluice-$NAME" >"$STATE/kubeconfig")
}

# wait_netns PID: until it has a network namespace of its own.
wait_netns() {
    local try
    for try in $(seq 200); do
        [ -e "/proc/$1" ] || return 1
        [ "$(readlink "/proc/$1/ns/net")" = "$(readlink /proc/self/ns/net)" ] || return 0
        sleep 0.02
    done
    return 1
}
wait_api() {
    local try address
    address=$(cat "$STATE/address")
    for try in $(seq 60); do
        "$PROGRAMS/kit" get -within 1s "https://$address/readyz" >/dev/null 2>&1 && return
        alive || return 1
    done
    return 1
}
wait_file() {
    local try
    for try in $(seq 600); do
        [ -e "$1" ] && return
        alive || return 1
        sleep 0.05
    done
    return 1
}
node_ready() {
    kubectl wait --for=create "node/$NAME" --timeout=60s && kubectl wait --for=condition=Ready "node/$NAME" --timeout=60s
}
kubectl() { "$PROGRAMS/kubectl" --kubeconfig "$STATE/kubeconfig" "$@" >/dev/null; }
dns() { sed "s/DNS_IP/$DNS_IP/" "$here/cluster/coredns.yaml" | kubectl apply -f -; }
load() {
    local file
    for file in "$@"; do
        file=$(realpath "$file")
        inside ctr --namespace k8s.io images import "$file" >&2 || return 1
    done
}

down() {
    [ -e "$STATE" ] || { say "cluster $NAME is not up"; return; }
    locked
    started=$(now)
    step "cluster $NAME ended" clear_away
}

# clear_away: ends what is left of the cluster, however far it had come.
clear_away() {
    local pid
    [ -e "$STATE" ] || return 0
    # Process 1 of the node dies with its parent, every other process with process 1, and mounts, network devices and
    # rules with the last process.
    if alive; then kill -KILL "$PID"; fi
    if [ -e "$STATE/cgroups" ]; then
        for _ in $(seq 200); do
            [ -n "$(cgroups_processes "$STATE/cgroups")" ] || break
            sleep 0.05
        done
        cgroups_remove "$STATE/cgroups"
    fi
    wan_leave "$NAME"
    rm -rf --one-file-system "$STATE"
    wan_down
}

verb=${1:-help}
[ $# = 0 ] || shift
case $verb in
up | down) $verb ;;
build) programs ;;
check) exec "$here/cluster/check.sh" ;;
kubeconfig) need && echo "$STATE/kubeconfig" ;;
kubectl | helm) need && KUBECONFIG=$STATE/kubeconfig exec "$PROGRAMS/$verb" "$@" ;;
in) need && [ $# -gt 0 ] && inside "$@" ;;
wan) need && [ $# -gt 0 ] && wan_in "$@" ;;
load) need && [ $# -gt 0 ] && load "$@" ;;
logs)
    need
    if [ $# = 0 ]; then basename -s .log "$STATE"/log/*.log; else cat "$STATE/log/$1.log"; fi
    ;;
status)
    need
    [ ! -e "$STATE/ended" ] || cat "$STATE/ended"
    # Pss: the programs are one file, whose pages would be counted for each of them.
    inside sh -c 'for p in /proc/[0-9]*; do echo "$(cat $p/comm) $(awk "/^Pss:/ {print \$2}" $p/smaps_rollup)"; done 2>/dev/null' |
        awk 'NF == 2 { n[$1]++; kib[$1] += $2; sum += $2 }
            END { for (p in n) printf "%5d MiB  %s x%d\n", kib[p] / 1024, p, n[p]; printf "%5d MiB  all\n", sum / 1024 }' | sort -rn
    ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
