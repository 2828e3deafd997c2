#!/usr/bin/env python3
"""BF16 GGUFs of any architecture, quantized by us and by llama-quantize to the same types: KL divergence in real llama.cpp.

Outside of the test run. Importances are random, the same for both. Files come from llama.cpp's converter, or from anywhere:

    cargo build --release
    target/tmp/python/bin/python tests/gguf_families.py TEXT FILE.gguf... [--types q4_k_m,iq3_xxs,iq2_xxs]

A source that is quantized already is taken as it is (--allow-requantize).
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import numpy

from gguf_road import LLAMA, NUMBERS, PROGRAM, importances, types


def llama(*arguments):
    done = subprocess.run([sys.executable, LLAMA, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"llama.py {arguments}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(options):
    random, ratios = numpy.random.default_rng(1), []
    print("| file | type | KL, quantpress | KL, llama-quantize | ratio | continues |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        text = folder / "text.txt"
        text.write_bytes(pathlib.Path(options.text).read_bytes()[: options.bytes])
        for path in map(pathlib.Path, options.files):
            source, matrix = folder / path.name, folder / "matrix.gguf"
            source.symlink_to(path.resolve())
            importances(matrix, source, random)
            for name in options.types.split(","):
                ours, theirs = folder / f"ours-{path.stem}-{name}.gguf", folder / f"theirs-{path.stem}-{name}.gguf"
                command = [PROGRAM, "quantize", source, "-o", ours, "-r", name, "--imatrix", matrix, "--quiet", "--allow-requantize"]
                subprocess.run(command, check=True)
                if not llama("quantize", source, matrix, theirs, NUMBERS[name], 1):
                    print(f"| {path.stem} | {name} | | refused | | |", flush=True)
                    continue
                assert types(ours) == types(theirs), f"{path.stem} {name}: the types differ"
                own, other = (llama("measure", file, text, "--against", source)["kl_mean"] for file in (ours, theirs))
                said = llama("generate", ours, "The", 8)[0]
                ratios.append(own / other)
                print(f"| {path.stem} | {name} | {own:.5f} | {other:.5f} | {own / other:.2f} | {len(said) > 0} |", flush=True)
    print(f"\ngeometric mean of {len(ratios)} ratios: {math.exp(sum(map(math.log, ratios)) / len(ratios)):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--types", default="q4_k_m,iq3_xxs,iq2_xxs")
    parser.add_argument("--bytes", type=int, default=12000, help="of the text")
    main(parser.parse_args())
