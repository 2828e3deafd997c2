#!/usr/bin/env python3
"""Real llama.cpp runs a file several times larger than its memory, through a memory map, beside what `plan` says.

Outside of the test run, as root (it makes a memory cgroup):

    cargo run --release --example r1_shaped -- R1S --layers 4 --size 12GB --vocab 4096
    target/release/quantpress quantize R1S -o R1S.gguf
    target/tmp/python/bin/python tests/low_memory.py R1S R1S.gguf

The limit is the file's size over --ratio (6.5: 131 GB in 20 GB) plus a fixed overhead, which is what the same program
needs for itself: it is measured first, as the anonymous memory of the same run without a limit.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from support.watch import Group, io_of, watch

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/quantpress"
CONTEXT = 64


def generate(model, tokens, threads):
    """Runs inside of the limit: generates and says what of the file is in memory after each token."""
    import cyllama.llama.llama_cpp as llama_cpp
    import numpy

    class Model(llama_cpp.LlamaModel):
        # The wheel's context asks its model for this, and the wheel's model has it only in its vocabulary.
        n_vocab = property(lambda self: self.get_vocab().n_vocab)

    llama_cpp.disable_logging()
    settings = llama_cpp.LlamaModelParams()
    # Else weights are copied into memory in another order, which a file larger than memory cannot afford.
    settings.use_extra_bufts = False
    loaded = Model(path_model=model, params=settings)
    parameters = llama_cpp.LlamaContextParams()
    parameters.n_ctx, parameters.n_batch = CONTEXT, 8
    parameters.n_threads = parameters.n_threads_batch = threads
    context = llama_cpp.LlamaContext(model=loaded, params=parameters)
    ids, said, read = [loaded.get_vocab().token_bos()], [], [io_of(os.getpid())["read_bytes"]]
    for past in range(tokens):
        batch = llama_cpp.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1)
        batch.set_batch(ids, past, True)
        if context.decode(batch) not in (0, None):
            raise SystemExit("llama.cpp could not decode")
        ids = [int(numpy.array(context.get_logits_ith(0)).argmax())]
        said += ids
        read.append(io_of(os.getpid())["read_bytes"])
    print(json.dumps({"said": said, "read": [after - before for before, after in zip(read, read[1:])]}))


def child(options, group):
    # Pages that are cached already would be charged to nobody.
    with open(options.file, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, __file__, "--child", options.checkpoint, options.file]
    return watch([*command, "--tokens", options.tokens, "--threads", options.threads], group)


def main(options):
    plan = [PROGRAM, "plan", options.checkpoint, "--recipe", options.recipe, "--json"]
    plan = json.loads(subprocess.run(plan, check=True, capture_output=True, text=True).stdout)
    size = pathlib.Path(options.file).stat().st_size
    if plan["file_bytes"] != size:
        raise SystemExit(f"{options.file} has {size} bytes; plan says {plan['file_bytes']}: other options?")
    free = child(options, None)
    if free["code"]:
        raise SystemExit(f"llama.cpp failed without a limit\n{free['stderr'][-3000:]}")
    overhead = free["anonymous"]
    reference = json.loads(free["stdout"])["said"]
    resident = plan["resident"]
    needed = resident["always"] + resident["experts_per_token"] + resident["kv_per_token"] * CONTEXT
    mb = lambda n: f"{n / 1e6:,.0f} MB"
    rows = [
        ("file", mb(size)),
        ("plan: read by every token", mb(resident["always"])),
        ("plan: of the experts, read by one token", mb(resident["experts_per_token"])),
        ("plan: KV cache of the context", f"{resident['kv_per_token'] * CONTEXT / 1e6:.2f} MB"),
        ("overhead: anonymous memory without a limit", mb(overhead)),
        ("without a limit: file pages mapped at most", mb(free["mapped"])),
        ("without a limit: seconds", f"{free['seconds']:.1f}"),
    ]
    wrong = 0
    limits = [(f"file / {options.ratio} + overhead", int(size / options.ratio) + overhead)]
    # Where plan is right, a little more than its figures is enough to read only what other experts need.
    limits.append(("1.1 x plan's figures + overhead", int(1.1 * needed) + overhead))
    for name, limit in limits:
        group = Group(limit)
        try:
            found = child(options, group)
            peak = group.number("memory.max_usage_in_bytes")
        finally:
            group.close()
        if found["code"]:
            raise SystemExit(f"llama.cpp failed in {mb(limit)}: exit {found['code']}\n{found['stderr'][-3000:]}")
        said = json.loads(found["stdout"])
        right = said["said"] == reference and len(said["said"]) == options.tokens
        wrong += not right
        rows += [
            (f"limit: {name}", mb(limit)),
            ("- tokens", f"{len(said['said'])}, {'the same as' if right else 'OTHER THAN'} without a limit"),
            ("- peak of the cgroup", mb(peak)),
            ("- anonymous memory at most", mb(found["anonymous"])),
            ("- file pages mapped at most", mb(found["mapped"])),
            ("- read from disk for a token (median after the first)", mb(statistics.median(said["read"][1:]))),
            ("- seconds", f"{found['seconds']:.1f}"),
        ]
    print("| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    return wrong


parser = argparse.ArgumentParser()
parser.add_argument("checkpoint")
parser.add_argument("file")
parser.add_argument("--recipe", default="ud-iq1_s")
parser.add_argument("--ratio", type=float, default=6.5)
parser.add_argument("--tokens", type=int, default=8)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--child", action="store_true")
options = parser.parse_args()
if options.child:
    generate(options.file, options.tokens, options.threads)
elif not Group.possible():
    print("skipped: no memory cgroup (version 1) can be made here")
else:
    sys.exit(main(options))
