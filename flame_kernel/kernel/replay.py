"""Replay: a cell's complete output once more, from what the far side keeps of it."""

from __future__ import annotations

import asyncio
from typing import Any

from ..commands.kept import label
from ..errors import AgentError, FlameError
from ..session.session import Session
from .iopub import Publisher
from .waits import Waits

# Bytes of one answer; seconds between looks at a cell that still runs.
BATCH = 1 << 18
PAUSE = 0.2


async def replay(session: Session, cell: dict[str, Any], publisher: Publisher, waits: Waits, request_id: str) -> None:
    """Publish the output of ``cell`` in that of ``request_id``, in order and once; of one that still runs, so far."""
    after = 0
    while True:
        try:
            batch = await waits.until(session.ask("replay", request=cell["request"], after=after, limit=BATCH))
        except AgentError as e:
            raise FlameError(f"the output of cell {label(cell)} is not kept any more: {e}") from None
        events, done = batch["events"], batch["done"]
        after = events[-1].get("number", after) if events else after
        await publisher.room()
        publisher.show(session, request_id, events)
        if done:
            return
        if not events:
            await asyncio.sleep(PAUSE)
