#!/bin/bash
# Prints the folder that holds the clients which the tests start and which Debian does not have: tests/clients/cmd/*, the
# health probe of gRPC, h2spec. They come from the Go module registry as pinned in tests/clients/go.mod, and are built
# when needed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

cd "$ROOT/tests/clients"
flags=(-mod=readonly -trimpath -ldflags "-s -w")
pin=$(cat go.mod go.sum cmd/*/*.go <(printf '%s\n' "${flags[@]}") | sha256sum | cut -c1-12)
dir=$CACHE/clients-$pin

build() {
    say "building the clients of the tests from Go modules into $dir: about half a minute of CPU time"
    CGO_ENABLED=0 GOFLAGS= GOWORK=off go build "${flags[@]}" -o "$1/" ./cmd/... tool >&2
}
once "$dir" build
echo "$dir"
