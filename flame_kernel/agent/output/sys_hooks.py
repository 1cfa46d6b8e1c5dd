"""Hooks in ``sys`` and elsewhere that give a session's code its own streams, input and error display.

``install`` puts dispatchers into the ``sys`` module's dict, where C code finds them.  Code that reads or assigns
``sys.stdout`` goes through a property on the class of the ``sys`` module: the host's threads see and replace their own
object, and an assignment in a session (``redirect_stdout``) affects only that session.  Several versions of the agent
can install hooks: each calls the hook that it found.  When the last session has ended, everything is as it was.
"""

import builtins
import collections
import functools
import getpass
import operator
import os
import sys
import threading

from .. import own
from ..patches import Layer
from . import pool_work
from .streams import InDispatcher, InStream, OutDispatcher, OutStream, Work, current, set_current


def _dispatching(name, below, own):
    """A dispatcher for a hook of ``sys``: calls whatever is assigned to ``sys.<name>`` now."""

    def dispatch(*args):
        cell = current()
        if cell is None:
            return below(*args)
        return cell.host.redirects.get(name, own)(*args)

    dispatch.__name__ = name
    return dispatch


def _own_hook(name, hooks, call):
    """What a session's code sees as the hook ``sys.<name>``, and may keep; it ignores later assignments."""

    def own(*args):
        cell = current()
        return hooks.below(name)(*args) if cell is None else call(cell, *args)

    own.__name__ = name
    return own


def _show_value(cell, value):
    cell.host.shell.displayhook(value)


def _show_exception(cell, etype, value, tb):
    lines = cell.host.shell.format_exception((etype, value, tb))["traceback"]
    cell.host.write(cell, "stderr", "\n".join(lines) + "\n")


SYS_NAMES = ("stdout", "stderr", "stdin", "displayhook", "excepthook")


def _unraisablehook(below):
    def unraisablehook(unraisable):
        cell = current()
        if cell is None or not issubclass(unraisable.exc_type, KeyboardInterrupt) or not cell.host.dropped(cell):
            below(unraisable)

    return unraisablehook


class _Input:
    """``input``. It only says what to call, so that no frame of ours is in the traceback of an EOFError."""

    def __init__(self, below):
        functools.update_wrapper(self, below, updated=())

    def __repr__(self):
        return repr(self.__wrapped__)

    def __get__(self, one, kind=None):
        return self  # in a class it gets no ``self``, like the builtin; and ``help`` takes it for a function

    @property
    def __call__(self):
        cell = current()
        if cell is None or "stdin" in cell.host.redirects:
            return self.__wrapped__
        return self._ask

    def _ask(self, prompt=""):
        return current().host.input(str(prompt))


def _getpass(below):
    def getpass(prompt="Password: ", stream=None, **other):
        cell = current()
        if cell is None:
            return below(prompt, stream, **other)
        return cell.host.input(str(prompt), password=True)

    return getpass


_call = operator.methodcaller("__call__")


def _for_cell(cell, call, *args):
    set_current(cell)
    return call(*args)


def _thread_start(work, below):
    def start(self):
        cell = current()
        if cell is not None:
            work.more()
            if pool_work.is_of_library(sys._getframe(1)):
                cell = Work.of(cell)  # the thread also serves cells that did not start it

            def begin():
                set_current(cell)
                self.__dict__.pop("run", None)  # Thread.run deletes its own references; so do we
                cell.host.debug.begin()

            # C code calls both, so no frame of ours appears in the traceback of an error in the user's code.
            self.run = functools.partial(collections.deque, map(_call, (begin, self.run)), 0)
            if hasattr(self, "_context"):  # from Python 3.14 on an error of ``run`` is shown outside of its context
                self._invoke_excepthook = functools.partial(_for_cell, cell, self._invoke_excepthook)
            if cell.threads is not None:
                cell.threads.add(self)
        return below(self)

    return start


def _thread_class():
    """The class whose ``start`` method all threads use: an app or gevent may have replaced ``threading.Thread`` by
    another class or a function."""
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

    return _by_name(fork)


def _exit(below):
    def _exit(status):
        cell = current()
        if cell is not None:
            cell.host.flush_fork()
        below(status)

    return _by_name(_exit)


def _by_name(function):
    """Give a function of ours in ``os`` the full name of Python's, which pickles for other processes then have."""
    function.__module__, function.__qualname__ = "os", function.__name__
    return function


def _sys_property(name, hooks):
    """A property ``sys.<name>``: the session's own value in a session, else that of the class below."""
    inherited = getattr(type(sys), name, None)

    def get(module):
        cell = current()
        if cell is not None:
            return cell.host.redirects.get(name, hooks.own[name])
        if isinstance(inherited, property):
            return inherited.fget(module)
        return hooks.below(name)

    def put(module, value):
        cell = current()
        if cell is not None:
            if value is hooks.own[name] or value is hooks.mine[name]:
                cell.host.redirects.pop(name, None)
            else:
                cell.host.redirects[name] = value
        elif isinstance(inherited, property):
            inherited.fset(module, value)
        else:
            hooks.replace(name, value)

    def delete(module):
        cell = current()
        if cell is None:
            raise AttributeError(name)
        cell.host.redirects.pop(name, None)  # a session without it would show nothing any more

    return property(get, put, delete)


class Hooks:
    """The dispatchers of one version of the agent, from install to restore.

    Versions may end in any order.  One that ends below another stays in place and passes everything on, until the one
    above ends and removes both.  ``patches`` does the same for things outside ``sys``.
    """

    def __init__(self):
        d = sys.__dict__
        self._found = {name: d.get(name) for name in SYS_NAMES}
        self._state = {"live": True, "found": self._found, "class": type(sys)}
        self._work = pool_work.Layers()
        self._layers = [
            Layer(builtins, "input", _Input),
            Layer(getpass, "getpass", _getpass),
            Layer(_thread_class(), "start", functools.partial(_thread_start, self._work)),
        ]
        if hasattr(os, "fork"):
            self._layers.append(Layer(own.shared(os), "fork", _fork))
            self._layers.append(Layer(own.shared(os), "_exit", _exit))
        if hasattr(sys, "unraisablehook"):
            self._layers.append(Layer(sys, "unraisablehook", _unraisablehook))
        found = self._found
        # What a session's code sees as ``sys.<name>``; and the dispatchers in the ``sys`` module's dict.
        self.own = {
            "stdout": OutStream("stdout", found["stdout"]),
            "stderr": OutStream("stderr", found["stderr"]),
            "stdin": InStream(found["stdin"]),
            "displayhook": _own_hook("displayhook", self, _show_value),
            "excepthook": _own_hook("excepthook", self, _show_exception),
        }
        self.mine = {
            "stdout": OutDispatcher("stdout", found["stdout"]),
            "stderr": OutDispatcher("stderr", found["stderr"]),
            "stdin": InDispatcher(found["stdin"]),
        }
        for name in ("displayhook", "excepthook"):
            self.mine[name] = _dispatching(name, found[name], self.own[name])
        for mine in self.mine.values():
            mine._flame_hooks = self._state
        below = type(sys)
        members = {name: _sys_property(name, self) for name in SYS_NAMES}
        # importlib makes each new module by ``type(sys)(name)``; it must be a plain module.
        members["__new__"] = lambda cls, *args, **kwargs: below(*args, **kwargs)
        members["_flame_hooks"] = self._state
        self._class = type("module", (below,), members)
        d.update(self.mine)
        sys.__class__ = self._class

    def below(self, name):
        """The host's own ``sys.<name>``."""
        return self._found[name]

    def replace(self, name, value):
        """The host assigns ``sys.<name>``: replace what the dispatcher passes on to; sessions do not notice."""
        if value is self.own[name] or value is self.mine[name]:
            return  # the host's code puts back one of our own objects, which would then pass on to itself
        self._found[name] = value
        mine = self.mine[name]
        if isinstance(mine, (OutDispatcher, InDispatcher)):
            mine.below = self.own[name].below = value
        else:
            self.mine[name] = sys.__dict__[name] = _dispatching(name, value, self.own[name])
            self.mine[name]._flame_hooks = self._state

    def restore(self):
        """Put back what was found, unless others have since installed hooks above ours, which still call ours."""
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
        self._work.remove()

    def check(self):
        """At the start of a cell: install our dispatchers again if stock Flame's console or others replaced them."""
        d = sys.__dict__
        if type(sys) is not self._class:
            return  # a newer agent is above, and calls ours
        for name, mine in self.mine.items():
            if d.get(name) is self.own[name] or type(d.get(name)) is not type(mine):
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
    """Count one more session that needs the dispatchers; the first one installs them."""
    global _hooks, _users
    with _lock:
        _users += 1
        if _hooks is None:
            _hooks = Hooks()


def uninstall():
    """Count one session less; after the last one everything is as it was found."""
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
