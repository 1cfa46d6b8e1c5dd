"""Arrays as values: numpy's as raw memory, other libraries' by modules of their own. Both sides import it.

::

    {"a": [dtype, shape, order, n]}   numpy array: buffer n          {"g": [dtype, n]}  a numpy scalar
    {"h": [class, text]}              numpy.str_, numpy.bytes_       {"l": dtype}       a numpy dtype

and the nodes that ``numpy_kinds``, ``arrow_tables``, ``pandas_scalars``, ``pandas_arrays``, ``pandas_tables``,
``tensors`` define.

Writing a value imports no library: whoever has such a value has imported its library already.  Reading one imports only
the library that the value belongs to.  We check everything that was sent before the library sees it: ``dtypes`` checks
dtypes and array sizes, ``arrow_stream`` checks tables.
"""

import sys

from ..scalars import BadValue, NotPlain, class_name
from . import arrow_tables, dtypes, numpy_kinds, pandas_arrays, pandas_scalars, pandas_tables, tensors


def encode(encoder, value, kind, depth):
    """The node of an array or a table for ``values.Encoder``; None for anything else."""
    library = (getattr(kind, "__module__", None) or "").partition(".")[0]
    writer = _WRITERS.get(library)
    if writer is None or library not in sys.modules:
        return None
    node = writer(encoder, value, kind, sys.modules[library], depth)
    if node is not None and not encoder.has(library):
        if "tt" in node and not encoder.limited:  # the value itself was asked for: numpy reads its elements
            name, shape, strides, _, _, number = node["tt"]
            return {"tn": [name, shape, strides, number]}
        words = "a %s needs %s on both sides (there: %%flame pip install %s)"
        raise NotPlain(words % (class_name(kind), library, library))
    return node


def decode(decoder, tag, content, depth):
    """The value of a node that ``encode`` made; raises BadValue."""
    library, reader = _READERS.get(tag, (None, None))
    if reader is None:
        raise BadValue("a value of the unknown kind %.20r" % (tag,))
    try:
        return reader(decoder, content, depth, _library(library))
    except (BadValue, RecursionError):
        raise
    except Exception as e:  # from the caller's functions, or from libraries, each of which has errors of its own
        if decoder.failed is e:
            raise
        raise BadValue("an array or a table that cannot be read (%s: %s)" % (type(e).__name__, str(e)[:200]))


def _library(name):
    try:
        if name == "numpy":
            import numpy as library
        elif name == "pandas":
            import pandas as library
        elif name == "polars":
            import polars as library
        elif name == "torch":
            import torch as library
        else:
            import pyarrow as library
        return library
    except ImportError:
        where = sys.executable or "this process"
        raise BadValue("a value of %s, which is not installed for %s" % (name, where), missing=True)


# -- numpy -----------------------------------------------------------------------------------------------------------


def _write_numpy(encoder, value, kind, numpy, depth):
    if kind is numpy.memmap:
        value, kind = value.view(numpy.ndarray), numpy.ndarray
    if kind is numpy.ndarray and not numpy_kinds.is_special(numpy, value.dtype):
        if value.dtype.name == "bfloat16":
            return tensors.write_numpy(encoder, value)
        dtype = _words(numpy, value.dtype, list(value.shape))
        encoder.whole(value.nbytes)
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        return {"a": [dtype, list(value.shape), order, encoder.buffer(_memory(numpy, value, order))]}
    if kind is numpy.str_:
        return {"h": ["str_", encoder.buffer(str(value).encode("utf-8", "surrogatepass"))]}
    if kind is numpy.bytes_:
        return {"h": ["bytes_", encoder.buffer(bytes(value))]}
    if issubclass(kind, numpy.generic) and kind is value.dtype.type and kind is not numpy.record:
        return {"g": [_words(numpy, value.dtype), encoder.buffer(value.tobytes())]}
    if issubclass(kind, numpy.dtype):
        return {"l": "|O" if value.kind == "O" else _words(numpy, value)}
    return numpy_kinds.write(encoder, value, kind, numpy, depth)


def _memory(numpy, array, order):
    """The bytes of an array; not copied if the array is contiguous."""
    if not array.flags.forc:
        array = numpy.ascontiguousarray(array)
    if not array.size or not array.itemsize:
        return b""
    return memoryview(array.ravel(order="K").view(numpy.uint8))


def _words(numpy, dtype, shape=()):
    """``dtype`` as JSON, if the other side would accept it and an array of it with this shape."""
    told = dtypes.words(numpy, dtype)
    if type(told) is str and dtype.itemsize:
        return told
    try:
        dtypes.check_shape(list(shape), dtypes.check(told))
    except BadValue as e:
        raise NotPlain("this dtype does not travel: %s" % e)
    return told


def _read_array(decoder, content, depth, numpy):
    words, shape, order, number = content
    if type(words) is list or order not in ("C", "F"):
        raise BadValue("an array of the dtype %.40r and the order %.40r" % (words, order))
    dtype, layout = dtypes.make(numpy, words)
    count = dtypes.check_shape(shape, layout)
    data = decoder.part(number)
    if len(data) != count * dtype.itemsize:
        raise BadValue("an array that does not fill its shape")
    if not len(data):
        return numpy.zeros(tuple(shape), dtype, order)
    dtypes.check_text(numpy, data, count, layout)
    array = numpy.frombuffer(data, dtype).reshape(tuple(shape), order=order)
    return array if array.flags.writeable else array.copy(order="K")


def _read_scalar(decoder, content, depth, numpy):
    words, number = content
    dtype, layout = dtypes.make(numpy, words)
    data = decoder.part(number)
    if type(words) is list or len(data) != dtype.itemsize or not dtype.itemsize:
        raise BadValue("a scalar that cannot be read")
    dtypes.check_shape([], layout)
    dtypes.check_text(numpy, data, 1, layout)
    decoder.count_bytes(len(data))
    return numpy.frombuffer(data, dtype).copy()[0]


def _read_text(decoder, content, depth, numpy):
    name, number = content
    if name not in ("bytes_", "str_"):
        raise BadValue("a text of the class %.40r" % (name,))
    data = bytes(decoder.part(number))
    return numpy.bytes_(data) if name == "bytes_" else numpy.str_(data.decode("utf-8", "surrogatepass"))


def _read_dtype(decoder, content, depth, numpy):
    return numpy.dtype(object) if content == "|O" else dtypes.make(numpy, content)[0]


_WRITERS = {
    "numpy": _write_numpy,
    "pandas": pandas_tables.write,
    "pyarrow": arrow_tables.write,
    "polars": arrow_tables.write_polars,
    "torch": tensors.write_torch,
}
_READERS = {
    "a": ("numpy", _read_array),
    "g": ("numpy", _read_scalar),
    "h": ("numpy", _read_text),
    "l": ("numpy", _read_dtype),
}
for _library_name, _readers in (
    ("numpy", numpy_kinds.READERS),
    ("pandas", pandas_scalars.READERS),
    ("pandas", pandas_arrays.READERS),
    ("pandas", pandas_tables.READERS),
    ("pyarrow", arrow_tables.READERS),
    ("polars", arrow_tables.POLARS_READERS),
    ("numpy", tensors.READERS),
    ("torch", tensors.READERS_OF_TORCH),
):
    _READERS.update((_tag, (_library_name, _reader)) for _tag, _reader in _readers.items())
