"""A child that dies is named in its cell, with what is known of its end; the session, the server and others go on.

And in the server's own process, where nothing may die: what ends a cell is an error.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from farside import wait_until
from kernels import Kernel, Run
from needs import missing
from places import kernel_at, kernel_on, server_at

SHELLS = ("child", "child-mini", "child-bare")


def died(k: Kernel, code: str) -> Run:
    """Run a cell that ends its process."""
    run = k.execute(code)
    assert run.error is not None, run
    assert run.error["ename"] == "SessionDied", run
    assert run.reply is not None
    assert run.reply["evalue"] == run.error["evalue"]
    assert run.error["evalue"].endswith("; its variables are lost; the next cell starts a new one")
    return run


@pytest.mark.parametrize("name", SHELLS)
def test_the_cause_is_told_in_the_cell(name: str) -> None:
    with kernel_at(name) as site:
        k = site.kernel
        k.execute("kept = 1")
        pid = int(k.execute("import os\nos.getpid()").result or 0)
        run = died(k, "import ctypes\n\nctypes.string_at(0)")
        said = run.error["evalue"] if run.error else ""
        assert said.startswith(
            f"the session's process {pid} ended with signal SIGSEGV (invalid memory access in C code"
        )
        assert re.search(r"(peak memory|memory below) \d+(\.\d)? [MG]iB\)", said)
        assert "Fatal Python error: Segmentation fault" in run.traceback  # faulthandler's words
        assert re.search(r"line 3 in <(module|cell line: \d+)>", run.traceback)
        assert "flame_agent" not in run.traceback
        assert k.execute("'kept' in globals()").result == "False"

        run = died(k, "import os; os._exit(3)")
        assert "ended itself with exit status 3 (" in (run.error or {})["evalue"]
        # What a library says to descriptor 2 in the very call that ends the process: nothing of ours runs any more.
        run = died(k, "import ctypes\nctypes.PyDLL(None).__assert_fail(b'all is well', b'here.c', 7, b'f')")
        assert "here.c:7: f: Assertion `all is well' failed." in run.stderr
        assert "ended with signal SIGABRT (C code found an error and aborted" in (run.error or {})["evalue"]
        run = died(k, "import ctypes\nctypes.PyDLL(None).errx(4, b'no %s', b'way')")
        assert run.stderr.endswith(": no way\n")
        assert "exit status 4 (" in (run.error or {})["evalue"]
        assert site.server.process.poll() is None


def test_one_that_is_killed_from_outside() -> None:
    """By hand, in a cell and between two; the sessions beside it live on."""
    with server_at("child") as server, contextlib.ExitStack() as stack:
        k, other = (stack.enter_context(kernel_on(server, "child")).kernel for _ in range(2))
        other.execute("mine = 1")
        run = k.submit("import os, time\nprint('pid', os.getpid(), flush=True)\nwhile True: time.sleep(0.01)")
        k.wait_for_output(run, "\n")
        os.kill(int(run.stdout.split()[1]), signal.SIGKILL)
        k.wait(run)
        assert run.error is not None
        assert "ended with signal SIGKILL (somebody or something killed it, " in run.error["evalue"]
        assert "probably the OOM killer" not in run.error["evalue"]
        pid = int(k.execute("import os\nos.getpid()").result or 0)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not psutil.pid_exists(pid), "the end of the child")
        assert k.execute("'os' in globals()").result == "False"
        assert other.execute("mine").result == "1"


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A control group with little memory; the files of version 1 or 2."""
    for root, names in (("memory", ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]), ("", ["memory.max"])):
        group = Path("/sys/fs/cgroup", root, f"flame-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / names[0]).exists():
                continue
            for name in (*names, "memory.swap.max"):
                if (group / name).exists():
                    (group / name).write_text("0" if name == "memory.swap.max" else str(limit))
            yield group
            return
        finally:
            with contextlib.suppress(OSError):
                group.rmdir()
    missing("root and a control group for memory")


def test_one_that_the_oom_killer_has_taken() -> None:
    """It is believed where the system counts one more."""
    with memory_group(300 << 20) as group:
        with server_at("child") as server:
            (group / "cgroup.procs").write_text(str(server.process.pid))
            with kernel_on(server, "child") as site:
                run = died(site.kernel, "hold = []\nwhile True: hold.append(bytearray(b'x') * (10 << 20))")
                said = run.error["evalue"] if run.error else ""
                assert "signal SIGKILL (" in said
                assert "probably the OOM killer, as the count of processes killed for want of memory rose in" in said
                # A process begins with the peak of the one that forked it, here of all tests: that may hide its own.
                peak = re.search(r"(peak memory|memory below) (\d+(?:\.\d)?) ([MG])iB", said)
                assert peak is not None, said
                if peak[1] == "peak memory":
                    assert peak[3] == "M"
                    assert 150 < float(peak[2]) < 320
                assert site.kernel.execute("1 + 1").result == "2"
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the end of all that is in the group")


@pytest.mark.parametrize("place", ["child", "process"])
def test_what_does_not_end_a_process_is_an_error(place: str) -> None:
    """Memory and recursion at their end, and ways out that a shell knows: the names are kept."""
    with kernel_at(place) as site:
        k = site.kernel
        k.execute("kept = 1")
        for code, ename in (
            ("def f(): return f()\nf()", "RecursionError"),
            ("bytearray(1 << 62)", "MemoryError"),
            ("raise SystemExit(3)", "SystemExit"),
            ("import sys; sys.exit()", "SystemExit"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ):
            run = k.execute(code)
            assert run.reply is not None
            assert run.reply["ename"] == ename
            assert k.execute("kept").result == "1"


def test_a_fork_that_dies_is_not_the_session() -> None:
    """A child of the child."""
    with kernel_at("child") as site:
        code = (
            "import os\npid = os.fork()\nif not pid:\n    os._exit(3)\nos.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
        )
        assert site.kernel.execute(code).result == "3"
