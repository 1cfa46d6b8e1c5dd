"""Faults of the server's process, as a notebook sees them: killed, frozen, full, restarted, its clock set."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from farside import FlameServer, LiveApp, wait_until
from faultcases import is_exact, link_is_back, link_lines, numbered
from flakylink import FlakyLink
from kernels import Run, remote_flame
from mini import plain
from places import ok

from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import Location, Target
from flame_kernel.errors import FlameError

Start = Callable[..., FlameServer]
StartApp = Callable[..., LiveApp]


def is_gone(run: Run, where: str) -> str:
    """The cell ended with one sentence that the session is gone, and where; that sentence."""
    assert run.error is not None, run
    assert run.error["ename"] in ("SessionGone", "ConnectionLost"), run.error
    text = plain(run.traceback)
    assert where in text
    assert "gone" in text
    assert "Traceback" not in text
    return text


def notes(path: Path) -> list[str]:
    """What cells have written there."""
    return path.read_text().split() if path.exists() else []


# --- the end of the server


@pytest.mark.parametrize("far", ["own", "named", "over a link"])
def test_the_server_is_killed_in_a_cell(far: str, flame_server: Start, tmp_path: Path) -> None:
    """Told within two seconds, by name; another server at the same place runs nothing again."""
    note = tmp_path / "note"
    code = f"import time\nopen({str(note)!r}, 'a').write('run ')\nprint('in')\nwhile True: time.sleep(0.01)"
    with contextlib.ExitStack() as stack:
        server = None if far == "own" else flame_server()
        location = server.location if server else ""
        if far == "over a link":
            assert server is not None
            location = stack.enter_context(FlakyLink(server.location)).location
        k = stack.enter_context(remote_flame(env={"FLAME_TARGET": location or None}))
        pid = int(ok(k.execute("import os; os.getppid()")).result or 0)
        run = k.submit(code)
        k.wait_for_output(run, "in")
        began = time.monotonic()
        if server:
            server.kill()
        else:
            os.kill(pid, signal.SIGKILL)
        k.wait(run, 10)
        seconds = time.monotonic() - began
        is_gone(run, location or "127.0.0.1")
        print(f"told after {seconds:.2f} s")
        assert seconds <= 20
        assert notes(note) == ["run"]
        after = k.execute("6 * 7")
        if far == "own":
            assert ok(after).result == "42"
        else:
            assert after.error is not None
            assert "connection refused" in after.traceback or "closed" in after.traceback or "reset" in after.traceback
        if far == "named":
            assert server is not None
            flame_server(arguments=("-p", server.location.rpartition(":")[2]))
            assert ok(k.execute("'x' in globals()")).result == "False"
        assert notes(note) == ["run"]


@pytest.mark.parametrize(
    "broken",
    [
        "threading.Thread._bootstrap = lambda self: None",  # a thread is begun, and start() waits for it for ever
        "threading.Thread.start = None",
        "threading.Timer.__init__ = None",
        "os.write = os.read = os.open = None; os.killpg = os.kill = os.getpgid = None",
    ],
    ids=["threads never begin", "threads cannot start", "timers", "os"],
)
def test_a_child_that_a_cell_has_broken_goes_with_its_server(broken: str, flame_server: Start) -> None:
    server = flame_server()
    with remote_flame(env={"FLAME_TARGET": server.location}) as k:
        child = psutil.Process(int(ok(k.execute("import os, threading, time; os.getpid()")).result or 0))
        run = k.submit(f"print('in', flush=True)\n{broken}\nwhile True: time.sleep(0.01)")
        k.wait_for_output(run, "in")
        server.kill()
        k.wait(run, 30)
    child.wait(30)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems signal no closed pipe")
def test_a_child_that_is_stopped_goes_with_its_server(flame_server: Start) -> None:
    server = flame_server()
    with remote_flame(env={"FLAME_TARGET": server.location}) as k:
        child = psutil.Process(int(ok(k.execute("import os; os.getpid()")).result or 0))
        child.suspend()
        server.kill()
        child.wait(30)


def test_another_server_answers_in_its_place(flame_server: Start, tmp_path: Path) -> None:
    """The link was cut, and leads to a new server when it is back: known by its boot id."""
    note = tmp_path / "note"
    one, two = flame_server(), flame_server()
    with FlakyLink(one.location) as link, remote_flame(env={"FLAME_TARGET": link.location}) as k:
        ok(k.execute("x = 1"))
        run = k.submit(f"import time\nopen({str(note)!r}, 'a').write('run ')\nprint('in')\ntime.sleep(1000)")
        k.wait_for_output(run, "in")
        link.lead_to(two.location)
        k.wait(run, 10)
        assert "the server was restarted" in is_gone(run, link.location)
        after = k.execute("x")
        assert after.error is not None
        assert after.error["ename"] == "NameError"
        assert notes(note) == ["run"]


def test_the_app_around_the_cell_ends(live_app: StartApp) -> None:
    """A crash inside the server's own process takes it along; the notebook is told at once."""
    app = live_app()
    with remote_flame(env={"FLAME_TARGET": app.location}) as k:
        for code, ename in (
            ("def f(): f()\nf()", "RecursionError"),
            ("x = bytearray(1 << 60)", "MemoryError"),
        ):
            run = k.execute(code)
            assert run.error is not None
            assert run.error["ename"] == ename
            assert ok(k.execute("1 + 1")).result == "2"
        run = k.submit("import ctypes\nprint('in')\nctypes.string_at(0)")
        began = time.monotonic()
        k.wait(run, 10)
        is_gone(run, app.location)
        assert time.monotonic() - began <= 10


def test_the_child_around_the_cell_ends(flame_server: Start) -> None:
    """The server lives, and the next cell has a fresh process."""
    server = flame_server()
    with remote_flame(env={"FLAME_TARGET": server.location}) as k:
        ok(k.execute("x = 1"))
        for code, words in (
            ("import os; print('last words', flush=True); os._exit(3)", "exit status 3"),
            ("import ctypes; print('last words', flush=True); ctypes.string_at(0)", "SIGSEGV"),
            ("import os, signal; print('last words', flush=True); os.kill(os.getpid(), 9)", "SIGKILL"),
        ):
            run = k.execute(code)
            assert run.error is not None
            assert words in plain(run.traceback)
            assert run.stdout == "last words\n"
            assert ok(k.execute("'x' in globals()")).result == "False"
        assert server.alive


# --- a frozen server


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_that_is_stopped_for_a_while(flame_server: Start) -> None:
    """Said by five seconds; Stop and everything local work; afterwards all is there, once."""
    server = flame_server()
    with remote_flame(env={"FLAME_TARGET": server.location}) as k:
        ok(k.execute("pass", silent=True))
        run = k.submit(numbered(1000, pause=0.01))
        k.wait_for_output(run, "line 000020")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            said = k.wait_for(lambda: link_lines(run), "the notebook's word that the server is silent", 8)
            assert time.monotonic() - began <= 5
            assert "not responding since" in said[0]
            assert server.location in said[0]
            asked = k.request("kernel_info_request", channel="control")
            k.wait(asked, 3)
            k.wait_for(lambda: time.monotonic() - began > 8, "eight seconds", 10)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        k.wait(run)
        is_exact(run, 1000)
        link_is_back(k, run, 5)
        # Stop, while it is frozen: the cell is not waited for any more.
        run = k.submit("import time\nprint('in')\nwhile True: time.sleep(0.01)")
        k.wait_for_output(run, "in")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            k.wait_for(lambda: link_lines(run), "the notebook's word that the server is silent", 8)
            k.interrupt()
            k.interrupt()
            k.wait(run, 5)
            assert run.error is not None
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert ok(k.execute("6 * 7")).result == "42"


def test_restart_while_the_server_is_frozen(flame_server: Start) -> None:
    """The kernel goes within five seconds."""
    server = flame_server()
    with remote_flame(env={"FLAME_TARGET": server.location, "FLAME_LINGER": "1"}) as k:
        run = k.submit("import time\nprint('in')\ntime.sleep(1000)")
        k.wait_for_output(run, "in")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            seconds = k.shutdown()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert seconds <= 5
    wait_until(lambda: not server.children(), "the end of what ran there", 20)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_cell_that_holds_the_lock_of_the_whole_server(live_app: StartApp) -> None:
    """No death is declared; what is interrupted meanwhile is so when it can be; all is in step afterwards."""
    app = live_app()
    hold = "import ctypes\nprint('in', flush=True)\nimport time; time.sleep(0.2)\nctypes.PyDLL(None).sleep(%d)\n'out'"
    with remote_flame(env={"FLAME_TARGET": app.location}) as k:
        run = k.submit(hold % 6)
        k.wait_for_output(run, "in")
        k.wait(run, 20)
        assert ok(run).result == "'out'"
        link_is_back(k, run, 5)
        assert "not responding" in link_lines(run)[0]
        run = k.submit(hold % 4 + "\nfor i in range(500): time.sleep(0.01)")
        k.wait_for_output(run, "in")
        k.wait_for(lambda: link_lines(run), "the notebook's word that the server is silent", 8)
        k.interrupt()
        k.wait(run, 20)
        assert run.error is not None
        assert run.error["ename"] == "KeyboardInterrupt"
        assert ok(k.execute("6 * 7")).result == "42"


# --- a server that has run out of something


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_no_free_connection(flame_server: Start) -> None:
    """Said in two seconds; and there it is, three seconds after one is free."""
    server = flame_server(env={"PYRO_THREADPOOL_SIZE": "10"})
    target = Target(Location.parse(server.location))
    others: list[Connection] = []
    try:
        env: dict[str, str | None] = {"FLAME_FAST": "1"}  # a poll that waits on a cut connection has its thread for 6 s
        with FlakyLink(server.location) as link, remote_flame(env={**env, "FLAME_TARGET": link.location}) as k:
            run = ok(k.execute("x = 1"))
            link.down()

            def take() -> bool:
                with contextlib.suppress(FlameError):
                    others.append(Connection(target))
                return len(others) == 10

            wait_until(take, "all connections are taken")
            run = k.submit("x + 1")
            link.up()
            k.wait_for(lambda: link_lines(run), "the notebook's word on it", 5)
            k.wait_for(lambda: "no free connection" in link_lines(run)[-1], "the cause", 8)
            others.pop().close()
            others.pop().close()
            began = time.monotonic()
            k.wait(run)
            assert time.monotonic() - began <= 15
            assert ok(run).result == "2"
            wait_until(take, "all connections are taken") if len(others) < 8 else None
            with remote_flame(env={"FLAME_TARGET": server.location}) as second:
                refused = second.execute("1")
                assert refused.error is not None
                assert "the server has no free connection" in refused.traceback
                assert refused.reply_at is not None
                assert refused.reply_at <= 10
                others.pop().close()
                others.pop().close()
                found = second.execute("6 * 7")
                assert ok(found).result == "42"
                assert found.reply_at is not None
                assert found.reply_at <= 15
    finally:
        for one in others:
            one.close()


def test_a_server_that_cuts_idle_clients(flame_server: Start, tmp_path: Path) -> None:
    """Nobody notices."""
    note = tmp_path / "note"
    with remote_flame(env={"FLAME_TARGET": flame_server(env={"PYRO_COMMTIMEOUT": "2"}).location}) as k:
        ok(k.execute("x = 1"))
        began = time.monotonic()
        k.wait_for(lambda: time.monotonic() - began > 5, "five seconds", 10)
        run = k.execute(f"open({str(note)!r}, 'a').write('run ')\nx + 1")
        assert ok(run).result == "2"
        assert link_lines(run) == []
        assert [m for m in k.strays if m.type == "display_data"] == []
        assert notes(note) == ["run"]


@contextlib.contextmanager
def said_to(location: str, expression: str) -> Iterator[None]:
    """Evaluated in the server, by a plain client of Flame."""
    link = Connection(Target(Location.parse(location)))
    try:
        link.call("evaluate", expression)
        yield
    finally:
        link.close()


def test_a_folder_that_is_gone_and_a_closed_stdout(flame_server: Start) -> None:
    """The server's own troubles are none of a session's."""
    server = flame_server()
    server.cwd.rmdir()
    with (
        said_to(server.location, "[__import__('os').close(fd) for fd in (1, 2)]"),
        remote_flame(env={"FLAME_TARGET": server.location}) as k,
    ):
        run = k.execute("print('out'); import os; os.system('echo of a process'); 6 * 7")
        assert ok(run).result == "42"
        assert run.stdout == "out\nof a process\n"
    wait_until(lambda: not server.children(), "the end of what ran there", 20)
    assert server.alive


def test_a_server_without_descriptors(flame_server: Start) -> None:
    """Refused in words, and well again when there are some."""
    server = flame_server()
    resource = "__import__('resource')"
    limit = f"{resource}.setrlimit({resource}.RLIMIT_NOFILE, (%s, {resource}.getrlimit({resource}.RLIMIT_NOFILE)[1]))"
    with said_to(server.location, "1"):
        used = len(os.listdir(f"/proc/{server.pid}/fd"))
        with said_to(server.location, limit % (used + 4)), remote_flame(env={"FLAME_TARGET": server.location}) as k:
            run = k.execute("6 * 7")
            assert run.error is not None
            text = plain(run.traceback)
            assert re.search("too many open files|closed the connection|in time", text, re.IGNORECASE), text
            assert "Traceback" not in text
            assert server.alive
            wait_until(lambda: _raise_limit(server, limit % 1024), "the server takes clients again")
            assert ok(k.execute("6 * 7")).result == "42"
    wait_until(lambda: not server.children(), "the end of what ran there", 20)


def _raise_limit(server: FlameServer, expression: str) -> bool:
    with contextlib.suppress(FlameError), said_to(server.location, expression):
        return True
    return False


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_that_are_set(hours: int, flame_server: Start, tmp_path: Path) -> None:
    """Of the server, of its children and of the kernel, in the midst of a cell: nothing times out or spins."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "real, where = time.time, os.environ['CLOCK']\n"
        "def set_clock():\n"
        "    return real() + (3600 * float(os.environ['CLOCK_HOURS']) if os.path.exists(where) else 0)\n"
        "time.time = set_clock\n"
    )
    jump = tmp_path / "jump"
    env: dict[str, str | None] = {
        # An empty part would be the present folder, which the kernel strikes out.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))),
        "CLOCK": str(jump),
        "CLOCK_HOURS": str(hours),
    }
    server = flame_server(env=env)
    with remote_flame(env={**env, "FLAME_TARGET": server.location}) as k:
        ok(k.execute("import time; before = time.time()"))
        run = k.submit(numbered(150, pause=0.01))
        k.wait_for_output(run, "line 000020")
        jump.touch()
        processes = [psutil.Process(k.pid), psutil.Process(server.pid), *server.children()]
        busy = sum(sum(p.cpu_times()[:2]) for p in processes)
        k.wait(run)
        is_exact(run, 150)
        assert link_lines(run) == []
        assert sum(sum(p.cpu_times()[:2]) for p in processes) - busy <= 1.5
        assert ok(k.execute("round((time.time() - before) / 3600)")).result == str(hours)
        asked = k.execute("input('? ')", answers=("x",))
        assert asked.result == "'x'"


# --- the end of the kernel


@pytest.mark.parametrize("state", ["running", "input", "cut", "silent"])
def test_the_kernel_goes(state: str, flame_server: Start) -> None:
    """In five seconds; and nothing is left on the far side, at once or when its time is over."""
    server = flame_server()
    with FlakyLink(server.location) as link:
        with remote_flame(env={"FLAME_TARGET": link.location, "FLAME_LINGER": "1", "FLAME_FAST": "1"}) as k:
            ok(k.execute("import subprocess, time\nsub = subprocess.Popen(['sleep', '1000'])"))
            if state == "input":
                run = k.submit("input('? ')")
                k.wait_for(lambda: run.prompts, "the prompt")
            else:
                run = k.submit("print('in')\nwhile True: time.sleep(0.01)")
                k.wait_for_output(run, "in")
            if state == "cut":
                link.down()
            elif state == "silent":
                link.silent()
            seconds = k.shutdown()
        print(f"{seconds:.2f} s")
        assert seconds <= 5
        if state in ("running", "input"):
            wait_until(lambda: not server.children(), "the end of what ran there", 5)
    wait_until(lambda: not server.children(), "the end of what ran there, of itself", 20)


def test_restart_during_an_outage(flame_server: Start) -> None:
    """A fresh kernel, which says what is wrong, and works when the link is back."""
    server = flame_server()
    with (
        FlakyLink(server.location) as link,
        remote_flame(env={"FLAME_TARGET": link.location, "FLAME_LINGER": "1", "FLAME_FAST": "1"}) as k,
    ):
        run = k.submit("import time\nprint('in')\nwhile True: time.sleep(0.01)")
        k.wait_for_output(run, "in")
        link.down()
        began = time.monotonic()
        k.restart()
        assert time.monotonic() - began <= 10
        refused = k.execute("1")
        assert refused.error is not None
        assert "connection refused" in refused.traceback
        link.up()
        assert ok(k.execute("6 * 7")).result == "42"
        wait_until(lambda: len(server.children()) == 1, "the end of the old session", 20)
