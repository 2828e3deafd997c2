#!/usr/bin/env python3
"""The types that quantpress gives tensors, beside those that real llama-quantize gives (a dry run).

usage: file_types.py QUANTPRESS [MODELS [FILE_TYPES]]      names separated by commas; all without
prints JSON: models, file types, tensors compared, differences that are meant, all others.

The models are GGUF files of full size without data (sparse files): names, shapes and the keys that llama.cpp asks for.
"""

import json
import os
import re
import struct
import subprocess
import sys
import tempfile

FILE_TYPES = {
    "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13,
    "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ2_XXS": 19, "IQ2_XS": 20, "Q2_K_S": 21,
    "IQ3_XS": 22, "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25, "IQ3_S": 26, "IQ3_M": 27, "IQ2_S": 28, "IQ2_M": 29,
    "IQ4_XS": 30, "IQ1_M": 31, "BF16": 32, "F16": 1, "F32": 0, "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38,
}  # fmt: skip

QKV, FUSED = "qkv", "fused"


class Model:
    """Sizes of a model, and what its layers have beside the usual."""

    def __init__(self, arch, layers, width, heads, kv_heads, ffn, vocabulary, *, head=128, tied=False, attention="split",
                 gated=True, experts=0, expert_ffn=0, shared_ffn=0, dense=0, keys=(), more=(), more_top=(), biases=False):  # fmt: skip
        self.__dict__.update(locals())

    def metadata(self):
        a = self.arch
        keys = {
            "general.architecture": a,
            f"{a}.block_count": self.layers,
            f"{a}.context_length": 8192,
            f"{a}.embedding_length": self.width,
            f"{a}.feed_forward_length": self.ffn,
            f"{a}.attention.head_count": self.heads,
            f"{a}.attention.head_count_kv": self.kv_heads,
            f"{a}.attention.key_length": self.head,
            f"{a}.attention.value_length": self.head,
            f"{a}.attention.layer_norm_rms_epsilon": 1e-6,
            f"{a}.attention.layer_norm_epsilon": 1e-6,
            f"{a}.rope.dimension_count": self.head,
            f"{a}.vocab_size": self.vocabulary,
            "tokenizer.ggml.model": "no_vocab",
        }
        if self.experts:
            keys |= {
                f"{a}.expert_count": self.experts,
                f"{a}.expert_used_count": 2,
                f"{a}.expert_feed_forward_length": self.expert_ffn,
            }
        if self.shared_ffn:
            keys |= {f"{a}.expert_shared_count": 1, f"{a}.expert_shared_feed_forward_length": self.shared_ffn}
        if self.dense:
            keys[f"{a}.leading_dense_block_count"] = self.dense
        return keys | {key.replace("ARCH", a): value for key, value in self.keys}

    def tensors(self):
        """Names, and shapes with the row length first."""
        w, q, kv = self.width, self.heads * self.head, self.kv_heads * self.head
        found = [("token_embd.weight", [w, self.vocabulary]), ("output_norm.weight", [w]), *self.more_top]
        if not self.tied:
            found.append(("output.weight", [w, self.vocabulary]))
        for layer in range(self.layers):
            block = [("attn_norm.weight", [w]), ("attn_output.weight", [q, w]), ("ffn_norm.weight", [w])]
            if self.attention == QKV:
                block.append(("attn_qkv.weight", [w, q + 2 * kv]))
            elif self.attention == "split":
                block += [("attn_q.weight", [w, q]), ("attn_k.weight", [w, kv]), ("attn_v.weight", [w, kv])]
            if self.biases:
                block += [("attn_output.bias", [w]), ("ffn_down.bias", [w])]
            if self.experts and layer >= self.dense:
                e, f = self.experts, self.expert_ffn
                block += [("ffn_gate_inp.weight", [w, e]), ("ffn_up_exps.weight", [w, f, e]), ("ffn_down_exps.weight", [f, w, e])]
                block += [("ffn_gate_exps.weight", [w, f, e])]
                if self.shared_ffn:
                    s = self.shared_ffn
                    block += [("ffn_up_shexp.weight", [w, s]), ("ffn_gate_shexp.weight", [w, s]), ("ffn_down_shexp.weight", [s, w])]
            else:
                up = 2 * self.ffn if self.gated == FUSED else self.ffn
                block += [("ffn_up.weight", [w, up]), ("ffn_down.weight", [self.ffn, w])]
                if self.gated is True:
                    block.append(("ffn_gate.weight", [w, self.ffn]))
            block += [(name, shape) for name, shape in self.more]
            found += [(f"blk.{layer}.{name}", shape) for name, shape in block]
        return found


MLA = [("attn_q_a.weight", [7168, 1536]), ("attn_q_a_norm.weight", [1536]), ("attn_q_b.weight", [1536, 24576]),
       ("attn_kv_a_mqa.weight", [7168, 576]), ("attn_kv_a_norm.weight", [512]), ("attn_k_b.weight", [128, 512, 128]),
       ("attn_v_b.weight", [512, 128, 128]), ("exp_probs_b.bias", [256])]  # fmt: skip
MLA_KEYS = [("ARCH.attention.q_lora_rank", 1536), ("ARCH.attention.kv_lora_rank", 512),
            ("ARCH.attention.key_length_mla", 192), ("ARCH.attention.value_length_mla", 128)]  # fmt: skip
SSM = [("ssm_in.weight", [4096, 16384]), ("ssm_out.weight", [8192, 4096]), ("ssm_conv1d.weight", [4, 8192]),
       ("ssm_x.weight", [8192, 288]), ("ssm_dt.weight", [256, 8192]), ("ssm_a", [16, 8192])]  # fmt: skip
SSM_KEYS = [("ARCH.ssm.conv_kernel", 4), ("ARCH.ssm.inner_size", 8192), ("ARCH.ssm.state_size", 16), ("ARCH.ssm.time_step_rank", 256)]
QK_NORM = [("attn_q_norm.weight", [128]), ("attn_k_norm.weight", [128])]

MODELS = {
    "llama-3.1-8b": Model("llama", 32, 4096, 32, 8, 14336, 128256),
    "llama-3.2-1b": Model("llama", 16, 2048, 32, 8, 8192, 128256, head=64, tied=True),
    "llama-3.3-70b": Model("llama", 80, 8192, 64, 8, 28672, 128256),
    "llama-2-7b": Model("llama", 32, 4096, 32, 32, 11008, 32000),
    "mixtral-8x7b": Model("llama", 32, 4096, 32, 8, 14336, 32000, experts=8, expert_ffn=14336),
    "qwen2.5-72b": Model("qwen2", 80, 8192, 64, 8, 29568, 152064),
    "qwen2.5-7b": Model("qwen2", 28, 3584, 28, 4, 18944, 152064),
    "qwen1.5-moe": Model("qwen2moe", 24, 2048, 16, 16, 5632, 151936, experts=60, expert_ffn=1408, shared_ffn=5632),
    "qwen3-8b": Model("qwen3", 36, 4096, 32, 8, 12288, 151936, more=QK_NORM),
    "qwen3-0.6b": Model("qwen3", 28, 1024, 16, 8, 3072, 151936, tied=True, more=QK_NORM),
    "qwen3-30b-a3b": Model("qwen3moe", 48, 2048, 32, 4, 6144, 151936, experts=128, expert_ffn=768, more=QK_NORM),
    "glm-4.5-air": Model("glm4moe", 46, 4096, 96, 8, 10944, 151552, experts=128, expert_ffn=1408, shared_ffn=1408, dense=1),
    "minimax-m2": Model("minimax-m2", 62, 3072, 48, 8, 1536, 200064, experts=256, expert_ffn=1536),
    "gpt-oss-20b": Model("gpt-oss", 24, 2880, 64, 8, 2880, 201088, head=64, experts=32, expert_ffn=2880, biases=True,
                         keys=[("ARCH.attention.sliding_window", 128)], more=[("attn_sinks.weight", [64])]),  # fmt: skip
    "deepseek-r1": Model("deepseek2", 61, 7168, 128, 1, 18432, 129280, head=576, attention="latent", experts=256, expert_ffn=2048,
                         shared_ffn=2048, dense=3, keys=MLA_KEYS, more=MLA),  # fmt: skip
    "falcon-7b": Model("falcon", 32, 4544, 71, 1, 18176, 65024, head=64, attention=QKV, gated=False),
    "falcon-40b": Model("falcon", 60, 8192, 128, 8, 32768, 65024, head=64, attention=QKV, gated=False),
    "gpt2-xl": Model("gpt2", 48, 1600, 25, 25, 6400, 50257, head=64, attention=QKV, gated=False, biases=True,
                     more_top=[("position_embd.weight", [1600, 1024])]),  # fmt: skip
    "bloom-7b": Model("bloom", 30, 4096, 32, 32, 16384, 250880, attention=QKV, gated=False, biases=True),
    "mpt-7b": Model("mpt", 32, 4096, 32, 32, 16384, 50432, attention=QKV, gated=False, tied=True),
    "phi-2": Model("phi2", 32, 2560, 32, 32, 10240, 51200, head=80, attention=QKV, gated=False, biases=True),
    "phi-3-mini": Model("phi3", 32, 3072, 32, 32, 8192, 32064, head=96, attention=QKV, gated=FUSED),
    "gemma-2-9b": Model("gemma2", 42, 3584, 16, 8, 14336, 256000, head=256, tied=True, keys=[("ARCH.attention.sliding_window", 4096)]),
    "gemma-3-4b": Model("gemma3", 34, 2560, 8, 4, 10240, 262208, head=256, tied=True, keys=[("ARCH.attention.sliding_window", 1024)]),
    "starcoder2-15b": Model("starcoder2", 40, 6144, 48, 4, 24576, 49152, gated=False, biases=True),
    "stablelm-2-12b": Model("stablelm", 40, 5120, 32, 8, 13824, 100352, head=160),
    "command-r": Model("command-r", 40, 8192, 64, 64, 22528, 256000, tied=True, keys=[("ARCH.logit_scale", 0.0625)]),
    "olmo-7b": Model("olmo", 32, 4096, 32, 32, 11008, 50304),
    "olmoe-1b-7b": Model("olmoe", 16, 2048, 16, 16, 1024, 50304, experts=64, expert_ffn=1024),
    "dbrx": Model("dbrx", 40, 6144, 48, 8, 10752, 100352, attention=QKV, experts=16, expert_ffn=10752,
                  keys=[("ARCH.attention.clamp_kqv", 8.0)]),  # fmt: skip
    "grok-1": Model("grok", 64, 6144, 48, 8, 32768, 131072, experts=8, expert_ffn=32768),
    "granite-8b": Model("granite", 40, 4096, 32, 8, 12800, 49155, tied=True, keys=[("ARCH.logit_scale", 16.0)]),
    "internlm2-7b": Model("internlm2", 32, 4096, 32, 8, 14336, 92544),
    "nemotron-8b": Model("nemotron", 32, 4096, 32, 8, 16384, 256000, gated=False),
    "exaone-7b": Model("exaone", 32, 4096, 32, 8, 14336, 102400),
    "chatglm-6b": Model("chatglm", 28, 4096, 32, 2, 13696, 65024, attention=QKV, gated=FUSED),
    "jais-13b": Model("jais", 40, 5120, 40, 40, 13664, 84992, attention=QKV),
    "mamba-2.8b": Model("mamba", 64, 4096, 1, 0, 0, 50280, attention="none", gated=None, more=SSM, keys=SSM_KEYS),
}  # fmt: skip
MODELS["mamba-2.8b"].tensors = lambda: [
    entry for entry in Model.tensors(MODELS["mamba-2.8b"]) if "attn_output" not in entry[0] and "ffn" not in entry[0]
]

# Ours are safer on purpose: heads of MLA are no experts.
MEANT = re.compile(r"attn_[kv]_b\.weight$")


def is_f32(name, shape):
    return len(shape) < 2 or not name.endswith(".weight") or "_norm.weight" in name or "ffn_gate_inp" in name


def write(model, path):
    def text(value):
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def value(value):
        match value:
            case str():
                return struct.pack("<i", 8) + text(value)
            case float():
                return struct.pack("<if", 6, value)
            case int():
                return struct.pack("<iI", 4, value)

    tensors, keys = model.tensors(), model.metadata()
    infos, offset = [], 0
    for name, shape in tensors:
        count = 1
        for extent in shape:
            count *= extent
        kind, size = (0, 4) if is_f32(name, shape) else (30, 2)
        infos.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        offset += -(-size * count // 32) * 32
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)))
        file.write(b"".join(text(key) + value(found) for key, found in keys.items()) + b"".join(infos))
        file.write(b"\0" * (-file.tell() % 32))
        file.truncate(file.tell() + offset)


def llamas(path, number, log=[]):
    """The types of a dry run; the log has them."""
    import cyllama.llama.llama_cpp as llama

    log.clear()
    llama.set_log_callback(lambda _level, text: log.append(text if isinstance(text, str) else text.decode()))
    parameters = llama.LlamaModelQuantizeParams()
    parameters.ftype, parameters.dry_run, parameters.nthread = number, True, 1
    try:
        llama.model_quantize(path, os.devnull, parameters)
    except Exception as error:
        raise SystemExit(f"llama.cpp: {error}: {''.join(log)[-400:]}") from None
    line = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- \[[^\]]*\], type = +(\w+), size = .*?(?:\((\w+)\))?$", re.M)
    return {name: (new or old).upper() for name, old, new in line.findall("\n".join("".join(log).splitlines()))}


def ours(program, path, file_type):
    command = [program, "plan", path, "--recipe", file_type.lower(), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return {tensor["name"]: tensor["type"] for tensor in json.loads(done.stdout)["tensor_list"]}


def main(program, models="", file_types=""):
    models = models.split(",") if models else list(MODELS)
    file_types = file_types.split(",") if file_types else list(FILE_TYPES)
    compared, meant, different = 0, {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            path = os.path.join(folder, f"{name}.gguf")
            write(MODELS[name], path)
            for file_type in file_types:
                theirs, own = llamas(path, FILE_TYPES[file_type]), ours(program, path, file_type)
                if set(theirs) != set(own):
                    different.append([name, file_type, "names", sorted(set(theirs) ^ set(own))[:4]])
                for tensor in theirs.keys() & own.keys():
                    compared += 1
                    if theirs[tensor] == own[tensor]:
                        continue
                    if MEANT.search(tensor) and file_type == "MXFP4_MOE":
                        meant[f"{name} {file_type}"] = meant.get(f"{name} {file_type}", 0) + 1
                    else:
                        different.append([name, file_type, tensor, theirs[tensor], own[tensor]])
            os.remove(path)
    print(json.dumps({
        "models": len(models), "architectures": len({MODELS[name].arch for name in models}), "file_types": len(file_types),
        "tensors": compared, "meant": meant, "differences": len(different), "first": different[:40],
    }))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
