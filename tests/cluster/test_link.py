"""FlameCluster on hosts that have nothing but a loopback interface and a Flame link."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import dasked
import farside
import netns
import psutil
import pytest
from dasked import cluster, until_workers, workers
from farside import FlameServer, wait_until
from flakylink import FlakyLink

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def lonely(nothing_is_left: None) -> Iterator[list[FlameServer]]:
    """Two hosts without a network; each has a stock server at a unix socket."""
    with contextlib.ExitStack() as stack:
        withins = stack.enter_context(netns.alone(2))
        yield [
            stack.enter_context(farside.stopped(FlameServer(farside.pythons()[-1], unix=True, within=within)))
            for within in withins
        ]


def _listens(server: FlameServer) -> set[str]:
    """The addresses at which something listens on the server's host."""
    found = set()
    for line in Path(f"/proc/{server.pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == "0A":
            found.add(socket.inet_ntoa(bytes.fromhex(local[:8])[::-1]))
    assert len(Path(f"/proc/{server.pid}/net/tcp6").read_text().splitlines()) == 1
    return found


def test_work_goes_on_over_cuts_and_an_outage(lonely: list[FlameServer]) -> None:
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(FlakyLink(one.location, seed=1)) for one in lonely]
        given = {**dasked.DASHBOARD, "port": 0}
        made, client = stack.enter_context(cluster([one.location for one in links], scheduler_options=given))
        assert made.network == "link"
        assert "cannot reach" in dasked.log(made)
        assert "network link chooses addresses itself; port of scheduler_options not used" in dasked.log(made)
        before = set(workers(client))
        assert len(before) == 2
        assert all(address.startswith("tls://127.0.0.1:") for address in before)
        for one in lonely:
            assert _listens(one) == {"127.0.0.1"}
        # From one worker to the other one: it crosses this machine.
        block = client.submit(bytes, 8 << 20, workers=[min(before)])
        assert client.submit(len, block, workers=[max(before)]).result() == 8 << 20
        assert sum(came for came, _ in made.traffic().values()) > 8 << 20
        futures = client.map(dasked.slow(), range(40), pure=False)
        for number in range(8):
            dasked.until_done(futures, 2 * number + 2)
            links[number % 2].cut()
        links[0].down()
        dasked.until_done(futures, 24)
        dasked.pass_time(10)
        links[0].up()
        assert sorted(number for number, _ in client.gather(futures)) == list(range(40))
        assert set(workers(client)) == before
        made.scale(3)
        until_workers(client, 3)
        made.scale(1)
        until_workers(client, 1)


@pytest.mark.long
def test_exact_results_whatever_ends_in_the_middle_of_work() -> None:
    """Eight cuts, an outage of a minute, and kill -9 of a worker, of its nanny and of a host's server."""
    python, count = farside.pythons()[-1], 300
    with contextlib.ExitStack() as stack:
        withins = stack.enter_context(netns.alone(2))
        servers = [
            stack.enter_context(farside.stopped(FlameServer(python, unix=True, within=within))) for within in withins
        ]
        links = [stack.enter_context(FlakyLink(one.location, seed=1)) for one in servers]
        made, client = stack.enter_context(cluster([one.location for one in links]))
        assert made.network == "link"
        futures = client.map(dasked.slow(), range(count), pure=False)

        def done() -> int:
            return sum(one.done() for one in futures)

        dasked.until_done(futures, 10)
        for number in range(8):
            before = done()
            links[number % 2].cut()
            dasked.until_done(futures, before + 2)
        for which in ("worker", "nanny"):
            before = done()
            wait_until(lambda: bool(_workers(servers[0])), "a worker", 60)
            worker = _workers(servers[0])[0]
            os.kill(worker.pid if which == "worker" else worker.ppid(), signal.SIGKILL)
            dasked.until_done(futures, before + 4)
        links[1].down()
        dasked.pass_time(60)
        links[1].up()
        before = done()
        assert before < count, "the work was over before the outage was"
        servers[0].kill()
        path = servers[0].location.removeprefix("./u:")
        os.unlink(path)
        again = FlameServer(python, unix=True, within=withins[0], arguments=("-u", path))
        servers[0] = stack.enter_context(farside.stopped(again))
        dasked.until_done(futures, count)
        assert sorted(number for number, _ in client.gather(futures)) == list(range(count))
        until_workers(client, 2)
        assert "the server ended" in dasked.log(made)
        client.close()
        made.close()
        for server in servers:
            wait_until(lambda one=server: not _below(one), "the end of all that it has started there", 60)  # type: ignore[misc]


def _below(server: FlameServer) -> list[psutil.Process]:
    """The processes that the server has started, and theirs."""
    return psutil.Process(server.pid).children(recursive=True)


def _workers(server: FlameServer) -> list[psutil.Process]:
    """The processes on that host in which tasks run."""
    return [one for one in _below(server) if "spawn_main" in " ".join(one.cmdline())]
