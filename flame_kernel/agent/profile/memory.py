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

from .. import own
from . import holders

try:
    import tracemalloc
except ImportError:  # PyPy tells neither where memory was allocated nor how large objects are
    tracemalloc = None

# How many lines or types are listed, and the most characters of a name.
MOST, LONG = 25, 200
# The most objects whose sizes are looked at.
MOST_OBJECTS = 500000
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
        return dict(_state(begun), lines=lines, types=kinds, objects=count, holders=None)

    def who_holds(self, value, names):
        """The content of a memory_reply whose ``holders`` are the graph of what holds ``value``: see `Search`;
        ``names`` is the dict of the session's variables."""
        _check()
        begun = time.perf_counter()
        graph = holders.Search(names).graph(value)
        return dict(_state(begun), lines=[], types=[], objects=0, holders=graph)

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
    rows = [[holders.type_name(kind)[:LONG], counts[kind], size] for kind, size in sizes.most_common(MOST)]
    return rows, len(objects) + len(leaves)


def _add(one, counts, sizes):
    counts[type(one)] += 1
    sizes[type(one)] += holders.size_of(one) or 0
