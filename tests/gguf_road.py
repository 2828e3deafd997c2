#!/usr/bin/env python3
"""A BF16 GGUF to a quantized one beside llama-quantize: seconds and peak memory, one thread and two.

Outside of the test run. A model of Llama's layout with random weights is made, and random importances for it; both programs
then make the same types of it, which is checked. Theirs is llama.cpp's quantizer (of the wheel cyllama).

    cargo build --release
    target/tmp/python/bin/python tests/gguf_road.py [--layers 2] [--types q4_k_m,iq2_xxs,iq1_s]
"""

import argparse
import pathlib
import sys
import tempfile

import gguf
import numpy

from support.watch import watch

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/quantpress"
LLAMA = ROOT / "tests/support/llama.py"
NUMBERS = {
    "q8_0": 7, "q2_k": 10, "q3_k_m": 12, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18, "iq2_xxs": 19, "iq3_xxs": 23, "iq1_s": 24,
    "iq4_xs": 30,
}  # fmt: skip
WIDTH, HEADS, KV_HEADS, FFN, VOCABULARY = 2048, 32, 8, 8192, 4096


def model(path, layers, random):
    """Weights with the tails of real ones, as BF16; gives the shapes of the matrices."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(32)
    kv = KV_HEADS * WIDTH // HEADS
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH), "output.weight": (VOCABULARY, WIDTH)}
    for layer in range(layers):
        for name, shape in [
            ("attn_q", (WIDTH, WIDTH)), ("attn_k", (kv, WIDTH)), ("attn_v", (kv, WIDTH)), ("attn_output", (WIDTH, WIDTH)),
            ("ffn_gate", (FFN, WIDTH)), ("ffn_up", (FFN, WIDTH)), ("ffn_down", (WIDTH, FFN)),
        ]:  # fmt: skip
            shapes[f"blk.{layer}.{name}.weight"] = shape
    for name, shape in shapes.items():
        weights = random.standard_t(6, size=shape).astype(numpy.float32) * 0.02
        bits = (weights.view(numpy.uint32) >> 16).astype(numpy.uint16)
        writer.add_tensor(name, bits.view(numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    norms = ["output_norm.weight"] + [f"blk.{n}.{part}_norm.weight" for n in range(layers) for part in ("attn", "ffn")]
    for name in norms:
        writer.add_tensor(name, numpy.ones(WIDTH, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return shapes


def importances(path, source, random):
    """Lognormal ones for every matrix of a file, each slice its own."""
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


def types(path):
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def run(command, threads, folder):
    found = watch([str(part) for part in command], None, {"OMP_NUM_THREADS": str(threads)}, folder)
    if found["code"]:
        raise SystemExit(f"{command}: exit {found['code']}\n{found['stderr'][-2000:]}")
    return found


def main(options):
    random = numpy.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        source, matrix, ours, theirs = (folder / f"{name}.gguf" for name in ("bf16", "matrix", "ours", "theirs"))
        shapes = model(source, options.layers, random)
        importances(matrix, source, random)
        weights = sum(rows * columns for rows, columns in shapes.values())
        print(f"{weights / 1e6:.0f} million weights, {source.stat().st_size / 1e6:.0f} MB in BF16\n")
        print("| type | threads | quantpress s | llama-quantize s | ratio | ratio of processor time | our peak memory MB |\n|---|---|---|---|---|---|---|")
        for name in options.types.split(","):
            for threads in (1, 2):
                own = run([PROGRAM, "quantize", source, "-o", ours, "-r", name, "--imatrix", matrix, "--threads",
                           threads, "--force", "--quiet"], threads, folder)  # fmt: skip
                llama = [sys.executable, LLAMA, "quantize", source, matrix, theirs, NUMBERS[name], threads]
                other = run(llama, threads, folder)
                assert types(ours) == types(theirs), "the types differ"
                ratio, work = other["seconds"] / own["seconds"], other["processors"] / own["processors"]
                memory = (own["anonymous"] + own["mapped"]) / 1e6
                print(f"| {name} | {threads} | {own['seconds']:.1f} | {other['seconds']:.1f} | {ratio:.1f} | {work:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--types", default="q4_k_m,iq2_xxs,iq1_s")
    main(parser.parse_args())
