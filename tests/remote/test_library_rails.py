"""Rails of a target over calls of the library: what is refused, what wants a yes, and what is noted here and there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from farside import FlameServer, pythons, stopped

import flame
from flame_kernel.commands import rails
from flame_kernel.connect.rails_table import Rails
from flame_kernel.errors import FlameError, TargetError

HEARD = """
import logging
heard = []
logger = logging.getLogger("remote_flame")
handler = logging.Handler()
handler.emit = lambda record: heard.append(record.getMessage())
logger.addHandler(handler)
logger.setLevel("INFO")
"""


@pytest.fixture(scope="module")
def server() -> Iterator[FlameServer]:
    with stopped(FlameServer(pythons()[-1])) as one:
        yield one


def targets(folder: Path, server: FlameServer, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    """A targets.toml whose ``prod`` has these rails; the path of its audit file."""
    path = folder / "targets.toml"
    path.write_text(f'[targets.prod]\nlocation = "{server.location}"\nshell = "mini"\n[targets.prod.rails]\n{text}\n')
    path.chmod(0o600)
    monkeypatch.setenv("FLAME_CONFIG", str(path))
    return folder / "audit"


def noted(audit: Path) -> list[str]:
    return [json.loads(line)["first"] for line in audit.read_text().splitlines()]


def test_read_only(server: FlameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = targets(tmp_path, server, monkeypatch, 'read_only = true\nlog = "audit"')
    with flame.connect("prod") as pi:

        def writes() -> None:
            import os

            os.remove("none")

        modules = pi.modules
        environ, path = modules.os.environ, pi.evaluate("__import__('pathlib').Path('none')", ref=True)
        for what, words in {
            "exec": lambda: pi.execute("import os; os.environ['A'] = '1'"),
            "eval": lambda: pi.evaluate("open('none', 'w')"),
            "run": lambda: pi.run(writes),
            "cell": lambda: pi.cell("!rm none", print),
            "remove": lambda: modules.os.remove("none"),
            "open": lambda: pi.builtins.open("none", "w"),
            "environ": lambda: environ.__setitem__("A", "1"),
            "module": lambda: setattr(modules.json, "x", 1),
            "delete": lambda: delattr(modules.json, "loads"),
            "method": lambda: path.write_text("x"),
            "push": lambda: pi.push({"x": 1}),
            "name": lambda: pi.__setitem__("x", 1),
            "put": lambda: pi.put(__file__, "none"),
            "sendfile": lambda: pi.sendfile("none", b""),
            "sendmodule": lambda: pi.sendmodule("none", "x = 1"),
            "hot": lambda: pi.hot(tmp_path),
            "hotfix": lambda: pi.hotfix("json.loads", "def loads(s): pass"),
            "install": lambda: pi.install("none"),
        }.items():
            with pytest.raises(FlameError, match="read_only"):
                words()
            assert what
        with pytest.raises(FlameError, match="read_only"), pi.batch() as batch:
            batch.modules.os.remove("none")
        with pytest.raises(FlameError, match="read_only"), pi.batch() as batch:
            batch.execute("import os; os.remove('none')")

        before = len(noted(audit))
        pi.execute("x = {}; x['a'] = 1")
        assert pi.evaluate("len(x)") == 1
        own = pi.evaluate("x", ref=True)
        own["b"] = 2  # what a call of one's own has given may be changed
        assert modules.os.getcwd()
        assert pi.builtins.open("/dev/null", "r").read() == ""
        assert pi.run(_doubled, 3) == 6
        assert noted(audit)[before:] == [
            *("x = {}; x[…", "len(x)", "x", "_[...] = ..."),
            *("os.getcwd()", "open(..., …", "_.read()", "def _doubled(x: int) -> int:"),
        ]


def _doubled(x: int) -> int:
    return 2 * x


def test_noted_there_and_the_window(server: FlameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = targets(tmp_path, server, monkeypatch, 'log = "audit"\nwindow = "00:00-23:59"')
    with flame.connect("prod", place="process") as pi:
        pi.execute(HEARD)
        pi.modules.os.getpid()
        pi.execute("import time\nwhile len(heard) < 2: time.sleep(0.01)")
        logger = "logging.getLogger('remote_flame')"
        pi.execute("logger.removeHandler(handler); logger.setLevel(0)")
        user = json.loads(audit.read_text().splitlines()[-1])["user"]
        heard = pi.evaluate("heard")
        assert any(f"user {user}" in line and "os.getpid()" in line for line in heard), heard
        assert pi.evaluate(f"{logger}.handlers") == []
        monkeypatch.setattr(Rails, "is_open", lambda self, now: False)
        for late in (lambda: pi.execute("1"), lambda: pi.modules.os.getpid(), lambda: pi.builtins.len):
            with pytest.raises(FlameError, match="the rails of prod allow cells at 00:00-23:59 only"):
                late()


def test_a_group_wants_a_yes(server: FlameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = targets(tmp_path, server, monkeypatch, 'max_hosts = 1\nlog = "audit"')
    with flame.group("prod*2") as both:
        for call in (
            lambda: both.execute("x = 1"),
            lambda: both.evaluate("1"),
            lambda: both.run(_doubled, 1),
            lambda: both.cell("1"),
            lambda: both.map(_doubled, range(4)),
            lambda: both.modules.os.getpid(),
            lambda: both.noblock.execute("x = 1"),
        ):
            with pytest.raises(FlameError, match=r"Run this cell on 2 hosts, prod among them\? A program says yes by "):
                call()
        both[:1].execute("x = 1")  # one host
    with flame.group("prod*2", confirmed=True) as both:
        both.cell("y = 2")
        assert both.map(_doubled, range(3)) == [0, 2, 4]
        sessions = {json.loads(line)["session"] for line in audit.read_text().splitlines()}
        assert {remote.session.session_id for remote in both} < sessions
        assert noted(audit).count("y = 2") == 2


def test_no_option_changes_them(server: FlameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets(tmp_path, server, monkeypatch, "read_only = true")
    for name, value in {"read_only": False, "confirm": False, "window": "00:00-23:59", "rails": {}}.items():
        with pytest.raises(
            TargetError, match=f"'{name}' stands in the rails of a target in .*; no option changes rails"
        ):
            flame.connect("prod", **{name: value})
    assert rails.of_targets(["prod"])["prod"].is_open(time.localtime())


def test_code_is_tried(server: FlameServer, capsys: pytest.CaptureFixture[str]) -> None:
    with flame.connect(server.location, shell="mini") as pi:
        pi.execute("x = [1]")
        pi.try_("x.append(2)\nprint('there')")
        out = capsys.readouterr().out
        assert "there\n" in out
        assert "It would have changed:\n  x: [1] → [1, 2]\n" in out
        assert pi["x"] == [1]
        with pytest.raises(ZeroDivisionError):
            pi.try_("1 // 0")
        with pytest.raises(FlameError, match="--timeout is a number of seconds"):
            pi.try_("1", timeout=0)
