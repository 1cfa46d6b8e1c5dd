"""Sessions: the ``%flame`` lines that change where a kernel's cells run, or ask who lives on a server; and the way back
after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..commands.kept_cells import label
from ..commands.key_question import opened
from ..commands.options import settings
from ..commands.parsing import Line
from ..commands.sessions import in_use, is_answered, is_asked, is_kept, is_left, is_watched, lines, no_session
from ..connect.keys import Ask
from ..connect.location import Location
from ..connect.target import Target, Timeouts
from ..errors import AgentError, CannotConnect, FlameError, TargetError
from ..session.agent_client import AgentClient
from ..session.handshake import client_name
from ..session.session import Session
from ..terminal import one_line, warning
from .backend import FarSide
from .groups import Groups
from .iopub import Publisher
from .restart import Connection, Memory
from .waits import Stopped, Waits, on_thread

# Seconds between two questions whether a client has agreed.
ASK_EVERY = 0.5
# How long each server is waited for where all are asked for a session, and how many at a time.
SEARCH = Timeouts(connect=5.0, call=10.0, login=15.0)
AT_ONCE = 8
# No notebook has run so many cells; a server that says so is not believed.
MOST_CELLS = 10**8


@dataclasses.dataclass(frozen=True)
class Cell:
    """The cell in which a command stands: its request and its front end.

    ask         asks the user something
    on_follow   called before it follows a cell of the far side
    moves       called with whether it is about to change where cells run
    """

    request_id: str
    front: str
    ask: Ask
    on_follow: Callable[[], None]
    moves: Callable[[bool], None]


@dataclasses.dataclass(frozen=True)
class _Found:
    """A session that was looked for: where, and its row in the list there. ``connection`` None is the present one."""

    connection: Connection | None
    target: Target
    row: dict[str, Any]

    @property
    def place(self) -> str:
        return self.target.name or str(self.target.location)


class Sessions:
    """Carries out those commands, each by the method of its name.

    load      ``load(name_or_location, ask, **settings)``: the Target; may ask the user, and so is called on a thread
    say       ``say(cell, text)``: words in the output of a cell
    targets   the names of the targets that the user has written down
    memory    what outlives this process of the kernel
    usual     the target, or group, where none is named; raises TargetError
    """

    def __init__(
        self,
        far: FarSide,
        publisher: Publisher,
        waits: Waits,
        load: Callable[..., Target],
        say: Callable[[Any, str], None],
        targets: Callable[[], list[str]],
        memory: Memory,
        groups: Groups,
        usual: Callable[[], str | None],
    ) -> None:
        self._far = far
        self._publisher = publisher
        self._waits = waits
        self._load = load
        self._say = say
        self._targets = targets
        self._memory = memory
        self._groups = groups
        self._usual = usual
        self._cautioned: Session | None = None
        self._last = memory.read()  # where the process before this one ran its cells, until this one does
        self._is_elsewhere = False  # there was no way back there, and no cell has run since
        self._now: Connection | None = None  # the connection that this process has asked for
        self._known = [self._last] if self._last is not None else []  # connections of this kernel, the newest last

    def caution(self, request_id: str, session: Session) -> None:
        """Warn, once a session, if its link is not safe."""
        if self._cautioned is not session:
            self._cautioned = session
            for sentence in session.target.cautions():
                self._publisher.stream(request_id, "stderr", f"{warning(sentence)}\n")

    async def _change(self, cell: Cell, load: Callable[[Ask], Target], attach: str | None = None) -> Session:
        """Go to the server that ``load`` gives; it is called on a thread, because it may ask the user for a key."""
        begun: list[Future[Session]] = []
        stopped, group = False, self._far.group

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
        if group is not None:
            await asyncio.wrap_future(on_thread(lambda: self._groups.leave(group), "leave"))
        self._publisher.belongs(cell.request_id, session)
        self.caution(cell.request_id, session)
        await self._waits.until(session.ready)
        return session

    # -- the way back ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Set where cells run first: where the last ones ran in the process before this one; without such, at the usual
        target."""
        last = self._last
        try:
            where = self._usual() if last is None else last.where
            given = {} if last is None else settings(last.values)
            if self._groups.means(where):
                self._groups.turn_to(str(where), given)
            else:
                self._far.turn_to(self._load(None if last is None else where, None, **given))
        except FlameError as e:
            self._far.turn_to(Target(), e)

    async def before_cell(self, cell: Cell, seen: bool) -> None:
        """Before the first cell after a restart, go back to where the last one ran. Raises FlameError if that cannot
        be; the cell does not run then.

        ``seen``: the user reads what is said here. A cell that an editor sends by itself does not run elsewhere either.
        """
        last = self._last
        if last is None:
            if self._is_elsewhere:
                self._is_elsewhere = False
                self._memory.forget()
            return
        try:
            session = await self._return(cell, last)
        except FlameError as error:
            if seen:
                self._give_up(last)
            raise FlameError(self._not_back(last, error, seen)) from error
        if seen:
            self._last, self._now = None, last
            if not session.server["fresh"]:
                await self._count(session)
                await self._announce_widgets(session)
            self._say(cell, f"[restarted; back where cells ran before]\n{self._far.words()}")

    async def _return(self, cell: Cell, last: Connection) -> Session:
        """The session there: the one opened meanwhile, or a new one if the user has to be asked for something first."""
        try:
            session = await self._waits.until(self._far.session(True))
        except (TargetError, CannotConnect) as error:
            if self._far.group is not None or (isinstance(error, CannotConnect) and not error.cause.startswith("key_")):
                raise
            return await self._change(cell, lambda ask: self._load(last.where, ask, **settings(last.values)))
        await self._waits.until(session.ready)
        return session

    def _give_up(self, last: Connection) -> None:
        """Let the cells that follow run where they would run without the connection of the process before."""
        self._last, self._is_elsewhere = None, True
        self.begin()

    def _not_back(self, last: Connection, error: FlameError, seen: bool) -> str:
        words = f"this cell has not run. Before the restart cells ran at {last.place}, and there is no way back now"
        if not seen:
            return f"{words} ({error})"
        here = self._far.target
        where = f"at {here}" if here.location is not None else "on this machine, on a server of the kernel's own"
        where = where if self._far.group is None else f"on the group {here.name}"
        return f"{words} ({error}). The next cell runs {where}. To go back: {last}"

    def _remember(self, connection: Connection, cell: Cell) -> None:
        self._last, self._is_elsewhere, self._now = None, False, connection
        self._known = [one for one in self._known if one.place != connection.place] + [connection]
        try:
            self._memory.write(connection)
        except OSError as error:
            words = f"Warning: after a restart of the kernel, cells will not run there again: {error.strerror}"
            self._publisher.stream(cell.request_id, "stderr", f"{words}\n")

    # -- connect -----------------------------------------------------------------------------------------------------

    async def connect(self, cell: Cell, line: Line) -> dict[str, Any] | None:
        given = settings(line.values)
        if self._groups.means(line["where"]):
            await self._groups.connect(cell, line["where"], given)
            self._remember(Connection.of_line(line, line["where"]), cell)
            return None
        session = await self._change(cell, lambda ask: self._load(line["where"], ask, **given))
        if line["where"] is None and not given:
            self._last, self._is_elsewhere, self._now = None, False, None
            self._memory.forget()
        else:
            self._remember(Connection.of_line(line, str(self._far.target)), cell)
        if session.server["fresh"]:
            self._say(cell, self._far.words())
            return None
        return await self._take_up(cell, session)

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def sessions(self, cell: Cell, line: Line) -> None:
        name, other = line["kill"], line["target"]
        target = self._target() if other is None else await self._other(cell, other)
        present = self._far.current if other is None else None
        if name is None:
            living = await self._ask_agent(lambda client: client.sessions(), target)
            own = present.session_id if present is not None else ""
            self._say(cell, "\n".join(lines(living, own)))
            return
        if present is not None and present.session_id == name:
            raise FlameError(f"{name} is this kernel's own session; restart the kernel to begin a new one")
        if not await self._ask_agent(lambda client: client.kill(name), target):
            raise no_session(name)
        self._say(cell, f"ended session {name}")

    async def _other(self, cell: Cell, name: str) -> Target:
        """The target of that name, or location."""
        return await self._waits.until(on_thread(lambda: self._load(name, cell.ask), "target"))

    async def _ask_agent(self, do: Callable[[AgentClient], Any], target: Target | None = None) -> Any:
        """``do`` with a connection of its own, on a thread."""
        where = target or self._target()

        def visit() -> Any:
            with contextlib.closing(AgentClient(where)) as client:
                return do(client)

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

    async def attach(self, cell: Cell, line: Line) -> dict[str, Any] | None:
        name = line["name"]
        found = await self._search(name)
        if line["watch"]:
            await self._look_on(cell, name, found.target)
            return None
        if line["ask"]:
            await self._ask_for(cell, name, one_line(str(found.row.get("client") or "its client")), found.target)
        target = dataclasses.replace(self._far.target if found.connection is None else found.target, session=name)
        try:
            session = await self._change(cell, lambda ask: target, "force" if line["force"] else "must")
        except AgentError as e:
            if e.code != "in_use":
                raise
            raise in_use(e, name) from None
        if target.location is not None:
            known = found.connection or self._now or Connection(None, {}, str(target))
            self._remember(dataclasses.replace(known, values={**known.values, "session": name}), cell)
        return await self._take_up(cell, session)

    async def _search(self, name: str) -> _Found:
        """The session of that name: on the present server, else where this kernel was before, and at all targets."""
        here: Target | None = None
        try:
            here = self._target()
            living = await self._ask_agent(lambda client: client.sessions(), here)
            row = next((one for one in living if one.get("session") == name), None)
            if row is not None:
                return _Found(None, here, row)
            why = await self._why_not(name, here, living)
        except FlameError as e:
            why = str(e)
        present = here.location if here is not None else None
        found, asked, unasked = await self._waits.until(on_thread(lambda: self._elsewhere(name, present), "search"))
        if len(found) == 1:
            return found[0]
        if found:
            places = ", ".join(one.place for one in found)
            raise FlameError(
                f"several servers have a session {name}: {places}; say which one: "
                f"%flame connect {found[0].place} --session {name}"
            )
        also = f"; nor is it at {', '.join(asked)}" if asked else ""
        raise FlameError(f"{why}{also}{''.join(f'; {one}' for one in unasked)}")

    async def _why_not(self, name: str, target: Target, living: list[dict[str, Any]]) -> str:
        names = ", ".join(one_line(str(one.get("session"))) for one in living) or "none"
        try:
            await self._ask_agent(lambda client: client.ask("cells", session=name), target)
            why = f"the session {name} has just begun"
        except AgentError as e:  # which says what became of it, where that is known
            why = str(e) if e.code == "no_session" else f"there is no session {name} there"
        return f"{why}; at {target.location} there are: {names}"

    def _elsewhere(self, name: str, present: Location | None) -> tuple[list[_Found], list[str], list[str]]:
        """Look for a session on all known servers but the present one. Returns where it is, the names of the servers
        that do not have it, and why others were not asked. Blocks."""
        found: list[_Found] = []
        asked, unasked = [], []
        seen = {present}

        def look(connection: Connection) -> _Found | str | None:
            try:
                given = {**settings(connection.values), "session": None, "timeouts": SEARCH}
                target = self._load(connection.where, None, **given)
                if target.location in seen:
                    return None
                with contextlib.closing(AgentClient(target)) as client:
                    rows = [one for one in client.sessions() if one.get("session") == name]
            except FlameError as e:
                return f"{connection.where} was not asked: {e}"
            return _Found(connection, dataclasses.replace(target, timeouts=Timeouts()), rows[0] if rows else {})

        known = [one for one in reversed(self._known) if not self._groups.means(one.where)]
        connections = [*known, *(Connection(one, {}, one) for one in self._targets())]
        with ThreadPoolExecutor(AT_ONCE, "flame-search") as pool:
            for connection, answer in zip(connections, pool.map(look, connections), strict=True):
                if isinstance(answer, str):
                    unasked.append(answer)
                elif answer is not None and answer.target.location not in seen:
                    seen.add(answer.target.location)
                    if answer.row:
                        found.append(answer)
                    else:
                        asked.append(connection.place)
        return found, asked, unasked

    async def _ask_for(self, cell: Cell, name: str, client: str, target: Target) -> None:
        me = {"client": client_name(), "client_id": self._far.client_id}
        asked = (await self._ask_agent(lambda client: client.ask("ask", session=name, **me)))["asked"]
        self._say(cell, is_asked(client))
        while True:
            state = (await self._ask_agent(lambda client: client.ask("asked", session=name, id=asked)))["state"]
            if state == "granted":
                return
            if state == "refused":
                raise is_kept(client, name)
            await self._waits.until(on_thread(lambda: time.sleep(ASK_EVERY), "ask"))

    async def _take_up(self, cell: Cell, session: Session) -> dict[str, Any] | None:
        """Show what was missed, and follow the cell that runs to its end; its reply."""
        cell.on_follow()
        cell.moves(False)
        await self._count(session)
        running = session.running
        what = f"; following {label(running[0])}" if running else ""
        self._say(cell, f"{self._far.words()}{what}")
        await self._announce_widgets(session)
        reply: dict[str, Any] | None = None
        self._publisher.prompt(session)
        for one in running:
            reply = await asyncio.wrap_future(session.follow(one["request"]))
            self._counted(reply.get("execution_count"))
        return reply

    async def _announce_widgets(self, session: Session) -> None:
        """Have the session open its widgets here, where they are not known yet, as if they were made now."""
        if self._publisher.rendering(session).full:
            with contextlib.suppress(FlameError):
                await self._waits.until(session.request("comm_announce"))

    async def _count(self, session: Session) -> None:
        """Number the next cell after those that have run in the session already."""
        for one in await self.cells(session):
            self._counted(one.get("count"))

    def _counted(self, count: object) -> None:
        """A cell of that number has run there."""
        if isinstance(count, int) and self._far.count <= count < MOST_CELLS:
            self._far.count = count + 1

    async def _look_on(self, cell: Cell, name: str, target: Target) -> None:
        """Publish what a session says, until Stop."""
        client = await self._waits.until(on_thread(lambda: AgentClient(target), "visit"))
        self._say(cell, is_watched(name))

        def watch() -> None:
            for events in client.watch(name):
                self._publisher.show(client, cell.request_id, events)

        try:
            await self._waits.until(on_thread(watch, "watch"))
        except Stopped:
            self._say(cell, f"no longer watching {name}")
        finally:
            client.close()

    async def detach(self, cell: Cell, line: Line) -> None:
        session = self._left()
        if self._far.target.location is None:
            raise FlameError("this kernel's own server ends with the kernel, so its session cannot be detached")
        name = session.session_id
        await self._waits.until(on_thread(self._far.detach, "detach"))
        self._say(cell, is_left(name, session.location))

    async def disconnect(self, cell: Cell, line: Line) -> None:
        if line["keep"]:
            await self.detach(cell, line)
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

    async def allow(self, cell: Cell, line: Line) -> None:
        await self._answer(cell, True)

    async def refuse(self, cell: Cell, line: Line) -> None:
        await self._answer(cell, False)

    async def _answer(self, cell: Cell, allow: bool) -> None:
        session = self._far.current
        waiting = self._publisher.takeovers(session) if session is not None else {}
        if session is None or not waiting:
            raise FlameError("nobody is asking for this session")
        for ask_id, who in list(waiting.items()):
            done = await self._waits.until(session.ask("consent", id=ask_id, allow=allow))
            waiting.pop(ask_id, None)
            self._say(cell, is_answered(who, allow, done))

    async def cells(self, session: Session) -> list[dict[str, Any]]:
        cells = await self._waits.until(session.ask("cells"))
        return [one for one in cells if isinstance(one, dict)] if isinstance(cells, list) else []
