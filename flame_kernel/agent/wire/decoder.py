"""Decoder: makes a value from its parts; ``values`` tells their form. It checks and counts all that it makes."""

from . import collisions, columns, containers, nesting, pickled, plain_json, raised, records
from . import message as wire
from .nesting import MAX_DEPTH, MAX_UNFOLDED
from .scalars import LEAVES, LONG, BadValue


class Decoder:
    """Turns parts back into a value; see ``values.decode``. Use it once."""

    def __init__(self, parts, resolve, loads, classes):
        self._parts = parts
        self._unused = set(range(1, len(parts)))
        self._resolve = resolve
        self.pickled = pickled.Unpickled(self, loads)
        self.classes = classes
        self._finished = []  # (value, its unfolded size)
        self.unfolded = 0
        self._json, self._cells = wire.MAX_VALUES, columns.MAX_CELLS
        self._entries = None
        self.failed = None  # an error raised by the caller's own function

    def root(self, tree):
        """The value of the whole JSON text."""
        if type(tree) is dict and "G" in tree and len(tree) == 1:
            self._entries = nesting.Entries(self, tree["G"])
            return self._entries.value()
        return self.value(tree, 0)

    def bare(self, node, depth=0):
        """The value of a node that other nodes do not refer to by number."""
        if type(node) is list:
            return self.values(node, depth)
        if type(node) is not dict:
            return node
        ((tag, content),) = node.items()
        if depth > 2 * MAX_DEPTH:
            raise BadValue("a value that is nested too deep")
        return self.value(node, depth) if tag == "r" or tag in _ATOMS else self._tagged(tag, content, depth)

    def value(self, node, depth):
        """The value of a ``node`` in the JSON text."""
        kind = type(node)
        if kind is not list and kind is not dict:
            return node
        if depth > 2 * MAX_DEPTH:
            raise BadValue("a value that is nested too deep")
        before = self.unfolded
        if kind is list:
            made = self.values(node, depth)
        else:
            ((tag, content),) = node.items()
            if tag == "r":
                made, size = self._finished[content if content >= 0 else len(self._finished)]
                self._count(size)
                return made
            if tag == "~" and self._entries is not None:
                made, size = self._entries.named(content, depth)
                self._count(size)
                return made
            if tag in _ATOMS:
                return _ATOMS[tag](self, content)
            made = self._tagged(tag, content, depth)
        self.unfolded += 1
        if self.unfolded > MAX_UNFOLDED:
            self._count(0)
        self._finished.append((made, self.unfolded - before))
        return made

    def _tagged(self, tag, content, depth):
        reader = _READERS.get(tag)
        if reader is not None:
            return reader(self, content, depth)
        maker = _MAKERS.get(tag)
        if maker is not None:
            return maker(content)
        maker = _LONG_MAKERS.get(tag)
        if maker is not None:
            return maker(content, self._count)
        from .tables import arrays

        return arrays.decode(self, tag, content, depth)

    def _texts(self, content, depth):
        return dict(zip(content, self.values(content.values(), depth)))

    def _pairs(self, content, depth):
        both = self.values(content, depth)
        return dict(zip(self.keys(both[::2]), both[1::2]))

    def _packed(self, code, number):
        self._count(len(self._parts[number]) // 8)
        return columns.from_numbers(code, self.part(number))

    def _rows(self, content, depth):
        if not all(map(columns.is_own, content[1:])):
            raise BadValue("a column that is another one")
        fields = self.values(content[1:], depth)
        self._count(len(fields[0]))
        self._cells -= columns.cells(len(fields[0]), len(fields))
        if self._cells < 0:
            raise BadValue("a value of more than %d fields of rows" % columns.MAX_CELLS)
        return columns.rows(content[0], fields)

    def _in_json(self, content, depth):
        made, count = plain_json.read(self.part(content), 2 * MAX_DEPTH - depth, self._json)
        self._json -= count
        self._count(count)
        return made

    def _reference(self, content, depth):
        if self._resolve is None:
            raise BadValue("a reference to an object, where none is allowed")
        return self.passed(self._resolve, content)

    def passed(self, function, content):
        """The result of one of the caller's functions; its errors reach the caller unchanged."""
        try:
            return function(content)
        except Exception as e:  # raised again as it is; ``failed`` marks it so that it is not turned into BadValue
            self.failed = e
            raise

    def values(self, nodes, depth):
        """The values of several nodes, as a list."""
        value, depth = self.value, depth + 1
        made = [value(node, depth) for node in nodes]
        self.unfolded += len(made)
        if self.unfolded > MAX_UNFOLDED:
            self._count(0)
        return made

    def part(self, number):
        """One of the buffers; each is used once, or a megabyte could be referenced a million times."""
        self._unused.remove(number)
        return self._parts[number]

    def text(self, number):
        return str(self.part(number), "utf-8", "surrogatepass")

    def keys(self, keys):
        """``keys``, after checking that a dict or set of them can be made in reasonable time."""
        return collisions.checked(keys, self._count)

    def count_bytes(self, size):
        """Count a value whose hash takes time in proportion to its size, each time it is computed."""
        self._count(size >> 6)

    def _count(self, values):
        self.unfolded += values
        if self.unfolded > MAX_UNFOLDED:
            raise BadValue("a value of more than %d parts, shared ones counted each time" % MAX_UNFOLDED)


_READERS = {
    "t": lambda decoder, content, depth: tuple(decoder.values(content, depth)),
    "s": lambda decoder, content, depth: set(decoder.keys(decoder.values(content, depth))),
    "f": lambda decoder, content, depth: frozenset(decoder.keys(decoder.values(content, depth))),
    "m": Decoder._texts,
    "d": Decoder._pairs,
    "q": lambda decoder, content, depth: decoder._packed("q", content),
    "e": lambda decoder, content, depth: decoder._packed("d", content),
    "J": Decoder._in_json,
    "K": Decoder._rows,
    "b": lambda decoder, content, depth: bytes(decoder.part(content)),
    "B": lambda decoder, content, depth: bytearray(decoder.part(content)),
    "@": Decoder._reference,
    "!": lambda decoder, content, depth: decoder.pickled.value(content),
}
_READERS.update(containers.READERS)
_READERS.update(records.READERS)
_READERS.update(raised.READERS)
_MAKERS = {tag: make for tag, _, make in LEAVES.values() if make and tag not in LONG}
_LONG_MAKERS = {tag: make for tag, _, make in LEAVES.values() if tag in LONG}
# Values that are not numbered for later references: strings and numbers.
_ATOMS = {
    "X": Decoder.text,
    "y": lambda decoder, content: content.encode("latin-1"),
    "i": lambda decoder, content: int(content, 16),
}
