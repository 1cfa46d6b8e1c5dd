"""Worker and Scheduler: processes of dask on hosts, in the form that dask's SpecCluster manages."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Mapping
from typing import Any, Protocol

import dask.config
from distributed.core import Status
from distributed.deploy.spec import ProcessInterface

from ..errors import FlameError, cap
from ..terminal import one_line, plain_text
from .certs import Roles
from .far_side import GRACE
from .host import Host, shown
from .network import LOOPBACK, Ports

# Seconds that a process may take to start; and after which its end no longer counts as a repeated failure.
STARTING, LASTING = 60.0, 60.0
# Seconds until an ended process is restarted, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0


class Owner(Protocol):
    """The cluster, as its processes see it."""

    ports: Ports | None  # None: the network is ``direct``
    over: threading.Event  # to be set when the scheduler has ended

    def wants(self, name: Any) -> bool:
        """Whether a worker of this name is still wanted."""

    def say(self, line: str) -> None:
        """Tell the user, and add it to the cluster's log."""


class FarProcess(ProcessInterface):
    """A process of dask on ``host``."""

    role = "worker"

    def __init__(self, owner: Owner, host: Host, name: Any, roles: Roles) -> None:
        super().__init__(name=name)
        self.owner = owner
        self.host = host
        self.name = name
        self.addresses: list[str] = []
        self._roles = roles
        self._ports: list[int] = []
        self._number = 0
        self._up = asyncio.Event()
        self._ended = asyncio.Event()
        self._exit: int | None = None
        self.log = ""

    async def launch(self, spec: Mapping[str, Any], arguments: list[str]) -> None:
        """Start the process there; returns at once. Raises FlameError."""
        self._up.clear()
        self._ended.clear()
        self._exit, self.log = None, ""
        given = {
            "spec": spec,
            "arguments": arguments,
            "security": self._roles.scheduler if self.role == "scheduler" else self._roles.worker,
            "config": dask.config.serialize(dask.config.global_config),
        }
        self._number = await self.host.start(self.key, given, self._hear)

    @property
    def key(self) -> str:
        """The name of the process on its host."""
        return str(self.name)

    def _hear(self, told: dict[str, Any] | None) -> None:
        """Called by the Host, on the loop, when something happens to the process; None: the host is lost."""
        if told is not None and isinstance(told.get("addresses"), list):
            self.addresses = [str(one)[:200] for one in told["addresses"]]
            self._up.set()
        else:
            told = told or {}
            self._exit = told["status"] if isinstance(told.get("status"), int) else None
            self.log = plain_text(str(told.get("log", ""))[-16_000:]).strip()
            self.host.forget(self._number)
            self._ended.set()

    async def until(self, *events: asyncio.Event, seconds: float | None = None) -> None:
        """Wait for the first of these events, at most ``seconds``."""
        waiting = [asyncio.ensure_future(one.wait()) for one in events]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    async def ports(self, count: int) -> list[int]:
        """Ports by which all parties reach this process; those of an earlier start are given back."""
        assert self.owner.ports is not None
        await self._give_back()
        self._ports = await self.owner.ports.publish(self.host, count)
        return self._ports

    async def _give_back(self) -> None:
        while self._ports and self.owner.ports is not None:
            await self.owner.ports.take_back(self._ports.pop())

    async def end(self) -> None:
        """End the process, if there is one, and wait until it has ended."""
        if self._number and not self._ended.is_set() and not self.host.is_silent:
            with contextlib.suppress(FlameError, asyncio.TimeoutError):  # no answer; its session's end ends it
                await asyncio.wait_for(self.host.ask("stop", self.key), GRACE)
                await self.until(self._ended, seconds=GRACE + 3)
        self.host.forget(self._number)
        await self._give_back()

    async def printed(self) -> str:
        """The last lines of its output, safe to show; none while the link to its host is broken."""
        with contextlib.suppress(FlameError):
            if not self.host.is_silent:
                return shown(await self.host.ask("log_of", self.key))
        return ""

    def why(self) -> str:
        """How the process has ended, in words, with the error from its log."""
        how = "ended" if self._exit is None else f"ended with {_status(self._exit)}"
        said = "" if self._exit is not None and self._exit < 0 else error_in(self.log)
        return f"{how}: {said}" if said else how


def placed(options: Mapping[str, Any], address: str, linked: bool) -> dict[str, Any]:
    """``options`` of a process of dask with its address: the user's own ``host`` or ``interface``, or else ``address``;
    for network ``link`` always the loopback."""
    if linked:
        return {name: value for name, value in options.items() if name != "interface"} | {"host": LOOPBACK}
    return dict(options) if "interface" in options else {"host": address, **options}


def error_in(log: str) -> str:
    """The last line of a log that names an exception; that of its cause, if it has one; empty if there is none."""
    for part in (log.partition("was the direct cause of the following exception")[0], log):
        errors = [line for line in part.splitlines() if re.match(r"[\w.]*([Ee]rror|Exception)\b", line)]
        if errors:
            return cap(one_line(errors[-1]), 300)
    return ""


def _status(number: int) -> str:
    return f"signal {-number}" if number < 0 else f"status {number}"


class Scheduler(FarProcess):
    """The scheduler on ``host``."""

    role = "scheduler"

    def __init__(self, owner: Owner, host: Host, kwargs: Mapping[str, Any], roles: Roles) -> None:
        super().__init__(owner, host, "scheduler", roles)
        self._kwargs = dict(kwargs)
        self._task: asyncio.Task[None] | None = None
        self.dashboard: int | None = None  # its dashboard's port

    async def start(self) -> None:
        """Called by dask: start the scheduler. Raises FlameError."""
        linked = self.owner.ports is not None
        options = placed({"dashboard_address": f"{LOOPBACK}:0", **self._kwargs}, self.host.address, linked)
        if linked:
            (options["port"],) = await self.ports(1)
        await self.launch({"scheduler": {"cls": "distributed.Scheduler", "opts": options}}, [])
        await self.until(self._up, self._ended, seconds=2 * STARTING)  # without it there is no cluster
        if not self._up.is_set():
            why = self.why() if self._ended.is_set() else f"it said nothing for {2 * STARTING:g} s"
            await self.end()
            raise FlameError(f"the scheduler at {self.host.label} did not start: {why}")
        self.address = self.addresses[0]
        self._task = asyncio.create_task(self._watch())
        await super().start()

    async def _watch(self) -> None:
        await self._ended.wait()
        self.owner.say(f"the scheduler at {self.host.label} has {self.why()}; make another cluster")
        self.status = Status.closed
        self.owner.over.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await self.end()
        await super().close()


class Worker(FarProcess):
    """A worker, with its nanny, on ``host``. It is restarted when it has died, or when its host is back."""

    def __init__(
        self,
        scheduler: str,
        *,
        owner: Owner,
        host: Host,
        worker_class: str,
        kwargs: Mapping[str, Any],
        roles: Roles,
        name: Any,
    ) -> None:
        super().__init__(owner, host, name, roles)
        self._scheduler = scheduler
        self._class = worker_class
        self._kwargs = dict(kwargs)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Called by dask: start the worker, unless its host is lost. Raises FlameError if dask cannot start it."""
        if self.host.is_ready and not self.host.is_silent:
            try:
                await self._first()
            finally:
                if self.status in (Status.closing, Status.closed):  # meanwhile, so nobody hears of an error
                    raise asyncio.CancelledError
        self._task = asyncio.create_task(self._keep())
        await super().start()

    async def _first(self) -> None:
        await self._begin()
        await self.until(self._up, self._ended, seconds=STARTING)
        if self._ended.is_set() and self._exit is not None:
            await self._give_back()
            self._number = 0
            raise FlameError(f"worker {self.name} at {self.host.label} did not start: {self.why()}")
        if not self._up.is_set() and not self._ended.is_set():
            self.owner.say(
                f"worker {self.name} at {self.host.label} is not there after {STARTING:g} s; it may still come"
            )

    async def _begin(self) -> None:
        usual = {"death_timeout": 60, "dashboard_address": f"{LOOPBACK}:0"}
        linked = self.owner.ports is not None
        options = placed({**usual, **self._kwargs, "name": self.name}, self.host.address, linked)
        if linked:
            if self._class.endswith("Nanny"):
                options["port"], options["worker_port"] = await self.ports(2)
            else:
                (options["port"],) = await self.ports(1)
        await self.launch({self.key: {"cls": self._class, "opts": options}}, [self._scheduler])

    async def _keep(self) -> None:
        """Restart the worker when it has ended or its host is back, as long as it is wanted."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        while True:
            if self._number:
                since = loop.time()
                await self._ended.wait()
                if not self.owner.wants(self.name):
                    return
                if loop.time() - since > LASTING:
                    pause = FIRST_PAUSE
                if self.host.is_ready:
                    self.owner.say(f"worker {self.name} at {self.host.label} has {self.why()}; it is started again")
                    await asyncio.sleep(pause)
                    pause = min(4 * pause, LONGEST_PAUSE)
            await self.host.ready()
            self._number = 0
            if not self.owner.wants(self.name):
                return
            try:
                await self._begin()
            except FlameError as e:
                if self.host.is_ready:
                    self.owner.say(f"worker {self.name} at {self.host.label} cannot be started: {one_line(str(e))}")
                await asyncio.sleep(pause)
                pause = min(4 * pause, LONGEST_PAUSE)

    async def renew(self) -> None:
        """End a process that the scheduler has forgotten; ``_keep`` then starts another one."""
        with contextlib.suppress(FlameError, asyncio.TimeoutError):
            await asyncio.wait_for(self.host.ask("stop", self.key), GRACE)

    async def close(self) -> None:
        self.status = Status.closing
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.end()
        await super().close()
