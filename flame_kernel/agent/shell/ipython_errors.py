"""How a session's IPython shell shows errors: each session its own, and without the agent's frames."""

import sys
import traceback
import types

from .. import own
from ..output import streams
from . import tracebacks


class ShowsErrors:
    """What a session's InteractiveShell does differently with errors; a base class that comes before IPython's own."""

    def showtraceback(self, exc_tuple=None, *args, **kwargs):
        error = (exc_tuple or (sys.exc_info() if sys.exc_info()[1] is not None else self._last_exc_info) or (0, 0))[1]
        if kwargs.get("exception_only") or not resists(error):
            return super().showtraceback(exc_tuple, *args, **kwargs)
        etype, value, tb = self._get_exc_info(exc_tuple)
        return self._showtraceback(etype, value, plain_lines(value, tb, self._outer.cell_name))

    def _showtraceback(self, etype, evalue, stb):
        streams.flush_all()
        content = {"ename": etype.__name__, "evalue": self.text_of(evalue), "traceback": list(stb)}
        self.record_error(dict(content, in_displayhook=self.displayhook.message is not None))
        self._host.publish("error", content)

    def _get_exc_info(self, exc_tuple=None):
        # sys.last_traceback belongs to the process: %tb and %debug must not show another session's error.
        if exc_tuple is None and sys.exc_info()[0] is None and self._last_exc_info is not None:
            exc_tuple = self._last_exc_info
        etype, value, tb = super()._get_exc_info(exc_tuple)
        self._last_exc_info = etype, value, without_ours(tb)
        clear_of_ours(value)
        return self._last_exc_info

    def debugger(self, force=False):
        """``%debug``: examine this session's last error."""
        if not force and not self.call_pdb:
            return
        if self._last_exc_info is None:
            print("No traceback has been produced, nothing to debug.", file=sys.stderr)
            return
        self.InteractiveTB.tb = self._last_exc_info[2]
        self.InteractiveTB.debugger(force=True)

    def _format_exception_for_storage(self, exception, filename=None, running_compiled_code=False):
        # IPython 9 formats each error a second time, for %notebook, and fails if the error's str() fails.
        cell = streams.current()
        shown = self._errors.get(cell.request_id if cell else None) or {}
        name, text = type(exception).__name__, self.text_of(exception)
        return {"ename": name, "evalue": text, "traceback": shown.get("traceback", [])}

    text_of = staticmethod(tracebacks.evalue)

    def traceback_lines(self, etype, value, tb):
        """A traceback as IPython shows it, but not published."""
        if resists(value):
            return plain_lines(value, tb, self._outer.cell_name)
        if hasattr(value, "_render_traceback_"):
            return list(value._render_traceback_())
        if issubclass(etype, SyntaxError):
            return self.SyntaxTB.structured_traceback(etype, value, traceback.extract_tb(tb))
        return self.InteractiveTB.structured_traceback(etype, value, tb, tb_offset=0)


def without_ours(tb):
    """A traceback without the agent's frames, and without those of a debugger at its end; unchanged if no other would
    be left. IPython does not show its own frames either.
    """
    frames = tracebacks.up_to_debugger(tb)
    kept = [frame for frame in frames if not own.has(frame.tb_frame)]
    if not kept or (len(kept) == len(frames) and kept[-1].tb_next is None):
        return tb
    tb = None
    for frame in reversed(kept):
        # An interrupt can come between two lines: then the frame has no line number.
        tb = types.TracebackType(tb, frame.tb_frame, frame.tb_lasti, frame.tb_lineno or 0)
    return tb


def clear_of_ours(error):
    """Remove the agent's frames from the errors behind ``error``, and from the members of groups."""
    seen, todo = {id(error)}, _behind(error)
    while todo:
        one = todo.pop()
        if id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = without_ours(one.__traceback__)
            todo += _behind(one)


def _behind(error):
    try:
        behind = [error.__cause__, error.__context__, *getattr(error, "exceptions", ())]
    except Exception:  # the error's own attributes may raise anything, and "exceptions" may be no sequence
        return []
    return [one for one in behind if isinstance(one, BaseException)]


def resists(error):
    """Whether IPython cannot show an error properly: it prints groups as text, and if the error's own
    ``_render_traceback_`` fails, it shows only that failure."""
    try:
        if hasattr(type(error), "_render_traceback_"):
            return not isinstance(error._render_traceback_(), list)
        seen = set()
        while isinstance(error, BaseException) and id(error) not in seen:
            if any(kind.__name__ == "BaseExceptionGroup" for kind in type(error).__mro__):
                return True
            seen.add(id(error))
            cause = error.__cause__
            error = error.__context__ if cause is None else cause
        return False
    except Exception:  # the error's own attributes may raise anything
        return True


def plain_lines(error, tb, cell_name):
    """The traceback of an error that IPython cannot show."""
    while tb is not None and tb.tb_next is not None:
        if not str(tb.tb_frame.f_globals.get("__name__")).startswith("IPython."):
            break
        tb = tb.tb_next
    cells = types.SimpleNamespace(label=cell_name, refresh=lambda name: None)
    return tracebacks.Formatter(cells).lines(error, tb)
