#!/usr/bin/env python3
"""KL divergence of files made for a size beside presets, uniform mixes and random choices of the same bytes, as a table.

Outside of the test run: target/tmp/python/bin/python tests/allocation.py [--random 20] [--recipe auto] PRESET...
For each preset's size on the fixture: the preset; every type for all projections, mixed with the next larger one in the
first layers so far as the bytes allow (the best two of these mixes around the size are made); the choice of --size; and
random choices of the same bytes within the recipe's bounds.
"""

import argparse
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "fixtures/tiny-r1"
PROGRAM = ROOT / "target/release/quantpress"
MATRIX = ["--imatrix", FIXTURE / "imatrix.gguf"]
# By size. Only neighbours whose mix can be the best one: k-quants among themselves, and the hull of the i-quants.
FAMILIES = [
    ["iq1_s", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs", "q5_k", "q6_k", "q8_0"],
    ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0"],
]
BITS = {"iq1_s": 1.5625, "iq2_xxs": 2.0625, "iq2_xs": 2.3125, "iq2_s": 2.5625, "q2_k": 2.625, "iq3_xxs": 3.0625,
        "iq3_s": 3.4375, "q3_k": 3.4375, "iq4_xs": 4.25, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625, "q8_0": 8.5}


def quantpress(*arguments):
    command = [PROGRAM, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def plan(*arguments):
    return json.loads(quantpress("plan", FIXTURE, "--json", *MATRIX, *arguments))


class Judge:
    def __init__(self, folder):
        self.folder = folder
        self.reference = folder / "bf16.gguf"
        quantpress("quantize", FIXTURE, "-o", self.reference, "-r", "bf16", "-q")

    def __call__(self, *arguments):
        file = self.folder / "file.gguf"
        quantpress("quantize", FIXTURE, "-o", file, "-q", *MATRIX, *arguments)
        script = ROOT / "tests/support/llama.py"
        command = [sys.executable, script, "measure", file, FIXTURE / "evaluation.txt", "--against", self.reference]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return file.stat().st_size, found["kl_mean"], found["kl_median"]


def write_recipe(path, types, embedding="q4_k", output="q6_k"):
    """`types` is a list of (pattern, type)."""
    rules = [("^token_embd", embedding), ("^output", output), *types]
    lines = [f"{{ name = '{name}', type = '{kind}', reason = 'compared' }}" for name, kind in rules]
    path.write_text("name = 'compared'\nfile_type = 0\nrule = [\n  " + ",\n  ".join(lines) + ",\n]\n")


def uniform(folder, size):
    """The fullest mix of neighbours in each family: the larger type for as many of the first tensors as fit."""
    names = [t["name"] for t in plan("-r", "bf16")["tensor_list"] if t["type"] == "BF16"]
    names = [name for name in names if name not in ("token_embd.weight", "output.weight")]
    path = folder / "uniform.toml"

    def bytes_of(low, high, count):
        types = [(f"^{re.escape(name)}$", high) for name in names[:count]]
        write_recipe(path, types + [("", low)])
        return plan("-r", path)["file_bytes"]

    for family in FAMILIES:
        for low, high in zip(family, family[1:]):
            if bytes_of(low, high, 0) <= size < bytes_of(low, high, len(names)):
                first, last = 0, len(names)
                while last - first > 1:
                    middle = (first + last) // 2
                    first, last = (middle, last) if bytes_of(low, high, middle) <= size else (first, middle)
                bytes_of(low, high, first)
                kept = folder / f"uniform-{low}-{high}.toml"
                path.rename(kept)
                yield f"{low} with {first} of {len(names)} at {high}", kept


def random_choice(folder, size, seed, bounds, groups):
    """Types at random within the bounds: a random order of random steps up, as long as they fit."""
    generator = random.Random(seed)
    path = folder / f"random-{seed}.toml"
    order = sorted(BITS, key=BITS.get)
    allowed = [[kind for kind in order if BITS[kind] >= bounds(names[0])] for names in groups]
    chosen = [0] * len(groups)

    def bytes_now():
        rules = [(f"^{re.escape(n)}$", allowed[i][chosen[i]]) for i, names in enumerate(groups) for n in names]
        write_recipe(path, rules)
        text = path.read_text()
        path.write_text(text.replace("'^token_embd'", "'^none'").replace("'^output'", "'^none'"))
        return plan("-r", path)["file_bytes"]

    # As many steps as make a random file of about that size; then single steps while they fit.
    open_groups = list(range(len(groups)))
    while open_groups:
        index = generator.choice(open_groups)
        if chosen[index] + 1 == len(allowed[index]):
            open_groups.remove(index)
            continue
        step = generator.randint(1, len(allowed[index]) - 1 - chosen[index])
        chosen[index] += step
        if bytes_now() > size:
            chosen[index] -= step
            open_groups.remove(index)
    bytes_now()
    return path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("presets", nargs="*", default=["ud-iq1_s", "ud-iq2_xxs", "ud-q2_k_xl", "q4_k_m"])
    parser.add_argument("--random", type=int, default=20)
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--only-auto", action="store_true")
    parser.add_argument("--only-random", type=int, metavar="FIRST", help="go on with the random choices from this one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        judge = Judge(folder)
        table = folder / "sensitivity.json"
        print("| size of | file | bytes | KL mean | KL median |\n|---|---|---|---|---|")

        def row(preset, label, *arguments):
            size, mean, median = judge(*arguments)
            print(f"| {preset} | {label} | {size:,} | {mean:.5f} | {median:.5f} |", flush=True)

        for preset in options.presets:
            size = plan("-r", preset)["file_bytes"]
            auto = ["--size", f"{size}B", "--sensitivity", table, "-r", options.recipe]
            if options.only_random is None:
                row(preset, f"--size, {options.recipe}", *auto)
                if options.only_auto:
                    continue
                row(preset, preset, "-r", preset)
                for label, path in uniform(folder, size):
                    row(preset, label, "-r", path)
            text = pathlib.Path(ROOT / "src/recipe/presets/auto.toml").read_text()
            floors = dict(re.findall(r'role = "([a-z-]+)"\ntype = "auto"\nmin = "([A-Z0-9_]+)"', text))
            tensors = {t["name"]: t for t in plan(*auto)["tensor_list"] if t["type"] != "F32"}
            bounds = lambda name: BITS.get(floors.get(tensors[name]["role"], "").lower(), 0)
            groups = {}
            for name in tensors:
                groups.setdefault(re.sub("ffn_(gate|up)_exps", "gate_up", name), []).append(name)
            for seed in range(options.only_random or 0, options.random):
                path = random_choice(folder, size, seed, bounds, list(groups.values()))
                row(preset, f"random {seed}", "-r", path)


main()
