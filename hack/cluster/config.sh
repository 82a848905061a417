# What the node's daemons are told; sourced by node.sh. docs/cluster.md says why, for the settings that mattered.
# Uses NODE (the node's files), STATE and what STATE/env sets.

# write_config: the configuration files, and the flags of those that take none, as arrays.
write_config() {
    local pki=$STATE/pki api=https://$NODE_IP:6443
    local plugins=/usr/lib/cni # Debian's folder
    [ -x $plugins/bridge ] || plugins=/opt/cni/bin

    cat >"$NODE/cni/10-pods.conflist" <<END
{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": "$NODE/cni-state/addresses",
        "ranges": [[{"subnet": "$POD_SUBNET"}]], "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
END

    cat >"$NODE/containerd.toml" <<END
version = 2
root = "$NODE/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"] # makes folders below /opt
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/sluice-kit:1"
  restrict_oom_score_adj = true # lowering it takes CAP_SYS_RESOURCE, which containers often lack
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$plugins"
    conf_dir = "$NODE/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
END

    etcd_flags=(
        --data-dir "$NODE/etcd" --unsafe-no-fsync
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
        --listen-peer-urls http://127.0.0.1:2380
    )

    # Who asked for what, of service accounts outside kube-system: what a least-rights test compares with.
    cat >"$NODE/audit.yaml" <<END
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ["system:serviceaccounts:kube-system"]}
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
END
    apiserver_flags=(
        --etcd-servers http://127.0.0.1:2379 --advertise-address "$NODE_IP"
        --service-cluster-ip-range "$SERVICE_SUBNET" --allow-privileged
        --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --client-ca-file "$pki/ca.crt"
        --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key"
        --kubelet-client-certificate "$pki/apiserver-kubelet.crt" --kubelet-client-key "$pki/apiserver-kubelet.key"
        --kubelet-preferred-address-types InternalIP
        --service-account-issuer https://kubernetes.default.svc.cluster.local
        --service-account-key-file "$pki/service-accounts.pub" --service-account-signing-key-file "$pki/service-accounts.key"
        # The aggregation layer: APIServices and webhooks are called at a pod's own address.
        --requestheader-client-ca-file "$pki/front-proxy-ca.crt" --requestheader-allowed-names front-proxy
        --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group
        --requestheader-extra-headers-prefix X-Remote-Extra-
        --proxy-client-cert-file "$pki/front-proxy.crt" --proxy-client-key-file "$pki/front-proxy.key"
        --enable-aggregator-routing
        --audit-policy-file "$NODE/audit.yaml" --audit-log-path "$STATE/log/audit.log" --audit-log-maxsize 100
        --audit-log-maxbackup 1
    )

    local as=kube-controller-manager
    controller_manager_flags=(
        --kubeconfig "$pki/$as.conf" --authentication-kubeconfig "$pki/$as.conf" --authorization-kubeconfig "$pki/$as.conf"
        --root-ca-file "$pki/ca.crt" --service-account-private-key-file "$pki/service-accounts.key"
        --use-service-account-credentials --leader-elect=false --kube-api-qps 300 --kube-api-burst 300
        --horizontal-pod-autoscaler-sync-period "${HPA_SYNC_PERIOD:-5s}"
    )
    as=kube-scheduler
    scheduler_flags=(
        --kubeconfig "$pki/$as.conf" --authentication-kubeconfig "$pki/$as.conf" --authorization-kubeconfig "$pki/$as.conf"
        --leader-elect=false
    )

    echo "nameserver 127.0.0.1" >"$NODE/no-resolver.conf" # a pod with dnsPolicy Default has nobody to ask
    cat >"$NODE/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet.crt
tlsPrivateKeyFile: $pki/kubelet.key
clusterDNS: [$DNS_IP]
clusterDomain: cluster.local
resolvConf: $NODE/no-resolver.conf
volumePluginDir: $NODE/plugins
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
END
    kubelet_flags=(
        --config "$NODE/kubelet.yaml" --kubeconfig "$pki/kubelet.conf" --root-dir "$NODE/kubelet"
        --node-ip "$NODE_IP" --hostname-override "$NAME"
    )

    cat >"$NODE/kube-proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $pki/kube-proxy.conf}
mode: nftables
clusterCIDR: $POD_SUBNET
hostnameOverride: $NAME
conntrack: {maxPerCore: 0, min: 0} # the machine's own limits stay
END
}
