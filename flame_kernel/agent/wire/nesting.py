"""Values nested deeper than the codec follows, and values that contain themselves. Both sides import it.

Such a value is cut: some of its containers become *entries*, and other containers refer to them by number::

    {"G": [[empty, node], …]}    the entries; the last one is the value
    {"~": n}                     entry n

Entries are read in an order such that an entry comes after those that it refers to, unless it contains itself.  So
containers that can be filled later (a list, a dict …) exist, empty, from the beginning, made from ``empty``; for all
others ``empty`` is null.  Each cycle in a value must have a container that can be filled later, as Python's own do.
"""

import collections
from array import array

from . import containers, records
from .scalars import BadValue, NotPlain, class_name

# How deep lists may be nested; deeper ones are cut.
MAX_DEPTH = 100
# Most values in all, shared ones counted each time: printing or comparing visits each.
MAX_UNFOLDED = 20000000
# Levels within one entry.
STEP = 40
# Levels in all: Python's own printing and comparing stop here or earlier.
MAX_LEVELS = 3000
# Limit on the steps needed to print a value that contains itself, if printing stops at each container already entered.
MAX_VISITS = 1000000

_ATOMS = {str, int, float, bool, bytes, type(None), complex, bytearray, memoryview, array}
_FLAT = {list, tuple, set, frozenset, collections.deque}
_KEYED = {dict, collections.OrderedDict, collections.defaultdict, collections.Counter}
# For each class that can be filled later: what makes the node of an empty one.
_EMPTY = {
    list: lambda value: [],
    dict: lambda value: {"m": {}},
    set: lambda value: {"s": []},
    collections.OrderedDict: lambda value: {"od": []},
    collections.Counter: lambda value: {"ct": []},
    collections.defaultdict: lambda value: {"dd": [containers.factory_name(value)]},
    collections.deque: lambda value: {"dq": [value.maxlen]},
}


class NeedsEntries(NotPlain):
    """The value must be cut into entries first."""


def _both(value):
    return list(value.keys()) + list(value.values())


# For each class of container: what lists its contents.
_HOLDS = dict.fromkeys(_FLAT, list)
_HOLDS.update(dict.fromkeys(_KEYED, _both))
_HOLDS.update({kind: lambda value: [value.data] for kind in (collections.UserDict, collections.UserList)})
_HOLDS[collections.ChainMap] = lambda value: value.maps
_HOLDS[containers.SimpleNamespace] = lambda value: list(vars(value).values())
_HOLDS[containers.MappingProxyType] = lambda value: list(value.values())


def children(value):
    """The contents of a container; empty for any other value."""
    kind = type(value)
    holds = _HOLDS.get(kind)
    if holds is not None:
        return [one for one in holds(value) if type(one) not in _ATOMS]
    if kind.__module__ == "numpy" and kind.__name__ == "ndarray" and value.dtype.kind == "O":
        return [one for one in value.ravel().tolist() if type(one) not in _ATOMS]
    if records.is_record(kind):
        return [one for one in records.content(value, kind) if type(one) not in _ATOMS]
    return ()


def encode(encoder, value):
    """The ``G`` node of a value; ``encoder`` is a ``values.Encoder`` that has written nothing yet."""
    entries, recursive = _cut(value)
    empties = [_empty(encoder, one) for one in entries]
    for number, one in enumerate(entries):
        if empties[number] is not None:
            encoder.finish(one, {"~": number}, 1)
    nodes = []
    for number, one in enumerate(entries):
        nodes.append([empties[number], encoder.entry(one, {"~": number})])
    if recursive:
        _check_visits(value, NotPlain)
    return {"G": nodes}


def _empty(encoder, value):
    """The node of an empty container; None for a class that cannot be filled later."""
    make = _EMPTY.get(type(value))
    if make is not None:
        return make(value)
    return records.empty(encoder, value, type(value)) if records.can_be_filled(type(value)) else None


def _cut(value):
    """``(the containers that become entries, in reading order; whether anything contains itself)``."""
    entries, chosen = [], set()
    heights = {}  # id of each finished container -> (levels in its entry, levels in all)
    keep = []  # keeps objects alive, so that no id is used again
    path, on_path, recursive = [[value, iter(children(value)), 0, 0]], {id(value)}, False
    while path:
        here = path[-1]
        for child in here[1]:
            known = heights.get(id(child))
            if known is not None:
                here[2], here[3] = max(here[2], known[0]), max(here[3], known[1])
            elif id(child) in on_path:
                recursive = True
                _choose(path, child, chosen)
            else:
                on_path.add(id(child))
                keep.append(child)
                path.append([child, iter(children(child)), 0, 0])
                break
        else:
            path.pop()
            one, _, levels, height = here
            levels, height = levels + 1, height + 1
            if height > MAX_LEVELS:
                raise NotPlain("it is nested deeper than %d levels" % MAX_LEVELS)
            on_path.discard(id(one))
            if levels >= STEP or id(one) in chosen or not path:
                entries.append(one)
                levels = 0
            heights[id(one)] = (levels, height)
            if path:
                path[-1][2], path[-1][3] = max(path[-1][2], levels), max(path[-1][3], height)
    return entries, recursive


def _choose(path, target, chosen):
    """From a cycle, make the first container that can be filled later an entry."""
    inside = False
    for step in path:
        inside = inside or step[0] is target
        if inside and (type(step[0]) in _EMPTY or records.can_be_filled(type(step[0]))):
            chosen.add(id(step[0]))
            return
    raise NotPlain("a %s contains itself" % class_name(type(target)))


def _check_visits(value, error):
    """Raise if a value contains itself along so many paths that printing it would never end."""
    path, on_path, visits = [(value, iter(children(value)))], {id(value)}, 0
    while path:
        for child in path[-1][1]:
            visits += 1
            if visits > MAX_VISITS:
                raise error("a value that contains itself in too many ways")
            if id(child) not in on_path:
                on_path.add(id(child))
                path.append((child, iter(children(child))))
                break
        else:
            on_path.discard(id(path.pop()[0]))


def _is_empty(made):
    return records.can_be_filled(type(made)) or (type(made) in _EMPTY and not made)


class Entries:
    """The entries of a value that is being read."""

    def __init__(self, decoder, content):
        self._decoder = decoder
        self._nodes = content
        self._made = [None if empty is None else decoder.bare(empty) for empty, _ in content]
        self._done = [False] * len(content)
        self._sizes = [1] * len(content)
        self._heights = [0] * len(content)
        self._height = 0
        self._recursive = False
        if not all(made is None or _is_empty(made) for made in self._made):
            raise BadValue("an entry that cannot be filled")

    def value(self):
        """The whole value, which is the last entry."""
        for number, (empty, node) in enumerate(self._nodes):
            before, self._height = self._decoder.unfolded, 0
            made = self._decoder.bare(node)
            if empty is None:
                self._made[number] = made
            else:
                self._fill(self._made[number], made)
            self._done[number] = True
            self._sizes[number] = self._decoder.unfolded - before + 1
            self._heights[number] = self._height
        if self._recursive:
            _check_visits(self._made[-1], BadValue)
        return self._made[-1]

    def named(self, number, depth):
        """``(entry, its size with shared values counted each time)``."""
        if type(number) is not int or not 0 <= number < len(self._made):
            raise BadValue("an entry that does not exist")
        if not self._done[number]:
            if self._nodes[number][0] is None:
                raise BadValue("an entry that is not there yet")
            self._recursive = True
        self._height = max(self._height, self._heights[number] + depth)
        if self._height > 2 * MAX_LEVELS:
            raise BadValue("a value that is nested too deep")
        return self._made[number], self._sizes[number]

    @staticmethod
    def _fill(empty, made):
        if type(empty) is not type(made):
            raise BadValue("an entry of another class than was said")
        if records.can_be_filled(type(made)):
            records.fill(empty, made)
        elif type(made) in _KEYED:
            dict.update(empty, made) if type(made) is not collections.OrderedDict else empty.update(made)
        elif type(made) is set:
            empty.update(made)
        else:
            empty.extend(made)
