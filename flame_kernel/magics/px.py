"""ipyparallel's words for several far sides: ``%px``, ``%%px``, ``%autopx``, ``%pxresult``; ``%autoflame``."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from ..commands.options import MAGICS
from ..commands.parsing import parse_cell
from ..errors import FlameError

INSTALLED = ("px", "autopx", "pxresult")
# Cells that an automatic line is not put before: those that begin with one of ours, or with another cell magic.
_OURS = re.compile(r"\s*(%flame\b|%%|%autoflame\b|%autopx\b|%px\b|%pxresult\b)")


class Auto:
    """``%autoflame``: every cell goes to a group, until it is said again. An input transformer of IPython's."""

    def __init__(self) -> None:
        self.line: str | None = None

    def __call__(self, lines: list[str]) -> list[str]:
        if self.line is None or not lines or _OURS.match(lines[0]) or not "".join(lines).strip():
            return lines
        return [f"%%flame {self.line}\n", *lines]

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Within it cells stay here."""
        line, self.line = self.line, None
        try:
            yield
        finally:
            self.line = line

    def toggle(self, line: str) -> str:
        """Begin with the options of ``line``, or end where nothing is said; what is the case now, in words."""
        line = line.strip()
        if self.line is not None and not line:
            self.line = None
            return "cells run here again"
        words = line if line.startswith("-") else f"-t {line}" if line else ""
        read = parse_cell(words, MAGICS)  # a mistake is told now, and not with each cell
        if read["target"] is None:
            raise FlameError("name the hosts: %autoflame web, or %autoflame -t web1,web2 --mask")
        self.line = words
        return f"every cell runs on {read['target']}; %autoflame ends that"


def install(magics: Any, shell: Any) -> None:
    """Make ``%px``, ``%%px``, ``%autopx`` and ``%pxresult`` ours, in place of those that are there."""
    was = [name for name in INSTALLED if name in shell.magics_manager.magics["line"]]
    if was:
        print(f"replaced: {', '.join('%' + name for name in was)}", file=sys.stderr)

    def px(line: str) -> Any:
        """As ``%flame px``."""
        return magics.flame(f"px {line}")

    def px_cell(line: str, cell: str) -> Any:
        """As ``%%flame -t``, on the group of before where none is named."""
        return magics.flame_cell(line if parse_cell(line, MAGICS)["target"] else f"{line} -t :", cell)

    def autopx(line: str) -> None:
        """As ``%autoflame``."""
        magics.autoflame(line)

    def pxresult(line: str) -> None:
        """As ``%flame result``."""
        magics.flame(f"result {line}")

    shell.register_magic_function(px, "line", "px")
    shell.register_magic_function(px_cell, "cell", "px")
    shell.register_magic_function(autopx, "line", "autopx")
    shell.register_magic_function(pxresult, "line", "pxresult")
