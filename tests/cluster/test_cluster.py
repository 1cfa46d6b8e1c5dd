"""FlameCluster on hosts that see each other: its workers, their ends, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import time
import warnings
from collections.abc import Iterator

import dasked
import farside
import joblib
import psutil
import pytest
from dasked import DASHBOARD, cluster, until_workers, workers
from distributed.core import Status
from distributed.security import Security
from farside import FlameServer, wait_until

import flame
from flame_kernel.cluster import host
from flame_kernel.cluster.certs import Roles
from flame_kernel.cluster.dask_processes import error_in
from flame_kernel.errors import CannotConnect, FlameError, TargetError

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def servers(nothing_is_left: None) -> Iterator[list[FlameServer]]:
    """Two stock servers on the Python of the tests, with a key."""
    key = farside.random_key()
    with (
        farside.stopped(FlameServer(farside.pythons()[-1], key=key)) as one,
        farside.stopped(FlameServer(farside.pythons()[-1], key=key)) as two,
    ):
        yield [one, two]


def test_a_cluster_from_its_beginning_to_its_end(servers: list[FlameServer]) -> None:
    where = [one.location for one in servers]
    with cluster(where, key=servers[0].key, scheduler_options={"dashboard_address": "127.0.0.1:0"}) as (made, client):
        assert made.network == "direct"
        assert client.gather(client.map(lambda number: number + 1, range(20))) == list(range(1, 21))
        assert client.get_executor().submit(pow, 2, 10).result() == 1024
        with joblib.parallel_config(backend="dask", client=client):
            assert joblib.Parallel()(joblib.delayed(pow)(number, 2) for number in range(5)) == [0, 1, 4, 9, 16]
        assert {spec["options"]["host"].label for spec in made.worker_spec.values()} == set(where)
        assert "PRIVATE" not in repr(made) + repr(made.worker_spec) + repr(made.workers) + made._repr_html_()
        address, port = made.scheduler_address.removeprefix("tls://").split(":")
        assert address == "127.0.0.1"
        assert not _speaks_to_strangers(address, int(port))
        made.scale(1)
        until_workers(client, 1)
        (name,) = made.worker_spec
        client.submit(print, "printed by a task").result()
        (address,) = workers(client)
        wait_until(lambda: "printed by a task" in made.get_logs()[address].splitlines(), "what it printed")
        nanny = client.submit(os.getppid, pure=False).result()
        os.kill(nanny, signal.SIGKILL)
        assert client.submit(pow, 3, 4).result(timeout=60) == 81
        assert client.submit(os.getppid, pure=False).result() != nanny
        wait_until(lambda: f"worker {name} at" in dasked.log(made), "a line about the worker")
        assert (
            f"worker {name} at {made.workers[name].host.label} has ended with signal 9; it is started again"
            in made.get_logs()["Cluster"]
        )
        with pytest.raises(TargetError, match=r"scale\(n\): n is a number of workers, not -1"):
            made.scale(-1)
        with pytest.raises(TargetError, match="minimum 5 is more than maximum 1"):
            made.adapt(minimum=5, maximum=1)
        made.scale(cores=1)
        assert len(made.worker_spec) == 1
    assert made.hosts == []
    assert "it is started again" in made.get_logs()["Cluster"]
    for asked in (made.scale, made.adapt, made.get_client, made.__enter__):
        with pytest.raises(FlameError, match=f"^the cluster {made.name} is closed; make another one$"):
            asked()


def _speaks_to_strangers(address: str, port: int) -> bool:
    """Whether a client without a certificate hears anything."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((address, port), 30) as raw, context.wrap_socket(raw) as sock:
            return bool(sock.recv(1))
    except OSError:
        return False


def test_what_a_worker_does_not_take_is_said(servers: list[FlameServer]) -> None:
    with pytest.raises(FlameError, match=r"worker 0 at .* did not start: .*TypeError: .*nope"):
        flame.FlameCluster(servers[0].location, key=servers[0].key, worker_options={"nope": 1}, quiet=True)
    for scheduler, options, said in (
        ("first", {"nope": 1}, r"^the scheduler at .* did not start: ended with status 1: TypeError: .*'nope'"),
        ("here", {"nope": 1}, "^scheduler_options: dask's Scheduler takes no 'nope'$"),
    ):
        with pytest.raises(FlameError, match=said):
            flame.FlameCluster(
                servers[0].location, key=servers[0].key, scheduler=scheduler, scheduler_options=options, quiet=True
            )


def test_the_first_cause_in_a_log_is_the_error() -> None:
    log = "Traceback …\nsocket.gaierror: [Errno -2] Name or service not known\n\nThe above exception was the "
    log += "direct cause of the following exception:\n\nTraceback …\nRuntimeError: Nanny failed to start.\n"
    assert error_in(log) == "socket.gaierror: [Errno -2] Name or service not known"
    assert error_in("no error\nValueError: 5\n") == "ValueError: 5"


def test_a_start_that_is_cancelled_leaves_nothing(servers: list[FlameServer]) -> None:
    async def begin() -> None:
        made = flame.FlameCluster(
            servers[0].location, key=servers[0].key, asynchronous=True, scheduler_options=DASHBOARD
        )
        entering = asyncio.ensure_future(made.__aenter__())
        while made.status != Status.running:
            await asyncio.sleep(0.01)
        # Workers that are asked for at once share the cores of a host, and those that an Adaptive may ask for.
        made.hosts[0].facts["cores"] = 8
        made.scale(4)
        assert [spec["options"]["kwargs"]["nthreads"] for spec in made.worker_spec.values()][1:] == [2, 2, 2]
        made.adapt(maximum=8, interval="1h")
        assert [spec["options"]["kwargs"]["nthreads"] for spec in made.new_worker_spec().values()] == [1]
        made.scale(1)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert made.status == Status.closed

    asyncio.run(begin())
    assert not psutil.Process(servers[0].pid).children()


def test_a_cluster_that_cannot_be_leaves_dasks_log_as_it_was() -> None:
    handler = logging.StreamHandler()
    logging.getLogger("distributed").addHandler(handler)
    try:
        with pytest.raises(CannotConnect):
            flame.FlameCluster("127.0.0.1:1")
        assert handler.level == logging.NOTSET
    finally:
        logging.getLogger("distributed").removeHandler(handler)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"network": "nat"}, "network 'nat' is unknown; choose one of auto, direct, link"),
        ({"n_workers": -1}, "n_workers is a number of workers"),
        ({"security": "no"}, "security is True, False or"),
        ({"n_workers": 1.5}, "n_workers is a number of workers, not 1.5"),
        ({"hosts": 5}, "name the hosts of the cluster"),
        ({"hosts": [5]}, "name the hosts of the cluster"),
        ({"hosts": (one for one in ("web", "nowhere"))}, "there is no target or group 'web'"),
        ({"worker_options": 5}, "worker_options is a dict of arguments by name, such as .*, not 5"),
        ({"worker_options": {5: 1}}, "worker_options is a dict of arguments by name"),
        ({"worker_options": {"plugins": {object()}}}, "worker_options are sent as JSON"),
        ({"worker_options": {"memory_limit": "lots"}}, "'lots' is not a size of memory; write it as 4GiB or 500MB"),
        ({"worker_options": {"name": "mine"}}, "a cluster names its workers itself; leave name out of worker_options"),
        ({"worker_options": {"nthreads": 0}}, "nthreads of a worker is 1 or more, not 0"),
        ({"scheduler_options": "port"}, "scheduler_options is a dict of arguments by name"),
        ({"worker_class": "Nanny"}, "worker_class is a class with its module, such as distributed.Nanny, not 'Nanny'"),
        ({"worker_class": None}, "worker_class is a class with its module"),
        ({"worker_class": type("Mine", (), {"__module__": "__main__"})}, "worker_class __main__.Mine cannot be imp"),
        (
            {"scheduler": "nowhere"},
            "scheduler 'nowhere' is not a host of the cluster; write here, first, or one of loc",
        ),
        ({"network": "link", "worker_class": "dask_cuda.CUDAWorker"}, "needs to know the ports"),
        ({"color": "blue"}, "'color' is not a setting of a target"),
    ],
)
def test_what_cannot_be_is_said(servers: list[FlameServer], options: dict[str, object], said: str) -> None:
    options = {"hosts": servers[0].location, "key": servers[0].key, **options}
    with pytest.raises(TargetError, match=said):
        flame.FlameCluster(**options)


def test_another_minor_version_is_refused() -> None:
    other = next(one for one in farside.pythons() if one.version[:2] != farside.pythons()[-1].version[:2])
    with (
        farside.stopped(FlameServer(other)) as server,
        pytest.raises(TargetError, match=rf"has Python {other.version[0]}\.{other.version[1]}, and this side Python 3"),
    ):
        flame.FlameCluster(server.location)


def test_a_host_without_dask_is_told_how_to_get_it(servers: list[FlameServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of these servers has it, so another package stands for it."""
    monkeypatch.setattr(host, "PACKAGES", (*host.PACKAGES, "no-such-package"))
    monkeypatch.setattr(host, "NEEDED", (*host.NEEDED, "no-such-package"))
    with pytest.raises(
        TargetError, match=r'^no-such-package not installed at .*%flame pip install "dask\[distributed\]"'
    ):
        flame.FlameCluster(servers[0].location, key=servers[0].key)


def test_without_tls_there_is_a_warning(servers: list[FlameServer]) -> None:
    where = servers[0].location + "*2"
    with pytest.warns(UserWarning, match=r"^security=Security\(\) without encryption: the cluster has neither TLS"):
        Roles.of(Security(), warnings.warn)
    options = {"interface": "lo"}
    with pytest.warns(UserWarning, match="^security=False: the cluster has neither TLS"):
        made = flame.FlameCluster(
            where,
            key=servers[0].key,
            security=False,
            scheduler="first",
            n_workers=1,
            quiet=True,
            worker_options=options,
            scheduler_options=options,
        )
    with made, made.get_client() as client:
        assert made.scheduler_address.startswith("tcp://127.0.0.1:")
        assert client.submit(pow, 2, 5).result() == 32
        assert len(workers(client)) == 1


@pytest.mark.parametrize("scheduler", ["here", "first"])
def test_a_scheduler_that_a_client_has_shut_down(servers: list[FlameServer], scheduler: str) -> None:
    where = servers[0].location
    with flame.FlameCluster(
        where, key=servers[0].key, scheduler=scheduler, n_workers=0, scheduler_options=DASHBOARD, quiet=True
    ) as made:
        with contextlib.suppress(OSError):  # it is gone before it answers
            made.sync(made.scheduler_comm.terminate)  # as a client's ``shutdown``
        assert made.over.wait(30)
        assert made.get_logs()["Cluster"].endswith("; make another cluster]")
        began = time.monotonic()
    assert time.monotonic() - began < 25, "it has waited for the scheduler that is not there"


def test_a_host_that_comes_back_gets_its_worker_again() -> None:
    python = farside.pythons()[-1]
    with contextlib.ExitStack() as servers:
        server = servers.enter_context(farside.stopped(FlameServer(python)))
        with cluster(server.location) as (made, client):
            server.kill()
            again = ("-p", server.location.rpartition(":")[2])
            servers.enter_context(farside.stopped(FlameServer(python, arguments=again)))
            assert client.submit(pow, 2, 6, pure=False).result(timeout=120) == 64
            assert f"{server.location} is lost (the server ended); its workers are started again" in dasked.log(made)
            assert f"{server.location} is back" in dasked.log(made)


def test_without_dask_here_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(flame), "FlameCluster", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec("from flame import *", {})
    with pytest.raises(TargetError, match=r"FlameCluster needs dask.distributed, .*; run: pip install .*dask"):
        _ = flame.FlameCluster
