"""The child that a kernel's own server starts before the first session asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil
import pytest
from farside import wait_until
from kernels import remote_flame

from flame_kernel.connect.target import Target
from flame_kernel.remote.remote import Remote
from flame_kernel.serve.embedded import EmbeddedServer
from flame_kernel.session.bootstrap import agent_text

PRESTART = "[m for n, m in __import__('sys').modules.items() if n.endswith('.session.child.prestart')][0]"


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with contextlib.closing(EmbeddedServer(agent_text(), "mini")) as server:
        yield server


def connected(server: EmbeddedServer, place: str) -> Remote:
    return Remote(server.target(Target(place=place, shell="mini")))


def children(server: EmbeddedServer) -> list[int]:
    return [one.pid for one in psutil.Process(server.pid).children()]


def test_the_first_session_takes_it(server: EmbeddedServer) -> None:
    wait_until(lambda: len(children(server)) == 1, "the child")
    (started,) = children(server)
    with connected(server, "child") as pi:
        assert pi.modules.os.getpid() == started
        assert pi.evaluate("1 + 1") == 2
        with connected(server, "child") as other:
            assert other.modules.os.getpid() != started
            assert len(children(server)) == 2
    wait_until(lambda: not children(server), "the children to end")


def test_it_ends_if_nobody_takes_it(server: EmbeddedServer) -> None:
    with connected(server, "process") as pi:
        wait_until(lambda: len(pi.evaluate(f"{PRESTART}._there")) == 1, "the child that is ready")
        pi.execute(f"{PRESTART}.drop()")
        assert children(server) == []
        with connected(server, "child") as other:
            assert children(server) == [other.modules.os.getpid()]


def test_it_is_not_taken_where_the_environment_is_another_one_by_now(server: EmbeddedServer) -> None:
    wait_until(lambda: len(children(server)) == 1, "the child")
    (started,) = children(server)
    with connected(server, "process") as pi:
        pi.execute("import os\nos.environ['MARK'] = 'set'")
        with connected(server, "child") as other:
            assert other.modules.os.getpid() != started
            assert other.modules.os.environ["MARK"] == "set"
        wait_until(lambda: not children(server), "both to end")


def test_it_ends_with_its_server() -> None:
    with contextlib.closing(EmbeddedServer(agent_text(), "auto")) as server:
        wait_until(lambda: len(children(server)) == 1, "the child")
        started = psutil.Process(children(server)[0])
    wait_until(lambda: not started.is_running() or started.status() == psutil.STATUS_ZOMBIE, "its end")


@pytest.mark.parametrize("place", ["child", "process"])
def test_a_kernel_has_one_where_it_needs_it(place: str) -> None:
    with remote_flame(env={"FLAME_PLACE": place}) as k:
        there = int(k.execute("import os; print(os.getpid())").stdout)
        parent = psutil.Process(there).parent()
        assert parent is not None
        own = parent if place == "child" else psutil.Process(there)
        assert [one.pid for one in own.children()] == ([there] if place == "child" else [])
