"""ipywidgets in a session: each session has its own copy of what ipywidgets has once per process.

ipywidgets has one table of all widgets and one comm for the front end's questions about them, and it registers for
messages with whichever comm manager is there when it is first imported.  Here each session has its own table; the app's
widgets, if any, stay in the original one.  Nothing here imports ipywidgets before someone else has.  For ipywidgets 7
and 8.
"""

import collections.abc
import contextlib
import platform
import re
import socket
import sys
import threading

from ..patches import Layer
from . import streams

CONTROL = "jupyter.widget.control"
# Modules that widgets need; if a cell misses one, the user is told how to get it.
_WANTED = ("ipywidgets", "comm", "anywidget", "ipympl")
_REFERENCE = "IPY_MODEL_"

_lock = threading.Lock()
_control_lock = threading.RLock()
_layers = []


class Table(collections.abc.MutableMapping):
    """Widgets by comm id: those of the session whose code asks, or else those of the original table."""

    def __init__(self, found):
        self._found = found

    def _mine(self):
        cell = streams.current()
        comms = None if cell is None else cell.host.comms
        return self._found if comms is None else comms.widgets

    def __getitem__(self, comm_id):
        return self._mine()[comm_id]

    def __setitem__(self, comm_id, widget):
        self._mine()[comm_id] = widget

    def __delitem__(self, comm_id):
        del self._mine()[comm_id]

    def __iter__(self):
        return iter(list(self._mine()))  # a copy: other threads make widgets too

    def __len__(self):
        return len(self._mine())


def _module():
    return sys.modules.get("ipywidgets.widgets.widget")


def share():
    """Before a comm is made: if ipywidgets is loaded, give each session its own table of widgets from now on."""
    module = _module()
    if module is None or _layers:
        return
    with _lock:
        if _layers:
            return
        if hasattr(module, "_instances"):
            _layers.append(Layer(module, "_instances", Table))
        elif isinstance(getattr(getattr(module, "Widget", None), "widgets", None), dict):  # ipywidgets 7
            _layers.append(Layer(module.Widget, "widgets", Table))


def unshare():
    """When no session is left: put the original table back."""
    with _lock:
        while _layers:
            _layers.pop().remove()


def target(name):
    """ipywidgets' handler of a ``comm_open`` for one of its targets; None for other targets, or if it is not loaded."""
    widget = getattr(_module(), "Widget", None)
    if name == "jupyter.widget":
        return getattr(widget, "handle_comm_opened", None)
    if name == CONTROL:
        return getattr(widget, "handle_control_comm_opened", None)
    return None


@contextlib.contextmanager
def answering(comm):
    """A context in which ipywidgets answers a question about all widgets on the comm that asked it."""
    widget = getattr(_module(), "Widget", None)
    if comm.target_name != CONTROL or widget is None:
        yield
        return
    with _control_lock:
        before = getattr(widget, "_control_comm", None)
        widget._control_comm = comm
        try:
            yield
        finally:
            widget._control_comm = before


def forget(table):
    """At the end of a session: make ipywidgets forget the session's comm."""
    widget = getattr(_module(), "Widget", None)
    with _control_lock:
        control = getattr(widget, "_control_comm", None)
        if getattr(getattr(control, "_comms", None), "widgets", None) is table:
            widget._control_comm = None
    table.clear()


def announcements(table):
    """``(comm, arguments of its comm_open)`` of each widget as it is now; those that others refer to come first."""
    module = _module()
    if module is None:
        return
    states, order = {}, []

    def visit(comm_id):
        if comm_id in states or comm_id not in table:
            return
        try:
            states[comm_id] = table[comm_id].get_state()
        except Exception:  # a widget that is broken, in whatever way, is left out
            states[comm_id] = None
            return
        for reference in _references(states[comm_id]):
            visit(reference)
        order.append(comm_id)

    for comm_id in list(table):
        visit(comm_id)
    version = sys.modules["ipywidgets._version"].__protocol_version__
    for comm_id in order:
        comm = table[comm_id].comm
        if comm is not None:
            state, paths, buffers = module._remove_buffers(states[comm_id])
            data = {"state": state, "buffer_paths": paths}
            yield comm, {"data": data, "metadata": {"version": version}, "buffers": buffers}


def _references(state):
    if isinstance(state, str):
        return [state[len(_REFERENCE) :]] if state.startswith(_REFERENCE) else []
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, (list, tuple)):
        return [reference for item in state for reference in _references(item)]
    return []


def missing(reply, shell):
    """What to tell the user if the cell failed because the far side cannot show widgets; None for other cells."""
    if reply.get("ename") not in ("ImportError", "ModuleNotFoundError"):
        return None
    found = re.match(r"No module named '(\w+)", reply.get("evalue") or "")
    name = found.group(1) if found is not None else ""
    if "IProgress not found" in (reply.get("evalue") or ""):  # tqdm's message
        name = "ipywidgets"
    if name not in _WANTED:
        return None
    then = ", then restart the kernel (widgets need IPython there as well)" if shell == "mini" else ""
    where = (name, socket.gethostname(), platform.python_version(), name, then, name)
    words = "Widgets need %s, which is not installed on %s (Python %s): %%pip install %s%s; without internet there: "
    return (words + "%%flame pip install %s\n") % where
