"""PollSize: how many bytes a poll asks for, which depends on what has come through; and answers that come in pieces.

If a line is cut again and again, polls ask for less until an answer comes through. If not even a small batch does, an
answer comes in pieces, over as many connections as it takes: see `agent/log/reading.py`.

On a quick link a large answer comes in pieces too: the server signs the next one while this one is checked here.
"""

from __future__ import annotations

import math
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
# Seconds: a round trip within this costs less than pieces save. They are larger than what is asked for, because a batch
# may be a little larger too.
QUICK_TRIP, PIECE = 0.005, 2
# An answer of more bytes than this means that more is on its way.
AHEAD = FIRST


class PollSize:
    """How much the polls of one session ask for."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._batch = FIRST
        self._passed = 0  # answers since the last cut
        self._mark = ""
        self._parts: list[Any] = []
        self._come, self._size = 0, 0  # bytes of the parts, and of the answer

    def __repr__(self) -> str:
        return f"<PollSize {self._batch}, {self._come} in pieces>"

    @property
    def is_partial(self) -> bool:
        """Whether some pieces of an answer have come, but not all."""
        return bool(self._mark)

    def fields(self, round_trip: float = math.inf) -> dict[str, Any]:
        """The fields for the next poll; ``round_trip`` is how many seconds the link takes for one."""
        said: dict[str, Any] = {"limit": self._batch}
        if self._batch < SMALL:
            said["most"] = self._batch
        elif self._mark or round_trip < QUICK_TRIP:
            said["most"] = PIECE * self._batch
        if self._mark:
            said |= {"mark": self._mark, "at": self._come}
        return said

    def following(self, poll: dict[str, Any]) -> dict[str, Any] | None:
        """The fields of the poll for the piece after the one that ``poll`` asks for; None if there is none."""
        end = self._come + poll.get("most", 0)
        if not self._mark or poll.get("mark") != self._mark or end >= self._size:
            return None
        return self.fields() | {"at": end}

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
        if len(buffers) != 1 or at != self._come or not 0 < len(buffers[0]) <= size - at or size > MAX_ANSWER:
            raise wire.WireError("a piece that does not fit")
        self._parts.append(buffers[0])
        self._come, self._size = at + len(buffers[0]), size
        if self._come < size:
            return [], ()
        parts = b"".join(self._parts)
        self._forget()
        message, buffers = wire.decode(parts)
        events = answers.result("poll", {"events": message.get("events")}, self._location)["events"]
        return events, buffers

    def _forget(self) -> None:
        self._mark, self._parts, self._come = "", [], 0
