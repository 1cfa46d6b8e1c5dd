"""The process that a server keeps ready for its next child: when it comes, what it is refused for, when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import farside
import psutil
import pytest
from farside import FlameServer, wait_until

import flame
from flame_kernel.agent.session.child.fork_server import FEW
from flame_kernel.commands import sessions
from flame_kernel.connect.target import Target
from flame_kernel.remote.remote import Remote
from flame_kernel.serve.embedded import EmbeddedServer
from flame_kernel.session.bootstrap import agent_text

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it is watched through POSIX")

ROOM = "{n.rpartition('.')[2]: m for n, m in list(__import__('sys').modules.items()) if '.session.child.' in n}"


class Far:
    """A stock server, and a session in its process to look at the agent with."""

    def __init__(self, server: FlameServer) -> None:
        self.server = server
        self.inside = flame.connect(server.location, place="process", shell="mini")
        self.inside.execute("room = " + ROOM)
        self.set(SOON=0.05, LEFT=0.05, IDLE=300, LEAST_FREE=0)

    def set(self, **values: float) -> None:
        for name, value in values.items():
            self.inside.execute(f"room['spare'].{name} = {value}")

    def look(self, expression: str) -> Any:
        return self.inside.evaluate(expression)

    def ready(self) -> int:
        """The process id of the one that is ready, once there is one."""
        return int(wait_until(lambda: self.look("room['spare'].pid()"), "a process for the next child"))

    def child(self, shell: str = "mini") -> Remote:
        return flame.connect(self.server.location, place="child", shell=shell)


@pytest.fixture(scope="module")
def server(nothing_is_left: None) -> Iterator[FlameServer]:
    with farside.stopped(FlameServer(farside.pythons()[-2], env={"FLAME_SPARE": None})) as server:
        yield server


@pytest.fixture
def far(server: FlameServer) -> Iterator[Far]:
    far = Far(server)
    with far.inside:
        yield far
        wait_until(lambda: not server.children(), "the end of all processes there")


def pid_of(remote: Remote) -> int:
    return int(remote.evaluate("__import__('os').getpid()"))


def parent(remote: Remote) -> int:
    return int(remote.evaluate("__import__('os').getppid()"))


def gone(*pids: int) -> None:
    for pid in pids:
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), f"the end of {pid}")


def test_the_second_child_comes_from_it_and_it_ends_after_the_last_one(far: Far) -> None:
    with far.child() as first:
        assert parent(first) == far.server.pid
        spare = far.ready()
        for _ in range(2):
            with far.child() as second:
                assert parent(second) == spare
        assert f"process {spare} is ready there for the next session in a child" in sessions.lines(
            first.session.sessions().result()
        )
        assert far.ready() == spare  # it stays when the last child of its own has ended
    gone(spare)
    wait_until(lambda: far.look("room['spare']._keeper") == [], "the end of its thread")
    with far.child() as again:
        assert parent(again) == far.server.pid
        assert far.ready() != spare


def test_a_killed_one_is_missed_by_nobody(far: Far) -> None:
    with far.child() as first:
        spare = far.ready()
        os.kill(spare, signal.SIGKILL)
        with far.child() as second:
            assert parent(second) == far.server.pid
            later = far.ready()
            assert later != spare
            with far.child() as third:
                assert parent(third) == later
                os.kill(later, signal.SIGKILL)
                assert [one.evaluate("6 * 7") for one in (first, second, third)] == [42, 42, 42]


def test_it_is_refused_where_the_server_has_changed(far: Far, tmp_path: Path) -> None:
    with far.child():
        for change in (f"os.chdir({str(tmp_path)!r})", "os.environ['MARK'] = 'set'", "os.umask(0o27)"):
            spare = far.ready()
            far.inside.execute("import os; " + change)
            assert far.look("room['spare'].pid()") != spare
            with far.child() as other:
                assert parent(other) != spare
                looks = "[os.getcwd(), os.environ.get('MARK'), [n for n in open('/proc/self/status') if 'Umask' in n]]"
                other.execute("import os")
                assert other.evaluate(looks) == far.look(looks)
                new = far.ready()
                gone(spare)
                with far.child() as latest:
                    assert parent(latest) == new
        far.inside.execute("os.chdir('/'); del os.environ['MARK']; os.umask(0o22)")


def test_it_ends_unused(far: Far) -> None:
    with far.child():
        spare = far.ready()
        far.set(IDLE=0.05)
        far.inside.execute("room['spare']._wake.set()")
        gone(spare)


def test_none_where_little_memory_is_left(far: Far) -> None:
    far.set(LEAST_FREE=1 << 60)
    with far.child() as one:
        assert one.evaluate("1 + 1") == 2
        wait_until(lambda: not far.look("room['spare']._keeper"), "that it is given up")
        assert far.server.children() == [psutil.Process(pid_of(one))]
        far.set(LEAST_FREE=0)
        with far.child():
            assert far.ready()


def test_it_does_not_come_while_a_cell_runs(far: Far, tmp_path: Path) -> None:
    far.set(SOON=300)
    goes_on = tmp_path / "goes on"
    with far.child() as first:
        code = f"import os, time\nwhile not os.path.exists({str(goes_on)!r}): time.sleep(0.01)"
        running = first.cell(code, lambda event: None)
        wait_until(lambda: far.look("len(room['spare']._wanted)"), "the child")
        far.inside.execute("asked = []\n(bundle, warm, is_busy), = room['spare']._wanted")
        far.inside.execute("room['spare']._wanted[:] = [(bundle, warm, lambda: (asked.append(1), is_busy())[1])]")
        far.set(SOON=0.05)
        far.inside.execute("room['spare']._wake.set()")
        wait_until(lambda: far.look("len(asked)") > 3, "looks whether it is busy")
        assert far.look("room['spare'].pid()") is None
        goes_on.touch()
        running.result(30)
        assert far.ready()


def test_where_no_fork_is_possible_a_child_waits_for_its_session(far: Far) -> None:
    far.inside.execute("room['fork_server'].POSSIBLE = False")
    with far.child():
        spare = far.ready()
        with far.child() as second:
            assert (pid_of(second), parent(second)) == (spare, far.server.pid)
            assert far.ready() != spare
            far.inside.execute("import os; os.environ['MARK'] = 'set'")
            with far.child() as third:
                assert third.evaluate("__import__('os').environ['MARK']") == "set"
                last = far.ready()
    gone(last)
    far.inside.execute("del os.environ['MARK']; room['fork_server'].POSSIBLE = True")


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="hides /proc, which needs root")
def test_without_proc() -> None:
    """As in a bare chroot: what is read there cannot be compared, and there is no fork server."""
    hidden = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")
    with farside.stopped(FlameServer(farside.pythons()[-2], env={"FLAME_SPARE": None}, within=hidden)) as server:
        far = Far(server)
        with far.inside, far.child():
            spare = far.ready()
            with far.child() as second:
                assert pid_of(second) == spare
                last = far.ready()
                server.kill()
                gone(last)


def test_none_where_it_is_forbidden_or_there_is_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = f"({ROOM})['spare']._keeper"
    with farside.stopped(FlameServer(farside.pythons()[-2], env={"FLAME_SPARE": "0"})) as server:
        far = Far(server)
        with far.inside, far.child() as one:
            assert one.evaluate("1 + 1") == 2
            assert far.look(kept) == []
    monkeypatch.delenv("FLAME_SPARE")
    own = EmbeddedServer(agent_text(), "mini")
    try:
        with Remote(own.target(Target(place="child", shell="mini"))) as one:
            assert one.evaluate("1 + 1") == 2
            with Remote(own.target(Target(place="process", shell="mini"))) as inside:
                assert inside.evaluate(kept) == []
    finally:
        own.close()


def test_the_one_that_many_children_have_begun_stays(far: Far) -> None:
    far.set(SOON=300)
    with contextlib.ExitStack() as stack:
        for _ in range(FEW):
            stack.enter_context(far.child())
        with far.child() as fifth:
            spare = parent(fifth)
            assert spare != far.server.pid
            assert far.ready() == spare
            far.inside.execute("room['spare']._wake.set()")
            wait_until(lambda: not far.look("room['spare']._wanted"), "its being kept")
        with far.child() as sixth:
            assert parent(sixth) == spare
    gone(spare)
