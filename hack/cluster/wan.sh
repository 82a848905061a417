# The network that joins the clusters of this machine; sourced. A bridge in a network namespace that a sleeping process
# holds: made with the first cluster, ended with the last. The cable to the cluster
# west is called to-west there: `cluster.sh wan ip link set to-west down` cuts it off. What else clusters share is made and removed here as well.
WAN_NET=192.168.77
WAN=/run/sluice/.wan
# The CNI library keeps what it did in this folder; each node lays one of its own over it.
CNI_STATE=/var/lib/cni

wan_up() {
    local holder
    [ -e $CNI_STATE ] || { mkdir $CNI_STATE && touch $WAN.cni; }
    process $WAN >/dev/null && return
    setsid unshare --net sleep infinity 9>&- </dev/null >/dev/null 2>&1 &
    holder=$!
    remember $holder $WAN
    wait_netns $holder || return 1
    wan_in ip link set lo up && wan_in ip link add br0 type bridge && wan_in ip address add $WAN_NET.1/24 dev br0 && wan_in ip link set br0 up
}

# wan_in COMMAND...: runs it in the network.
wan_in() { nsenter "--net=/proc/$(process $WAN)/ns/net" "$@"; }

# wan_join PID NAME: a cable from the bridge to the namespace of PID, where it is called eth0. The machine's own
# namespace never sees it.
wan_join() {
    wan_in ip link add "to-$2" type veth peer name eth0 netns "$1" && wan_in ip link set "to-$2" master br0 up
}

# wan_leave NAME: the kernel removes a dead node's cable late; its name is needed at once.
wan_leave() { ! process $WAN >/dev/null || wan_in ip link delete "to-$1" 2>/dev/null || true; }

# wan_down: ends the network when no cluster is left.
wan_down() {
    local holder
    if compgen -G "/run/sluice/*/env" >/dev/null; then return; fi
    if holder=$(process $WAN); then kill -KILL "$holder"; fi
    [ ! -e $WAN.cni ] || rmdir $CNI_STATE
    rm -f $WAN $WAN.cni
    rmdir /run/sluice 2>/dev/null || true
}
