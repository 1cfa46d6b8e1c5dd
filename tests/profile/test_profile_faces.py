"""Profiles as a user asks for them in an ordinary notebook, ``%%flame --profile``, and by ``jupyter flame profile``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from farside import FlameServer, LiveApp
from notebook_shell import ipython, is_one_sentence
from shell import flame

SPIN = "import time\ndef spin(seconds):\n    until = time.time() + seconds\n    while time.time() < until: pass\n"


def test_in_the_magics(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    with ipython(tmp_path) as shell:
        shell.ok(f"%flame connect {flame_server(ipython=False).location}")
        shell.ok("%%flame\n" + SPIN)
        ran = shell.ok("%%flame --profile\nspin(0.4)\n6 * 7")
        assert "42" in ran.out
        assert "spin" in ran.out
        assert "while time.time() < until: pass" in ran.out
        path = tmp_path / "all.json"
        ran = shell.ok(f"%flame profile --all --idle --seconds 0.2 -o {path}")
        assert f"saved in {path}" in ran.out
        assert "profiles" in json.loads(path.read_text())
        shell.ok("%%flame\nkept = [[1]]")
        ran = shell.ok("%flame memory --of kept")
        assert "  held by module __main__, as global kept" in ran.out
        ran = shell.run("%%flame --profile\n1/0")
        assert isinstance(ran.error, ZeroDivisionError)
        assert ran.seconds < 5
        is_one_sentence(shell.run("%%flame --profile --bg\nspin(0.1)"), "--profile is for a cell on one host")
        is_one_sentence(shell.run("%flame profile --live"), "--live is for notebooks")
        is_one_sentence(shell.run("%flame profile --cell --seconds 1"), "no cell runs")


@pytest.mark.usefixtures("warm_commands")
def test_on_the_command_line(live_app: Callable[..., LiveApp], tmp_path: Path) -> None:
    app = live_app(ipython=False)
    page = tmp_path / "app.html"
    done = flame("profile", app.location, "--idle", "--seconds", "0.3", "-o", page)
    assert done.code == 0, done.err
    assert "taking them cost" in done.out
    assert "<svg" in page.read_text()
    done = flame("profile", app.location, "--thread", "none", "--seconds", "0.1")
    assert (done.code, len(done.err.splitlines())) == (1, 1)


@pytest.mark.usefixtures("warm_commands")
def test_of_a_group(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    import flame as library

    location = flame_server(ipython=False).location
    with library.group([library.connect(location, session=name, shell="mini") for name in ("one", "two")]) as both:
        assert both.profile(0.2, scope="all", idle=True).hosts == 2
        for remote in both:
            remote.close()
    done = flame("profile", f"{location}*2", "--idle", "--seconds", "0.2", "-o", tmp_path / "both.json")
    assert ("2 hosts" in done.out, done.code) == (True, 0), done.err
    assert "profiles" in json.loads((tmp_path / "both.json").read_text())
