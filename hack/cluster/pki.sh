# Certificates and kubeconfigs of one cluster; sourced. All keys are P-256: making them takes milliseconds.
# A cluster lives for hours, so nothing here renews.

# pki_make DIR NODE NODE_IP SERVICE_IP: the two authorities and what they sign.
pki_make() {
    local node=$2 address=$3 service=$4
    mkdir -p -m 0700 "$1"
    cd "$1" || return 1
    authority ca
    authority front-proxy-ca
    # Who calls whom: the API server serves under its names, and calls kubelets and extension API servers as a client.
    certificate apiserver ca /CN=kube-apiserver \
        "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:$address,IP:$service,IP:127.0.0.1"
    certificate apiserver-kubelet ca /O=system:masters/CN=kube-apiserver-kubelet-client
    certificate front-proxy front-proxy-ca /CN=front-proxy
    certificate kubelet ca "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$address"
    certificate admin ca /O=system:masters/CN=admin
    local program
    for program in kube-controller-manager kube-scheduler kube-proxy; do
        certificate $program ca "/CN=system:$program"
    done
    for program in kubelet kube-controller-manager kube-scheduler kube-proxy; do
        kubeconfig $program "https://$address:6443" "$node" >$program.conf
    done
    key service-accounts
    openssl pkey -in service-accounts.key -pubout -out service-accounts.pub
}

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"; }

# authority NAME: a self-signed certificate that may sign others.
authority() {
    key "$1"
    openssl req -x509 -new -key "$1.key" -subj "/CN=$1" -days 30 -out "$1.crt" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
}

# certificate NAME AUTHORITY SUBJECT [SUBJECT_ALT_NAMES]: with names it serves as well as calls.
certificate() {
    key "$1"
    openssl req -new -key "$1.key" -subj "$3" | openssl x509 -req -CA "$2.crt" -CAkey "$2.key" -days 30 -out "$1.crt" \
        -set_serial "0x$(openssl rand -hex 16 | sed 's/^./1/')" \
        -extfile <(echo "extendedKeyUsage=clientAuth${4:+,serverAuth}"; [ -z "${4:-}" ] || echo "subjectAltName=$4") 2>/dev/null
}

# kubeconfig USER URL CONTEXT: on stdout, with the certificates of the current folder inside.
kubeconfig() {
    cat <<END
apiVersion: v1
kind: Config
current-context: $3
clusters: [{name: $3, cluster: {server: "$2", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: $3, context: {cluster: $3, user: $1}}]
END
}
