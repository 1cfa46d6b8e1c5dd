"""PollSize: how many bytes a poll asks for, which depends on what has come through; and answers that come in pieces.

If a line is cut again and again, polls ask for less until an answer comes through. If not even a small batch does, an
answer comes in pieces, over as many connections as it takes: see `agent/log/reading.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..agent.wire import message as wire
from ..security import answers
from ..security.limits import MAX_ANSWER

# Bytes asked for in one poll: fewer after one that was cut or took SLOW seconds, more after a full one within QUICK.
LEAST, FIRST, MOST = 1 << 8, 1 << 16, 1 << 21
QUICK, SLOW = 0.5, 3.0
# At this size and below, even one event may be too large for the link, and comes in pieces.
SMALL = 1 << 13
# How many answers of this size must come through in a row before a larger one is tried.
TRIES = 3
# An answer of more bytes than this means that more is on its way.
AHEAD = FIRST


class PollSize:
    """How much the polls of one session ask for."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._batch = FIRST
        self._passed = 0  # answers since the last cut
        self._mark = ""
        self._parts = bytearray()

    def __repr__(self) -> str:
        return f"<PollSize {self._batch}, {len(self._parts)} in pieces>"

    @property
    def is_partial(self) -> bool:
        """Whether some pieces of an answer have come, but not all."""
        return bool(self._mark)

    def fields(self) -> dict[str, Any]:
        """The fields for the next poll."""
        said: dict[str, Any] = {"limit": self._batch}
        if self._batch < SMALL or self._mark:
            said["most"] = self._batch
        if self._mark:
            said |= {"mark": self._mark, "at": len(self._parts)}
        return said

    def cut(self, poll: dict[str, Any]) -> None:
        """A poll was cut: the next one asks for less."""
        self._passed = 0
        self._batch = max(self._batch // 2, LEAST)
        poll.update(self.fields())

    def suit(self, took: float, received: int) -> None:
        """Adapt the amount to what the line carries in a short time."""
        self._passed += 1
        if received > self._batch // 2 and took < QUICK:
            if self._batch >= SMALL or self._passed % TRIES == 0:
                self._batch = min(self._batch * 2, MOST)
        elif received > SMALL // 2 and took > SLOW:
            self._batch = max(self._batch // 2, SMALL // 2)

    def whole(self, result: dict[str, Any], buffers: Sequence[Any]) -> tuple[list[Any], Sequence[Any]]:
        """The events of an answer, still encoded, and their buffers; none while pieces are missing. Raises WireError,
        UnsafeAnswer."""
        piece = result.get("piece")
        if piece is None:
            self._forget()
            return result["events"], buffers
        if piece["mark"] != self._mark:
            self._forget()
            self._mark = piece["mark"]
        at, size = piece["at"], piece["size"]
        if len(buffers) != 1 or at != len(self._parts) or not 0 < len(buffers[0]) <= size - at or size > MAX_ANSWER:
            raise wire.WireError("a piece that does not fit")
        self._parts += buffers[0]
        if len(self._parts) < size:
            return [], ()
        parts = bytes(self._parts)
        self._forget()
        message, buffers = wire.decode(parts)
        events = answers.result("poll", {"events": message.get("events")}, self._location)["events"]
        return events, buffers

    def _forget(self) -> None:
        self._mark, self._parts = "", bytearray()
