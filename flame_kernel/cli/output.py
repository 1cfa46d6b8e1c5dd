"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..commands.tables import aligned
from ..remote.foreground import in_colour


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print ``rows`` below ``header``; in a terminal the header is bold."""
    show_lines(aligned([header, *rows]))


def show_lines(lines: Sequence[str]) -> None:
    """Print the lines of a table; in a terminal its heading is bold."""
    heading, *rows = lines
    print(f"\x1b[1m{heading}\x1b[0m" if rows and in_colour("stdout") else heading)
    for line in rows:
        print(line)


def show_json(value: Any) -> None:
    """Print ``value`` for a program."""
    print(json.dumps(value, indent=1, default=str))
