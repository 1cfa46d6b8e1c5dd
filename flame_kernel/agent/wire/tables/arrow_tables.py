"""pyarrow's and polars' tables and columns as Arrow streams; each library reads its own. Both sides import it.

::

    {"k": n}                       pyarrow Table: buffer n
    {"kc": [class, n]}             other pyarrow values: RecordBatch, Array, ChunkedArray, Scalar, Schema or DataType
    {"pl": [class, name, n]}       polars DataFrame or Series

``arrow_stream`` checks what arrives before either library sees it.
"""

import re

from ..scalars import BadValue, NotPlain
from . import arrow_stream

# Older versions unpickle what is in a table's metadata without being asked.
_SAFE_ARROW = (14, 0, 1)
# How many bytes dictionary columns may expand to: this many, or some for each byte of the stream.
_FREE_UNFOLDED = 1 << 26
_UNFOLDED_PER_BYTE = 1024


def write(encoder, value, kind, pyarrow, depth):
    """The node of a table or a part of one; None for anything else."""
    if kind is pyarrow.Table:
        encoder.whole(value.nbytes)
        return {"k": encoder.buffer(stream(pyarrow, value))}
    if kind is pyarrow.RecordBatch:
        name, whole = "RecordBatch", pyarrow.Table.from_batches([value])
    elif isinstance(value, pyarrow.Array):
        name, whole = "Array", pyarrow.table([value], names=["0"])
    elif kind is pyarrow.ChunkedArray:
        name, whole = "ChunkedArray", pyarrow.table([value], names=["0"])
    elif isinstance(value, pyarrow.Scalar):
        name, whole = "Scalar", pyarrow.table([pyarrow.array([value.as_py()], value.type)], names=["0"])
    elif kind is pyarrow.Schema:
        name, whole = "Schema", value.empty_table()
    elif isinstance(value, pyarrow.DataType):
        name, whole = "DataType", pyarrow.schema([("0", value)]).empty_table()
    else:
        return None
    encoder.whole(whole.nbytes)
    if name == "Scalar" and not whole.column(0)[0].equals(value):
        raise NotPlain("this pyarrow Scalar does not travel: it would be another one")
    return {"kc": [name, encoder.buffer(stream(pyarrow, whole))]}


def stream(pyarrow, table):
    """A table as an Arrow stream; raises NotPlain if the other side would not accept it."""
    sink = pyarrow.BufferOutputStream()
    writer = pyarrow.RecordBatchStreamWriter(sink, table.schema)
    writer.write_table(table)
    writer.close()
    data = memoryview(sink.getvalue())
    try:
        schema = arrow_stream.check(data, ours=True)
        if schema.dictionaries:
            _check_dictionaries(table, len(data))
    except BadValue as e:
        raise NotPlain("this table does not travel: %s" % e)
    return data


def table(decoder, number, pyarrow):
    """The table in an Arrow stream. All of it is checked, because the lengths that were sent may be false."""
    version = tuple(int(part) for part in re.findall(r"\d+", pyarrow.__version__)[:3])
    if version < _SAFE_ARROW:
        raise BadValue("a table, and pyarrow %s is too old to read it safely: 14.0.1" % pyarrow.__version__)
    import pyarrow.ipc

    data = decoder.part(number)
    schema = arrow_stream.check(data)
    try:
        made = pyarrow.ipc.open_stream(pyarrow.py_buffer(data)).read_all()
        made.validate(full=True)
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise BadValue("a table that cannot be read: %s" % str(e)[:200])
    if schema.dictionaries:
        _check_dictionaries(made, len(data))
    return made


def _check_dictionaries(table, size):
    """Raise BadValue if dictionary columns would expand to far more bytes than were sent."""
    import pyarrow.compute

    unfolded = sum(_unfolded(pyarrow, chunk) for column in table.columns for chunk in column.chunks)
    if unfolded > max(_FREE_UNFOLDED, _UNFOLDED_PER_BYTE * size):
        raise BadValue("dictionaries of %d bytes that stand for %d" % (size, unfolded))


def _unfolded(pyarrow, array):
    """The most bytes that an array can have once its dictionaries are expanded; 0 if it has none."""
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
    """The size in bytes of a dictionary's longest value, or of all its values if that is hard to tell."""
    types, kind = pyarrow.types, array.type
    if types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind):
        return pyarrow.compute.max(pyarrow.compute.binary_length(array)).as_py() or 0
    if types.is_primitive(kind):
        return 16
    return array.nbytes + _unfolded(pyarrow, array)


def _read_table(decoder, content, depth, pyarrow):
    return table(decoder, content, pyarrow)


def _read_part(decoder, content, depth, pyarrow):
    name, number = content
    whole = table(decoder, number, pyarrow)
    if name == "RecordBatch":
        batches = whole.to_batches()
        if len(batches) > 1:
            raise BadValue("a batch that is several")
        empty = [pyarrow.array([], kind) for kind in whole.schema.types]
        return batches[0] if batches else pyarrow.RecordBatch.from_arrays(empty, schema=whole.schema)
    if name == "Schema":
        return whole.schema
    if whole.num_columns != 1:
        raise BadValue("a column that is several")
    if name == "DataType":
        return whole.schema.types[0]
    column = whole.column(0)
    if name == "ChunkedArray":
        return column
    if name == "Scalar":
        return column[0]
    if name != "Array" or column.num_chunks > 1:
        raise BadValue("the class %.40r of pyarrow" % (name,))
    return column.chunk(0) if column.num_chunks else pyarrow.array([], column.type)


# -- polars ----------------------------------------------------------------------------------------------------------


def write_polars(encoder, value, kind, polars, depth):
    """The node of a polars frame or column; None for anything else."""
    import io

    if kind is polars.DataFrame:
        name, frame, label = "DataFrame", value, None
    elif kind is polars.Series:
        name, frame, label = "Series", value.to_frame(), value.name
    else:
        return None
    encoder.whole(int(frame.estimated_size()))
    sink = io.BytesIO()
    try:
        frame.write_ipc_stream(sink, compat_level=polars.CompatLevel.oldest())
        data = sink.getvalue()
        arrow_stream.check(data)
        exact = polars.read_ipc_stream(io.BytesIO(data)).equals(frame, null_equal=True)
    except BadValue as e:
        raise NotPlain("this polars.%s does not travel: %s" % (name, e))
    except Exception as e:  # from polars, whose errors are of many classes
        raise NotPlain("this polars.%s does not travel: %s" % (name, str(e)[:200]))
    if not exact or polars.read_ipc_stream(io.BytesIO(data)).schema != frame.schema:
        raise NotPlain("Arrow would change this polars.%s" % name)
    return {"pl": [name, label, encoder.buffer(data)]}


def _read_polars(decoder, content, depth, polars):
    import io

    name, label, number = content
    data = bytes(decoder.part(number))
    arrow_stream.check(data)
    frame = polars.read_ipc_stream(io.BytesIO(data))
    if name == "DataFrame":
        return frame
    if name != "Series" or frame.width != 1 or type(label) is not str:
        raise BadValue("the class %.40r of polars" % (name,))
    return frame.to_series(0).rename(label)


READERS = {"k": _read_table, "kc": _read_part}
POLARS_READERS = {"pl": _read_polars}
