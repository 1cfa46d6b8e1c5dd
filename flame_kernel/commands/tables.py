"""Tables of text: the columns under each other."""

from __future__ import annotations

from collections.abc import Sequence

from ..terminal import plain_text


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, without what a terminal would obey; every row has as many cells as the first."""
    shown = [[" ".join(plain_text(cell).splitlines()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
