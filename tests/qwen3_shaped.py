#!/usr/bin/env python3
"""Writes a checkpoint of Qwen3-30B-A3B's true layer shapes with random weights, as many layers as wanted: a workload whose
experts have short rows (768 and 2048), and no model to talk to.

    target/tmp/python/bin/python tests/qwen3_shaped.py FOLDER --layers 2 --vocab 4096

Beside examples/r1_shaped.rs, which makes DeepSeek-R1's. The text's tokens are those of the test model. Needs numpy.
"""

import argparse
import json
import pathlib
import shutil

import numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent
HIDDEN, EXPERTS, WIDTH = 2048, 128, 768
HEADS, KEYS, HEAD = 32, 4, 128
SIGMA = 0.02


def config(layers, vocab):
    return {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": HIDDEN, "num_hidden_layers": layers,
        "intermediate_size": 6144, "moe_intermediate_size": WIDTH, "num_experts": EXPERTS, "num_experts_per_tok": 8,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS, "head_dim": HEAD, "hidden_act": "silu", "attention_bias": False,
        "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "rope_scaling": None,
        "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": vocab, "torch_dtype": "bfloat16",
        "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip


def shapes(layer):
    """The tensors of a layer."""
    name = f"model.layers.{layer}"
    yield f"{name}.input_layernorm.weight", (HIDDEN,)
    yield f"{name}.post_attention_layernorm.weight", (HIDDEN,)
    yield f"{name}.self_attn.q_norm.weight", (HEAD,)
    yield f"{name}.self_attn.k_norm.weight", (HEAD,)
    yield f"{name}.self_attn.q_proj.weight", (HEADS * HEAD, HIDDEN)
    yield f"{name}.self_attn.k_proj.weight", (KEYS * HEAD, HIDDEN)
    yield f"{name}.self_attn.v_proj.weight", (KEYS * HEAD, HIDDEN)
    yield f"{name}.self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD)
    yield f"{name}.mlp.gate.weight", (EXPERTS, HIDDEN)
    for expert in range(EXPERTS):
        yield f"{name}.mlp.experts.{expert}.gate_proj.weight", (WIDTH, HIDDEN)
        yield f"{name}.mlp.experts.{expert}.up_proj.weight", (WIDTH, HIDDEN)
        yield f"{name}.mlp.experts.{expert}.down_proj.weight", (HIDDEN, WIDTH)


def write(path, tensors, normals, random):
    header, end = {}, 0
    for name, shape in tensors:
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors:
            drawn = normals[random.integers(0, len(normals), int(numpy.prod(shape)), dtype=numpy.uint32)]
            values = 1 + 0.1 * drawn if name.endswith("norm.weight") else SIGMA * drawn
            # The upper half of a float is its BF16, cut.
            file.write((values.astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes())


def main(options):
    options.folder.mkdir(parents=True)
    random = numpy.random.default_rng(1)
    normals = random.standard_normal(1 << 16).astype(numpy.float32)
    shards = [list(shapes(layer)) for layer in range(options.layers)]
    ends = [("model.embed_tokens.weight", (options.vocab, HIDDEN)), ("lm_head.weight", (options.vocab, HIDDEN))]
    shards.append([*ends, ("model.norm.weight", (HIDDEN,))])
    places, total = {}, 0
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write(options.folder / name, tensors, normals, random)
        places |= {tensor: name for tensor, _ in tensors}
        total += sum(2 * int(numpy.prod(shape)) for _, shape in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (options.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (options.folder / "config.json").write_text(json.dumps(config(options.layers, options.vocab)))
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]:
        shutil.copy(ROOT / "fixtures" / "tiny-r1" / name, options.folder / name)
    print(f"{options.folder}: {options.layers} layers, {total / 1e9:.2f} GB in {len(shards)} shards")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=4096)
    main(parser.parse_args())
