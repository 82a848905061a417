#!/bin/bash
# Runs every fuzz target for a share of SECONDS, each from its corpus in fuzz/corpus, and first shows that the fuzzer is
# awake: it must find the panic that the feature `planted-panic` puts into each of them, and none without it.
# libFuzzer and coverage counters, no sanitizer: that is what the stable toolchain has. The dependencies are those that
# `cargo build --workspace` has compiled.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
seconds=${1:-20}
targets=(admit config signature proxy_protocol hop)
# A panic that is planted is found in less: a fuzzer that needs longer has lost its way.
longest=60

export RUSTC_WORKSPACE_WRAPPER="$ROOT/hack/fuzz-rustc.sh"
folder=${CARGO_TARGET_DIR:-$ROOT/target}/debug
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

build() {
    local bins=()
    for target in "${targets[@]}"; do bins+=(--bin "fuzz-${target//_/-}"); done
    # The whole workspace: a smaller selection has other features and is compiled anew.
    cargo build --quiet --locked --workspace "$@" "${bins[@]}"
}

# fuzz TARGET TIME: its output goes to a file; what makes it fail stays in the scratch folder.
fuzz() {
    local work=$scratch/$1
    rm -rf "$work" && mkdir -p "$work/corpus" "$work/found"
    "$folder/fuzz-${1//_/-}" -max_total_time="$2" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="$work/found/" "$work/corpus" "fuzz/corpus/$1" >"$work/output" 2>&1
}
count() { grep -o 'stat::number_of_executed_units: *[0-9]*' "$scratch/$1/output" | grep -o '[0-9]*$' || echo 0; }

began=$SECONDS
build --features sluice-fuzz/planted-panic
for target in "${targets[@]}"; do
    if fuzz "$target" "$longest"; then
        die "$target: the planted panic was not found in $longest s, $(count "$target") runs"
    fi
    grep -q planted "$scratch/$target/output" || { cat "$scratch/$target/output" >&2; die "$target: it failed of something else"; }
    say "$target: the planted panic is found"
done
build
for target in "${targets[@]}"; do
    if ! fuzz "$target" $(((seconds + ${#targets[@]} - 1) / ${#targets[@]})); then
        mkdir -p target/fuzz && cp -r "$scratch/$target/found/." target/fuzz/
        tail -40 "$scratch/$target/output" >&2
        die "$target: what makes it fail is in target/fuzz"
    fi
    say "$target: $(count "$target") runs, nothing found"
done
say "fuzzing took $((SECONDS - began)) s"
