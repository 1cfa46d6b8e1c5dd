"""Outage: what keeps a link from working, and how that is told."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..errors import CallTimeout, CannotConnect, ConnectionLost, FlameError

# Seconds that a link is lost before it is told why: most links are back by then.
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
        """Seconds that it has lasted."""
        return time.monotonic() - self.since

    @property
    def every(self) -> float:
        """How often its age is told anew, in seconds."""
        return 1.0 if self.age < 10 else 5.0 if self.age < 100 else 60.0

    def __str__(self) -> str:
        if self.silent:
            since = time.strftime("%H:%M:%S", time.localtime(self.clock))
            return (
                f"{self.location} not responding since {since} ({_length(self.age)}), waiting; the cell may go on there"
            )
        cause = f" ({self.cause})" if self.cause and self.age > WORTH_A_CAUSE else ""
        return f"link to {self.location} lost {_length(self.age)} ago, retrying; the cell goes on there{cause}"


def is_silence(error: FlameError) -> bool:
    """Whether the server is there, and says nothing: no answer in time, or to whoever connects anew."""
    mute = isinstance(error, CannotConnect) and error.cause == "timeout" and bool(error.detail)
    return mute or isinstance(error, CallTimeout)


def cause(error: FlameError) -> str:
    """What an error says beyond that the link is lost."""
    if isinstance(error, CannotConnect):
        return error.what
    return error.detail if isinstance(error, ConnectionLost) else str(error)


def _length(seconds: float) -> str:
    """A time in words: ``4 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = int(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
