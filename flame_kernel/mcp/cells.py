"""Cells of a language-model agent: a cell runs on after its tool has answered, and its output is kept for later."""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from typing import Any

from ..remote.foreground import Terminal
from ..security.rendering import Rendering
from ..session.inbox import Event
from ..session.requests import Reply
from ..session.screen import allowed, show
from ..terminal import plain_text

# The most characters in one answer; the most that are kept of a cell (the latest).
ANSWER, KEPT = 20_000, 2_000_000
# The most pictures that are kept of a cell, and the most bytes of one.
PICTURES, PICTURE = 8, 2_000_000
# How long the tool waits for a stopped cell to end, in seconds.
STOP_PATIENCE = 3.0


class Cell(Terminal):
    """One cell: its output so far, and its state.

    name        the agent's name for it
    request_id  its id on the far side
    """

    def __init__(self, name: str, request_id: str, rendering: Rendering) -> None:
        self.name = name
        self.request_id = request_id
        self._rendering = rendering
        self._reply: Future[Reply] = Future()
        self._began = time.monotonic()
        self._ended: float | None = None
        self._lock = threading.Lock()
        self._text = ""
        self._dropped = 0  # characters before the text that is kept
        self._pictures: list[tuple[int, bytes]] = []  # where in the text each was shown, and its PNG
        self._failed = False

    def __repr__(self) -> str:
        return f"<Cell {self.name} {self.state}>"

    def begun(self, reply: Future[Reply]) -> None:
        """Called when the cell was sent; ``reply`` is the future of its reply."""
        self._reply = reply
        reply.add_done_callback(self._over)

    def _over(self, reply: Future[Reply]) -> None:
        self._ended = time.monotonic()
        error = reply.exception()
        if error is not None:
            self.stream("stderr", f"{plain_text(str(error))}\n")

    # -- its output: called on the session's events thread  ---------------------------------------------------------

    def take(self, event: Event) -> None:
        """Keep the part of an event that may be shown."""
        may = allowed(event, self._rendering)
        if may is not None:
            show(may, self)

    def stream(self, name: str, text: str) -> None:
        with self._lock:
            self._text += plain_text(text)
            gone = len(self._text) - KEPT
            if gone > KEPT // 10:
                self._text, self._dropped = self._text[gone:], self._dropped + gone

    def display(self, content: dict[str, Any], update: bool = False) -> None:
        data = content.get("data") or {}
        picture = _png(data.get("image/png"))
        if picture is not None and not update:
            with self._lock:
                self._pictures.append((self._dropped + len(self._text), picture))
                del self._pictures[:-PICTURES]
        super().display(content, update)

    def error(self, content: dict[str, Any]) -> None:
        self._failed = True
        lines = content.get("traceback") or ()
        self.stream("stderr", "\n".join(map(str, lines)).rstrip("\n") + "\n")

    # -- for the tools ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """running, done, failed, stopped, or lost (it is unknown how it ended)."""
        if not self._reply.done():
            return "running"
        if self._reply.exception() is not None:
            return "lost"
        reply = self._reply.result()
        if reply.get("status") == "ok" and not self._failed:
            return "done"
        return "stopped" if reply.get("ename") == "KeyboardInterrupt" else "failed"

    def wait(self, seconds: float) -> None:
        """Wait for its end, for ``seconds`` at most."""
        futures.wait([self._reply], timeout=max(0.0, seconds))

    def answer(self, since: int = 0) -> tuple[dict[str, Any], list[bytes]]:
        """Its output from the character ``since`` on with its state, and the pictures in that part of the output."""
        state = self.state  # asked first, so that a cell that ends meanwhile is told as done only with all its output
        with self._lock:
            begin = min(max(since, self._dropped), self._dropped + len(self._text))
            text = self._text[begin - self._dropped :][:ANSWER]
            end = begin + len(text)
            pictures = [picture for at, picture in self._pictures if begin <= at <= end and (at > begin or at >= since)]
            left = self._dropped + len(self._text) - end
        answer: dict[str, Any] = {
            "cell": self.name,
            "state": state,
            "seconds": round((self._ended or time.monotonic()) - self._began, 1),
            "next": end,
            "data": text,
        }
        if begin > since:
            answer["left_out"] = f"{begin - since} characters before: only the latest {KEPT} of a cell are kept"
        if left or state == "running":
            more = f"{left} characters more are there" if left else "it goes on"
            answer["more"] = f'{more}: output(cell="{self.name}", since={end})'
        return answer, pictures

    def stop(self, interrupt: Callable[[str], Future[Any]]) -> None:
        """Interrupt it, and wait for its end, for `STOP_PATIENCE` at most."""
        if not self._reply.done():
            interrupt(self.request_id)
            self.wait(STOP_PATIENCE)


def _png(text: Any) -> bytes | None:
    """The bytes of a PNG; None if ``text`` is not one, or it is too large."""
    if not isinstance(text, str) or len(text) > PICTURE * 4 // 3:
        return None
    try:
        found = base64.b64decode(text)
    except (binascii.Error, ValueError):
        return None
    return found if found.startswith(b"\x89PNG") else None
