"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..commands.tables import aligned
from ..remote.foreground import in_colour


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print ``rows`` below ``header``; in a terminal the header is bold."""
    first, *lines = aligned([header, *rows])
    print(f"\x1b[1m{first}\x1b[0m" if in_colour("stdout") else first)
    for line in lines:
        print(line)


def show_json(value: Any) -> None:
    """Print ``value`` for a program."""
    print(json.dumps(value, indent=1, default=str))
