"""pandas' indexes, series and frames as values, column by column. Both sides import it.

::

    {"pi": ["range", name, start, stop, step]}   {"pi": ["levels", names, [level, …], [codes, …]]}
    {"pi": ["values", name, column, freq]}
    {"ps": [index, name, column, attrs, unique]}
    {"pf": [index, columns, [column, …], attrs, unique]}      or one 2-D array, if all columns have one numpy dtype

``unique`` says whether labels must be unique.  ``pandas_arrays`` makes the node of each column.  pandas is given no
names that were sent except dtypes, which ``pandas_arrays`` has checked.
"""

from ..scalars import BadValue, NotPlain, class_name
from . import pandas_arrays, pandas_scalars

# A frame with more columns than this, all of one dtype, travels as one array.
MANY_COLUMNS = 64


def write(encoder, value, kind, pandas, depth):
    """The node of a pandas value; None for anything else."""
    if kind is pandas.DataFrame:
        return _write_frame(encoder, value, pandas, depth)
    if kind is pandas.Series:
        return _write_series(encoder, value, pandas, depth)
    if isinstance(value, pandas.Index):
        return _write_index(encoder, value, kind, pandas, depth)
    if isinstance(value, pandas.api.extensions.ExtensionArray):
        node = pandas_arrays.column(encoder, value, pandas, depth)
        if "px" not in node:
            raise NotPlain("an array of class %s is not plain data" % class_name(kind))
        return node
    if isinstance(value, pandas.api.extensions.ExtensionDtype):
        return {"pd": pandas_arrays.words(encoder, value, pandas, depth)}
    return pandas_scalars.write(encoder, value, kind, pandas, depth)


def _write_index(encoder, index, kind, pandas, depth):
    if encoder.limited:
        encoder.whole(int(index.memory_usage()))
    if kind is pandas.MultiIndex:
        names = encoder.node(list(index.names), depth + 1)
        levels = encoder.nodes(list(index.levels), depth)
        return {"pi": ["levels", names, levels, encoder.nodes([_codes(codes) for codes in index.codes], depth)]}
    if (kind.__module__ or "").partition(".")[0] != "pandas":
        raise NotPlain("a %s is not plain data" % class_name(kind))
    name = encoder.node(index.name, depth + 1)
    if kind is pandas.RangeIndex:
        return {"pi": ["range", name, index.start, index.stop, index.step]}
    freq = None
    if kind is pandas.DatetimeIndex or kind is pandas.TimedeltaIndex:
        freq = pandas_scalars.freq_text(pandas, index.freq)
    return {"pi": ["values", name, pandas_arrays.column(encoder, index.array, pandas, depth), freq]}


def _codes(codes):
    import numpy

    return numpy.asarray(codes)


def _write_series(encoder, series, pandas, depth):
    if encoder.limited:
        encoder.whole(int(series.memory_usage(index=True)))
    index = encoder.node(series.index, depth + 1)
    name = encoder.node(series.name, depth + 1)
    column = pandas_arrays.column(encoder, series.array, pandas, depth)
    return {"ps": [index, name, column] + _about(encoder, series, depth)}


def _write_frame(encoder, frame, pandas, depth):
    if encoder.limited:
        encoder.whole(int(frame.memory_usage(index=True).sum()))
    index = encoder.node(frame.index, depth + 1)
    columns = encoder.node(frame.columns, depth + 1)
    whole = _as_one(frame)
    if whole is not None:
        content = encoder.node(whole, depth + 1)
        return {"pf": [index, columns, content] + _about(encoder, frame, depth)}
    content = []
    for number in range(len(frame.columns)):
        series = frame.iloc[:, number]
        try:
            content.append(pandas_arrays.column(encoder, series.array, pandas, depth))
        except NotPlain as e:
            e.args = ("%s, in the column %.100r" % (e.args[0], series.name),)
            raise
    return {"pf": [index, columns, content] + _about(encoder, frame, depth)}


def _as_one(frame):
    """The 2-D array of a frame whose columns share a numpy dtype and are many or not contiguous; else None."""
    count = len(frame.columns)
    if count < 2:
        return None
    kinds = set(frame.dtypes) if count > MANY_COLUMNS else {frame.iloc[:, 0].dtype, frame.iloc[:, count - 1].dtype}
    kind = next(iter(kinds))
    if (
        len(kinds) != 1
        or getattr(kind, "kind", "") not in "biufc"
        or type(kind).__module__.partition(".")[0] != "numpy"
    ):
        return None
    if count <= MANY_COLUMNS and (frame.iloc[:, 0].to_numpy().flags.c_contiguous or len(set(frame.dtypes)) != 1):
        return None
    return frame.to_numpy()


def _about(encoder, value, depth):
    attrs = encoder.node(dict(getattr(value, "attrs", None) or {}), depth + 1)
    flags = getattr(value, "flags", None)
    return [attrs, bool(flags is not None and not flags.allows_duplicate_labels)]


# -- reading ---------------------------------------------------------------------------------------------------------


def _read_index(decoder, content, depth, pandas):
    kind, name = content[0], decoder.value(content[1], depth + 1)
    if kind == "levels":
        return _read_levels(decoder, content[2:], depth, pandas, name)
    if kind == "range":
        if not all(type(one) is int for one in content[2:]):
            raise BadValue("a range of other things than numbers")
        start, stop, step = content[2:]
        return pandas.RangeIndex(start, stop, step, name=name)
    if kind != "values":
        raise BadValue("an index of the unknown kind %.20r" % (kind,))
    values, freq = content[2:]
    values = pandas_arrays.read_column(decoder, values, depth, pandas)
    index = pandas.Index(values, dtype=values.dtype, name=name)
    if freq is not None:
        if not isinstance(index, (pandas.DatetimeIndex, pandas.TimedeltaIndex)):
            raise BadValue("a frequency of an index without times")
        index.freq = pandas_scalars.offset(pandas, freq)
    return index


def _read_levels(decoder, content, depth, pandas, names):
    levels, codes = content
    levels, codes = decoder.values(levels, depth), decoder.values(codes, depth)
    if not levels or not all(isinstance(level, pandas.Index) and not hasattr(level, "levels") for level in levels):
        raise BadValue("levels that are not indexes")
    for one in codes:
        if class_name(type(one)) != "numpy.ndarray" or one.dtype.kind != "i" or one.ndim != 1:
            raise BadValue("codes of levels that are not numbers")
    return pandas.MultiIndex(levels=levels, codes=codes, names=names, verify_integrity=True)


def _index(decoder, node, depth, pandas):
    index = decoder.value(node, depth + 1)
    if not isinstance(index, pandas.Index):
        raise BadValue("an index that is a %s" % class_name(type(index)))
    return index


def _read_series(decoder, content, depth, pandas):
    index = _index(decoder, content[0], depth, pandas)
    name = decoder.value(content[1], depth + 1)
    column = pandas_arrays.read_column(decoder, content[2], depth, pandas)
    return _told(decoder, _series(pandas, column, index, name), content[3:], depth)


def _series(pandas, column, index, name=None):
    if len(column) != len(index):
        raise BadValue("a column of %d cells and an index of %d" % (len(column), len(index)))
    return pandas.Series(column, index=index, dtype=column.dtype, name=name, copy=False)


def _read_frame(decoder, content, depth, pandas):
    index, columns = [_index(decoder, node, depth, pandas) for node in content[:2]]
    if type(content[2]) is dict:
        whole = decoder.value(content[2], depth + 1)
        if class_name(type(whole)) != "numpy.ndarray" or whole.shape != (len(index), len(columns)):
            raise BadValue("a frame that does not fill its index")
        if whole.dtype.kind not in "biufc":
            raise BadValue("a frame of the dtype %s" % whole.dtype)
        frame = pandas.DataFrame(whole, index=index, columns=columns, copy=False)
    else:
        if len(content[2]) != len(columns):
            raise BadValue("a frame of %d columns that has %d" % (len(columns), len(content[2])))
        found = {}
        for number, node in enumerate(content[2]):
            column = pandas_arrays.read_column(decoder, node, depth, pandas)
            # pandas would convert an array of objects to the kind of what is in it; a Series keeps it.
            found[number] = _series(pandas, column, index) if column.dtype.kind == "O" else column
            if len(column) != len(index):
                raise BadValue("a column of %d cells and an index of %d" % (len(column), len(index)))
        frame = pandas.DataFrame(found, index=index, copy=False) if found else pandas.DataFrame(index=index)
        frame.columns = columns
    return _told(decoder, frame, content[3:], depth)


def _told(decoder, made, content, depth):
    """A series or frame with the attributes and flags that were sent along with it."""
    attrs, unique = decoder.value(content[0], depth + 1), content[1]
    if type(attrs) is not dict:
        raise BadValue("attributes that are not a dict")
    if attrs:
        made.attrs = attrs
    return made.set_flags(allows_duplicate_labels=False) if unique is True else made


READERS = {"pi": _read_index, "ps": _read_series, "pf": _read_frame}
