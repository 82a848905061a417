# A node's cgroups; sourced. They lie in a folder of their own in each hierarchy, below the cgroup of whoever starts the
# cluster, and a cgroup namespace makes that folder the node's root. Nothing else in the hierarchies is changed.
#
# cgroup v1: one hierarchy for each set of controllers. v2: one for all; there the folder lies at the top, as controllers
# can be given on only where no process is, and a login session's cgroup has processes.

# cgroups_list NAME: a line "CONTROLLERS FOLDER" for each folder to make; CONTROLLERS is "-" for v2.
cgroups_list() {
    local controllers path root mount found=
    while IFS=: read -r _ controllers path; do
        [ -n "$controllers" ] || continue # v2, beside v1 for systemd's own use
        read -r root mount < <(cgroup_mount cgroup "$controllers") || continue
        path=${path#"${root%/}"}
        path=$mount/${path#/}
        echo "$controllers ${path%/}/sluice-$1"
        found=1
    done </proc/self/cgroup
    if [ -z "$found" ]; then
        read -r _ mount < <(cgroup_mount cgroup2 "") || die "no cgroups are mounted on this machine"
        echo "- $mount/sluice-$1"
    fi
}

# cgroup_mount TYPE CONTROLLERS: "ROOT MOUNTPOINT" of the first mount of that hierarchy (proc(5), mountinfo).
cgroup_mount() {
    awk -v type="$1" -v controllers="$2" '{
        for (i = 7; $i != "-"; i++) ;
        if ($(i + 1) == type && (controllers == "" || index("," $(i + 3) ",", "," controllers ","))) { print $4, $5; exit }
    }' /proc/self/mountinfo
}

# cgroups_enter LIST: makes the folders and moves this process into them.
cgroups_enter() {
    local controllers folder file
    while read -r controllers folder; do
        if [ "$controllers" = - ]; then
            cgroup_delegate "${folder%/*}" >"$1.given" || return 1
        fi
        mkdir -p "$folder/node"
        if [ "$controllers" = cpuset ]; then # v1: empty until written, and then no process may enter
            for file in cpuset.cpus cpuset.mems; do
                cat "${folder%/*}/$file" >"$folder/$file"
                cat "$folder/$file" >"$folder/node/$file"
            done
        fi
        echo $$ >"$folder/cgroup.procs" || return 1
    done <"$1"
}

# cgroups_settle LIST: moves this process on into the folder "node". Called in the cgroup namespace, whose root stays where
# it was made: the root is then without processes, and kubelet may give controllers on to pods.
cgroups_settle() {
    local controllers folder
    while read -r controllers folder; do
        echo $$ >"$folder/node/cgroup.procs" || return 1
        [ "$controllers" != - ] || cgroup_delegate "$folder" >/dev/null || return 1
    done <"$1"
}

# cgroup_delegate FOLDER: gives what kubelet needs of a v2 cgroup's controllers on to its children, and prints what was
# not given on before.
cgroup_delegate() {
    local controller
    for controller in cpu cpuset memory pids io hugetlb; do
        grep -qw $controller "$1/cgroup.controllers" || continue
        grep -qw $controller "$1/cgroup.subtree_control" && continue
        echo $controller
        echo "+$controller" >"$1/cgroup.subtree_control" || {
            say "$1 cannot give $controller on: are there processes in it? In a container, use the machine's cgroup namespace"
            return 1
        }
    done
}

# cgroups_mount LIST: in the node's mount namespace, shows its own folders as the whole of /sys/fs/cgroup.
cgroups_mount() {
    local controllers name
    if grep -q '^- ' "$1"; then
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        return
    fi
    mount -t tmpfs -o mode=0755 cgroup /sys/fs/cgroup
    while read -r controllers _; do
        mkdir "/sys/fs/cgroup/${controllers#name=}"
        case $controllers in
        name=*) mount -t cgroup -o "none,$controllers" cgroup "/sys/fs/cgroup/${controllers#name=}" ;;
        *) mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers" ;;
        esac
        for name in ${controllers//,/ }; do # programs look for cpu and cpuacct by themselves
            [ "$controllers" = "${controllers%,*}" ] || ln -s "$controllers" "/sys/fs/cgroup/$name"
        done
    done <"$1"
}

# cgroups_processes LIST: the processes that are in the folders, as this process sees them.
cgroups_processes() {
    local folder
    while read -r _ folder; do
        [ ! -d "$folder" ] || find "$folder" -name cgroup.procs -exec cat {} + 2>/dev/null
    done <"$1" | sort -un
}

# cgroups_remove LIST: removes the folders; a cgroup whose last process has just ended can be busy for a moment. Where
# another has come to use a controller that was given on for us, the kernel keeps it on.
cgroups_remove() {
    local folder try controller
    while read -r _ folder; do
        for try in $(seq 100); do
            [ -d "$folder" ] || break
            find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.05
        done
        [ ! -d "$folder" ] || say "$folder cannot be removed: something is still in it"
        [ -e "$1.given" ] || continue
        while read -r controller; do
            echo "-$controller" 2>/dev/null >"${folder%/*}/cgroup.subtree_control" || true
        done <"$1.given"
    done <"$1"
}
