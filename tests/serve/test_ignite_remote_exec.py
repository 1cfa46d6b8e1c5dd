"""``jupyter flame ignite`` by ``sys.remote_exec`` (Python 3.14, PEP 768); on an older one by a stand-in on both sides.

The stand-in keeps what is documented: it looks at its arguments, says that a script is there, and returns at once; the
process's main thread runs that when it is about to run Python next, and not while it waits in a call.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from farside import pythons, wait_until
from plain_app import KEY, PlainApp, bare

import flame
from flame_kernel.serve import ignite
from flame_kernel.serve.ignite import IgniteError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ignite is for Linux")


REAL = getattr(sys, "remote_exec", None)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scripts that were given to ``sys.remote_exec``."""
    scripts: list[str] = []

    def remote_exec(pid: int, script: str) -> None:
        if not os.access(script, os.R_OK):
            raise FileNotFoundError("Script file does not exist")
        if len(os.fsencode(script)) >= 512:
            raise ValueError("Debugger script path is too long")
        scripts.append(script)
        if REAL is not None:
            REAL(pid, script)
            return
        (tmp_path / "pending").write_text(script + "\n")

    os.mkfifo(tmp_path / "pending")
    monkeypatch.setattr(sys, "remote_exec", remote_exec, raising=False)
    return scripts


@pytest.fixture
def plain(tmp_path: Path, asked: list[str]) -> Iterator[PlainApp]:
    python = pythons()[-1] if REAL else bare()  # the same as here
    app = PlainApp(python, "app worker", "app waiter", "app pending", str(tmp_path / "pending"))
    yield app
    app.stop()


@pytest.fixture
def no_hypno(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ignite, "_has_hypno", lambda: False)


def nothing_is_left(app: PlainApp, before: object, asked: list[str]) -> None:
    """Its main thread has come to every script, which removes itself first, and what that began has ended."""
    seen: list[object] = []

    def as_before() -> bool:
        seen.append(app.ask("state()"))
        return seen[-1] == before and not any(os.path.exists(os.path.dirname(script)) for script in asked)

    with contextlib.suppress(AssertionError):
        wait_until(as_before, "all as before")
    assert seen[-1] == before
    assert not [script for script in asked if os.path.exists(os.path.dirname(script))]
    assert app.stderr_text() == ""


def test_in_and_out_of_a_process_that_computes(
    plain: PlainApp, asked: list[str], no_hypno: None, tmp_path: Path
) -> None:
    before = plain.ask("state()")
    over = tmp_path / "over"
    plain.send(f"all(True for _ in iter(lambda: os.path.exists({str(over)!r}), True))")
    fire = ignite.ignite(plain.pid, KEY)
    with flame.connect(f"127.0.0.1:{fire.port}", key=KEY, shell="mini") as inside:
        count = inside.evaluate("__import__('__main__').counter")
        wait_until(lambda: inside.evaluate("__import__('__main__').counter") > count, "the app's own thread")
    with pytest.raises(IgniteError, match="is ignited already"):
        ignite.ignite(plain.pid, KEY)
    assert ignite.extinguish(plain.pid) == []
    over.touch()
    assert plain.answer() is True
    nothing_is_left(plain, before, asked)
    assert len(asked) == 3


def test_a_main_thread_that_waits(plain: PlainApp, asked: list[str], no_hypno: None) -> None:
    """It comes to the script when that is of no use any more, and nobody shall see anything of it."""
    before = plain.ask("state()")
    said = f"process {plain.pid} did not respond in time: its main thread waits in a call, or hangs"
    with pytest.raises(IgniteError, match=said):
        ignite.ignite(plain.pid, KEY, 0.5)
    assert os.path.exists(asked[0])
    nothing_is_left(plain, before, asked)


def test_a_main_thread_that_waits_is_stopped_where_hypno_is(plain: PlainApp, asked: list[str]) -> None:
    before = plain.ask("state()")
    fire = ignite.ignite(plain.pid, KEY)
    with flame.connect(f"127.0.0.1:{fire.port}", key=KEY, shell="mini") as inside:
        assert inside.evaluate("6 * 7") == 42
    assert ignite.extinguish(plain.pid) == []
    nothing_is_left(plain, before, asked)
    assert len(asked) == 2


def chained(error: Exception, cause: Exception) -> Exception:
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(1, "Operation not permitted"), "not allowed to attach to process {}"),
        (
            chained(RuntimeError("PyRuntime address lookup failed"), PermissionError(13, "Permission denied")),
            "not allowed to attach to process {}",
        ),
        (ProcessLookupError(3, "No such process"), "there is no process {}"),
        (
            RuntimeError("Can't send commands to remote process with different major.minor version"),
            "process {} cannot be asked by Python itself (Can't send",
        ),
        (
            RuntimeError("Remote debugging is not enabled in the remote process"),
            "process {} cannot be asked by Python itself (Remote debugging is not enabled in the remote process); this "
            "needs hypno: pip install",
        ),
        (ValueError("Debugger script path is too long"), "(Debugger script path is too long); this needs hypno"),
    ],
    ids=["permission", "chained", "ended", "version", "switched off", "path"],
)
def test_a_refusal_is_one_sentence(
    error: Exception, said: str, plain: PlainApp, no_hypno: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, script: str) -> None:
        raise error

    monkeypatch.setattr(sys, "remote_exec", refuse)
    with pytest.raises(IgniteError) as refused:
        ignite.ignite(plain.pid, KEY)
    assert said.format(plain.pid) in str(refused.value)
    assert not list(Path(tempfile.gettempdir()).glob("flame-*/lines.py"))


def test_another_python_is_stopped_where_hypno_is(plain: PlainApp, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, script: str) -> None:
        raise RuntimeError("Can't send commands to remote process with different major.minor version")

    monkeypatch.setattr(sys, "remote_exec", refuse)
    assert ignite.ignite(plain.pid, KEY).program == "plain_app.py"
    assert ignite.extinguish(plain.pid) == []
