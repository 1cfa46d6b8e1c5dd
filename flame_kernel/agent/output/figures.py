"""Matplotlib in a session: figures shown in the notebook at the end of a cell, and at ``plt.show()``.

In a server's process the app and the sessions share pyplot's table of figures and its backend.  A session that asks for
inline figures gets its own table and Agg backend, which pyplot uses whenever that session's code runs.  The app, and
sessions that did not ask, keep the shared ones.  Nothing here imports matplotlib before it is asked for or imported.
"""

import base64
import collections
import importlib
import io
import sys

from ..on_import import OnImport
from ..patches import Layer
from . import streams

_shared = None


class Figures:
    """The figures of one session; also its pyplot backend once ``enable`` was called.

    host   the session core; ``host.shell.figures`` must be this object
    """

    def __init__(self, host):
        self.table = collections.OrderedDict()
        self.enabled = False
        self.close_figures = True  # after showing them at the end of a cell; otherwise they stay open for the next cell
        self._host = host
        self._show_one = self._publish
        self._drawn = []  # figures made since the last flush while pyplot is interactive
        self._hook = None

    def __repr__(self):
        return "<Figures %s, %d open>" % ("enabled" if self.enabled else "off", len(self.table))

    # -- switching on and off ----------------------------------------------------------------------------------------

    def enable(self):
        """Give this session its own figures and show them in the notebook from now on. Raises ImportError."""
        global _shared
        importlib.import_module("matplotlib.pyplot")
        if _shared is None:
            _shared = _Shared()
        _shared.users.add(id(self))
        self.enabled = True

    def show_by(self, function):
        """Show figures by calling ``function(figure)``; without this they are published as PNG."""
        self._show_one = function

    def enable_with_pyplot(self, enable=None):
        """Call ``enable`` (by default ours) as soon as pyplot is imported. For a child, whose process is ours alone."""
        if "matplotlib.pyplot" in sys.modules:
            (enable or self.enable)()
        elif self._hook is None:
            self._hook = OnImport("matplotlib.pyplot".__eq__, lambda _: (enable or self.enable)())

    def close(self):
        """Close this session's figures; when the last session closes, pyplot is as it was found."""
        global _shared
        if self._hook is not None:
            self._hook.remove()
        self._hook = None
        for manager in list(self.table.values()):
            try:
                manager.destroy()
            except Exception:  # a figure that cannot be destroyed is no reason to keep the session
                pass
        self.table.clear()
        self._drawn = []
        if self.enabled:
            self.enabled = False
            _shared.users.discard(id(self))
            if not _shared.users:
                _shared.remove()
                _shared = None

    # -- pyplot calls these on a backend -----------------------------------------------------------------------------

    backend_version = "flame"

    @property
    def FigureCanvas(self):
        return importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg

    @property
    def FigureManager(self):
        return importlib.import_module("matplotlib.backend_bases").FigureManagerBase

    def new_figure_manager(self, num, *args, **kwargs):
        cls = kwargs.pop("FigureClass", None) or importlib.import_module("matplotlib.figure").Figure
        return self.new_figure_manager_given_figure(num, cls(*args, **kwargs))

    def new_figure_manager_given_figure(self, num, figure):
        manager = self.FigureManager(self.FigureCanvas(figure), num)
        if type(figure).__dict__.get("show") is None:
            figure.show = lambda *args, **kwargs: self._show_one(figure)
        if self._interactive():
            self._drawn.append(figure)
        return manager

    def draw_if_interactive(self):
        """Nothing to do here: figures are drawn when they are shown."""

    def show(self, close=None, block=None):
        """``plt.show()``: show all open figures and close them."""
        try:
            for manager in list(self.table.values()):
                self._show_one(manager.canvas.figure)
        finally:
            self._drawn = []
            if (self.close_figures if close is None else close) and self.table:
                sys.modules["matplotlib.pyplot"].close("all")

    # -- for the shell -----------------------------------------------------------------------------------------------

    def flush(self):
        """At the end of a cell: show what was drawn in it and not shown yet."""
        if not self._drawn:
            return
        if self.close_figures:
            self.show(close=True)
            return
        drawn, self._drawn = self._drawn, []
        open_figures = [manager.canvas.figure for manager in self.table.values()]
        for figure in drawn:
            if figure in open_figures:
                self._show_one(figure)

    def picture(self, obj):
        """PNG of a matplotlib figure that is not empty, if figures are inline; None for any other object."""
        module = sys.modules.get("matplotlib.figure")
        if not self.enabled or module is None or not isinstance(obj, module.Figure) or not (obj.axes or obj.lines):
            return None
        return png(obj)

    def _interactive(self):
        return sys.modules["matplotlib"].is_interactive() or (_shared is not None and _shared.app_has_windows)

    def _publish(self, figure):
        data = {"image/png": png(figure), "text/plain": repr(figure)}
        self._host.publish("display_data", {"data": data, "metadata": {}, "transient": {}})


def png(figure):
    """A matplotlib figure as PNG in base64 text, cropped to what is drawn, as in IPython."""
    if getattr(figure, "canvas", None) is None or not hasattr(figure.canvas, "print_png"):
        importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    kwargs = {"facecolor": figure.get_facecolor(), "edgecolor": figure.get_edgecolor()}
    figure.canvas.print_figure(buffer, format="png", bbox_inches="tight", dpi=figure.dpi, **kwargs)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _mine():
    """The Figures of the session whose code is calling, if it has inline figures; else None."""
    cell = streams.current()
    figures = getattr(cell.host.shell, "figures", None) if cell is not None else None
    return figures if figures is not None and figures.enabled else None


class _Shared:
    """Our replacements in pyplot, shared by all sessions of this version of the agent."""

    def __init__(self):
        pyplot = sys.modules["matplotlib.pyplot"]
        matplotlib = sys.modules["matplotlib"]
        gcf = importlib.import_module("matplotlib._pylab_helpers").Gcf
        canvas = getattr(vars(pyplot).get("_backend_mod"), "FigureCanvas", None)
        self.users = set()
        # pyplot's "interactive" is one switch for the process, so leave it alone if the app has windows of its own.
        self.app_has_windows = bool(getattr(canvas, "required_interactive_framework", None))
        self._switched = not self.app_has_windows and not matplotlib.is_interactive()
        self._layers = [Layer(gcf, "figs", _Table)]
        if hasattr(pyplot, "_get_backend_mod"):
            self._layers.append(Layer(pyplot, "_get_backend_mod", _backend_getter))
        else:  # matplotlib before 3.5
            self._layers.append(Layer(pyplot, "_backend_mod", _Backend))
        for name in ("install_repl_displayhook", "uninstall_repl_displayhook"):
            if hasattr(pyplot, name):
                self._layers.append(Layer(pyplot, name, _unless_mine))
        if self._switched:
            matplotlib.interactive(True)

    def remove(self):
        for layer in self._layers:
            layer.remove()
        if self._switched:
            sys.modules["matplotlib"].interactive(False)


def _backend_getter(found):
    def _get_backend_mod():
        return _mine() or found()

    return _get_backend_mod


def _unless_mine(found):
    """Keep pyplot from turning its redrawing after IPython's cells on or off, since that is one switch for the whole
    process; our sessions call ``flush`` instead."""

    def change_displayhook():
        return None if _mine() else found()

    return change_displayhook


class _Backend:
    """Replaces pyplot's backend module: looks up each attribute in the calling session's backend."""

    def __init__(self, found):
        self._found = found

    def __getattr__(self, name):
        return getattr(_mine() or self._found, name)


class _Table:
    """Replaces ``Gcf.figs``, pyplot's ordered dict of figure managers: uses the calling session's table."""

    def __init__(self, found):
        self._found = found

    def _target(self):
        figures = _mine()
        return self._found if figures is None else figures.table

    def __getattr__(self, name):
        return getattr(self._target(), name)

    def __getitem__(self, num):
        return self._target()[num]

    def __setitem__(self, num, manager):
        self._target()[num] = manager

    def __delitem__(self, num):
        del self._target()[num]

    def __contains__(self, num):
        return num in self._target()

    def __iter__(self):
        return iter(self._target())

    def __reversed__(self):
        return reversed(self._target())

    def __len__(self):
        return len(self._target())

    def __eq__(self, other):
        return self._target() == other

    __hash__ = None
