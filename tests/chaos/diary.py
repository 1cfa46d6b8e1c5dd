"""The diary of a chaos run: what happened last, for somebody to read when a run fails."""

from __future__ import annotations

import collections
import time

REMEMBERED = 40


class Diary:
    """The last lines, each with the seconds since the beginning."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._began = time.monotonic()
        self._lines: collections.deque[str] = collections.deque(maxlen=REMEMBERED)

    def __str__(self) -> str:
        return "\n".join(self._lines)

    def begin(self) -> None:
        """Count the seconds from now."""
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it is since the beginning."""
        return time.monotonic() - self._began

    def tell(self, words: str) -> None:
        """Add a line."""
        self._lines.append(f"{self.seconds:8.2f} {words}")
        if self._verbose:
            print(self._lines[-1], flush=True)
