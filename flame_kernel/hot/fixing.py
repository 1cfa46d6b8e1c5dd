"""Fixes functions of a program that runs on the far side, in place; see `agent/hot/fixing.py` for what can be fixed."""

from __future__ import annotations

import contextlib
import inspect
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..commands.tables import aligned
from ..errors import FlameError, TransferError
from ..session.handshake import client_name
from ..session.session import Session
from ..terminal import one_line, plain_text
from .requests import ask, check_writable


@dataclass(frozen=True)
class Fix:
    """A function's new code on the far side. ``undo()`` puts the old code back; so does the end of a ``with`` block."""

    session: Session
    name: str
    number: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For a user."""
        more = "".join(f"\nNote: {plain_text(one)}" for one in self.notes)
        return (
            f"#{self.number}: {self.name} runs the new code from its next call on, until this session ends or "
            f"%flame hotfix --undo {self.name}{more}"
        )

    def undo(self) -> None:
        """Put the old code back, unless that is done. Raises FlameError."""
        if any(row[0] == self.number for row in ask(self.session, "fixes")["fixes"]):
            ask(self.session, "unfix", name=self.name, user=client_name())

    def __enter__(self) -> Fix:  # noqa: PYI034
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(FlameError):
            self.undo()


def source_of(session: Session, name: str) -> str:
    """The text of a function there as it is now. Raises FlameError."""
    return str(ask(session, "source", name=name)["source"])


def fix(session: Session, name: str, new: str | Callable[..., Any]) -> Fix:
    """Give a function there new code: its text, or a function here whose text is taken. Raises FlameError."""
    check_writable(session, "a hotfix")
    if not isinstance(new, str):
        try:
            new = textwrap.dedent(inspect.getsource(new))
        except (OSError, TypeError):
            raise TransferError("the source of that function cannot be found here; give its text") from None
    reply = ask(session, "fix", name=name, text=new, user=client_name())
    return Fix(session, name, reply["number"], tuple(reply["notes"]))


def undo(session: Session, name: str | None = None) -> list[str]:
    """Undo the latest fix of a function; without a name, all fixes of this session. Returns what was undone."""
    undone = ask(session, "unfix", name=name or "", user=client_name())["undone"]
    return [f"#{number}: {one_line(one, 300)}" for number, one in undone]


def table(session: Session) -> str:
    """All fixes in that process, whichever session made them, as text."""
    found = ask(session, "fixes")["fixes"]
    if not found:
        return "nothing is fixed there; %flame hotfix module.function shows the text of one, to be edited"
    rows: list[tuple[str, ...]] = [("fix", "function", "session", "by", "at")]
    for number, name, whose, user, at in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if 0 < at < 1e11 else "?"
        rows.append((f"#{number}", one_line(name, 200), one_line(whose, 64), one_line(user, 100), when))
    return "\n".join(aligned(rows))
