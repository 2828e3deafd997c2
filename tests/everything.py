#!/usr/bin/env python3
"""The best file of a preset's size: types by --size, measured importances, error feedback; beside llama.cpp's own quantizer
with its own importance matrix, whose file types nearest below and above that size are made.

Outside of the test run: target/tmp/python/bin/python tests/everything.py PRESET...
With each preset's bytes: types by importances alone, and by what calibrate --sensitivity measures besides.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import quality

# llama_ftype by name; what llama-quantize makes of each is its own mix of types.
FILE_TYPES = {"IQ1_S": 24, "IQ1_M": 31, "IQ2_XXS": 19, "IQ2_XS": 20, "IQ2_S": 28, "IQ2_M": 29, "Q2_K_S": 21, "Q2_K": 10,
              "IQ3_XXS": 23}
MATRIX = quality.FIXTURE / "imatrix.gguf"
WORDS = ["--feedback", "--text", quality.FIXTURE / "calibration.txt", "--context", 256, "--chunks", 100]


def main():
    presets = sys.argv[1:] or ["ud-iq1_s"]
    print("| file | bytes | perplexity | KL mean | KL median | KL p99 | same top % |\n" + "|---" * 7 + "|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        reference, file = folder / "bf16.gguf", folder / "file.gguf"
        matrix, table = folder / "imatrix.gguf", folder / "sensitivity.json"
        quality.quantpress("quantize", quality.FIXTURE, "-o", reference, "-r", "bf16", "-q")
        text = ["--text", quality.FIXTURE / "calibration.txt", "--context", 256, "--chunks", 100, "--quiet"]
        quality.quantpress("calibrate", quality.FIXTURE, "-o", matrix, *text, "--sensitivity", table)
        made = []
        for name, number in FILE_TYPES.items():
            theirs = folder / f"{name}.gguf"
            script = quality.ROOT / "tests/support/llama.py"
            command = [sys.executable, script, "quantize", reference, MATRIX, theirs, str(number)]
            if json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout):
                made.append((theirs.stat().st_size, name, theirs))
        for preset in presets:
            plan = [quality.PROGRAM, "plan", quality.FIXTURE, "-r", preset, "--imatrix", MATRIX, "--json"]
            size = json.loads(subprocess.run(plan, check=True, capture_output=True, text=True).stdout)["file_bytes"]
            below, above = [m for m in made if m[0] <= size], [m for m in made if m[0] > size]
            for bytes_, name, theirs in filter(None, (max(below, default=None), min(above, default=None))):
                quality.row(f"llama.cpp's {name} | {bytes_:,}", theirs, reference)
            by_text = ["--sensitivity", table]
            for label, extra in (("--size", []), ("--size by a text", by_text), ("--size, feedback", WORDS),
                                 ("--size by a text, feedback", [*by_text, *WORDS])):
                arguments = ["--size", f"{size}B", "--imatrix", matrix, *extra]
                quality.quantpress("quantize", quality.FIXTURE, "-o", file, "-q", *arguments)
                quality.row(f"{label} | {file.stat().st_size:,}", file, reference)


main()
