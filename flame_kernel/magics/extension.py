"""``%load_ext flame``: ``%flame`` and ``%%flame`` in IPython, in any notebook and in a terminal."""

from __future__ import annotations

import argparse
import atexit
import sys
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, kwds, magic_arguments, parse_argstring
from traitlets import Bool, Float

from ..connect.installation import another_flame
from ..connect.settings import FlameSettings, file_config
from ..errors import FlameError, SessionGone
from ..remote.remote import Remote
from ..terminal import plain_text
from .arguments import exact, usage
from .cells import Cells
from .commands import Commands
from .completion import Matcher
from .connections import Connections, forget_key
from .jobs import Job


@magics_class
class FlameMagics(Magics):
    """Remote work beside local work: settings of ``%flame`` and ``%%flame``."""

    block = Bool(True, help="Wait for a %%flame cell; where False, each is a job, as with --bg.").tag(config=True)
    raise_error = Bool(
        True, help="Raise what a %%flame cell raises; where False it is only shown, as with --no-raise-error."
    ).tag(config=True)
    timeout = Float(0.0, help="Seconds after which a %%flame cell is interrupted; 0 for never.").tag(config=True)
    tab_patience = Float(5.0, help="Seconds that Tab waits for names and paths of the far side.").tag(config=True)

    def __init__(self, shell: Any) -> None:
        config = file_config()
        config.merge(shell.config)
        super().__init__(shell, parent=shell, config=config)
        self.connections = Connections(lambda: FlameSettings(parent=self).values())
        self.cells = Cells(shell, self.connections)
        self.commands = Commands(shell, self.connections, self.cells)
        self.matcher = Matcher(self)

    def __repr__(self) -> str:
        return f"<FlameMagics {self.connections!r}>"

    @line_magic("flame")
    @no_var_expand
    @magic_arguments("flame")
    @kwds(description=f"Work with far sides: stock Pyro4 Flame servers.\n\n{Commands.summary()}")
    @argument("command", nargs="?", metavar="COMMAND", help="one of the above; without one: status")
    @argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="%%flame help COMMAND tells them")
    def flame(self, line: str) -> Any:
        try:
            forget_key(self.shell, line)
            return self.commands.run(line.strip() or "status")
        except (FlameError, KeyboardInterrupt) as e:
            raise in_one_line(e) from None

    @cell_magic("flame")
    @no_var_expand
    @exact
    @magic_arguments("%flame")
    @argument("-t", "--target", metavar="TARGET", help="the connection's name; without it the current one")
    @argument("-i", "--in", dest="push", action="append", default=[], metavar="VAR", help="push this variable before")
    @argument("-o", "--pull", action="append", default=[], metavar="VAR", help="pull this variable after")
    @argument("--out", metavar="NAME", help="bind the job here: its output, result, error")
    @argument("-a", "--noblock", "--bg", dest="background", action="store_true", default=None, help="do not wait")
    @argument("-b", "--block", dest="background", action="store_false", default=None, help="wait for it")
    @argument("--local", action="store_true", help="run the cell here, too")
    @argument(
        "--no-raise-error", dest="raise_error", action="store_false", default=None, help="show an error, and go on"
    )
    @argument("--timeout", type=float, metavar="S", help="interrupt the cell after S seconds")
    def flame_cell(self, line: str, cell: str) -> Job | None:
        """Run the cell on a far side: its output, figures, prompts and errors are here, Ctrl-C and Stop go there."""
        try:
            args = self._cell_arguments(line)
            seconds = self.timeout if args.timeout is None else args.timeout
            if seconds < 0:
                raise UsageError(f"--timeout is a number of seconds, and {seconds:g} is none")
            return self.cells.run(args, cell, seconds or None)
        except (FlameError, KeyboardInterrupt) as e:
            raise in_one_line(e) from None

    def _cell_arguments(self, line: str) -> argparse.Namespace:
        method: Any = self.flame_cell
        try:
            args: argparse.Namespace = parse_argstring(method, line)
        except (UsageError, ValueError) as e:
            raise UsageError(f"{e}; usage: {usage(method.parser)}") from None
        if args.background is None:
            args.background = not self.block
        if args.raise_error is None:
            args.raise_error = self.raise_error
        if args.local and args.background:
            raise UsageError("--local runs the cell here as well and waits for both; leave out --bg")
        return args

    def close(self) -> None:
        """End the connections."""
        self.commands.close()
        self.connections.close()


def in_one_line(error: BaseException) -> BaseException:
    """The same error, shown by IPython as one line: where in our code it was raised tells a user nothing.

    What brings a traceback of the far side is shown with that.
    """
    if not hasattr(error, "_render_traceback_"):
        words = str(error)
        if isinstance(error, SessionGone):  # nothing here opens another one unasked
            words = f"the session at {error.location} is gone: {error.reason}; %flame connect begins a new one"
        text = f"\x1b[0;31m{type(error).__name__}\x1b[0m" + (f": {plain_text(words)}" if words else "")
        error._render_traceback_ = lambda: [text]  # type: ignore[attr-defined]
    return error


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext flame``: called by IPython with its shell."""
    if _loaded(shell) is not None:
        return
    if words := another_flame():
        sys.stderr.write(f"Warning: {plain_text(words)}\n")
    magics = FlameMagics(shell)
    shell.register_magics(magics)
    shell.Completer.custom_matchers.append(magics.matcher.match)
    atexit.register(magics.close)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext flame``: the connections end, the magics are gone."""
    magics = _loaded(shell)
    if magics is None:
        return
    magics.close()
    atexit.unregister(magics.close)
    shell.Completer.custom_matchers.remove(magics.matcher.match)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("flame", None)
    del shell.magics_manager.registry["FlameMagics"]


def _loaded(shell: Any) -> FlameMagics | None:
    found = shell.magics_manager.registry.get("FlameMagics")
    return found if isinstance(found, FlameMagics) else None


__all__ = ["FlameMagics", "Remote", "load_ipython_extension", "unload_ipython_extension"]
