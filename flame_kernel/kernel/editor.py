"""Tab and Shift-Tab in the kernel's cells: the far side is asked, and ``%flame`` lines are completed here."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Protocol

from ..commands import help
from ..commands.language import CELL
from ..commands.looking import PROFILE_CELL
from ..commands.options import KERNEL
from ..commands.parsing import find
from ..commands.tab import command_at, rest_of, wanted, wanted_of_cell
from ..connect.keys import without_key
from ..errors import FlameError
from ..remote import candidates as remote_candidates
from ..remote.candidates import Candidates, candidates, code
from ..security.offers import Offers, offered
from ..session.requests import Reply
from ..session.session import Session
from .exchange import Exchange
from .groups import Groups, names
from .iopub import Publisher
from .sides import Sides
from .waits import on_thread

# The first line of a cell for this machine.
LOCAL = "%%local"
# Seconds: how long Tab waits for a far side that is still being connected, for its answer, and in a %flame line for
# whatever has to be asked.
CONNECTING = 5.0
ANSWER = 10.0
PATIENCE = 8.0

_FIRST = re.compile(r"\s*(%{1,2}\w*)$")
_ON_OTHERS = re.compile(r"\s*%%flame(?:\s(?P<rest>.*))?$")


class Side(Protocol):
    """Whom a question can be for: a far side, or a group."""

    def session(self) -> Future[Session]: ...


class Editor:
    """Answers what an editor asks about a cell: lines of ours from the table of commands, all else by the far side."""

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
            # Shielded: a question that is given up must not cancel the connecting that a cell waits for too.
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
        nothing = Offers(at, at).reply()
        far, code, offset = self._asked(without_key(text, same_length=True), at)
        if far is None:
            return self._begun(text, at, nothing)
        reply = await self.ask(lambda session: session.complete(uuid.uuid4().hex, code, at - offset), nothing, far)
        if offset and reply is not nothing:
            moved = {end: reply[end] + offset for end in ("cursor_start", "cursor_end") if type(reply.get(end)) is int}
            reply = {**reply, **moved}
        return self._begun(text, at, offered(reply, text, at).reply())

    async def inspect(self, text: str, at: int, detail_level: int, omit_sections: tuple[str, ...]) -> Reply:
        """The content of an inspect_reply."""
        ours = self._inspect_line(text, at)
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
        """The side that a question about a cell is for, the text for it, and how many characters that leaves out. None
        for a cell of this machine, or of others, where none has run: nobody else is asked about it."""
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
        offered = Candidates("")
        with contextlib.suppress(FlameError, asyncio.TimeoutError):
            looking = on_thread(lambda: candidates(what, self._side), "tab")
            offered = await asyncio.wait_for(asyncio.wrap_future(looking), PATIENCE)
        return _reply(offered, at)

    def _begun(self, text: str, at: int, reply: Reply) -> Reply:
        """The far side's ``reply``, with our own magics where a line begins with a ``%``."""
        line, number = _line(text, at)[:2]
        first = _FIRST.match(line)
        if first is None:
            return reply
        word = first.group(1)
        ours = [
            one
            for one in ("%flame", *((LOCAL, "%%flame", PROFILE_CELL.name) if number == 0 else ()))
            if one.startswith(word)
        ]
        if not ours:
            return reply
        start = at - len(word)
        theirs_at = reply.get("cursor_start")
        before = text[start:theirs_at] if isinstance(theirs_at, int) and start <= theirs_at else ""
        theirs = [before + str(one) for one in reply.get("matches") or ()]
        types = _types(reply)
        found = [(one, "magic") for one in ours] + [(one, types.get(one[len(before) :], "")) for one in theirs]
        return _reply(Candidates(word, list(dict.fromkeys(found))), at)

    def _inspect_line(self, text: str, at: int) -> Reply | None:
        """The content of an inspect_reply for a line of ours; None for any other."""
        _, number, column = _line(text, at)
        whole = text.split("\n")[number]
        if number == 0 and whole.strip() == LOCAL:
            return _page(f"{LOCAL}: {help.LOCAL}.")
        if number == 0 and _ON_OTHERS.match(whole):
            return _page(help.about(CELL, KERNEL))
        if number == 0 and whole.split()[:1] == [PROFILE_CELL.name]:
            return _page(help.about(PROFILE_CELL, KERNEL))
        name = command_at(whole, column)
        if name is None:
            return None
        try:
            return _page(help.about(find(name, KERNEL), KERNEL) if name else help.overview(KERNEL))
        except FlameError as e:  # it says what to do instead
            return _page(str(e))

    def _session(self, name: str | None) -> Session | None:
        here = self._sides.far.target
        if name is None or name in (here.name, str(here.location)):
            return self._sides.far.current
        return None

    def _targets(self) -> Iterable[str]:
        return [*Exchange.targets(), *names()]

    def _names(self, word: str) -> Iterable[str]:
        local = self._sides.local.current if self._sides.local is not None else None
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
