"""Real llama.cpp as a judge of GGUF files. Each command prints one JSON value.

llama.py measure MODEL TEXT [--against REFERENCE] [--questions FILE]   perplexity, KL divergence, right answers
llama.py tokens MODEL STRINGS.json        ids of each string, special tokens parsed, no BOS added
llama.py expected TOKENIZER.json STRINGS.json   the same from Hugging Face's tokenizers
llama.py logits MODEL IDS.json OUT.f32    raw logits after each of at most CONTEXT ids, with keys and values kept in F32
llama.py newest MODEL IDS.json OUT.f32    the same from the newest llama.cpp among the wheels
llama.py tensors FILE                     {name: [type, shape]} read by the gguf package
llama.py metadata MODEL                   {key: [GGUF types, value]} read by the gguf package; long arrays by digest
llama.py generate MODEL PROMPT COUNT [--draft FILE]   the greedy continuation and the log-probabilities of its tokens
llama.py quantize SOURCE MATRIX TARGET N [THREADS]   llama.cpp's quantizer to its file type N with an importance matrix
                                          (GGUF; or none)
"""

import argparse
import hashlib
import json
import os

CONTEXT = 256

# ggml's number of the type, llama.cpp's of the choice.
F32 = NEVER = 0


class Llama:
    """A model with an empty context of CONTEXT tokens."""

    def __init__(self, path, exact=False):
        import cyllama.llama.llama_cpp as llama_cpp

        class Model(llama_cpp.LlamaModel):
            # The wheel's context asks its model for this, and the wheel's model has it only in its vocabulary.
            n_vocab = property(lambda self: self.get_vocab().n_vocab)

        llama_cpp.disable_logging()
        self.library = llama_cpp
        self.model = Model(path_model=path, params=llama_cpp.LlamaModelParams())
        self.vocabulary = self.model.get_vocab()
        parameters = llama_cpp.LlamaContextParams()
        parameters.n_ctx = parameters.n_batch = CONTEXT
        parameters.n_threads = parameters.n_threads_batch = 1
        if exact:
            parameters.type_k = parameters.type_v = F32
            parameters.flash_attn_type = NEVER
        self.context = llama_cpp.LlamaContext(model=self.model, params=parameters)

    def ids(self, text, special=False):
        return list(self.vocabulary.tokenize(text, add_special=False, parse_special=special))

    def logits(self, ids, past=0, first=0):
        """Logits after each of ids[first:], which follow `past` tokens already in the context."""
        import numpy

        if past == 0:
            self.context.kv_cache_clear()
        batch = self.library.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1)
        batch.set_batch(ids, past, True)
        if self.context.decode(batch) not in (0, None):
            raise SystemExit("llama.cpp could not decode a batch")
        rows = range(first, len(ids))
        return numpy.array([self.context.get_logits_ith(row) for row in rows], dtype=numpy.float64)

    def continuation(self, prompt, count):
        """The greedy continuation of BOS and the prompt."""
        ids, past, said = [self.vocabulary.token_bos(), *self.ids(prompt)], 0, []
        while len(said) < count:
            token = int(self.logits(ids, past, len(ids) - 1)[0].argmax())
            if self.vocabulary.is_eog(token):
                break
            past += len(ids)
            ids = [token]
            said.append(token)
        return self.vocabulary.detokenize(said)


def log_probabilities(logits):
    import numpy

    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(axis=-1, keepdims=True))


def scored(model, text):
    """Ids and log-probabilities of the second halves of the text's chunks, each of which begins with BOS, as
    llama.cpp's perplexity tool scores them. Kept beside the model, by its time of change and the text: a reference is asked
    for again and again."""
    import numpy

    words = open(text, encoding="utf-8").read()
    key = hashlib.sha256(f"{os.stat(model).st_mtime_ns} {words}".encode()).hexdigest()[:16]
    kept = f"{model}.{key}.scored.npz"
    if os.path.exists(kept):
        with numpy.load(kept) as arrays:
            return arrays["ids"], arrays["found"]
    llama, half, chunks = Llama(model), CONTEXT // 2, []
    ids = llama.ids(words)
    for start in range(0, len(ids) - CONTEXT + 1, CONTEXT):
        chunk = [llama.vocabulary.token_bos(), *ids[start + 1 : start + CONTEXT]]
        chunks.append((chunk[half:], log_probabilities(llama.logits(chunk, first=half - 1)[:-1])))
    ids, found = (numpy.concatenate(part) for part in zip(*chunks))
    numpy.savez(kept, ids=ids, found=found)
    return ids, found


def measure(model, text, against=None, questions=None):
    import numpy

    ids, found = scored(model, text)
    result = {"perplexity": float(numpy.exp(-found[range(len(ids)), ids].mean()))}
    if against:
        _, expected = scored(against, text)
        divergence = (numpy.exp(expected) * (expected - found)).sum(axis=-1)
        result["kl_mean"] = float(divergence.mean())
        result["kl_median"] = float(numpy.median(divergence))
        result["kl_p99"] = float(numpy.quantile(divergence, 0.99))
        result["same_top"] = float((expected.argmax(axis=-1) == found.argmax(axis=-1)).mean())
    if questions:
        judged = Llama(model)
        pairs = json.load(open(questions, encoding="utf-8"))
        long_enough = lambda answer: len(judged.ids(" " + answer)) + 2
        right = [judged.continuation(q, long_enough(a)).strip().startswith(a.strip()) for q, a in pairs]
        result["right"] = sum(right)
        result["right_facts"] = sum(right[: len(pairs) // 2])
    return result


def tokens(model, strings):
    llama = Llama(model)
    return [llama.ids(text, special=True) for text in json.load(open(strings, encoding="utf-8"))]


def expected(tokenizer, strings):
    import tokenizers

    encoder = tokenizers.Tokenizer.from_file(tokenizer)
    texts = json.load(open(strings, encoding="utf-8"))
    return [encoder.encode(text, add_special_tokens=False).ids for text in texts]


def logits(model, ids, out):
    import numpy

    ids = json.load(open(ids, encoding="utf-8"))
    Llama(model, exact=True).logits(ids).astype(numpy.float32).tofile(out)


def newest(model, ids, out):
    import gguf
    from newest import logits

    ids = json.load(open(ids, encoding="utf-8"))
    embedding = next(tensor for tensor in gguf.GGUFReader(model).tensors if tensor.name == "token_embd.weight")
    logits(model, ids, int(embedding.shape[1])).tofile(out)


def tensors(model):
    import gguf

    return {t.name: [t.tensor_type.name, t.shape.tolist()] for t in gguf.GGUFReader(model).tensors}


def metadata(model):
    import gguf

    described = {}
    for key, field in gguf.GGUFReader(model).fields.items():
        value = field.contents()
        if isinstance(value, list) and len(value) > 16:
            value = hashlib.sha256(json.dumps(value).encode()).hexdigest()
        described[key] = [[kind.name for kind in field.types], value]
    return described


def generate(model, prompt, count, draft=None):
    """The greedy continuation and its tokens' log-probabilities, from the newest llama.cpp among the wheels; `draft`
    is a file of layers for multi-token prediction, which then draft, and how many tokens they did is said besides."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx = CONTEXT
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    parameters.verbosity = 0
    if draft is not None:
        parameters.speculative.draft.mparams.path = draft
        parameters.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
    server = xllamacpp.Server(parameters)
    request = {"prompt": prompt, "n_predict": int(count), "temperature": 0, "n_probs": 1}
    said = server.handle_completions(request)
    choice = said["choices"][0]
    found = [choice["text"], [token["logprob"] for token in choice["logprobs"]["content"]]]
    return found if draft is None else [*found, said["timings"]["draft_n"]]


def importances(matrix):
    """{tensor: means of squares, slice after slice}, as llama-quantize reads them; slices without tokens have ones."""
    import gguf
    import numpy

    tensors = {t.name: t.data for t in gguf.GGUFReader(matrix).tensors}
    means = {}
    for name in [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]:
        counts = tensors[name + ".counts"].reshape(-1, 1)
        sums = tensors[name + ".in_sum2"].reshape(len(counts), -1)
        means[name] = numpy.where(counts > 0, sums / numpy.maximum(counts, 1), 1).astype(numpy.float32).ravel()
    return means


def quantize(source, matrix, target, file_type, threads=1):
    """Whether llama_model_quantize does it. The wheel's parameters have no setter for the importances, so their pointer is
    put where the C structure has it: behind nthread, three types (4 bytes each) and six flags, at the next multiple of 8."""
    import ctypes

    import cyllama.llama.llama_cpp as llama_cpp

    class Entry(ctypes.Structure):
        _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]

    parameters = llama_cpp.LlamaModelQuantizeParams()
    parameters.nthread, parameters.ftype = 0x5EED, int(file_type)
    object_bytes = ctypes.string_at(id(parameters), 128)
    start = object_bytes.find((0x5EED).to_bytes(4, "little") + int(file_type).to_bytes(4, "little"))
    assert start > 0, "the wheel holds its parameters elsewhere"
    parameters.nthread, parameters.allow_requantize = int(threads), True
    means = importances(matrix) if matrix != "none" else {}
    entries = [Entry(name.encode(), values.ctypes.data, values.size) for name, values in means.items()]
    entries = (Entry * (len(entries) + 1))(*entries)
    if means:
        ctypes.c_void_p.from_address(id(parameters) + start + 24).value = ctypes.addressof(entries)
    llama_cpp.disable_logging()
    try:
        llama_cpp.model_quantize(source, target, parameters)
    except RuntimeError:
        return False
    return True


parser = argparse.ArgumentParser()
parser.add_argument(
    "command",
    choices=["measure", "tokens", "expected", "logits", "newest", "tensors", "metadata", "generate", "quantize"],
)
parser.add_argument("arguments", nargs="+")
parser.add_argument("--against")
parser.add_argument("--questions")
parser.add_argument("--draft")
options = parser.parse_args()
extra = {name: getattr(options, name) for name in ("against", "questions", "draft") if getattr(options, name)}
print(json.dumps(globals()[options.command](*options.arguments, **extra)))
