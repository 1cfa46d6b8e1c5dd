"""What commands print: tables for people, times in words, JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from ..commands.tables import aligned
from ..remote.foreground import in_colour
from ..security.terminal import clean

# Columns of the code of a cell that are shown in a table.
CODE_WIDTH = 40


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print ``rows`` below ``header``; in a terminal the header is bold."""
    first, *lines = aligned([[clean(cell) for cell in row] for row in (header, *rows)])
    print(f"\x1b[1m{first}\x1b[0m" if in_colour("stdout") else first)
    for line in lines:
        print(line)


def show_json(value: Any) -> None:
    """Print ``value`` for a program."""
    print(json.dumps(value, indent=1, default=str))


def length(seconds: Any) -> str:
    """A time in words."""
    if not isinstance(seconds, (int, float)):
        return "-"
    for unit, size_of in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size_of:
            return f"{seconds / size_of:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(stamp: Any) -> str:
    """A time of day, with its date."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(stamp)) if isinstance(stamp, (int, float)) else "-"


def first_line(code: Any) -> str:
    """The first line of a cell, short."""
    lines = str(code or "").strip().splitlines()
    line = lines[0] if lines else ""
    return line if len(line) <= CODE_WIDTH else line[: CODE_WIDTH - 1] + "…"
