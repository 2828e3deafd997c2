#!/usr/bin/env python3
"""What it costs that the files of a split are made by themselves: KL divergence of a file with error feedback that one
machine makes, and of one whose parts begin with the original model's hidden states.

    tests/parts.py QUANTPRESS CHECKPOINT TEXT HELD_OUT... [--recipe q2_k] [--parts 4] [--imatrix FILE] [--chunks N]

Prints a line for each text and each recipe: without feedback, with feedback at once, by parts; and the seconds that the
whole took and that each part took with its states kept. The divergence is `quantpress evaluate`'s.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("program")
parser.add_argument("checkpoint")
parser.add_argument("text")
parser.add_argument("held_out", nargs="+")
parser.add_argument("--recipe", action="append")
parser.add_argument("--parts", type=int, default=4)
parser.add_argument("--imatrix")
parser.add_argument("--chunks", default="60")
parser.add_argument("--context", default="512")
parser.add_argument("--scored", default="40", help="chunks of each held-out text")
options = parser.parse_args()


def run(*arguments):
    start = time.monotonic()
    done = subprocess.run([options.program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout, time.monotonic() - start


def divergences(file):
    """KL divergence on each held-out text."""
    found = []
    for text in options.held_out:
        scored = ["--context", options.context, "--chunks", options.scored]
        said, _ = run("evaluate", options.checkpoint, file, "--text", text, "--quiet", "--json", *scored)
        found.append(json.loads(said)["kl_mean"])
    return found


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    cut = ["--text", options.text, "--context", options.context, "--chunks", options.chunks]
    imatrix = options.imatrix
    if imatrix is None:
        imatrix = folder / "imatrix.gguf"
        run("calibrate", options.checkpoint, "-o", imatrix, *cut, "--quiet")
    for recipe in options.recipe or ["q2_k"]:
        types = ["--recipe", recipe, "--imatrix", imatrix, "--quiet", "--force"]
        plan, _ = run("plan", options.checkpoint, *types[:4], "--feedback", "--split", options.parts, "--json")
        starts = json.loads(plan)["parts_begin_before"]
        at = ["--states", folder / "states", "--at", ",".join(map(str, starts))]
        run("calibrate", options.checkpoint, "-o", folder / "other.gguf", *cut, "--quiet", *at)

        run("quantize", options.checkpoint, "-o", folder / "plain.gguf", *types)
        fed = ["--feedback", *cut]
        _, whole = run("quantize", options.checkpoint, "-o", folder / "whole.gguf", *types, *fed)
        seconds = []
        for part in range(1, options.parts + 1):
            of = ["--part", f"{part}/{options.parts}", *at[:2]]
            seconds.append(run("quantize", options.checkpoint, "-o", folder / "part.gguf", *types, *fed, *of)[1])
        first = folder / f"part-00001-of-{options.parts:05}.gguf"
        run("verify", first, "--against", options.checkpoint)
        files = [folder / "plain.gguf", folder / "whole.gguf", first]
        for text, (plain, fed, parts) in zip(options.held_out, zip(*map(divergences, files))):
            print(
                f"{recipe} {pathlib.Path(text).name}: plain {plain:.5f}, at once {fed:.5f} ({fed / plain:.3f}), "
                f"{options.parts} parts from layers {starts} {parts:.5f} ({parts / plain:.3f}), "
                f"parts over at once {parts / fed:.4f}",
                flush=True,
            )
        times = ", ".join(f"{s:.0f}" for s in seconds)
        print(f"{recipe}: {whole:.0f} s at once; parts {times} s, {sum(seconds) / whole:.2f} of it in all", flush=True)
