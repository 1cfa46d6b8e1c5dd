"""The containers of ``collections``, ``array`` and ``types`` as values. Both sides import it.

::

    {"od": [key, value, …]}         OrderedDict     {"ct": [key, value, …]}                  Counter
    {"dd": [factory, key, value, …]}                defaultdict: the factory by its name in FACTORIES, null, or a
                                                    reference to it
    {"dq": [longest, item, …]}      deque           {"ns": {…}}                              types.SimpleNamespace
    {"ud": {…}} {"ul": […]} {"cm": [{…}, …]}        UserDict, UserList, ChainMap     {"mp": {…}}  types.MappingProxyType
    {"us": text}                    UserString
    {"ar": [code, size, n]}         array.array: buffer n, of items of ``size`` bytes, little endian; text as UTF-8
    {"mv": [format, size, shape, writable, n]}      memoryview: the same, of its items in C order
    {"S": [start, stop, step]}      slice           {"dk": [ordered, key, …]} {"dv": …} {"di": …}  a dict's views
    {"sq": [class, {…}, item, …]}   a tuple of a system class: the class's name in STRUCTS, its attributes that are no
                                    items, and its items

``WRITERS`` maps each class to the function that makes its node, ``READERS`` each tag to the function that reads it.
"""

import collections
import os
import struct
import sys
import time
from array import array, typecodes
from types import MappingProxyType, SimpleNamespace

from .scalars import BadValue, NotPlain, class_name

# The factories that a defaultdict may have: a fixed list of built-in classes, so no name is ever looked up.
FACTORIES = {
    kind.__name__: kind
    for kind in (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, set, str, tuple)
    + (collections.Counter, collections.OrderedDict, collections.deque, collections.defaultdict)
}
_FACTORY_NAMES = {kind: name for name, kind in FACTORIES.items()}
# The tuples of the system whose items have names: a fixed list, too.
STRUCTS = {"time.struct_time": time.struct_time}
for _name in ("stat_result", "statvfs_result", "terminal_size", "times_result", "uname_result"):
    if hasattr(os, _name):
        STRUCTS["os." + _name] = getattr(os, _name)
_STRUCT_NAMES = {kind: name for name, kind in STRUCTS.items()}
# Item formats of a memoryview: those of ``struct`` that stand for plain values.
_FORMATS = set("bBhHiIlLqQnNefd?c")
# array codes by item size: used to make an array from items of another machine's size.
_SIZED = {}
for _code in "bhilq":
    _SIZED.setdefault(array(_code).itemsize, _code)


def _write_ordered(encoder, value, depth):
    return {"od": _pairs(encoder, value, depth)}


def _write_counter(encoder, value, depth):
    return {"ct": _pairs(encoder, value, depth)}


def _pairs(encoder, value, depth, first=()):
    keys, values = list(value.keys()), list(value.values())
    return encoder.nodes(list(first) + [thing for pair in zip(keys, values) for thing in pair], depth)


def _write_default(encoder, value, depth):
    factory = value.default_factory
    is_other = (
        encoder.references and factory is not None and not (isinstance(factory, type) and factory in _FACTORY_NAMES)
    )
    return {"dd": _pairs(encoder, value, depth, [factory if is_other else factory_name(value)])}


def factory_name(value):
    """The name of a defaultdict's factory, or None if it has none; raises NotPlain if it is not in FACTORIES."""
    factory = value.default_factory
    name = None if factory is None else _FACTORY_NAMES.get(factory if isinstance(factory, type) else None)
    if factory is not None and name is None:
        raise NotPlain(
            "a defaultdict whose factory is %s is not plain data (one that makes int, list, dict and their like is)"
            % getattr(factory, "__qualname__", class_name(type(factory)))
        )
    return name


def _write_deque(encoder, value, depth):
    return {"dq": encoder.nodes([value.maxlen] + list(value), depth)}


def _write_namespace(encoder, value, depth):
    return {"ns": encoder.node(dict(vars(value)), depth + 1)}


def _write_proxy(encoder, value, depth):
    return {"mp": encoder.node(_inner(value.copy()), depth + 1)}


def _write_user_dict(encoder, value, depth):
    return {"ud": encoder.node(_inner(value.data), depth + 1)}


def _write_user_list(encoder, value, depth):
    return {"ul": encoder.node(value.data, depth + 1)}


def _write_user_string(encoder, value, depth):
    return {"us": encoder.node(value.data, depth + 1)}


def _write_chain(encoder, value, depth):
    return {"cm": encoder.nodes([_inner(one) for one in value.maps], depth)}


def _inner(mapping):
    if type(mapping) not in MAPPINGS:
        raise NotPlain("a %s around a %s is not plain data" % ("mapping", class_name(type(mapping))))
    return mapping


def _write_array(encoder, value, depth):
    code = value.typecode
    if code in "uw":
        try:
            text = value.tounicode().encode("utf-8", "surrogatepass")
        except ValueError as e:
            raise NotPlain("an array of characters that do not exist (%s)" % e)
        return {"ar": [code, 0, encoder.buffer(text)]}
    return {"ar": [code, value.itemsize, encoder.buffer(_little(value, value.itemsize))]}


def _write_slice(encoder, value, depth):
    return {"S": encoder.nodes((value.start, value.stop, value.step), depth)}


def _write_keys(encoder, value, depth):
    return {"dk": [_is_ordered(value)] + encoder.nodes(value, depth)}


def _write_values(encoder, value, depth):
    return {"dv": [_is_ordered(value)] + encoder.nodes(value, depth)}


def _write_items(encoder, value, depth):
    return {"di": [_is_ordered(value)] + encoder.nodes([thing for pair in value for thing in pair], depth)}


def _is_ordered(view):
    return type(view).__name__.startswith("odict")


def _write_struct(encoder, value, depth):
    kind, (items, beside) = value.__reduce__()
    return {"sq": [_STRUCT_NAMES[kind], encoder.node(beside, depth + 1)] + encoder.nodes(items, depth)}


def _write_view(encoder, value, depth):
    try:
        told, size, shape = value.format, value.itemsize, list(value.shape)
        data = value.tobytes()
    except ValueError:
        raise NotPlain("a memoryview that was released is not plain data")
    if told not in _FORMATS or (0 in shape and len(shape) > 1):
        raise NotPlain("a memoryview of the format %.40r and the shape %s is not plain data" % (told, tuple(shape)))
    return {"mv": [told, size, shape, not value.readonly, encoder.buffer(_swapped(data, size))]}


def _little(value, size):
    if sys.byteorder == "big" and size > 1:
        value = value[:]
        value.byteswap()
    return value.tobytes()


def _swapped(data, size):
    """Item bytes converted between this machine's byte order and little endian."""
    if sys.byteorder == "big" and size > 1:
        packed = array(_SIZED[size], bytes(data))
        packed.byteswap()
        return packed.tobytes()
    return data


# -- reading ---------------------------------------------------------------------------------------------------------


def _both(decoder, items):
    if len(items) % 2:
        raise BadValue("keys without values")
    return zip(decoder.keys(items[::2]), items[1::2])


def _read_ordered(decoder, content, depth):
    return collections.OrderedDict(_both(decoder, decoder.values(content, depth)))


def _read_counter(decoder, content, depth):
    made = collections.Counter()
    dict.update(made, _both(decoder, decoder.values(content, depth)))
    return made


def _read_default(decoder, content, depth):
    found = decoder.values(content, depth)
    factory = FACTORIES[found[0]] if type(found[0]) is str else found[0]
    if type(found[0]) is not str and type(content[0]) is dict and set(content[0]) != {"@"}:
        raise BadValue("a defaultdict whose factory is a value")
    made = collections.defaultdict(factory)
    made.update(_both(decoder, found[1:]))
    return made


def _read_slice(decoder, content, depth):
    start, stop, step = decoder.values(content, depth)
    return slice(start, stop, step)


def _read_keys(decoder, content, depth):
    return _viewed(content).fromkeys(decoder.keys(decoder.values(content[1:], depth))).keys()


def _read_values(decoder, content, depth):
    return _viewed(content)(enumerate(decoder.values(content[1:], depth))).values()


def _read_items(decoder, content, depth):
    return _viewed(content)(_both(decoder, decoder.values(content[1:], depth))).items()


def _viewed(content):
    return collections.OrderedDict if content[0] is True else dict


def _read_struct(decoder, content, depth):
    name, beside = content[:2]
    kind, items, beside = STRUCTS[name], decoder.values(content[2:], depth), decoder.value(beside, depth + 1)
    if type(beside) is not dict or len(items) != kind.n_sequence_fields:
        raise BadValue("a %s of %d items" % (class_name(kind), len(items)))
    known = vars(kind)  # another system's may have more
    return kind(tuple(items), {name: one for name, one in beside.items() if name in known})


def _read_deque(decoder, content, depth):
    items = decoder.values(content, depth)
    longest = items[0]
    if not (longest is None or (type(longest) is int and longest >= len(items) - 1)):
        raise BadValue("a deque of %d items, at most %.20r" % (len(items) - 1, longest))
    return collections.deque(items[1:], longest)


def _read_namespace(decoder, content, depth):
    made = SimpleNamespace()
    vars(made).update(_of(decoder, content, depth, (dict,)))
    return made


def _read_proxy(decoder, content, depth):
    return MappingProxyType(_of(decoder, content, depth, MAPPINGS))


def _read_user_dict(decoder, content, depth):
    made = collections.UserDict()
    made.data = _of(decoder, content, depth, MAPPINGS)
    return made


def _read_user_list(decoder, content, depth):
    made = collections.UserList()
    made.data = _of(decoder, content, depth, (list,))
    return made


def _read_user_string(decoder, content, depth):
    return collections.UserString(_of(decoder, content, depth, (str,)))


def _read_chain(decoder, content, depth):
    maps = decoder.values(content, depth)
    if not maps or not all(type(one) in MAPPINGS for one in maps):
        raise BadValue("a ChainMap of other things than dicts")
    return collections.ChainMap(*maps)


def _of(decoder, content, depth, kinds):
    made = decoder.value(content, depth + 1)
    if type(made) not in kinds:
        raise BadValue("a container around a %s" % class_name(type(made)))
    return made


def _read_array(decoder, content, depth):
    code, size, number = content
    if type(code) is not str or len(code) != 1 or code not in typecodes + "uw":
        raise BadValue("an array of the code %.20r" % (code,))
    if code in "uw":
        if code not in typecodes:
            raise BadValue("an array of the code %r, which this Python does not have" % code)
        made = array(code)
        made.fromunicode(decoder.text(number))
        return made
    return array(code, _items(decoder, code, size, number))


def _items(decoder, code, size, number):
    """Numbers of ``size`` bytes as an array; as a list if this machine has another size for ``code``."""
    data, made = decoder.part(number), array(code)
    if size != made.itemsize:
        if code not in "lL" or size not in (4, 8):
            raise BadValue("an array of the code %r with items of %.20r bytes" % (code, size))
        made = array(_SIZED[size].upper() if code.isupper() else _SIZED[size])
    if len(data) % made.itemsize:
        raise BadValue("an array with a part of an item")
    made.frombytes(data)
    if sys.byteorder == "big":
        made.byteswap()
    return made


def _read_view(decoder, content, depth):
    told, size, shape, writable, number = content
    if told not in _FORMATS or type(size) is not int or not all(type(one) is int and one >= 0 for one in shape):
        raise BadValue("a memoryview of the format %.20r and the shape %.40r" % (told, shape))
    if len(shape) > 64 or (0 in shape and len(shape) > 1):
        raise BadValue("a memoryview of the shape %.40r" % (shape,))
    count = 1
    for length in shape:
        count *= length
    data = decoder.part(number)
    told = _native(told, size)
    if count * size != len(data):
        raise BadValue("a memoryview of %d bytes that has %d" % (count * size, len(data)))
    data = _swapped(data, size)
    view = memoryview(bytearray(data) if writable else bytes(data))
    return view.cast(told) if len(shape) == 1 else view.cast(told, shape)


def _native(told, size):
    """This machine's format for items whose format on the other side had ``size`` bytes."""
    if struct.calcsize(told) == size:
        return told
    for other in "qi" if told.islower() else "QI":
        if told in "lLnN" and struct.calcsize(other) == size:
            return other
    raise BadValue("a memoryview of the format %.20r with items of %.20r bytes" % (told, size))


# The mappings that a MappingProxyType may wrap.
MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
WRITERS = {
    collections.OrderedDict: _write_ordered,
    collections.Counter: _write_counter,
    collections.defaultdict: _write_default,
    collections.deque: _write_deque,
    collections.UserDict: _write_user_dict,
    collections.UserList: _write_user_list,
    collections.UserString: _write_user_string,
    collections.ChainMap: _write_chain,
    SimpleNamespace: _write_namespace,
    MappingProxyType: _write_proxy,
    array: _write_array,
    memoryview: _write_view,
    slice: _write_slice,
    type({}.keys()): _write_keys,
    type({}.values()): _write_values,
    type({}.items()): _write_items,
    type(collections.OrderedDict().keys()): _write_keys,
    type(collections.OrderedDict().values()): _write_values,
    type(collections.OrderedDict().items()): _write_items,
}
WRITERS.update(dict.fromkeys(_STRUCT_NAMES, _write_struct))
READERS = {
    "od": _read_ordered,
    "ct": _read_counter,
    "dd": _read_default,
    "dq": _read_deque,
    "ud": _read_user_dict,
    "ul": _read_user_list,
    "us": _read_user_string,
    "cm": _read_chain,
    "ns": _read_namespace,
    "mp": _read_proxy,
    "ar": _read_array,
    "mv": _read_view,
    "S": _read_slice,
    "dk": _read_keys,
    "dv": _read_values,
    "di": _read_items,
    "sq": _read_struct,
}
