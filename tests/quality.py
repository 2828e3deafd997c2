#!/usr/bin/env python3
"""KL divergence of our files beside that of ggml's encoders with the same types and importances, as a table.

Outside of the test run: target/tmp/python/bin/python tests/quality.py [--without-imatrix] RECIPE... [--override R=T]
Of each recipe's file a twin is made in which every quantized tensor is encoded by ggml (from the bf16 file, slice by
slice, as llama-quantize does). Both are compared with the bf16 file in real llama.cpp on the fixture's evaluation text.

With --feedback a third file is made with error feedback, on 100 chunks of the calibration text that the importances are of.

With --checkpoint DIR it is another model than the fixture, with --imatrix and --text (several times, or the checkpoint's
evaluation.txt) of its own, and `quantpress evaluate` takes the place of llama.cpp: its figures are the same within 1 %.

With --draws N all this is done N times, each with importances that are off by random 1 %: as good as the measured ones, but
other roundings. How far the figures then lie apart is how much of a difference is chance.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import gguf
import numpy

from support import ggml

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "fixtures/tiny-r1"
PROGRAM = os.environ.get("QUANTPRESS_PROGRAM", ROOT / "target/release/quantpress")


def quantpress(*arguments):
    return subprocess.run([PROGRAM, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout


class Judge:
    """Measures files by each text: in llama.cpp for the fixture, with `evaluate` for others."""

    def __init__(self, checkpoint, texts, reference):
        self.checkpoint, self.texts, self.reference = checkpoint, texts, reference

    def measure(self, model):
        return [self.by_text(model, text) for text in self.texts]

    def by_text(self, model, text):
        if self.checkpoint != FIXTURE:
            return json.loads(quantpress("evaluate", self.checkpoint, model, "--text", text, "--context", 256, "-q", "--json"))
        script = ROOT / "tests/support/llama.py"
        command = [sys.executable, script, "measure", model, text, "--against", self.reference]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def disturb(matrix, seed):
    """Moves every importance in the file by a random 1 % or so."""
    random = numpy.random.default_rng(seed)
    for tensor in gguf.GGUFReader(matrix, "r+").tensors:
        if tensor.name.endswith(".in_sum2"):
            tensor.data[:] *= numpy.exp(0.01 * random.standard_normal(tensor.data.shape)).astype(numpy.float32)


def importances(matrix):
    """{tensor: [slices, columns]}; slices without tokens get ones, as llama-quantize gives them."""
    tensors = {t.name: t.data for t in gguf.GGUFReader(matrix).tensors}
    found = {}
    for name, sums in tensors.items():
        if name.endswith(".in_sum2"):
            name = name.removesuffix(".in_sum2")
            counts = tensors[name + ".counts"].reshape(-1, 1)
            means = numpy.where(counts > 0, sums.reshape(len(counts), -1) / numpy.maximum(counts, 1), 1)
            found[name] = means.astype(numpy.float32)
    return found


def make_twin(ours, reference, twin, importance):
    shutil.copy(ours, twin)
    weights = {t.name: t for t in gguf.GGUFReader(reference).tensors}
    with open(twin, "r+b") as file:
        for tensor in gguf.GGUFReader(ours).tensors:
            kind = tensor.tensor_type
            if kind.name in ("F32", "F16", "BF16"):
                continue
            source = weights[tensor.name]
            columns = int(tensor.shape[0])
            x = gguf.dequantize(source.data, source.tensor_type).reshape(-1, columns).astype(numpy.float32)
            slices = int(tensor.shape[2]) if len(tensor.shape) > 2 else 1
            w = importance.get(tensor.name)
            w = None if w is None else numpy.ascontiguousarray(w.reshape(slices, columns))
            file.seek(tensor.data_offset)
            for index, rows in enumerate(numpy.ascontiguousarray(x.reshape(slices, -1, columns))):
                blocks, _ = ggml.encode(kind, rows, w[index] if w is not None else None)
                file.write(blocks.tobytes())


def row(label, model, judge):
    """The mean divergence over the texts."""
    found = judge.measure(model)
    for m in found:
        numbers = f"{m['perplexity']:.4f} | {m['kl_mean']:.5f} | {m['kl_median']:.5f} | {m['kl_p99']:.4f}"
        print(f"| {label} | {numbers} | {100 * m['same_top']:.2f} |", flush=True)
    return statistics.mean(m["kl_mean"] for m in found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--without-imatrix", action="store_true")
    parser.add_argument("--override", action="append", default=[])
    parser.add_argument("--no-twin", action="store_true")
    parser.add_argument("--feedback", action="store_true")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--checkpoint", type=pathlib.Path, default=FIXTURE)
    parser.add_argument("--imatrix", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, action="append")
    options = parser.parse_args()
    checkpoint = options.checkpoint.resolve()
    overrides = [argument for o in options.override for argument in ("--override", o)]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        reference, matrix = folder / "bf16.gguf", folder / "imatrix.gguf"
        quantpress("quantize", checkpoint, "-o", reference, "-r", "bf16", "-q")
        judge = Judge(checkpoint, options.text or [checkpoint / "evaluation.txt"], reference)
        print("| file | perplexity | KL mean | KL median | KL p99 | same top % |\n|---|---|---|---|---|---|")
        for recipe in options.recipes:
            ours, twin = folder / f"ours-{pathlib.Path(recipe).name}.gguf", folder / f"ggml-{pathlib.Path(recipe).name}.gguf"
            ratios = []
            for draw in range(options.draws or 1):
                shutil.copy(options.imatrix or checkpoint / "imatrix.gguf", matrix)
                if options.draws:
                    disturb(matrix, draw)
                measured = [] if options.without_imatrix else ["--imatrix", matrix]
                quantpress("quantize", checkpoint, "-o", ours, "-r", recipe, "-q", "--force", *measured, *overrides)
                found = row(recipe, ours, judge)
                if options.feedback:
                    words = ["--feedback", "--text", checkpoint / "calibration.txt", "--context", 256, "--chunks", 100]
                    quantpress("quantize", checkpoint, "-o", ours, "-r", recipe, "-q", "--force", *measured, *overrides, *words)
                    fed = row(f"{recipe}, feedback", ours, judge)
                    print(f"{recipe}: {fed / found:.3f}x with feedback", file=sys.stderr)
                    quantpress("quantize", checkpoint, "-o", ours, "-r", recipe, "-q", "--force", *measured, *overrides)
                if not options.no_twin:
                    make_twin(ours, reference, twin, {} if options.without_imatrix else importances(matrix))
                    ratios.append((found, row(f"{recipe}, ggml", twin, judge)))
            if ratios:
                (found, spread), (peer, peers) = [(statistics.mean(kl), statistics.pstdev(kl)) for kl in zip(*ratios)]
                spreads = f", spread {spread / found:.1%} and {peers / peer:.1%}" if options.draws else ""
                print(f"{recipe}: {found / peer:.3f}x{spreads}", file=sys.stderr)


if __name__ == "__main__":
    main()
