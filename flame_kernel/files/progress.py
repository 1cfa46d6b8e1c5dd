"""The progress of a transfer: counts, notes, and a bar in a notebook or a terminal."""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

from ..agent.wire.files import file_names
from ..errors import TransferError
from ..session.user import in_notebook
from ..terminal import one_line

# Most names that a result or an error shows.
MAX_NOTES = 100
_SHOWN = 3
# Most characters of a note about one file.
_SENTENCE = 500
# Seconds after which a transfer shows a bar.
_DELAY = 0.5


class Entry:
    """One file, folder or link of a transfer.

    what     its description, as `trees.walk` gives it
    forward  the bytes of it that the bar has counted
    """

    what: dict[str, Any]
    forward: int

    @property
    def kind(self) -> str:
        return str(self.what["kind"])

    @property
    def size(self) -> int:
        return int(self.what["size"])


class Tally:
    """The counts of one transfer, and its bar.

    bar     True or False; None shows one in a notebook or a terminal
    """

    def __init__(self, what: str, bar: bool | None) -> None:
        self.files = 0
        self.bytes = 0
        self.skipped = 0
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.failed = 0
        self.shows = _can_show() if bar is None else bar
        self.started = time.monotonic()
        self.latest = self.started  # when there was progress last
        self._what = what
        self._bar: Any = None
        self._kept_back = 0

    def __repr__(self) -> str:
        return f"<Tally {self.files} files, {self.bytes} bytes, {self.skipped} skipped, {self.failed} failed>"

    def open(self, total: int | None, unit: str = "B") -> None:
        """Show the bar, for ``total`` bytes (or other units) if that is known."""
        if self.shows and self._bar is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # if a notebook has no widgets, the bar is text
                from tqdm.auto import tqdm

                class Bar(tqdm):  # type: ignore[misc]
                    monitor_interval = 0  # no monitor thread, which would stay

                scale = {"unit_scale": True, "unit_divisor": 1024} if unit == "B" else {}
                self._bar = Bar(total=total, desc=self._what, unit=unit, delay=_DELAY, **scale)

    def close(self) -> None:
        """Stop updating the bar, and leave it shown."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def reach(self, one: Entry, at: int) -> None:
        """Count the bytes of an entry up to ``at``."""
        self.forward(at - one.forward)
        one.forward = at

    def forward(self, size: int) -> None:
        """So many more bytes of the whole are done (negative, if part of a file must be sent again)."""
        self.latest = time.monotonic()
        if self._bar is not None:
            self._bar.update(size)

    def moved(self, size: int) -> None:
        """So many bytes of content have crossed the link."""
        self.bytes += size
        self.forward(size)

    def note(self, name: bytes | str, text: str) -> None:
        """Note something about one file that the user must know, but that is no failure."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(f"{file_names.shown(name)}: {one_line(text, _SENTENCE)}")
        elif len(self.notes) == MAX_NOTES:
            self.notes.append("… and more")

    def fail(self, name: bytes | str, text: str, code: str, where: str) -> None:
        """One file cannot be copied, but others can; raises TransferError if the disk is full."""
        sentence = f"{file_names.shown(name)}: {one_line(text, _SENTENCE)}"
        if code == "full":
            raise TransferError(f"no room {where} for {sentence}; make some, and begin again", code)
        self.failed += 1
        if len(self.failures) < _SHOWN:
            self.failures.append(sentence)

    def raise_failures(self) -> None:
        """Raise TransferError if anything failed."""
        if not self.failed:
            return
        more = self.failed - len(self.failures)
        said = "; ".join(self.failures) + (f"; and {more} more" if more else "")
        done = self.files + self.skipped
        if not done and self.failed == 1:
            raise TransferError(f"cannot copy {said}")
        raise TransferError(f"{self.failed} of {done + self.failed} files could not be copied: {said}")


def _can_show() -> bool:
    """Whether a user would see a bar: in a terminal, or a notebook's cell."""
    return (sys.stderr is not None and sys.stderr.isatty()) or in_notebook()
