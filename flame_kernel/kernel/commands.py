"""Orders: the ``%flame`` lines of a kernel's cells, carried out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

from ..commands import monitor
from ..commands.doctor import bundle, examine, of_target
from ..commands.language import Command, parse
from ..commands.tables import aligned
from ..connect.amounts import size_in_words
from ..connect.keys import Ask
from ..connect.target import Target
from ..errors import AgentError, FlameError, TargetError
from ..security.terminal import clean
from ..session.agent_client import Visitor
from ..session.handshake import client_name
from ..session.session import Session
from .backend import FarSide
from .clients import Fronts
from .iopub import Publisher
from .replay import choose, header, label, replay
from .waits import Stopped, Waits, on_thread

# Seconds between two looks whether a client has consented.
ASK_EVERY = 0.5


@dataclasses.dataclass(frozen=True)
class Cell:
    """The cell in which an order stands: its request id, its front end, how the user can be asked something, and what
    is to be called before it follows a cell of the far side."""

    request_id: str
    front: str
    ask: Ask
    on_follow: Callable[[], None]


class Orders:
    """Carries out orders for a far side.

    load    ``load(name_or_location, ask, **settings)``: the Target; may ask the user, and so is called on a thread
    """

    def __init__(
        self, far: FarSide, publisher: Publisher, waits: Waits, fronts: Fronts, load: Callable[..., Target]
    ) -> None:
        self._far = far
        self._publisher = publisher
        self._waits = waits
        self._fronts = fronts
        self._load = load
        self._cautioned: Session | None = None
        self._views = monitor.Views()

    async def of_cell(self, lines: list[str], cell: Cell) -> tuple[list[str] | None, dict[str, Any]]:
        """Carry out the orders at the top of a cell: the lines that are left to run, None where there are none; and the
        reply of the cell that the last order has followed. Raises FlameError, Stopped."""
        lines = list(lines)
        orders = 0
        reply: dict[str, Any] = {}
        while lines and (lines[0].lstrip().startswith("%flame") or (orders and not lines[0].strip())):
            line = lines.pop(0).strip()
            if line:
                orders += 1
                reply = await self.carry_out(parse(line), cell) or {}
                if reply.get("status") == "error":
                    return None, reply
        if any(line.startswith("%flame") for line in lines):
            raise FlameError("%flame lines must stand at the top of a cell; move them up, or into a cell of their own")
        return (None if orders and not lines else lines), reply

    async def carry_out(self, command: Command, cell: Cell) -> dict[str, Any] | None:
        """Do what ``command`` says, its words in the cell's output. The reply of a cell that was followed, or None.

        Raises FlameError, and Stopped where a Stop ended a wait.
        """
        if command.name in ("help", "status"):
            if command.name == "status":
                with contextlib.suppress(FlameError):  # the status says it in its own words
                    await self._waits.until((await self.session(False)).ready)
            self._say(cell, command.text or self._far.words())
            return None
        reply: dict[str, Any] | None = await getattr(self, f"_{command.name}")(cell, command)
        return reply

    async def session(self, for_cell: bool = True) -> Session:
        """The session there, opened if need be."""
        return await self._waits.until(self._far.session(for_cell))

    def caution(self, request_id: str, session: Session) -> None:
        """Say once a session how far its link is open to others."""
        if self._cautioned is not session:
            self._cautioned = session
            for sentence in session.target.cautions():
                self._publisher.stream(request_id, "stderr", f"Warning: {clean(sentence)}\n")

    def _say(self, cell: Cell, text: str) -> None:
        self._publisher.stream(cell.request_id, "stdout", clean(text) + "\n")

    async def _connect(self, cell: Cell, command: Command) -> dict[str, Any] | None:
        find = on_thread(lambda: self._load(command.location, cell.ask, **command.options), "target")
        session = await self._change(cell, await self._waits.until(find))
        if session.server["fresh"]:
            self._say(cell, self._far.words())
            return None
        return await self._take_up(cell, session)

    async def _doctor(self, cell: Cell, command: Command) -> None:
        def checks() -> dict[str, str]:
            given = {name: value for name, value in command.options.items() if value is not None}
            target = self._far.current.target if self._far.current is not None else self._far.target
            try:
                if command.location is not None or given:
                    target = self._load(command.location, cell.ask, **given)
                elif self._far.trouble is not None:
                    raise self._far.trouble
            except TargetError as error:
                return bundle([of_target(error)])
            return bundle(examine(target))

        shown = await self._waits.until(on_thread(checks, "doctor"))
        self._publisher.message(cell.request_id, "display_data", {"data": shown, "metadata": {}, "transient": {}})

    async def _change(self, cell: Cell, target: Target, attach: str | None = None) -> Session:
        connecting = self._far.connect(target, attach)
        try:
            session = await self._waits.until(connecting)
        except Stopped:
            connecting.cancel()
            raise
        self._publisher.belongs(cell.request_id, session)
        self.caution(cell.request_id, session)
        await self._waits.until(session.ready)
        return session

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def _sessions(self, cell: Cell, command: Command) -> None:
        name = command.options["kill"]
        if name is not None:
            present = self._far.current
            if present is not None and present.session_id == name:
                raise FlameError(f"{name} is this kernel's own session; restart the kernel to begin a new one")
            if not await self._visit(lambda visitor: visitor.kill(name)):
                raise FlameError(f"there is no session {name} there; %flame sessions lists them")
            self._say(cell, f"session {name} is ended")
            return
        own = self._far.current
        living = await self._visit(lambda visitor: visitor.sessions())
        self._say(cell, _table(living, own.session_id if own is not None else "") if living else "no sessions there")

    async def _visit(self, do: Callable[[Visitor], Any]) -> Any:
        """``do`` with a connection of its own, on a thread."""
        target = self._target()

        def visit() -> Any:
            with contextlib.closing(Visitor(target)) as visitor:
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

    async def _attach(self, cell: Cell, command: Command) -> dict[str, Any] | None:
        name, how = command.options["name"], command.options["how"]
        living = await self._visit(lambda visitor: visitor.sessions())
        found = next((one for one in living if one.get("session") == name), None)
        if found is None:
            names = ", ".join(str(one.get("session")) for one in living) or "none"
            try:
                await self._visit(lambda visitor: visitor.ask("cells", session=name))
                why = f"the session {name} has just begun"
            except AgentError as e:  # which says what became of it, where that is known
                why = str(e) if e.code == "no_session" else f"there is no session {name} there"
            raise FlameError(f"{why}; at {self._target().location} there are: {names}")
        if how == "watch":
            await self._look_on(cell, name)
            return None
        if how == "ask":
            await self._ask_for(cell, name, str(found.get("client") or "its client"))
        target = dataclasses.replace(self._far.target, session=name)
        try:
            session = await self._change(cell, target, "force" if how == "force" else "must")
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
        visitor = await self._waits.until(on_thread(lambda: Visitor(self._target()), "visit"))
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

    async def _detach(self, cell: Cell, command: Command) -> None:
        session = self._far.current
        if session is None:
            raise FlameError("there is no session to leave")
        if self._far.target.location is None:
            raise FlameError("this kernel's own server ends with the kernel, so its session cannot be left")
        name = session.session_id
        await self._waits.until(on_thread(self._far.detach, "detach"))
        self._say(
            cell,
            f"left session {name} at {session.location}: it lives on there with its names and what it runs; "
            f"%flame attach {name} takes it up again",
        )

    async def _allow(self, cell: Cell, command: Command) -> None:
        await self._answer(cell, True)

    async def _refuse(self, cell: Cell, command: Command) -> None:
        await self._answer(cell, False)

    async def _answer(self, cell: Cell, allow: bool) -> None:
        session = self._far.current
        waiting = self._publisher.takeovers(session) if session is not None else {}
        if session is None or not waiting:
            raise FlameError("nobody asks for this session")
        for ask_id, who in list(waiting.items()):
            done = await self._waits.until(session.ask("consent", id=ask_id, allow=allow))
            waiting.pop(ask_id, None)
            heard = isinstance(done, dict) and done.get("done")
            told = ("may have this session" if allow else "is refused") if heard else "does not wait any more"
            self._say(cell, f"{who} {told}")

    # -- looking in ----------------------------------------------------------------------------------------------------

    async def _where(self, cell: Cell, command: Command) -> None:
        everything = command.options["all"]
        await self._look(cell, command, lambda session: monitor.where(session, everything, monitor.ALL))

    async def _top(self, cell: Cell, command: Command) -> None:
        await self._look(cell, command, monitor.top)

    async def _watch(self, cell: Cell, command: Command) -> None:
        await self._look(cell, command, lambda session: "")

    async def _look(self, cell: Cell, command: Command, once: Callable[[Session], str]) -> None:
        """Show what a look finds: once, or in a view of its own that goes on when this cell is over."""
        kind, options = command.name, command.options
        expression = options.get("expression", "")
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

    async def _replay(self, cell: Cell, command: Command) -> None:
        session = await self.session()
        count, choice = command.options["count"], command.options["choice"]
        chosen = choose(await self._cells(session), count, choice, self._fronts.missed(cell.front))
        self._publisher.belongs(cell.request_id, session)
        if not chosen:
            self._say(cell, "nothing was missed")
        for one in chosen:
            if len(chosen) > 1 or not one.get("complete", True):
                self._say(cell, header(one))
            await replay(session, one, self._publisher, self._waits, cell.request_id)


def _table(living: list[dict[str, Any]], own: str) -> str:
    """What lives on a server, a line each."""
    rows = [("session", "notebook", "started", "state", "runs", "waiting", "attached")]
    for one in living:
        started = one.get("started")
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(started)) if isinstance(started, (int, float)) else ""
        name = str(one.get("session"))
        client = f"{one.get('client') or 'yes'}" if one.get("attached") else "no"
        rows.append(
            (
                name + (" (this one)" if name == own else ""),
                str(one.get("notebook") or "-").rpartition("/")[2],
                when,
                str(one.get("state") or ""),
                str(one.get("code") or "")[:40],
                size_in_words(one["waiting"]) if one.get("waiting") else "-",
                client,
            )
        )
    return "\n".join(aligned(rows))
