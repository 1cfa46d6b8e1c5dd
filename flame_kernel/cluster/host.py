"""Host: one machine of a cluster, and our session there, which starts and watches dask's processes."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import sys
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from typing import Any

from ..errors import CannotConnect, FlameError, SessionGone, TargetError, cap
from ..packages import install
from ..remote.connect import connect
from ..remote.remote import Remote
from ..terminal import one_line, plain_text
from . import dask_program, far_side

# The packages whose versions dask compares between hosts, and those that a host must have.
PACKAGES = ("dask", "distributed", "msgpack", "cloudpickle", "tornado", "toolz", "numpy", "pandas", "lz4")
NEEDED = ("dask", "distributed")
# Seconds that a session lives without a client: longer than most outages, short enough for what a killed client leaves.
LINGER = 120.0
# Seconds between attempts to reach a host again, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
# The most characters of a line that a host prints.
_LONGEST = 100_000

_NAME = "flame_dask"
_WATCH = f"import {_NAME}; {_NAME}.watch()"


class Host:
    """The machine at ``where``, a target's name or location. Methods that wait are coroutines on the cluster's loop.

    settings  as for `flame.connect`
    threads   runs calls that wait for the host
    say       called with a sentence when the host is lost, and when it is back
    remote    the session, or None;  facts  what the host told about itself
    """

    def __init__(
        self,
        where: str,
        settings: Mapping[str, Any],
        threads: Executor,
        say: Callable[[str], None],
        wants_install: bool,
    ) -> None:
        self.where = where
        self.label = where
        self.facts: dict[str, Any] = {}
        self.remote: Remote | None = None
        self.address = "127.0.0.1"
        self.on_ready: Callable[[], Any] = lambda: None  # awaited when the host has a new session
        self._settings = {"place": "child", "linger": LINGER, **settings}
        self._threads = threads
        self._say = say
        self._wants_install = wants_install
        self._numbers = itertools.count(1)
        self._heard: dict[int, Callable[[dict[str, Any] | None], None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = self._lost = asyncio.Event()  # ``connect`` makes new ones
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._unread = ""

    def __repr__(self) -> str:
        return f"<Host {self.label} {'ready' if self.is_ready else 'not connected'}>"

    @property
    def is_ready(self) -> bool:
        return self.remote is not None and self.remote.session.gone is None

    @property
    def is_silent(self) -> bool:
        """Whether the link to it is broken now."""
        return self.remote is None or self.remote.session.trouble is not None

    async def ready(self) -> None:
        """Wait until there is a session."""
        await self._ready.wait()

    async def ask(self, name: str, *arguments: Any) -> Any:
        """Call a function of ``far_side`` there. Raises FlameError."""
        remote = self.remote
        if remote is None:
            raise FlameError(f"{self.label} is not connected")
        return await self._in_thread(lambda: getattr(remote.module(_NAME), name)(*arguments))

    def _in_thread(self, work: Callable[[], Any]) -> Any:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    # -- its session

    async def connect(self) -> None:
        """Connect for the first time, and check that dask can run there. Raises FlameError, TargetError."""
        self._loop, self._ready, self._lost = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        await self._in_thread(self._connect)
        self._ready.set()
        self._task = asyncio.create_task(self._keep())

    def _connect(self) -> None:
        remote = connect(self.where, **self._settings)
        try:
            remote.sendmodule(_NAME, inspect.getsource(far_side))
            self.label = remote.name
            self.facts = self._checked(remote)
            before, self.remote = self.remote, remote
            if self._closed:
                raise FlameError(f"{self.label} is not needed any more")
            self._watch(remote)
        except BaseException:  # raised again, whatever it is; the session ends
            remote.close()
            raise
        if before is not None:
            before.close()

    def _checked(self, remote: Remote) -> dict[str, Any]:
        facts = self._facts(remote)
        there, here = ".".join(map(str, facts["python"][:2])), "{}.{}".format(*sys.version_info)
        if there != here or facts["implementation"] != sys.implementation.name:
            what = "Python" if facts["implementation"] == sys.implementation.name else facts["implementation"]
            raise TargetError(
                f"{self.label} has {what} {there}, and this side Python {here}: functions that are pickled here would "
                f"crash a worker there; start a Flame server with Python {here} there, or leave {self.label} out"
            )
        missing = [name for name in NEEDED if facts["packages"][name] is None]
        if missing and self._wants_install:
            self._install(remote)
            facts = self._facts(remote)
            missing = [name for name in NEEDED if facts["packages"][name] is None]
        if missing:
            raise TargetError(
                f"{' and '.join(missing)} not installed at {self.label}; give install=True (--install), "
                f'or run there: %flame pip install "dask[distributed]"'
            )
        return facts

    def _facts(self, remote: Remote) -> dict[str, Any]:
        facts = remote.module(_NAME).facts(list(PACKAGES))
        sound = (
            isinstance(facts, dict)
            and isinstance(facts.get("python"), list)
            and len(facts["python"]) == 3
            and all(type(one) is int for one in (*facts["python"], facts.get("cores")))
            and all(isinstance(facts.get(name), str) for name in ("implementation", "executable", "host"))
            and isinstance(facts.get("packages"), dict)
        )
        if not sound:
            raise FlameError(f"{self.label} did not say what it is; no dask is started there")
        found = {name: facts["packages"].get(name) for name in PACKAGES}
        texts = {name: facts[name] for name in ("implementation", "executable", "host")}
        return {
            **{name: one_line(text)[:200] for name, text in texts.items()},
            "python": facts["python"],
            "cores": max(1, facts["cores"]),
            "packages": {name: None if one is None else one_line(str(one))[:60] for name, one in found.items()},
        }

    def _install(self, remote: Remote) -> None:
        import importlib.metadata

        wanted = [f"{name}=={importlib.metadata.version(name)}" for name in (*NEEDED, "cloudpickle")]
        self._say(f"{self.label}: installing {' '.join(wanted)}")
        self._say(str(install.install(remote.session, wanted, consent=lambda _: True, progress=False)))

    def _watch(self, remote: Remote) -> None:
        """Run ``far_side.watch`` there, which reports every change of a process, as long as this session lives."""
        self._unread = ""
        remote.session.open_lane(_NAME).result()
        watched = remote.cell(
            _WATCH, self._take, lane=_NAME, silent=True, store_history=False, request_id=uuid.uuid4().hex, held=True
        )
        watched.add_done_callback(lambda done: self._later(self._over, remote, done))

    def _later(self, work: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has closed, so nobody waits for this
            self._loop.call_soon_threadsafe(work, *arguments)

    def _take(self, event: dict[str, Any]) -> None:
        """Called on the events thread with what ``watch`` prints."""
        if event.get("type") != "stream" or event["content"].get("name") != "stdout":
            return
        *lines, self._unread = (self._unread + event["content"]["text"]).split("\n")
        self._unread = self._unread[:_LONGEST]
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):  # not printed by ``watch``
                told = json.loads(line)
                if isinstance(told, dict):
                    self._later(self._tell, told)

    def _tell(self, told: dict[str, Any]) -> None:
        hear = self._heard.get(told["number"]) if isinstance(told.get("number"), int) else None
        if hear is not None:
            hear(told)

    def _over(self, remote: Remote, done: Future[Any]) -> None:
        """Called when the session, or ``watch`` in it, has ended."""
        if remote is not self.remote or self._closed:
            return
        error = remote.session.gone or (None if done.cancelled() else done.exception())
        reason = error.reason if isinstance(error, SessionGone) else error or "its session was stopped"
        why = cap(one_line(str(reason)), 300)
        self._say(f"{self.label} is lost ({why}); its workers are started again when it is back")
        self._ready.clear()
        self._lost.set()
        for hear in list(self._heard.values()):
            hear(None)

    async def _keep(self) -> None:
        """Connect again whenever the session is lost."""
        while True:
            pause = FIRST_PAUSE
            await self._lost.wait()
            self._lost.clear()
            while not self._ready.is_set():
                try:
                    await self._in_thread(self._connect)
                    await self.on_ready()
                except CannotConnect:
                    await asyncio.sleep(pause)
                except FlameError as e:
                    self._say(f"{self.label} cannot be used: {cap(one_line(str(e)), 300)}")
                    await asyncio.sleep(LONGEST_PAUSE)
                else:
                    self._say(f"{self.label} is back")
                    self._ready.set()
                pause = min(2 * pause, LONGEST_PAUSE)

    # -- its processes

    async def start(self, name: Any, given: Mapping[str, Any], hear: Callable[[dict[str, Any] | None], None]) -> int:
        """Start a process of dask there; returns its number. ``hear`` gets its changes, and None if the host is lost.

        Raises FlameError.
        """
        number = next(self._numbers)
        self._heard[number] = hear
        try:
            await self.ask("start", name, number, {"program": inspect.getsource(dask_program), **given})
        except BaseException:  # raised again, whatever it is
            self.forget(number)
            raise
        return number

    def forget(self, number: int) -> None:
        self._heard.pop(number, None)

    async def close(self) -> None:
        """End the session, and all processes that it has started."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        remote, self.remote = self.remote, None
        if remote is not None:
            await self._in_thread(remote.close)


def shown(text: object) -> str:
    """The text of a log from a host, safe to show."""
    return plain_text(text.strip()) if isinstance(text, str) else ""
