"""Commands: carries out the ``%flame`` lines of a kernel's cells. ``copy_commands.py`` has those that copy and send,
``sessions.py`` those that change where cells run."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from ..commands import help, monitor, rails
from ..commands.doctor import bundle, examine, of_target
from ..commands.doctor_here import examine_lab
from ..commands.kept_cells import choose, header, label, not_kept
from ..commands.looking import memory_look, trial
from ..commands.options import KERNEL, settings
from ..commands.parsing import Line, find, parse, parse_cell, refuse_key, shortened, words_of
from ..connect.keys import has_key
from ..connect.rails_table import Rails
from ..connect.target import Target
from ..errors import AgentError, FlameError, TargetError
from ..forward import browser
from ..forward import commands as forwarding
from ..forward.forwards import Forwards
from ..hot.commands import FIXES
from ..packages.commands import carry_out, read, without_there
from ..packages.pip import Stop
from ..profile.asking import ProfileOptions, Taking, finished, gathered, live
from ..profile.holders import Holders
from ..profile.memory import memory
from ..session.session import Session
from ..session.user import agrees
from ..terminal import plain_text
from .backend import FarSide
from .clients import Clients
from .copy_commands import CopyCommands
from .dispatch import Dispatch
from .groups import Groups, How
from .iopub import Publisher
from .on_group import OnGroup
from .restart import Memory
from .sessions import Cell, Sessions
from .waits import Stopped, Waits, on_thread

# The line that loads the magics into other kernels; here it is only answered.
_LOADS = re.compile(r"%(?:re)?load_ext\s+flame(?:_kernel)?\s*$")
# A line meant for us, though it is in a block, or mistyped: if it has a key in it, it must not go to the far side.
_OURS_SOMEWHERE = re.compile(r"\s*(?:[\w, ]+=\s*)?%{1,2}\s*flame\b", re.IGNORECASE)
_VALUE = re.compile(r"\s*[A-Za-z_][\w, ]*=\s*%flame\b")
_LOADED = "%load_ext flame is for other kernels: here cells run on the far side already, and %flame is there"
_NO_VALUE = "cells of this kernel run on the far side already: write the expression itself, without %flame"
# Of a replay: bytes of one answer; seconds between two questions about a cell that still runs.
REPLAY_BATCH = 1 << 18
REPLAY_PAUSE = 0.2


class Commands:
    """Carries out commands for a far side.

    load    ``load(name_or_location, ask, **settings)``: the Target; may ask the user, and so is called on a thread
    local   the side of ``%%local`` cells, made with the first of them
    usual   the target, or group, where none is named
    """

    def __init__(
        self,
        far: FarSide,
        publisher: Publisher,
        waits: Waits,
        fronts: Clients,
        load: Callable[..., Target],
        local: Callable[[], FarSide],
        memory: Memory,
        usual: Callable[[], str | None],
    ) -> None:
        self._far = far
        self._publisher = publisher
        self._waits = waits
        self._clients = fronts
        self._load = load
        self._views = monitor.Views()
        self._confirmed: tuple[str, str] | None = None  # the front end whose cells, sent together, may run; and where
        self._ports: Forwards | None = None  # of the session that last had forwards
        self._copies = CopyCommands(far, local, waits, load, self._say, publisher)
        self.groups = Groups(far, publisher, waits, load, self._say, self._copies)
        self._on_group = OnGroup(far, self.groups, publisher, waits, self._copies, self._say, self.show_profile)
        self.sessions = Sessions(
            far, publisher, waits, load, self._say, self._copies.targets, memory, self.groups, usual
        )

    async def of_cell(self, lines: list[str], cell: Cell) -> tuple[list[str] | None, dict[str, Any]]:
        """Carry out the commands at the top of a cell. Returns the lines that are left to run, and how (see
        ``Session.execute``); or None, and the reply of the cell that the last command followed. Raises FlameError,
        Stopped.

        Branches because some commands decide what happens with the rest of their cell.
        """
        if FIXES.match(lines[0].strip()):
            return None, await self._fix(cell, lines)
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
            if (about := help.of_cell(text, KERNEL)) is not None:
                self._say(cell, about)
                continue
            if not re.match(r"%flame(?:[\s?]|$)", text):
                raise FlameError(f"there is no {shortened(text.split()[0])}; %flame help lists the commands")
            line = parse(text.removeprefix("%flame"), KERNEL)
            self._check_command(line)
            if line.name == "pip" and read(words_of(line["code"])).there:
                lines.insert(0, without_there(line["code"]))
                return lines, {}
            if line.name == "run":
                if any(_is_ours(one) for one in lines):
                    raise FlameError("%flame run must be the last %flame line of its cell: its script runs below")
                return [await self._copies.script(line["code"]), *lines], {}
            if line.name == "try":
                return self._tried(line, lines)
            reply = await self.carry_out(line, cell) or {}
            if reply.get("status") == "error":
                return None, reply
        _check_rest(lines)
        return (None if orders and _next(lines) == len(lines) else lines), reply

    async def _fix(self, cell: Cell, lines: list[str]) -> dict[str, Any]:
        """Carry out a ``%%flame hotfix`` cell."""
        line = parse(lines[0].strip().removeprefix("%%flame"), KERNEL)
        self._check_command(line)
        fix: Callable[..., Any] = self._on_group.of(line) or self._copies.hotfix
        reply: dict[str, Any] = await fix(cell, line, "\n".join(lines[1:]))
        return reply

    def _tried(self, line: Line, below: list[str]) -> tuple[list[str], dict[str, Any]]:
        """What a ``%flame try`` line, and the cell below it, run."""
        if self._far.group is not None:
            raise FlameError(
                "%flame try is for one host, and cells run on a group here; connect to one of its hosts first"
            )
        if any(_is_ours(one) for one in below):
            raise FlameError("%flame try must be the last %flame line of its cell: the code below is tried")
        code = [one for one in (line["code"], "\n".join(below)) if one.strip()]
        if not code:
            raise FlameError("nothing to try; write code behind %flame try, or below it")
        return "\n".join(code).split("\n"), {"trial": trial(line["timeout"])}

    async def carry_out(self, line: Line, cell: Cell) -> dict[str, Any] | None:
        """Carry out ``line``, and show its text in the cell. Returns the reply of a cell that was followed, or None.

        Raises FlameError, and Stopped if a Stop ended a wait.
        """
        do = self._on_group.of(line) or getattr(self, f"_{line.name}", None) or getattr(self.sessions, line.name, None)
        with self._moving(line, cell):
            if do is None:
                do = getattr(self._copies, line.name)
            reply: dict[str, Any] | None = await do(cell, line)
            return reply

    # -- rails -------------------------------------------------------------------------------------------------------

    async def check_rails(self, cell: Cell, code: str, dispatch: Dispatch, seen: bool, tried: bool) -> None:
        """Raise FlameError if the rails of the target do not let a cell run; else note the cell.

        ``seen``: the user sees the cell, it is not one that an editor sends by itself. So the user is asked where the
        rails say so, and told above the output where it runs. ``tried``: it runs in a copy only.
        """
        target = self._far.target
        if target.rails is None or not code.strip():
            return
        name = str(target.name or target.location)
        rails.refuse(target.rails, name, code, tried=tried)
        if target.rails.confirm and seen:
            await self._confirm(cell, name, target.rails, dispatch)
        shown = rails.hold(await self.session(), code, tried=tried)
        if seen:
            self._publisher.stream(cell.request_id, "stdout", shown)

    async def _confirm(self, cell: Cell, name: str, held: Rails, dispatch: Dispatch) -> None:
        """Ask whether cells that were sent together may run, before the first of them. FlameError: they may not."""
        cells = (cell.front, name)
        asked = self._confirmed == cells
        behind = await dispatch.behind(cell.front, wait=not asked)
        self._confirmed = None
        if behind and not asked:
            question = rails.question(held, name, 1, behind)
            rails.check_answer(await self._waits.until(on_thread(lambda: cell.ask(question, False), "rails")))
        if behind:
            self._confirmed = cells

    def _check_command(self, line: Line) -> None:
        """Raise FlameError if a command would write on a server that is read-only."""
        here = self._far.target
        is_written, name = rails.written(line, lambda one: one == here.name or one in CopyCommands.targets())
        if not is_written:
            return
        held: Mapping[str, Rails | None]
        if name not in (None, here.name):
            held = rails.of_targets([str(name)])
        elif self._far.group is not None:
            held = rails.of_hosts(self._far.group.members)
        else:
            held = {str(here.name or here.location): here.rails}
        rails.refuse_command(held, line.name)

    async def _audit(self, cell: Cell, line: Line) -> None:
        self._say(cell, rails.audit(self._far.target.rails))

    @contextlib.contextmanager
    def _moving(self, line: Line, cell: Cell) -> Iterator[None]:
        """A context in which a command may change where the following cells run."""
        moves = line.command.moves and not (line.name == "attach" and line["watch"])
        cell.moves(moves)
        try:
            yield
        finally:
            cell.moves(False)

    async def _help(self, cell: Cell, line: Line) -> None:
        name = line["name"]
        self._say(cell, help.overview(KERNEL) if name is None else help.about(find(name, KERNEL), KERNEL))

    async def _px(self, cell: Cell, line: Line) -> dict[str, Any]:
        if line["code"] == "--install":
            raise FlameError("%px and %%px are for other kernels; here it is %flame px and %%flame -t")
        how = How(silent=False, counts=False, count=self._far.count)
        target = line["target"]
        chosen = await (self.groups.usual(cell) if target is None else self.groups.chosen(cell, target))
        return await self.groups.run(cell, chosen, parse_cell("", KERNEL), line["code"], how)

    async def _result(self, cell: Cell, line: Line) -> None:
        self.groups.show_again(cell, line)

    async def _status(self, cell: Cell, line: Line) -> None:
        with contextlib.suppress(FlameError):  # the status reports it itself
            await self._waits.until((await self.session(False)).ready)
        self._say(cell, self._far.words())

    async def session(self, for_cell: bool = True) -> Session:
        """The current session, opened if there is none."""
        return await self._waits.until(self._far.session(for_cell))

    def _say(self, cell: Cell, text: str) -> None:
        self._publisher.stream(cell.request_id, "stdout", plain_text(text) + "\n")

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
            return bundle([*examine(target), *examine_lab()])

        shown = await self._waits.until(on_thread(checks, "doctor"))
        self._publisher.message(cell.request_id, "display_data", {"data": shown, "metadata": {}, "transient": {}})

    # -- looking in ----------------------------------------------------------------------------------------------------

    async def _where(self, cell: Cell, line: Line) -> None:
        await self._look(cell, line, lambda session: monitor.where(session, line["all"], monitor.ALL))

    async def _top(self, cell: Cell, line: Line) -> None:
        await self._look(cell, line, monitor.top)

    async def _watch(self, cell: Cell, line: Line) -> None:
        await self._look(cell, line, lambda session: "")

    async def _look(self, cell: Cell, line: Line, once: Callable[[Session], str]) -> None:
        """Show the answer once, or in a live view that continues after this cell."""
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

    async def _memory(self, cell: Cell, line: Line) -> None:
        session, what = await self.session(False), memory_look(line.values)
        look = on_thread(lambda: memory(session, what, line["of"] or ""), "memory")
        shown = await self._waits.until(look)
        if not isinstance(shown, Holders):
            self._say(cell, shown)
            return
        content = {"data": shown.bundle(), "metadata": {}, "transient": {}}
        self._publisher.message(cell.request_id, "display_data", content)

    async def _profile(self, cell: Cell, line: Line) -> None:
        if line["end"]:
            self._say(cell, await self._waits.until(on_thread(lambda: self._views.end_in_words("profile", ""), "end")))
            return
        session, options = await self.session(False), ProfileOptions.of(line.values)
        if line["live"]:
            self._publisher.belongs(cell.request_id, session)

            def begin() -> None:
                live(
                    self._views, session, options, lambda event: self._publisher.show(session, cell.request_id, [event])
                )

            await self._waits.until(on_thread(begin, "profile"))
            return
        await self.show_profile(cell.request_id, {"": Taking(session, options)}, line.values)

    @contextlib.asynccontextmanager
    async def profiling(self, session: Session, request_id: str, line: Line | None) -> AsyncIterator[None]:
        """A context in which a cell runs. If ``line`` is its ``%%profile`` line, its profile is shown at the end."""
        taking = Taking(session, ProfileOptions.of(line.values), request_id) if line is not None else None
        yield
        if taking is not None and line is not None:
            await self.show_profile(request_id, {"": taking}, line.values)

    async def show_profile(self, request_id: str, takings: Mapping[str, Taking], values: Mapping[str, Any]) -> None:
        """Show the profiles that are being taken, by host, as one, in a cell's output. A Stop ends them early."""
        future = on_thread(lambda: finished(gathered(takings), values), "profile")
        try:
            profile, saved = await self._waits.until(future)
        except Stopped:
            for one in takings.values():
                one.stop()
            profile, saved = await asyncio.wrap_future(future)
        content = {"data": profile.bundle(), "metadata": {}, "transient": {}}
        self._publisher.message(request_id, "display_data", content)
        if saved:
            self._publisher.stream(request_id, "stdout", plain_text(saved) + "\n")

    # -- ports ---------------------------------------------------------------------------------------------------------

    async def _forward(self, cell: Cell, line: Line) -> None:
        if line["stop"] is not None:
            await self._stop_forwards(cell, line["stop"])
            return
        session = await self.session()
        if self._ports is None or self._ports.session is not session:
            self._ports = Forwards(session)
        forwards = self._ports

        def work() -> dict[str, str]:
            made = forwarding.open_all(forwards, line["ports"], line.values)
            for one in made if line["open"] else ():
                browser.open_link(one)
            return forwarding.bundle(made)

        shown = await self._waits.until(on_thread(work, "forward"))
        self._publisher.message(cell.request_id, "display_data", {"data": shown, "metadata": {}, "transient": {}})

    async def _forwards(self, cell: Cell, line: Line) -> None:
        if line["stop"] is not None:
            await self._stop_forwards(cell, line["stop"])
        else:
            self._say(cell, forwarding.table(self._ports))

    async def _stop_forwards(self, cell: Cell, which: str) -> None:
        forwards = self._ports
        self._say(cell, await self._waits.until(on_thread(lambda: forwarding.stop(forwards, which), "forward")))

    # -- packages ------------------------------------------------------------------------------------------------------

    async def _pip(self, cell: Cell, line: Line) -> None:
        session = await self.session()
        asked = read(words_of(line["code"]))

        def consent(question: str) -> bool:
            return agrees(cell.ask, question)

        stop = Stop()

        def work() -> str:
            return carry_out(session, asked, consent, lambda text: self._say(cell, text), False, stop)

        try:
            self._say(cell, await self._waits.until(on_thread(work, "pip")))
        except Stopped:
            stop()
            raise

    # -- once more ---------------------------------------------------------------------------------------------------

    async def _replay(self, cell: Cell, line: Line) -> None:
        session = await self.session()
        choice = "all" if line["all"] else "missed" if line["missed"] else None
        chosen = choose(await self.sessions.cells(session), line["count"], choice, self._clients.missed(cell.front))
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
    """Raise FlameError if a command of ours is among the lines that are left to run."""
    if any(_OURS_SOMEWHERE.match(one) and has_key(one) for one in lines) and not _is_python(lines):
        for one in lines:
            refuse_key(one)
    if any(one.startswith("%flame") or _VALUE.match(one) for one in lines) and not _is_python(lines):
        _refuse_below(lines)


def _refuse_below(lines: list[str]) -> None:
    """Raise FlameError for a ``%flame`` line in a wrong place."""
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
    """Whether a line at the top of a cell is a command."""
    text = line.strip()
    asks = text.startswith("%%") and text.endswith("?") and help.of_cell(text, KERNEL) is not None
    return text.startswith("%flame") or asks or _LOADS.match(text) is not None


async def replay(session: Session, cell: dict[str, Any], publisher: Publisher, waits: Waits, request_id: str) -> None:
    """Publish the output of ``cell`` as output of ``request_id``, in order and once; if it still runs, its output so
    far."""
    after = 0
    while True:
        try:
            batch = await waits.until(session.ask("replay", request=cell["request"], after=after, limit=REPLAY_BATCH))
        except AgentError as e:
            raise not_kept(cell, e) from None
        events, done = batch["events"], batch["done"]
        after = events[-1].get("number", after) if events else after
        await publisher.room()
        publisher.show(session, request_id, events)
        if done:
            return
        if not events:
            await asyncio.sleep(REPLAY_PAUSE)
