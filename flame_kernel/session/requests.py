"""What a session is waiting for: requests until their replies come, and ops that are to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

# Requests that run the user's code, and can be stopped.
CELLS = ("execute", "object")

Reply = dict[str, Any]


class Request:
    """A request whose reply has not come.

    ``state`` is queued (not sent), sent, unknown (its answer was lost) or begun (there).

    ``shape`` names the form that its reply must have: the kind, and for objects what is asked.
    """

    __slots__ = ("call", "future", "kind", "shape", "state")

    def __init__(self, kind: str, state: str = "queued", op: str = "") -> None:
        self.kind = kind
        self.shape = f"{kind}.{op}" if op else kind
        self.state = state
        self.future: Future[Reply] = Future()
        self.call: Call | None = None

    @property
    def fate(self) -> str:
        """What is known about it, as words for the error that ends the wait."""
        what = "this cell" if self.kind in CELLS else "this request"
        if self.state == "queued":
            return f"{what} was not sent, so it did not run"
        if self.state == "begun":
            return f"{what} was begun there"
        return f"it is unknown whether {what} was begun there"


class Call:
    """One op for the calls thread."""

    __slots__ = ("buffers", "future", "message", "request")

    def __init__(self, message: dict[str, Any], buffers: Sequence[Any] = (), request: Request | None = None) -> None:
        self.message = message
        self.buffers = buffers
        self.request = request
        self.future: Future[Any] = Future()
