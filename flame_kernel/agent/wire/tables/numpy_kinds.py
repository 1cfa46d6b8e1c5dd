"""numpy arrays that are more than their memory: of objects, masked, of texts of any length, and subclasses.

::

    {"o": [shape, order, cells]}           objects: the node of a list of them, or one of ``text_columns``
    {"of": [names, aligned, shape, [array of each field, …]]}      a struct with objects in it
    {"oc": [shape, order, cells, missing, coerce]}     StringDType; missing is [its na_object], or null
    {"om": [data, mask, fill value, hard]}       a masked array; mask and fill value may be null
    {"ov": [class, array]}                       a matrix, recarray or chararray; an array of records, or a record

Both sides import it.
"""

from ..scalars import BadValue, NotPlain
from . import dtypes, text_columns

# Classes whose cells can be set all at once: numpy does not treat them as nested sequences.
_SIMPLE = {str, int, float, bool, bytes, type(None), complex, dict}
_VIEWS = ("matrix", "recarray", "chararray", "record array", "record")


def is_special(numpy, dtype):
    """Whether an array of this dtype needs this module instead of going as raw memory."""
    return dtype.hasobject or dtype.kind == "T" or dtype.type is numpy.record


def write(encoder, value, kind, numpy, depth):
    """The node of such a value; None for any other value."""
    if kind is numpy.ndarray:
        dtype = value.dtype
        if dtype.kind == "T":
            return _write_texts(encoder, value, numpy, depth)
        if dtype.hasobject:
            writer = _write_fields if dtype.names else _write_objects
            return writer(encoder, value, numpy, depth)
        if dtype.type is numpy.record:
            return {"ov": ["record array", encoder.node(_plain(numpy, value), depth + 1)]}
        return None
    if kind is numpy.record:
        whole = numpy.array(value).view(numpy.ndarray)
        return {"ov": ["record", encoder.node(_plain(numpy, whole), depth + 1)]}
    if kind is numpy.ma.MaskedArray:
        return _write_masked(encoder, value, numpy, depth)
    if value is numpy.ma.masked:
        return {"om": None}
    name = kind.__name__ if kind.__name__ in ("matrix", "recarray", "chararray") else None
    if name is not None:
        return {"ov": [name, encoder.node(_plain(numpy, value.view(numpy.ndarray)), depth + 1)]}
    return None


def _plain(numpy, array):
    """An array of records as an array of plain structs."""
    if array.dtype.type is not numpy.record:
        return array
    fields = [array.dtype.fields[name] for name in array.dtype.names]
    plan = {"names": list(array.dtype.names), "formats": [field[0] for field in fields]}
    plan.update(offsets=[field[1] for field in fields], itemsize=array.dtype.itemsize)
    return array.view(numpy.dtype(plan, align=array.dtype.isalignedstruct))


def _order(array):
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def _write_objects(encoder, value, numpy, depth):
    if value.dtype.str != "|O" or value.dtype.type is not numpy.object_:
        raise NotPlain("the dtype %s is not plain data" % value.dtype)
    order = _order(value)
    items = value.ravel(order=order).tolist()
    return {"o": [list(value.shape), order, cells(encoder, items, depth)]}


def cells(encoder, items, depth):
    """The node of a list of cells; many texts are packed."""
    if len(items) >= text_columns.PACKED:
        node = text_columns.write(encoder, items)
        if node is not None:
            return node
    return encoder.node(items, depth + 1)


def _write_fields(encoder, value, numpy, depth):
    dtype = value.dtype
    if dtype != _struct(
        numpy.dtype, dtype.names, [dtype.fields[name][0] for name in dtype.names], dtype.isalignedstruct
    ):
        raise NotPlain("a struct with Python objects and gaps between its fields is not plain data")
    arrays = [encoder.node(value[name], depth + 2) for name in dtype.names]
    return {"of": [list(dtype.names), bool(dtype.isalignedstruct), list(value.shape), arrays]}


def _struct(make, names, formats, aligned):
    return make({"names": list(names), "formats": list(formats)}, align=aligned)


def _write_texts(encoder, value, numpy, depth):
    dtype, order = value.dtype, _order(value)
    found = cells(encoder, value.ravel(order=order).tolist(), depth)
    missing = [encoder.node(dtype.na_object, depth + 1)] if hasattr(dtype, "na_object") else None
    return {"oc": [list(value.shape), order, found, missing, bool(dtype.coerce)]}


def _write_masked(encoder, value, numpy, depth):
    data = encoder.node(value.data.view(numpy.ndarray), depth + 1)
    mask = None if value.mask is numpy.ma.nomask else encoder.node(value.mask.view(numpy.ndarray), depth + 1)
    fill = value._fill_value
    fill = None if fill is None else encoder.node(numpy.array(fill, value.dtype).view(numpy.ndarray), depth + 1)
    return {"om": [data, mask, fill, bool(value.hardmask)]}


# -- reading ---------------------------------------------------------------------------------------------------------


def _read_objects(decoder, content, depth, numpy):
    shape, order, node = content
    items = read_cells(decoder, node, depth)
    return filled(numpy, items).reshape(_shape(shape, order, len(items)), order=order)


def read_cells(decoder, node, depth, na=None):
    """The list from a node that ``cells`` made."""
    if type(node) is dict and "tx" in node and len(node) == 1:
        return text_columns.read(decoder, node["tx"], na)
    items = decoder.value(node, depth + 1)
    if type(items) is not list:
        raise BadValue("cells that are not a list")
    return items


def filled(numpy, items):
    """A one-dimensional object array of these items, whatever they are."""
    array = numpy.empty(len(items), object)
    if set(map(type, items)) <= _SIMPLE:
        array[:] = items
    else:
        for number, item in enumerate(items):
            array[number] = item
    return array


def _shape(shape, order, count):
    if order not in ("C", "F") or dtypes.check_shape(shape, dtypes.Layout(8, 0, 0, 8, ())) != count:
        raise BadValue("an array that does not fill its shape")
    return tuple(shape)


def _read_fields(decoder, content, depth, numpy):
    names, aligned, shape, nodes = content
    if type(aligned) is not bool or not all(type(name) is str for name in names) or len(names) != len(nodes):
        raise BadValue("a struct whose names and fields do not fit each other")
    arrays = [decoder.value(node, depth + 2) for node in nodes]
    if not arrays or not all(type(one) is numpy.ndarray and list(one.shape[: len(shape)]) == shape for one in arrays):
        raise BadValue("a struct whose fields are not of its shape")
    formats = [(one.dtype, one.shape[len(shape) :]) if one.ndim > len(shape) else one.dtype for one in arrays]
    made = numpy.zeros(tuple(shape), _struct(numpy.dtype, names, formats, aligned))
    for name, one in zip(names, arrays):
        made[name] = one
    return made


def _read_texts(decoder, content, depth, numpy):
    shape, order, node, missing, coerce = content
    items = read_cells(decoder, node, depth)
    kind = getattr(getattr(numpy, "dtypes", None), "StringDType", None)
    if kind is None:
        raise BadValue("an array of StringDType, which needs numpy 2.0; here is %s" % numpy.__version__, missing=True)
    options = {"coerce": coerce is True}
    if missing is not None:
        options["na_object"] = decoder.value(missing[0], depth + 1)
    array = numpy.empty(len(items), kind(**options))
    array[:] = items
    return array.reshape(_shape(shape, order, len(items)), order=order)


def _read_masked(decoder, content, depth, numpy):
    if content is None:
        return numpy.ma.masked
    data, mask, fill, hard = [decoder.value(node, depth + 1) for node in content]
    good = type(data) is numpy.ndarray and (mask is None or (type(mask) is numpy.ndarray and mask.shape == data.shape))
    if not good or (fill is not None and not (type(fill) is numpy.ndarray and not fill.shape)):
        raise BadValue("a masked array whose mask does not fit it")
    made = numpy.ma.MaskedArray(data, mask=numpy.ma.nomask if mask is None else mask, hard_mask=hard is True)
    if fill is not None:
        made.fill_value = fill[()]
    return made


def _read_view(decoder, content, depth, numpy):
    name, node = content
    array = decoder.value(node, depth + 1)
    if name not in _VIEWS or type(array) is not numpy.ndarray or (name == "matrix" and array.ndim != 2):
        raise BadValue("an array of the class %.40r" % (name,))
    if name == "matrix":
        return array.view(numpy.matrix)
    if name == "chararray":
        if array.dtype.kind not in "SU":
            raise BadValue("a chararray of the dtype %s" % array.dtype)
        return array.view(numpy.char.chararray)
    if name == "recarray":
        return array.view(numpy.recarray)
    if array.dtype.names is None:
        raise BadValue("records without fields")
    records = array.view(numpy.dtype((numpy.record, array.dtype)))
    return records if name == "record array" else records[()]


READERS = {
    "o": _read_objects,
    "of": _read_fields,
    "oc": _read_texts,
    "om": _read_masked,
    "ov": _read_view,
}
