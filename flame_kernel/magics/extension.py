"""``%load_ext flame``: ``%flame`` and ``%%flame`` in IPython, in any notebook and in a terminal."""

from __future__ import annotations

import atexit
import re
import sys
from typing import Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from traitlets import Bool, Float

from ..commands import help
from ..commands.language import CELL
from ..commands.options import MAGICS
from ..commands.parsing import Line, parse_cell
from ..connect.installation import another_flame
from ..connect.settings import FlameSettings, file_config
from ..errors import FlameError
from ..group.future import GroupFuture
from ..hot.commands import FIXES
from ..remote.remote import Remote
from ..terminal import warning
from .cells import Cells, RunOptions
from .commands import Commands
from .completion import Matcher, answer_inspect
from .connections import Connections, forget_key
from .jobs import Job
from .old_python import run as run_old
from .output import in_one_line
from .px import INSTALLED, Px


@magics_class
class FlameMagics(Magics):
    """Remote work beside local work: the magics, and their settings."""

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
        self.auto = self.cells.groups.auto
        self.undo_inspect = answer_inspect(shell)

    def __repr__(self) -> str:
        return f"<FlameMagics {self.connections!r}>"

    @line_magic("flame")  # type: ignore[arg-type]  # IPython does not annotate it
    @no_var_expand
    def flame(self, line: str) -> Any:
        """Replaced by the list of commands, below."""
        with in_one_line():
            forget_key(self.shell, line)
            if line.split() == ["px", "--install"]:
                return Px(self.run, self.commands.run, self.auto).install(self.shell)
            return self.commands.run(line)

    @cell_magic("flame")  # type: ignore[arg-type]  # IPython does not annotate it
    @no_var_expand
    def flame_cell(self, line: str, cell: str) -> Job | GroupFuture | None:
        """Replaced by its options, below."""
        with in_one_line():
            if FIXES.match(f"%%flame {line}"):
                self.commands.fix(line, cell)
                return None
            return self.run(parse_cell(line, MAGICS), cell)

    def run(self, line: Line, code: str) -> Job | GroupFuture | None:
        """Run code by the options of a ``%%flame`` line; for options that it lacks, by the settings. Raises FlameError,
        KeyboardInterrupt."""
        old = None if self.cells.groups.means(line["target"]) else self.connections.old(line["target"])
        if old is not None:
            run_old(old, line, code, self.raise_error and not line["no_raise_error"])
            return None
        seconds = self.timeout if line["timeout"] is None else line["timeout"]
        if seconds < 0:
            raise FlameError(f"--timeout is a number of seconds from 0 on, not {seconds:g}")
        background = line["bg"] or not (line["block"] or self.block)
        raise_error = self.raise_error and not line["no_raise_error"]
        return self.cells.run(RunOptions(line, background, raise_error, seconds or None), code)

    @line_magic("autoflame")  # type: ignore[arg-type]  # IPython does not annotate it
    @no_var_expand
    def autoflame(self, line: str) -> None:
        """``%autoflame web``: from now on every cell runs on that group, as with ``%%flame -t web``.

        ``%autoflame`` ends it.
        """
        with in_one_line():
            print(self.auto.toggle(line))

    def close(self) -> None:
        """End the connections."""
        self.commands.close()
        self.cells.groups.close()
        self.connections.close()


_magics: Any = FlameMagics
_magics.flame.__doc__ = f"Work with far sides: stock Pyro4 Flame servers.\n\n{help.overview(MAGICS)}"
_magics.flame_cell.__doc__ = help.about(CELL, MAGICS)

_ASKED = re.compile(r"^\s*%flame\s+(\w+)\s*\?{1,2}\s*$")


def asked(lines: list[str]) -> list[str]:
    """Turn ``%flame NAME?`` into the line that shows the help of that command; IPython would look for a variable of
    that name. IPython calls this with the lines of a cell before it reads them."""
    return [f"%flame help {found.group(1)}\n" if (found := _ASKED.match(line)) else line for line in lines]


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext flame``: called by IPython with its shell."""
    if _loaded(shell) is not None:
        return
    if words := another_flame():
        sys.stderr.write(f"{warning(words)}\n")
    magics = FlameMagics(shell)
    shell.register_magics(magics)
    shell.Completer.custom_matchers.append(magics.matcher.match)
    shell.input_transformers_cleanup.append(asked)
    shell.input_transformers_cleanup.append(magics.auto)
    atexit.register(magics.close)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext flame``: the connections end, the magics are gone."""
    magics = _loaded(shell)
    if magics is None:
        return
    magics.close()
    atexit.unregister(magics.close)
    magics.undo_inspect()
    shell.Completer.custom_matchers.remove(magics.matcher.match)
    shell.input_transformers_cleanup.remove(asked)
    shell.input_transformers_cleanup.remove(magics.auto)
    for kind in ("line", "cell"):
        for name in ("flame", "autoflame", *INSTALLED):
            shell.magics_manager.magics[kind].pop(name, None)
    del shell.magics_manager.registry["FlameMagics"]


def _loaded(shell: Any) -> FlameMagics | None:
    found = shell.magics_manager.registry.get("FlameMagics")
    return found if isinstance(found, FlameMagics) else None


__all__ = ["FlameMagics", "Remote", "load_ipython_extension", "unload_ipython_extension"]
