"""Values between the two sides: plain data as JSON text and binary buffers, exact both ways. Both sides import it.

``encode`` makes *parts*: a JSON text, followed by the buffers that it refers to. JSON's own ``null``, booleans,
numbers, strings and arrays stand for None, bool, int, float, str and list; anything else is an object with one entry,
its tag::

    {"m": {…}}         dict whose keys are all str          {"d": [key, value, …]}  any other dict
    {"t": […]} {"s": […]} {"f": […]}  tuple, set, frozenset  {"q": n} {"e": n} {"K": […]}  see ``columns``
    {"X": n} {"J": n}  long str, or one with lone surrogates: in buffer n, UTF-8; see ``plain_json``
    {"y": "latin-1"} {"b": n} {"B": n}  short bytes, bytes, bytearray       {"i": "hex"}  an int of more than 64 bits
    {"r": n}           the n-th value that was completed in this text, again
    {"@": …}           an object that stays where it is, by its reference   {"!": …}  see ``pickled``

and those of ``LEAVES``, ``containers``, ``arrays`` and ``records``.  A value is plain only if its class is exactly one
of these, or a record whose class the other side can be told.

Reading builds these classes and nothing else: no name that was sent is imported or looked up.  Whatever costs time or
memory is counted: the values in the text, their depth, the size of the tree with shared values counted each time, and
colliding keys (the hashes of numbers are public, so an attacker can choose them to collide).
"""

import json

from . import collisions, columns, containers, nesting, pickled, plain_json, records
from . import message as wire
from .scalars import LEAVES, LONG, ZONES, BadValue, NotPlain, TooLarge, class_name, is_clean, zone

# How deep lists may be nested; deeper ones are cut, see ``nesting``.
MAX_DEPTH = 100
# Most values in all, shared ones counted each time: printing or comparing visits each.
MAX_UNFOLDED = 20000000
# Text and bytes shorter than this stay in the JSON text.
INLINE = 1024
# Most parts of one value; a message cannot have more buffers.
MAX_PARTS = wire.MAX_BUFFERS // 2
# Most digits of an integer in the text: longer ones travel in hexadecimal, which parses fast.
MAX_DIGITS = 19

_INT64 = 1 << 63
_encoder = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False)


def encode(value, reference=None, dumps=None, libraries=None, limit=None, array_limit=None, classes=None):
    """The parts of ``value``: a list of its JSON text and its buffers, bytes-like.

    reference    called with each value that is not plain; if it returns anything but None, that is sent in its place
    dumps        where trust is given: pickles all values that are not plain
    libraries    names of the libraries that the other side has; None stands for all
    limit, array_limit  most bytes of all parts, and of one array or table; TooLarge beyond
    classes      called with the class of a record: returns its description, see ``records``, or None if it is not sent

    Raises NotPlain, TooLarge.
    """

    kind = Encoder if dumps is None else Trusting

    def made(inside=None):
        return kind(reference, dumps, libraries, limit, array_limit, classes, inside)

    encoder = made(set())
    try:
        try:
            tree = encoder.node(value, 0)
        except plain_json.Shared:
            encoder = made()
            tree = encoder.node(value, 0)
        text = _encoder.encode(tree).encode("ascii")
    except (nesting.Tangled, RecursionError):
        encoder = made()
        try:
            tree = nesting.encode(encoder, value)
            text = _encoder.encode(tree).encode("ascii")
        except (NotPlain, RecursionError) as e:
            if dumps is None:
                raise e if isinstance(e, NotPlain) else NotPlain("it is nested too deep")
            text = None
    if dumps is not None:
        if text is None or wire.has_too_many_values(text):
            encoder = made()  # a pickle can hold more values, deeper nesting, and more kinds of cycles
            text = _encoder.encode(encoder.pickled.node(value)).encode("ascii")
        encoder.pickled.finish()
    elif wire.has_too_many_values(text):
        raise NotPlain("it holds more than %d values; an array or bytes can be of any size" % wire.MAX_VALUES)
    if limit is not None and len(text) > limit:
        raise TooLarge("more than %d bytes" % limit)
    encoder.parts[0] = text
    return encoder.parts


class Encoder:
    """Turns one value into parts; see ``encode``. Use it once."""

    def __init__(self, reference, dumps, libraries, limit, array_limit, classes, inside):
        self.parts = [b""]
        self.libraries = libraries
        self.classes = classes
        self.references = reference is not None
        self._array_limit = array_limit
        self._room = limit
        self._reference = reference
        self.pickled = None if dumps is None else pickled.Pickled(self, dumps)
        self._under_way = set()  # ids of the containers around the current value
        self._finished = {}  # id -> (number, unfolded size, the object, kept so that its id is not used again)
        self.inside = inside  # ids of the lists and dicts in one node with others; None: there shall be none
        self._json, self._cells = wire.MAX_VALUES, columns.MAX_CELLS  # how many more there may be of these
        self._entries = 0  # how many of these are entries of ``nesting``, whose references are not numbers
        self._unfolded = 0

    def node(self, value, depth):
        """The JSON node for ``value``."""
        kind = type(value)
        if kind is str:
            if len(value) < INLINE and is_clean(value):
                return value
            return {"X": self.buffer(value.encode("utf-8", "surrogatepass"))}
        if kind is int:
            return value if -_INT64 <= value < _INT64 else {"i": "%x" % value}
        if value is None or kind is float or kind is bool:
            return value
        if kind is bytes and len(value) < INLINE:
            return {"y": value.decode("latin-1")}
        finished = self._finished.get(id(value))
        if finished is not None:
            self.count(finished[1])
            return {"r": finished[0]} if type(finished[0]) is int else finished[0]
        self._check(value, kind, depth)
        before = self._unfolded
        self._under_way.add(id(value))
        try:
            node = self.compound(value, kind, depth)
        finally:
            self._under_way.discard(id(value))
        self.count(1)
        self._finished[id(value)] = (len(self._finished) - self._entries, self._unfolded - before, value)
        return node

    def _check(self, value, kind, depth):
        """Raise where this value cannot have a node of its own here."""
        if self.inside and id(value) in self.inside:
            raise plain_json.Shared
        if id(value) in self._under_way:
            raise nesting.Tangled("a %s contains itself" % class_name(kind))
        if depth > MAX_DEPTH:
            raise nesting.Tangled("it is nested deeper than %d levels" % MAX_DEPTH)

    def entry(self, value, reference):
        """The node of one of ``nesting``'s entries; from now on, other nodes refer to it by ``reference``."""
        known = self._finished.get(id(value))
        if known is not None and type(known[0]) is int:  # it was written as part of another entry
            return {"r": known[0]}
        before = self._unfolded
        node = self.compound(value, type(value), 0)
        self.count(1)
        self.finish(value, reference, self._unfolded - before)
        return node

    def finish(self, value, reference, size):
        """Let ``reference`` stand for the entry ``value`` from now on."""
        self._entries += id(value) not in self._finished
        self._finished[id(value)] = (reference, size, value)

    def compound(self, value, kind, depth):
        """The node of any value other than a text or a number."""
        if kind is list:
            return self._list(value, depth)
        if kind is dict:
            return self._as_json(value, depth) or self._dict(value, depth)
        tag = _SEQUENCES.get(kind)
        if tag is not None:
            return {tag: self.nodes(value, depth)}
        if kind is bytes:
            return {"b": self.buffer(value)}
        if kind is bytearray:
            return {"B": self.buffer(bytes(value))}
        if kind is slice:
            return {"S": self.nodes((value.start, value.stop, value.step), depth)}
        leaf = LEAVES.get(kind)
        if leaf is not None:
            return {leaf[0]: leaf[1](value)}
        writer = containers.WRITERS.get(kind)
        if writer is not None:
            return writer(self, value, depth)
        if kind in ZONES:
            return {"z": zone(value)}
        from .tables import arrays

        node = arrays.encode(self, value, kind, depth)
        if node is None:
            node = records.encode(self, value, kind, depth)
        if node is not None:
            return node
        if self._reference is not None:
            reference = self._reference(value)
            if reference is not None:
                return {"@": reference}
        raise NotPlain("a %s is not plain data" % class_name(kind))

    def nodes(self, values, depth):
        """The nodes of several values, as a list."""
        node, depth = self.node, depth + 1
        made = [node(value, depth) for value in list(values)]
        self.count(len(made))
        return made

    def _list(self, value, depth):
        items = list(value)
        packed = columns.numbers(items)
        if packed:
            self.count(len(items))
            return {packed[0]: self.buffer(packed[1])}
        found = None if self.inside is None else columns.fields(items, self._cells)
        if found is None:
            return self._as_json(value, depth) or self.nodes(items, depth)
        shape, fields, ids = found
        self._hold(ids)
        self._cells -= columns.cells(len(items), len(fields))
        self.count(len(items))
        return {"K": [shape] + self.nodes(fields, depth)}

    def _hold(self, ids):
        """Lists and dicts with these ids are part of a node: nothing can refer to one of them by itself."""
        if not all(map(ids.isdisjoint, (self._finished, self._under_way, self.inside))):
            raise plain_json.Shared
        self.inside |= ids

    def _as_json(self, value, depth):
        """The node of a list or dict that goes as JSON; None for another one."""
        found = None if self.inside is None else plain_json.write(value, MAX_DEPTH - depth, self._room)
        if found is None or found[1] > self._json:
            return None
        self._hold(found[2])
        self._json -= found[1]
        self.count(found[1])
        return {"J": self.buffer(found[0])}

    def _dict(self, value, depth):
        keys, values = list(value), list(value.values())
        if all(type(key) is str and is_clean(key) for key in keys):
            self.take(sum(map(len, keys)))
            return {"m": dict(zip(keys, self.nodes(values, depth)))}
        return {"d": self.nodes([thing for pair in zip(keys, values) for thing in pair], depth)}

    def has(self, library):
        """Whether the other side has a library; assumed, unless it is known to be missing."""
        return self.libraries is None or library in self.libraries

    @property
    def limited(self):
        """Whether there is a limit for an array or a table."""
        return self._array_limit is not None

    def whole(self, size):
        """Announce an array or a table of ``size`` bytes; TooLarge if that is beyond the limit."""
        if self._array_limit is not None and size > self._array_limit:
            raise TooLarge("an array of %d bytes" % size)

    def buffer(self, data):
        """Add a part and return its number; ``data`` is bytes-like and flat."""
        self.take(len(data))
        if len(self.parts) >= MAX_PARTS:
            raise NotPlain("it holds more than %d long texts and arrays" % MAX_PARTS)
        self.parts.append(data)
        return len(self.parts) - 1

    def fill(self, number, data):
        """Set the content of a part that was added before its content was known."""
        self.take(len(data))
        self.parts[number] = data

    def count(self, values):
        """Count ``values`` more values; raises TooLarge or NotPlain if they are too many."""
        self._unfolded += values
        self.take(4 * values)
        if self._unfolded > MAX_UNFOLDED:
            raise NotPlain("it holds more than %d values, shared ones counted each time" % MAX_UNFOLDED)

    def take(self, size):
        if self._room is not None:
            self._room -= size
            if self._room < 0:
                raise TooLarge("more than the limit")


class Trusting(Encoder):
    """An Encoder that may pickle: if a value turns out not to be plain, what was written of it is taken back."""

    def compound(self, value, kind, depth):
        parts, finished, unfolded, mark = len(self.parts), len(self._finished), self._unfolded, self.pickled.mark()
        try:
            return Encoder.compound(self, value, kind, depth)
        except nesting.Tangled:
            raise
        except NotPlain:
            del self.parts[parts:]
            while len(self._finished) > finished:
                self._finished.popitem()
            self._unfolded = unfolded
            self.pickled.back_to(mark)
            return self.pickled.node(value)


def decode(parts, resolve=None, loads=None, classes=None):
    """The value in ``parts``, a list of bytes-like objects.

    resolve   called with the content of each ``@`` node
    loads     called with a pickle's bytes; if it is None, a pickle is refused
    classes   called with the description of a record's class; returns the class, or None if it is not known

    Raises BadValue, and what ``resolve`` and ``loads`` raise.
    """
    if not parts:
        raise BadValue("a value without text")
    text = bytes(parts[0])
    if wire.has_too_many_values(text):
        raise BadValue("a value of more than %d parts" % wire.MAX_VALUES)
    try:
        tree = wire.read_json(text, MAX_DIGITS)
        return Decoder(parts, resolve, loads, classes).root(tree)
    except RecursionError:
        raise BadValue("a value that is nested too deep")
    except BadValue:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, ArithmeticError, AttributeError) as e:
        raise BadValue("a malformed value (%s: %s)" % (type(e).__name__, str(e)[:200]))


class Decoder:
    """Turns parts back into a value; see ``decode``. Use it once."""

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
        self._count(1)
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
            raise BadValue("a reference to an object, where none is due")
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
        self._count(len(made))
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


def _read_slice(decoder, content, depth):
    start, stop, step = decoder.values(content, depth)
    return slice(start, stop, step)


_SEQUENCES = {tuple: "t", set: "s", frozenset: "f"}
_READERS = {
    "t": lambda decoder, content, depth: tuple(decoder.values(content, depth)),
    "s": lambda decoder, content, depth: set(decoder.keys(decoder.values(content, depth))),
    "f": lambda decoder, content, depth: frozenset(decoder.keys(decoder.values(content, depth))),
    "S": _read_slice,
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
_MAKERS = {tag: make for tag, _, make in LEAVES.values() if make and tag not in LONG}
_LONG_MAKERS = {tag: make for tag, _, make in LEAVES.values() if tag in LONG}
# Values that are not numbered for later references: strings and numbers.
_ATOMS = {
    "X": Decoder.text,
    "y": lambda decoder, content: content.encode("latin-1"),
    "i": lambda decoder, content: int(content, 16),
}
