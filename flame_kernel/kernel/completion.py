"""Tab and Shift-Tab in the kernel's cells: the far side is asked, and ``%flame`` lines are completed here."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import Protocol

from ..commands import help
from ..commands.help import LOCAL
from ..commands.looking import PROFILE_CELL
from ..commands.options import KERNEL
from ..commands.tab import rest_of, wanted, wanted_of_cell
from ..connect.keys import without_key
from ..errors import FlameError
from ..remote import candidates as remote_candidates
from ..remote.calls import Calls
from ..remote.candidates import Candidates, candidates
from ..remote.proxy import reference, stand_in
from ..security.completions import Offer, Offers, identifiers, offered
from ..session.requests import Reply
from ..session.session import Session
from .copy_commands import CopyCommands
from .groups import Groups, names
from .iopub import Publisher
from .sides import Sides
from .waits import on_thread

# Seconds: how long Tab waits for a far side that is still being connected, for its answer, and in a %flame line for
# whatever has to be asked.
CONNECTING = 5.0
ANSWER = 10.0
PATIENCE = 8.0

_FIRST = re.compile(r"\s*(%{1,2}\w*)$")
_ON_OTHERS = re.compile(r"\s*%%flame(?:\s(?P<rest>.*))?$")


class Side(Protocol):
    """Something that can be asked: a far side, or a group."""

    def session(self) -> Future[Session]: ...


class Editor:
    """Answers an editor's questions about a cell: for our lines from the table of commands, else from the far side."""

    def __init__(self, sides: Sides, groups: Groups, publisher: Publisher) -> None:
        self._sides = sides
        self._groups = groups
        self._publisher = publisher
        self._side = remote_candidates.Side(self._session, list, self._targets, self._names)

    async def ask(
        self, question: Callable[[Session], Future[Reply]], fallback: Reply, far: Side | None = None
    ) -> Reply:
        """The reply to an editor's question, or ``fallback``: none of them is worth an error message."""
        try:
            # Shielded: giving up a question must not cancel the connection that a cell waits for too.
            opening = asyncio.shield(asyncio.wrap_future((far or self._sides.far).session()))
            session = await asyncio.wait_for(opening, CONNECTING)
            reply: Reply = await asyncio.wait_for(asyncio.wrap_future(question(session)), ANSWER)
            reply = self._publisher.rendering(session).reply("", reply)
        except (FlameError, asyncio.TimeoutError):
            return fallback
        return reply if reply.get("status", "ok") == "ok" else fallback  # a usage_reply has no status

    async def complete(self, text: str, at: int) -> Reply:
        """The content of a complete_reply."""
        ours = await self._complete_line(text, at)
        if ours is not None:
            return ours
        far, code, offset = self._asked(without_key(text, same_length=True), at)
        if far is None:
            return self._begun(text, at, Offers(at, at)).reply()
        reply = await self.ask(lambda session: session.complete(uuid.uuid4().hex, code, at - offset), {}, far)
        if offset:
            moved = {end: reply[end] + offset for end in ("cursor_start", "cursor_end") if type(reply.get(end)) is int}
            reply = {**reply, **moved}
        return self._begun(text, at, offered(reply, text, at)).reply()

    async def inspect(self, text: str, at: int, detail_level: int, omit_sections: tuple[str, ...]) -> Reply:
        """The content of an inspect_reply."""
        ours = help.inspected(text, at, KERNEL)
        if ours is not None:
            return ours
        nothing = {"status": "ok", "found": False, "data": {}, "metadata": {}}
        far, code, offset = self._asked(without_key(text, same_length=True), at)
        if far is None:
            return nothing
        reply = await self.ask(
            lambda session: session.inspect(uuid.uuid4().hex, code, at - offset, detail_level, omit_sections),
            nothing,
            far,
        )
        return nothing | reply

    def _asked(self, text: str, at: int) -> tuple[Side | None, str, int]:
        """The side to ask about a cell, the text for it, and how many characters of the cell that leaves out. The side
        is None for cells of this machine or other hosts if no such cell has run: nobody else is asked."""
        first, end, rest = text.partition("\n")
        others = _ON_OTHERS.match(first)
        if first.strip() != LOCAL and others is None:
            return self._sides.far, text, 0
        if at <= len(first):
            return None, "", 0
        side = self._sides.local if others is None else self._groups.side(others["rest"] or "")
        return side, rest, len(first) + len(end)

    # -- lines of ours -----------------------------------------------------------------------------------------------

    async def _complete_line(self, text: str, at: int) -> Reply | None:
        """The content of a complete_reply for a ``%flame`` line; None for any other."""
        line, number, _ = _line(text, at)
        rest = rest_of(line)
        of_cell = _ON_OTHERS.match(line) if not number else None
        if rest is None and (of_cell is None or of_cell["rest"] is None):
            return None
        what = wanted(rest, KERNEL) if rest is not None else wanted_of_cell(str(of_cell and of_cell["rest"]), KERNEL)
        found = Candidates("")
        with contextlib.suppress(FlameError, asyncio.TimeoutError):
            looking = on_thread(lambda: candidates(what, self._side), "tab")
            found = await asyncio.wait_for(asyncio.wrap_future(looking), PATIENCE)
        return _offers(found, at).reply()

    def _begun(self, text: str, at: int, theirs: Offers) -> Offers:
        """What the far side offers, with our own magics where a line begins with a ``%``."""
        line, number = _line(text, at)[:2]
        first = _FIRST.match(line)
        if first is None:
            return theirs
        word = first.group(1)
        ours = [
            one
            for one in ("%flame", *((LOCAL, "%%flame", PROFILE_CELL.name) if number == 0 else ()))
            if one.startswith(word)
        ]
        if not ours:
            return theirs
        start = at - len(word)
        before = text[start : theirs.start]
        found = {one: Offer(one, "magic") for one in ours}
        for one in theirs.offers:
            found.setdefault(before + one.text, replace(one, text=before + one.text))
        return Offers(start, at, tuple(found.values()))

    def _session(self, name: str | None) -> Session | None:
        here = self._sides.far.target
        if name is None or name in (here.name, str(here.location)):
            return self._sides.far.current
        return None

    def _targets(self) -> Iterable[str]:
        return [*CopyCommands.targets(), *names()]

    def _names(self, word: str) -> Iterable[str]:
        local = self._sides.local.current if self._sides.local is not None else None
        if local is None:
            return []
        with contextlib.closing(Calls(local, stand_in, reference)) as calls:
            return identifiers(calls.demand(["user_names"], (), list))


def _line(text: str, at: int) -> tuple[str, int, int]:
    """The text of the cursor's line before the cursor, the number of that line, and the column."""
    before = text[:at].split("\n")
    return before[-1], len(before) - 1, len(before[-1])


def _offers(candidates: Candidates, at: int) -> Offers:
    return Offers(at - len(candidates.fragment), at, tuple(Offer(text, kind) for text, kind in candidates.found))
