#!/usr/bin/env python3
"""BF16 GGUFs of any architecture, quantized by us and by llama-quantize to the same types: KL divergence in real llama.cpp.

Outside of the test run. Importances are random, the same for both. Files come from llama.cpp's converter, or from anywhere:

    cargo build --release
    target/tmp/python/bin/python tests/gguf_families.py TEXT FILE.gguf... [--types q4_k_m,iq3_xxs,iq2_xxs]

A source that is quantized already is taken as it is (--allow-requantize, in llama-quantize allow_requantize).
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy

from gguf_road import LLAMA, NUMBERS, PROGRAM, types

NUMBERS = {**NUMBERS, "iq3_xxs": 23, "q2_k": 10, "q3_k_m": 12, "q5_k_m": 17}


def importances(path, source, random):
    """Lognormal ones for every matrix, each slice its own."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["random"])
    writer.add_uint32("imatrix.chunk_count", 100)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in gguf.GGUFReader(source).tensors:
        shape = [int(extent) for extent in tensor.shape]
        if len(shape) < 2 or tensor.name in ("token_embd.weight", "per_layer_token_embd.weight"):
            continue
        slices = shape[2] if len(shape) > 2 else 1
        sums = numpy.exp(0.7 * random.standard_normal((slices, shape[0]))).astype(numpy.float32) * 1000
        writer.add_tensor(tensor.name + ".in_sum2", sums)
        writer.add_tensor(tensor.name + ".counts", numpy.full((slices, 1), 1000, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
