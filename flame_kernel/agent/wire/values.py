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

and those of ``LEAVES``, ``containers``, ``arrays``, ``records`` and ``raised``.  A value is plain only if its class is
exactly one of these, or that of a record or an exception which the other side can be told.

Reading builds these classes and nothing else: no name that was sent is imported or looked up.  Whatever costs time or
memory is counted: the values in the text, their depth, the size of the tree with shared values counted each time, and
colliding keys (the hashes of numbers are public, so an attacker can choose them to collide).
"""

import functools
import json

from . import columns, containers, nesting, pickled, plain_json, raised, records
from . import message as wire
from .decoder import Decoder
from .nesting import MAX_DEPTH, MAX_UNFOLDED
from .scalars import LEAVES, ZONES, BadValue, NotPlain, TooLarge, class_name, is_clean, zone

# Text and bytes shorter than this stay in the JSON text.
INLINE = 1024
# Most steps and arguments that ``encode_chain`` takes.
FEW = 20
# Most parts of one value; a message cannot have more buffers.
MAX_PARTS = wire.MAX_BUFFERS // 2
# Most digits of an integer in the text: longer ones travel in hexadecimal, which parses fast.
MAX_DIGITS = 19

_INT64 = 1 << 63
_SIMPLE = frozenset((type(None), bool, float))
_SEQUENCES = {tuple: "t", set: "s", frozenset: "f"}
_encoder = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False)


def encode(value, reference=None, dumps=None, libraries=None, limit=None, array_limit=None, classes=None, unsure=None):
    """The parts of ``value``: a list of its JSON text and its buffers, bytes-like.

    reference    called with each value that is not plain; if it returns anything but None, that is sent in its place
    dumps        under trust: pickles values that are not plain; if it has a method ``takes``, only those for which
                 ``takes(value)`` is true
    libraries    names of the libraries that the other side has; None stands for all
    limit, array_limit  most bytes of all parts, and of one array or table; TooLarge beyond
    classes      called with the class of a record: returns its description, see ``records``, or None if it is not sent
    unsure       called with a class of which ``classes`` returns None: returns its description if the other side may
                 know it, or None; such a value is sent with its reference

    Raises NotPlain, TooLarge.
    """
    if _is_bare(value):
        return [_encoder.encode(value).encode("ascii")]
    kind = Encoder if dumps is None else Trusting
    if unsure is not None:
        kind = functools.partial(Unsure, unsure)

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
    except (nesting.NeedsEntries, RecursionError):
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


def encode_chain(steps):
    """The parts of a list of steps, which are tuples, if they hold only what most calls have: names, and short values
    as arguments. None for others, which ``encode`` can write."""
    if type(steps) is not list or len(steps) > FEW:
        return None
    nodes = []
    for step in steps:
        if type(step) is not tuple:
            return None
        node = []
        for part in step:
            kind = type(part)
            if kind is tuple and len(part) <= FEW and all(map(_is_bare, part)):
                node.append({"t": list(part)})
            elif kind is dict and not part:
                node.append({"m": {}})
            elif _is_bare(part):
                node.append(part)
            else:
                return None
        nodes.append({"t": node})
    return [_encoder.encode(nodes).encode("ascii")]


def _is_bare(value):
    """Whether a value is a node as it is, which needs no Encoder."""
    kind = type(value)
    if kind is str:
        return len(value) < INLINE and is_clean(value)
    if kind is int:
        return -_INT64 <= value < _INT64
    return kind in _SIMPLE


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
        self.inside = inside  # ids of the lists and dicts that share a node with others; None: none may share one
        self._json, self._cells = wire.MAX_VALUES, columns.MAX_CELLS  # how many more values may take these forms
        self._entries = 0  # how many of ``_finished`` are entries of ``nesting``, whose references are not numbers
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
        if kind in _SIMPLE:
            return value
        if kind is bytes and len(value) < INLINE:
            return {"y": value.decode("latin-1")}
        finished = self._finished.get(id(value))
        if finished is not None:
            self.count(finished[1])
            return {"r": finished[0]} if type(finished[0]) is int else finished[0]
        if depth > MAX_DEPTH or id(value) in self._under_way or (self.inside and id(value) in self.inside):
            self._refuse(value, kind, depth)
        before = self._unfolded
        self._under_way.add(id(value))
        try:
            node = self.compound(value, kind, depth)
        finally:
            self._under_way.discard(id(value))
        self.count(1)
        self._finished[id(value)] = (len(self._finished) - self._entries, self._unfolded - before, value)
        return node

    def _refuse(self, value, kind, depth):
        """Say why this value cannot have a node of its own here."""
        if self.inside and id(value) in self.inside:
            raise plain_json.Shared
        if id(value) in self._under_way:
            raise nesting.NeedsEntries("a %s contains itself" % class_name(kind))
        raise nesting.NeedsEntries("it is nested deeper than %d levels" % MAX_DEPTH)

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
            node = records.encode(self, value, kind, depth) or raised.encode(self, value, kind, depth)
        if node is not None:
            return node
        if self._reference is not None:
            reference = self._reference(value)
            if reference is not None:
                return {"@": reference}
        return self._elements(value, kind)

    def _elements(self, value, kind):
        """The node of an array of which only the elements can be sent; raises NotPlain for any other value."""
        node = None
        if self.pickled is None and not self.limited:
            from .tables import tensors

            node = tensors.write_any(self, value, kind)
        if node is None:
            raise NotPlain("a %s is not plain data" % class_name(kind))
        return node

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
        """Note that lists and dicts with these ids share a node, so no other node can refer to one of them."""
        if not all(map(ids.isdisjoint, (self._finished, self._under_way, self.inside))):
            raise plain_json.Shared
        self.inside |= ids

    def _as_json(self, value, depth):
        """The node of a list or dict that travels as plain JSON; None if it does not."""
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
        if self._room is not None:
            self.take(4 * values)
        if self._unfolded > MAX_UNFOLDED:
            raise NotPlain("it holds more than %d values, shared ones counted each time" % MAX_UNFOLDED)

    def take(self, size):
        if self._room is not None:
            self._room -= size
            if self._room < 0:
                raise TooLarge("more than the limit")

    def mark(self):
        """The current position, for ``back_to``."""
        return len(self.parts), len(self._finished), self._unfolded

    def back_to(self, mark):
        """Take back all that was written since ``mark``."""
        parts, finished, self._unfolded = mark
        del self.parts[parts:]
        while len(self._finished) > finished:
            self._finished.popitem()


class Trusting(Encoder):
    """An Encoder that may pickle: if a value turns out not to be plain, what was written of it is taken back."""

    def compound(self, value, kind, depth):
        mark, pickled = self.mark(), self.pickled.mark()
        try:
            return Encoder.compound(self, value, kind, depth)
        except nesting.NeedsEntries:
            raise
        except NotPlain:
            self.back_to(mark)
            self.pickled.back_to(pickled)
            return self.pickled.node(value)


class Unsure(Encoder):
    """An Encoder that sends a value with its reference, where the other side may know the value's class or not."""

    def __init__(self, unsure, *args):
        Encoder.__init__(self, *args)
        self._unsure = unsure

    def compound(self, value, kind, depth):
        told = None
        if records.is_record(kind) or issubclass(kind, BaseException):
            told = self._unsure(kind) if self.classes(kind) is None else None
        if told is None:
            return Encoder.compound(self, value, kind, depth)
        mark, write = self.mark(), raised.encode if issubclass(kind, BaseException) else records.encode
        try:
            node = write(self, value, kind, depth, told)
        except NotPlain:
            self.back_to(mark)
            node = None
        reference = self._reference(value)
        return {"@": reference} if node is None else {"?": [node, reference]}


def decode(parts, resolve=None, loads=None, classes=None):
    """The value in ``parts``, a list of bytes-like objects.

    resolve   called with the content of each ``@`` node
    loads     called with a pickle's bytes; if it is None, a pickle is refused
    classes   called with the description of a record's class; returns the class, or None if it is not known. Its
              ``exception``, if it has that, makes an exception, see ``raised``

    Raises BadValue, and what ``resolve`` and ``loads`` raise.
    """
    if not parts:
        raise BadValue("a value without text")
    text = bytes(parts[0])
    if wire.has_too_many_values(text):
        raise BadValue("a value of more than %d parts" % wire.MAX_VALUES)
    decoder = None
    try:
        tree = wire.read_json(text, MAX_DIGITS)
        if type(tree) is not dict and type(tree) is not list:
            return tree
        decoder = Decoder(parts, resolve, loads, classes)
        return decoder.root(tree)
    except RecursionError:
        raise BadValue("a value that is nested too deep")
    except BadValue:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, ArithmeticError, AttributeError) as e:
        if decoder is not None and e is decoder.failed:
            raise
        raise BadValue("a malformed value (%s: %s)" % (type(e).__name__, str(e)[:200]))
