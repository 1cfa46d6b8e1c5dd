"""stdout, stderr and stdin by session: whose code runs decides where its output goes.

``current()`` is the cell for which the calling thread or task runs, or None for the host's own code.  A context
variable carries it, so that asyncio tasks keep the cell that made them; ``Thread.start`` hands it on to threads (see
``sys_hooks``, which puts these streams into ``sys``).

What a session finds as ``sys.stdout`` is a stream that asks for no assignment: a Tee keeps it and writes to it.  What
``print`` finds, in the dict of ``sys``, is a dispatcher to what has been assigned.
"""

import codecs
import io
import os
import sys
import threading

try:
    from contextvars import ContextVar
except ImportError:  # Python 3.6: tasks are not told apart, threads are

    class ContextVar(threading.local):
        def __init__(self, name, default=None):
            self.value = default

        def get(self):
            return self.value

        def set(self, value):
            self.value = value


_current = ContextVar("flame_cell", default=None)


class Cell:
    """One request that runs: where its output goes.

    request_id    the front end's msg_id, which every event of the cell carries
    host          the session core
    allow_stdin   whether the front end answers input requests
    count         its number, where the client counts cells
    """

    __slots__ = ("__weakref__", "allow_stdin", "count", "flushes", "host", "lane", "request_id", "silent", "threads")

    def __init__(self, request_id, host, allow_stdin=False, silent=False, lane="", count=None):
        self.request_id = request_id
        self.host = host
        self.allow_stdin = allow_stdin
        self.silent = silent
        self.flushes = 0  # how often it has flushed
        self.count = count
        self.lane = lane  # the name of the lane that runs it
        self.threads = None  # where it runs as a program: those that it starts


class LatestCell:
    """Stands for the cell of a session that ran last: for code that belongs to no cell in particular."""

    def __init__(self, host):
        self.host = host

    def __getattr__(self, name):
        return getattr(self.host.latest, name)


def current():
    """The Cell that the calling thread or task works for; None in the host's own code."""
    cell = _current.get()
    if cell is not None and cell.host.closed:
        return None
    return cell


def set_current(cell):
    """From here on the calling thread or task works for ``cell``."""
    _current.set(cell)


class _Bytes(io.RawIOBase):
    """``sys.stdout.buffer``: bytes become text of the stream; a character cut in two waits for its other half."""

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


class OutStream(io.TextIOBase):
    """What code of a session finds as ``sys.stdout`` or ``sys.stderr``, and may keep: its text goes to the session of
    the caller whatever has been assigned since, and in the host's own code to the host's own stream.

    By the name of ipykernel's class libraries know that colours and HTML are welcome.
    """

    __module__ = "ipykernel.iostream"

    encoding = "utf-8"
    errors = "replace"
    newlines = None
    line_buffering = False

    def __init__(self, name, below):
        self.name = "<%s>" % name
        self._name = name
        self.below = below
        self._buffer = _Bytes(self)

    @property
    def __class__(self):
        found = getattr(sys.modules.get("ipykernel.iostream"), "OutStream", None)
        return found if isinstance(found, type) and current() is not None else type(self)

    @property
    def buffer(self):
        target = self._target()
        return self._buffer if target is None else target.buffer

    def _target(self):
        """The stream that gets the text; None if the caller's session gets it."""
        return self.below if current() is None else None

    def write(self, text):
        cell = _current.get()  # ``current()``, without the call: a print does this twice
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
        return target.fileno() if cell is None or target is not None else cell.host.fileno(self._name)

    def isatty(self):
        target = self._target()
        return False if target is None else target.isatty()

    def writable(self):
        return True

    def close(self):
        """A cell that closes sys.stdout closes nothing: the next cell prints again."""

    def _is_master_process(self):
        """ipykernel's streams have it, and code written for it asks."""
        cell = current()
        return cell is None or cell.host.pid == os.getpid()

    def __getattr__(self, name):
        # For the host's own code: its stream may have more (a log handler's attribute, `reconfigure`, `mode`).
        if name.startswith("__") or current() is not None or self.__dict__.get("below") is None:
            raise AttributeError(name)
        return getattr(self.below, name)


class OutDispatcher(OutStream):
    """What C code finds in the dict of ``sys``, ``print`` before all: the stream that stands in ``sys.stdout`` now."""

    def _target(self):
        cell = current()
        return self.below if cell is None else _assigned(cell, self._name)

    def write(self, text):
        cell = _current.get()
        if cell is not None and cell.host.redirects and not cell.host.closed:
            other = _assigned(cell, self._name)
            if other is not None:
                return other.write(text)
        return OutStream.write(self, text)


class _Nowhere(io.TextIOBase):
    """In the place of a ``sys.stdout`` that is None: ``print`` says nothing then."""

    def write(self, text):
        return len(text)

    def readline(self, size=-1):
        raise RuntimeError("lost sys.stdin")


_nowhere = _Nowhere()


def _assigned(cell, name):
    """What the caller's session has assigned to ``sys.<name>``; None if nothing."""
    other = cell.host.redirects.get(name, cell)
    return None if other is cell else _nowhere if other is None else other


class InStream(io.TextIOBase):
    """``sys.stdin`` as code of a session finds it: a line is asked for in the notebook."""

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

    def isatty(self):
        target = self._target()
        return False if target is None else target.isatty()

    def fileno(self):
        target = self._target()
        if target is None:
            raise io.UnsupportedOperation("the notebook's input has no file descriptor")
        return target.fileno()


class InDispatcher(InStream):
    """What C code finds in the dict of ``sys``: the stream that stands in ``sys.stdin`` now."""

    def _target(self):
        cell = current()
        return self.below if cell is None else _assigned(cell, "stdin")


def flush_all():
    """Flush what stands in ``sys.stdout`` and ``sys.stderr``; the user's own thing there may be None, or fail."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except Exception:  # of the user's stream; what it shows is not ours
            pass
