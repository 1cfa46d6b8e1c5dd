"""Line: one of the connections of a link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..connect.connection import Connection

# Seconds after which a server that should answer at once counts as silent.
SILENT = 2.0

Hear = Callable[..., bytes]  # see Connection.ask


class Line:
    """One connection of a link, used by one thread."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name = name
        self.connection = connection
        self.asked: float | None = None  # monotonic, when what is not answered yet was asked
        self.patience = SILENT  # seconds in which its answer is due
        # A request that was sent ahead: itself, its number, the connection, and what waits for the answer.
        self.ahead: tuple[dict[str, Any], str, Connection, Hear] | None = None
        self.lost_at = 0  # how often lines had been mended when this one broke last
        # Since when something is known to be on its way here, and the bytes that had come until then.
        self.owed: tuple[float, int] | None = None

    def is_late(self, now: float) -> bool:
        """Whether its answer is overdue."""
        asked = self.asked
        return asked is not None and now - asked > self.patience
