#!/usr/bin/env bash
# Runs each fuzz target (or those named) for so many seconds: fuzz/run.sh SECONDS [TARGET...]
# Needs a nightly toolchain and `cargo install cargo-fuzz`. What it finds is in fuzz/artifacts and stops the run.
set -euo pipefail
cd "$(dirname "$0")"
seconds=$1
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(safetensors index config tokenizer imatrix_dat imatrix_gguf gguf recipe)
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target"
    dictionary=()
    [ -e "dictionaries/$target" ] && dictionary=("-dict=dictionaries/$target")
    # No address sanitizer: the only unsafe code is a memory map that is read as bytes. Ten seconds or half a gigabyte for
    # one input are findings.
    cargo +nightly fuzz run --sanitizer none "$target" "corpus/$target" "seeds/$target" "../fixtures/hostile/$target" -- \
        -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=10 -max_len=65536 \
        -print_final_stats=1 "${dictionary[@]}"
done
