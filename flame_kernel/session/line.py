"""Line: one of the connections of a link."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..connect.connection import Connection
from ..connect.target import Target

# Seconds after which a server that should answer at once counts as silent.
SILENT = 2.0

Hear = Callable[..., bytes]  # see Connection.ask
# A request that was sent ahead: itself, its number, the connection, and what waits for the answer.
Ahead = tuple[dict[str, Any], str, Connection, Hear]


class Line:
    """One connection of a link, used by one thread."""

    def __init__(self, name: str, connection: Connection, ahead: Ahead | None = None) -> None:
        self.name = name
        self.connection = connection
        self.ahead = ahead
        self.asked: float | None = None  # when the request that is not answered yet was sent (monotonic)
        self.patience = SILENT  # seconds in which its answer is due
        self.lost_at = 0  # how often lines had been mended when this one broke last
        # Since when something is known to be on its way here, and the bytes that had come until then.
        self.owed: tuple[float, int] | None = None

    def is_late(self, now: float) -> bool:
        """Whether its answer is overdue."""
        asked = self.asked
        return asked is not None and now - asked > self.patience


def dialled(target: Target) -> Future[Connection]:
    """A connection that a thread of its own makes; see `give_up` for one that is not wanted any more."""
    future: Future[Connection] = Future()

    def dial() -> None:
        try:
            connection = Connection(target)
        except BaseException as e:  # raised again where the connection is wanted
            future.set_exception(e)
        else:
            future.set_result(connection)

    threading.Thread(target=dial, name="flame-dial", daemon=True).start()
    return future


def give_up(future: Future[Connection]) -> None:
    """Close the connection as soon as it is made."""

    def made(done: Future[Connection]) -> None:
        if done.exception() is None:
            done.result().close()

    future.add_done_callback(made)
