"""IPython's process-wide names: while sessions use IPython, these names find the shell of the calling code.

They are ``InteractiveShell.instance()`` and ``initialized()`` (used by ``get_ipython()``, ``display()``, ipywidgets and
matplotlib), the builtins ``get_ipython``, ``display`` and ``__IPYTHON__``, and other things that IPython has once per
process.  Code of the app still finds the app's own IPython.
"""

import contextlib
import functools
import linecache
import sys
import threading
import warnings

from ..output import streams
from ..patches import MISSING, Layer

_calls = threading.local()  # .ip: the shell for which this thread works outside of a cell
_lock = threading.Lock()
_shared = None


def current():
    """The IPython shell of the session for which the caller works, or None."""
    ip = getattr(_calls, "ip", None)
    if ip is not None:
        return ip
    cell = streams.current()
    if cell is not None:
        return getattr(cell.host.shell, "ip", None)
    return None if _shared is None else _shared.only


@contextlib.contextmanager
def serving(ip):
    """A context in which this thread's code finds ``ip`` though no cell runs: for completion, start and end."""
    before = getattr(_calls, "ip", None)
    _calls.ip = ip
    try:
        yield
    finally:
        _calls.ip = before


@contextlib.contextmanager
def quiet_import():
    """A context in which importing IPython does not change the process's warning filters and linecache functions."""
    before = list(warnings.filters)
    linecache_found = _linecache()
    try:
        yield
    finally:
        for entry in [entry for entry in warnings.filters if entry not in before]:
            warnings.filters.remove(entry)
        _restore_linecache(linecache_found)


def _linecache():
    return linecache.checkcache, hasattr(linecache, "_checkcache_ori")


def _restore_linecache(found):
    """Undo IPython 7's process-wide patch of ``checkcache``; our cells do not need it, see Compiler.cache."""
    checkcache, patched = found
    if not patched and hasattr(linecache, "_checkcache_ori"):
        linecache.checkcache = checkcache
        del linecache._checkcache_ori
        linecache.__dict__.pop("_ipython_cache", None)


def install(ip, alone):
    """Count one more shell. ``alone``: the process is the session's own, so code outside cells finds it too."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = _Shared()
        _shared.users.add(id(ip))
        if alone:
            _shared.only = ip


def uninstall(ip):
    """Count one shell less; after the last one everything is as it was found."""
    global _shared
    with _lock:
        if _shared is None or id(ip) not in _shared.users:
            return
        _shared.users.discard(id(ip))
        if _shared.only is ip:
            _shared.only = None
        if not _shared.users:
            _shared.remove()
            _shared = None


class _Shared:
    """The patches (layers) of this version of the agent."""

    def __init__(self):
        import builtins

        from IPython.core import completer, interactiveshell
        from IPython.display import display

        cls = interactiveshell.InteractiveShell
        self.users = set()
        self.only = None
        self._linecache = _linecache()
        self.layers = [
            Layer(cls, "initialized", functools.partial(_initialized, cls)),
            Layer(cls, "instance", functools.partial(_instance, cls)),
            Layer(builtins, "get_ipython", _get_ipython),
            Layer(builtins, "display", functools.partial(_display, display)),
            Layer(builtins, "__IPYTHON__", _Flag),
            Layer(completer, "warnings", functools.partial(_Warnings, completer.ProvisionalCompleterWarning)),
        ]

    def remove(self):
        for layer in self.layers:
            layer.remove()
        _restore_linecache(self._linecache)


def _below(shell_class, name, found):
    """The class method of that name from before our layer: the class's own, or the inherited one."""
    inherited = getattr(super(shell_class, shell_class), name).__func__

    def call(cls, *args, **kwargs):
        method = inherited if found is MISSING else found.__func__
        return method(cls, *args, **kwargs)

    return call


def _initialized(shell_class, found):
    below = _below(shell_class, "initialized", found)

    def initialized(cls):
        return isinstance(current(), cls) or below(cls)

    initialized.__doc__ = shell_class.initialized.__doc__
    return classmethod(initialized)


def _instance(shell_class, found):
    below = _below(shell_class, "instance", found)

    def instance(cls, *args, **kwargs):
        ip = current()
        return ip if isinstance(ip, cls) else below(cls, *args, **kwargs)

    instance.__doc__ = shell_class.instance.__doc__
    return classmethod(instance)


def _get_ipython(found):
    def get_ipython():
        """The IPython shell of this session."""
        ip = current()
        if ip is not None:
            return ip
        if found is MISSING:
            # Code of the app checks this name to learn whether it runs in IPython; it does not.
            raise NameError("name 'get_ipython' is not defined")
        return found()

    return get_ipython


def _display(display, found):
    @functools.wraps(display)
    def dispatch(*objs, **kwargs):
        if current() is None:
            if found is MISSING:
                raise NameError("name 'display' is not defined")
            return found(*objs, **kwargs)
        return display(*objs, **kwargs)

    return dispatch


class _Flag(int):
    """``__IPYTHON__``: true, and able to have the attribute that marks a layer."""

    def __new__(cls, found):
        return int.__new__(cls, 1)

    def __repr__(self):
        return "True"


class _Warnings:
    """Replaces the module ``warnings`` in IPython's completer.

    IPython's completions warn that they are provisional.  ``catch_warnings`` would change the filters of the whole
    process while other threads run cells.  So this one warning is dropped here, on the threads on which we complete.
    """

    def __init__(self, category, found):
        self._category = category
        self._found = found

    def __getattr__(self, name):
        return getattr(self._found, name)

    def warn(self, message, category=None, stacklevel=1, **kwargs):
        if category is self._category and getattr(_calls, "ip", None) is not None:
            return
        self._found.warn(message, category, stacklevel + 1, **kwargs)


def forget_last_exception(error):
    """Remove the error of a session that ends from ``sys.last_value``: its traceback would keep all variables alive."""
    if error is not None and getattr(sys, "last_value", None) is error:
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            if hasattr(sys, name):
                delattr(sys, name)
