"""numpy's dtypes as JSON and back, with every number checked before numpy sees it. Both sides import it.

::

    "<f8"                             a simple one, as in ``dtype.str``: one of a few forms, none with Python objects
    [dtype, shape]                    a subarray
    {"names", "formats", "offsets", "itemsize", "aligned"}      a struct
    {"dtype", "metadata"}             one with metadata, a dict of plain values

numpy trusts these numbers: its own checks overflow at 2 GiB, and then it reads and writes outside an array's memory.
So we add up sizes and offsets here, with Python's unlimited integers.
"""

import collections
import functools
import re

from ..scalars import BadValue, NotPlain

# How deep dtypes may be nested.
MAX_DEPTH = 10
# Most bytes of one item; numpy counts them in 32 bits.
MAX_ITEM = (1 << 31) - 1
# Most fields of a struct, nested ones included.
MAX_FIELDS = 100000
# Most axes; each version of numpy has the same limit or a lower one.
MAX_AXES = 64
# Most elements of size zero: a few bytes could ask for any number of them.
MAX_EMPTY = 1000000
# How many times the bytes of an array may be seen through overlapping fields, once that is more than FREE bytes in all.
MAX_OVERLAP = 64
FREE = 1 << 20
# Largest item of an array without elements: numpy allocates memory for one.
MAX_EMPTY_ITEM = 64 << 20
MAX_CODE_POINT = 0x10FFFF

_KINDS = "biufcSUVmM"
_STRUCT = {"names", "formats", "offsets", "itemsize", "aligned"}
_PLAIN = re.compile(
    r"([<>|=]?)(?:\?|b1|([iufc])(1|2|4|8|16|32)|([SUV])(\d{1,10})"
    r"|[mM]8(?:\[(?:generic|(\d{0,9})(?:[YMWDhms]|ms|us|ns|ps|fs|as))\])?)"
)

# size     bytes of one item
# fields   number of struct fields, in all
# empty    number of size-zero elements in one item
# seen     bytes of all elements in one item: more than ``size`` where fields overlap
# texts    where the item holds text: (offset, byte order, ((length, stride) of each axis))
Layout = collections.namedtuple("Layout", "size fields empty seen texts")  # noqa: PYI024 - of Python 3.6


def words(numpy, dtype, depth=0):
    """A dtype as JSON; raises NotPlain if it holds Python objects or is not one of numpy's own kinds."""
    if dtype.hasobject:
        raise NotPlain("a numpy array of Python objects is not plain data (its list may be: array.tolist())")
    if depth > MAX_DEPTH:
        raise NotPlain("a dtype is nested too deep")
    if dtype.metadata:
        if not _is_json(dict(dtype.metadata), MAX_DEPTH):
            raise NotPlain("a dtype whose metadata is %.80r is not plain data" % (dict(dtype.metadata),))
        return {"dtype": _words(numpy, dtype, depth), "metadata": dict(dtype.metadata)}
    return _words(numpy, dtype, depth)


def _is_json(value, depth):
    """Whether JSON keeps a value exactly."""
    if type(value) is dict and depth:
        return all(type(key) is str and _is_json(one, depth - 1) for key, one in value.items())
    if type(value) is list and depth:
        return all(_is_json(one, depth - 1) for one in value)
    return value is None or type(value) in (bool, float, str) or (type(value) is int and abs(value) < 1 << 63)


def _words(numpy, dtype, depth):
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [words(numpy, base, depth + 1), list(shape)]
    if dtype.names is not None:
        fields = [dtype.fields[name] for name in dtype.names]
        if dtype.type is not numpy.void or any(len(field) > 2 for field in fields):
            raise NotPlain("a record dtype, or one with titles, is not plain data")
        return {
            "names": list(dtype.names),
            "formats": [words(numpy, field[0], depth + 1) for field in fields],
            "offsets": [field[1] for field in fields],
            "itemsize": dtype.itemsize,
            "aligned": bool(dtype.isalignedstruct),
        }
    if dtype.kind not in _KINDS or numpy.dtype(dtype.str) != dtype:
        raise NotPlain("the dtype %s is not plain data" % dtype)
    return dtype.str


def make(numpy, told):
    """``(dtype, Layout)`` of the JSON that ``words`` made; raises BadValue."""
    return _make_plain(numpy, told) if type(told) is str else _make(numpy, told)


def _make(numpy, told):
    layout = check(told)
    try:
        dtype = _build(numpy, told)
    except Exception as e:  # numpy rejects more than we check here, with errors of many classes
        raise BadValue("a dtype that numpy refuses: %s" % str(e)[:200])
    if dtype.itemsize != layout.size or dtype.hasobject:
        raise BadValue("a dtype of %d bytes instead of %d" % (dtype.itemsize, layout.size))
    return dtype, layout


_make_plain = functools.lru_cache(maxsize=200)(_make)


def check(told, depth=0):
    """The Layout of the JSON that ``words`` made; raises BadValue for anything else."""
    if depth > MAX_DEPTH:
        raise BadValue("a dtype that is nested too deep")
    if type(told) is str:
        return _check_plain(told)
    if type(told) is list and len(told) == 2:
        return _check_subarray(told[0], told[1], depth)
    if type(told) is dict and set(told) == _STRUCT:
        return _check_struct(told, depth)
    if type(told) is dict and set(told) == {"dtype", "metadata"} and type(told["metadata"]) is dict:
        return check(told["dtype"], depth + 1)
    raise BadValue("the dtype %.60r" % (told,))


def check_shape(shape, layout):
    """The number of elements in an array of this shape; raises BadValue."""
    count = space = 1
    if type(shape) is not list or len(shape) > MAX_AXES:
        raise BadValue("an array of the shape %.60r" % (shape,))
    for length in shape:
        if type(length) is not int or length < 0 or length >= 1 << 63:
            raise BadValue("an array of the shape %.60r" % (shape,))
        count *= length
        space *= length or 1
    if space * max(layout.size, 1) >= 1 << 63:
        raise BadValue("an array of the shape %.60r" % (shape,))
    size = count * layout.size
    if count * layout.empty > max(MAX_EMPTY, size):
        raise BadValue("an array of too many elements that have no size")
    if count * layout.seen > max(FREE, MAX_OVERLAP * size):
        raise BadValue("an array whose fields overlap too often")
    if not count and layout.size > MAX_EMPTY_ITEM:
        raise BadValue("an empty array of items of %d bytes" % layout.size)
    return count


def check_text(numpy, data, count, layout):
    """Raise BadValue unless all text in ``count`` items is valid Unicode: numpy turns it into str unchecked, and some
    code points would make a broken str."""
    for offset, order, axes in layout.texts if count else ():
        shape, strides = zip((count, layout.size), *axes)
        codes = numpy.ndarray(shape, order + "u4", data, offset, strides)
        if codes.size and codes.max() > MAX_CODE_POINT:
            raise BadValue("text of characters that do not exist")


def _check_plain(told):
    found = _PLAIN.fullmatch(told)
    if not found:
        raise BadValue("the dtype %.40r" % told)
    order, number, width, text, length, multiple = found.groups()
    texts = ()
    if number:
        size = int(width)
    elif text:
        size = int(length) * (4 if text == "U" else 1)
        if size > MAX_ITEM:
            raise BadValue("the dtype %.40r" % told)
        if text == "U" and size:
            texts = ((0, order if order in "<>" else "=", ((int(length), 4),)),)
    elif told[-1] in "?1":
        size = 1
    else:
        size = 8
        if multiple and not int(multiple):
            raise BadValue("the dtype %.40r" % told)
    return Layout(size, 0, 0 if size else 1, size, texts)


def _check_subarray(base, shape, depth):
    base = check(base, depth + 1)
    count = space = 1
    if type(shape) is not list or len(shape) > MAX_AXES:
        raise BadValue("a dtype of the shape %.60r" % (shape,))
    for length in shape:
        if type(length) is not int or not 0 <= length <= MAX_ITEM:
            raise BadValue("a dtype of the shape %.60r" % (shape,))
        count *= length
        space *= length or 1
        if space * max(base.size, 1) > MAX_ITEM:
            raise BadValue("a dtype of the shape %.60r" % (shape,))
    axes, stride = [], base.size
    for length in reversed(shape):
        axes.insert(0, (length, stride))
        stride *= length
    size = count * base.size
    empty = max(1 if not size else 0, count * base.empty)
    texts = tuple((offset, order, tuple(axes) + inner) for offset, order, inner in base.texts) if count else ()
    return Layout(size, base.fields, empty, count * base.seen, texts)


def _check_struct(told, depth):
    """The Layout of a structured dtype.

    Branches because each thing that may be wrong with one is told by a sentence of its own.
    """
    names, formats, offsets, size = told["names"], told["formats"], told["offsets"], told["itemsize"]
    if not (type(names) is type(formats) is type(offsets) is list and len(names) == len(formats) == len(offsets)):
        raise BadValue("a dtype whose names, formats and offsets do not fit each other")
    if not all(type(name) is str for name in names) or len(set(names)) != len(names):
        raise BadValue("a dtype whose names are not names")
    if type(size) is not int or not 0 <= size <= MAX_ITEM or type(told["aligned"]) is not bool:
        raise BadValue("a dtype of %.40r bytes" % (size,))
    fields, empty, seen, texts = len(names), 0 if size else 1, 0, []
    for one, offset in zip(formats, offsets):
        inner = check(one, depth + 1)
        if type(offset) is not int or offset < 0 or offset + inner.size > size:
            raise BadValue("a dtype with a field of %d bytes at %.40r, beyond %d" % (inner.size, offset, size))
        fields += inner.fields
        empty += inner.empty
        seen += inner.seen
        texts += [(offset + at, order, axes) for at, order, axes in inner.texts]
    if fields > MAX_FIELDS:
        raise BadValue("a dtype of more than %d fields" % MAX_FIELDS)
    return Layout(size, fields, empty, seen, tuple(texts))


def _build(numpy, told):
    if type(told) is str:
        return numpy.dtype(told)
    if type(told) is list:
        return numpy.dtype((_build(numpy, told[0]), tuple(told[1])))
    if "metadata" in told:
        return numpy.dtype(_build(numpy, told["dtype"]), metadata=told["metadata"])
    formats = [_build(numpy, one) for one in told["formats"]]
    plan = {"names": told["names"], "formats": formats, "offsets": told["offsets"], "itemsize": told["itemsize"]}
    return numpy.dtype(plan, align=told["aligned"])
