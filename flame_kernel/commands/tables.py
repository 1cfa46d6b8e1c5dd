"""Tables of text: the columns under each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ..terminal import WIDTH, plain_text

_NONE: Mapping[int, int] = MappingProxyType({})


def aligned(rows: Sequence[Sequence[str]], shortened: Mapping[int, int] = _NONE) -> list[str]:
    """A line for each row, without what a terminal would obey; every row has as many cells as the first.

    ``shortened``: the numbers of the columns whose cells may be cut so that lines have at most WIDTH characters, and
    the fewest characters that each keeps; the first of them is cut first. What was cut ends with ``…``.
    """
    shown = [[" ".join(plain_text(cell).splitlines()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for number, least in shortened.items():
        too_much = max(0, sum(widths) + 2 * (len(widths) - 1) - WIDTH)
        widths[number] = max(min(widths[number], least), widths[number] - too_much)
    cut = [[_cut(cell, width) for cell, width in zip(row, widths, strict=True)] for row in shown]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cut]


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 1] + "…"
