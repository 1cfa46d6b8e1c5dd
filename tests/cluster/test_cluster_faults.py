"""What a cluster leaves when it ends badly, and clusters beside each other, behind TLS and ssh."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import dasked
import farside
import netns
import psutil
import pytest
from dasked import OPTIONS, cluster, until_workers, workers
from distributed import Client
from distributed.diskutils import WorkSpace
from farside import FlameServer, wait_until
from flakylink import FlakyLink
from sshd import Sshd

from flame_kernel.serve.certs import Authority

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.timeout(240)]

# Seconds that a session of these clusters lives without a client, in place of two minutes.
LINGER = 3.0


def _below(server: FlameServer) -> list[psutil.Process]:
    """The processes that the server has started, and theirs."""
    return psutil.Process(server.pid).children(recursive=True)


def test_closing_during_an_outage_leaves_nothing() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(farside.stopped(FlameServer(farside.pythons()[-1])))
        link = stack.enter_context(FlakyLink(server.location, seed=2))
        with cluster(link.location, linger=LINGER) as (made, client):
            assert client.submit(pow, 2, 4).result() == 16
            assert _below(server)
            link.down()
            client.close()
            made.close()
            assert made.hosts == []
        wait_until(lambda: not _below(server), "the end of all that it has started there", 60)


@pytest.mark.long
def test_a_host_that_is_silent_for_a_minute_gets_its_worker_again() -> None:
    """Hosts that see each other: dask gives the worker up after half a minute, and would never have it again."""
    key, python, count = farside.random_key(), farside.pythons()[-1], 400
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(netns.net())
        far = FlameServer(python, key=key, within=net.within, arguments=("-H", net.address))
        near = FlameServer(python, key=key, arguments=("-H", net.here))
        where = [stack.enter_context(farside.stopped(one)).location for one in (far, near)]
        made, client = stack.enter_context(cluster(where, key=key, allow_plain=True))
        assert made.network == "direct"
        futures = client.map(dasked.slow(), range(count), pure=False)
        dasked.until_done(futures, 20)
        net.silent()
        dasked.pass_time(60)
        assert len(workers(client)) == 1
        net.back()
        until_workers(client, 2)
        dasked.until_done(futures, count)
        assert sorted(number for number, _ in client.gather(futures)) == list(range(count))


def test_a_killed_client_leaves_nothing_there(tmp_path: Path) -> None:
    script = (
        "import sys, flame\n"
        f"made = flame.FlameCluster(sys.argv[1], linger={LINGER}, worker_options={OPTIONS}, "
        "scheduler_options={'dashboard_address': '127.0.0.1:0'})\n"
        "print(made.get_client().submit(pow, 2, 4).result(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with farside.stopped(FlameServer(farside.pythons()[-1])) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", script, server.location],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"16\n"
            assert _below(server)
            process.kill()
        wait_until(lambda: not _below(server), "the end of all that it has started there", 60)
    # Here dask's own folder of its scheduler stays, until dask needs one again.
    scratch = tmp_path / "dask-scratch-space"
    assert list(scratch.glob("scheduler-*"))
    WorkSpace(str(scratch)).new_work_dir(prefix="next-").release()
    assert not list(scratch.glob("scheduler-*"))


def test_a_program_that_leaves_its_cluster_open_ends_without_a_word_and_leaves_nothing() -> None:
    script = (
        "import sys, flame\n"
        f"made = flame.FlameCluster(sys.argv[1], worker_options={OPTIONS}, "
        "scheduler_options={'dashboard_address': '127.0.0.1:0'})\n"
        "print(made.get_client().submit(pow, 2, 4).result())\n"
    )
    with farside.stopped(FlameServer(farside.pythons()[-1])) as server:
        done = subprocess.run(
            [sys.executable, "-c", script, server.location],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=Path(__file__).parents[2],
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "16\n", "")
        assert not _below(server)


def test_two_clusters_at_once_by_tls_and_by_ssh(sshd: Sshd, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    authority.server(["localhost", "127.0.0.1"], days=30)
    speaks_tls: dict[str, str | None] = {
        "PYRO_SSL": "true",
        "PYRO_SSL_SERVERCERT": str(tmp_path / "ca" / "server.pem"),
    }
    key = farside.random_key()
    with contextlib.ExitStack() as stack:
        python = farside.pythons()[-1]
        first = stack.enter_context(farside.stopped(FlameServer(python, env=speaks_tls)))
        second = stack.enter_context(farside.stopped(FlameServer(python, key=key, unix=True)))
        one, of_one = stack.enter_context(
            cluster(first.location, tls={"ca": str(tmp_path / "ca" / "ca.pem")}, name="größe 大")
        )
        by_ssh = f"ssh://far/{second.location}"
        two, of_two = stack.enter_context(cluster(by_ssh, key=key, n_workers=0, name="größe 大 2"))
        assert "größe 大" in repr(one)
        assert {one.network, two.network} <= {"direct", "link"}
        two.adapt(minimum=0, maximum=1, interval="200ms")
        assert _parent(of_one) == first.pid
        assert _parent(of_two) == second.pid  # a worker came for it
        of_two.cancel([])
        until_workers(of_two, 0)  # and went
        assert of_one.submit(pow, 2, 6).result() == 64


def _parent(client: Client) -> int:
    """The pid of the server below which a task runs."""
    above: list[int] = client.submit(lambda: [one.pid for one in __import__("psutil").Process().parents()]).result(60)
    servers = [pid for pid in above if "Pyro4.utils.flameserver" in psutil.Process(pid).cmdline()]
    return servers[0]
