#!/usr/bin/env python3
"""Our encoders beside ggml's on the same rows in the same run: speed and error on one thread, as ratios.

Outside of the test run: target/tmp/python/bin/python tests/kernels.py [--types iq1_s,q4_k] [--rows 64] [--seconds 0.5]
Data: Gaussian rows, and heavy-tailed ones (Student's t with four degrees of freedom, rows of different spread), with
lognormal importances. `unit` is the error at unit gain, 1 / cos^2 - 1 with the weighted cosine. Our blocks are decoded
by ggml, so the errors are those that llama.cpp sees. ggml's time is the median of runs before and after ours.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import gguf
import numpy

from support import ggml

PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "target/release/quantpress"
TYPES = "q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s iq4_nl iq4_xs"


def errors(x, y, w):
    """Error at unit gain, and the gain."""
    x, y, w = x.astype(float), y.astype(float), 1.0 if w is None else w.astype(float)
    xx, xy, yy = (w * x * x).sum(), (w * x * y).sum(), (w * y * y).sum()
    return xx * yy / xy**2 - 1, xy / xx


def compare(name, x, w, folder, seconds):
    """Our error over ggml's, our gain, our speed over ggml's, our Mw/s."""
    kind = gguf.GGMLQuantizationType[name.upper()]
    theirs, before = ggml.encode(kind, x, w)
    command = [PROGRAM, "bench", "--json", "--type", name, "--rows", folder / "x.f32", "--cols", str(x.shape[1])]
    command += ["--threads", "1", "--seconds", str(seconds), "--blocks", folder / "blocks"]
    command += [] if w is None else ["--importance", folder / "w.f32"]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    times = sorted([before, *(ggml.encode(kind, x, w)[1] for _ in range(2))])
    ours, gain = errors(x, ggml.decode(kind, numpy.fromfile(folder / "blocks", numpy.uint8), x.shape), w)
    unit, _ = errors(x, ggml.decode(kind, theirs, x.shape), w)
    return ours / unit, gain, said["mw_per_s"] * times[1] / (x.size / 1e6), said["mw_per_s"]


parser = argparse.ArgumentParser()
parser.add_argument("--types", default=TYPES.replace(" ", ","))
parser.add_argument("--rows", type=int, default=64)
parser.add_argument("--cols", type=int, default=7168)
parser.add_argument("--seconds", type=float, default=0.5)
options = parser.parse_args()
random = numpy.random.default_rng(1)
shape = (options.rows, options.cols)
heavy = random.standard_t(4, shape) * 0.015 * numpy.exp(0.5 * random.standard_normal((options.rows, 1)))
data = {"gauss": random.standard_normal(shape) * 0.02, "heavy": heavy}
importance = numpy.exp(random.standard_normal(options.cols)).astype(numpy.float32)
print("| type | unit, gauss | heavy | gauss, none | heavy, none | gain | speed, gauss | heavy | Mw/s |\n" + "|---" * 9 + "|")
for name in options.types.split(","):
    cells = {}
    for label, x in data.items():
        with tempfile.TemporaryDirectory() as folder:
            folder, x = pathlib.Path(folder), x.astype(numpy.float32)
            x.tofile(folder / "x.f32")
            importance.tofile(folder / "w.f32")
            cells[label] = compare(name, x, importance, folder, options.seconds)
            cells[label + " none"] = compare(name, x, None, folder, 0.01)
    gauss, hard = cells["gauss"], cells["heavy"]
    unit = [cells[label][0] for label in ("gauss", "heavy", "gauss none", "heavy none")]
    print(f"| {name.upper()} | " + " | ".join(f"{u:.3f}" for u in unit), end=" | ")
    print(f"{gauss[1]:.4f} | {gauss[2]:.1f}x | {hard[2]:.1f}x | {gauss[3]:.0f} |", flush=True)
