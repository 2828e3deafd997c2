"""Raw logits from the newest llama.cpp among the wheels, which has no way to ask for them: through the C symbols of the
library inside. The structures are those of its llama.h; that the library has the same ones is seen in their defaults."""

import ctypes

import numpy
import xllamacpp.xllamacpp

# ggml's number of the type, llama.cpp's of the choice.
F32 = NEVER = 0

number, real, flag, pointer = ctypes.c_int32, ctypes.c_float, ctypes.c_bool, ctypes.c_void_p
LOG = ctypes.CFUNCTYPE(None, number, ctypes.c_char_p, pointer)


class OfModel(ctypes.Structure):
    """llama_model_params; nothing of it is changed."""

    _fields_ = [("bytes", ctypes.c_uint64 * 10)]


class OfContext(ctypes.Structure):
    """llama_context_params."""

    _fields_ = [
        *[(name, number) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max")],
        *[(name, number) for name in ("n_outputs_max_per_seq", "n_threads", "n_threads_batch")],
        *[(name, number) for name in ("ctx_type", "rope_scaling", "pooling", "attention", "flash_attn")],
        *[(name, real) for name in ("rope_base", "rope_scale", "ext", "attn", "beta_fast", "beta_slow")],
        *[("yarn_orig_ctx", number), ("defrag_thold", real), ("cb_eval", pointer), ("cb_data", pointer)],
        *[("type_k", number), ("type_v", number), ("abort", pointer), ("abort_data", pointer)],
        *[(name, flag) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "unified")],
        *[("samplers", pointer), ("n_samplers", ctypes.c_size_t), ("ctx_other", pointer)],
    ]


class Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = [("n_tokens", number), *[(name, pointer) for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")]]


library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
library.llama_model_default_params.restype = OfModel
library.llama_context_default_params.restype = OfContext
library.llama_model_load_from_file.restype = pointer
library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, OfModel]
library.llama_init_from_model.restype = pointer
library.llama_init_from_model.argtypes = [pointer, OfContext]
library.llama_decode.argtypes = [pointer, Batch]
library.llama_get_logits.restype = ctypes.POINTER(real)
library.llama_get_logits.argtypes = [pointer]
silent = LOG(lambda level, text, data: None)
library.llama_log_set(silent, None)


def array(kind, values):
    return (kind * len(values))(*values)


def logits(model, ids, vocabulary):
    """Logits [token, vocabulary] after each of the ids, with keys and values kept in F32."""
    library.llama_backend_init()
    loaded = library.llama_model_load_from_file(model.encode(), library.llama_model_default_params())
    if not loaded:
        raise SystemExit(f"llama.cpp does not read {model}")
    parameters = library.llama_context_default_params()
    shown = [parameters.n_ctx, parameters.n_batch, parameters.n_threads, parameters.flash_attn, parameters.type_k]
    assert shown == [512, 2048, 4, -1, 1], f"the wheel's structures are others: {shown}"
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512
    parameters.n_threads = parameters.n_threads_batch = 1
    parameters.flash_attn, parameters.type_k, parameters.type_v = NEVER, F32, F32
    context = library.llama_init_from_model(loaded, parameters)
    if not context:
        raise SystemExit(f"llama.cpp makes no context for {model}")
    count = len(ids)
    first = array(number, [0])
    parts = [
        array(number, ids),
        array(number, range(count)),
        array(number, [1] * count),
        array(pointer, [ctypes.addressof(first)] * count),
        array(ctypes.c_int8, [1] * count),
    ]
    token, pos, n_seq_id, seq_id, wanted = map(ctypes.addressof, parts)
    if library.llama_decode(context, Batch(count, token, None, pos, n_seq_id, seq_id, wanted)) != 0:
        raise SystemExit("llama.cpp could not decode a batch")
    return numpy.ctypeslib.as_array(library.llama_get_logits(context), (count, vocabulary)).copy()
