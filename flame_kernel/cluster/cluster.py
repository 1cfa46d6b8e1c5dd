"""FlameCluster: dask's SpecCluster, whose scheduler and workers run on hosts that Flame reaches.

    cluster = FlameCluster("web", n_workers=8); client = cluster.get_client()

Dask opens pickles: a worker can run code in this process, and this process can run code there.  So whoever makes a
cluster of hosts trusts them.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import inspect
import logging
import math
import socket
import threading
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import dask
import distributed
from dask.utils import parse_timedelta
from distributed.core import Status
from distributed.deploy.cluster import Cluster
from distributed.deploy.spec import SpecCluster, close_clusters
from distributed.security import Security
from distributed.utils import Log, Logs

from ..commands.reaching import NETWORKS
from ..errors import FlameError, TargetError, cap
from ..forward import browser
from ..forward.forwards import Forward
from ..terminal import one_line, plain_text
from . import arguments, versions
from .certs import Roles
from .daemon_threads import DaemonThreads
from .dask_processes import Scheduler, Worker, placed
from .host import Host
from .network import LOOPBACK, Here, Party, Ports, Reachability

# The port of a dashboard, if it is free.
DASHBOARD = 8787
# Arguments for SpecCluster; all others are settings of `flame.connect`.
_OF_DASK = ("loop", "silence_logs", "shutdown_on_close", "scheduler_sync_interval", "shutdown_scheduler")
_THREADS = 32
# Seconds for what has begun of a cluster to end, if its start fails or is interrupted.
ABANDONING = 20


class FlameCluster(SpecCluster):
    """A Dask cluster on ``hosts``: a group of targets.toml, a list of locations, or words such as ``"furnace*4"``.

    n_workers          how many workers, spread over the hosts; None: one for each session that ``hosts`` names
    network            ``direct``: hosts connect to each other; ``link``: all traffic goes through the Flame links, and
                       nothing listens beyond the loopback interface; ``auto``: direct if that works
    security           True: TLS with certificates made for this cluster; or a dask ``Security``; False: no TLS
    worker_options     arguments of the worker class
    scheduler_options  arguments of dask's Scheduler
    worker_class       as text: ``distributed.Nanny``, ``dask_cuda.CUDAWorker``
    scheduler          where it runs: ``here``: in this process; ``first``: on the first host; or the name of a host
    install            send dask to hosts that have none
    quiet              do not print what happens to hosts; ``get_logs()`` has it in any case
    more               arguments of SpecCluster, and settings of `flame.connect` for all hosts

    Dask's configuration may set ``hosts`` and ``n_workers``, as ``cluster.flame``. Raises TargetError, FlameError.
    """

    def __init__(
        self,
        hosts: str | Iterable[str] | None = None,
        *,
        n_workers: int | None = None,
        network: str = "auto",
        security: bool | Security = True,
        worker_options: Mapping[str, Any] | None = None,
        scheduler_options: Mapping[str, Any] | None = None,
        worker_class: str | type = "distributed.Nanny",
        scheduler: str = "here",
        install: bool = False,
        name: str | None = None,
        asynchronous: bool = False,
        quiet: bool = False,
        **more: Any,
    ) -> None:
        hosts = dask.config.get("cluster.flame.hosts", None) if hosts is None else hosts
        n_workers = dask.config.get("cluster.flame.n_workers", None) if n_workers is None else n_workers
        # As in dask's LocalCluster, whose scheduler is in the user's own process too.
        of_dask = {"silence_logs": logging.WARNING} | {key: more.pop(key) for key in _OF_DASK if key in more}
        if network not in NETWORKS:
            raise TargetError(f"network {network!r} is unknown; choose one of {', '.join(NETWORKS)}")
        self.network = network
        self.ports: Ports | None = None
        self._chosen = arguments.chosen(hosts)
        self._settings = {key: value for key, value in more.items() if value is not None}
        self._wants_install = install
        self._class = arguments.class_name(worker_class)
        self._worker_options = arguments.for_workers(worker_options)
        self._scheduler_options = arguments.by_name(scheduler_options, "scheduler_options")
        self._where = arguments.scheduler_place(scheduler, self._chosen)
        self._initial = len(self._chosen) if n_workers is None else arguments.count(n_workers, "n_workers")
        # How many workers share the cores of the hosts, and how many an Adaptive may want. Running ones keep theirs.
        self._sharing, self._most = self._initial, 0
        self._roles = Roles.of(security, self._warn)
        self.hosts: list[Host] = []
        self._threads = DaemonThreads(_THREADS, "flame-cluster")
        self._dashboard: Forward | None = None
        self._watching: asyncio.Future[None] | None = None
        self._is_prepared, self._is_quiet = False, quiet
        self.mismatch = ""
        self.over = threading.Event()  # the cluster is closed, or its scheduler has ended
        try:
            super().__init__(
                worker={"cls": Worker, "options": dict(self._worker_options)},
                asynchronous=asynchronous,
                security=self._roles.here,
                name=name,
                **of_dask,
            )
        except BaseException:  # raised again, whatever it is, Ctrl-C too; nothing is left
            if not asynchronous and hasattr(self, "_loop_runner"):
                with contextlib.suppress(Exception):  # the first error is the one that counts
                    self.sync(self._abandon, callback_timeout=ABANDONING)
                self._loop_runner.stop()
            self._threads.shutdown(wait=False)
            raise

    def _warn(self, sentence: str) -> None:
        warnings.warn(sentence, UserWarning, stacklevel=4)

    # -- called by the cluster's processes

    def wants(self, name: Any) -> bool:
        """Whether a worker of this name is still wanted, and the scheduler runs."""
        running = self.status in (Status.running, Status.starting)
        scheduler: Any = self.scheduler
        return running and name in self.worker_spec and scheduler.status == Status.running

    def say(self, line: str) -> None:
        """Tell the user, and add it to the cluster's log."""
        self._log(plain_text(f"[{self.name}: {line}]"))

    def _say_from_thread(self, line: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed
            if self.loop is not None:
                self.loop.add_callback(self.say, line)

    # -- the start

    async def _start(self) -> None:
        if not self._is_prepared and self.status == Status.created:
            self._is_prepared = True
            try:
                await self._prepare()
            except BaseException:  # raised again, whatever it is; nothing is left
                await self._abandon()
                raise
        try:
            await super()._start()
        except RuntimeError as e:
            if not isinstance(e.__cause__, Exception):
                raise
            raise _why_no_scheduler(e.__cause__) from None
        if isinstance(self.scheduler, distributed.Scheduler):
            self._watching = asyncio.ensure_future(self._watch_scheduler(self.scheduler))

    async def _watch_scheduler(self, scheduler: distributed.Scheduler) -> None:
        """As `Scheduler._watch`, for one in this process."""
        await scheduler.finished()
        if self.status == Status.running:
            self.say("the scheduler has ended; make another cluster")
            self.over.set()

    async def __aenter__(self) -> FlameCluster:  # noqa: PYI034  (Self is of Python 3.11)
        try:
            await super().__aenter__()
        except BaseException:  # raised again, also if it is cancelled; nothing is left
            await self._abandon()
            raise
        return self

    async def _prepare(self) -> None:
        """Connect to the hosts, find out how they reach each other, and describe scheduler and workers for dask."""
        self.quiet = self._is_quiet
        places = list(dict.fromkeys(one.where for one in self._chosen))
        self.hosts = [
            Host(where, self._settings, self._threads, self._say_from_thread, self._wants_install) for where in places
        ]
        await _all(host.connect() for host in self.hosts)
        self.mismatch = versions.differing(self.hosts)
        if self.mismatch:
            self._warn(f"versions differ, which may break what is sent between them:\n{self.mismatch}")
        here = Here(self._threads)
        owner: Party = here if self._where == "here" else self._host_called(self._where)
        await self._choose_network(here, owner)
        _close_at_exit()
        for host in self.hosts:
            host.on_ready = functools.partial(self._back, host)
        self.scheduler_spec = await self._scheduler_spec(owner)
        self.worker_spec = {}
        for _ in range(self._initial):
            self.worker_spec.update(self.new_worker_spec())

    def _host_called(self, name: str) -> Host:
        return (
            self.hosts[0] if name == "first" else next(host for host in self.hosts if name in (host.where, host.label))
        )

    async def _choose_network(self, here: Here, owner: Party) -> None:
        """Choose ``direct`` or ``link``, and set the address of each party; for ``link`` set ``ports`` instead."""
        sight = Reachability(here, self.hosts)
        await sight.look()
        why = ""
        if self.network != "link":
            parties: list[Party] = [*self.hosts] if owner is not here else [here, *self.hosts]
            found = {one: sight.address(one, [here, *self.hosts] if one is owner else parties) for one in parties}
            why = sight.why_not()
            if None not in found.values():
                self.network = "direct"
                for one, address in found.items():
                    one.address = str(address)
                return
            if self.network == "direct":
                raise FlameError(f"network='direct' does not work: {why}; network='link' goes through the Flame links")
        self.network = "link"
        if not self._class.endswith(("Nanny", ".Worker")):
            raise TargetError(
                f"network='link' needs to know the ports of a worker, which {self._class} does not take; use "
                "distributed.Nanny or distributed.Worker"
            )
        self.ports = Ports(sight.shared, self._threads)
        for what, options in ("worker_options", self._worker_options), ("scheduler_options", self._scheduler_options):
            unused = sorted({"host", "interface", "port", "worker_port"} & options.keys())
            if unused:
                self.say(f"network link chooses addresses itself; {' and '.join(unused)} of {what} not used")
        if why:
            self.say(f"network link, because {why}; what workers send each other crosses this machine")

    async def _back(self, host: Host) -> None:
        """Called when a host was lost and has a new session."""
        if self.ports is not None:
            await self.ports.restore(host)

    async def _scheduler_spec(self, owner: Party) -> dict[str, Any]:
        options: dict[str, Any] = {"dashboard_address": f"{LOOPBACK}:{_dashboard_port()}", **self._scheduler_options}
        if isinstance(owner, Host):
            given = arguments.plain(self._scheduler_options, "scheduler_options")
            return {"cls": Scheduler, "options": {"owner": self, "host": owner, "kwargs": given, "roles": self._roles}}
        _check_names(self._scheduler_options)
        options = placed({"port": 0, **options, "security": self.security}, owner.address, self.ports is not None)
        if self.ports is not None:
            (options["port"],) = await self.ports.publish(owner, 1)
        return {"cls": distributed.Scheduler, "options": options}

    # -- workers

    def new_worker_spec(self) -> dict[Any, dict[str, Any]]:
        """The spec of the next worker, on the host that has fewest in proportion to its share of the sessions."""
        shares = {host.where: 0 for host in self.hosts}
        for one in self._chosen:
            shares[one.where] += 1
        used = dict.fromkeys(shares, 0)
        for spec in self.worker_spec.values():
            used[spec["options"]["host"].where] += 1
        # A lost host gets no further workers as long as there is another one.
        host = min(self.hosts, key=lambda one: (not one.is_ready, used[one.where] / shares[one.where]))
        (name,) = super().new_worker_spec()
        return {name: {"cls": Worker, "options": self._options_for(host, used[host.where])}}

    def _options_for(self, host: Host, before: int) -> dict[str, Any]:
        sessions = sum(1 for one in self._chosen if one.where == host.where)
        planned = max(before + 1, sessions, -(-self._sharing * sessions // len(self._chosen)))
        threads = max(1, host.facts["cores"] // planned)
        return {
            "owner": self,
            "host": host,
            "worker_class": self._class,
            "kwargs": {"nthreads": threads, **self._worker_options},
            "roles": self._roles,
        }

    def _update_worker_status(self, op: str, msg: Any) -> None:
        """Called by dask when the scheduler gains or loses a worker. A lost one that does not return is restarted."""
        name = self.scheduler_info["workers"].get(msg, {}).get("name") if op == "remove" else None
        Cluster._update_worker_status(self, op, msg)
        if name is not None:
            delay = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
            asyncio.get_running_loop().call_later(delay, self._look_for, name)

    def _look_for(self, name: Any) -> None:
        worker = self.workers.get(name)
        known = {one["name"] for one in self.scheduler_info["workers"].values()}
        if not isinstance(worker, Worker) or name in known:
            return
        if worker.status in (
            Status.closing,
            Status.closed,
        ):  # by the user: as in dask, ``await cluster`` starts another
            del self.workers[name]
        elif self.wants(name) and not worker.host.is_silent:
            self._futures.add(asyncio.ensure_future(worker.renew()))

    # -- for the user

    def sync(self, func: Any, *args: Any, **options: Any) -> Any:
        """Called by dask for whatever the user asks of the cluster. Raises FlameError if it is closed."""
        self._refuse_closed()
        return super().sync(func, *args, **options)

    def _refuse_closed(self) -> None:
        if self.status == Status.closed:
            raise FlameError(f"the cluster {self.name} is closed; make another one")

    def scale(self, n: float = 0, memory: Any = None, cores: int | None = None) -> Any:
        """As in dask: have ``n`` workers, or as many as have this ``memory`` or ``cores``. Raises FlameError."""
        self._refuse_closed()
        wanted = arguments.rounded_up(n, "scale(n): n")
        self._sharing = max(wanted, self._most)
        return super().scale(wanted, memory=memory, cores=cores)

    def adapt(self, *args: Any, **options: Any) -> Any:
        """As in dask: scale by what there is to do. Raises FlameError."""
        self._refuse_closed()
        least, most = options.get("minimum", 0), options.get("maximum", math.inf)
        for name, number in (("minimum", least), ("maximum", most)):
            if number != math.inf:
                arguments.rounded_up(number, f"adapt: {name}")
        if least > most:
            raise TargetError(f"adapt: minimum {least} is more than maximum {most}")
        self._most = math.ceil(most) if most != math.inf else 0
        self._sharing = max(len(self.worker_spec), self._most)
        return super().adapt(*args, **options)

    def get_client(self) -> Any:
        """A client of the cluster; the current one if it is that. Raises FlameError."""
        self._refuse_closed()
        return super().get_client()

    def get_logs(self, cluster: bool = True, scheduler: Any = True, workers: Any = True) -> Any:
        """As in dask; of a cluster that is closed, or has lost its scheduler, what it has said itself."""
        if self.over.is_set() and not self.asynchronous:
            said = "\n".join(line for _, line in self._cluster_manager_logs)
            return Logs({"Cluster": Log(said)} if cluster else {})
        return super().get_logs(cluster=cluster, scheduler=scheduler, workers=workers)

    async def _get_logs(self, cluster: bool = True, scheduler: Any = True, workers: Any = True) -> Any:
        """As in dask, and what tasks have printed, below what dask has of their worker."""
        logs = await super()._get_logs(cluster=cluster, scheduler=scheduler, workers=workers)
        known = self.scheduler_info["workers"]
        for address, log in logs.items():
            worker = self.workers.get(known[address]["name"]) if address in known else None
            if isinstance(worker, Worker):
                lines, printed = log.splitlines(), (await worker.printed()).splitlines()
                logs[address] = Log("\n".join([*lines, *(one for one in printed if one not in lines)]))
        return logs

    def _threads_per_worker(self) -> int:
        """How many threads the next worker of a host has, at least: for ``scale(cores=…)``."""
        return min(int(self._options_for(host, 0)["kwargs"]["nthreads"]) for host in self.hosts)

    @property
    def dashboard_link(self) -> str:
        """The dashboard's URL: through jupyter-server-proxy if that is there, else on this machine."""
        port = self.scheduler_info.get("services", {}).get("dashboard")
        if port is None:
            return ""
        if isinstance(self.scheduler, Scheduler):
            if self._dashboard is None or self._dashboard.closed:
                remote = self.scheduler.host.remote
                if remote is None:
                    return ""
                self._dashboard = remote.forwards.open(port)
            port = self._dashboard.local_port
        if dask.config.get("distributed.dashboard.link") != "{scheme}://{host}:{port}/status":
            return str(distributed.utils.format_dashboard_link("localhost", port))
        base = browser.proxied()
        return f"http://localhost:{port}/status" if base is None else f"{base}proxy/{port}/status"

    def traffic(self) -> dict[str, tuple[int, int]]:
        """The bytes that the cluster's forwards have carried from each host and to it; none with network ``direct``."""
        return {host.label: host.remote.forwards.traffic for host in self.hosts if host.remote is not None}

    # -- the end

    async def _close(self) -> None:
        if self.status == Status.closed:
            return
        if self.scheduler_comm is None:  # it has not started: there is nothing to scale down, or to say to a scheduler
            self.status = Status.created
            if self.scheduler is not None:
                await self.scheduler.close()
        if self.over.is_set() and self.scheduler is not None:  # dask would try for half a minute to reach the scheduler
            self.shutdown_scheduler = False
            await self.scheduler.close()
        try:
            await super()._close()
        finally:
            if self._watching is not None:
                self._watching.cancel()
            self.over.set()
            await self._leave()

    async def _abandon(self) -> None:
        """End what has begun of a cluster that cannot be, or whose start was interrupted."""
        if self.status in (Status.starting, Status.running):
            self.status = Status.failed
        self._correct_state_waiting = None  # it may have been cancelled before it began
        for worker in set(self._created) - set(self.workers.values()):  # those whose start was interrupted
            await worker.close()
        await self._close()

    async def _leave(self) -> None:
        """End the sessions on all hosts."""
        hosts, self.hosts = self.hosts, []
        await asyncio.gather(*(host.close() for host in hosts), return_exceptions=True)
        self._threads.shutdown(wait=False)


@functools.cache
def _close_at_exit() -> None:
    """At the end of the program close the clusters that it leaves open, before the connections to hosts end: dask has
    registered this too, but so early that it comes after them."""
    atexit.register(close_clusters)


async def _all(works: Any) -> None:
    """Wait for all of them; then raise the first error, if any."""
    done = await asyncio.gather(*works, return_exceptions=True)
    errors = [one for one in done if isinstance(one, BaseException)]
    if errors:
        raise errors[0].with_traceback(None)


def _check_names(options: Mapping[str, Any]) -> None:
    """Raise TargetError for names that dask's Scheduler does not take: it would leave the dashboard's socket open."""
    known = {name for one in distributed.Scheduler.__mro__ for name in inspect.signature(one).parameters}
    for name in options.keys() - known:
        raise TargetError(f"scheduler_options: dask's Scheduler takes no {name!r}")


def _why_no_scheduler(error: BaseException) -> FlameError:
    """A sentence on why dask did not start the scheduler, with the first cause."""
    if isinstance(error, FlameError):
        return error
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    why = cap(one_line(f"{type(first).__name__}: {first}"), 300)
    return FlameError(f"the scheduler did not start: {why}; see scheduler_options")


def _dashboard_port() -> int:
    """The usual port of a dashboard, or 0 if it is taken."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOOPBACK, DASHBOARD))
        except OSError:
            return 0
    return DASHBOARD
