"""Arrays and tables as values: numpy's as their memory, pandas' and pyarrow's as Arrow streams. Both sides import it.

::

    {"a": [dtype, shape, order, n]}   numpy array: buffer n          {"g": [dtype, n]}  a numpy scalar
    {"h": [class, text]}              numpy.str_, numpy.bytes_       {"l": dtype}       a numpy dtype
    {"k": n}                          pyarrow Table: buffer n        {"P": [class, n, …]}  of pandas

No library is imported to write a value, for one that has such a value has imported it; to read one the library of that
name is, and nothing else.  What is sent is checked by us before the library sees it: dtypes and the sizes of arrays by
``dtypes``, tables by ``arrow_stream``.
"""

import re
import sys

from . import arrow_stream, dtypes
from .scalars import BadValue, NotPlain, TooLarge, class_name

# Older ones open pickles in a table's metadata by themselves.
_SAFE_ARROW = (14, 0, 1)
# What dictionaries may stand for: so many bytes, or so many for each byte of the stream.
_FREE_UNFOLDED = 1 << 26
_UNFOLDED_PER_BYTE = 1024
# The dtype of categories, as pandas tells it: that of their codes.
_CODES = re.compile(r"u?int(8|16|32|64)")


def encode(encoder, value, kind):
    """The node of an array or a table for ``values.Encoder``; None for anything else."""
    library = (getattr(kind, "__module__", None) or "").partition(".")[0]
    writer = _WRITERS.get(library)
    if writer is None or library not in sys.modules:
        return None
    node = writer(encoder, value, kind, sys.modules[library])
    if node is not None and encoder.libraries is not None:
        wanted = ("pandas", "pyarrow") if library == "pandas" else (library,)
        for name in wanted:
            if name not in encoder.libraries:
                raise NotPlain("a %s needs %s on both sides" % (class_name(kind), name))
    return node


def decode(decoder, tag, content, depth):
    """What ``encode`` made a node of; raises BadValue."""
    reader = _READERS.get(tag)
    if reader is None:
        raise BadValue("a value of the unknown kind %.20r" % (tag,))
    try:
        return reader(decoder, content, depth)
    except BadValue:
        raise
    except Exception as e:  # of the three libraries, each of which has errors of its own
        raise BadValue("an array or a table that cannot be read (%s: %s)" % (type(e).__name__, str(e)[:200]))


def _library(name):
    try:
        if name == "numpy":
            import numpy as library
        elif name == "pandas":
            import pandas as library
        else:
            import pyarrow as library
        return library
    except ImportError:
        where = sys.executable or "this process"
        raise BadValue("a value of %s, which is not installed for %s" % (name, where), missing=True)


def _whole(encoder, size):
    if encoder.array_limit is not None and size > encoder.array_limit:
        raise TooLarge("an array of %d bytes" % size)


# -- numpy -----------------------------------------------------------------------------------------------------------


def _write_numpy(encoder, value, kind, numpy):
    if kind is numpy.ndarray:
        dtype = _words(numpy, value.dtype, list(value.shape))
        _whole(encoder, value.nbytes)
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        return {"a": [dtype, list(value.shape), order, encoder.buffer(_memory(numpy, value, order))]}
    if kind is numpy.str_:
        return {"h": ["str_", encoder.buffer(str(value).encode("utf-8", "surrogatepass"))]}
    if kind is numpy.bytes_:
        return {"h": ["bytes_", encoder.buffer(bytes(value))]}
    if issubclass(kind, numpy.generic) and kind is value.dtype.type:
        return {"g": [_words(numpy, value.dtype), encoder.buffer(value.tobytes())]}
    if issubclass(kind, numpy.dtype):
        return {"l": _words(numpy, value)}
    return None


def _memory(numpy, array, order):
    """The bytes of an array, without a copy where it lies in one piece."""
    if not array.flags.forc:
        array = numpy.ascontiguousarray(array)
    if not array.size or not array.itemsize:
        return b""
    return memoryview(array.ravel(order="K").view(numpy.uint8))


def _words(numpy, dtype, shape=()):
    """A dtype as JSON, where the other side would take it, and an array of it of this shape."""
    told = dtypes.words(numpy, dtype)
    if type(told) is str and dtype.itemsize:
        return told
    try:
        dtypes.check_shape(list(shape), dtypes.check(told))
    except BadValue as e:
        raise NotPlain("this dtype does not travel: %s" % e)
    return told


def _read_array(decoder, content, depth):
    numpy = _library("numpy")
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


def _read_scalar(decoder, content, depth):
    numpy = _library("numpy")
    words, number = content
    dtype, layout = dtypes.make(numpy, words)
    data = decoder.part(number)
    if type(words) is list or len(data) != dtype.itemsize or not dtype.itemsize:
        raise BadValue("a scalar that cannot be read")
    dtypes.check_shape([], layout)
    dtypes.check_text(numpy, data, 1, layout)
    decoder.count_bytes(len(data))
    return numpy.frombuffer(data, dtype).copy()[0]


def _read_text(decoder, content, depth):
    numpy = _library("numpy")
    name, number = content
    if name not in ("bytes_", "str_"):
        raise BadValue("a text of the class %.40r" % (name,))
    data = bytes(decoder.part(number))
    return numpy.bytes_(data) if name == "bytes_" else numpy.str_(data.decode("utf-8", "surrogatepass"))


def _read_dtype(decoder, content, depth):
    return dtypes.make(_library("numpy"), content)[0]


# -- Arrow and pandas ------------------------------------------------------------------------------------------------


def _write_arrow(encoder, value, kind, pyarrow):
    if kind is not pyarrow.Table:
        return None
    _whole(encoder, value.nbytes)
    return {"k": encoder.buffer(_stream(pyarrow, value))}


def _stream(pyarrow, table):
    """A table as an Arrow stream; NotPlain where the other side would not take it."""
    sink = pyarrow.BufferOutputStream()
    writer = pyarrow.RecordBatchStreamWriter(sink, table.schema)
    writer.write_table(table)
    writer.close()
    stream = memoryview(sink.getvalue())
    try:
        schema = arrow_stream.check(stream, ours=True)
        if schema.dictionaries:
            _check_dictionaries(table, len(stream))
    except BadValue as e:
        raise NotPlain("this table does not travel: %s" % e)
    return stream


def _table(decoder, number):
    """``(table, its Schema)`` of an Arrow stream; what came may lie about its lengths, so all of it is checked."""
    pyarrow = _library("pyarrow")
    version = tuple(int(part) for part in re.findall(r"\d+", pyarrow.__version__)[:3])
    if version < _SAFE_ARROW:
        raise BadValue("a table, and pyarrow %s is too old to read it safely: 14.0.1" % pyarrow.__version__)
    import pyarrow.ipc

    data = decoder.part(number)
    schema = arrow_stream.check(data)
    try:
        table = pyarrow.ipc.open_stream(pyarrow.py_buffer(data)).read_all()
        table.validate(full=True)
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise BadValue("a table that cannot be read: %s" % str(e)[:200])
    if schema.dictionaries:
        _check_dictionaries(table, len(data))
    return table, schema


def _check_dictionaries(table, size):
    """Raise BadValue where the values of dictionaries, each as often as it is meant, are far more than was sent."""
    import pyarrow.compute

    unfolded = sum(_unfolded(pyarrow, chunk) for column in table.columns for chunk in column.chunks)
    if unfolded > max(_FREE_UNFOLDED, _UNFOLDED_PER_BYTE * size):
        raise BadValue("dictionaries of %d bytes that stand for %d" % (size, unfolded))


def _unfolded(pyarrow, array):
    """Bytes of an array without dictionaries, at most; 0 where there are none in it."""
    types, kind = pyarrow.types, array.type
    if isinstance(array, pyarrow.ExtensionArray):
        return _unfolded(pyarrow, array.storage)
    if types.is_dictionary(kind):
        return len(array) * _longest(pyarrow, array.dictionary)
    if types.is_map(kind):
        return _unfolded(pyarrow, array.keys) + _unfolded(pyarrow, array.items)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _unfolded(pyarrow, array.values)
    if types.is_struct(kind) or types.is_union(kind):
        count = getattr(kind, "num_fields", None)
        return sum(_unfolded(pyarrow, array.field(number)) for number in range(count))
    return 0


def _longest(pyarrow, array):
    """Bytes of the longest value of a dictionary, or of all of them where that is not easily told."""
    types, kind = pyarrow.types, array.type
    if types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind):
        return pyarrow.compute.max(pyarrow.compute.binary_length(array)).as_py() or 0
    if types.is_primitive(kind):
        return 16
    return array.nbytes + _unfolded(pyarrow, array)


def _read_table(decoder, content, depth):
    return _table(decoder, content)[0]


def _write_pandas(encoder, value, kind, pandas):
    """A frame by Arrow, where Arrow gives back the very same: it is asked here, not found out by the user there."""
    if kind is pandas.DataFrame:
        name, frame = "DataFrame", value
    elif kind is pandas.Series:
        name, frame = "Series", value.to_frame("value")
    elif isinstance(value, pandas.Index):
        name, frame = "Index", pandas.DataFrame(index=value)
    else:
        return None
    size = int(frame.memory_usage(index=True).sum())
    _whole(encoder, size)
    if encoder.libraries is not None and not {"pandas", "pyarrow"} <= set(encoder.libraries):
        raise NotPlain("a pandas.%s needs pandas and pyarrow on both sides" % name)
    try:
        import pyarrow
    except ImportError:
        raise NotPlain("a pandas.%s needs pyarrow on both sides" % name)
    columns = None
    table, back = _by_arrow(pyarrow, frame, name)
    if name != "Index" and not _same_index(frame.columns, back.columns):
        # Arrow's names are text: others go beside it.
        columns = frame.columns
        frame = frame.copy(deep=False)
        frame.columns = [str(number) for number in range(len(columns))]
        table, back = _by_arrow(pyarrow, frame, name)
        back.columns = frame.columns
    if not (_same_index(value, back.index) if name == "Index" else _is_same(frame, back)):
        raise NotPlain("Arrow would change this pandas.%s (mixed objects in a column)" % name)
    label = value.name if name == "Series" else columns
    return {"P": [name, encoder.buffer(_stream(pyarrow, table)), _freq(frame.index), encoder.node(label, 1)]}


def _by_arrow(pyarrow, frame, name):
    """A frame as a table, and what that is as a frame again."""
    try:
        table = pyarrow.Table.from_pandas(frame)
        return table, _frame(table, _freq(frame.index))
    except Exception as e:  # pandas and Arrow raise errors of many classes; the text is told
        raise NotPlain("Arrow cannot take this pandas.%s (%s)" % (name, str(e)[:200]))


def _frame(table, freq):
    frame = table.to_pandas()
    if freq is not None:
        frame.index.freq = freq
    return frame


def _freq(index):
    """The frequency of an index of times, which Arrow forgets."""
    freq = getattr(index, "freqstr", None)
    return freq if type(index).__name__ in ("DatetimeIndex", "TimedeltaIndex") else None


def _is_same(one, other):
    if len(one.columns) != len(other.columns) or not _same_index(one.columns, other.columns):
        return False
    if not _same_index(one.index, other.index) or getattr(one, "attrs", None) != getattr(other, "attrs", None):
        return False
    for at in range(len(one.columns)):
        a, b = one.iloc[:, at], other.iloc[:, at]
        if a.dtype != b.dtype or not a.equals(b) or (a.dtype == object and not _same_objects(a, b)):
            return False
    return True


def _same_index(a, b):
    if type(a) is not type(b) or a.dtype != b.dtype or list(a.names) != list(b.names) or not a.equals(b):
        return False
    if getattr(a, "freq", None) != getattr(b, "freq", None):
        return False
    return (
        all(map(_same_index, a.levels, b.levels))
        if hasattr(a, "levels")
        else (a.dtype != object or _same_objects(a, b))
    )


def _same_objects(a, b):
    """Objects of the same classes: None is no NaN, 1 no 1.0."""
    return all(type(x) is type(y) for x, y in zip(a, b))


def _read_pandas(decoder, content, depth):
    name, number, freq, label = content
    if name not in ("DataFrame", "Series", "Index") or not (freq is None or (type(freq) is str and len(freq) < 100)):
        raise BadValue("the class %.40r of pandas, and the frequency %.40r" % (name, freq))
    _library("pandas")
    table, schema = _table(decoder, number)
    # pandas would write out a dictionary that is told to be something else than categories, or is in other cells.
    encoded = [schema.pandas.get(column, "object") for column in schema.categorical]
    if schema.nested_dictionaries or not all(map(_CODES.fullmatch, encoded)):
        raise BadValue("a table whose dictionaries are no categories of pandas")
    try:
        frame = _frame(table, freq)
    except Exception as e:  # its metadata is read by pandas, and may be anything
        raise BadValue("a table that is no pandas.%s: %s" % (name, str(e)[:200]))
    if name == "Index":
        return frame.index
    if name == "Series":
        series = frame["value"]
        if len(series.shape) != 1:
            raise BadValue("a Series of several columns")
        series.name = decoder.value(label, depth + 1)
        return series
    columns = decoder.value(label, depth + 1)
    if columns is not None:
        try:
            frame.columns = columns
        except Exception as e:  # pandas and Arrow raise errors of many classes; the text is told
            raise BadValue("a table whose columns have no such names: %s" % str(e)[:200])
    return frame


_WRITERS = {"numpy": _write_numpy, "pandas": _write_pandas, "pyarrow": _write_arrow}
_READERS = {
    "a": _read_array,
    "g": _read_scalar,
    "h": _read_text,
    "l": _read_dtype,
    "k": _read_table,
    "P": _read_pandas,
}
