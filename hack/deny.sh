#!/bin/bash
# Runs cargo-deny over the workspace: `deny.sh CHECK...` (bans, licenses, sources, advisories).
# The advisory database is fetched from the network, so `make test` leaves that one check to `make advisories`.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
version=0.20.2
dir=$CACHE/cargo-deny-$version

build() {
    say "building cargo-deny $version into $dir: about 3 minutes"
    local start=$SECONDS
    # Unoptimised: it runs for a second, optimising it would take minutes.
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$1/target" cargo install --quiet --locked --debug --root "$1" "cargo-deny@$version" >&2 || return 1
    rm -rf "$1/target"
    say "built cargo-deny in $((SECONDS - start)) s"
}
once "$dir" build
cd "$ROOT"
offline=()
case " $* " in *" advisories "*) ;; *) offline=(--offline) ;; esac
# Metadata for one target: crates of other systems are in the lock file, not in what we ship.
exec "$dir/bin/cargo-deny" --log-level error "${offline[@]}" --target x86_64-unknown-linux-gnu --workspace check --hide-inclusion-graph "$@"
