"""Tab and Shift-Tab in ``%flame`` lines of the kernel's cells: what the table of commands knows, and what there is."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, Protocol

from ..commands import help
from ..commands.language import CELL
from ..commands.options import KERNEL
from ..commands.parsing import find
from ..commands.tab import command_at, rest_of, wanted, wanted_of_cell
from ..errors import FlameError
from ..remote import candidates as remote_candidates
from ..remote.candidates import Candidates, candidates, code
from ..session.session import Session
from .backend import FarSide
from .exchange import Exchange
from .groups import Groups, names
from .waits import on_thread

# Seconds that Tab waits for what has to be asked.
PATIENCE = 8.0

_FIRST = re.compile(r"\s*(%{1,2}\w*)$")
# The first line of a cell for this machine.
LOCAL = "%%local"
_ON_OTHERS = re.compile(r"\s*%%flame(?:\s(?P<rest>.*))?$")


class Side(Protocol):
    """Whom a question can be for: a far side, or a group."""

    def session(self) -> Future[Session]: ...


class Editor:
    """Answers what is asked of lines that are ours.

    ``far`` and ``local`` are the side of the cells, and that of ``%%local`` cells where there has been one.
    """

    def __init__(self, far: FarSide, groups: Groups) -> None:
        self._far = far
        self._groups = groups
        self.local: FarSide | None = None
        self._side = remote_candidates.Side(self._session, list, self._targets, self._names)

    async def complete(self, text: str, at: int) -> dict[str, Any] | None:
        """The content of a complete_reply; None for a line that is not ours."""
        line, number, _ = _line(text, at)
        rest = rest_of(line)
        of_cell = _ON_OTHERS.match(line) if not number else None
        if rest is None and (of_cell is None or of_cell["rest"] is None):
            return None
        what = wanted(rest, KERNEL) if rest is not None else wanted_of_cell(str(of_cell and of_cell["rest"]), KERNEL)
        offered = Candidates("")
        with contextlib.suppress(FlameError, asyncio.TimeoutError):
            looking = on_thread(lambda: candidates(what, self._side), "tab")
            offered = await asyncio.wait_for(asyncio.wrap_future(looking), PATIENCE)
        return _reply(offered, at)

    def asked(self, code: str, at: int) -> tuple[Side | None, str, int]:
        """The side that a question about a cell is for, the text for it, and how many characters it leaves out. None
        for a cell of this machine, or of others, where none has run: nobody else is asked about it."""
        first, end, rest = code.partition("\n")
        others = _ON_OTHERS.match(first)
        if first.strip() != LOCAL and others is None:
            return self._far, code, 0
        if at <= len(first):
            return None, "", 0
        side = self.local if others is None else self._groups.side(others["rest"] or "")
        return side, rest, len(first) + len(end)

    def begun(self, text: str, at: int, reply: dict[str, Any]) -> dict[str, Any]:
        """``reply``, the far side's, with our own words where a line begins with a ``%``."""
        line, number = _line(text, at)[:2]
        first = _FIRST.match(line)
        if first is None:
            return reply
        word = first.group(1)
        ours = [one for one in ("%flame", *(("%%local", "%%flame") if number == 0 else ())) if one.startswith(word)]
        if not ours:
            return reply
        start = at - len(word)
        theirs_at = reply.get("cursor_start")
        before = text[start:theirs_at] if isinstance(theirs_at, int) and start <= theirs_at else ""
        theirs = [before + str(one) for one in reply.get("matches") or ()]
        types = _types(reply)
        found = [(one, "magic") for one in ours] + [(one, types.get(one[len(before) :], "")) for one in theirs]
        return _reply(Candidates(word, list(dict.fromkeys(found))), at)

    def inspect(self, text: str, at: int) -> dict[str, Any] | None:
        """The content of an inspect_reply; None for a line that is not ours."""
        _, number, column = _line(text, at)
        whole = text.split("\n")[number]
        if number == 0 and whole.strip() == LOCAL:
            return _page(f"%%local: {help.LOCAL}.")
        if number == 0 and _ON_OTHERS.match(whole):
            return _page(help.about(CELL, KERNEL))
        name = command_at(whole, column)
        if name is None:
            return None
        try:
            return _page(help.about(find(name, KERNEL), KERNEL) if name else help.overview(KERNEL))
        except FlameError as e:  # it says what to do instead
            return _page(str(e))

    def _session(self, name: str | None) -> Session | None:
        here = self._far.target
        if name is None or name in (here.name, str(here.location)):
            return self._far.current
        return None

    def _targets(self) -> Iterable[str]:
        return [*Exchange.targets(), *names()]

    def _names(self, word: str) -> Iterable[str]:
        local = self.local.current if self.local is not None else None
        return [name for name, _ in code(local, word, len(word)).found] if local is not None else []


def _line(text: str, at: int) -> tuple[str, int, int]:
    """The cursor's line up to it, the number of that line, and the column."""
    before = text[:at].split("\n")
    return before[-1], len(before) - 1, len(before[-1])


def _reply(offered: Candidates, at: int) -> dict[str, Any]:
    start = at - len(offered.fragment)
    types = [{"start": start, "end": at, "text": text, "type": kind} for text, kind in offered.found]
    return {
        "status": "ok",
        "matches": [text for text, _ in offered.found],
        "cursor_start": start,
        "cursor_end": at,
        "metadata": {"_jupyter_types_experimental": types},
    }


def _types(reply: dict[str, Any]) -> dict[str, str]:
    metadata = reply.get("metadata")
    entries = metadata.get("_jupyter_types_experimental") if isinstance(metadata, dict) else None
    return {str(one.get("text")): str(one.get("type") or "") for one in entries or () if isinstance(one, dict)}


def _page(text: str) -> dict[str, Any]:
    return {"status": "ok", "found": True, "data": {"text/plain": text}, "metadata": {}}
