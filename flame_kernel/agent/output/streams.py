"""stdout, stderr and stdin per session: output goes to the session whose code is running.

``current()`` is the cell for which the calling thread or task runs, or None for the host process's own code.  It is a
context variable, so asyncio tasks belong to the cell that made them; ``Thread.start`` passes it on to threads (see
``sys_hooks``, which also installs these streams in ``sys``).

A session's code sees as ``sys.stdout`` an OutStream, which ignores assignments to ``sys.stdout``: a Tee that replaced
it can write to it without a loop.  ``print`` reads the ``sys`` module's dict, where it finds an OutDispatcher, which
writes to whatever is assigned to ``sys.stdout`` now.
"""

import codecs
import contextlib
import io
import os
import sys
import threading
import types

try:
    from contextvars import ContextVar
except ImportError:  # Python 3.6: threads are told apart, but not tasks

    class ContextVar(threading.local):
        def __init__(self, name, default=None):
            self.value = default

        def get(self):
            return self.value

        def set(self, value):
            self.value = value


_current = ContextVar("flame_cell", default=None)
# Thread id -> the cell for which a session's own thread works. Found also in a new context, such as a greenlet's.
_own_threads = {}


class Cell:
    """One running request; its output goes to its session.

    request_id    the front end's msg_id, which every event of the cell carries
    host          the session core
    allow_stdin   whether the front end answers input requests
    count         the cell's number, if the client numbers cells
    """

    __slots__ = ("__weakref__", "allow_stdin", "count", "flushes", "host", "lane", "request_id", "silent", "threads")

    def __init__(self, request_id, host, allow_stdin=False, silent=False, lane="", count=None):
        self.request_id = request_id
        self.host = host
        self.allow_stdin = allow_stdin
        self.silent = silent
        self.flushes = 0  # how many times it has flushed its output
        self.count = count
        self.lane = lane  # the name of the lane where it runs
        self.threads = None  # the threads that it started, if it runs as a program


class LatestCell:
    """Stands for the cell that ran last in a session, for code that belongs to no particular cell."""

    def __init__(self, host):
        self.host = host

    def __getattr__(self, name):
        return getattr(self.host.latest, name)


class Work:
    """Stands for the cell that has handed work to another thread. Once that cell is over, it stands for the cell that
    runs then, so that output appears where the user looks; if none runs, still for the first cell."""

    def __init__(self, cell):
        self._cell = cell
        self.host = cell.host

    @classmethod
    def of(cls, cell):
        """Work for ``cell``, which may itself be work for another one."""
        return cell if type(cell) is cls else cls(cell)

    @property
    def is_over(self):
        """Whether the cell that it began with is over."""
        return not self.host.runs(self._cell.request_id)

    def __getattr__(self, name):
        latest = self.host.latest
        over = latest is not None and self.is_over and self.host.runs(latest.request_id)
        return getattr(latest if over else self._cell, name)


def current():
    """The Cell for which the calling thread or task works; None for the host process's own code."""
    cell = _current.get() or _own_threads.get(threading.get_ident())
    if cell is not None and cell.host.closed:
        return None
    return cell


def working():
    """The same, even if the cell's session has ended."""
    return _current.get() or _own_threads.get(threading.get_ident())


def is_over(cell):
    """Whether a cell has ended; for Work, whether the cell that handed it over has."""
    return cell.is_over if type(cell) is Work else not cell.host.runs(cell.request_id)


def is_of(context, request_id):
    """Whether what runs in a context works for the cell of a request."""
    cell = context.get(_current)
    return getattr(cell, "request_id", None) == request_id


def set_current(cell):
    """Let the calling thread or task work for ``cell`` from now on."""
    _current.set(cell)


@contextlib.contextmanager
def thread_of(cell):
    """For the time of a ``with``: the calling thread works for ``cell`` only, in every context in which it runs."""
    ident = threading.get_ident()
    _own_threads[ident] = cell
    set_current(cell)
    try:
        yield
    finally:
        del _own_threads[ident]


class _OutBytes(io.RawIOBase):
    """``sys.stdout.buffer``: decodes bytes into the stream's text; an incomplete character waits for the rest."""

    def __init__(self, stream):
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self):
        return True

    def write(self, data):
        text = self._decoder.decode(bytes(data))
        if text:
            self._stream.write(text)
        return len(data)


class _Stream(io.TextIOBase):
    """Text goes to the calling session; from the host process's own code to the host's own stream, ``below``."""

    encoding = "utf-8"
    errors = "replace"
    newlines = None
    line_buffering = False

    def __init__(self, name, below):
        self.name = "<%s>" % name
        self._name = name
        self.below = below
        self._buffer = _OutBytes(self)

    @property
    def __class__(self):
        found = getattr(sys.modules.get("ipykernel.iostream"), "OutStream", None)
        return found if isinstance(found, type) and current() is not None else type(self)

    @property
    def buffer(self):
        target = self._target()
        return self._buffer if target is None else target.buffer

    def _target(self):
        """The stream that gets the text; None if the calling session gets it."""
        return self.below if current() is None else None

    def write(self, text):
        # ``current()`` without the call: a print does this twice
        cell = _current.get() or _own_threads.get(threading.get_ident())
        host = None if cell is None else cell.host
        if host is None or host.closed:
            return self.below.write(text) if self.below is not None else len(text)
        if not isinstance(text, str):
            raise TypeError("write() argument must be str, not %s" % type(text))
        host.write(cell, self._name, text)
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        target = self._target()
        if target is not None:
            target.flush()
        elif current() is not None:
            current().host.flush()

    def fileno(self):
        cell = current()
        target = self._target()
        if cell is None or target is not None:
            return target.fileno()
        # wurlitzer redirects descriptor 1, and passes what C code prints there to the descriptor that it is given here.
        aside = None
        if sys._getframe(1).f_globals.get("__name__") == "wurlitzer" and cell.host.capture is not None:
            aside = cell.host.capture.has(self._name)
        return cell.host.fileno(self._name) if aside is None else aside

    def isatty(self):
        target = self._target()
        return False if target is None else target.isatty()

    def writable(self):
        return True

    def close(self):
        """Do nothing: the next cell must be able to print even if this one closes sys.stdout."""

    def _is_master_process(self):
        """Exists in ipykernel's streams, and some libraries call it."""
        cell = current()
        return cell is None or cell.host.pid == os.getpid()

    def __getattr__(self, name):
        # For the host's own code, whose stream may have more attributes (a log handler's, `reconfigure`, `mode`).
        if name.startswith("__") or current() is not None or self.__dict__.get("below") is None:
            raise AttributeError(name)
        return getattr(self.below, name)


def _replaceable(name):
    """A method that a session may replace for itself, as by ``sys.stdout.write = mine``; ``print`` then calls that."""
    method = getattr(_Stream, name)

    def get(stream):
        mine = _replaced(current(), stream._name, name)
        return types.MethodType(method, stream) if mine is None else mine

    def put(stream, value):
        if getattr(value, "__func__", None) is method:
            delete(stream)
        elif current() is not None:
            current().host.redirects[stream._name, name] = value

    def delete(stream):
        if current() is not None:
            current().host.redirects.pop((stream._name, name), None)

    return property(get, put, delete)


def _replaced(cell, name, method):
    """What the calling session has assigned to ``sys.<name>.<method>``; None if nothing."""
    return None if cell is None else cell.host.redirects.get((name, method))


class OutStream(_Stream):
    """What a session's code sees as ``sys.stdout`` or ``sys.stderr``, and may keep: its text goes to the session,
    whatever has been assigned to ``sys.stdout`` since.

    It is named like ipykernel's class: by that name libraries know that they may print colours and HTML.
    """

    __module__ = "ipykernel.iostream"

    write = _replaceable("write")
    flush = _replaceable("flush")
    isatty = _replaceable("isatty")


class OutDispatcher(_Stream):
    """What C code, mainly ``print``, finds in the ``sys`` module's dict: passes on to the current ``sys.stdout``."""

    def _target(self):
        cell = current()
        return self.below if cell is None else _assigned(cell, self._name)

    def write(self, text):
        cell = _current.get() or _own_threads.get(threading.get_ident())
        if cell is not None and cell.host.redirects and not cell.host.closed:
            other = _assigned(cell, self._name)
            if other is not None:
                return other.write(text)
            mine = _replaced(cell, self._name, "write")
            if mine is not None:
                return mine(text)
        return _Stream.write(self, text)

    def flush(self):
        mine = _replaced(current(), self._name, "flush")
        return _Stream.flush(self) if mine is None or self._target() is not None else mine()


class _Nowhere(io.TextIOBase):
    """Replaces a ``sys.stdout`` that is None, for which ``print`` does nothing."""

    def write(self, text):
        return len(text)

    def readline(self, size=-1):
        raise RuntimeError("lost sys.stdin")


_nowhere = _Nowhere()


def _assigned(cell, name):
    """What the calling session has assigned to ``sys.<name>``; None if nothing."""
    other = cell.host.redirects.get(name, cell)
    return None if other is cell else _nowhere if other is None else other


class InStream(io.TextIOBase):
    """What a session's code sees as ``sys.stdin``: reading a line asks the user in the notebook."""

    encoding = "utf-8"
    errors = "strict"
    name = "<stdin>"

    def __init__(self, below):
        self.below = below

    def _target(self):
        return self.below if current() is None else None

    def readable(self):
        return True

    def readline(self, size=-1):
        target = self._target()
        if target is not None:
            return target.readline(size)
        try:
            return current().host.input("") + "\n"
        except EOFError:
            return ""

    def read(self, size=-1):
        target = self._target()
        if target is not None:
            return target.read(size)
        lines = []
        while True:
            line = self.readline()
            lines.append(line)
            if not line or (size is not None and size >= 0):
                return "".join(lines)

    def __iter__(self):
        return iter(self.readline, "")

    @property
    def buffer(self):
        """The same lines as bytes."""
        target = self._target()
        return io.BufferedReader(_InBytes(self)) if target is None else target.buffer

    def isatty(self):
        target = self._target()
        return False if target is None else target.isatty()

    def fileno(self):
        target = self._target()
        if target is None:
            raise io.UnsupportedOperation("the notebook's input has no file descriptor")
        return target.fileno()


class _InBytes(io.RawIOBase):
    """The lines of an InStream as bytes."""

    def __init__(self, lines):
        self._lines = lines
        self._left = b""

    def readable(self):
        return True

    def readinto(self, room):
        self._left = self._left or self._lines.readline().encode("utf-8")
        part = self._left[: len(room)]
        room[: len(part)] = part
        self._left = self._left[len(part) :]
        return len(part)


class InDispatcher(InStream):
    """What C code finds in the ``sys`` module's dict: passes on to the current ``sys.stdin``."""

    def _target(self):
        cell = current()
        return self.below if cell is None else _assigned(cell, "stdin")


def flush_all():
    """Flush the current ``sys.stdout`` and ``sys.stderr``; the user's own may be None, or fail."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except Exception:  # from the user's own stream; that is not our concern
            pass
