"""Cells whose output a server keeps: choosing among them, and a heading for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..connect.units import moment_in_words
from ..errors import FlameError


def choose(cells: list[dict[str, Any]], count: int | None, choice: str | None, missed: Iterable[str]) -> list[Any]:
    """The chosen ones of the cells that are kept; raises FlameError if there are none.

    count   a cell's number;  choice  None for the last cell, "all", or "missed": those of whose ids are ``missed``
    """
    if count is not None and choice is not None:
        raise FlameError(f"a cell's number and --{choice} exclude each other; give one")
    if not cells:
        raise FlameError("no output is kept there: no cell has run in this session yet, or its output was too large")
    if count is not None:
        of_number = [cell for cell in cells if cell.get("count") == count]
        if not of_number:
            known = ", ".join(str(cell["count"]) for cell in cells if cell.get("count") is not None)
            raise FlameError(f"the output of cell {count} is not kept; there are {known or 'none with a number'}")
        return of_number[-1:]
    if choice == "all":
        return cells
    if choice == "missed":
        wanted = set(missed)
        return [cell for cell in cells if cell.get("request") in wanted]
    return cells[-1:]


def not_kept(cell: dict[str, Any], error: Exception) -> FlameError:
    """The output of a cell is gone, as the ``error`` of the far side says."""
    return FlameError(f"the output of cell {label(cell)} is not kept any more: {error}")


def label(cell: dict[str, Any]) -> str:
    """``[7] first line of it``."""
    lines = str(cell.get("code") or "").strip().splitlines()
    first = lines[0][:60] if lines else ""
    count = cell.get("count")
    return f"[{'*' if count is None else count}] {first}"


def header(cell: dict[str, Any]) -> str:
    """The line above the output: which cell, and whether its output is complete."""
    started = cell.get("started")
    when = f" of {moment_in_words(started, '%H:%M:%S')}" if isinstance(started, (int, float)) else ""
    part = "" if cell.get("complete", True) else "; its beginning is not kept any more"
    return f"--- {label(cell)}{when}{part}\n"
