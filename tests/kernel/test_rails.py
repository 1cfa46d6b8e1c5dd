"""Rails of a target: what they refuse, ask, show and note, in the kernel; and how their table is read."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from farside import FlameServer, pythons, random_key, stopped
from kernels import Kernel, Run, remote_flame
from places import ok

from flame_kernel.commands import rails
from flame_kernel.connect.rails import Rails
from flame_kernel.connect.target import load_target, rails_of
from flame_kernel.errors import FlameError, TargetError

TABLE = """
[targets.prod]
location = "{location}"
key_file = "prod.key"

[targets.prod.rails]
{rails}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[FlameServer]:
    with stopped(FlameServer(pythons()[-1], key=random_key())) as one:
        yield one


def kernel_with(folder: Path, server: FlameServer, text: str) -> dict[str, str | None]:
    """The environment of a kernel whose target has these rails."""
    (folder / "prod.key").write_text(str(server.key))
    (folder / "targets.toml").write_text('default = "prod"\n' + TABLE.format(location=server.location, rails=text))
    for path in folder.iterdir():
        path.chmod(0o600)
    return {"FLAME_CONFIG": str(folder / "targets.toml")}


def refused(k: Kernel, code: str) -> str:
    error = k.execute(code).error
    assert error is not None, code
    text: str = error["evalue"]
    return text


def test_read_only_and_noted(server: FlameServer, tmp_path: Path) -> None:
    environ = kernel_with(tmp_path, server, 'read_only = true\nlog = "audit.log"\ncolour = "yellow"')
    with remote_flame(env=environ) as k:
        run = ok(k.execute("password = 'hunter2'; x = {'a': 1}; x['a'] = 2\nprint(x)"))
        assert run.stdout.startswith(f"\x1b[43;97;1m prod {server.location} (read only) \x1b[0m\n{{'a': 2}}")
        assert "assigns to os.environ['A']" in refused(k, "import os\nos.environ['A'] = '1'")
        assert "calls shutil.rmtree('/tmp/none')" in refused(k, "import shutil; shutil.rmtree('/tmp/none')")
        assert "a rail, no wall" in refused(k, "!rm none")
        assert "%flame put writes" in refused(k, "%flame put a b")
        assert "%flame push writes" in refused(k, "%flame push x=1")
        log = tmp_path / "audit.log"
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        (one,) = [json.loads(line) for line in log.read_text().splitlines()]
        assert one["target"] == "prod"
        assert one["first"] == "password = '…'; x = {'…': 1}; x['…'] = 2"
        assert "hunter2" not in log.read_text()
        table = ok(k.execute("%flame audit")).stdout
        assert one["hash"] in table
        log.unlink()
        log.mkdir()
        assert "not run: it cannot be noted in" in refused(k, "1")


def test_run_all_is_asked_once(server: FlameServer, tmp_path: Path) -> None:
    with remote_flame(env=kernel_with(tmp_path, server, f'confirm = true\nlog = "{tmp_path}/a"')) as k:
        ok(k.execute("print('alone: nothing is asked')"))
        runs = together(k, "y")
        assert [prompt for run in runs for prompt, _ in run.prompts] == [
            "Run this cell and the 2 sent with it on prod? [y/N] "
        ]
        assert all(run.stdout.endswith(f"{number}\n") for number, run in enumerate(runs))
        runs = together(k, "n")
        assert runs[0].error is not None
        assert "not run: you were asked for a yes" in runs[0].error["evalue"]
        assert all(run.reply is not None and run.reply["status"] != "ok" for run in runs)
        assert not any(run.stdout for run in runs)


def together(k: Kernel, answer: str) -> list[Run]:
    """Three cells that are sent at once, as by Run All; the first question is answered."""
    runs = [k.submit(f"print({number})") for number in range(3)]
    k.wait_for(lambda: runs[0].prompts, "the question")
    k.answer_input(answer)
    return [k.wait(run) for run in runs]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("x = 1\nx += 1\nd = {}\nd['a'] = 1\nfor i in d: pass", ""),
        ("class A:\n    def f(self): self.x = 1", ""),
        ("import app\napp.limit = 3", "assigns to app.limit"),
        ("del app.cache[3]", "deletes app.cache[3]"),
        ("setattr(app, 'x', 1)", "calls setattr(app, 'x', 1)"),
        ("open('a').read()", ""),
        ("open('a', mode='a')", "calls open('a', mode='a')"),
        ("import os; os.kill(1, 9)", "calls os.kill(1, 9)"),
        ("path.write_text('x')", "calls path.write_text('x')"),
        ("%%bash\nls", "is %%bash"),
        ("files = !ls", "runs a command (files = !ls)"),
        ("%timeit f(", ""),
        ("this is no Python", ""),
    ],
)
def test_what_a_cell_plainly_writes(code: str, found: str) -> None:
    assert rails.writes(code) == found


def test_the_table_and_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for table, words in (
        ({"confrim": True}, "unknown setting 'confrim'"),
        ({"confirm": 1}, "confirm in rails of x must be true or false"),
        ({"max_hosts": 0}, "must be 1 or more"),
        ({"colour": "pink"}, "colour in rails of x is one of red"),
        ({"window": "9-17"}, 'is written "09:00-17:00"'),
        (3, "is not a table"),
    ):
        with pytest.raises(TargetError, match=words):
            Rails.of(table, "x", tmp_path)
    night = Rails(window="22:00-06:00")
    assert [night.is_open(time.struct_time((2026, 1, 1, hour, 0, 0, 0, 1, 0))) for hour in (5, 6, 21, 22)] == [
        *(True, False, False, True)
    ]
    with pytest.raises(FlameError, match=r"the rails of prod allow cells at 22:00-06:00 only"):
        rails.refuse(night, "prod", "1", time.struct_time((2026, 1, 1, 12, 0, 0, 0, 1, 0)))
    assert rails.question(Rails(max_hosts=5), "p", 6, 0).startswith("Run this cell on 6 hosts")
    assert rails.question(Rails(max_hosts=5), "p", 5, 9) == ""
    assert rails.question(Rails(confirm=True), "p", 2, 0)
    assert rails.question(Rails(confirm=True), "p", 1, 0) == ""
    # Whoever names the server by its location has the same rails; an option cannot take them away.
    file = tmp_path / "targets.toml"
    file.write_text(
        TABLE.replace('key_file = "prod.key"\n', "").format(location="localhost:9", rails="read_only = true")
    )
    file.chmod(0o600)
    monkeypatch.setenv("FLAME_CONFIG", str(file))
    assert load_target("localhost:9").rails == rails_of("prod") == rails_of("localhost:9") == Rails(read_only=True)
    with pytest.raises(TargetError, match="'rails' is not a setting"):
        load_target("prod", overrides={"rails": Rails()})
