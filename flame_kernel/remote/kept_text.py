"""Text that is kept for later, up to a limit."""

from __future__ import annotations


class KeptText:
    """Keeps text up to ``limit`` characters. Of longer text the beginning is dropped, and a note says how much.

    ``whose`` names the keeper in that note.
    """

    def __init__(self, limit: int, whose: str) -> None:
        self._limit = limit
        self._whose = whose
        self._pieces: list[str] = []
        self._size = 0
        self._dropped = 0

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self._size += len(text)
        while self._size > self._limit:
            first = self._pieces.pop(0)
            gone = min(len(first), self._size - self._limit)
            if gone < len(first):
                self._pieces.insert(0, first[gone:])
            self._size -= gone
            self._dropped += gone

    def clear(self) -> None:
        """Forget all of it."""
        self._pieces.clear()
        self._size = self._dropped = 0

    def __str__(self) -> str:
        note = f"[{self._dropped} characters left out: {self._whose} keeps {self._limit}]\n" if self._dropped else ""
        return note + "".join(list(self._pieces))
