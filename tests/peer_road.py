#!/usr/bin/env python3
"""A whole conversion, from a checkpoint to a quantized file, beside llama.cpp's: time, bytes written, peak disk and memory.

Outside of the test run. Theirs is llama.cpp's converter to BF16, then its quantizer (of the wheel cyllama), with the same
types and as many threads. The converter is in the source package of llama-cpp-python and needs torch and transformers:

    pip download llama-cpp-python==0.3.36 --no-deps --no-binary llama-cpp-python && tar xf llama_cpp_python-0.3.36.tar.gz
    python3 -m venv converter && converter/bin/pip install torch transformers sentencepiece
    cargo run --release --example r1_shaped -- R1S --layers 4 --size 3GB --vocab 4096
    target/tmp/python/bin/python tests/peer_road.py R1S --converter converter/bin/python \\
        --llama-cpp llama_cpp_python-0.3.36/vendor/llama.cpp

The recipe is one of those that are llama-quantize's own, so that both choose the same types; that is checked.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

from support.watch import Group, watch

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/quantpress"

# llama.cpp's converter, told how the fixture's tokenizer splits: it knows tokenizers by a hash, and this is none of its.
CONVERT = """
import runpy, sys
folder, *arguments = sys.argv[1:]
sys.path.insert(0, folder)
import conversion.base
for name in vars(conversion.base).values():
    if isinstance(name, type) and "get_vocab_base_pre" in vars(name):
        name.get_vocab_base_pre = lambda self, tokenizer: "deepseek-v3"
sys.argv = ["convert_hf_to_gguf.py", *arguments]
runpy.run_path(folder + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def quantize(source, target, file_type, threads):
    """Runs as a process of its own: the wheel's quantizer."""
    import cyllama.llama.llama_cpp as llama_cpp

    parameters = llama_cpp.LlamaModelQuantizeParams()
    parameters.ftype, parameters.nthread = file_type, threads
    llama_cpp.model_quantize(source, target, parameters)


def types(path):
    import gguf

    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def step(name, command, folder, threads):
    group = Group() if Group.possible() else None
    try:
        found = watch(command, group, {"OMP_NUM_THREADS": str(threads)}, folder)
        if group:
            found["peak"] = group.number("memory.max_usage_in_bytes")
    finally:
        if group:
            group.close()
    if found["code"]:
        raise SystemExit(f"{name} failed: exit {found['code']}\n{found['stderr'][-3000:]}")
    print(f"{name}: {found['seconds']:.1f} s", file=sys.stderr, flush=True)
    return found


def main(options):
    plan = [PROGRAM, "plan", options.checkpoint, "--recipe", options.recipe, "--json"]
    plan = json.loads(subprocess.run(plan, check=True, capture_output=True, text=True).stdout)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = pathlib.Path(folder)
        (folder / "ours").mkdir()
        (folder / "theirs").mkdir()
        ours, middle, theirs = folder / "ours/out.gguf", folder / "theirs/bf16.gguf", folder / "theirs/out.gguf"
        road = [PROGRAM, "quantize", options.checkpoint, "-o", ours, "-r", options.recipe, "-q"]
        a = step("quantpress", [*road, "-t", options.threads], folder / "ours", options.threads)
        convert = [options.converter, "-c", CONVERT, options.llama_cpp, options.checkpoint]
        convert += ["--outtype", "bf16", "--outfile", middle]
        b = step("convert to BF16", convert, folder / "theirs", options.threads)
        found = subprocess.run([PROGRAM, "inspect", ours, "--json"], check=True, capture_output=True, text=True)
        file_type = json.loads(found.stdout)["metadata"]["general.file_type"]
        command = [sys.executable, __file__, "--child", middle, theirs, file_type, options.threads]
        c = step("quantize", command, folder / "theirs", options.threads)
        counted = [collections.Counter(types(path).values()) for path in (ours, theirs)]
        differing = {name for name, kind in types(theirs).items() if types(ours).get(name) != kind}
        print(f"tensors of another type: {len(differing)} of {plan['tensors']}", file=sys.stderr)
        if differing:
            print(f"ours {dict(counted[0])}\ntheirs {dict(counted[1])}", file=sys.stderr)

    gb = lambda n: f"{n / 1e9:.2f} GB"
    print("| | seconds | written | peak disk | peak anonymous memory |\n|---|---|---|---|---|")
    for name, s in [("quantpress", a), ("llama.cpp: convert to BF16", b), ("llama.cpp: quantize", c)]:
        print(f"| {name} | {s['seconds']:.1f} | {gb(s['written'])} | {gb(s['disk'])} | {gb(s['anonymous'])} |")
    total = {key: b[key] + c[key] for key in ("seconds", "written")}
    worst = {key: max(b[key], c[key]) for key in ("disk", "anonymous")}
    whole = f"{total['seconds']:.1f} | {gb(total['written'])} | {gb(worst['disk'])} | {gb(worst['anonymous'])}"
    print(f"| llama.cpp: the whole road | {whole} |")
    ratios = [total["seconds"] / a["seconds"], total["written"] / a["written"]]
    ratios += [worst["disk"] / a["disk"], worst["anonymous"] / a["anonymous"]]
    print("| ratio | " + " | ".join(f"{ratio:.1f}x" for ratio in ratios) + " |")


if sys.argv[1:2] == ["--child"]:
    source, target, file_type, threads = sys.argv[2:]
    quantize(source, target, int(file_type), int(threads))
else:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--recipe", default="q2_k")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--converter", required=True, help="a python with torch and transformers")
    parser.add_argument("--llama-cpp", required=True, help="the folder with convert_hf_to_gguf.py")
    parser.add_argument("--folder", help="where the files are made [default: the system's]")
    main(parser.parse_args())
