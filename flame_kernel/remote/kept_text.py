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


class KeptStreams:
    """What was printed to stdout and to stderr, each by itself and ``both`` as they came; limits as of `KeptText`."""

    def __init__(self, limit: int, whose: str) -> None:
        self._kept = {name: KeptText(limit, whose) for name in ("both", "stdout", "stderr")}

    def add(self, name: str, text: str) -> None:
        """Keep text of the stream ``stdout`` or ``stderr``."""
        self._kept["both"].add(text)
        self._kept["stderr" if name == "stderr" else "stdout"].add(text)

    def clear(self) -> None:
        """Forget all of it."""
        for kept in self._kept.values():
            kept.clear()

    @property
    def both(self) -> str:
        return str(self._kept["both"])

    @property
    def stdout(self) -> str:
        return str(self._kept["stdout"])

    @property
    def stderr(self) -> str:
        return str(self._kept["stderr"])


class HasStreams:
    """What keeps its output in ``_text``: a job, or a cell on one host of a group."""

    _text: KeptStreams

    @property
    def stdout(self) -> str:
        return self._text.stdout

    @property
    def stderr(self) -> str:
        return self._text.stderr
