#!/usr/bin/env bash
# Converts checkpoints inside a cgroup limited to 1 GB and prints what memory was used: the group's with its page cache,
# and the process's own. Not part of the test run: it needs root, gigabytes of disk, and a while.
#
#     tests/memory.sh CHECKPOINT... [-- OPTIONS OF QUANTIZE]
#
# QUANTPRESS names the program (default: target/release/quantpress), LIMIT the group's bytes, OUTPUT the folder to write to.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
program=${QUANTPRESS:-$root/target/release/quantpress}
limit=${LIMIT:-1000000000}
checkpoints=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do checkpoints+=("$1"); shift; done
[ $# -eq 0 ] || shift

work=$(mktemp -d -p "${OUTPUT:-.}")
group=
finish() { rm -rf "$work"; [ -z "$group" ] || rmdir "$group" 2>/dev/null || true; }
trap finish EXIT
if [ -w /sys/fs/cgroup/memory/cgroup.procs ]; then
    group=/sys/fs/cgroup/memory/quantpress.$$ most=memory.max_usage_in_bytes bound=memory.limit_in_bytes
elif [ -w /sys/fs/cgroup/cgroup.subtree_control ] && echo +memory > /sys/fs/cgroup/cgroup.subtree_control; then
    group=/sys/fs/cgroup/quantpress.$$ most=memory.peak bound=memory.max
else
    echo "skipped: no memory cgroup can be made here"
    exit 0
fi

for checkpoint in "${checkpoints[@]}"; do
    mkdir "$group"
    echo "$limit" > "$group/$bound"
    # The shell joins the group and becomes the program.
    bash -c 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"' - "$group" \
        "$program" quantize "$checkpoint" -o "$work/out.gguf" --json "$@" > "$work/events" &
    process=$! anonymous=0
    while kill -0 $process 2>/dev/null; do
        now=$(awk '/RssAnon/ { print $2 * 1024 }' /proc/$process/status 2>/dev/null || true)
        [ "${now:-0}" -le "$anonymous" ] || anonymous=$now
        sleep 0.2
    done
    wait $process
    echo "$checkpoint: $(du -sb "$checkpoint" | cut -f1) bytes; most of its own $anonymous, of the group $(cat "$group/$most") of $limit"
    tail -1 "$work/events"
    rm -f "$work"/out*
    rmdir "$group"
done
