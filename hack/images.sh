#!/bin/bash
# What `make images` runs: target/images/NAME.tar for operator, sidecar and sample app, each one static binary on an empty
# base, without a container engine. For tests: PROFILE=dev makes them in a third of the time, PROFILE=test from what `make
# test` has built, with shared libraries.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
names=(sluice-operator sluice-sidecar sluice-example-app)
out=$ROOT/target/images # where hack/cluster.sh looks
limit=$((15 * 1024 * 1024)) # of the sidecar's image: each node pulls it

hack/packages.sh images
if [ "${PROFILE:-release}" = test ]; then
    export LIBRARIES=1
else
    say "building the images' binaries: up to 15 minutes on 2 cores the first time, 3 with PROFILE=dev"
fi
folder=$(programs "${names[@]}")
version=$(awk -F '"' '/^version = / { print $2; exit }' Cargo.toml)
revision=$(git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null || echo unknown)
# Where the sources are, if this checkout knows; without the credentials that a remote's address may hold.
source=$(git remote get-url origin 2>/dev/null | sed 's#//[^/@]*@#//#' || true)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in "${names[@]}"; do
    # A release binary is stripped already; of another profile only line tables go.
    strip -o "$work/$name" "$folder/$name"
    LABELS="org.opencontainers.image.title=$name
org.opencontainers.image.version=$version
org.opencontainers.image.revision=$revision
${source:+org.opencontainers.image.source=$source}
org.opencontainers.image.licenses=Apache-2.0" \
        hack/oci-image.sh "$name:$version" "$work/$name" "$out/$name.tar"
done
size=$(stat -c %s "$out/sluice-sidecar.tar")
if [ -z "${LIBRARIES:-}" ] && [ "$size" -gt $limit ]; then
    die "the sidecar's image has $size bytes, the limit is $limit: see what came in with cargo tree -e features -p sluice-sidecar"
fi
say "images are in $out; load them with: ctr images import FILE, docker load -i FILE, or skopeo copy oci-archive:FILE ..."
