"""Outage: what keeps a link from working, and the sentence about it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..connect import units
from ..errors import CallTimeout, CannotConnect, ConnectionLost, FlameError

# Seconds for which a link must be lost before the reason is told: most links are back by then.
WORTH_A_CAUSE = 2.0


@dataclass(frozen=True)
class Outage:
    """What keeps a link from working. ``since`` is monotonic, ``clock`` the same as time of day, both in seconds."""

    location: str
    silent: bool  # the server does not answer; else there is no connection
    since: float
    clock: float
    cause: str = ""

    @property
    def age(self) -> float:
        """How long it has lasted, in seconds."""
        return time.monotonic() - self.since

    @property
    def every(self) -> float:
        """How often its age is shown again, in seconds."""
        return 1.0 if self.age < 10 else 5.0 if self.age < 100 else 60.0

    def __str__(self) -> str:
        age = units.time_in_words(round(self.age))
        if self.silent:
            since = units.moment_in_words(self.clock, "%H:%M:%S")
            return f"{self.location} not responding since {since} ({age}), waiting; the cell may go on there"
        cause = f" ({self.cause})" if self.cause and self.age > WORTH_A_CAUSE else ""
        return f"link to {self.location} lost {age} ago, retrying; the cell goes on there{cause}"


def is_silence(error: FlameError) -> bool:
    """Whether the server is there but does not answer, on the old connections or on a new one."""
    mute = isinstance(error, CannotConnect) and error.cause == "timeout" and bool(error.detail)
    return mute or isinstance(error, CallTimeout)


def cause(error: FlameError) -> str:
    """The cause in an error, without the words about the lost link."""
    if isinstance(error, CannotConnect):
        return error.what
    return error.detail if isinstance(error, ConnectionLost) else str(error)
