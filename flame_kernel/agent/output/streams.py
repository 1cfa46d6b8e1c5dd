"""stdout, stderr, stdin and the hooks of ``sys``, by session: whose code runs decides where its output goes.

``current()`` is the cell for which the calling thread or task runs, or None for the host's own code.  A context
variable carries it, so that asyncio tasks keep the cell that made them; ``Thread.start`` hands it on to threads.

``install`` puts dispatchers into the dict of ``sys``, where C code finds them.  Code that reads or assigns
``sys.stdout`` meets a property on the class of the ``sys`` module: the host's threads see and replace their own object,
and an assignment in a session (``redirect_stdout``) holds for that session alone.  Versions of the agent stack: each
calls what it found.  When the last session has ended, all is as it was.
"""

import builtins
import codecs
import collections
import functools
import getpass
import io
import operator
import os
import sys
import threading

from ..patches import Layer

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
    """

    __slots__ = ("__weakref__", "allow_stdin", "flushes", "host", "lane", "request_id", "silent", "threads")

    def __init__(self, request_id, host, allow_stdin=False, silent=False, lane=""):
        self.request_id = request_id
        self.host = host
        self.allow_stdin = allow_stdin
        self.silent = silent
        self.flushes = 0  # how often it has flushed
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
    """``sys.stdout`` or ``sys.stderr``: passes text to the session of the caller, or to the host's own stream."""

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
    def buffer(self):
        target = self._target()
        return self._buffer if target is None else target.buffer

    def _target(self):
        """The stream that gets the text; None if the caller's session gets it."""
        cell = current()
        if cell is None:
            return self.below
        return cell.host.redirects.get(self._name)

    def write(self, text):
        cell = _current.get()  # ``current()``, without the call: a print does this twice
        host = None if cell is None else cell.host
        if host is None or host.closed:
            return self.below.write(text) if self.below is not None else len(text)
        if host.redirects:
            other = host.redirects.get(self._name)
            if other is not None:
                return other.write(text)
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


class InStream(io.TextIOBase):
    """``sys.stdin``: in a session a line is asked for in the notebook."""

    encoding = "utf-8"
    errors = "strict"
    name = "<stdin>"

    def __init__(self, below):
        self.below = below

    def _target(self):
        cell = current()
        return self.below if cell is None else cell.host.redirects.get("stdin")

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


def _displayhook(below):
    def displayhook(value):
        cell = current()
        if cell is None:
            return below(value)
        return cell.host.redirects.get("displayhook", cell.host.shell.displayhook)(value)

    return displayhook


def _excepthook(below):
    def excepthook(etype, value, tb):
        cell = current()
        if cell is None:
            return below(etype, value, tb)
        hook = cell.host.redirects.get("excepthook")
        if hook is not None:
            return hook(etype, value, tb)
        lines = cell.host.shell.format_exception((etype, value, tb))["traceback"]
        cell.host.write(cell, "stderr", "\n".join(lines) + "\n")

    return excepthook


SYS_NAMES = ("stdout", "stderr", "stdin", "displayhook", "excepthook")


def _unraisablehook(below):
    def unraisablehook(unraisable):
        cell = current()
        if cell is None or not issubclass(unraisable.exc_type, KeyboardInterrupt) or not cell.host.dropped(cell):
            below(unraisable)

    return unraisablehook


def _input(below):
    def input(prompt=""):
        cell = current()
        if cell is None or "stdin" in cell.host.redirects:
            return below(prompt)
        return cell.host.input(str(prompt))

    input.__doc__ = below.__doc__
    return input


def _getpass(below):
    def getpass(prompt="Password: ", stream=None, **other):
        cell = current()
        if cell is None:
            return below(prompt, stream, **other)
        return cell.host.input(str(prompt), password=True)

    return getpass


_call = operator.methodcaller("__call__")


def _thread_start(below):
    def start(self):
        cell = current()
        if cell is not None:

            def begin():
                set_current(cell)
                self.__dict__.pop("run", None)  # Thread.run clears its own references; so do we
                cell.host.debug.begin()

            # Both are called by C: an error of the user's passes no frame of ours, which its traceback would show.
            self.run = functools.partial(collections.deque, map(_call, (begin, self.run)), 0)
            if cell.threads is not None:
                cell.threads.add(self)
        return below(self)

    return start


def _thread_class():
    """The class whose ``start`` all threads pass: an app, or gevent, may have put another class, or a function, in the
    place of ``threading.Thread``."""
    for kind in (threading.Thread, threading.Timer):
        for base in reversed(getattr(kind, "__mro__", ())):
            if "start" in vars(base):
                return base
    return threading.Thread


def _fork(below):
    def fork():
        cell = current()
        if cell is not None:
            cell.host.before_fork()
        return below()

    return fork


def _sys_property(name, hooks):
    """``sys.<name>``, read and assigned: a session's own while it has one, else that of the class below."""
    inherited = getattr(type(sys), name, None)

    def get(module):
        cell = current()
        if cell is not None:
            return cell.host.redirects.get(name, hooks.mine[name])
        if isinstance(inherited, property):
            return inherited.fget(module)
        return hooks.below(name)

    def put(module, value):
        cell = current()
        if cell is not None:
            if value is hooks.mine[name]:
                cell.host.redirects.pop(name, None)
            else:
                cell.host.redirects[name] = value
        elif isinstance(inherited, property):
            inherited.fset(module, value)
        else:
            hooks.replace(name, value)

    return property(get, put)


class Hooks:
    """The dispatchers of one version of the agent, between install and restore.

    Versions stack, and may end in any order.  One that ends below another stays and passes everything on; the one above
    removes it when it ends itself.  ``patches`` does the same for what is no part of ``sys``.
    """

    def __init__(self):
        d = sys.__dict__
        self._found = {name: d.get(name) for name in SYS_NAMES}
        self._state = {"live": True, "found": self._found, "class": type(sys)}
        self._layers = [
            Layer(builtins, "input", _input),
            Layer(getpass, "getpass", _getpass),
            Layer(_thread_class(), "start", _thread_start),
        ]
        if hasattr(os, "fork"):
            self._layers.append(Layer(os, "fork", _fork))
        if hasattr(sys, "unraisablehook"):
            self._layers.append(Layer(sys, "unraisablehook", _unraisablehook))
        found = self._found
        self.mine = {
            "stdout": OutStream("stdout", found["stdout"]),
            "stderr": OutStream("stderr", found["stderr"]),
            "stdin": InStream(found["stdin"]),
            "displayhook": _displayhook(found["displayhook"]),
            "excepthook": _excepthook(found["excepthook"]),
        }
        for mine in self.mine.values():
            mine._flame_hooks = self._state
        below = type(sys)
        members = {name: _sys_property(name, self) for name in SYS_NAMES}
        # importlib makes each new module by ``type(sys)(name)``: it is to be a plain one.
        members["__new__"] = lambda cls, *args, **kwargs: below(*args, **kwargs)
        members["_flame_hooks"] = self._state
        self._class = type("module", (below,), members)
        d.update(self.mine)
        sys.__class__ = self._class

    def below(self, name):
        """What the host itself has as ``sys.<name>``."""
        return self._found[name]

    def replace(self, name, value):
        """The host assigns ``sys.<name>``: it becomes what is below the dispatcher; sessions do not notice."""
        self._found[name] = value
        mine = self.mine[name]
        if isinstance(mine, (OutStream, InStream)):
            mine.below = value
        else:
            make = _displayhook if name == "displayhook" else _excepthook
            self.mine[name] = sys.__dict__[name] = make(value)
            self.mine[name]._flame_hooks = self._state

    def restore(self):
        """Put back what was found, except where others have put something above ours since, which calls ours."""
        self._state["live"] = False
        d = sys.__dict__
        for name in SYS_NAMES:
            value = d.get(name)
            while _ended(value):
                value = value._flame_hooks["found"][name]
            d[name] = value
        kind = type(sys)
        while _ended(kind):
            kind = kind.__dict__["_flame_hooks"]["class"]
        sys.__class__ = kind
        for layer in self._layers:
            layer.remove()

    def check(self):
        """At the start of a cell: put our dispatchers in again if stock Flame's console or others replaced them."""
        d = sys.__dict__
        if type(sys) is not self._class:
            return  # a newer agent stands above, and calls ours
        for name, mine in self.mine.items():
            if d.get(name) is not mine and not isinstance(d.get(name), type(mine)):
                self.replace(name, d.get(name))
                d[name] = self.mine[name]


def _ended(thing):
    """Whether a dispatcher, or a class of ``sys``, belongs to a version whose sessions have all ended."""
    state = getattr(thing, "__dict__", {}).get("_flame_hooks")
    return state is not None and not state["live"]


_hooks = None
_users = 0
_lock = threading.Lock()


def install():
    """One session more needs the dispatchers."""
    global _hooks, _users
    with _lock:
        _users += 1
        if _hooks is None:
            _hooks = Hooks()


def uninstall():
    """One session less; with the last one everything is as it was found."""
    global _hooks, _users
    with _lock:
        _users -= 1
        if _users == 0 and _hooks is not None:
            _hooks.restore()
            _hooks = None


def check():
    """See Hooks.check."""
    hooks = _hooks
    if hooks is not None:
        hooks.check()
