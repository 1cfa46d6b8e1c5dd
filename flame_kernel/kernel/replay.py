"""Replay: a cell's complete output once more, from what the far side keeps of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from ..errors import AgentError, FlameError
from ..session.session import Session
from .iopub import Publisher
from .waits import Waits

# Bytes of one answer; seconds between looks at a cell that still runs.
BATCH = 1 << 18
PAUSE = 0.2


def choose(cells: list[dict[str, Any]], count: int | None, choice: str | None, missed: Iterable[str]) -> list[Any]:
    """The cells that are meant, of those that are kept; raises FlameError where there is none of them.

    count   a cell's number;  choice  None for the last cell, "all", or "missed": those of whose ids are ``missed``
    """
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


async def replay(session: Session, cell: dict[str, Any], publisher: Publisher, waits: Waits, request_id: str) -> None:
    """Publish the output of ``cell`` in that of ``request_id``, in order and once; to its end, if it still runs."""
    after = 0
    while True:
        try:
            batch = await waits.until(session.ask("replay", request=cell["request"], after=after, limit=BATCH))
            events, done = batch["events"], bool(batch["done"])
            after = events[-1]["number"] if events else after
        except AgentError as e:
            raise FlameError(f"the output of cell {label(cell)} is not kept any more: {e}") from None
        except (KeyError, TypeError, IndexError):
            raise FlameError(f"{session.location} sent what is no output of a cell") from None
        await publisher.room()
        publisher.show(session, request_id, events)
        if done:
            return
        if not events:
            await asyncio.sleep(PAUSE)


def label(cell: dict[str, Any]) -> str:
    """``[7] first line of it``."""
    lines = str(cell.get("code") or "").strip().splitlines()
    first = lines[0][:60] if lines else ""
    count = cell.get("count")
    return f"[{'*' if count is None else count}] {first}"


def header(cell: dict[str, Any]) -> str:
    """One line above the output: which cell, and whether all of it is there."""
    started = cell.get("started")
    when = time.strftime(" of %H:%M:%S", time.localtime(started)) if isinstance(started, (int, float)) else ""
    part = "" if cell.get("complete", True) else "; its beginning is not kept any more"
    return f"--- {label(cell)}{when}{part}\n"
