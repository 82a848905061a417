#!/bin/bash
# Prints the folder with the definitions of the Gateway API (standard channel), from the Go module registry as pinned in
# e2e/conformance/go.mod.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT/e2e/conformance"
module=sigs.k8s.io/gateway-api
version=$(awk -v module=$module '$1 == "replace" && $2 == module { print $NF }' go.mod)
dir=$CACHE/gateway-api-$version

copy() {
    local sources
    sources=$(GOFLAGS= GOWORK=off go mod download -json "$module@$version" | awk -F '"' '$2 == "Dir" { print $4 }') &&
        cp -r --no-preserve=mode "$sources/config/crd/standard/." "$1/"
}
once "$dir" copy
echo "$dir"
