"""Work that a cell hands to other threads: a pool's functions, callbacks of futures, items of a queue.

The output of such work goes to the cell that handed it over, whichever cell made the thread; once that cell is over, it
goes to the running cell. ``streams.Work`` stands for such a cell. Where possible the work is wrapped by C code, so that
a traceback shows no frame of ours.
"""

import collections
import functools
import itertools
import operator
import os
import queue
import sys
import types
from concurrent.futures import _base, thread

from .. import own
from ..patches import Layer
from .streams import Work, current, is_over, set_current, working

try:
    from contextvars import Context, copy_context
except ImportError:  # Python 3.6
    Context = copy_context = None

_call = operator.methodcaller("__call__")
# The attribute of a queue that holds the cells of its items.
_CELLS = "_flame_cells"
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_INSTALLED = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)


def is_of_library(frame):
    """Whether a frame runs code of a library, not of the user."""
    path = frame.f_code.co_filename
    return path.startswith((_LIBRARY, "<frozen ")) or any(part in path for part in _INSTALLED)


class _Job:
    """One call that will run for a cell. ``begin`` is called first; it returns the function to call next."""

    __slots__ = ("_alone", "_cell", "_work")

    def __init__(self, work, cell, alone):
        self._work = work
        self._cell = cell
        self._alone = alone  # whether the thread must be restored afterwards

    def begin(self):
        work, self._work = self._work, None
        if self._alone or working() is None:
            context = copy_context()
            context.run(set_current, self._cell)
            return functools.partial(context.run, work)
        set_current(self._cell)
        return work


def _once(work, cell, alone=False):
    """A function that calls ``work`` once, for ``cell``; it ignores its arguments."""
    return functools.partial(next, map(_call, map(_call, (_Job(work, cell, alone).begin,))))


class _Always:
    """A function that may be called many times, on several threads, always for the same cell."""

    def __init__(self, function, cell):
        self._function = function
        self._cell = cell

    def __call__(self, *args, **kwargs):
        before = working()
        set_current(self._cell)
        try:
            return self._function(*args, **kwargs)
        finally:
            set_current(before)


def _submit(below):
    @functools.wraps(below)
    def submit(*args, **kwargs):
        cell = current()
        if cell is None or len(args) < 2 or not callable(args[1]):
            return below(*args, **kwargs)
        cell = Work.of(cell)
        if Context is None:
            return below(args[0], _Always(args[1], cell), *args[2:], **kwargs)
        _tell_context(args[1], cell)
        return below(args[0], _once(functools.partial(*args[1:], **kwargs), cell))

    return submit


def _tell_context(function, cell):
    """If ``function`` is ``run`` of a context, as from ``asyncio.to_thread``, set the cell in that context too."""
    context = getattr(getattr(function, "func", function), "__self__", None)
    if isinstance(context, Context):
        try:
            context.run(set_current, cell)
        except RuntimeError:  # the context is in use: so it is the one of the code that runs here
            pass


def _add_done_callback(below):
    @functools.wraps(below)
    def add_done_callback(self, fn):
        cell = current()
        if cell is not None and callable(fn):
            cell = Work.of(cell)
            if Context is None:
                fn = _Always(fn, cell)
            else:
                fn = _once(functools.partial(fn, self), cell, alone=True)
        return below(self, fn)

    return add_done_callback


def _pool_task(below, kind):
    """For the methods of ``multiprocessing.pool.ThreadPool`` that take a function."""

    @functools.wraps(below)
    def task(self, func, *args, **kwargs):
        cell = current()
        if cell is not None and isinstance(self, kind):
            func = _Always(func, Work.of(cell))
        return below(self, func, *args, **kwargs)

    return task


def _apply_result(below):
    """For ``ApplyResult.__init__(self, pool, callback, error_callback)``: callbacks run on a thread of the pool."""

    @functools.wraps(below)
    def init(self, *args, **kwargs):
        cell = current()
        if cell is not None:
            cell = Work.of(cell)
            args = args[:1] + tuple(_callback(one, cell) for one in args[1:])
            kwargs = {name: _callback(one, cell) for name, one in kwargs.items()}
        return below(self, *args, **kwargs)

    return init


def _callback(function, cell):
    return _Always(function, cell) if callable(function) else function


def _put(below):
    """For ``Queue._put``, called with the queue's lock held."""

    def put(self, item):
        below(self, item)
        cell, cells = current(), self.__dict__.get(_CELLS)
        if cells is None:
            if cell is None:
                return
            cells = self.__dict__[_CELLS] = collections.deque(itertools.repeat(None, len(self.queue) - 1))
        cells.append(None if cell is None else Work.of(cell))

    return put


def _get(below):
    """For ``Queue._get``: a thread whose own cell is over now works for the cell of the item that it took."""

    def get(self):
        item = below(self)
        cells = self.__dict__.get(_CELLS)
        if cells:
            while len(cells) > len(self.queue) + 1:  # some code has removed items in another way
                cells.popleft()
            cell = cells.popleft() if len(cells) == len(self.queue) + 1 else None
            own = working()
            if cell is not None and own is not None and is_over(own):
                set_current(cell)
        return item

    return get


class Layers:
    """The patches of one version of the agent by which work knows its cell. ``more`` adds patches for modules that were
    imported since; it is called when a thread starts, which every pool does before it works."""

    def __init__(self):
        self._pool = False
        self._layers = [
            Layer(thread.ThreadPoolExecutor, "submit", _submit),
            Layer(_base.Future, "add_done_callback", _add_done_callback),
        ]
        kind = own.shared(queue).Queue  # the app's, not ours
        if type(vars(kind).get("_put")) is types.FunctionType:  # gevent puts a compiled class in its place
            self._layers += [Layer(kind, "_put", _put), Layer(kind, "_get", _get)]

    def more(self):
        pool = sys.modules.get("multiprocessing.pool")
        if self._pool or not hasattr(pool, "ThreadPool"):
            return
        self._pool = True
        kind = pool.ThreadPool
        self._layers.append(Layer(pool.ApplyResult, "__init__", _apply_result))
        for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
            self._layers.append(Layer(pool.Pool, name, functools.partial(_pool_task, kind=kind)))

    def remove(self):
        for layer in self._layers:
            layer.remove()
