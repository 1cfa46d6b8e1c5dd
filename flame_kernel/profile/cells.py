"""Recognizes ``%%profile``, and ``%%flame --profile`` for the current far side: a cell to be profiled."""

from __future__ import annotations

import re

from ..commands.looking import PROFILE_CELL
from ..commands.options import KERNEL
from ..commands.parsing import Line, parse_cell

_FIRST = re.compile(r"%%(profile|flame)(?:\s+(.*))?$")


def of_cell(code: str) -> tuple[Line | None, str]:
    """``(the options for profiling a cell, the cell without that line)``; the options are None for any other cell.
    Raises FlameError."""
    first, _, rest = code.partition("\n")
    found = _FIRST.match(first.strip())
    if found is None:
        return None, code
    if found[1] == "profile":
        return parse_cell(found[2] or "", KERNEL, PROFILE_CELL), rest
    if (found[2] or "").split() == ["--profile"]:
        return parse_cell("", KERNEL, PROFILE_CELL), rest
    return None, code
