"""Rails of a target in ``jupyter flame`` and at a console: what they refuse, say and note."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from farside import FlameServer
from shell import flame

from flame_kernel.commands.status import status
from flame_kernel.connect.target import load_target
from flame_kernel.remote.console import Console
from flame_kernel.remote.remote import Remote

pytestmark = pytest.mark.usefixtures("warm_commands")
TARGETS = """
[targets.prod]
location = "{location}"
shell = "mini"
[targets.prod.rails]
read_only = true
confirm = true
log = "audit"
"""


@pytest.fixture
def environ(flame_server: Callable[..., FlameServer], tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "targets.toml"
    file.write_text(TARGETS.format(location=flame_server(ipython=False).location))
    file.chmod(0o600)
    return {"FLAME_CONFIG": str(file)}


def test_commands(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print('no')\n")
    done = flame("exec", "-t", "prod", "print('here')", **environ)
    assert (done.code, done.out, done.err) == (0, "here\n", " prod (read only) \n")
    assert flame("eval", "-t", "prod", "6 * 7", **environ).out == "42\n"
    for words in (
        ("exec", "-t", "prod", "import os; os.remove('x')"),
        ("eval", "-t", "prod", "open('none', 'w')"),
        ("console", "-t", "prod"),
    ):
        done = flame(*words, stdin="app.x = 1", **environ)
        assert (done.code, done.out) == (1, "")
        assert "prod is read_only" in done.err.splitlines()[-1]
        assert "a rail, no wall" in done.err
    put = ("put", str(tmp_path / "script.py"), "prod:script.py")
    for words in (put, ("run", "-t", "prod", str(tmp_path / "script.py")), ("pip", "-t", "prod", "install", "none")):
        done = flame(*words, **environ)
        assert (done.code, done.out) == (1, "")
        assert f"prod is read_only, and jupyter flame {words[0]} writes" in done.err
    sync = ("sync", f"{tmp_path}/", "prod:none")
    assert "jupyter flame sync writes" in flame(*sync, **environ).err
    assert flame(*sync, "--dry-run", **environ).code == 0
    group = flame("exec", "-t", "prod*2", "print(1)", **environ)  # nobody is there to say yes
    assert group.code == 1
    assert "nobody can be asked here" in group.err
    noted = [json.loads(line)["first"] for line in (tmp_path / "audit").read_text().splitlines()]
    assert noted == ["print(…", "6 * 7"]


def test_a_console_and_the_status(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLAME_CONFIG", environ["FLAME_CONFIG"])
    monkeypatch.setattr("sys.stdin", io.StringIO("x = 5\nx\napp.x = 1\n"))
    remote = Remote(load_target("prod"))
    try:
        Console(remote).interact("")
        out, err = capsys.readouterr()
        assert "5" in out
        assert "prod is read_only, and this cell assigns to app.x" in err
        words = f"rails: read only, asks before Run All and several hosts, noted in {tmp_path / 'audit'}"
        assert status(remote.session).splitlines()[2] == words
    finally:
        remote.close()
