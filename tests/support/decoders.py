#!/usr/bin/env python3
"""Whether other readers of GGUF decode our blocks to our weights, bit by bit.

usage: decoders.py FOLDER TYPE...; the folder has TYPE.blocks and, decoded by us, TYPE.f32. Prints a JSON object of the
number of weights that differ: {type: {"ggml": n, "gguf": n}}.
"""

import json
import pathlib
import sys

import gguf
import numpy

import ggml


def different(ours, theirs):
    return int((ours.view(numpy.uint32) != theirs.reshape(-1).view(numpy.uint32)).sum())


folder, found = pathlib.Path(sys.argv[1]), {}
for name in sys.argv[2:]:
    kind = gguf.GGMLQuantizationType[name]
    blocks = numpy.fromfile(folder / f"{name}.blocks", numpy.uint8)
    ours = numpy.fromfile(folder / f"{name}.f32", numpy.float32)
    found[name] = {
        "ggml": different(ours, ggml.decode(kind, blocks, ours.shape)),
        "gguf": different(ours, gguf.dequantize(blocks, kind)),
    }
print(json.dumps(found))
