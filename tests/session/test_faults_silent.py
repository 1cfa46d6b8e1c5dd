"""A host that vanishes without a word, in network namespaces: nothing tells either end, but time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from farside import FlameServer, wait_until
from faultcases import is_exact, link_lines, numbered
from kernels import Kernel, Run, remote_flame
from mini import plain
from netns import Net, net
from places import ok

from flame_kernel.agent.wire import message as wire
from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import Target, load_target
from flame_kernel.session.bootstrap import agent_name

KEY = "a key of thirty-two characters.."


class Host:
    """A far host with a server, and the targets ``far`` and ``fast`` in a configuration."""

    def __init__(self, network: Net, server: FlameServer, config: Path) -> None:
        self.net = network
        self.server = server
        self.config = config

    def kernel(self, name: str) -> contextlib.AbstractContextManager[Kernel]:
        """A kernel on that target; its session is left to the end of the server."""
        return remote_flame(env={"FLAME_CONFIG": str(self.config), "FLAME_TARGET": name, "FLAME_KERNELSPEC": "1"})

    def target(self) -> Target:
        return load_target("far", environ={"FLAME_CONFIG": str(self.config)})


@pytest.fixture
def host(flame_server: Callable[..., FlameServer], tmp_path: Path, key_file: Callable[[str], Path]) -> Iterator[Host]:
    with net() as network:
        server = flame_server(
            key=KEY,
            within=network.within,
            arguments=("-H", network.address),
            env={"PYRO_THREADPOOL_SIZE": "120"},
        )
        config = tmp_path / "targets.toml"
        config.touch(mode=0o600)
        common = f'location = "{server.location}"\nkey_file = "{key_file(KEY)}"\nallow_plain = true\nlinger = 90\n'
        config.write_text(f"[targets.far]\n{common}[targets.fast]\n{common}fast = true\n")
        yield Host(network, server, config)
        network.back()
        server.stop()


def standing(k: Kernel, host: Host) -> set[int]:
    """The kernel's connections to that host, as it sees them: their local ports."""
    return {
        connection.laddr.port
        for connection in psutil.Process(k.pid).net_connections("tcp")
        if connection.status == "ESTABLISHED" and connection.raddr and connection.raddr.ip == host.net.address
    }


def is_silent(k: Kernel, run: Run, seconds: float) -> None:
    """The notebook says so within that time."""

    def said() -> bool:
        return any("not responding since" in line for line in link_lines(run))

    k.wait_for(said, "the notebook's word that the host is silent", seconds)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_host_is_gone_for_twenty_seconds(host: Host) -> None:
    """Noticed in 5 s, given up in 15 s with ``fast``; the session resumes, and nothing is lost."""
    with host.kernel("far") as k, host.kernel("fast") as fast:
        for one in (k, fast):
            ok(one.execute("pass", silent=True))
        runs = [(one, one.submit(numbered(230, pause=0.1))) for one in (k, fast)]
        for one, run in runs:
            one.wait_for_output(run, "line 000005")
        before = standing(fast, host)
        assert len(before) == 2
        host.net.silent()
        began = time.monotonic()
        for one, run in runs:
            is_silent(one, run, 8)
        assert time.monotonic() - began <= 6
        wait_until(lambda: not before & standing(fast, host), "the connections are given up", 20)
        print(f"given up after {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began <= 15
        wait_until(lambda: time.monotonic() - began > 20, "twenty seconds", 25)
        host.net.back()
        for one, run in runs:
            one.wait(run, 30)
            is_exact(run, 230)
            one.wait_for(lambda run=run: link_lines(run)[-1] == "", "that line is taken back", 5)  # type: ignore[misc]
            assert ok(one.execute("6 * 7")).result == "42"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_host_is_gone_for_good(host: Host) -> None:
    """Given up in 45 s; connecting to it fails in 10 s. It frees the threads of those who are gone."""
    others: list[Connection] = []
    try:
        with host.kernel("far") as k, host.kernel("far") as late:
            ok(k.execute("pass", silent=True))
            ok(late.execute("pass", silent=True))
            process = psutil.Process(host.server.pid)
            threads, descriptors = process.num_threads(), process.num_fds()
            for _ in range(100):
                others.append(Connection(host.target()))
                hello = wire.encode({"op": "hello", "n": "1"})
                others[-1].invoke(f"{agent_name()}.{wire.HANDLE}", hello)
            run = k.submit(numbered(100_000, pause=0.1))
            k.wait_for_output(run, "line 000005")
            before = standing(k, host)
            host.net.silent()
            began = time.monotonic()
            is_silent(k, run, 8)
            assert time.monotonic() - began <= 6
            for one in others:
                one.close()
            refused = late.execute(f"%flame connect {host.server.location}", timeout=20)
            assert refused.error is not None
            assert refused.reply_at is not None
            assert refused.reply_at <= 10.5
            assert "no answer in time" in plain(refused.traceback)
            wait_until(lambda: not before & standing(k, host), "the connections are given up", 50)
            print(f"given up after {time.monotonic() - began:.1f} s")
            assert time.monotonic() - began <= 45
            # Those of the kernels may come and go: theirs are two each.
            wait_until(
                lambda: process.num_threads() <= threads + 4 and process.num_fds() <= descriptors + 4,
                "the server's threads are free",
                60 - (time.monotonic() - began),
            )
            print(f"free after {time.monotonic() - began:.1f} s")
            k.interrupt()
            k.wait(run, 5)
            assert run.error is not None
    finally:
        for one in others:
            one.close()
