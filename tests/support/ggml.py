"""ggml's own encoders and decoders, through the C symbols of a wheel with llama.cpp inside."""

import ctypes
import time

import gguf
import numpy
import xllamacpp.xllamacpp

# ggml refuses these without importances: they then get even ones.
NEED_IMPORTANCE = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"}

library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
pointer, number = ctypes.c_void_p, ctypes.c_int64
library.ggml_quantize_chunk.restype = ctypes.c_size_t
library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
library.ggml_get_type_traits.restype = pointer


def encode(kind, x, importance):
    """The blocks of rows x, one row of importances or None for all of them, and the seconds that took."""
    if importance is None and kind.name in NEED_IMPORTANCE:
        importance = numpy.ones(x.shape[1], numpy.float32)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = numpy.zeros(x.size // block * size, numpy.uint8)
    weights = None if importance is None else importance.ctypes.data
    library.ggml_quantize_init(int(kind))
    start = time.perf_counter()
    library.ggml_quantize_chunk(int(kind), x.ctypes.data, blocks.ctypes.data, 0, *x.shape, weights)
    return blocks, time.perf_counter() - start


def decode(kind, blocks, shape):
    """What llama.cpp reads: the sixth field of a type's traits is its decoder."""
    decoder = ctypes.cast(library.ggml_get_type_traits(int(kind)), ctypes.POINTER(pointer))[5]
    y = numpy.empty(shape, numpy.float32)
    ctypes.CFUNCTYPE(None, pointer, pointer, number)(decoder)(blocks.ctypes.data, y.ctypes.data, y.size)
    return y
