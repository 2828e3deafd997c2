#!/usr/bin/env python3
"""The damage that a plan expects beside the divergence that real llama.cpp measures, one class of tensors at a time.

Outside of the test run: target/tmp/python/bin/python tests/sensitivity.py [--type iq2_xxs] [--text] [--gradients] [REGEX...]
With --text the expectation is calibrate --sensitivity's, on the fixture's calibration text, and with --gradients that of
calibrate --gradients besides. Each class of tensors alone is quantized strongly, all others stay at 16 bits. The last column is the ratio of the two,
divided by the mean ratio.
"""

import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "fixtures/tiny-r1"
PROGRAM = ROOT / "target/release/quantpress"

CLASSES = [
    "token_embd", r"^output\.", "attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_k_b", "attn_v_b", "attn_output",
    r"ffn_gate\.", r"ffn_up\.", r"ffn_down\.", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_shexp",
    "ffn_up_shexp", "ffn_down_shexp",
    *[rf"blk\.{n}\.ffn_down_exps" for n in range(1, 5)],
    *[rf"blk\.{n}\.ffn_(gate|up)_exps" for n in range(1, 5)],
    *[rf"blk\.{n}\.ffn_down_shexp" for n in range(1, 5)],
    *[rf"blk\.{n}\.attn_output" for n in range(5)],
    *[rf"blk\.{n}\.attn_q_b" for n in range(5)],
    *[rf"blk\.{n}\.attn_kv_a" for n in range(5)],
]


def measure(model, reference):
    script = ROOT / "tests/support/llama.py"
    command = [sys.executable, script, "measure", model, FIXTURE / "evaluation.txt", "--against", reference]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def expected(folder, kind, text, gradients):
    """{tensor: expected damage} with every tensor at one type, from the reasons of a saved recipe."""
    recipe, saved = folder / "open.toml", folder / "saved.toml"
    recipe.write_text("name = 'open'\nfile_type = 0\nrule = [{ type = 'auto', reason = 'all' }]\n")
    given = ["--imatrix", FIXTURE / "imatrix.gguf"]
    if text:
        matrix, table = folder / "imatrix.gguf", folder / "sensitivity.json"
        command = [PROGRAM, "calibrate", FIXTURE, "-o", matrix, "--text", FIXTURE / "calibration.txt", "--quiet"]
        command += ["--gradients", folder / "gradients"] if gradients else []
        subprocess.run([*command, "--sensitivity", table, "--types", kind], check=True, capture_output=True)
        given = ["--imatrix", matrix, "--sensitivity", table]
    command = [PROGRAM, "plan", FIXTURE, *given, "-r", recipe, "--types", kind]
    refused = subprocess.run([*command, "--size", "1KB"], capture_output=True, text=True).stderr
    size = re.search("smallest file has ([0-9,]+) bytes", refused)[1].replace(",", "")
    subprocess.run([*command, "--size", f"{size}B", "--save-recipe", saved], check=True, capture_output=True)
    rules = re.findall(r"name = '\^(.*?)\$'.*expected damage ([0-9.e-]+)", saved.read_text())
    return {name.replace("\\", ""): float(damage) for name, damage in rules}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("classes", nargs="*", default=CLASSES)
    parser.add_argument("--type", default="iq2_xxs")
    parser.add_argument("--text", action="store_true")
    parser.add_argument("--gradients", action="store_true", help="with --text: by calibrate --gradients besides")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        damage = expected(folder, options.type, options.text, options.gradients)
        make = lambda file, *more: subprocess.run(
            [PROGRAM, "quantize", FIXTURE, "-o", file, "-r", "bf16", "-q", "--force", "--imatrix", FIXTURE / "imatrix.gguf", *more],
            check=True)
        reference, file = folder / "bf16.gguf", folder / "one.gguf"
        make(reference)
        for name in options.classes:
            make(file, "--override", f"{name}={options.type}")
            found = measure(file, reference)["kl_mean"]
            rows.append((name, sum(d for tensor, d in damage.items() if re.search(name, tensor)), found))
            print(name, file=sys.stderr)
    mean = math.exp(sum(math.log(found / damage) for _, damage, found in rows) / len(rows))
    print("| class | expected damage | KL mean | ratio |\n|---|---|---|---|")
    for name, damage, found in rows:
        print(f"| `{name}` | {damage:.5f} | {found:.5f} | {found / damage / mean:.2f} |")
    off = [math.log(found / damage / mean) for _, damage, found in rows]
    print(f"a standard deviation of a factor of {math.exp(math.sqrt(sum(x * x for x in off) / len(off))):.2f}")


main()
