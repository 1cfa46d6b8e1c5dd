"""Carries out the ``%flame`` lines that move files, variables, modules and scripts between this machine and the far
side.

Variables of this side are those of ``%%local`` cells.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from jupyter_core.paths import jupyter_config_dir

from ..cluster.commands import IN_KERNEL, code_for
from ..cluster.far_client import FarClient
from ..commands.code_words import assignments, call_of, identifier, script
from ..commands.far_path import get_paths, put_paths, sync_paths
from ..commands.key_question import opened
from ..commands.parsing import Line, words_of
from ..connect.keys import Ask
from ..connect.target import LIGHT, Target
from ..connect.targets_file import TargetsFile, targets_path
from ..errors import FlameError
from ..files.sync import Sync, SyncOptions
from ..files.transfer import Transfer
from ..hot.commands import hot, hotfix
from ..remote.calls import Calls
from ..remote.far_names import pull, push
from ..remote.modules import getmodule, send_named
from ..remote.proxy import reference, stand_in
from ..remote.remote import Remote
from ..session.session import Session
from .backend import FarSide
from .iopub import Publisher
from .waits import Stopped, Waits, on_thread

T = TypeVar("T")


class OfCell(Protocol):
    """What is needed of a `Cell`."""

    @property
    def request_id(self) -> str: ...

    @property
    def ask(self) -> Ask: ...


class CopyCommands:
    """Carries out those commands; each is the method of its name.

    say   ``say(cell, text)``: words in the output of a cell
    """

    def __init__(
        self,
        far: FarSide,
        local: Callable[[], FarSide],
        waits: Waits,
        load: Callable[..., Target],
        say: Callable[[Any, str], None],
        publisher: Publisher,
    ) -> None:
        self._publisher = publisher
        self._dask_client = FarClient()
        self._far = far
        self._local = local
        self._waits = waits
        self._load = load
        self._say = say

    async def _session(self) -> Session:
        return await self._waits.until(self._far.session(True))

    # -- files -------------------------------------------------------------------------------------------------------

    async def put(self, cell: OfCell, line: Line) -> None:
        sources = line["source"]
        server, destination = put_paths(sources, line["destination"], self._is_target, line["target"])
        await self._copy(
            cell, server, lambda session: Transfer(session, "put", False), lambda t: t.put(sources, destination)
        )

    async def get(self, cell: OfCell, line: Line) -> None:
        destination = line["destination"] or "."
        server, sources = get_paths(line["source"], destination, self._is_target, line["target"])
        await self._copy(
            cell, server, lambda session: Transfer(session, "get", False), lambda t: t.get(sources, destination)
        )

    async def sync(self, cell: OfCell, line: Line) -> None:
        source, destination = line["source"], line["destination"]
        server, far_source, far_destination = sync_paths(source, destination, self._is_target, line["target"])
        told: list[str] = []
        sync_options = SyncOptions(
            delete=line["delete"],
            dry_run=line["dry_run"],
            checksum=line["checksum"],
            exclude=tuple(line["exclude"]),
            report=told.append if line["verbose"] or line["dry_run"] else lambda text: None,
        )

        def copy(sync: Any) -> str:
            if far_source is None:
                result = sync.up(source, far_destination)
            else:
                result = sync.down(far_source, destination)
            return "\n".join([*told, f"would do: {result}" if line["dry_run"] else str(result)])

        await self._copy(cell, server, lambda session: Sync(session, sync_options, False), copy)

    async def _copy(
        self, cell: OfCell, server: str | None, make: Callable[[Session], Transfer], copy: Callable[[Any], object]
    ) -> None:
        """``copy(make(session))`` on a thread, for the session here or one on the other server that is named."""
        own = await self._session() if server is None or self._is_here(server) else None
        begun: list[Transfer] = []
        stopped = False

        def work() -> str:
            with contextlib.ExitStack() as stack:
                session = own
                if session is None:
                    remote = opened(lambda ask: self._load(server, ask, **LIGHT), Remote, cell.ask)
                    session = stack.enter_context(contextlib.closing(remote)).session
                begun.append(stack.enter_context(make(session)))
                if stopped:
                    raise FlameError("stopped")
                return str(copy(begun[0]))

        try:
            self._say(cell, await self._waits.until(on_thread(work, "copy")))
        except Stopped:
            stopped = True
            for one in begun:
                one.stop()
            raise

    def _is_target(self, name: str) -> bool:
        return self._is_here(name) or name in self.targets()

    def _is_here(self, name: str) -> bool:
        """Whether ``name`` is that of the server on which cells run."""
        target = self._far.target
        return target.location is not None and name in (target.name, str(target.location))

    @staticmethod
    def targets() -> list[str]:
        """The names in targets.toml. Raises TargetError."""
        return sorted(TargetsFile(targets_path(os.environ, Path(jupyter_config_dir()))).tables)

    # -- variables ---------------------------------------------------------------------------------------------------

    async def push(self, cell: OfCell, line: Line) -> None:
        wanted = assignments(line["code"])
        here, there = await self._both(f"cells run on the far side already, so write {line['code']} as it is")

        def move(here: Calls, there: Calls) -> None:
            names = [name for name, expression in wanted if expression is None]
            values = pull(here, names) if names else {}
            for name, expression in wanted:
                if expression is not None:
                    values[name] = here.perform(["eval", expression], (), "value")
            push(there, {name: values[name] for name, _ in wanted})

        await self._with_calls(move, here, there)

    async def pull(self, cell: OfCell, line: Line) -> None:
        names = [identifier(name, "variable name") for name in line["names"]]
        here, there = await self._both("")
        await self._with_calls(lambda here, there: push(here, pull(there, names)), here, there)

    async def values(self, wanted: list[tuple[str, str | None]]) -> dict[str, Any]:
        """The values of names of ``%%local`` cells, or of expressions there."""
        if not wanted:
            return {}
        here = await self._here("no %%local cell has run, so there is no variable on this side")

        def get(here: Calls) -> dict[str, Any]:
            names = [name for name, expression in wanted if expression is None]
            found = pull(here, names) if names else {}
            for name, expression in wanted:
                if expression is not None:
                    found[name] = here.perform(["eval", expression], (), "value")
            return {name: found[name] for name, _ in wanted}

        return await self._with_calls(get, here)

    async def bind(self, values: dict[str, Any]) -> None:
        """Bind names of ``%%local`` cells."""
        here = await self._here("")
        await self._with_calls(lambda calls: push(calls, values), here)

    async def _here(self, instead: str) -> Session:
        """The session of ``%%local`` cells. If there is none: FlameError with the words ``instead``, or, if these are
        empty, a new session."""
        local = self._local()
        if instead and local.current is None:
            raise FlameError(instead)
        return await self._waits.until(local.session(True))

    async def _with_calls(self, work: Callable[..., T], *sessions: Session) -> T:
        def do() -> T:
            with contextlib.ExitStack() as stack:
                return work(
                    *(stack.enter_context(contextlib.closing(Calls(one, stand_in, reference))) for one in sessions)
                )

        return await self._waits.until(on_thread(do, "move"))

    async def _both(self, instead: str) -> tuple[Session, Session]:
        """The session of ``%%local`` cells, and that of the others. If there is none of ``%%local`` cells: FlameError
        that ends with the words ``instead``, or, if these are empty, a new session."""
        none = f"no %%local cell has run, so there is no variable on this side; {instead}" if instead else ""
        return await self._here(none), await self._session()

    # -- Dask --------------------------------------------------------------------------------------------------------

    async def dask(self, cell: OfCell, line: Line) -> dict[str, Any] | None:
        """Make a cluster in the process of ``%%local`` cells, with its client there and where cells run. Returns the
        reply of the cell that does it, if it is an error."""
        target = self._far.target
        usual = target.name or (None if target.own or target.location is None else str(target.location))
        asked = {**line.values, "hosts": line["target"] or usual}
        session = await self._here("")
        if line["stop"]:
            await self._waits.until(on_thread(self._dask_client.close, "dask"))
        self._publisher.belongs(cell.request_id, session)
        answer = self._waits.begin(lambda: session.execute(cell.request_id, code_for(asked), store_history=False))
        try:
            reply = await self._waits.until(answer)
        except Stopped:
            session.interrupt(cell.request_id)
            raise
        if reply.get("status") != "ok":
            return reply
        told = (await self.values([("told", f"{IN_KERNEL}.told")]))["told"]
        if "error" in told:
            raise FlameError(told["error"])
        self._say(cell, told["words"] if line["stop"] else await self._with_client(told))
        return None

    async def _with_client(self, told: dict[str, Any]) -> str:
        """Words about the cluster, and where its client is, which is bound where cells run too if that can be."""
        name, end = told["name"], "; %flame dask --stop ends it"
        if self._far.group is not None:
            return f"{told['words']}\n{name} is its client in %%local cells{end}"
        session = await self._session()
        at = (told["host"], told["port"])
        why = await self._waits.until(on_thread(lambda: self._dask_client.bind(session, name, at, told["tls"]), "dask"))
        if why:
            return f"{told['words']}\n{name} is its client in %%local cells{end}; in others it is not there: {why}"
        return f"{told['words']}\n{name} is its client, also in %%local cells{end}"

    # -- modules and scripts -----------------------------------------------------------------------------------------

    async def sendmodule(self, cell: OfCell, line: Line) -> None:
        session = await self._session()
        sent = await self._waits.until(on_thread(lambda: send_named(session, line["module"]), "module"))
        self._say(cell, str(sent))

    async def hot(self, cell: OfCell, line: Line) -> None:
        session = await self._session()
        self._say(cell, await self._waits.until(on_thread(lambda: hot(session, line.values), "hot")))

    async def hotfix(self, cell: OfCell, line: Line, text: str = "") -> dict[str, Any]:
        """Fix a function with the ``text`` below the line; without it the reply offers the next cell."""
        session = await self._session()
        shown, following = await self._waits.until(on_thread(lambda: hotfix(session, line.values, text), "hotfix"))
        self._say(cell, shown)
        return offer(following) if following else {}

    async def getmodule(self, cell: OfCell, line: Line) -> None:
        session, file = await self._session(), line["file"]

        def get() -> str:
            source = getmodule(session, line["module"])
            if file is None:
                return source.rstrip("\n")
            path = Path(file).expanduser()
            try:
                path.write_text(source, "utf-8")
            except OSError as e:
                raise FlameError(f"cannot write {path}: {e.strerror}") from None
            return f"{path}: {len(source)} characters"

        self._say(cell, await self._waits.until(on_thread(get, "module")))

    async def script(self, code: str) -> str:
        """The code of the cell that ``%flame run`` becomes."""
        if call_of(code) is not None:
            raise FlameError(f"functions of cells are on the far side already: write {code} as it is")
        return script(words_of(code))


def offer(text: str) -> dict[str, Any]:
    """A reply that offers the text of the next cell."""
    return {"payload": [{"source": "set_next_input", "text": text, "replace": False}]}
