"""Carries out the ``%flame`` lines of a kernel whose cells run on a group; equal answers are shown once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ..commands import monitor
from ..commands.code_words import assignments, identifier
from ..commands.far_path import get_paths, put_paths, sync_paths
from ..commands.parsing import Line, words_of
from ..commands.tables import aligned
from ..errors import FlameError, GroupError
from ..group import commands as of_group
from ..group import folding
from ..group.future import GroupFuture
from ..group.group import Group
from ..group.results import Results, told_errors
from ..packages.commands import on_each, read
from ..packages.pip import Stop
from ..remote.modules import send_named
from ..session.session import Session
from ..session.user import agrees
from ..terminal import one_line, plain_text
from .backend import FarSide
from .copy_commands import CopyCommands, offer
from .groups import Groups
from .iopub import Publisher
from .waits import Stopped, Waits, on_thread

# Commands that work on a group as elsewhere.
SAME = ("help", "connect", "attach", "px", "result", "run", "getmodule", "dask")


class OnGroup:
    """Carries out those lines, each by the method of its name; ``say(cell, text)`` shows text in a cell's output."""

    def __init__(
        self,
        far: FarSide,
        groups: Groups,
        publisher: Publisher,
        waits: Waits,
        copies: CopyCommands,
        say: Callable[[Any, str], None],
        show_profile: Callable[..., Coroutine[Any, Any, None]],
    ) -> None:
        self._far = far
        self._groups = groups
        self._publisher = publisher
        self._waits = waits
        self._copies = copies
        self._say = say
        self._show_profile = show_profile

    def of(self, line: Line) -> Callable[[Any, Line], Any] | None:
        """The method that carries out a line for a group; None if it works as elsewhere. Raises FlameError."""
        is_elsewhere = (line.name == "doctor" and line["where"]) or (line.name == "sessions" and line["target"])
        if self._far.group is None or line.name in SAME or is_elsewhere:
            return None
        do = getattr(self, line.name, None)
        if do is None or any(line.values.get(name) for name in ("every", "end", "live")):
            what = "a live view" if do is not None else f"%flame {line.name}"
            raise FlameError(
                f"{what} is for one host, and cells run on the group {self._far.target.name}; connect to one of its "
                f"hosts (%flame connect {self._far.group.labels[0]})"
            )
        found: Callable[[Any, Line], Any] = do
        return found

    @property
    def _group(self) -> Group:
        group = self._far.group
        assert group is not None
        return group

    async def _done(self, cell: Any, future: GroupFuture, tell: Callable[[Results], str]) -> None:
        """Wait for a call on all hosts, and show what ``tell`` makes of it, and who failed. Raises GroupError."""
        try:
            await self._waits.until(on_thread(future.wait, "group"))
        except Stopped:
            future.interrupt()
            raise
        results = future.results
        text = tell(results)
        if text:
            self._say(cell, text)
        told = told_errors(results.errors, len(results))
        if told:
            self._publisher.stream(cell.request_id, "stderr", "\n".join(told) + "\n")
        if results.errors and not results.ok:
            raise GroupError(len(results), results.errors, results)

    # -- looking in ----------------------------------------------------------------------------------------------------

    async def status(self, cell: Any, line: Line) -> None:
        rows: list[tuple[str, ...]] = [("host", "state", "where", "session")]
        for member in self._group.members:
            remote = member.known
            session = remote.session if remote is not None else None
            where = (one_line(text) for text in (member.label, member.state, member.location))
            rows.append((*where, one_line(session.session_id) if session else ""))
        self._say(cell, plain_text("\n".join([self._far.words(), *aligned(rows)])))

    async def audit(self, cell: Any, line: Line) -> None:
        self._say(cell, of_group.noted(self._group))

    async def where(self, cell: Any, line: Line) -> None:
        await self._look(cell, lambda session: monitor.where(session, line["all"], monitor.ALL), mask=True)

    async def top(self, cell: Any, line: Line) -> None:
        await self._look(cell, monitor.top, mask=False)

    async def profile(self, cell: Any, line: Line) -> None:
        await self._show_profile(cell.request_id, of_group.profiles(self._group, line.values), line.values)

    async def _look(self, cell: Any, once: Callable[[Session], str], mask: bool) -> None:
        """Ask all hosts, also while something runs there."""
        group = self._group
        self._say(cell, await self._waits.until(on_thread(lambda: of_group.looked(group, once, mask), "look")))

    # -- files and values ----------------------------------------------------------------------------------------------

    async def put(self, cell: Any, line: Line) -> None:
        sources = line["source"]
        server, destination = put_paths(sources, line["destination"], self._is_target, line["target"])
        await self._copy(cell, line, server, lambda on: on.put(*sources, dst=destination))

    async def get(self, cell: Any, line: Line) -> None:
        destination = line["destination"] or "."
        server, sources = get_paths(line["source"], destination, self._is_target, line["target"])
        await self._copy(cell, line, server, lambda on: on.get(*sources, dst=destination))

    async def sync(self, cell: Any, line: Line) -> None:
        source, destination = line["source"], line["destination"]
        server, far_source, far_destination = sync_paths(source, destination, self._is_target, line["target"])
        here, there = (source, far_destination) if far_source is None else (far_source, destination)
        sync_options = {name: line[name] for name in ("delete", "dry_run", "checksum", "exclude")}
        down = far_source is not None
        before = "would do: " if line["dry_run"] else ""
        await self._copy(cell, line, server, lambda on: on.sync(here, there or "", down=down, **sync_options), before)

    async def _copy(
        self, cell: Any, line: Line, server: str | None, begin: Callable[[Any], GroupFuture], before: str = ""
    ) -> None:
        if server not in (None, self._far.target.name):
            await getattr(self._copies, line.name)(cell, line)
            return

        def tell(results: Results) -> str:
            done = {host: f"{before}{one}" for host, one in results.ok.items() if one is not None}
            return folding.told(done, mask=True, total=len(results))

        await self._done(cell, begin(self._group.noblock), tell)

    def _is_target(self, name: str) -> bool:
        return name == self._far.target.name or name in CopyCommands.targets()

    async def push(self, cell: Any, line: Line) -> None:
        wanted = assignments(line["code"])
        values = await self._copies.values(wanted)
        await self._done(cell, self._group.noblock.push(values), lambda results: "")

    async def pull(self, cell: Any, line: Line) -> None:
        names = [identifier(name, "variable name") for name in line["names"]]
        future = self._group.noblock.pull(names)
        await self._done(cell, future, lambda results: "")
        pulled = future.results.ok
        await self._copies.bind({name: {host: pulled[host][name] for host in pulled} for name in names})

    async def sendmodule(self, cell: Any, line: Line) -> None:
        def tell(results: Results) -> str:
            return folding.told({host: str(one) for host, one in results.ok.items()}, total=len(results))

        name = line["module"]
        await self._done(cell, self._group.noblock.each(lambda remote: send_named(remote.session, name)), tell)

    async def hot(self, cell: Any, line: Line) -> None:
        await self._done(cell, *of_group.hot(self._group, line.values))

    async def hotfix(self, cell: Any, line: Line, text: str = "") -> dict[str, Any]:
        """Fix a function on each host, or offer its text for the next cell."""
        offered: list[str] = []
        await self._done(cell, *of_group.hotfix(self._group, line.values, text, offered.append))
        return offer(offered[0]) if offered else {}

    async def pip(self, cell: Any, line: Line) -> None:
        asked, group = read(words_of(line["code"])), self._group

        def say(text: str) -> None:
            self._say(cell, text)

        def consent(question: str) -> bool:
            return agrees(cell.ask, question)

        stop = Stop()

        def work() -> list[str]:
            return on_each(group.labels, lambda label: group[label].session, asked, consent, say, say, stop)

        try:
            failed = await self._waits.until(on_thread(work, "pip"))
        except Stopped:
            stop()
            raise
        if failed:
            raise FlameError("\n".join(failed))

    # -- the end -------------------------------------------------------------------------------------------------------

    async def disconnect(self, cell: Any, line: Line) -> None:
        await self._leave(cell, line["keep"])

    async def detach(self, cell: Any, line: Line) -> None:
        await self._leave(cell, True)

    async def _leave(self, cell: Any, keep: bool) -> None:
        words = self._far.target.name
        names = await self._waits.until(on_thread(lambda: self._groups.renew(keep), "leave"))
        self._say(
            cell,
            f"left the sessions {', '.join(names)} of {words}; they keep running. Come back: %flame attach NAME"
            if names
            else f"ended the sessions of {words}; the next cell begins new ones there",
        )
