"""pandas' own arrays and dtypes as values: each as the numpy arrays that it consists of. Both sides import it.

::

    {"pd": [kind, …]}           a dtype of pandas
    {"px": [dtype, part, …]}    an array of that dtype; the readers below say which parts each kind has

A pyarrow text column travels as its three buffers, and is read without a copy if this side has pyarrow; otherwise it
is read as Python strings.
"""

import re

from ..scalars import BadValue, NotPlain, class_name
from . import numpy_kinds, pandas_scalars, text_columns

# How many cells a sparse array may have without bytes of their own.
FREE_CELLS = 1 << 24
_MASKED = re.compile(r"U?Int(8|16|32|64)|Float(32|64)|boolean")


# -- dtypes as lists ------------------------------------------------------------------------------------------------


def words(encoder, dtype, pandas, depth):
    """A pandas dtype as a list; raises NotPlain for one that is not pandas' own.

    Branches because each dtype has words of its own.
    """
    kind = type(dtype)
    name = kind.__name__ if (kind.__module__ or "").partition(".")[0] == "pandas" else None
    if name == "DatetimeTZDtype":
        return ["time", dtype.unit, pandas_scalars.zone(dtype.tz)]
    if name == "PeriodDtype":
        return ["period", str(dtype).partition("[")[2].rstrip("]")]
    if name == "IntervalDtype":
        subtype = None if dtype.subtype is None else encoder.node(dtype.subtype, depth + 1)
        return ["interval", subtype, getattr(dtype, "closed", None)]
    if name == "CategoricalDtype":
        categories = None if dtype.categories is None else encoder.node(dtype.categories, depth + 1)
        return ["category", categories, dtype.ordered]
    if name == "SparseDtype":
        return ["sparse", encoder.node(dtype.subtype, depth + 1), encoder.node(dtype.fill_value, depth + 1)]
    if name == "StringDtype":
        nan = getattr(dtype, "na_value", None) is not getattr(pandas, "NA", None)
        storage = getattr(dtype, "storage", "python")
        return ["text", storage, "nan" if nan else "NA", _usual_storage(pandas, nan) == storage]
    if name == "ArrowDtype":
        return ["arrow", encoder.node(dtype.pyarrow_dtype, depth + 1)]
    if name is not None and _MASKED.fullmatch(str(dtype)):
        return ["masked", str(dtype)]
    raise NotPlain("the dtype %s is not plain data" % (str(dtype)[:80] if name else class_name(kind)))


def made_dtype(decoder, content, depth, pandas):
    """The dtype from a list that ``words`` made; raises BadValue."""
    maker = _DTYPES.get(content[0])
    if maker is None:
        raise BadValue("a dtype of the unknown kind %.20r" % (content[0],))
    return maker(decoder, content[1:], depth, pandas)


def _usual_storage(pandas, nan):
    """pandas' default storage for text columns: pyarrow, if it is installed."""
    try:
        return (pandas.StringDtype(na_value=float("nan")) if nan else pandas.StringDtype()).storage
    except (TypeError, ImportError, ValueError, AttributeError):
        return "python"


def _time_dtype(decoder, content, depth, pandas):
    unit, zone = content
    if unit not in pandas_scalars.UNITS or zone is None:
        raise BadValue("times of the unit %.20r" % (unit,))
    zone = pandas_scalars.made_zone(zone)
    try:
        return pandas.DatetimeTZDtype(unit, zone)
    except ValueError:  # pandas before 2 has only nanoseconds
        return pandas.DatetimeTZDtype("ns", zone)


def _period_dtype(decoder, content, depth, pandas):
    (freq,) = content
    for one in pandas_scalars.spellings(freq):
        try:
            return pandas.PeriodDtype(one)
        except (ValueError, AttributeError, KeyError, TypeError):
            pass
    raise pandas_scalars.no_frequency(pandas, freq)


def _interval_dtype(decoder, content, depth, pandas):
    subtype, closed = content
    subtype = None if subtype is None else decoder.value(subtype, depth + 1)
    if closed is not None and closed not in pandas_scalars.CLOSED:
        raise BadValue("intervals that are closed %.20r" % (closed,))
    try:
        return pandas.IntervalDtype(subtype, closed)
    except TypeError:  # before pandas 1.3
        return pandas.IntervalDtype(subtype)


def _category_dtype(decoder, content, depth, pandas):
    categories, ordered = content
    categories = None if categories is None else decoder.value(categories, depth + 1)
    if not (categories is None or isinstance(categories, pandas.Index)) or ordered not in (True, False, None):
        raise BadValue("categories that are not an index")
    return pandas.CategoricalDtype(categories, ordered)


def _sparse_dtype(decoder, content, depth, pandas):
    subtype, fill = decoder.values(content, depth)
    return pandas.SparseDtype(subtype, fill)


def _text_dtype(decoder, content, depth, pandas):
    """The text dtype asked for, or the nearest one that this pandas has; None means a column of objects."""
    storage, missing, usual = content
    if storage not in ("python", "pyarrow") or missing not in ("nan", "NA") or type(usual) is not bool:
        raise BadValue("text that is kept in %.20r" % (storage,))
    if not hasattr(pandas, "StringDtype"):
        return None
    import numpy

    options = {"na_value": numpy.nan} if missing == "nan" else {}
    for where in (_usual_storage(pandas, missing == "nan") if usual else storage, "python"):
        try:
            return pandas.StringDtype(where, **options)
        except (TypeError, ImportError, ValueError):
            pass
    # pandas before 1.3 has one text dtype; before 2.3, text columns with NaN for missing cells are object columns.
    return pandas.StringDtype() if missing == "NA" else None


def _arrow_dtype(decoder, content, depth, pandas):
    (kind,) = decoder.values(content, depth)
    if not hasattr(pandas, "ArrowDtype"):
        raise BadValue("a column of Arrow, which needs pandas 1.5; here is %s" % pandas.__version__, missing=True)
    return pandas.ArrowDtype(kind)


def _masked_dtype(decoder, content, depth, pandas):
    (name,) = content
    if type(name) is not str or not _MASKED.fullmatch(name):
        raise BadValue("the dtype %.40r" % (name,))
    kind = getattr(pandas, "BooleanDtype" if name == "boolean" else name + "Dtype", None)
    if kind is None:
        raise BadValue("the dtype %s, which pandas %s does not have" % (name, pandas.__version__), missing=True)
    return kind()


_DTYPES = {
    "time": _time_dtype,
    "period": _period_dtype,
    "interval": _interval_dtype,
    "category": _category_dtype,
    "sparse": _sparse_dtype,
    "text": _text_dtype,
    "arrow": _arrow_dtype,
    "masked": _masked_dtype,
}


# -- arrays ------------------------------------------------------------------------------------------------------------


def column(encoder, array, pandas, depth):
    """The node of a column: a numpy array or a pandas array."""
    kind = type(array)
    name = kind.__name__ if (kind.__module__ or "").partition(".")[0] == "pandas" else None
    if name in ("PandasArray", "NumpyExtensionArray"):
        array, name = array.to_numpy(), None
        kind = type(array)
    if name is None and kind.__module__ == "numpy":
        return _numpy_column(encoder, array, pandas, depth)
    encoder.whole(int(getattr(array, "nbytes", 0)))
    writer = _WRITERS.get(name)
    if writer is None:
        raise NotPlain("an array of class %s is not plain data" % class_name(kind))
    return {"px": writer(encoder, array, pandas, depth)}


def _numpy_column(encoder, array, pandas, depth):
    if array.dtype.kind in "mM":
        name = "moments" if array.dtype.kind == "M" else "spans"
        unit = str(array.dtype).partition("[")[2].rstrip("]")
        return {"px": [name, unit, None, encoder.node(array.view("i8"), depth + 1)]}
    if array.dtype == object and array.ndim == 1:
        encoder.whole(int(array.nbytes))
        items = array.tolist()
        node = (
            text_columns.write(encoder, items, pandas.NA if hasattr(pandas, "NA") else None)
            if len(items) >= text_columns.PACKED
            else None
        )
        return {"px": ["objects", encoder.node(items, depth + 1) if node is None else node]}
    return encoder.node(array, depth + 1)


def _write_moments(encoder, array, pandas, depth):
    unit, tz = pandas_scalars.unit_of(array), getattr(array, "tz", None)
    name = "moments" if type(array).__name__ == "DatetimeArray" else "spans"
    return [name, unit, pandas_scalars.zone(tz), encoder.node(array.asi8, depth + 1)]


def _write_periods(encoder, array, pandas, depth):
    return ["periods", array.freqstr, encoder.node(array.asi8, depth + 1)]


def _write_intervals(encoder, array, pandas, depth):
    return ["intervals", array.closed, encoder.node(array.left, depth + 1), encoder.node(array.right, depth + 1)]


def _write_categories(encoder, array, pandas, depth):
    dtype = words(encoder, array.dtype, pandas, depth)
    return ["categories", dtype, encoder.node(array.codes, depth + 1)]


def _write_masked(encoder, array, pandas, depth):
    return ["masked", str(array.dtype), encoder.node(array._data, depth + 1), encoder.node(array._mask, depth + 1)]


def _write_sparse(encoder, array, pandas, depth):
    if len(array) > max(FREE_CELLS, 64 * array.nbytes):
        raise NotPlain("a sparse array of %d cells, of which nearly all are empty, is not plain data" % len(array))
    places, kind = array.sp_index.to_int_index().indices, array.kind
    dtype = words(encoder, array.dtype, pandas, depth)
    parts = [encoder.node(array.sp_values, depth + 1), encoder.node(places, depth + 1)]
    return ["sparse", len(array), kind, dtype] + parts


def _write_texts(encoder, array, pandas, depth):
    dtype = words(encoder, array.dtype, pandas, depth)
    missing = text_columns.NAN if dtype[2] == "nan" else text_columns.NA
    data = getattr(array, "_pa_array", None)
    if data is not None:
        import pyarrow

        data = data.cast(pyarrow.large_string())
        data = data.combine_chunks() if isinstance(data, pyarrow.ChunkedArray) else data
        if isinstance(data, pyarrow.ChunkedArray):
            data = data.chunk(0) if data.num_chunks else pyarrow.array([], pyarrow.large_string())
        return ["texts", dtype, text_columns.write_arrow(encoder, data, missing)]
    items = array.astype(object).tolist()
    node = text_columns.write(encoder, items, pandas.NA) if len(items) >= text_columns.PACKED else None
    return ["texts", dtype, encoder.node(items, depth + 1) if node is None else node]


def _write_arrow(encoder, array, pandas, depth):
    if not encoder.has("pyarrow"):
        raise NotPlain(
            "a column of the dtype %s needs pyarrow on both sides (there: %%flame pip install pyarrow)" % array.dtype
        )
    return ["arrow", encoder.node(array._pa_array if hasattr(array, "_pa_array") else array._data, depth + 1)]


_WRITERS = {
    "DatetimeArray": _write_moments,
    "TimedeltaArray": _write_moments,
    "PeriodArray": _write_periods,
    "IntervalArray": _write_intervals,
    "Categorical": _write_categories,
    "IntegerArray": _write_masked,
    "FloatingArray": _write_masked,
    "BooleanArray": _write_masked,
    "SparseArray": _write_sparse,
    "StringArray": _write_texts,
    "StringArrayNumpySemantics": _write_texts,
    "ArrowStringArray": _write_texts,
    "ArrowStringArrayNumpySemantics": _write_texts,
    "ArrowExtensionArray": _write_arrow,
}


def read_column(decoder, node, depth, pandas):
    """The one-dimensional numpy or pandas array from a node that ``column`` made."""
    own = type(node) is dict and "px" in node
    made = decoder.bare(node, depth + 1) if own else decoder.value(node, depth + 1)
    if not hasattr(made, "dtype") or getattr(made, "ndim", 0) != 1 or isinstance(made, (pandas.Series, pandas.Index)):
        raise BadValue("a column that is a %s" % class_name(type(made)))
    return made


def _read_array(decoder, content, depth, pandas):
    reader = _ARRAYS.get(content[0])
    if reader is None:
        raise BadValue("an array of the unknown kind %.20r" % (content[0],))
    return reader(decoder, content[1:], depth, pandas)


def _whole_numbers(decoder, node, depth, kind="i8"):
    made = decoder.value(node, depth + 1)
    if str(getattr(made, "dtype", "")) not in ("int64", ">i8", "<i8") or made.ndim != 1:
        raise BadValue("an array of times that are not numbers")
    return made.astype("i8", copy=False)


def _read_moments(decoder, content, depth, pandas):
    unit, zone, node = content
    if unit not in pandas_scalars.UNITS:
        raise BadValue("times of the unit %.20r" % (unit,))
    made = pandas.DatetimeIndex(_whole_numbers(decoder, node, depth).view("M8[%s]" % unit))
    if zone is not None:
        made = made.tz_localize("UTC").tz_convert(pandas_scalars.made_zone(zone))
    return made.array


def _read_spans(decoder, content, depth, pandas):
    unit, zone, node = content
    if unit not in pandas_scalars.UNITS or zone is not None:
        raise BadValue("times of the unit %.20r" % (unit,))
    return pandas.TimedeltaIndex(_whole_numbers(decoder, node, depth).view("m8[%s]" % unit)).array


def _read_periods(decoder, content, depth, pandas):
    freq, node = content
    return pandas.arrays.PeriodArray(
        _whole_numbers(decoder, node, depth), dtype=_period_dtype(decoder, [freq], depth, pandas)
    )


def _read_intervals(decoder, content, depth, pandas):
    closed, left, right = content
    if closed not in pandas_scalars.CLOSED:
        raise BadValue("intervals that are closed %.20r" % (closed,))
    left, right = [decoder.value(node, depth + 1) for node in (left, right)]
    if not (isinstance(left, pandas.Index) and isinstance(right, pandas.Index)):
        raise BadValue("intervals without ends")
    return pandas.arrays.IntervalArray.from_arrays(left, right, closed)


def _read_categories(decoder, content, depth, pandas):
    dtype, codes = content
    if dtype[0] != "category":
        raise BadValue("categories of another dtype")
    dtype = made_dtype(decoder, dtype, depth, pandas)
    codes = decoder.value(codes, depth + 1)
    if getattr(getattr(codes, "dtype", None), "kind", "") != "i" or codes.ndim != 1:
        raise BadValue("categories that are told by other things than numbers")
    return pandas.Categorical.from_codes(codes, dtype=dtype)


def _read_masked(decoder, content, depth, pandas):
    name, data, mask = content
    dtype = _masked_dtype(decoder, [name], depth, pandas)
    data, mask = [decoder.value(node, depth + 1) for node in (data, mask)]
    for one in (data, mask):
        if class_name(type(one)) != "numpy.ndarray" or one.ndim != 1 or len(one) != len(data):
            raise BadValue("an array whose mask does not fit it")
    if str(data.dtype) != str(dtype).replace("boolean", "bool").lower() or mask.dtype != bool:
        raise BadValue("an array of the dtype %s instead of %s" % (data.dtype, dtype))
    return dtype.construct_array_type()(data, mask)


def _read_sparse(decoder, content, depth, pandas):
    """Read a sparse array.

    Branches because each thing that may be wrong with one is told by a sentence of its own.
    """
    length, kind, dtype, values, places = content
    if dtype[0] != "sparse" or kind not in ("integer", "block"):
        raise BadValue("a sparse array of another dtype")
    dtype = made_dtype(decoder, dtype, depth, pandas)
    values, places = decoder.value(values, depth + 1), decoder.value(places, depth + 1)
    for one in (values, places):
        if class_name(type(one)) != "numpy.ndarray" or one.ndim != 1 or len(one) != len(values):
            raise BadValue("a sparse array whose places do not fit it")
    if type(length) is not int or not 0 <= length <= max(FREE_CELLS, 64 * (values.nbytes + places.nbytes)):
        raise BadValue("a sparse array of %.20r cells" % (length,))
    if str(places.dtype) != "int32" or (
        len(places) and (places[0] < 0 or places[-1] >= length or (places[1:] <= places[:-1]).any())
    ):
        raise BadValue("a sparse array with places beyond it")
    from pandas._libs.sparse import IntIndex

    index = IntIndex(length, places)
    index = index.to_block_index() if kind == "block" else index
    if getattr(dtype, "subtype", None) != values.dtype:
        raise BadValue("a sparse array of %s instead of %s" % (values.dtype, dtype.subtype))
    return pandas.arrays.SparseArray._simple_new(values, index, dtype)


def _read_texts(decoder, content, depth, pandas):
    dtype, node = content
    if dtype[0] != "text":
        raise BadValue("texts of another dtype")
    made = made_dtype(decoder, dtype, depth, pandas)
    if made is not None and getattr(made, "storage", "") == "pyarrow" and type(node) is dict and "tx" in node:
        array = _arrow_texts(decoder, node["tx"], made)
        if array is not None:
            return array
    na = getattr(pandas, "NA", None)
    items = numpy_kinds.read_cells(decoder, node, depth, na)
    if not all(type(one) is str or one is None or one is na or (type(one) is float and one != one) for one in items):
        raise BadValue("texts that are not text")
    import numpy

    array = numpy_kinds.filled(numpy, items)
    return array if made is None else pandas.array(array, dtype=made)


def _arrow_texts(decoder, content, dtype):
    """A text column in pyarrow's own memory; raises BadValue if pyarrow does not accept the text as valid."""
    import numpy
    import pyarrow

    count, data, ends, missing = text_columns.parts(decoder, content)
    bounds = numpy.concatenate([numpy.zeros(1, "<i8"), ends])
    valid = None
    if missing is not None:
        marks = numpy.frombuffer(missing, "u1")
        valid = pyarrow.py_buffer(numpy.packbits(marks == 0, bitorder="little").tobytes())
    buffers = [valid, pyarrow.py_buffer(bounds), pyarrow.py_buffer(data)]
    array = pyarrow.Array.from_buffers(pyarrow.large_string(), count, buffers)
    try:
        array.validate(full=True)
    except pyarrow.ArrowInvalid:
        raise BadValue("texts that are not UTF-8")
    return dtype.__from_arrow__(array)


def _read_arrow(decoder, content, depth, pandas):
    (chunked,) = decoder.values(content, depth)
    if class_name(type(chunked)) != "pyarrow.lib.ChunkedArray":
        raise BadValue("an Arrow column of another kind")
    return _arrow_dtype_of(pandas, chunked.type).__from_arrow__(chunked)


def _arrow_dtype_of(pandas, kind):
    if not hasattr(pandas, "ArrowDtype"):
        raise BadValue("a column of Arrow, which needs pandas 1.5; here is %s" % pandas.__version__, missing=True)
    return pandas.ArrowDtype(kind)


def _read_objects(decoder, content, depth, pandas):
    (node,) = content
    import numpy

    return numpy_kinds.filled(numpy, numpy_kinds.read_cells(decoder, node, depth, getattr(pandas, "NA", None)))


_ARRAYS = {
    "moments": _read_moments,
    "spans": _read_spans,
    "periods": _read_periods,
    "intervals": _read_intervals,
    "categories": _read_categories,
    "masked": _read_masked,
    "sparse": _read_sparse,
    "texts": _read_texts,
    "arrow": _read_arrow,
    "objects": _read_objects,
}


def _read_dtype(decoder, content, depth, pandas):
    import numpy

    made = made_dtype(decoder, content, depth, pandas)
    return numpy.dtype(object) if made is None else made


READERS = {"pd": _read_dtype, "px": _read_array}
