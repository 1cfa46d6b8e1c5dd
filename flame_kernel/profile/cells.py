"""``%%profile``, and ``%%flame --profile`` for the present far side: a cell whose time is looked at."""

from __future__ import annotations

import re

from ..commands.looking import PROFILE_CELL
from ..commands.options import KERNEL
from ..commands.parsing import Line, parse_cell

_FIRST = re.compile(r"%%(profile|flame)(?:\s+(.*))?$")


def of_cell(code: str) -> tuple[Line | None, str]:
    """How a cell's time is to be looked at, None if it is not; and the cell without the line that says so. Raises
    FlameError."""
    first, _, rest = code.partition("\n")
    found = _FIRST.match(first.strip())
    if found is None:
        return None, code
    if found[1] == "profile":
        return parse_cell(found[2] or "", KERNEL, PROFILE_CELL), rest
    if (found[2] or "").split() == ["--profile"]:
        return parse_cell("", KERNEL, PROFILE_CELL), rest
    return None, code
