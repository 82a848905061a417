#!/bin/bash
# Cargo calls this in place of rustc for the crates of this workspace (RUSTC_WORKSPACE_WRAPPER; see fuzz.sh). What a fuzzer
# is to be guided by is compiled with coverage counters; what runs while building is not, nor are other people's crates.
set -euo pipefail
name=
previous=
for argument in "$@"; do
    [ "$previous" = --crate-name ] && name=$argument
    previous=$argument
done
case $name in
sluice_pipeline | sluice_snapshot | fuzz_*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Clink-dead-code
    ;;
esac
exec "$@"
