"""Long lists as columns: numbers as one buffer, and rows of one shape by their fields. Both sides import it.

::

    {"q": n} {"e": n}          list of 64-bit int, or of float: buffer n
    {"K": [keys, list, …]}     list of dicts that have these keys, which are text, in this order: the values of each
    {"K": [0, list, …]}        list of tuples of one length;  with 1 for 0: of lists

No row occurs twice in such a list, so the reader makes each row anew.  Built-in functions check what must be true of
all rows, so no Python code runs for each of them.
"""

import itertools
import operator
import sys
from array import array

from .scalars import BadValue, is_clean

# A list of this many numbers or more travels as a buffer.
PACKED = 32
# A list of at least ROWS rows with at most FIELDS fields travels as columns.
ROWS, FIELDS = 64, 200
# Most fields of all rows of a value. Each row counts as ROW more, since a dict is much larger than its bytes here.
MAX_CELLS, ROW = 10000000, 4

_CODES = {int: ("q", "q"), float: ("e", "d")}


def numbers(items):
    """``(tag, bytes, little endian)`` of a list of numbers of one class; None for another list."""
    kind = type(items[0]) if len(items) >= PACKED else None
    if kind not in _CODES or set(map(type, items)) != {kind}:
        return None
    tag, code = _CODES[kind]
    try:
        packed = array(code, items)
    except OverflowError:
        return None  # it holds an int of more than 64 bits
    if sys.byteorder == "big":
        packed.byteswap()
    return tag, packed.tobytes()


def from_numbers(code, data):
    """The list of numbers in ``data``."""
    packed = array(code)
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tolist()


def cells(count, width):
    """How much ``count`` rows of ``width`` fields count towards MAX_CELLS."""
    return count * (width + ROW)


def fields(items, most):
    """``(shape, columns, ids of the rows)`` of a list whose rows all have one shape, with at most ``most`` cells; None
    for any other list."""
    if len(items) < ROWS:
        return None
    kind, width = type(items[0]), len(items[0]) if type(items[0]) in (dict, tuple, list) else 0
    if not 0 < width <= min(FIELDS, len(items)) or set(map(type, items)) != {kind}:
        return None
    ids = set(map(id, items))
    if len(ids) != len(items) or cells(len(items), width) > most:
        return None
    if kind is dict:
        shape = list(items[0])
        if set(map(type, itertools.chain.from_iterable(items))) != {str} or set(map(tuple, items)) != {tuple(shape)}:
            return None
        if not all(map(is_clean, shape)):
            return None
        return shape, [list(map(operator.itemgetter(key), items)) for key in shape], ids
    if set(map(len, items)) != {width}:
        return None
    return int(kind is list), [list(map(operator.itemgetter(at), items)) for at in range(width)], ids


def is_own(node):
    """Whether a column's node holds its values itself. A mere reference could make any number of rows at no cost."""
    return type(node) is list or (type(node) is dict and not node.keys() & {"r", "~"})


def rows(shape, columns):
    """The rows made from columns; raises BadValue if the columns do not fit together."""
    if not columns or not all(type(one) is list and len(one) == len(columns[0]) for one in columns):
        raise BadValue("columns that make no rows")
    if type(shape) is list:
        if len(shape) != len(columns) or set(map(type, shape)) != {str} or len(set(shape)) != len(shape):
            raise BadValue("keys that do not fit to their columns")
        return [dict(zip(shape, row)) for row in zip(*columns)]
    if type(shape) is not int or shape not in (0, 1):
        raise BadValue("rows of an unknown shape")
    return list(map(list, zip(*columns))) if shape else list(zip(*columns))
