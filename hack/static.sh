#!/bin/bash
# Builds static binaries and prints the folder they are in: `static.sh PACKAGE...`. libc is musl, the allocator mimalloc
# (docs/install.md says why). PROFILE is cargo's: release, as shipped, or dev, quick and slow.
# Images and `make bench` take them from here, so that what is measured is what is shipped.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
profile=${PROFILE:-release}
target=$(uname -m)-unknown-linux-musl
command -v musl-gcc >/dev/null || die "no musl-gcc for the C parts: install Debian's musl-tools"
if command -v rustup >/dev/null && ! rustup target list --installed | grep -qx "$target"; then rustup target add "$target" >&2; fi

# Paths of this machine would stand in panic messages and make each machine's binary another. Flags of your own replace these.
home=${CARGO_HOME:-$HOME/.cargo}
export RUSTFLAGS="${RUSTFLAGS---remap-path-prefix=$home=/cargo --remap-path-prefix=$ROOT=/sluice}"
# The commit would compile everything anew with each commit: only what is shipped tells it.
if [ "$profile" = release ]; then
    SLUICE_COMMIT=${SLUICE_COMMIT:-$(git describe --always --abbrev=12 --dirty --exclude='*' 2>/dev/null || echo unknown)}
    export SLUICE_COMMIT
fi
build() {
    local began=$SECONDS
    say "building $* ($profile, $target)"
    cargo build --quiet --locked --profile "$profile" --target "$target" --bins $(printf -- '--package %s ' "$@")
    say "built $* in $((SECONDS - began)) s"
}
# The sidecar by itself: features unify over what is built together, and it would carry the operator's. The others share.
others=()
for package; do
    case $package in sluice-sidecar) build $package ;; *) others+=("$package") ;; esac
done
[ ${#others[@]} = 0 ] || build "${others[@]}"
case $profile in dev) profile=debug ;; esac
echo "${CARGO_TARGET_DIR:-$ROOT/target}/$target/$profile"
