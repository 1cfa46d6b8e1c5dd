"""Long lists and dicts of plain data, such as records, as one buffer of JSON. Both sides import it.

JSON says all that there is to say of None, bool, int, float, str, list, and of dict with text as keys, where none of
the lists and dicts is there twice. That is found out level by level, with functions of the interpreter's own: no
Python code runs for each of a million values, on neither side. Everything else goes the way that knows all classes.
"""

import gc
import itertools
import json
import re
import sys

from . import message as wire
from .scalars import BadValue

# Entries of a list or dict from which on a look is worth it.
MANY = 64
# Numbers of one kind in lists of so many each are better as buffers, as long as there are not too many of these.
PACKED, FEW = 32, 10000
# Texts of more characters than this, on the average, go one by one.
LONG = 512
# No whole number of 64 bits has so many digits. Longer ones take time to read, and go in another way.
DIGITS = 20

_PLAIN = frozenset((type(None), bool, int, float, str, list, dict))
_CONTAINERS = frozenset((list, dict))
_TEXT = frozenset((str,))
# Elsewhere ``gc`` does not know what lists of numbers hold.
_IS_KNOWN = sys.implementation.name == "cpython"
_LONG_NUMBER = re.compile(rb"[\[,:\s]-?[0-9]{%d}" % DIGITS)
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


class Shared(Exception):
    """A list or dict that is in such a buffer is somewhere else, too."""


def write(value, depth, most=None):
    """``(the JSON of a list or dict in UTF-8, how many values it counts, the ids of the lists and dicts in it)``; or
    None where JSON does not say everything, or is not the best way. It may have ``depth`` levels, and ``most`` bytes.
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
    """Whether these are long texts, which are quicker as they are."""
    return type(value) is list and set(map(type, value)) == _TEXT and sum(map(len, value)) > LONG * len(value)


def _has_long_numbers(text):
    """Whether a whole number of more than 64 bits may be in it."""
    return wire.has_digits(text, DIGITS) and _LONG_NUMBER.search(text) is not None


def _containers(value, depth, most):
    """The ids of all lists and dicts in ``value``; None unless it holds nothing but plain data, each of them once."""
    level, ids, found = [value], {id(value)}, 1
    for _ in range(depth):
        below = gc.get_referents(*level)
        kinds = set(map(type, below))
        if most is not None:  # where that is too little, it is seen here, before megabytes are written
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
    """At least how many bytes of JSON these are; once that is more than ``most``, it does not matter how many."""
    least = 2 * len(values)
    return least if least > most else least + sum(len(one) for one in values if type(one) is str)


def _are_packed(kinds, lists, count):
    """Whether so many lists of so many values in all, of these classes, are better as buffers of numbers."""
    return len(kinds) == 1 and (int in kinds or float in kinds) and lists <= FEW and count >= PACKED * lists


def _only_containers(values, kinds):
    """The lists and dicts among values of these classes."""
    if kinds <= _CONTAINERS:
        return values
    return [one for one in values if type(one) is dict or type(one) is list]


def read(data, depth, most):
    """``(the list or dict in ``data``, how many values it counts)``; BadValue where it is none, or has more than
    ``depth`` levels or ``most`` values. Raises ValueError, RecursionError for what is no JSON."""
    text = bytes(data)
    count = _count(text)
    if count > most:
        raise BadValue("a value of more than %d parts" % wire.MAX_VALUES)
    if _has_long_numbers(text):
        raise BadValue("a number of more than %d digits" % (DIGITS - 1))
    made = json.loads(text.decode("utf-8"))
    if type(made) not in _CONTAINERS:
        raise BadValue("a list or dict that is none")
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
    """At least as many as there are values in it; commas in texts count, too."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")
