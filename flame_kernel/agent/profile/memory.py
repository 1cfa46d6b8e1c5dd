"""What the memory of this process is used for: growth by line between two looks, objects by type, and what holds one.

``tracemalloc`` measures growth. It slows down each allocation while it is on, so the user turns it on and off.
The rest looks at the objects that the garbage collector knows, and runs none of their code.
"""

import collections
import gc
import linecache
import os
import sys
import time
import types

from .. import own

try:
    import tracemalloc
except ImportError:  # PyPy tells neither where memory was allocated nor how large objects are
    tracemalloc = None

# How many lines or types are listed, and the most characters of a name.
MOST, LONG = 25, 200
# The most objects whose sizes are looked at.
MOST_OBJECTS = 500000
HEAP_TYPE = 1 << 9
# How many steps from an object we follow its holders, and how many holders are shown at each step.
STEPS, HOLDERS = 3, 3
# Seconds after which we stop looking for holders.
PATIENCE = 2.0
START, STOP, LOOK, TYPES = "start", "stop", "look", "types"


class Memory:
    """One session's looks at the memory of its process."""

    def __init__(self):
        self._before = {}
        self._ours = False  # whether we have turned tracemalloc on

    def look(self, what):
        """The content of a memory_reply; ``what`` is START, STOP, LOOK or TYPES.

        ``tracing``: whether tracemalloc is on; ``traced``: bytes allocated since it was turned on and still in
        use; ``overhead``: bytes that tracemalloc itself uses; ``seconds``: how long this look took.  ``lines``: [[file,
        line, bytes more, objects more, bytes, source], …] since the previous look, the greatest growth first.
        ``types``: [[type, count, bytes], …], of ``objects``, the number of objects that were counted.  ValueError if
        this look is not possible now.
        """
        if what not in (START, STOP, LOOK, TYPES):
            raise ValueError("a look at memory is %s, not %r" % (", ".join((START, STOP, LOOK, TYPES)), what))
        _check()
        begun = time.perf_counter()
        lines, kinds, count = [], [], 0
        if what == STOP:
            self._stop()
        elif what == START and not tracemalloc.is_tracing():
            tracemalloc.start()
            self._ours = True
        if what in (START, LOOK) and tracemalloc.is_tracing():
            now = _snapshot()
            lines = _growth(now, self._before) if what == LOOK else []
            self._before = now
        elif what == LOOK:
            raise ValueError("allocations are not being recorded; start that with %flame memory --start")
        if what == TYPES:
            kinds, count = _by_type()
        return dict(_state(begun), lines=lines, types=kinds, objects=count, holders=[])

    def who_holds(self, value):
        """The content of a memory_reply whose ``holders`` are lines of text that show what holds ``value``."""
        _check()
        begun = time.perf_counter()
        picture = _Holders().of(value)
        return dict(_state(begun), lines=[], types=[], objects=0, holders=picture)

    def _stop(self):
        if tracemalloc.is_tracing() and not self._ours:
            raise ValueError("the program itself has tracemalloc on; it stays on")
        self.close()

    def close(self):
        """Turn tracemalloc off, if we have turned it on."""
        self._before = {}
        if self._ours:
            self._ours = False
            tracemalloc.stop()


def _check():
    """ValueError on a Python that tells nothing of its memory."""
    if tracemalloc is None:
        words = "%s gives no information about its memory; %%flame top shows what the process uses"
        raise ValueError(words % sys.implementation.name)


def _state(begun):
    tracing = tracemalloc.is_tracing()
    traced = tracemalloc.get_traced_memory()[0] if tracing else 0
    state = {"status": "ok", "pid": os.getpid(), "tracing": tracing, "traced": traced}
    return dict(state, overhead=tracemalloc.get_tracemalloc_memory(), seconds=round(time.perf_counter() - begun, 6))


def _snapshot():
    """``{(file, line): (bytes, objects)}`` of the memory allocated now."""
    found = {}
    for one in tracemalloc.take_snapshot().statistics("lineno"):
        frame = one.traceback[0]
        found[frame.filename, frame.lineno] = one.size, one.count
    return found


def _growth(now, before):
    rows = []
    for place, (size, count) in now.items():
        size_before, count_before = before.get(place, (0, 0))
        if size > size_before and not own.is_file(place[0]) and place[0] != tracemalloc.__file__:
            rows.append([place[0], place[1], size - size_before, count - count_before, size])
    rows.sort(key=lambda row: -row[2])
    return [[row[0][-LONG:]] + row[1:] + [linecache.getline(*row[:2]).strip()[:LONG]] for row in rows[:MOST]]


def _by_type():
    """``([[type, count, bytes], …], number of objects)``. Sizes do not include what the objects refer to."""
    counts, sizes, leaves = collections.Counter(), collections.Counter(), set()
    objects = gc.get_objects()[:MOST_OBJECTS]
    for one in objects:
        _add(one, counts, sizes)
        for leaf in gc.get_referents(one):  # str, bytes and arrays, which the collector does not list
            if not gc.is_tracked(leaf) and id(leaf) not in leaves and len(leaves) < MOST_OBJECTS:
                leaves.add(id(leaf))
                _add(leaf, counts, sizes)
    return [[_name(kind), counts[kind], size] for kind, size in sizes.most_common(MOST)], len(objects) + len(leaves)


def _add(one, counts, sizes):
    kind = type(one)
    counts[kind] += 1
    if kind.__flags__ & HEAP_TYPE:  # its __sizeof__ may be the user's code, which we do not call
        sizes[kind] += object.__sizeof__(one)
        return
    try:
        sizes[kind] += sys.getsizeof(one)
    except Exception:  # a __sizeof__ in C may fail for a broken object; its size is left out
        pass


class _Holders:
    """Finds what holds an object. Each search visits all objects of the process, so the number of searches is small."""

    def __init__(self):
        self._lines = []
        self._seen = set()  # ids of the objects shown already, and of our own
        self._until = time.perf_counter() + PATIENCE

    def of(self, value):
        """Lines of text: each holder stands, indented, below what it holds."""
        self._seen |= {id(self._lines), id(self._seen), id(self.__dict__), id(value)}
        self._lines.append(_described(value))
        self._add(value, 1)
        return self._lines

    def _add(self, one, depth):
        indent, shown = "  " * depth, 0
        if time.perf_counter() > self._until:
            self._lines.append(indent + "[not looked at: that takes long in a process of this size]")
            return
        found = gc.get_referrers(one)
        self._seen.add(id(found))
        for holder in found:
            if id(holder) in self._seen or isinstance(holder, types.FrameType):
                continue
            if shown == HOLDERS:
                self._lines.append(indent + "[others hold it too]")
                break
            shown += 1
            self._seen.add(id(holder))
            self._lines.append("%sheld by %s" % (indent, _held(holder, one)))
            if depth < STEPS and not _is_end(holder):
                self._add(holder, depth + 1)


def _is_end(holder):
    return isinstance(holder, types.ModuleType) or (type(holder) is dict and "__name__" in holder)


def _held(holder, one):
    """A holder in words, and by which key, index or attribute it holds the object."""
    if type(holder) is dict:
        key = next((key for key, value in list(holder.items()) if value is one), None)
        name = holder.get("__name__")
        if type(name) is str:
            return "global %s of module %s" % (str(key)[:60] if type(key) is str else "?", name[:60])
        return "dict, under %s" % (repr(key)[:60] if type(key) in (str, int) else "a key")
    if type(holder) in (list, tuple):
        place = next((number for number, value in enumerate(holder) if value is one), -1)
        return "%s of %d, at %d" % (type(holder).__name__, len(holder), place)
    name = next((name for name, value in list(_attributes(holder).items()) if value is one), None)
    return "%s%s" % (_described(holder), "" if name is None else ", as .%s" % str(name)[:60])


def _attributes(holder):
    """The attributes of an object, read without running any of its code."""
    try:
        found = object.__getattribute__(holder, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


def _described(one):
    kind = type(one)
    if isinstance(one, types.ModuleType):
        return "module %s" % str(_attributes(one).get("__name__"))[:60]
    if isinstance(one, types.FunctionType):
        return "function %s" % one.__qualname__[:60]
    size = object.__sizeof__(one)
    return "%s of %d bytes" % (_name(kind), size)


def _name(kind):
    module = kind.__dict__.get("__module__") if type(kind.__dict__.get("__module__")) is str else "builtins"
    name = type.__dict__["__name__"].__get__(kind)
    return (name if module == "builtins" else "%s.%s" % (module, name))[:LONG]
