#!/bin/bash
# Installs the Debian packages whose commands are missing. `packages.sh [test|bench|cluster|images]`
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# command:package, or file:package
needs=(cc:gcc cc:libc6-dev make:make redis-server:redis-server openssl:openssl ip:iproute2 unshare:util-linux setpriv:util-linux mount:mount
    curl:curl h2load:nghttp2-client node:nodejs /usr/bin/python3:python3 /usr/lib/python3/dist-packages/websockets/__init__.py:python3-websockets)
case ${1:-test} in
test) ;;
bench) needs+=(nginx:nginx-light haproxy:haproxy varnishd:varnish python3:python3-pip musl-gcc:musl-tools strace:strace strip:binutils valgrind:valgrind) ;;
images) needs=(cc:gcc cc:libc6-dev make:make strip:binutils musl-gcc:musl-tools) ;;
cluster) needs+=(containerd:containerd ctr:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins nft:nftables
    iptables:iptables nsenter:util-linux flock:util-linux sysctl:procps) ;;
*) die "packages.sh [test|bench|cluster|images], not $1" ;;
esac

missing=()
for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null || [ -e "${need%%:*}" ] || missing+=("${need##*:}")
done

if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || die "missing packages: ${missing[*]}. Install them, or run this as root"
    command -v apt-get >/dev/null || die "missing programs of the Debian packages ${missing[*]}; this machine has no apt-get"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Packages of servers start a daemon when installed. The tests start their own; policy-rc.d (exit 101) forbids it.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap 'rm -f $policy' EXIT
    fi
    apt-get update -qq >&2
    apt-get install -y -qq --no-install-recommends $(printf '%s\n' "${missing[@]}" | sort -u) >&2
fi

command -v cargo >/dev/null || die "cargo is not on the PATH: install Rust 1.92 or newer (https://rustup.rs)"
[ "${1:-test}" != images ] || exit 0
command -v go >/dev/null || [ -n "${KUBEBUILDER_ASSETS:-}" ] || die "go is not on the PATH: install Go 1.26 or newer, or set KUBEBUILDER_ASSETS"
for component in clippy rustfmt; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add $component >&2 || die "cargo ${component/rustfmt/fmt} is missing"
done
