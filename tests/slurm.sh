#!/usr/bin/env bash
# Runs the Slurm array of docs/distributed.md for real, on a cluster of this one machine, and compares the parts with
# those that one process makes. Not part of the test run: it needs root and Debian's slurm-wlm
# (apt-get install slurm-wlm). The daemons are this script's own, in a folder of their own, and end with it.
#
#     tests/slurm.sh [QUANTPRESS]        default: target/release/quantpress
#
# The jobs with feedback are run on the test model, or on CHECKPOINT, TEXT, HELD_OUT and CHUNKS of the environment; a
# folder named by KEEP gets the joined file and the one that a single process makes.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
program=$(realpath "${1:-$root/target/release/quantpress}")
for needed in slurmctld slurmd sbatch munged; do
    command -v "$needed" >/dev/null || { echo "skipped: $needed is not installed"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "skipped: the daemons need root"; exit 0; }

tiny="$root/fixtures/tiny-r1"
fed_checkpoint=$(realpath "${CHECKPOINT:-$tiny}")
fed_text=$(realpath "${TEXT:-$tiny/calibration.txt}")
fed_held_out=$(realpath "${HELD_OUT:-$tiny/evaluation.txt}")
fed_chunks=${CHUNKS:-20}
keep=${KEEP:+$(realpath "$KEEP")}

work=$(mktemp -d)
daemons=()
finish() {
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

# Credentials for messages between the daemons, on a socket of this run's own.
chmod 755 "$work"
mkdir -m 700 "$work/key"
head -c 1024 /dev/urandom > "$work/key/munge.key"
chmod 400 "$work/key/munge.key"
munged --foreground --force --socket="$work/munge.socket" --key-file="$work/key/munge.key" \
    --pid-file="$work/munge.pid" --seed-file="$work/munge.seed" --log-file="$work/munge.log" --num-threads=2 2> "$work/munge.err" &
daemons+=($!)

mkdir -p "$work/state" "$work/spool"
host=$(hostname -s)
cat > "$work/slurm.conf" <<CONF
ClusterName=quantpress
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CredType=cred/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES State=UP
CONF
export SLURM_CONF="$work/slurm.conf"
slurmctld -D 2> "$work/slurmctld.err" & daemons+=($!)
slurmd -D 2> "$work/slurmd.err" & daemons+=($!)
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format=%t 2>/dev/null || true)" = idle ] && break
    sleep 1
done
sinfo

# The jobs of docs/distributed.md, as they stand there.
job() {
    awk -v fence="\`\`\`sh slurm${1:+ $1}" '$0 == fence { on = 1; next } /^```$/ { on = 0 } on' \
        "$root/docs/distributed.md" > "$work/${1:-quantize}.sbatch"
    [ -s "$work/${1:-quantize}.sbatch" ] || { echo "no job ${1:-quantize} in docs/distributed.md"; exit 1; }
}
for name in "" states feedback evaluate; do job "$name"; done
submit() {
    sbatch --wait "$@" || { cat "$work"/slurm-*.out "$work"/slurm*.log; exit 1; }
}

parts=4
mkdir "$work/out"
export CHECKPOINT="$tiny" OUTPUT="$work/out/tiny-r1.gguf" IMATRIX="$tiny/imatrix.gguf"
mkdir "$work/bin"
ln -s "$program" "$work/bin/quantpress"
export PATH="$work/bin:$PATH"
cd "$work"
submit --array=1-$parts quantize.sbatch
cat "$work"/slurm-*.out

mkdir "$work/together"
"$program" quantize "$CHECKPOINT" -o "$work/together/tiny-r1.gguf" --imatrix "$IMATRIX" --split $parts --quiet
for file in "$work"/together/*; do
    cmp "$file" "$work/out/$(basename "$file")"
    echo "the same, made by the array and by one process: $(basename "$file")"
done

# With feedback: states, files by themselves, evaluation by parts.
mkdir "$work/fed"
export CHECKPOINT="$fed_checkpoint" TEXT="$fed_text" HELD_OUT="$fed_held_out" CHUNKS="$fed_chunks" PARTS=$parts
export OUTPUT="$work/fed/parts.gguf" IMATRIX="$work/fed/imatrix.gguf" STATES="$work/states"
export MADE="$work/fed/parts-00001-of-0000$parts.gguf" SCORES="$work/fed/scores"
rm -f "$work"/slurm-*.out
submit states.sbatch
submit --array=1-$parts feedback.sbatch
submit --array=1-$parts evaluate.sbatch
cat "$work"/slurm-*.out
ls "$STATES"
"$program" verify "$MADE" --against "$CHECKPOINT" --imatrix "$IMATRIX" | tail -1
"$program" evaluate --json --join "$SCORES"-*.json > "$work/joined.json"
"$program" evaluate --json --quiet "$CHECKPOINT" "$MADE" --text "$HELD_OUT" > "$work/alone.json"

# What one process makes, and what it costs that the parts were made by themselves.
whole="$work/fed/whole.gguf"
"$program" quantize "$CHECKPOINT" -o "$whole" --imatrix "$IMATRIX" --feedback --text "$TEXT" --chunks "$CHUNKS" --quiet
"$program" evaluate --json --quiet "$CHECKPOINT" "$whole" --text "$HELD_OUT" > "$work/whole.json"
python3 - "$work"/{joined,alone,whole}.json <<'PYTHON'
import json, sys
joined, alone, whole = (json.load(open(path)) for path in sys.argv[1:])
for key in ("perplexity", "kl_mean", "kl_median", "kl_p99", "same_top", "layers", "files_sha256"):
    assert joined[key] == alone[key], key
print(f"the same, evaluated by the array and by one process: KL {joined['kl_mean']:.6f}")
print(f"made by one process: KL {whole['kl_mean']:.6f}; the array's is {joined['kl_mean'] / whole['kl_mean']:.3f} of it")
PYTHON
[ -z "$keep" ] || cp "$work"/fed/*.gguf "$keep"
