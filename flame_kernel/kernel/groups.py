"""Groups: a kernel's cells on several far sides at once, those of ``%flame connect web`` and of ``%%flame -t web``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jupyter_core.paths import jupyter_config_dir

from ..commands import rails
from ..commands.code_words import check_code, identifier
from ..commands.options import KERNEL
from ..commands.parsing import Line, parse_cell
from ..connect.keys import Ask
from ..connect.selection import is_group, select
from ..connect.target import Target
from ..connect.targets_file import TargetsFile, located, targets_path
from ..errors import FlameError, GroupError, RemoteError
from ..group import folding
from ..group.cell import CellResults
from ..group.following import Following
from ..group.future import GroupFuture
from ..group.group import Group
from ..group.member import Member
from ..group.opening import are_numbers, group, some
from ..group.results import Results, told_errors
from ..group.telling import NO_CELL, again, cell_options, failure, runs_on, tell
from ..remote.remote import Remote
from ..session.session import Session
from ..terminal import plain_text, warning
from .backend import FarSide
from .copy_commands import CopyCommands
from .iopub import Publisher
from .waits import Stopped, Waits, on_thread

_CELL = re.compile(r"%%flame(?:\s+(.*))?$")
_NOBODY = (
    "cells run where the kernel is connected already: leave out the %%flame line, or name others by -t, such as "
    "%%flame -t web1,web2"
)


class Asked(Protocol):
    """The cell in which a command stands: its request, and how the user can be asked something."""

    @property
    def request_id(self) -> str: ...

    @property
    def ask(self) -> Ask: ...


@dataclass(frozen=True)
class How:
    """How a front end wants a cell to run: ``silent``, whether it ``counts``, and its ``count``."""

    silent: bool
    counts: bool
    count: int


class Groups:
    """The groups of one kernel; a host has one session, whatever words name it.

    load   ``load(name_or_location, ask, **settings)``: the Target; may ask the user
    say    ``say(cell, text)``: words in the output of a cell
    """

    def __init__(
        self,
        far: FarSide,
        publisher: Publisher,
        waits: Waits,
        load: Callable[..., Target],
        say: Callable[[Any, str], None],
        copies: CopyCommands,
    ) -> None:
        self._far = far
        self._publisher = publisher
        self._waits = waits
        self._load = load
        self._say = say
        self._copies = copies
        self._members: dict[str, Member] = {}
        self._words: str | None = None  # what named the last hosts
        self._back: list[str] = []  # hosts that are there again, which no cell has been told
        self._under_way: set[Following] = set()
        self._asking = threading.Lock()
        self._last: GroupFuture | None = None

    def __repr__(self) -> str:
        return f"<Groups {', '.join(self._members) or 'none'}>"

    # -- which hosts -------------------------------------------------------------------------------------------------

    def means(self, words: str | None) -> bool:
        """Whether ``words`` name several far sides. Raises TargetError."""
        return words is not None and is_group(words, _file())

    def made(
        self,
        words: str,
        ask: Ask | None,
        given: Mapping[str, Any],
        shared: dict[str, Member],
        known: Mapping[str, Remote] | None = None,
    ) -> Group:
        """The group that these words name. This connects to nobody; ``known`` has the hosts that are connected already.
        Raises TargetError."""

        def one_at_a_time(prompt: str, password: bool) -> str | None:
            with self._asking:
                return None if ask is None else ask(prompt, password)

        return group(
            words,
            known=known,
            load=lambda where, settings: self._load(where, one_at_a_time, **{**settings, **given}),
            file=_file(),
            shared=shared,
            back=self._back.append,
            confirmed=True,  # the user is asked before each cell
        )

    def turn_to(self, words: str, given: Mapping[str, Any]) -> None:
        """From now on cells run on this group; the first one connects to it. Raises TargetError."""
        made = self.made(words, None, given, self._members)
        self._far.turn_to(Target(name=words), group=made)

    async def connect(self, cell: Asked, words: str, given: Mapping[str, Any]) -> None:
        """Connect to all hosts of a group, and let cells run there. If none answers, nothing changes: FlameError."""
        shared = {} if given else self._members
        known, before = set(shared), self._far.group
        made = self.made(words, cell.ask, given, shared)
        new = [label for label in made.labels if label not in known]
        try:
            results = await self._reached(made)
            if not results.ok:
                raise FlameError(_none_reached(words, results))
        except BaseException:  # raised again, whatever it is: sessions that were opened are of no use
            await asyncio.wrap_future(on_thread(lambda: _end(shared, new), "leave"))
            raise
        if before is not None:
            left = [label for label in before.labels if given or label not in made.labels]
            old = self._members
            await asyncio.wrap_future(on_thread(lambda: _end(old, left), "leave"))
        self._members = shared
        self._far.join(made, words)
        self.caution(cell, made)
        self._say(cell, self._far.words())
        self._tell_errors(cell, results)

    async def _reached(self, made: Group) -> Results:
        future = made.noblock.connect()
        try:
            await self._waits.until(on_thread(future.wait, "connect"))
        except Stopped:
            future.interrupt()
            raise
        found: Results = future.results
        return found

    def caution(self, cell: Asked, made: Group) -> None:
        """Warn of links that are not safe, once where several hosts have the same fault."""
        for member in made.members:
            remote = member.known
            for sentence in remote.target.cautions() if remote is not None else ():
                self._publisher.stream(cell.request_id, "stderr", f"{warning(sentence)}\n")

    def _tell_errors(self, cell: Asked, results: Results) -> None:
        lines = told_errors(results.errors, len(results))
        if lines:
            self._publisher.stream(cell.request_id, "stderr", "\n".join(lines) + "\n")

    def renew(self, keep: bool) -> list[str]:
        """Leave the sessions of the present group, and be ready for new ones; the names of those that are kept. Blocks:
        for a thread."""
        before, words = self._far.group, self._far.target.name or ""
        if before is None:
            return []
        names = [remote.session.session_id for member in before.members if (remote := member.known) is not None]
        _end(self._members, list(before.labels), keep)
        self.turn_to(words, {})
        return names if keep else []

    def leave(self, before: Group | None, keep: bool = False) -> None:
        """The kernel has left this group for one host: end its sessions without a name; none if ``keep``. Blocks."""
        if before is not None:
            _end(self._members, list(before.labels), keep)

    def close(self, restart: bool) -> None:
        """The kernel ends: end all sessions, but those with a name, unless it is a ``restart``. Blocks."""
        _end(self._members, list(self._members), named=restart)

    # -- a cell ------------------------------------------------------------------------------------------------------

    def press(self) -> None:
        """The user pressed Stop: interrupt the cells under way on all their hosts. If none is waited for, interrupt the
        hosts that are still busy after an earlier Stop."""
        under_way = list(self._under_way)
        for following in under_way:
            following.press()
        for member in () if under_way or self._far.group is None else self._far.group.members:
            remote = member.known
            if remote is not None and member.state == "busy":
                with contextlib.suppress(FlameError):  # a host that is gone has nothing to stop
                    remote.interrupt()

    async def cell(self, cell: Asked, lines: list[str], how: How) -> dict[str, Any] | None:
        """Run what is left of a cell that is for a group, and return its reply. None if it is for one far side."""
        found = _CELL.match(lines[0].strip()) if lines else None
        if found is None and self._far.group is None:
            return None
        line = parse_cell(found[1] or "" if found else "", KERNEL)
        chosen = await self.chosen(cell, line["target"])
        return await self.run(cell, chosen, line, "\n".join(lines[1:] if found else lines), how)

    async def chosen(self, cell: Asked, words: str | None) -> Group:
        """The hosts that ``words``, the value of ``-t``, name; without words those of the kernel. Raises FlameError."""
        if words is None:
            if self._far.group is None:
                raise FlameError(_NOBODY)
            return self._far.group
        if are_numbers(words, _file()):
            return some(await self.usual(cell), words)
        self._words = words
        return self.made(words, cell.ask, {}, self._members, await self._own(words))

    async def usual(self, cell: Asked) -> Group:
        """Where none is named: the kernel's group, the last one, the default group, or the one host of the kernel."""
        if self._far.group is not None:
            return self._far.group
        words = self._words or _file().default_group
        if words:
            return await self.chosen(cell, words)
        return group([self._far.beside(await self._waits.until(self._far.session(True)))])

    async def _own(self, words: str) -> dict[str, Remote]:
        """The kernel's session, by the label of its host, if ``words`` name that host: it does not get a second one."""
        target, file = self._far.target, _file()
        if self._far.group is not None or target.location is None:
            return {}
        for one in select(words, file):
            table = file.tables.get(one.where, {"location": one.where})
            if one.label == one.where and located(table["location"], table.get("ssh")) == target.location:
                with contextlib.suppress(FlameError):  # the error is shown when the member connects
                    return {one.label: self._far.beside(await self._waits.until(self._far.session(True)))}
        return {}

    def side(self, text: str) -> _Side | None:
        """Whom an editor asks about a cell with ``text`` behind its ``%%flame``; None where nobody is connected."""
        with contextlib.suppress(FlameError):
            words = parse_cell(text, KERNEL)["target"]
            present = self._far.group
            if present is not None and (words is None or are_numbers(words, _file())):
                labels = (present if words is None else some(present, words)).labels
            else:
                labels = tuple(one.label for one in select(words or "", _file()))
            for label in labels:
                remote = self._members[label].known if label in self._members else None
                if remote is not None and remote.session.gone is None and remote.session.trouble is None:
                    return _Side(remote.session)
        return None

    async def run(self, cell: Asked, chosen: Group, line: Line, code: str, how: How) -> dict[str, Any]:
        """Run code on all hosts of a group, with its output in the cell; the reply. FlameError if it cannot begin."""
        check_code(code)
        if line["profile"]:
            raise FlameError("--profile is for where the kernel's cells run; for a group: %flame profile, meanwhile")
        await self._hold(cell, chosen, code, how)
        values = await self._copies.values([(identifier(name, "variable name"), None) for name in line["in"]])
        for name in line["pull"]:
            identifier(name, "variable name")
        wanted = cell_options(line, len(chosen), line["timeout"], not line["no_raise_error"])
        screen = Output(self._publisher, cell.request_id, how.silent)
        if line["verbose"]:
            screen.text("stdout", f"{runs_on(chosen.labels)}\n")
        following = Following(chosen, wanted, screen)
        options = {"silent": how.silent, "store_history": how.counts, "count": None if how.silent else how.count}
        self._waits.begin(lambda: self._begin(following, code, values, options))
        try:
            results = await asyncio.wrap_future(on_thread(lambda: _waited(following), "group"))
        finally:
            self._under_way.discard(following)
        back, self._back[:] = [label for label in self._back if label in chosen.labels], []
        if back:
            words = f"[{folding.names(back)}: back, in a new session: its earlier variables are lost]\n"
            screen.text("stderr", words)
        if results is None:
            return screen.error("KeyboardInterrupt", "", ["KeyboardInterrupt"])
        if line["pull"] and results.ok:
            await self._pull(chosen.some(results.ok), line["pull"])
        if results.has_failed and wanted.raise_error:
            return screen.failed(results, wanted.mask)
        return {"status": "ok"}

    async def _hold(self, cell: Asked, chosen: Group, code: str, how: How) -> None:
        """Hold a cell back where the rails of one of its hosts say so. Raises FlameError: it runs nowhere."""
        shown = await self._waits.until(on_thread(lambda: rails.hold_on(chosen.members, code, cell.ask), "rails"))
        if shown and how.counts and not how.silent:
            self._publisher.stream(cell.request_id, "stdout", shown)

    def _begin(self, following: Following, code: str, values: dict[str, Any], options: dict[str, Any]) -> None:
        self._under_way.add(following)
        self._last = following.begin(code, values, notebook=True, **options)

    async def _pull(self, some: Group, names: list[str]) -> None:
        """Bind names of ``%%local`` cells to what they are on each host."""
        pulled = await self._waits.until(on_thread(lambda: some.pull(names), "pull"))
        await self._copies.bind({name: {host: pulled[host][name] for host in pulled} for name in names})

    def show_again(self, cell: Asked, line: Line) -> None:
        """Show what the last cell on a group has given. Raises FlameError where there was none."""
        if self._last is None:
            raise FlameError(NO_CELL)
        screen, results = Output(self._publisher, cell.request_id), self._last.results
        assert isinstance(results, CellResults)
        tell(screen, results, again(line))
        if self._last.pending:
            screen.text("stderr", f"[not done yet: {folding.names(self._last.pending)}]\n")


class Output:
    """A screen in the output of a cell."""

    def __init__(self, publisher: Publisher, request_id: str, silent: bool = False) -> None:
        self._publisher = publisher
        self._request_id = request_id
        self._silent = silent
        self._id: str | None = None

    def text(self, name: str, text: str) -> None:
        if not self._silent:
            self._publisher.stream(self._request_id, name, text)

    def display(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        if not self._silent:
            content = {"data": data, "metadata": metadata, "transient": {}}
            self._publisher.message(self._request_id, "display_data", content)

    def live(self, words: str, over: bool) -> None:
        kind = "display_data" if self._id is None else "update_display_data"
        self._id = self._id or uuid.uuid4().hex
        content = {"data": {"text/plain": words}, "metadata": {}, "transient": {"display_id": self._id}}
        if not self._silent:
            self._publisher.message(self._request_id, kind, content)

    def failed(self, results: CellResults, mask: bool) -> dict[str, Any]:
        """Show who has failed; the reply."""
        error = failure(results, mask)
        if isinstance(error, RemoteError):
            lines = getattr(error, "lines", None) or [f"{error.ename}: {error.evalue}"]
            return self.error(error.ename, error.evalue, lines)
        name = type(error).__name__
        lines = error._render_traceback_() if isinstance(error, GroupError) else [f"{name}: {error}"]
        return self.error(name, str(error), lines)

    def error(self, ename: str, evalue: str, lines: list[str]) -> dict[str, Any]:
        """Show an error; the reply of a cell that ended with it."""
        content = {"ename": ename, "evalue": plain_text(evalue), "traceback": lines}
        if not self._silent:
            self._publisher.message(self._request_id, "error", content)
        return {"status": "error", **content}


class _Side:
    """One host, for an editor's questions."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def session(self) -> Future[Session]:
        future: Future[Session] = Future()
        future.set_result(self._session)
        return future


def _waited(following: Following) -> CellResults | None:
    """What a cell has given; None where Stop has ended it."""
    try:
        return following.wait()
    except KeyboardInterrupt:
        return None


def _none_reached(words: str, results: Results) -> str:
    said = "; ".join(
        f"{folding.names(block.hosts)}: {block.text}"
        for block in folding.fold({host: str(error) for host, error in results.errors.items()})
    )
    who = (
        f"none of the {len(results)} hosts of {words} can be" if len(results) > 1 else f"the host of {words} cannot be"
    )
    return f"{who} used: {plain_text(said)}"


def _end(members: dict[str, Member], labels: list[str], keep: bool = False, named: bool = False) -> None:
    """Leave the sessions of members, all at once. They end, those with a name only if ``named``; none if ``keep``."""

    def leave(remote: Remote) -> None:
        if keep or (remote.session.target.session is not None and not named):
            remote.detach()
        else:
            remote.close()

    leaving = [member for label in labels if (member := members.pop(label, None)) is not None]
    threads = [threading.Thread(target=member.close, args=(leave,), daemon=True) for member in leaving]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _file() -> TargetsFile:
    return TargetsFile(targets_path(os.environ, Path(jupyter_config_dir())))


def names() -> list[str]:
    """The groups of targets.toml, for Tab."""
    with contextlib.suppress(FlameError):
        return sorted(_file().groups)
    return []
