"""Checks Arrow streams before pyarrow reads them: a stream may not claim more than it holds. Both sides import it.

pyarrow checks that the buffers lie where a stream says, but not how much they turn into.  A few hundred bytes can
claim a billion rows of nulls, a compressed column, or one name or text repeated a million times.  pyarrow also looks up
the classes of extension types by the names that were sent.  So we parse the stream's own tables (flatbuffers) here, in
pure Python, with bounds checked on each access: only types from our list are allowed, nothing may be shared or
compressed, and cells without bytes of their own are counted.  pyarrow's own checks come after these.
"""

import itertools
import struct
import sys
from operator import add, le

from ..scalars import BadValue
from . import pandas_metadata

# How deep types may be nested.
MAX_DEPTH = 60
# Cells without bytes of their own: at most this many, or (if that is more) some for each byte of the stream.
FREE_CELLS = 1 << 24
CELLS_PER_BYTE = 64
# A cell that holds other cells becomes an object of some hundred bytes, so it counts as this many cells.
NESTED = 16
# A column with more cells than this per byte counts as having no bytes of its own.
OWN_BYTES = 512
# Each batch reads its dictionaries anew: at most this many bytes in all, or some for each byte of the stream.
FREE_DICTIONARIES = 1 << 30
# The smallest size of a schema field, in bytes.
_FIELD = 32

_VERSIONS = (3, 4)  # V4 and V5; they differ only in unions
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_MARK = 0xFFFFFFFF

_NULL, _INT, _TIMESTAMP, _STRUCT, _UNION, _FIXED_BINARY, _FIXED_LIST = 1, 2, 10, 13, 14, 15, 16
# Arrow's types by number: how many buffers each has in a batch, and whether its cells hold other cells.
# Left out: types that expand when read (22, run-end encoded) and types that may use bytes several times (23-26, views).
_TYPES = {
    _NULL: (0, False),
    _INT: (2, False),
    3: (2, False),  # floating point
    4: (3, False),  # binary
    5: (3, False),  # text
    6: (2, False),  # bool
    7: (2, False),  # decimal
    8: (2, False),  # date
    9: (2, False),  # time
    _TIMESTAMP: (2, False),
    11: (2, False),  # interval
    12: (2, True),  # list
    _STRUCT: (1, True),
    _UNION: (1, True),
    _FIXED_BINARY: (2, False),
    _FIXED_LIST: (1, True),
    17: (2, True),  # map
    18: (2, False),  # duration
    19: (3, False),  # large binary
    20: (3, False),  # large text
    21: (2, True),  # large list
}
# The types that an interval's ends may have: all of these have one node and two buffers.
_BOUNDS = {_INT, 3, _TIMESTAMP, 18}
_DETAILED = (_TIMESTAMP, _UNION, _FIXED_BINARY)
_UNFOLDING = {22: "run-end encoded", 23: "a view", 24: "a view", 25: "a view", 26: "a view"}
_EXTENSION, _EXTENSION_METADATA = b"ARROW:extension:name", b"ARROW:extension:metadata"

_SHORT, _INT32, _UINT32, _INT64 = struct.Struct("<h"), struct.Struct("<i"), struct.Struct("<I"), struct.Struct("<q")


def check(data, ours=False):
    """Raise BadValue unless ``data`` (bytes-like) is a stream that claims no more than it holds.

    ``ours`` says that our own pyarrow wrote the stream: then only what may exceed the limits is checked.
    Returns the Schema.
    """
    view = memoryview(data)
    stream = _Stream(len(view))
    try:
        for metadata, body in _messages(view):
            stream.message(metadata, body)
            if ours and not stream.has_special:
                break
    except (struct.error, UnicodeDecodeError, IndexError, RecursionError):
        raise BadValue("an Arrow stream that points beyond its end")
    if stream.schema is None:
        raise BadValue("an Arrow stream without a schema")
    stream.finish()
    return stream.schema


def _messages(view):
    """``(metadata, length of the body)`` of each message."""
    at, size = 0, len(view)
    while at < size:
        mark, length = struct.unpack_from("<Ii", view, at)
        if mark != _MARK or length < 0:
            raise BadValue("an Arrow stream of an old format")
        if not length:
            return
        at += 8
        if length > size - at:
            raise BadValue("an Arrow stream that is cut short")
        metadata = _Flat(bytes(view[at : at + length]))
        message = metadata.root()
        at += length
        body = message.number(3, _INT64)
        if not 0 <= body <= size - at:
            raise BadValue("an Arrow stream that is cut short")
        yield message, body
        at += body


class _Flat:
    """A flatbuffer."""

    def __init__(self, data):
        self.data = data
        self._vtables = {}

    def root(self):
        return self.table(_UINT32.unpack_from(self.data, 0)[0])

    def table(self, at):
        """The table at offset ``at``."""
        start = at - _INT32.unpack_from(self.data, at)[0]
        slots = self._vtables.get(start)
        if slots is None:
            if start < 0:
                raise IndexError(start)
            (size,) = struct.unpack_from("<H", self.data, start)
            if size < 4 or size % 2:
                raise IndexError(size)
            slots = self._vtables[start] = struct.unpack_from("<%dH" % (size // 2 - 2), self.data, start + 4)
        return _Table(self, at, slots)


class _Table:
    """A table of a flatbuffer: its fields have numbers, and any of them may be missing."""

    __slots__ = ("_at", "_flat", "_slots")

    def __init__(self, flat, at, slots):
        self._flat, self._at, self._slots = flat, at, slots

    def _place(self, slot):
        """The offset of a field, or 0 if it is missing."""
        offset = self._slots[slot] if slot < len(self._slots) else 0
        return self._at + offset if offset else 0

    def _target(self, slot):
        """The offset that a field points to, or 0 if it is missing."""
        at = self._place(slot)
        return at + _UINT32.unpack_from(self._flat.data, at)[0] if at else 0

    def number(self, slot, kind, default=0):
        at = self._place(slot)
        return kind.unpack_from(self._flat.data, at)[0] if at else default

    def byte(self, slot):
        at = self._place(slot)
        return self._flat.data[at] if at else 0

    def table(self, slot):
        at = self._target(slot)
        return self._flat.table(at) if at else None

    def text(self, slot):
        """The bytes of a text field; empty if it is missing."""
        at = self._target(slot)
        if not at:
            return b""
        (size,) = _UINT32.unpack_from(self._flat.data, at)
        found = self._flat.data[at + 4 : at + 4 + size]
        if len(found) != size:
            raise IndexError(at)
        return found

    def tables(self, slot):
        """Yield the tables of a vector. The caller must count them, because a vector may contain itself."""
        at = self._target(slot) if self.has(slot) else 0
        if at:
            (count,) = _UINT32.unpack_from(self._flat.data, at)
            for place in range(at + 4, at + 4 + 4 * self._bounded(count, 4), 4):
                yield self._flat.table(place + _UINT32.unpack_from(self._flat.data, place)[0])

    def pairs(self, slot):
        """The numbers of a vector of pairs, as one flat sequence."""
        at = self._target(slot)
        if not at:
            return ()
        (count,) = _UINT32.unpack_from(self._flat.data, at)
        return struct.unpack_from("<%dq" % (2 * self._bounded(count, 16)), self._flat.data, at + 4)

    def has(self, slot):
        """Whether the field is there."""
        return slot < len(self._slots) and self._slots[slot] != 0

    def has_more(self, slot):
        """Whether the field is a vector that is not empty."""
        at = self._target(slot)
        return bool(at) and _UINT32.unpack_from(self._flat.data, at)[0] != 0

    def size(self):
        """Bytes of the whole flatbuffer."""
        return len(self._flat.data)

    def _bounded(self, count, size):
        if count > len(self._flat.data) // size:
            raise IndexError(count)
        return count


class Schema:
    """What a schema says.

    dictionaries  whether any column, or any part of one, is dictionary-encoded
    """

    def __init__(self, table, version, size):
        if table.number(0, _SHORT) != (sys.byteorder == "big"):
            raise BadValue("an Arrow stream of another byte order")
        self._version = version
        self._room = size
        self.layouts = {}  # id of a dictionary -> the layout of its values
        text = self._pairs(table.tables(2)).get(b"pandas")
        self.columns, self._names = [], []
        self._columns(table.tables(1))
        self.dictionaries = bool(self.layouts)
        if text is not None:
            pandas_metadata.check(text, self._names)

    def _columns(self, fields):
        for field in fields:
            name = field.text(0).decode("utf-8")
            self._names.append(name)
            layout = []
            self._take(len(name))
            self._field(field, layout, 0)
            self.columns.append(layout)

    def _field(self, field, layout, depth):
        """Add to ``layout`` what a field has in a batch: (buffers, cells that each counts as, whether it has bytes).

        Branches because each thing that may be wrong with a field is told by a sentence of its own.
        """
        self._take(_FIELD)
        if depth > MAX_DEPTH:
            raise BadValue("an Arrow type that is nested too deep")
        number = field.byte(2)
        if number not in _TYPES:
            raise BadValue("an Arrow column that is %s" % _UNFOLDING.get(number, "of an unknown type"))
        if field.has(6):
            metadata = self._pairs(field.tables(6))
            if _EXTENSION in metadata:
                pandas_metadata.check_extension(metadata[_EXTENSION], metadata.get(_EXTENSION_METADATA, b""))
                self._check_storage(metadata[_EXTENSION], field)
        buffers, nested = _TYPES[number]
        has_bytes = number != _NULL and not nested
        if number in _DETAILED:
            kind = field.table(3)
            if kind is None:
                raise BadValue("an Arrow column of a type that is not told")
            if number == _UNION:
                buffers += kind.number(0, _SHORT) + (self._version == _VERSIONS[0])
            elif number == _TIMESTAMP:
                pandas_metadata.check_zone(kind.text(1).decode("utf-8") or None)
            else:
                has_bytes = kind.number(0, _INT32) > 0
        here = layout
        if field.has(4):
            encoding = field.table(4)
            layout.append((2, 1, True))
            known = encoding.number(0, _INT64)
            if known in self.layouts:
                raise BadValue("two Arrow columns of one dictionary")
            here = self.layouts[known] = []
        here.append((buffers, NESTED if nested else 1, has_bytes))
        for child in field.tables(5):
            self._take(len(child.text(0)))
            self._field(child, here, depth + 1)

    def _check_storage(self, name, field):
        """Check the storage type: pandas' own types accept any storage and would read other buffers as their own."""
        number, kind = field.byte(2), field.table(3)
        inner = [child.byte(2) for child in itertools.islice(field.tables(5), 3)]
        if name == b"pandas.period" and not (number == _INT and kind is not None and kind.number(0, _INT32) == 64):
            raise BadValue("an Arrow column of periods that are no whole numbers")
        if name == b"pandas.interval" and not (number == _STRUCT and len(inner) == 2 and set(inner) <= _BOUNDS):
            raise BadValue("an Arrow column of intervals that have no two ends")

    def _pairs(self, tables):
        found = {}
        for pair in tables:
            key, value = pair.text(0), pair.text(1)
            self._take(len(key) + len(value) + 8)
            if key in found:
                raise BadValue("an Arrow schema that has a key twice")
            found[key] = value
        return found

    def _take(self, size):
        """Count bytes taken from the schema, repeats too; raises BadValue if they exceed the schema's size."""
        self._room -= size
        if self._room < 0:
            raise BadValue("an Arrow schema that unfolds")


class _Plan:
    """What a batch of these columns holds: how many nodes and buffers, and which columns may have no bytes."""

    def __init__(self, columns):
        self.nodes = self.buffers = 0
        self.special = []  # (first node, weights, first buffer, end of the buffers)
        for layout in columns:
            count = sum(one[0] for one in layout)
            if not (len(layout) == 1 and layout[0][2]):
                weights = [one[1] for one in layout]
                self.special.append((self.nodes, weights, self.buffers, self.buffers + count))
            self.nodes += len(layout)
            self.buffers += count


class _Stream:
    """What has been read so far of a stream of ``size`` bytes."""

    def __init__(self, size):
        self.schema = None
        self._size = size
        self._cells = 0
        self._dictionaries = {}  # id -> bytes of its newest version
        self._again = 0
        self._plans = {}

    @property
    def has_special(self):
        """Whether there are columns that may have no bytes, or dictionaries."""
        return bool(self._plans[None].special or self.schema.dictionaries)

    def message(self, message, body):
        version, kind, header = message.number(0, _SHORT), message.byte(1), message.table(2)
        if version not in _VERSIONS or header is None or message.has_more(4):
            raise BadValue("an Arrow message of a version that is not known, or with more in it")
        if kind == _SCHEMA and self.schema is None and not body:
            self.schema = Schema(header, version, message.size())
            self._plans[None] = _Plan(self.schema.columns)
        elif kind == _BATCH and self.schema is not None:
            self._batch(None, header, body)
            self._again += sum(self._dictionaries.values())
        elif kind == _DICTIONARY and self.schema is not None:
            known, batch = header.number(0, _INT64), header.table(1)
            if known not in self.schema.layouts or batch is None or header.byte(2):
                raise BadValue("an Arrow dictionary of no column, or one that is told bit by bit")
            if known not in self._plans:
                self._plans[known] = _Plan([self.schema.layouts[known]])
            self._batch(known, batch, body)
            self._dictionaries[known] = body
        else:
            raise BadValue("an Arrow message that does not belong there")

    def finish(self):
        if self._cells > max(FREE_CELLS, CELLS_PER_BYTE * self._size):
            raise BadValue("a table of %d cells in %d bytes" % (self._cells, self._size))
        if self._again > max(FREE_DICTIONARIES, CELLS_PER_BYTE * self._size):
            raise BadValue("a table of too many batches with long dictionaries")

    def _batch(self, known, batch, body):
        """Check a batch against the plan of its columns.

        Branches because each thing that may be wrong with a batch is told by a sentence of its own.
        """
        plan = self._plans[known]
        nodes, buffers = batch.pairs(1), batch.pairs(2)
        if batch.has(3) or batch.has_more(4):
            raise BadValue("an Arrow column that is compressed, or a view")
        if len(nodes) != 2 * plan.nodes or len(buffers) != 2 * plan.buffers or batch.number(0, _INT64) < 0:
            raise BadValue("an Arrow batch of other columns than its schema")
        lengths, offsets, sizes = nodes[::2], buffers[::2], buffers[1::2]
        ends = list(map(add, offsets, sizes))
        if nodes and (min(nodes) < 0 or not all(map(le, nodes[1::2], lengths))):
            raise BadValue("an Arrow batch of columns that have no length")
        if buffers and (min(buffers) < 0 or max(ends) > body or not all(map(le, ends, offsets[1:]))):
            raise BadValue("an Arrow batch whose buffers overlap, or are beyond its end")
        for first, weights, start, end in plan.special:
            cells = sum(length * weight for length, weight in zip(lengths[first : first + len(weights)], weights))
            if cells > OWN_BYTES * sum(sizes[start:end]):
                self._cells += cells
