"""A far side that lacks what only POSIX has: the agent works there, in a child and in the server's process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from farside import HERE, FlameServer, bare_pyro, wait_until
from kernels import remote_flame

import flame


@pytest.fixture
def server(flame_server: Callable[..., FlameServer]) -> FlameServer:
    path = os.pathsep.join([str(HERE / "apps" / "without_posix"), bare_pyro()])
    return flame_server(ipython=False, env={"PYTHONPATH": path}, key="0123456789abcdef")


@pytest.mark.parametrize("place", ["process", "auto"])
def test_all_a_user_does(server: FlameServer, place: str, tmp_path: Path) -> None:
    in_child = place == "auto"
    with remote_flame({**server.environ(), "FLAME_PLACE": place}) as kernel:
        run = kernel.execute("import os, sys\nprint(hasattr(os, 'fork'))\nprint('there', file=sys.stderr)\n6 * 7")
        assert (run.stdout, run.stderr, run.result) == ("False\n", "there\n", "42"), run
        run = kernel.submit("print('begun')\nwhile True: pass")
        kernel.wait_for_output(run, "begun")
        kernel.interrupt()
        assert kernel.wait(run).error is not None
        assert kernel.execute("os.write(sys.stdout.fileno(), b'raw\\n');").stdout == "raw\n"
        assert kernel.execute("x = input()", answers=("me",)).reply["status"] == "ok"  # type: ignore[index]
        assert kernel.complete("sys.plat")["matches"]
        assert "pid" in kernel.execute("%flame top").stdout
        assert "no cell" in kernel.execute("%flame where").stdout
        assert "Wall time" in kernel.execute("%time 1").stdout
        assert (kernel.usage()["pid"] == server.pid) is not in_child
        if in_child:
            assert kernel.execute("os.write(1, b'to the descriptor\\n');").stdout == "to the descriptor\n"
    with flame.connect(server.location, key=server.key, place=place) as remote:
        remote["x"] = b"x" * 3_000_000
        assert len(remote["x"]) == 3_000_000
        (tmp_path / "a.txt").write_text("one")
        remote.put(tmp_path / "a.txt", "there.txt")
        assert remote.getfile("there.txt") == b"one"
        remote.sendmodule("sent_there", "X = 5\n")
        assert remote.evaluate("__import__('sent_there').X") == 5
        assert remote.run(lambda n: n + 1, 4) == 5


def test_a_child_that_dies_says_why_and_the_next_cell_has_another(server: FlameServer) -> None:
    with remote_flame(server.environ()) as kernel:
        first = kernel.execute("import os, ctypes; os.getpid()").result
        run = kernel.execute("print('last words', flush=True); ctypes.string_at(0)")
        assert "last words" in run.stdout
        assert run.error is not None
        assert "invalid memory access in C code" in run.error["evalue"]
        assert any("string_at" in line for line in run.error["traceback"])  # faulthandler's stack
        run = kernel.execute("os._exit(7)")
        assert "NameError" in str(run.error)  # the variables are lost
        assert kernel.execute("import os; os.getpid()").result != first
        assert "ended itself with exit status 7" in str(kernel.execute("os._exit(7)").error)


def test_the_steps_of_stop(server: FlameServer) -> None:
    with remote_flame(server.environ()) as kernel:
        kernel.execute("import ctypes")
        run = kernel.submit("print('begun', flush=True)\nctypes.PyDLL(None).sleep(600)")  # it holds the interpreter
        kernel.wait_for_output(run, "begun")
        kernel.interrupt()
        kernel.wait_for(lambda: "The next Stop ends the session's process" in run.stderr, "what the next Stop does")
        assert "its interpreter does not answer" in run.stderr
        kernel.interrupt()
        assert "was ended by Stop with SIGTERM" in str(kernel.wait(run).error)
        assert kernel.execute("1 + 1").result == "2"


def test_nothing_is_left_and_nobody_else_is_let_in(server: FlameServer) -> None:
    with flame.connect(server.location, key=server.key) as remote:
        pid = remote.evaluate("__import__('os').getpid()")
        process = psutil.Process(pid)
        shown = " ".join(process.cmdline()) + " ".join(f"{name}={one}" for name, one in process.environ().items())
        assert not [one for one in shown.split() if len(one) >= 64 and set(one) <= set("0123456789abcdef")]
        ports = {one.laddr.port for one in psutil.Process(server.pid).net_connections() if one.status == "LISTEN"}
        assert ports == {int(server.location.rpartition(":")[2])}  # nobody else can come any more
    psutil.wait_procs([process], timeout=10)
    assert not process.is_running()


def test_a_child_is_kept_ready_for_the_next_session(flame_server: Callable[..., FlameServer]) -> None:
    path = os.pathsep.join([str(HERE / "apps" / "without_posix"), bare_pyro()])
    server = flame_server(ipython=False, env={"PYTHONPATH": path, "FLAME_SPARE": None})
    ready = "[m.pid() for n, m in list(__import__('sys').modules.items()) if n.endswith('.session.child.spare')][0]"
    with flame.connect(server.location) as first, flame.connect(server.location, place="process") as inside:
        first.evaluate("1 + 1")
        spare = wait_until(lambda: inside.evaluate(ready), "the one for the next session")
        with flame.connect(server.location) as second:
            second.execute("import os")
            assert second.evaluate("os.getpid()") == spare
            with pytest.raises(flame.FlameError, match="exit status 7"):
                second.execute("os._exit(7)")
            assert second.evaluate("6 * 7") == 42


def test_a_script_has_its_streams(server: FlameServer, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("import sys\nprint(input())\nprint('there', file=sys.stderr)\nsys.exit(3)")
    command = [sys.executable, "-m", "flame_kernel.cli", "run", str(tmp_path / "one.py")]
    done = subprocess.run(
        command, env={**os.environ, **server.environ()}, input="given\n", capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("given\n", "there\n", 3)
