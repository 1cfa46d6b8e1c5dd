"""The shell of a session on a server without IPython: runs cells and shows values and errors as ipykernel does.

A cell finds the names that IPython provides (``In``, ``Out``, ``_``, ``get_ipython``, ``display``, ``exit``), and the
front end gets what ipykernel would send.  Code that does not await runs in one step on its lane's thread, where an
interrupt can reach it.
"""

import builtins
import os
import sys
import warnings
import weakref

from ..output import display, streams
from ..output.figures import Figures
from . import tracebacks
from .compiler import AsMain, Compiler
from .completion import Completer
from .inspection import Inspector
from .mini_magics import Exit, MiniIPython, UsageError

# How many values Out keeps; beyond that the oldest fifth is removed, as in IPython.
MAX_OUT = 1000
_UNDERS = ("_", "__", "___")


class MiniShell:
    """The shell of one session. ``host`` is the session core.

    user_ns          the variables of cells: the dict of the session's module
    execution_count  the number of the next cell, from 1
    figures          matplotlib's figures of this session
    payload          the ``payload`` in the reply of the calling cell
    last_error       the exception of the last cell that failed, for %debug and %tb
    hidden           the names in the namespace before the user did anything
    """

    name = "mini"

    def __init__(self, host):
        self._host = host
        self.user_ns = host.namespace.__dict__
        self.execution_count = 1
        self._payloads = weakref.WeakKeyDictionary()  # by Cell, because a subshell's cells run at the same time
        self.last_error = None
        self.figures = Figures(host)
        self.ip = MiniIPython(self, host)
        self._compiler = Compiler(host.session_id, None if host.place.owns_process else AsMain.visit)
        self._tracebacks = tracebacks.Formatter(self._compiler)
        self._unders = self._given = ("", "", "")  # the last three values, and what ``_``, ``__``, ``___`` were set to
        self._latest_input = ""
        self._in, self._out = [""], {}
        self._fill_namespace()
        magics = self.ip.magics()
        self._completer = Completer(self.user_ns, magics)
        self._inspector = Inspector(self.user_ns, magics)
        if host.place.owns_process:
            self.figures.enable_with_pyplot()

    def __repr__(self):
        return "<MiniShell %s, In[%d]>" % (self._host.session_id, self.execution_count)

    def _fill_namespace(self):
        ns = self.user_ns
        ns.setdefault("__builtins__", builtins)
        ns.update(In=self._in, _ih=self._in, Out=self._out, _oh=self._out, _dh=[_cwd()])
        ns.update((name, "") for name in _UNDERS + ("_i", "_ii", "_iii"))
        ns.update(get_ipython=lambda: self.ip, display=display.display)
        ns["exit"] = ns["quit"] = Exit(self)
        self.hidden = dict(ns)

    def shows_text_only(self, text_only):
        """Nothing to do: libraries do not take this shell for a notebook."""

    @property
    def payload(self):
        return self._payloads.setdefault(streams.current() or self, [])

    # -- running -----------------------------------------------------------------------------------------------------

    async def run_cell(self, code, silent=False, store_history=True, cell_id=None, raw=None):
        """Run a cell and return the content of its execute_reply, without user_expressions. An error is published
        before this returns, unless ``silent``. ``raw`` is the cell's text before magics were turned into Python.

        https://jupyter-client.readthedocs.io/en/stable/messaging.html#execute
        """
        if not code or code.isspace():
            return self._reply(self.execution_count - 1)
        store_history = store_history and not silent
        count = self._number(streams.current())
        shown_count = count if store_history else count - 1
        if store_history:
            self.execution_count = max(self.execution_count, count + 1)
            self._store_input(code, count)
        error = None
        try:
            name = self._compiler.remember(code, count, raw)
            steps = self._compiler.compile(code, name, show=not silent)
        except BaseException as e:  # a SyntaxError, or what Python's compiler raises besides; the cell shows it
            error = self._failed(e, silent, compiling=True)
        else:
            try:
                for step in steps:
                    value = step.start(self.user_ns)
                    if step.awaits:
                        value = await value
                    if step.shows:
                        self._show(value, shown_count)
                    value = None
            except BaseException as e:  # the user's code may raise anything; the cell shows it
                error = self._failed(e, silent)
        steps = None
        try:
            self.figures.flush()
        except Exception as e:  # matplotlib and the user's figures may raise anything; the cell shows it
            error = error or self._failed(e, silent)
        return self._reply(shown_count, error)

    def _number(self, cell):
        """The number of a cell: from its client if that gave one, else the next number."""
        count = getattr(cell, "count", None)
        if count is None:
            return self.execution_count
        if any(self._in[count : count + 1]):
            count = cell.count = self.execution_count  # the client does not know of some cells that ran here
        return count

    def run_inner(self, code):
        """Run the body of a cell magic; its value is not shown."""
        name = self._compiler.remember(code, self.execution_count - 1)
        for step in self._compiler.compile(code, name, show=False):
            if step.awaits:
                raise UsageError("await does not work in the body of a cell magic without IPython")
            step.start(self.user_ns)

    def _reply(self, count, error=None):
        payload = self._payloads.pop(streams.current() or self, [])
        reply = {"status": "ok" if error is None else "error"}
        reply.update(error or {}, execution_count=count, user_expressions={}, payload=payload)
        return reply

    def _store_input(self, code, count):
        ns, text = self.user_ns, code.rstrip("\n")
        ns["_iii"], ns["_ii"], ns["_i"] = ns.get("_ii", ""), ns.get("_i", ""), self._latest_input
        ns["_i%d" % count] = self._latest_input = text
        self._in.extend([""] * (count + 1 - len(self._in)))  # some cells were not run by this shell
        self._in[count] = text

    # -- values ------------------------------------------------------------------------------------------------------

    def displayhook(self, value):
        """``sys.displayhook`` for the session's code: shows a value, and stores it as ``_`` and in ``Out``."""
        self._show(value, getattr(streams.current(), "count", None) or self.execution_count - 1)

    def _show(self, value, count):
        if "_" in builtins.__dict__ and self.user_ns.get("_") is self._given[0]:
            self.user_ns.pop("_", None)  # do not hide gettext's function
        if value is None:
            return
        if isinstance(value, Exit):
            value()
            return
        data = None
        try:
            # Look on the class: an object that answers to every attribute has no method of its own.
            if callable(getattr(type(value), "_ipython_display_", None)):
                value._ipython_display_()
            else:
                data, metadata = display.format_bundle(value)
        finally:  # even a value that cannot be shown is stored
            self._remember(value, count)
        if data:
            self._host.publish("execute_result", {"data": data, "metadata": metadata, "execution_count": count})

    def _remember(self, value, count):
        ns = self.user_ns
        if value is self._out:
            return
        if len(self._out) >= MAX_OUT:
            self._cull()
        untouched = all(n not in ns or ns[n] is old for n, old in zip(_UNDERS, self._given))
        self._unders = (value,) + self._unders[:2]
        if untouched and "_" not in builtins.__dict__:
            self._given = self._unders
            ns.update(zip(_UNDERS, self._given))
        ns["_%d" % count] = value
        self._out[count] = value

    def _cull(self):
        oldest = sorted(self._out)[: MAX_OUT // 5]
        warnings.warn(
            "Output cache limit (currently %d entries) hit.\nFlushing oldest %d entries." % (MAX_OUT, len(oldest)),
            stacklevel=2,
        )
        for n in oldest:
            self.user_ns.pop("_%d" % n, None)
            del self._out[n]

    def user_expressions(self, expressions):
        """Evaluate expressions after a cell: ``{name: {"status", "data", "metadata"} or an error}``."""
        found = {}
        for name, expression in expressions.items():
            try:
                data, metadata = display.format_bundle(eval(expression, self.user_ns))
                found[name] = {"status": "ok", "data": data, "metadata": metadata}
            except BaseException as e:  # the user's expression may raise anything; the reply has it
                lines = tracebacks.exception_only(e)
                found[name] = dict(_named(e), status="error", traceback=lines)
        return found

    # -- errors ------------------------------------------------------------------------------------------------------

    def _failed(self, exc, silent, compiling=False):
        """Tell the front end that a cell has raised; returns ename, evalue and traceback for the reply."""
        if isinstance(exc, UsageError):
            print("UsageError: %s" % tracebacks.evalue(exc), file=sys.stderr)
            return dict(_named(exc), traceback=[])
        self.last_error = exc
        if self._host.place.owns_process:  # the process is the session's own: pdb.pm() and the like look there
            sys.last_type, sys.last_value, sys.last_traceback = type(exc), exc, exc.__traceback__
        error = self._error(exc, exc.__traceback__, compiling)
        if not silent:
            self._host.publish("error", dict(error))
            if isinstance(exc, SystemExit) and streams.current().threads is None:  # a program is not told this
                print("To exit: use 'exit' or 'quit'.", file=sys.stderr)
        return error

    def _error(self, exc, tb, compiling=False):
        if compiling:
            lines = tracebacks.exception_only(exc) if not isinstance(exc, SyntaxError) else None
            lines = lines or [self._tracebacks.syntax(exc)]
        elif isinstance(exc, SystemExit):
            lines = ["An exception has occurred, use %tb to see the full traceback.\n"]
            lines += tracebacks.exception_only(exc)
        else:
            lines = self._tracebacks.lines(exc, tb)
        return dict(_named(exc), traceback=lines)

    def format_exception(self, exc_info):
        """``{"ename", "evalue", "traceback"}`` of an exception outside of a cell."""
        _, exc, tb = exc_info
        return self._error(exc, tb)

    def showtraceback(self, exc_info):
        """Publish an error that is not in a reply."""
        self.last_error = exc_info[1]
        self._host.publish("error", self._error(exc_info[1], exc_info[2]))

    def traceback_of(self, exc):
        """The full traceback of an error that was shown before, for %tb."""
        return self._tracebacks.lines(exc, exc.__traceback__)

    def user_traceback(self, exc):
        """The traceback object of an error, starting at the cell, for pdb."""
        return tracebacks.from_user(exc.__traceback__)

    def bundle(self, value):
        """``(data, metadata)`` of a value: the forms in which a front end may show it."""
        return display.format_bundle(value)

    # -- for the debugger --------------------------------------------------------------------------------------------

    @property
    def cell_folder(self):
        return self._compiler.folder

    def cell_file(self, code):
        """The file name of a cell with this text."""
        return self._compiler.cell_file(code)

    def keep_empty_lines(self, keep):
        """Nothing to do: empty lines at the beginning of a cell are always kept here."""

    # -- completion and inspection -----------------------------------------------------------------------------------

    def complete(self, code, cursor_pos=None):
        """The content of a complete_reply; positions count code points. Any thread."""
        return self._completer.complete(code, cursor_pos)

    def inspect(self, code, cursor_pos=None, detail_level=0, omit_sections=()):
        """The content of an inspect_reply. Any thread."""
        return self._inspector.inspect(code, cursor_pos, detail_level, omit_sections)

    def cell_name(self, file):
        """``In[3]`` for a cell's file name, None for any other name."""
        return self._compiler.label(file)

    def page(self, name, detail_level=0):
        """What ``name?`` shows; None if there is no such object."""
        return self._inspector.page(name, detail_level)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self):
        """Undo what this shell has changed in the process. Idempotent; any thread."""
        self.figures.close()
        self._completer.close()
        self._compiler.close()
        self.last_error = None
        self._unders = self._given = ("", "", "")
        self._in.clear()
        self._out.clear()
        self.hidden = {}


def _named(exc):
    return {"ename": tracebacks.ename(exc), "evalue": tracebacks.evalue(exc)}


def _cwd():
    try:
        return os.getcwd()
    except OSError:  # the folder is gone
        return ""
