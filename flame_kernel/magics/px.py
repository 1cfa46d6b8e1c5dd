"""ipyparallel's magics for several far sides: ``%px``, ``%%px``, ``%autopx``, ``%pxresult``, ``%pxconfig``; and
``%autoflame``.

https://ipyparallel.readthedocs.io/en/stable/tutorial/magics.html
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from IPython.core.magic import no_var_expand

from ..commands import help
from ..commands.language import PX, PXCONFIG
from ..commands.options import MAGICS
from ..commands.parsing import Line, parse, parse_cell
from ..errors import FlameError
from .output import in_one_line

INSTALLED = ("px", "autopx", "pxresult", "pxconfig")
# Cells that get no automatic line: those that begin with a line of ours, or with another cell magic.
_OURS = re.compile(rf"\s*(%%|%({'|'.join(('flame', 'autoflame', *INSTALLED))})\b)")
# The target that means the last group: the slice of all its members.
_BEFORE = ":"


class Auto:
    """``%autoflame``: every cell goes to a group, until ``%autoflame`` is run again. An IPython input transformer.

    check  raises FlameError for a target that does not exist
    """

    def __init__(self, check: Callable[[str], None]) -> None:
        self._check = check
        self.line: str | None = None  # the line that is put before each cell

    def __call__(self, lines: list[str]) -> list[str]:
        if self.line is None or not lines or _OURS.match(lines[0]) or not "".join(lines).strip():
            return lines
        return [f"{self.line}\n", *lines]

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """A context in which cells run here."""
        line, self.line = self.line, None
        try:
            yield
        finally:
            self.line = line

    def toggle(self, line: str) -> str:
        """Begin, with the options of ``line``, or end, if ``line`` is empty; returns the new state in words."""
        line = line.strip()
        if self.line is not None and not line:
            return self._end()
        words = line if line.startswith("-") else f"-t {line}" if line else ""
        read = parse_cell(words, MAGICS)  # a mistake is reported now, and not with each cell
        if read["target"] is None:
            raise FlameError("name the hosts: %autoflame web, or %autoflame -t web1,web2 --mask")
        self._check(read["target"])
        self.line = f"%%flame {words}"
        return f"every cell runs on {read['target']}; %autoflame ends that"

    def toggle_px(self, line: str) -> str:
        """The same for ``%autopx``, with the options of ``%pxconfig``."""
        if self.line is not None:
            return self._end()
        read = parse_cell(line, MAGICS, PX)
        if read["target"] is not None:
            self._check(read["target"])
        self.line = f"%%px {line}"
        return "every cell runs as with %%px; %autopx ends that"

    def _end(self) -> str:
        self.line = None
        return "cells run here again"


class Px:
    """The magics of ipyparallel's names.

    run      runs code by the options of a line
    command  runs a ``%flame`` line
    """

    def __init__(self, run: Callable[[Line, str], Any], command: Callable[[str], Any], auto: Auto) -> None:
        self._run = run
        self._command = command
        self._auto = auto
        self._usual: dict[str, Any] = {"target": _BEFORE}  # the options of %pxconfig

    def __repr__(self) -> str:
        return f"<Px {self._usual}>"

    def install(self, shell: Any) -> None:
        """Register these magics, in place of existing ones."""
        was = [name for name in INSTALLED if name in shell.magics_manager.magics["line"]]
        if was:
            print(f"replaced: {', '.join('%' + name for name in was)}", file=sys.stderr)

        @no_var_expand  # as in ipyparallel: the braces of an f-string are for the far side
        def px(line: str) -> Any:
            """Run a line on several far sides, those of ``%pxconfig -t`` or the last ones: ``%px import os``.

            ``%px -t web1,web2 STATEMENT`` names others.
            """
            with in_one_line():
                read = parse(f"px {line}", MAGICS)
                return self._of(f"-t {read['target']}" if read["target"] else "", read["code"])

        def px_cell(line: str, cell: str) -> Any:
            """Replaced by its options, below."""
            with in_one_line():
                return self._of(line, cell)

        def autopx(line: str) -> None:
            """Run every cell as with ``%%px``, until ``%autopx`` is run again."""
            with in_one_line():
                print(self._auto.toggle_px(line))

        def pxresult(line: str) -> Any:
            """Wait for the last cell and show its results, as ``%flame result --block``."""
            with in_one_line():
                return self._command(f"result --block {line}")

        def pxconfig(line: str) -> None:
            """Replaced by its options, below."""
            with in_one_line():
                self._configure(parse_cell(line, MAGICS, PXCONFIG))

        px_cell.__doc__, pxconfig.__doc__ = help.about(PX, MAGICS), help.about(PXCONFIG, MAGICS)
        shell.register_magic_function(px_cell, "cell", "px")
        for function in (px, autopx, pxresult, pxconfig):
            shell.register_magic_function(function, "line", function.__name__)

    def _of(self, words: str, code: str) -> Any:
        return self._run(parse_cell(words, MAGICS, PX).or_else(self._usual), code)

    def _configure(self, line: Line) -> None:
        self._usual = line.or_else(self._usual).given
