"""A far side on Windows, by wine: what a user does there in the server's own process and in a child.

tests/README.md lists where wine is not Windows.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import farside
import pytest
import walk
import windows_far
from farside import FlameServer, wait_until
from kernels import Kernel, remote_flame
from wheelhouse import wheel

import flame
from flame_kernel.errors import FlameError
from flame_kernel.packages import install as packages
from flame_kernel.remote.remote import Remote

pytestmark = [pytest.mark.windows, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def far(nothing_is_left: None) -> Iterator[FlameServer]:
    with windows_far.server(farside.random_key()) as server:
        server.environ()  # writes the key's file
        yield server


@pytest.fixture(scope="module")
def kernel(far: FlameServer) -> Iterator[Kernel]:
    with remote_flame({**far.environ(), "FLAME_PLACE": "process"}) as one:
        yield one


@pytest.fixture(scope="module")
def pc(far: FlameServer) -> Iterator[Remote]:
    with flame.connect(far.location, key=far.key, place="process") as remote:
        remote.evaluate("object()")  # the thread that gives objects back begins with the first
        yield remote


def stopped(kernel: Kernel, code: str, begun: str = "begun") -> Any:
    """The run of a cell that is stopped as soon as it has printed ``begun``."""
    run = kernel.submit(code)
    kernel.wait_for(lambda: begun in run.stdout, begun)
    kernel.interrupt()
    return kernel.wait(run)


# -- cells -----------------------------------------------------------------------------------------------------------


def test_cells_run_in_the_servers_process(kernel: Kernel, far: FlameServer) -> None:
    run = kernel.execute("import os, sys\nprint(sys.platform)\nprint('there', file=sys.stderr)\n6 * 7")
    assert (run.stdout, run.stderr, run.result) == ("win32\n", "there\n", "42")
    assert "process" in kernel.execute("%flame status").stdout
    assert kernel.execute("1 / 0").error["ename"] == "ZeroDivisionError"  # type: ignore[index]
    run = kernel.execute("import asyncio\nawait asyncio.sleep(0.01)\nprint('awaited')")
    assert run.stdout == "awaited\n"


def test_output_of_programs(kernel: Kernel) -> None:
    assert kernel.execute("!echo from cmd").stdout.strip() == "from cmd"
    run = kernel.execute("import subprocess\nsubprocess.run([sys.executable, '-c', 'print(5)'], stdout=sys.stdout)")
    assert run.stdout.strip() == "5"
    run = kernel.execute("os.write(sys.stdout.fileno(), b'raw\\n');")
    assert run.stdout == "raw\n"


def test_input(kernel: Kernel) -> None:
    run = kernel.submit("print('got', input('who? '))")
    kernel.wait_for(lambda: run.prompts, "a prompt")
    kernel.answer_input("me")
    assert kernel.wait(run).stdout == "got me\n"


def test_tab_and_help(kernel: Kernel) -> None:
    kernel.execute("table = {'a': 1}")
    assert "table" in kernel.complete("tab")["matches"]
    assert any("windows" in match for match in kernel.complete("open('C:\\\\win")["matches"])


@pytest.mark.parametrize(
    "code",
    [
        "print('begun')\nwhile True: pass",
        "print('begun')\nawait asyncio.sleep(60)",
        "subprocess.run([sys.executable, '-c', SLEEPS], stdout=sys.stdout)",
        "one = subprocess.Popen([sys.executable, '-c', SLEEPS], stdout=-1)\nprint('begun')\none.communicate()",
        "!echo begun & ping -n 60 127.0.0.1",
    ],
    ids=["loop", "await", "subprocess", "captured", "command"],
)
def test_stop(kernel: Kernel, code: str) -> None:
    kernel.execute("import asyncio, os, subprocess, sys")
    kernel.execute("SLEEPS = 'import time; print(\"begun\", flush=True); time.sleep(60)'")
    run = stopped(kernel, code)
    assert run.error is not None
    assert run.error["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert kernel.execute("1 + 1").result == "2"


def test_what_it_uses_and_where_it_is(kernel: Kernel) -> None:
    assert "MiB" in kernel.execute("%flame top").stdout
    run = kernel.submit("import time\nprint('begun')\nfor _ in range(100): time.sleep(0.1)")
    kernel.wait_for(lambda: "begun" in run.stdout, "begun")
    assert "line 3" in kernel.execute("%flame where").stdout
    kernel.interrupt()
    kernel.wait(run)


# -- the library and files -------------------------------------------------------------------------------------------


def test_no_main(far: FlameServer) -> None:
    with pytest.raises(FlameError, match="use place = process") as caught:
        flame.connect(far.location, key=far.key, place="main")
    assert "\n" not in str(caught.value)


def test_a_child(far: FlameServer) -> None:
    with remote_flame(dict(far.environ())) as kernel:  # which is what auto takes
        pid = kernel.execute("import asyncio, os, sys, time\nos.getpid()").result
        assert pid != str(far.pid)
        assert "child" in kernel.execute("%flame status").stdout
        assert kernel.execute("os.write(1, b'raw\\n');").stdout.split() == ["raw"]
        for code in ("while True: pass", "time.sleep(60)", "await asyncio.sleep(60)"):
            assert stopped(kernel, f"print('begun', flush=True)\n{code}").error is not None
        assert kernel.execute("os.getpid()").result == pid
        assert "ended itself with exit status 7" in str(kernel.execute("os._exit(7)").error)
        assert kernel.execute("1 + 1").result == "2"


def test_a_childs_crash_has_its_windows_name(far: FlameServer) -> None:
    with remote_flame(dict(far.environ())) as kernel:
        run = kernel.execute("import faulthandler\nfaulthandler._raise_exception(0xC0000005)")
        assert "access violation (0xC0000005)" in str(run.error), run
        run = kernel.execute("import ctypes\nctypes.CDLL('ucrtbase').abort()")
        assert "exit status 3 (so does abort() in C code)" in str(run.error), run


def test_what_c_code_prints(far: FlameServer) -> None:
    """By Python's C library, by the one of MinGW's programs, and by Windows itself; not what goes to the console."""
    code = """
    import ctypes, msvcrt
    for name in ("ucrtbase", "msvcrt"):
        library = ctypes.CDLL(name)
        library.puts(f"puts of {name}".encode())
        library.fflush(None)
    kernel, count = ctypes.WinDLL("kernel32"), ctypes.c_ulong()
    kernel.GetStdHandle.restype = ctypes.c_void_p
    kernel.WriteFile(ctypes.c_void_p(kernel.GetStdHandle(-11)), b"by WriteFile\\n", 13, ctypes.byref(count), None)
    msvcrt.putwch("n")
    """
    with flame.connect(far.location, key=far.key, place="child") as pi:
        assert walk.printed(pi, textwrap.dedent(code)) == ("puts of ucrtbase\nputs of msvcrt\nby WriteFile\n", "")


def test_a_killed_server_leaves_nothing(far: FlameServer) -> None:
    """TerminateProcess: its children end with it, and what these have started; clients wait for it to come back."""
    stays = "import subprocess, sys\none = subprocess.Popen([sys.executable, '-c', 'input() # left there'], stdin=-1)"
    before = [one.pid for one in windows_far.processes("child.main")]
    with windows_far.another_server(farside.random_key()) as server, contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(flame.connect(server.location, key=server.key, place=place))
            for place in ("child", "process")
        ]
        sessions[0].execute(stays)
        below = [one for one in windows_far.processes("child.main") if one.pid not in before]
        below += windows_far.processes("left there")
        assert len(below) > 1
        end = "import ctypes\nctypes.WinDLL('kernel32').TerminateProcess(ctypes.c_void_p(-1), 9)"
        sessions[1].cell(end, lambda event: None)
        wait_until(lambda: not any(one.is_running() for one in below), "their end", 30)
        wait_until(lambda: all(one.session.trouble is not None for one in sessions), "the outages", 30)


def test_a_call_that_holds_the_interpreter(far: FlameServer) -> None:
    """Stop names it, and the next ones end the child: Ctrl-Break where there is a console, then TerminateProcess."""
    with remote_flame(dict(far.environ())) as kernel:
        kernel.execute("import ctypes")
        run = kernel.submit("print('begun', flush=True)\nctypes.PyDLL('kernel32').Sleep(600000)")
        kernel.wait_for_output(run, "begun")
        kernel.interrupt()
        kernel.wait_for(lambda: "next Stop ends the session's process" in run.stderr, "what the next Stop does")
        while run.reply is None:
            kernel.interrupt()
            kernel.wait_for(lambda: run.reply or run.stderr.count("next Stop") > 1, "the next step")
        assert "was ended by Stop with" in str(kernel.wait(run).error)
        assert kernel.execute("1 + 1").result == "2"


def test_values_functions_and_modules(pc: Remote) -> None:
    pc["data"] = {"a": [1, 2.5, b"x" * 3_000_000]}
    assert pc["data"]["a"][2][:1] == b"x"
    assert pc.modules.os.name == "nt"
    assert pc.run(lambda n: n + 1, 4) == 5
    pc.sendmodule("sent_there", "X = 5\n")
    assert pc.evaluate("__import__('sent_there').X") == 5
    assert pc.evaluate("__import__('pathlib').Path('C:/x')").drive == "C:"
    with pytest.raises(FileNotFoundError):
        pc.evaluate("open('nosuch')")


def test_files(pc: Remote, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\n")
    pc.put(tmp_path / "a.txt", "C:\\sent.txt")
    assert pc.getfile("c:/SENT.TXT") == b"one\r\n"  # either slash, either case
    pc.get("C:\\sent.txt", tmp_path / "back.txt")
    assert (tmp_path / "back.txt").read_bytes() == b"one\r\n"
    (tmp_path / "tree" / "in").mkdir(parents=True)
    (tmp_path / "tree" / "in" / "b.txt").write_text("two")
    pc.put(tmp_path / "tree", "C:\\tree")
    pc.get("C:\\tree", tmp_path / "tree2")
    assert (tmp_path / "tree2" / "in" / "b.txt").read_text() == "two"


@pytest.mark.parametrize("path", ["C:\\NUL", "C:\\con.txt", "C:\\what?", "C:\\nosuch\\a.txt"])
def test_a_path_that_cannot_be(pc: Remote, tmp_path: Path, path: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises((FlameError, OSError)) as caught:
        pc.put(tmp_path / "a.txt", path)
    assert "\n" not in str(caught.value)


def test_a_file_in_use(pc: Remote, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("new")
    pc.sendfile("C:\\used.txt", b"old")
    pc.execute("f = open('C:\\\\used.txt')")
    with pytest.raises((FlameError, OSError), match=r"denied|in use"):
        pc.put(tmp_path / "a.txt", "C:\\used.txt")
    assert pc.evaluate("f.read()") == "old"
    pc.execute("f.close()")


def test_packages(pc: Remote, tmp_path: Path) -> None:
    wheel(tmp_path, "beta")
    wheel(tmp_path, "beta", "2.0")
    words = ("--no-index", "-f", str(tmp_path))
    try:
        assert pc.install("beta==1.0", *words, progress=False).packages == {"beta": "1.0"}
        assert pc.evaluate("__import__('beta').version") == "1.0"
        assert pc.install("beta", *words, progress=False).packages == {"beta": "2.0"}
        assert packages.listed(pc.session) == {"beta": "2.0"}
    finally:
        pc.uninstall()
    assert pc.evaluate(f"__import__('os').path.exists({packages.facts(pc.session)['prefix']!r})") is False
