"""A server on Python 2.7, where the agent does not run: what Flame's own calls can do, and a sentence of what not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import farside
import pytest
from farside import FlameServer, Python
from needs import missing
from shell import Done
from shell import flame as typed

import flame
from flame_kernel.errors import CannotConnect


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
    assert (done.code, done.out) == (0, "1\xe9\nthere\n")
    assert done.err.splitlines() == [
        "Python 2.7.18 there: no session, so output comes at the end, without input(), Ctrl-C, magics and variables "
        "that stay"
    ]
    assert ran(old, "eval", "7 / 2").out == "3\n"
    done = ran(old, "exec", "1 / 0")
    assert (done.code, done.out.splitlines()[-1]) == (1, "ZeroDivisionError: integer division or modulo by zero")
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
    with pytest.raises(CannotConnect, match=r"too old for a session \(Python 2\.7\.18\).*exec, eval, put and get") as e:
        flame.connect(old.location, key=old.key)
    assert "\n" not in str(e.value)
