"""The fork server, from which the fifth child of a stock server and later ones come."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import farside
import psutil
import pytest
from farside import FlameServer, wait_until

import flame
from flame_kernel.agent.session.child.fork_server import FEW
from flame_kernel.errors import FlameError
from flame_kernel.remote.remote import Remote

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is one on Linux only")

OLD_AND_NEW = [0, -2]  # of ``farside.pythons()``
# What a process has got from the one that started it, and what a fork could have kept of another session.
LOOKS = """
import os, random, resource, signal, sys, threading
def target(number):
    try:
        return os.readlink("/proc/self/fd/%d" % number).partition(":")[0]
    except OSError:
        return None
found = {
    "descriptors": sorted(str(target(int(n))) for n in os.listdir("/proc/self/fd") if target(int(n))),
    "inherited": [n for n in range(3, 64) if target(n) and os.get_inheritable(n)],
    "own group": (os.getpgid(0), os.getsid(0)) == (os.getpid(), os.getpid()),
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "threads": sorted(t.name for t in threading.enumerate()),
    "arguments": sys.argv,
    "path": sys.path,
    "signals": [str(signal.getsignal(n)).partition(" at ")[0] for n in range(1, 32)],
    "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
    "input": sys.stdin.isatty(),
}
"""


@contextmanager
def sessions(count: int, python: int = -2) -> Iterator[tuple[FlameServer, list[Remote]]]:
    with farside.stopped(FlameServer(farside.pythons()[python])) as server, contextlib.ExitStack() as stack:
        yield server, [stack.enter_context(session(server)) for _ in range(count)]


def session(server: FlameServer) -> Remote:
    return flame.connect(server.location, shell="mini", place="child")


def below(server: FlameServer) -> list[int]:
    return [one.pid for one in psutil.Process(server.pid).children(recursive=True)]


def parent(remote: Remote) -> int:
    return int(remote.evaluate("__import__('os').getppid()"))


@pytest.mark.parametrize("python", OLD_AND_NEW)
def test_a_forked_child_is_like_one_that_was_started(python: int) -> None:
    with sessions(FEW + 2, python) as (server, (started, *others)):
        forked = others[FEW - 1 :]
        assert {parent(one) for one in (started, *others[: FEW - 1])} == {server.pid}
        (fork_server,) = {parent(one) for one in forked}
        assert psutil.Process(fork_server).ppid() == server.pid
        for one in (started, *forked):
            one.execute(LOOKS)
        like = started["found"]
        for one in forked:
            assert one["found"] == like
            one.execute("mine = os.getpid()")
        assert not started.evaluate("'mine' in globals()")
        assert len({one.evaluate("random.random()") for one in (started, *forked)}) == 3
        events: list[dict[str, Any]] = []
        forked[0].cell("print('out'); os.write(2, b'err\\n'); os.system('echo system')", events.append).result(30)
        shown = [event["content"] for event in events if event["type"] == "stream"]
        texts = ["".join(one["text"] for one in shown if one["name"] == name) for name in ("stdout", "stderr")]
        assert texts == ["out\nsystem\n", "err\n"]
    wait_until(lambda: not psutil.pid_exists(fork_server), "its end")


def test_it_ends_with_the_last_child_and_comes_again() -> None:
    with sessions(FEW) as (server, (first, *_)):
        for _ in range(2):
            with session(server) as second, session(server) as third:
                assert parent(second) == parent(third) != server.pid
                assert len(below(server)) == FEW + 3
            wait_until(lambda: len(below(server)) == FEW, "its end")
        assert first.evaluate("1 + 1") == 2


def test_how_a_forked_child_has_ended_is_told() -> None:
    with sessions(FEW + 1) as (_, (*_, forked)):
        for code, words in (("os._exit(7)", "exit status 7"), ("os.kill(os.getpid(), 9)", "signal SIGKILL")):
            with pytest.raises(FlameError, match=words) as error:
                forked.execute("import os; " + code)
            assert "memory" in str(error.value)
            assert forked.evaluate("6 * 7") == 42


def test_a_child_gets_what_its_server_has_now() -> None:
    with sessions(FEW + 1) as (server, (*_, forked)):
        with flame.connect(server.location, place="process", shell="mini") as inside:
            inside.execute("import os; os.chdir('/'); os.environ['MARK'] = 'set'; os.umask(0o27)")
        with session(server) as later:
            assert later.evaluate("__import__('os').getcwd()") == "/"
            assert later.evaluate("__import__('os').environ['MARK']") == "set"
            assert later.evaluate("__import__('os').umask(0o27)") == 0o27
            assert parent(later) != parent(forked)
            old = parent(forked)
            forked.close()
            wait_until(lambda: not psutil.pid_exists(old), "the end of the one that suits no more")
            assert later.evaluate("1 + 1") == 2


def test_sessions_outlive_it() -> None:
    with sessions(FEW + 2) as (server, (*_, forked, other)):
        os.kill(parent(forked), signal.SIGKILL)
        assert forked.evaluate("6 * 7") == 42
        with session(server) as later:
            assert later.evaluate("6 * 7") == 42
        with pytest.raises(FlameError, match="ended"):
            other.execute("import os; os._exit(7)")
        assert other.evaluate("6 * 7") == 42
        left = below(server) + [int(one.evaluate("__import__('os').getpid()")) for one in (forked, other)]
    for pid in left:
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), "all to end")


def test_all_end_with_a_server_that_is_killed() -> None:
    with sessions(FEW + 2) as (server, _):
        left = below(server)
        assert len(left) == FEW + 3
        server.kill()
        for pid in left:
            wait_until(lambda pid=pid: not psutil.pid_exists(pid), "all to end")


def test_where_it_does_not_answer_an_interpreter_is_started() -> None:
    with sessions(FEW + 1) as (server, (*_, forked)):
        module = "[m for n, m in __import__('sys').modules.items() if n.endswith('.child.fork_server')][0]"
        with flame.connect(server.location, place="process", shell="mini") as inside:
            inside.execute(f"{module}._present[0]._socket.settimeout(0.3)")
            os.kill(parent(forked), signal.SIGSTOP)
            with session(server) as later:
                assert parent(later) == server.pid
        assert forked.evaluate("6 * 7") == 42
