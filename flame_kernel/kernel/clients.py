"""Clients: which front end asked for which cell, and when we last heard from it; so we know what it cannot have
seen."""

from __future__ import annotations

import collections
import time

# How many cells, and front ends, are remembered.
REMEMBERED = 2000
# A cell that ends within this many seconds after its front end was last heard counts as seen: nobody closes a page so
# soon. A program often asks through one client and reads through the next.
MOMENT = 2.0


class Clients:
    """Front ends are known by the ``session`` of their messages' headers; a page that is loaded again has a new one."""

    def __init__(self) -> None:
        self._heard: collections.OrderedDict[str, float] = collections.OrderedDict()
        self._asked: collections.OrderedDict[str, None] = collections.OrderedDict()  # front ends that asked for a cell
        self._cells: collections.OrderedDict[str, tuple[str, float | None]] = collections.OrderedDict()

    def heard(self, front: str) -> None:
        """A message of ``front`` has come."""
        self._heard[front] = time.monotonic()
        self._heard.move_to_end(front)
        while len(self._heard) > REMEMBERED:
            self._heard.popitem(last=False)

    def note(self, front: str) -> str:
        """For the first cell that ``front`` asks for: a line about cells whose output it has not fully seen; else
        empty."""
        if front in self._asked:
            return ""
        self._asked[front] = None
        while len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)
        count = len(self._unfinished(front, MOMENT))
        if not count:
            return ""
        what = "1 cell was" if count == 1 else f"{count} cells were"
        return f"[{what} not finished when this notebook was last open; show their output: %flame replay --missed]\n"

    def began(self, request_id: str, front: str) -> None:
        """``front`` asked for a cell."""
        self._cells[request_id] = (front, None)
        while len(self._cells) > REMEMBERED:
            self._cells.popitem(last=False)

    def ended(self, request_id: str) -> None:
        """The cell is over."""
        if request_id in self._cells:
            self._cells[request_id] = (self._cells[request_id][0], time.monotonic())

    def missed(self, front: str) -> list[str]:
        """The cells that were not finished when we last heard from the front end before ``front``, the oldest first."""
        return self._unfinished(front, 0.0)

    def _unfinished(self, front: str, moment: float) -> list[str]:
        """The cells of other front ends than ``front`` that still run, or ended more than ``moment`` seconds after we
        last heard from any of those."""
        others = [(when, ended) for when, ended in self._cells.values() if when != front]
        if not others:
            return []
        before = max((who for who, _ in others), key=lambda who: self._heard.get(who, 0.0))
        heard = self._heard.get(before, 0.0)
        return [
            request_id
            for request_id, (who, ended) in self._cells.items()
            if who != front and (ended is None or ended > heard + moment)
        ]
