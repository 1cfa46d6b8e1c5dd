"""Arrays and tables as values: numpy's as their memory, pandas' and pyarrow's as Arrow streams. Both sides import it.

::

    {"a": [dtype, shape, order, n]}   numpy array: buffer n          {"g": [dtype, n]}  a numpy scalar
    {"h": [class, text]}              numpy.str_, numpy.bytes_       {"l": dtype}       a numpy dtype
    {"k": n}                          pyarrow Table: buffer n        {"P": [class, n, …]}  of pandas

No library is imported to write a value, for one that has such a value has imported it; to read one the library of that
name is, and nothing else.  A dtype is read from a text of few forms, none of which holds Python objects.
"""

import re
import sys

from .scalars import BadValue, NotPlain, TooLarge, class_name

_DTYPE = re.compile(
    r"[<>|=]?(\?|b1|[biufc](1|2|4|8|16|32)|[SUV]\d{1,10}|[mM]8(\[\d{0,9}(generic|[YMWDhms]|ms|us|ns|ps|fs|as)\])?)"
)
_KINDS = "biufcSUVmM"
# A dtype with fields of fields of …
_MAX_FIELDS = 10
# Elements of no size, that a few bytes could ask for.
_MAX_EMPTY = 1000000
# Older ones open pickles in a table's metadata by themselves.
_SAFE_ARROW = (14, 0, 1)


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


def decode(decoder, tag, content):
    """What ``encode`` made a node of; raises BadValue."""
    reader = _READERS.get(tag)
    if reader is None:
        raise BadValue("a value of the unknown kind %.20r" % (tag,))
    return reader(decoder, content)


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
        dtype = _dtype_words(numpy, value.dtype)
        _whole(encoder, value.nbytes)
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        return {"a": [dtype, list(value.shape), order, encoder.buffer(_memory(numpy, value, order))]}
    if kind is numpy.str_:
        return {"h": ["str_", encoder.buffer(str(value).encode("utf-8", "surrogatepass"))]}
    if kind is numpy.bytes_:
        return {"h": ["bytes_", encoder.buffer(bytes(value))]}
    if issubclass(kind, numpy.generic) and kind is value.dtype.type:
        return {"g": [_dtype_words(numpy, value.dtype), encoder.buffer(value.tobytes())]}
    if issubclass(kind, numpy.dtype):
        return {"l": _dtype_words(numpy, value)}
    return None


def _memory(numpy, array, order):
    """The bytes of an array, without a copy where it lies in one piece."""
    if not array.flags.forc:
        array = numpy.ascontiguousarray(array)
    if not array.size or not array.itemsize:
        return b""
    return memoryview(array.ravel(order="K").view(numpy.uint8))


def _dtype_words(numpy, dtype, depth=0):
    """A dtype as JSON; NotPlain where it holds Python objects, or is of a kind that numpy alone does not know."""
    if dtype.hasobject:
        raise NotPlain("a numpy array of Python objects is no plain value (its list may be: array.tolist())")
    if depth > _MAX_FIELDS:
        raise NotPlain("a dtype is nested too deep")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_dtype_words(numpy, base, depth + 1), list(shape)]
    if dtype.names is not None:
        fields = [dtype.fields[name] for name in dtype.names]
        if dtype.type is not numpy.void or any(len(field) > 2 for field in fields):
            raise NotPlain("a record dtype, or one with titles, is no plain value")
        return {
            "names": list(dtype.names),
            "formats": [_dtype_words(numpy, field[0], depth + 1) for field in fields],
            "offsets": [field[1] for field in fields],
            "itemsize": dtype.itemsize,
            "aligned": bool(dtype.isalignedstruct),
        }
    if dtype.kind not in _KINDS or numpy.dtype(dtype.str) != dtype:
        raise NotPlain("the dtype %s is no plain value" % dtype)
    return dtype.str


def _dtype(numpy, words, depth=0):
    if depth > _MAX_FIELDS:
        raise BadValue("a dtype that is nested too deep")
    if isinstance(words, str):
        if not _DTYPE.fullmatch(words):
            raise BadValue("the dtype %.40r" % words)
        return numpy.dtype(words)
    if isinstance(words, list):
        base, shape = words
        return numpy.dtype((_dtype(numpy, base, depth + 1), tuple(shape)))
    formats = [_dtype(numpy, one, depth + 1) for one in words["formats"]]
    plan = {"names": words["names"], "formats": formats, "offsets": words["offsets"], "itemsize": words["itemsize"]}
    return numpy.dtype(plan, align=bool(words["aligned"]))


def _read_array(decoder, content):
    numpy = _library("numpy")
    words, shape, order, number = content
    dtype = _dtype(numpy, words)
    count = 1
    for length in shape:
        if not isinstance(length, int) or length < 0:
            raise BadValue("an array of the shape %.60r" % (shape,))
        count *= length
    data = decoder.part(number)
    if len(data) != count * dtype.itemsize or (not dtype.itemsize and count > _MAX_EMPTY):
        raise BadValue("an array that does not fill its shape")
    if not len(data):
        return numpy.empty(tuple(shape), dtype, order)
    array = numpy.frombuffer(data, dtype).reshape(tuple(shape), order=order)
    return array if array.flags.writeable else array.copy(order="K")


def _read_scalar(decoder, content):
    numpy = _library("numpy")
    words, number = content
    dtype = _dtype(numpy, words)
    data = decoder.part(number)
    if len(data) != dtype.itemsize or not dtype.itemsize:
        raise BadValue("a scalar that is none")
    return numpy.frombuffer(data, dtype).copy()[0]


def _read_text(decoder, content):
    numpy = _library("numpy")
    name, number = content
    data = bytes(decoder.part(number))
    return numpy.bytes_(data) if name == "bytes_" else numpy.str_(data.decode("utf-8", "surrogatepass"))


def _read_dtype(decoder, content):
    return _dtype(_library("numpy"), content)


# -- Arrow and pandas ------------------------------------------------------------------------------------------------


def _write_arrow(encoder, value, kind, pyarrow):
    if kind is not pyarrow.Table:
        return None
    _whole(encoder, value.nbytes)
    return {"k": encoder.buffer(_stream(pyarrow, value))}


def _stream(pyarrow, table):
    """A table as an Arrow stream."""
    sink = pyarrow.BufferOutputStream()
    writer = pyarrow.RecordBatchStreamWriter(sink, table.schema)
    writer.write_table(table)
    writer.close()
    return memoryview(sink.getvalue())


def _table(decoder, number):
    """The table in an Arrow stream; what came may lie about its lengths, so all of it is checked."""
    pyarrow = _library("pyarrow")
    version = tuple(int(part) for part in re.findall(r"\d+", pyarrow.__version__)[:3])
    if version < _SAFE_ARROW:
        raise BadValue("a table, and pyarrow %s is too old to read it safely: 14.0.1" % pyarrow.__version__)
    import pyarrow.ipc

    try:
        table = pyarrow.ipc.open_stream(pyarrow.py_buffer(decoder.part(number))).read_all()
        table.validate(full=True)
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise BadValue("a table that is none: %s" % str(e)[:200])
    return table


def _read_table(decoder, content):
    return _table(decoder, content)


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
    except Exception as e:
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


def _read_pandas(decoder, content):
    name, number, freq, label = content
    _library("pandas")
    table = _table(decoder, number)
    try:
        frame = _frame(table, freq if isinstance(freq, str) else None)
    except Exception as e:  # its metadata is read by pandas, and may be anything
        raise BadValue("a table that is no pandas.%s: %s" % (name, str(e)[:200]))
    if name == "Index":
        return frame.index
    if name == "Series":
        series = frame["value"]
        series.name = decoder.value(label, 1)
        return series
    columns = decoder.value(label, 1)
    if columns is not None:
        try:
            frame.columns = columns
        except Exception as e:
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
