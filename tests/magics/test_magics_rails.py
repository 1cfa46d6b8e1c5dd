"""Rails of a target in the magics: cells, lines, groups; and what they note."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from farside import FlameServer, pythons, stopped
from notebook_shell import Shell, ipython, is_one_sentence


@pytest.fixture(scope="module")
def server() -> Iterator[FlameServer]:
    with stopped(FlameServer(pythons()[-1])) as one:
        yield one


@pytest.fixture
def shell(server: FlameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """An IPython that is connected to a target with rails; beside it a target at nobody's port without."""
    path = tmp_path / "targets.toml"
    path.write_text(
        f'[targets.prod]\nlocation = "{server.location}"\nshell = "mini"\n[targets.other]\nlocation = "127.0.0.1:9"\n'
        '[targets.prod.rails]\nread_only = true\nconfirm = true\nlog = "audit"\n'
    )
    path.chmod(0o600)
    monkeypatch.setenv("FLAME_CONFIG", str(path))
    with ipython(tmp_path) as one:
        one.ok("%flame connect prod")
        yield one


def test_rails(shell: Shell, server: FlameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    above = f" prod {server.location} (read only) \n"
    assert shell.ok("%%flame\nprint('here')").out == f"{above}here\n"
    assert shell.ok("%flame exec x = [1]; print(x)").out == f"{above}[1]\n"
    assert shell.ok("%flame eval len(x)").value == 1
    is_one_sentence(shell.run("%%flame\nimport os; os.environ['A'] = '1'"), "read_only", "os.environ['A']")
    is_one_sentence(shell.run("%flame exec open('none', 'w')"), "calls open('none', 'w')")
    is_one_sentence(shell.run("%flame eval exec.__self__.open('x').write_text('y')"), "write_text")
    for line in ("push above", "put a prod:b", "put a b", "sync a :b", "run none.py", "pip install none"):
        is_one_sentence(shell.run(f"%flame {line}"), "prod is read_only", f"%flame {line.split()[0]} writes")
    assert "connection refused" in shell.run(f"%flame put {tmp_path}/targets.toml other:b").text
    assert "no packages were sent" in shell.ok("%flame pip list").out

    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "n"

    monkeypatch.setattr("builtins.input", answer)
    is_one_sentence(shell.run("%%flame -t prod*2\nprint(1)"), "want a yes before this cell, and you did not give it")
    assert asked == ["Run this cell on 2 hosts, prod among them? [y/N] "]
    is_one_sentence(shell.run("%flame px -t prod*2 app.x = 1"), "assigns to app.x")

    noted = [json.loads(line)["first"] for line in (tmp_path / "audit").read_text().splitlines()]
    assert noted == ["print(…", "x = [1]; print(x)", "len(x)"]
    assert "len(x)" in shell.ok("%flame audit").out
    session = shell.ip.magics_manager.registry["FlameMagics"].cells._connections.pick()[1].session
    assert session.request("audit", entry={}).result(30) == {"status": "ok"}
    assert session.request("audit", entry=3).result(30)["status"] == "error"


def test_a_cell_is_tried(shell: Shell) -> None:
    shell.ok("%flame exec x = [1]")
    told = "Thrown away. It would have changed:\n  x: [1] → [1, 2]\n"
    ran = shell.ok("%%flame --try\nx.append(2)\nx")
    assert ran.out.endswith("[1, 2]\n" + told) or ran.out.endswith(told + "[1, 2]\n"), ran.out
    assert shell.ok("%flame try x.append(2)").out.endswith(told)
    assert shell.ok("%flame eval x").value == [1]
    is_one_sentence(shell.run("%flame try"), "a whole cell below %%flame --try")
    is_one_sentence(shell.run("%%flame --try --bg\nx"), "--try is for a cell on one host")
    is_one_sentence(shell.run("%%flame --try -t prod*2\nx"), "--try is for a cell on one host")
    late = shell.run("%%flame --try --timeout 0.2\nwhile True: pass")
    assert isinstance(late.error, KeyboardInterrupt)
    assert "Not done after 0.2 s" in late.text
    is_one_sentence(shell.run("%flame try open('none', 'w')"), "calls open('none', 'w')")
