#!/usr/bin/env python3
"""Calibration and error feedback on a checkpoint larger than its memory limit: time of each layer, memory, as a table.

Outside of the test run, as root (it makes a memory cgroup):

    cargo run --release --example r1_shaped -- R12 --size 12.1GB --layers 2 --dense 1 --vocab 4096
    target/tmp/python/bin/python tests/layered.py R12 TEXT --chunks 16

Both run in a group of --limit bytes, page cache included. With --interrupt SECONDS the work with feedback is stopped by
Ctrl-C after each such span and goes on by the same command. What is made is verified against the checkpoint in the end. With
--sensitivity there is only calibration, which then measures too what types cost.
"""

import argparse
import json
import os
import pathlib
import re
import sys
import tempfile

from support.watch import Group, watch

ROOT = pathlib.Path(__file__).resolve().parent.parent
INTERRUPTED = 130


def run(name, command, limit, rows):
    group = Group(limit)
    try:
        found = watch(command, group)
        peak = group.number("memory.max_usage_in_bytes")
    finally:
        group.close()
    events = [json.loads(line) for line in found["stdout"].splitlines() if line.startswith('{"event"')]
    layers = [(e["layer"], e["seconds"]) for e in events if e.get("event") == "layer"]
    layers += re.findall(r"layer +(\d+) of \d+: ([\d.]+) s", found["stderr"])
    layers = ", ".join(f"{layer}: {float(seconds):.0f} s" for layer, seconds in layers)
    memory = f"{found['anonymous'] / 1e9:.2f} GB | {peak / 1e9:.2f} GB"
    rows.append(f"| {name} | {found['seconds']:.0f} s | {found['processors']:.0f} s | {layers} | {memory} |")
    print(rows[-1], file=sys.stderr, flush=True)
    return found


def main(options):
    program, rows = options.program, []
    text = ["--text", options.text, "--context", options.context, "--chunks", options.chunks]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        matrix, output = pathlib.Path(folder) / "imatrix.gguf", pathlib.Path(folder) / "out.gguf"
        calibrate = [program, "calibrate", options.checkpoint, *text, "--memory", options.memory, "-o", matrix, "--json"]
        if options.sensitivity:
            calibrate += ["--sensitivity", pathlib.Path(folder) / "sensitivity.json"]
        found = run("calibrate", calibrate, options.limit, rows)
        if found["code"]:
            raise SystemExit(found["stderr"])
        if options.sensitivity:
            return
        feed = [program, "quantize", options.checkpoint, "-o", output, "--recipe", options.recipe, "--imatrix", matrix]
        feed += ["--feedback", *text, "--memory", options.memory, "--json"]
        runs = 0
        while not output.exists():
            runs += 1
            stopped = ["timeout", "-s", "INT", options.interrupt] if options.interrupt else []
            found = run(f"feedback, run {runs}", [*stopped, *feed], options.limit, rows)
            if found["code"] not in (0, INTERRUPTED, 124):
                raise SystemExit(found["stderr"])
        check = [program, "verify", output, "--against", options.checkpoint, "--imatrix", matrix, "--json"]
        found = run("verify --against", check, options.limit, rows)
        verdict = "passed" if not found["code"] else f"failed\n{found['stderr'][-2000:]}"
        size = os.path.getsize(output)
    print("| | time | of processors | after each layer | own memory | the group's |\n|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"{size / 1e9:.2f} GB; verify {verdict}")


parser = argparse.ArgumentParser()
parser.add_argument("checkpoint")
parser.add_argument("text")
parser.add_argument("--program", default=ROOT / "target/release/quantpress")
parser.add_argument("--recipe", default="ud-iq1_s")
parser.add_argument("--context", type=int, default=256)
parser.add_argument("--chunks", type=int, default=16)
parser.add_argument("--memory", default="1GB")
parser.add_argument("--limit", type=int, default=4_000_000_000)
parser.add_argument("--sensitivity", action="store_true")
parser.add_argument("--interrupt", type=int, help="seconds")
parser.add_argument("--folder", help="where the files are made [default: the system's]")
options = parser.parse_args()
if Group.possible():
    main(options)
else:
    print("skipped: no memory cgroup (version 1) can be made here")
