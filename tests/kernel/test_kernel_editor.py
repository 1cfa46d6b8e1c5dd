"""What an editor asks of the kernel while one types, also while a cell runs; and what it is told of the far side."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farside
import psutil
import pytest
from farside import FlameServer, LiveApp, wait_until
from kernels import Kernel, Run, remote_flame
from mini import plain
from needs import missing

pytestmark = pytest.mark.leaves(
    "a far side and its kernel serve several tests: nothing_is_left looks when both are gone"
)

FAR_SIDES = ("ipython-child", "bare-child", "ipython-process", "bare-process")


def _python(shell: str) -> farside.Python:
    found = [python for python in farside.pythons() if python.ipython == (shell == "ipython")]
    if not found:
        missing(f"a far-side Python for {shell} (pyenv)")
    return found[-1] if shell == "ipython" else found[0]


@pytest.fixture(scope="module", params=FAR_SIDES)
def kernel(request: pytest.FixtureRequest, nothing_is_left: None) -> Iterator[Kernel]:
    """A kernel on each sort of far side: with IPython and without, in a child and inside an app."""
    shell, _, place = request.param.partition("-")
    server = (FlameServer if place == "child" else LiveApp)(_python(shell))
    try:
        with remote_flame(env={"FLAME_TARGET": server.location}) as kernel:
            kernel.far = server  # type: ignore[attr-defined]
            kernel.execute(
                "class Pump:\n"
                "    '''Moves water.'''\n"
                "    def raise_level(self, by: int = 1) -> int:\n"
                "        '''Raise it.'''\n"
                "        return by\n"
                "pump_station = Pump()\n"
                "pump_count = 3\n"
                "def pump_all(first, *rest):\n"
                "    '''All pumps at once.'''\n"
            )
            # The kernel gives up on a completion that takes long, as the first one does on a busy machine.
            wait_until(lambda: kernel.complete("pump_")["matches"], "a completion", 60)
            yield kernel
    finally:
        server.stop()


@contextlib.contextmanager
def busy(kernel: Kernel) -> Iterator[Run]:
    """While a cell runs; it ends with the block, and must not have ended before."""
    with tempfile.TemporaryDirectory() as folder:
        flag = Path(folder, "go")
        run = kernel.submit(
            "import os, time\nprint('running', flush=True)\n"
            f"while not os.path.exists({str(flag)!r}):\n    time.sleep(0.05)\nprint('over')"
        )
        kernel.wait_for_output(run, "running")
        try:
            yield run
            assert not run.done
        finally:
            flag.touch()
        kernel.wait(run)
        assert run.stdout == "running\nover\n"
        assert run.reply is not None
        assert run.reply["status"] == "ok"


def check_completion(kernel: Kernel) -> None:
    reply = kernel.complete("pump_")
    assert reply["status"] == "ok"
    assert set(reply["matches"]) >= {"pump_station", "pump_count", "pump_all"}
    assert (reply["cursor_start"], reply["cursor_end"]) == (0, 5)
    types = {entry["text"]: entry["type"] for entry in reply["metadata"]["_jupyter_types_experimental"]}
    assert set(types) == set(reply["matches"])
    assert types["pump_all"] == "function"
    reply = kernel.complete("x = pump_station.raise_l  # and more", 24)
    assert [match.rpartition(".")[2] for match in reply["matches"]] == ["raise_level"]
    assert reply["cursor_end"] == 24
    assert kernel.complete("'ä𝄞'; pump_st")["cursor_end"] == 13  # counted in characters, not in bytes or UTF-16


def check_inspection(kernel: Kernel) -> None:
    reply = kernel.inspect("pump_all(1, 2)", 4)
    assert (reply["status"], reply["found"]) == ("ok", True)
    assert "first, *rest" in reply["data"]["text/plain"]
    assert "All pumps at once." in reply["data"]["text/plain"]
    assert "def pump_all" in plain(kernel.inspect("pump_all", detail=1)["data"]["text/plain"])
    reply = kernel.inspect("pump_station.raise_level(")
    assert reply["found"]
    assert "Raise it." in reply["data"]["text/plain"]
    reply = kernel.inspect("no_such_name")
    assert (reply["status"], reply["found"], reply["data"]) == ("ok", False, {})


def test_completion_and_inspection(kernel: Kernel) -> None:
    check_completion(kernel)
    check_inspection(kernel)


def test_the_same_while_a_cell_runs(kernel: Kernel) -> None:
    with busy(kernel) as run:
        check_completion(kernel)
        check_inspection(kernel)
        assert kernel.is_complete("for i in x:")["status"] == "incomplete"
        assert kernel.history(n=1)["history"][-1][2].startswith("import os, time")
        kernel.take_all()
        # A front end shows the state it heard last, and waits for the idle of what it asked.
        states = [m.content["execution_state"] for m in run.of_type("status")]
        assert states[0] == "busy"
        assert set(states) == {"busy"}
    assert [m.content["execution_state"] for m in run.of_type("status")][-1] == "idle"
    assert kernel.execute("pump_count").result == "3"


def test_a_question_between_two_cells_does_not_mix_their_output(kernel: Kernel) -> None:
    with busy(kernel) as run:
        queued = kernel.submit("print('queued', pump_count)")
        kernel.complete("pump_")
        assert queued.reply is None
    kernel.wait(queued)
    assert queued.stdout == "queued 3\n"
    assert run.stdout == "running\nover\n"


def test_completion_without_an_answer_is_empty(kernel: Kernel) -> None:
    reply = kernel.complete("pump_no_such_")
    assert (reply["status"], reply["matches"]) == ("ok", [])
    assert kernel.complete("")["status"] == "ok"
    assert kernel.complete("a = (", 3)["status"] == "ok"
    # A property that raises, or ends the process, is only a name to an editor.
    kernel.execute(
        "class Odd:\n    @property\n    def trap(self): raise SystemExit(3)\n"
        "    def __dir__(self): raise KeyboardInterrupt\nodd = Odd()"
    )
    assert kernel.complete("odd.tr")["status"] == "ok"
    assert kernel.inspect("odd.trap")["status"] == "ok"
    assert kernel.execute("pump_count").result == "3"


def test_code_completeness(kernel: Kernel) -> None:
    assert kernel.is_complete("1 + 1")["status"] == "complete"
    assert kernel.is_complete("for i in range(3):") == {"status": "incomplete", "indent": "    "}
    reply = kernel.is_complete("def f():\n    if 1:\n        x = 2")
    assert (reply["status"], reply["indent"]) == ("incomplete", " " * 8)
    assert kernel.is_complete("print('''")["status"] == "incomplete"
    assert kernel.is_complete("a b")["status"] == "invalid"
    assert kernel.is_complete("%flame status")["status"] == "complete"
    assert kernel.is_complete("!ls")["status"] == "complete"


def test_usage_is_the_far_sides(kernel: Kernel) -> None:
    pid = int(kernel.execute("import os; os.getpid()").result or 0)
    usage = kernel.usage()
    assert usage["pid"] == pid != kernel.pid
    assert usage["hostname"] == socket.gethostname()
    assert usage["cpu_count"] == psutil.cpu_count()
    kernel.execute("block = bytearray(b'x') * 200_000_000")
    more = kernel.usage()
    assert 150e6 < more["kernel_memory"] - usage["kernel_memory"] < 400e6
    total = psutil.virtual_memory().total
    assert more["host_virtual_memory"]["total"] == pytest.approx(total, rel=0.01)
    assert 0 < more["host_virtual_memory"]["available"] < total
    kernel.execute("del block")
    with busy(kernel):
        again = kernel.usage()
        assert again["pid"] == pid
        assert isinstance(again["kernel_cpu"], (int, float))


def test_kernel_info(kernel: Kernel) -> None:
    far: FlameServer | LiveApp = kernel.far  # type: ignore[attr-defined]
    info = kernel.kernel_info()
    assert info["implementation"] == "remote-flame"
    language = info["language_info"]
    assert language["name"] == "python"
    assert language["version"] == ".".join(map(str, far.python.version))
    assert far.python.ipython or language["version"] != platform.python_version()
    with_debugger = [] if far.python.version != sys.version_info[:3] else ["debugger"]  # where debugpy is
    assert info["supported_features"] == ["kernel subshells", *with_debugger]
    assert f"pid {far.pid}" in info["banner"] or "in a child process" in info["banner"]


@pytest.mark.parametrize("content", [{}, {"type": "request", "seq": 7, "command": "no_such", "arguments": 3}], ids=str)
def test_a_debug_request_that_is_none_is_answered(kernel: Kernel, content: dict[str, Any]) -> None:
    reply = kernel.ask("debug_request", content, channel="control")
    assert (reply["type"], reply["request_seq"], reply["success"]) == ("response", content.get("seq", 0), False)
    assert "Debug Adapter Protocol" in reply["message"]


def test_subshells(kernel: Kernel) -> None:
    """A second thread on the same names, beside a busy cell."""
    threads_before = kernel.execute("import threading; threading.active_count()").result
    with busy(kernel):
        shell = kernel.ask("create_subshell_request", channel="control")["subshell_id"]
        assert kernel.ask("list_subshell_request", channel="control")["subshell_id"] == [shell]
        run = kernel.execute("print('beside', pump_count); pump_count += 1; pump_count", subshell=shell)
        assert (run.stdout, run.result) == ("beside 3\n", "4")
        assert kernel.execute("pump_count -= 1; 1/0", subshell=shell).error is not None
        assert "pump_all" in kernel.complete("pump_a", subshell=shell)["matches"]
        other = kernel.ask("create_subshell_request", channel="control")["subshell_id"]
        runs = [kernel.submit(f"import time; print({n}); time.sleep(0.1); print({n})", subshell=s)
                for n, s in enumerate((shell, other) * 3)]  # fmt: skip
        for number, one in enumerate(runs):
            kernel.wait(one)
            assert one.stdout == f"{number}\n{number}\n"
        for name in (shell, other):
            assert kernel.ask("delete_subshell_request", {"subshell_id": name}, channel="control")["status"] == "ok"
        assert kernel.ask("list_subshell_request", channel="control")["subshell_id"] == []
    assert kernel.execute("pump_count").result == "3"
    wait_until(
        lambda: kernel.execute("threading.active_count()").result == threads_before, "the end of the subshells' threads"
    )


def test_an_error_ends_what_waits_in_its_own_shell(kernel: Kernel) -> None:
    shell = kernel.ask("create_subshell_request", channel="control")["subshell_id"]
    for failing, other in ((None, shell), (shell, None)):
        begun = kernel.submit("print('begun'); beside = False\nwhile not beside: pass\n1/0", subshell=failing)
        kernel.wait_for_output(begun, "begun")
        behind = [kernel.submit("behind", subshell=failing) for _ in range(5)]
        kernel.execute("beside = True", subshell=other)
        aside = [kernel.submit("'aside'", subshell=other) for _ in range(5)]
        for run in (begun, *behind, *aside):
            kernel.wait(run)
        assert [run.reply["status"] for run in (begun, *behind) if run.reply] == ["error", *["aborted"] * 5]
        assert [run.result for run in aside] == ["'aside'"] * 5
        assert kernel.execute("'again'", subshell=failing).result == "'again'"
    assert kernel.ask("delete_subshell_request", {"subshell_id": shell}, channel="control")["status"] == "ok"


@pytest.mark.parametrize("name", [None, "", "no such subshell", 5, ["x"], {}], ids=str)
def test_a_subshell_that_is_none(kernel: Kernel, name: Any) -> None:
    """One sentence in the reply, and the status that a front end waits for; the main shell is no subshell."""
    reply = kernel.ask("delete_subshell_request", {"subshell_id": name}, channel="control")
    assert reply["status"] == "error"
    assert reply["evalue"].startswith("Unknown subshell_id")
    if name is not None:
        run = kernel.execute("1", subshell=name)
        assert run.reply is not None
        assert (run.reply["status"], run.reply["ename"]) == ("error", "UnknownSubshellError")
    assert kernel.execute("1").result == "1"


# --- history, which is kept on this side


@pytest.fixture
def ipython_dir(tmp_path: Path) -> dict[str, str]:
    """The environment of a kernel with a history of its own."""
    return {"IPYTHONDIR": str(tmp_path / "ipython")}


def inputs(reply: dict[str, Any]) -> list[str]:
    assert reply["status"] == "ok"
    return [entry[2] for entry in reply["history"]]


def test_history(ipython_dir: dict[str, str], flame_server: Callable[..., FlameServer]) -> None:
    environ = {"FLAME_TARGET": flame_server().location, **ipython_dir}
    with remote_flame(env=environ) as k:
        for code in ("alpha = 1", "beta = 2", "alpha", "alpha", "'gamma'"):
            k.execute(code)
        k.execute("hidden = 1", store_history=False)
        k.execute("hidden = 1", silent=True)
        assert inputs(k.history(n=3)) == ["alpha", "alpha", "'gamma'"]
        session, line, _ = k.history(n=1)["history"][0]
        assert line == 5
        assert inputs(k.history(hist_access_type="range", session=0, start=2, stop=4)) == ["beta = 2", "alpha"]
        assert inputs(k.history(hist_access_type="search", pattern="*lph*")) == ["alpha = 1", "alpha", "alpha"]
        found = k.history(hist_access_type="search", pattern="alpha*", unique=True)
        assert sorted(inputs(found)) == ["alpha", "alpha = 1"]
        assert inputs(k.history(hist_access_type="search", pattern="alp?a", n=1)) == ["alpha"]
        assert inputs(k.history(hist_access_type="search", pattern="hidden*")) == []
        assert k.history(hist_access_type="nonsense")["history"] == []
        k.restart()
        assert inputs(k.history(n=2)) == ["alpha", "'gamma'"]
        k.execute("after = 'restart'")
        assert inputs(k.history(n=2)) == ["'gamma'", "after = 'restart'"]
    with remote_flame(env=environ) as k:  # another kernel, another day
        assert "after = 'restart'" in inputs(k.history(hist_access_type="search", pattern="after*"))
        assert inputs(k.history(hist_access_type="range", session=session, start=1, stop=3)) == [
            "alpha = 1",
            "beta = 2",
        ]
    assert not list(Path(os.environ["IPYTHONDIR"]).rglob("history.sqlite-journal"))


def test_cells_come_into_the_database_though_nobody_asks(ipython_dir: dict[str, str], tmp_path: Path) -> None:
    """Of a kernel that is killed only the last second is lost."""

    def written() -> list[str]:
        (file,) = Path(ipython_dir["IPYTHONDIR"]).rglob("history.sqlite")
        with contextlib.closing(sqlite3.connect(file, timeout=10)) as database:
            return [source for (source,) in database.execute("SELECT source FROM history ORDER BY line")]

    with remote_flame(env=ipython_dir) as k:
        for code in ("first = 1", "second = 2"):
            k.execute(code)
        wait_until(lambda: written() == ["first = 1", "second = 2"], "the first cells in the database")
        k.execute("third = 3")
        wait_until(lambda: written()[2:] == ["third = 3"], "the next")


def test_history_with_output(ipython_dir: dict[str, str]) -> None:
    with remote_flame(env=ipython_dir) as k:
        k.execute("6 * 7")
        k.execute("x = 1")
        k.execute("'text'")
        found = k.history(hist_access_type="range", session=0, start=1, stop=4, output=True)["history"]
        assert [tuple(entry[2]) for entry in found] == [("6 * 7", "42"), ("x = 1", None), ("'text'", "'text'")]
