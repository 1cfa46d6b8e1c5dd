"""Long lists and dicts of plain data, such as records, as one buffer of JSON. Both sides import it.

JSON represents None, bool, int, float, str, list, and dict with str keys exactly, unless a list or dict occurs twice.
We check that level by level with built-in functions, so on neither side Python code runs for each of a million values.
All other values take the way that knows all classes, see ``values``.
"""

import gc
import itertools
import json
import re
import sys

from . import message as wire
from .scalars import BadValue

# A list or dict with fewer entries is not worth the check.
MANY = 64
# Lists that hold this many numbers each travel better as buffers, unless there are more than FEW such lists.
PACKED, FEW = 32, 10000
# If the texts in a list are longer than this on average, each travels on its own; in characters.
LONG = 512
# A 64-bit integer has fewer digits. Longer integers take long to read, so they travel in another form.
DIGITS = 20

_PLAIN = frozenset((type(None), bool, int, float, str, list, dict))
_CONTAINERS = frozenset((list, dict))
_TEXT = frozenset((str,))
# Only in CPython does ``gc`` know what a list of numbers holds.
_IS_KNOWN = sys.implementation.name == "cpython"
_LONG_NUMBER = re.compile(rb"[\[,:\s]-?[0-9]{%d}" % DIGITS)
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


class Shared(Exception):
    """A list or dict in such a buffer also occurs elsewhere in the value."""


def write(value, depth, most=None):
    """``(a list or dict as JSON in UTF-8, how many values it counts as, the ids of the lists and dicts in it)``; None
    if JSON is not exact or not the best form for it. It may have up to ``depth`` levels and ``most`` bytes.
    """
    if not _IS_KNOWN or len(value) < MANY or _is_long(value):
        return None
    ids = _containers(value, depth, most)
    if ids is None:
        return None
    try:
        text = _encoder.encode(value).encode("utf-8")
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        return None  # lone surrogates, numbers of thousands of digits, or another thread has changed it
    count = _count(text)
    if count > wire.MAX_VALUES or _has_long_numbers(text):
        return None
    ids.discard(id(value))
    return text, count, ids


def _is_long(value):
    """Whether it is a list of long texts, which travel faster as they are."""
    return type(value) is list and set(map(type, value)) == _TEXT and sum(map(len, value)) > LONG * len(value)


def _has_long_numbers(text):
    """Whether JSON text may contain an integer of more than 64 bits."""
    return wire.has_digits(text, DIGITS) and _LONG_NUMBER.search(text) is not None


def _containers(value, depth, most):
    """The ids of all lists and dicts in ``value``; None if it holds anything but plain data, or one of them twice."""
    level, ids, found = [value], {id(value)}, 1
    for _ in range(depth):
        below = gc.get_referents(*level)
        kinds = set(map(type, below))
        if most is not None:  # notice here if it is too large, before megabytes are written
            most -= _least(below, most)
        if not kinds <= _PLAIN or len(below) > wire.MAX_VALUES or (most is not None and most < 0):
            return None
        dicts = [one for one in level if type(one) is dict]
        if not set(map(type, itertools.chain.from_iterable(dicts))) <= _TEXT:
            return None
        if not dicts and _are_packed(kinds, len(level), len(below)):
            return None
        if kinds.isdisjoint(_CONTAINERS):
            return ids
        level = _only_containers(below, kinds)
        found += len(level)
        ids.update(map(id, level))
        if len(ids) != found:
            return None
    return None


def _least(values, most):
    """A lower bound for the bytes of JSON that ``values`` take; beyond ``most`` it need not be close."""
    least = 2 * len(values)
    return least if least > most else least + sum(len(one) for one in values if type(one) is str)


def _are_packed(kinds, lists, count):
    """Whether ``lists`` lists with ``count`` values of these classes in all travel better as buffers of numbers."""
    return len(kinds) == 1 and (int in kinds or float in kinds) and lists <= FEW and count >= PACKED * lists


def _only_containers(values, kinds):
    """The lists and dicts among values of these classes."""
    if kinds <= _CONTAINERS:
        return values
    return [one for one in values if type(one) is dict or type(one) is list]


def read(data, depth, most):
    """``(the list or dict in ``data``, how many values it counts as)``; BadValue if it is neither, or has more than
    ``depth`` levels or ``most`` values. Raises ValueError, RecursionError if ``data`` is not JSON."""
    text = bytes(data)
    count = _count(text)
    if count > most:
        raise BadValue("a value of more than %d parts" % wire.MAX_VALUES)
    if _has_long_numbers(text):
        raise BadValue("a number of more than %d digits" % (DIGITS - 1))
    made = json.loads(text.decode("utf-8"))
    if type(made) not in _CONTAINERS:
        raise BadValue("JSON that is neither a list nor a dict")
    level = [made]
    for _ in range(depth):
        level = _held(level)
        kinds = set(map(type, level))
        if kinds.isdisjoint(_CONTAINERS):
            return made, count
        level = _only_containers(level, kinds)
    raise BadValue("a value that is nested too deep")


def _held(level):
    if _IS_KNOWN:
        return gc.get_referents(*level)
    return [one for each in level for one in (each.values() if type(each) is dict else each)]


def _count(text):
    """An upper bound for the number of values in JSON text; commas inside strings count, too."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")
