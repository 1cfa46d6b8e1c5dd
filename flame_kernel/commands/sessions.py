"""The sessions of a server as a table: the same columns in the kernel, in the magics and in ``jupyter flame``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..connect.amounts import moment_in_words, size_in_words, time_in_words
from .tables import aligned

COLUMNS = ("session", "place", "notebook", "started", "state", "runs", "waiting", "client")
# Characters of the code of a cell that a table shows.
CODE_WIDTH = 30


def rows(living: Iterable[dict[str, Any]], own: str = "") -> list[tuple[str, ...]]:
    """A row for each session that the agent has told of; ``own`` is the name of the one that asks."""
    return [_row(one, own) for one in living]


def table(living: Iterable[dict[str, Any]], own: str = "") -> str:
    """The same as text, with a heading; one sentence where nothing lives there."""
    found = rows(living, own)
    return "\n".join(aligned([COLUMNS, *found])) if found else "no sessions on this server"


def first_line(code: Any) -> str:
    """The first line of a cell, short."""
    lines = str(code or "").strip().splitlines()
    line = lines[0] if lines else ""
    return line if len(line) <= CODE_WIDTH else line[: CODE_WIDTH - 1] + "…"


def _row(one: dict[str, Any], own: str) -> tuple[str, ...]:
    name = str(one.get("session"))
    if one.get("attached"):
        client = str(one.get("client") or "yes")
    else:
        client = f"none for {time_in_words(one['alone'])}" if one.get("alone") is not None else "none"
    return (
        f"{name} (this one)" if own and name == own else name,
        str(one.get("place") or "-"),
        str(one.get("notebook") or "-").rpartition("/")[2],
        moment_in_words(one.get("started")),
        str(one.get("state") or "-"),
        first_line(one.get("code")) or "-",
        size_in_words(one["waiting"]) if one.get("waiting") else "-",
        client,
    )
