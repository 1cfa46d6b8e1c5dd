"""A server on Python 2.7, where the agent does not run: what Flame's own calls can do, and a sentence of what not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import farside
import pexpect
import pytest
from farside import FlameServer, Python
from needs import missing
from notebook_shell import ipython
from shell import Done
from shell import flame as typed

import flame
from flame_kernel.errors import CannotConnect
from flame_kernel.old_python.calls import OldPython


@pytest.fixture(scope="module", params=["", "0123456789abcdef"], ids=["open", "key"])
def old(request: pytest.FixtureRequest) -> Iterator[FlameServer]:
    found = sorted(Path.home().glob(".pyenv/versions/2.7*/bin/python"))
    if not found:
        missing("Python 2.7 (pyenv)")
    python = Python(str(found[0]), (2, 7), False, False, False, False)
    with farside.stopped(FlameServer(python, key=request.param or None)) as server:
        server.environ()  # writes the key's file
        yield server


def ran(old: FlameServer, word: str, *more: str) -> Done:
    environ = old.environ()
    key = ["--key-file", environ["FLAME_KEY_FILE"]] if old.key else []
    return typed(word, "-t", old.location, *key, *more)


def test_code(old: FlameServer, warm_commands: None) -> None:
    done = ran(old, "exec", "print u'1\xe9'; import sys; sys.stderr.write('there\\n'); x = 3")
    assert (done.code, done.out) == (0, "1\xe9\n")
    assert done.err.splitlines() == [
        "Python 2.7.18 there: no session, so output comes at the end, without input(), Ctrl-C, magics and variables "
        "that stay",
        "there",
    ]
    assert ran(old, "exec", "from __future__ import division; 7 / 2").out == "3.5\n"
    assert ran(old, "eval", "7 / 2").out == "3\n"
    assert ran(old, "eval", "--json", "{'a': (1, u'b')}").out == '{"a": [1, "b"]}\n'
    done = ran(old, "exec", "1 / 0")
    assert (done.code, done.err.splitlines()[-1]) == (1, "ZeroDivisionError: integer division or modulo by zero")
    assert ran(old, "exec", "raise SystemExit(3)").code == 3


def test_files(old: FlameServer, tmp_path: Path, warm_commands: None) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 3000)
    (tmp_path / "there").mkdir()
    assert ran(old, "put", f"{tmp_path}/a", f"{tmp_path}/there/").code == 0
    assert [one.name for one in (tmp_path / "there").iterdir()] == ["a"]
    assert ran(old, "get", f"{tmp_path}/there/a", f"{tmp_path}/b").code == 0
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    done = ran(old, "get", f"{tmp_path}/nosuch", f"{tmp_path}/c")
    assert done.code == 1
    assert "No such file" in done.err
    assert not (tmp_path / "c").exists()


def test_a_session_says_what_works(old: FlameServer) -> None:
    words = r"too old for a session \(Python 2\.7\.18\).*exec, eval, put, get and console.*%%flame"
    with pytest.raises(CannotConnect, match=words) as e:
        flame.connect(old.location, key=old.key)
    assert "\n" not in str(e.value)


@pytest.fixture
def plain(old: FlameServer) -> Iterator[OldPython]:
    with flame.connect_old_python(old.location, key=old.key) as one:
        yield one


def test_modules_and_builtins(plain: OldPython, capsys: pytest.CaptureFixture[str]) -> None:
    assert plain.module("os.path").join("a", "b") == "a/b"
    assert plain.module("sys").version_info[:3] == (2, 7, 18)
    assert plain.module("os").path.sep == "/"
    assert plain.builtin("max")([1, 3, 2]) == 3
    assert plain.builtin("sorted")([2, 1], reverse=True) == [2, 1]
    assert plain.module("struct").pack(">I", 0xFFFE) == b"\x00\x00\xff\xfe"
    value = {"a": [1, 2.5, None, True, 10**30], 2: (b"\xff", "\xe9", {1, 2}, 1j)}
    assert plain.module("copy").copy(value) == value
    with pytest.raises(flame.RemoteError, match="ImportError: No module named nosuch"):
        plain.module("nosuch")
    with pytest.raises(flame.RemoteError, match="OSError") as raised:
        plain.module("os").listdir("/nosuch")
    assert "far_side" not in raised.value.traceback
    with pytest.raises(flame.CannotTravel, match=r"what fdopen returns is a file, .*ask for its repr"):
        plain.module("os").fdopen(0)
    with pytest.raises(flame.CannotTravel, match="a object does not go to a Python this old"):
        plain.builtin("len")(object())
    plain.execute("print 'said'")
    assert capsys.readouterr().out == "said\n"


def test_variables_stay_until_it_is_closed(old: FlameServer, plain: OldPython) -> None:
    plain.execute("x = 40")
    assert plain.evaluate("x + 2") == 42
    with (
        flame.connect_old_python(old.location, key=old.key) as other,
        pytest.raises(flame.RemoteError, match="name 'x'"),
    ):
        other.evaluate("x")
    with pytest.raises(flame.RemoteError, match="EOFError: a Python this old cannot ask you"):
        plain.evaluate("raw_input()")


def test_a_console(old: FlameServer) -> None:
    command = [sys.executable, "-m", "flame_kernel.cli", "console", "-t", old.location]
    command += ["--key-file", old.environ()["FLAME_KEY_FILE"]] if old.key else []
    child = pexpect.spawn(command[0], command[1:], encoding="utf-8", timeout=30, echo=False)
    try:
        child.expect_exact(">>> ")
        assert "no session, so output comes at the end" in child.before
        for typed, shown in (("x = 40", ""), ("x + 2", "42"), ("1/0", "ZeroDivisionError"), ("print x", "40")):
            child.sendline(typed)
            child.expect_exact(">>> ")
            assert shown in child.before
        child.sendline("for i in range(2):")
        child.expect_exact("... ")
        child.sendline("    print i, x")
        child.expect_exact("... ")
        child.sendline("")
        child.expect_exact(">>> ")
        assert child.before.split() == ["0", "40", "1", "40"]
        child.sendeof()
        child.expect(pexpect.EOF)
    finally:
        child.close()
    assert child.exitstatus == 0


def test_cells_of_a_notebook(old: FlameServer, tmp_path: Path) -> None:
    with ipython(tmp_path) as shell:
        key = f" --key-file {old.environ()['FLAME_KEY_FILE']}" if old.key else ""
        said = shell.ok(f"%flame connect {old.location} --as furnace{key}").out
        assert said.startswith("furnace: Python 2.7.18 at ")
        assert "without input(), Ctrl-C, magics, Tab and stand-ins" in said
        assert shell.ok("%%flame\nx = 20\nprint 'there', x\nx + 1").out == "there 20\n21\n"
        assert shell.ok("%%flame -t furnace\nx").out == "20\n"
        assert type(shell.run("%%flame\nx / 0").error).__name__ == "ZeroDivisionError"
        assert "leave out --bg" in str(shell.run("%%flame --bg\nx").error)
        assert shell.ok("furnace.module('os').getpid()").value == old.pid
        assert "too old for this (Python 2.7.18)" in str(shell.run("%flame where").error)
        assert "* furnace: Python 2.7.18" in shell.ok("%flame status").out
        shell.ok("%flame disconnect")
        assert "not connected" in shell.ok("%flame status").out
