"""What should be so: the reference that a chaos run compares with.

Cells write down on the far side, in a file of their own, that they begin and end; the model knows which cells it sent,
in which order, and what each has to say. From both follows what may have happened, and a Violation is anything else.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from kernels import Message, Run

# What a restarted kernel says first, with two lines behind it.
NOTICE = "[restarted; back where cells ran before]\n"


class Violation(Exception):
    """Something was lost, doubled, mixed up, or never came."""


@dataclass(frozen=True)
class Cell:
    """``body`` stands between the cell's two notes in the ledger; ``expected`` is its stdout if it runs to its end."""

    number: int
    body: str
    expected: str
    endless: bool = False  # it runs until it is stopped, and ``expected`` begins its output

    def code(self, ledger: Path) -> str:
        """What is sent. Its result is the count of all cells that have begun in this session."""
        note = f"with open({str(ledger)!r}, 'a') as _ledger: _ledger.write('%s {self.number}\\n')"
        return f"{note % 'begin'}\n_count = globals().get('_count', 0) + 1\n{self.body}\n{note % 'end'}\n_count"


class Ledger:
    """The file, and what the model knows.

    begun, ended    the numbers of cells, in the order in which the far side wrote them down
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sent: list[int] = []
        self.is_restarted = False
        self.counted_from = 0  # cells that had begun when the present session did
        self.results: dict[int, str] = {}

    def read(self) -> tuple[list[int], list[int]]:
        """The numbers of the cells that have begun, and of those that have ended, as they stand there at one moment."""
        text = self.path.read_text() if self.path.exists() else ""
        words = [line.split() for line in text.splitlines()]
        begun, ended = ([int(number) for word, number in words if word == kind] for kind in ("begin", "end"))
        return begun, ended

    @property
    def begun(self) -> list[int]:
        return self.read()[0]

    @property
    def ended(self) -> list[int]:
        return self.read()[1]

    def new_session(self) -> None:
        """Names are gone, and the far side counts from one again."""
        self.counted_from = len(self.begun)
        self.is_restarted = True

    def _without_notice(self, text: str) -> str:
        """The output of the first cell behind a restart without the lines that say where the kernel is again."""
        if not self.is_restarted or not text.startswith(NOTICE):
            return text
        self.is_restarted = False
        return text.split("\n", 3)[3]

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Every cell began once at most, in the order in which they were sent, and ended once at most."""
        begun, ended = self.read()
        if begun != sorted(set(begun)):
            raise Violation(f"cells began twice, or in another order: {_odd(begun)}")
        if ended != sorted(set(ended)):
            raise Violation(f"cells ended twice, or in another order: {_odd(ended)}")
        if not set(begun) <= set(self.sent):
            raise Violation(f"cells that were not sent: {sorted(set(begun) - set(self.sent))}")
        if not set(ended) <= set(begun):
            raise Violation(f"cells that ended and had not begun: {sorted(set(ended) - set(begun))}")

    def is_done(self, cell: Cell, text: str, result: str | None) -> None:
        """The cell ran to its end: all its output, nothing else, and the right count."""
        self.check()
        text = self._without_notice(text)
        if cell.number not in self.ended:
            raise Violation(f"cell {cell.number} is ok and did not run to its end")
        if text != cell.expected:
            raise Violation(f"cell {cell.number}: {difference(text, cell.expected)}")
        count = self.begun.index(cell.number) + 1 - self.counted_from
        if result != str(count):
            raise Violation(f"cell {cell.number} says that {result} cells have begun, the ledger has {count}")

    def is_stopped(self, cell: Cell, text: str) -> None:
        """The cell was stopped: what it said until then is the beginning of what it would say."""
        self.check()
        text = self._without_notice(text)
        if cell.number in self.ended:
            raise Violation(f"cell {cell.number} was stopped, and ran to its end all the same")
        if not cell.expected.startswith(text):
            raise Violation(f"cell {cell.number}, stopped: {difference(text, cell.expected[: len(text)])}")


def of_others(run: Run, cell: Cell) -> None:
    """Nothing in the output of ``run`` is another cell's."""
    for number in set(re.findall(r"cell (\d+):", run.stdout)):
        if int(number) != cell.number:
            raise Violation(f"output of cell {number} stands under cell {cell.number}")


def no_strays(strays: list[Message]) -> None:
    """No output stands under no cell of ours."""
    for message in strays:
        if message.type in ("stream", "execute_result", "error"):
            raise Violation(f"output without a cell: {message}")


def difference(text: str, expected: str) -> str:
    """Where two texts part, in words."""
    at = next(
        (i for i, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b), min(len(text), len(expected))
    )
    return (
        f"{len(text)} characters instead of {len(expected)}; they part at {at}: "
        f"{text[max(0, at - 60) : at + 60]!r} instead of {expected[max(0, at - 60) : at + 60]!r}"
    )


def _odd(numbers: list[int]) -> str:
    for before, number in itertools.pairwise(numbers):
        if number <= before:
            return f"{number} after {before}"
    return str(numbers)
