"""Commands: the ``%flame`` lines of a kernel's cells, carried out; what copies and sends is in ``exchange.py``."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from ..commands import help, monitor, sessions
from ..commands.doctor import bundle, examine, of_target
from ..commands.kept import choose, header, label
from ..commands.key_question import opened
from ..commands.options import KERNEL, settings
from ..commands.parsing import Line, find, parse, parse_cell, refuse_key, shortened
from ..connect.keys import Ask, has_key
from ..connect.target import Target
from ..errors import AgentError, FlameError, TargetError
from ..session.agent_client import AgentClient
from ..session.handshake import client_name
from ..session.session import Session
from ..terminal import one_line, plain_text
from .backend import FarSide
from .clients import Clients
from .exchange import Exchange
from .iopub import Publisher
from .replay import replay
from .waits import Stopped, Waits, on_thread

# Seconds between two looks whether a client has consented.
ASK_EVERY = 0.5

# What is written for the magics of %load_ext flame, and what to do here.
_LOADS = re.compile(r"%(?:re)?load_ext\s+flame(?:_kernel)?\s*$")
# A line that is meant for us, though it stands in a block, or is mistyped: with a key in it, it does not go there.
_OURS_SOMEWHERE = re.compile(r"\s*(?:[\w, ]+=\s*)?%{1,2}\s*flame\b", re.IGNORECASE)
_VALUE = re.compile(r"\s*[A-Za-z_][\w, ]*=\s*%flame\b")
_LOADED = "%load_ext flame is for other kernels: here cells run on the far side already, and %flame is there"
_NO_VALUE = "cells of this kernel run on the far side already: write the expression itself, without %flame"


@dataclasses.dataclass(frozen=True)
class Cell:
    """The cell in which an order stands: its request id, its front end, how the user can be asked something, what is to
    be called before it follows a cell of the far side, and with whether it is about to change where cells run."""

    request_id: str
    front: str
    ask: Ask
    on_follow: Callable[[], None]
    moves: Callable[[bool], None]


class Commands:
    """Carries out orders for a far side.

    load    ``load(name_or_location, ask, **settings)``: the Target; may ask the user, and so is called on a thread
    local   the side of ``%%local`` cells, made with the first of them
    """

    def __init__(
        self,
        far: FarSide,
        publisher: Publisher,
        waits: Waits,
        fronts: Clients,
        load: Callable[..., Target],
        local: Callable[[], FarSide],
    ) -> None:
        self._far = far
        self._publisher = publisher
        self._waits = waits
        self._clients = fronts
        self._load = load
        self._cautioned: Session | None = None
        self._views = monitor.Views()
        self._exchange = Exchange(far, local, waits, load, self._say)

    async def of_cell(self, lines: list[str], cell: Cell) -> tuple[list[str] | None, dict[str, Any]]:
        """Carry out the orders at the top of a cell: the lines that are left to run, None where there are none; and the
        reply of the cell that the last order has followed. Raises FlameError, Stopped."""
        lines = list(lines)
        orders = 0
        reply: dict[str, Any] = {}
        while (begin := _next(lines)) < len(lines) and _is_ours(lines[begin]):
            text = lines[begin].strip()
            del lines[: begin + 1]
            orders += 1
            if _LOADS.match(text):
                self._say(cell, _LOADED)
                continue
            if not re.match(r"%flame(?:[\s?]|$)", text):
                raise FlameError(f"there is no {shortened(text.split()[0])}; %flame help lists the commands")
            line = parse(text.removeprefix("%flame"), KERNEL)
            if line.name == "run":
                if any(_is_ours(one) for one in lines):
                    raise FlameError("%flame run must be the last %flame line of its cell: its script runs below")
                return [await self._exchange.script(line["code"]), *lines], {}
            reply = await self.carry_out(line, cell) or {}
            if reply.get("status") == "error":
                return None, reply
        _check_rest(lines)
        return (None if orders and _next(lines) == len(lines) else lines), reply

    async def carry_out(self, line: Line, cell: Cell) -> dict[str, Any] | None:
        """Do what ``line`` says, its words in the cell's output. The reply of a cell that was followed, or None.

        Raises FlameError, and Stopped where a Stop ended a wait.
        """
        do = getattr(self, f"_{line.name}", None)
        with self._moving(line, cell):
            if do is None:
                await getattr(self._exchange, line.name)(cell, line)
                return None
            reply: dict[str, Any] | None = await do(cell, line)
            return reply

    @contextlib.contextmanager
    def _moving(self, line: Line, cell: Cell) -> Iterator[None]:
        """While it is not clear yet where the cells that follow are going to run."""
        moves = line.command.moves and not (line.name == "attach" and line["watch"])
        cell.moves(moves)
        try:
            yield
        finally:
            cell.moves(False)

    async def _help(self, cell: Cell, line: Line) -> None:
        name = line["name"]
        self._say(cell, help.overview(KERNEL) if name is None else help.about(find(name, KERNEL), KERNEL))

    async def _status(self, cell: Cell, line: Line) -> None:
        with contextlib.suppress(FlameError):  # the status says it in its own words
            await self._waits.until((await self.session(False)).ready)
        self._say(cell, self._far.words())

    async def session(self, for_cell: bool = True) -> Session:
        """The session there, opened if need be."""
        return await self._waits.until(self._far.session(for_cell))

    def caution(self, request_id: str, session: Session) -> None:
        """Say once a session how far its link is open to others."""
        if self._cautioned is not session:
            self._cautioned = session
            for sentence in session.target.cautions():
                self._publisher.stream(request_id, "stderr", f"Warning: {plain_text(sentence)}\n")

    def _say(self, cell: Cell, text: str) -> None:
        self._publisher.stream(cell.request_id, "stdout", plain_text(text) + "\n")

    async def _connect(self, cell: Cell, line: Line) -> dict[str, Any] | None:
        given = settings(line.values)
        session = await self._change(cell, lambda ask: self._load(line["where"], ask, **given))
        if session.server["fresh"]:
            self._say(cell, self._far.words())
            return None
        return await self._take_up(cell, session)

    async def _doctor(self, cell: Cell, line: Line) -> None:
        given = settings(line.values)

        def checks() -> dict[str, str]:
            target = self._far.current.target if self._far.current is not None else self._far.target
            try:
                if line["where"] is not None or given:
                    target = self._load(line["where"], cell.ask, **given)
                elif self._far.trouble is not None:
                    raise self._far.trouble
            except TargetError as error:
                return bundle([of_target(error)])
            return bundle(examine(target))

        shown = await self._waits.until(on_thread(checks, "doctor"))
        self._publisher.message(cell.request_id, "display_data", {"data": shown, "metadata": {}, "transient": {}})

    async def _change(self, cell: Cell, load: Callable[[Ask], Target], attach: str | None = None) -> Session:
        """Go to the server that ``load`` gives: asked on a thread, where the user can be asked for its key too."""
        begun: list[Future[Session]] = []
        stopped = False

        def begin(target: Target) -> Session:
            if stopped:
                raise FlameError("stopped")
            begun.append(self._far.connect(target, attach))
            return begun[-1].result()

        try:
            session = await self._waits.until(on_thread(lambda: opened(load, begin, cell.ask), "target"))
        except Stopped:
            stopped = True
            for one in begun:
                one.cancel()
            raise
        self._publisher.belongs(cell.request_id, session)
        self.caution(cell.request_id, session)
        await self._waits.until(session.ready)
        return session

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def _sessions(self, cell: Cell, line: Line) -> None:
        name, other = line["kill"], line["target"]
        target = self._target() if other is None else await self._other(cell, other)
        present = self._far.current if other is None else None
        if name is None:
            living = await self._visit(lambda visitor: visitor.sessions(), target)
            own = present.session_id if present is not None else ""
            self._say(cell, sessions.table(living, own))
            return
        if present is not None and present.session_id == name:
            raise FlameError(f"{name} is this kernel's own session; restart the kernel to begin a new one")
        if not await self._visit(lambda visitor: visitor.kill(name), target):
            raise FlameError(f"there is no session {name} there; %flame sessions lists them")
        self._say(cell, f"ended session {name}")

    async def _other(self, cell: Cell, name: str) -> Target:
        """The target of that name, or location."""
        return await self._waits.until(on_thread(lambda: self._load(name, cell.ask), "target"))

    async def _visit(self, do: Callable[[AgentClient], Any], target: Target | None = None) -> Any:
        """``do`` with a connection of its own, on a thread."""
        where = target or self._target()

        def visit() -> Any:
            with contextlib.closing(AgentClient(where)) as visitor:
                return do(visitor)

        return await self._waits.until(on_thread(visit, "visit"))

    def _target(self) -> Target:
        """Where the server is: the target, or the kernel's own server if it runs."""
        if self._far.trouble is not None:
            raise self._far.trouble
        if self._far.target.location is not None:
            return self._far.target
        session = self._far.current
        if session is None:
            raise FlameError(
                "this kernel's own server does not run yet; connect to a server first: %flame connect WHERE"
            )
        return session.target

    # -- coming back -------------------------------------------------------------------------------------------------

    async def _attach(self, cell: Cell, line: Line) -> dict[str, Any] | None:
        name = line["name"]
        living = await self._visit(lambda visitor: visitor.sessions())
        found = next((one for one in living if one.get("session") == name), None)
        if found is None:
            names = ", ".join(one_line(str(one.get("session"))) for one in living) or "none"
            try:
                await self._visit(lambda visitor: visitor.ask("cells", session=name))
                why = f"the session {name} has just begun"
            except AgentError as e:  # which says what became of it, where that is known
                why = str(e) if e.code == "no_session" else f"there is no session {name} there"
            raise FlameError(f"{why}; at {self._target().location} there are: {names}")
        if line["watch"]:
            await self._look_on(cell, name)
            return None
        if line["ask"]:
            await self._ask_for(cell, name, one_line(str(found.get("client") or "its client")))
        target = dataclasses.replace(self._far.target, session=name)
        try:
            session = await self._change(cell, lambda ask: target, "force" if line["force"] else "must")
        except AgentError as e:
            if e.code != "in_use":
                raise
            raise FlameError(f"{e}; %flame attach {name} with --ask, --force or --watch") from None
        return await self._take_up(cell, session)

    async def _ask_for(self, cell: Cell, name: str, client: str) -> None:
        me = {"client": client_name(), "client_id": self._far.client_id}
        asked = (await self._visit(lambda visitor: visitor.ask("ask", session=name, **me)))["asked"]
        self._say(cell, f"asked {client}; waiting for an answer (Stop ends the wait)")
        while True:
            state = (await self._visit(lambda visitor: visitor.ask("asked", session=name, id=asked)))["state"]
            if state == "granted":
                return
            if state == "refused":
                raise FlameError(f"{client} keeps the session {name}; --watch shows its output, --force takes it")
            await self._waits.until(on_thread(lambda: time.sleep(ASK_EVERY), "ask"))

    async def _take_up(self, cell: Cell, session: Session) -> dict[str, Any] | None:
        """Show what was missed, and follow the cell that runs to its end; its reply."""
        cell.on_follow()
        cell.moves(False)
        cells = await self._cells(session)
        counts = [one["count"] for one in cells if isinstance(one.get("count"), int)]
        self._far.count = max(counts, default=0) + 1
        running = session.running
        what = f"; following {label(running[0])}" if running else ""
        self._say(cell, f"{self._far.words()}{what}")
        await self._announce_widgets(session)
        reply: dict[str, Any] | None = None
        self._publisher.prompt(session)
        for one in running:
            reply = await asyncio.wrap_future(session.follow(one["request"]))
            if isinstance(reply.get("execution_count"), int):
                self._far.count = reply["execution_count"] + 1
        return reply

    async def _announce_widgets(self, session: Session) -> None:
        """Have the session open its widgets here, where they are not known yet, as if they were made now."""
        if self._publisher.rendering(session).full:
            with contextlib.suppress(FlameError):
                await self._waits.until(session.request("comm_announce"))

    async def _look_on(self, cell: Cell, name: str) -> None:
        """Publish what a session says, until Stop."""
        visitor = await self._waits.until(on_thread(lambda: AgentClient(self._target()), "visit"))
        self._say(cell, f"watching session {name}; Stop ends it")

        def watch() -> None:
            for events in visitor.watch(name):
                self._publisher.show(visitor, cell.request_id, events)

        try:
            await self._waits.until(on_thread(watch, "watch"))
        except Stopped:
            self._say(cell, f"no longer watching {name}")
        finally:
            visitor.close()

    async def _detach(self, cell: Cell, line: Line) -> None:
        session = self._left()
        if self._far.target.location is None:
            raise FlameError("this kernel's own server ends with the kernel, so its session cannot be detached")
        name = session.session_id
        await self._waits.until(on_thread(self._far.detach, "detach"))
        self._say(
            cell, f"detached from {name} at {session.location}; it keeps running. Come back: %flame attach {name}"
        )

    async def _disconnect(self, cell: Cell, line: Line) -> None:
        if line["keep"]:
            await self._detach(cell, line)
            return
        session = self._left()
        await self._waits.until(on_thread(self._far.end, "detach"))
        name, where = session.session_id, session.location
        self._say(cell, f"ended session {name} at {where}; the next cell begins a new one there")

    def _left(self) -> Session:
        """The session that is to be left."""
        session = self._far.current
        if session is None:
            raise FlameError("there is no session to leave")
        return session

    async def _allow(self, cell: Cell, line: Line) -> None:
        await self._answer(cell, True)

    async def _refuse(self, cell: Cell, line: Line) -> None:
        await self._answer(cell, False)

    async def _answer(self, cell: Cell, allow: bool) -> None:
        session = self._far.current
        waiting = self._publisher.takeovers(session) if session is not None else {}
        if session is None or not waiting:
            raise FlameError("nobody is asking for this session")
        for ask_id, who in list(waiting.items()):
            done = await self._waits.until(session.ask("consent", id=ask_id, allow=allow))
            waiting.pop(ask_id, None)
            heard = isinstance(done, dict) and done.get("done")
            told = ("may have this session" if allow else "is refused") if heard else "is no longer waiting"
            self._say(cell, f"{who} {told}")

    # -- looking in ----------------------------------------------------------------------------------------------------

    async def _where(self, cell: Cell, line: Line) -> None:
        await self._look(cell, line, lambda session: monitor.where(session, line["all"], monitor.ALL))

    async def _top(self, cell: Cell, line: Line) -> None:
        await self._look(cell, line, monitor.top)

    async def _watch(self, cell: Cell, line: Line) -> None:
        await self._look(cell, line, lambda session: "")

    async def _look(self, cell: Cell, line: Line, once: Callable[[Session], str]) -> None:
        """Show what a look finds: once, or in a view of its own that goes on when this cell is over."""
        kind, options = line.name, line.values
        expression = options.get("code", "")
        if options["end"]:
            self._say(
                cell, await self._waits.until(on_thread(lambda: self._views.end_in_words(kind, expression), "end"))
            )
            return
        session = await self.session(False)
        if options["every"] is None:
            self._say(cell, await self._waits.until(on_thread(lambda: once(session), kind)))
            return
        self._publisher.belongs(cell.request_id, session)
        everything, seconds = options.get("all", False), options["every"]

        def begin() -> None:
            view = self._views.begin(
                session,
                kind,
                lambda event: self._publisher.show(session, cell.request_id, [event]),
                seconds,
                expression=expression,
                everything=everything,
                cell=cell.request_id,
            )
            view.shown.wait()

        await self._waits.until(on_thread(begin, kind))

    # -- once more ---------------------------------------------------------------------------------------------------

    async def _cells(self, session: Session) -> list[dict[str, Any]]:
        cells = await self._waits.until(session.ask("cells"))
        return [one for one in cells if isinstance(one, dict)] if isinstance(cells, list) else []

    async def _replay(self, cell: Cell, line: Line) -> None:
        session = await self.session()
        choice = "all" if line["all"] else "missed" if line["missed"] else None
        chosen = choose(await self._cells(session), line["count"], choice, self._clients.missed(cell.front))
        self._publisher.belongs(cell.request_id, session)
        if not chosen:
            self._say(cell, "nothing was missed")
        for one in chosen:
            if len(chosen) > 1 or not one.get("complete", True):
                self._say(cell, header(one))
            await replay(session, one, self._publisher, self._waits, cell.request_id)
            if "ended" in one and one["ended"] is None:
                self._say(cell, f"--- {label(one)} still runs")


def _check_rest(lines: list[str]) -> None:
    """Raise FlameError where a command of ours stands among the lines that are left to run."""
    if any(_OURS_SOMEWHERE.match(one) and has_key(one) for one in lines) and not _is_python(lines):
        for one in lines:
            refuse_key(one)
    if any(one.startswith("%flame") or _VALUE.match(one) for one in lines) and not _is_python(lines):
        _refuse_below(lines)
    if lines and re.match(r"%%flame\b", lines[0].strip()):
        parse_cell("", KERNEL)


def _refuse_below(lines: list[str]) -> None:
    """FlameError for ``%flame`` where it cannot stand."""
    if any(_VALUE.match(one) for one in lines):
        raise FlameError(_NO_VALUE)
    raise FlameError("%flame lines must stand at the top of a cell; move them up, or into a cell of their own")


def _is_python(lines: list[str]) -> bool:
    """Whether a cell is Python without magics: then what looks like one is in a string."""
    try:
        ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _next(lines: list[str]) -> int:
    """The number of the first line that is neither blank nor a comment."""
    return next((n for n, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), len(lines))


def _is_ours(line: str) -> bool:
    """Whether a line at the top of a cell is an order."""
    text = line.strip()
    return text.startswith("%flame") or _LOADS.match(text) is not None
