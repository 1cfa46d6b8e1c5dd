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
from flame_kernel.connect.rails_table import COLOURS, Rails, check_rails
from flame_kernel.connect.target import load_target
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
        assert run.stdout.startswith(
            f"\x1b[{COLOURS['yellow']};1m prod {server.location} (read only) \x1b[0m\n{{'a': 2}}"
        )
        assert "assigns to os.environ['A']" in refused(k, "import os\nos.environ['A'] = '1'")
        assert "calls shutil.rmtree('/tmp/none')" in refused(k, "import shutil; shutil.rmtree('/tmp/none')")
        ok(k.execute("x['b'] = 1"))  # a name of an earlier cell
        assert "a rail, no wall" in refused(k, "!rm none")
        assert "%flame put writes" in refused(k, "%flame put a b")
        assert "%flame push writes" in refused(k, "%flame push x=1")
        assert "%flame run writes" in refused(k, "%flame run script.py")
        assert "put writes" not in refused(k, "%flame put -t localhost:9 none b")
        assert "assigns to app.x" in refused(k, "%%flame -t prod*2\napp.x = 1")
        log = tmp_path / "audit.log"
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        one, two = [json.loads(line) for line in log.read_text().splitlines()]
        assert two["first"] == "x[…"
        assert one["target"] == "prod"
        assert one["first"] == "password = …"
        assert "hunter2" not in log.read_text()
        table = ok(k.execute("%flame audit")).stdout
        assert one["hash"] in table
        # What an editor sends is noted, too, and shows no line.
        for hidden in ({"silent": True}, {"store_history": False}):
            assert ok(k.execute("x", **hidden)).stdout == ""
        assert len(log.read_text().splitlines()) == 4
        assert ok(k.execute("", user_expressions={"v": "1"})).stdout == ""
        assert "print" in k.complete("prin")["matches"]
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
        assert "want a yes before this cell, and you did not give it" in runs[0].error["evalue"]
        assert all(run.reply is not None and run.reply["status"] != "ok" for run in runs)
        assert not any(run.stdout for run in runs)


def test_a_group_is_asked(server: FlameServer, tmp_path: Path) -> None:
    with remote_flame(env=kernel_with(tmp_path, server, f'confirm = true\nlog = "{tmp_path}/a"')) as k:
        cell = "%%flame -t prod*2\nprint('there')"
        no = k.execute(cell, answers=("n",))
        assert [prompt for prompt, _ in no.prompts] == ["Run this cell on 2 hosts, prod among them? [y/N] "]
        assert no.error is not None
        assert "want a yes before this cell, and you did not give it" in no.error["evalue"]
        alone = k.execute(cell, allow_stdin=False)
        assert alone.error is not None
        assert "nobody can be asked here" in alone.error["evalue"]
        assert not (tmp_path / "a").exists()
        assert ok(k.execute(cell, answers=("y",))).stdout.startswith(f"\x1b[{COLOURS['red']};1m prod \x1b[0m\n")
        k.execute("%flame connect prod*2")
        assert "  prod  " in k.execute("%flame audit").stdout


def test_the_app_hears_of_it(server: FlameServer, tmp_path: Path) -> None:
    environ = kernel_with(tmp_path, server, f'log = "{tmp_path}/a"') | {"FLAME_PLACE": "process"}
    with remote_flame(env=environ) as k:
        ok(
            k.execute(
                "import logging, queue\nheard = queue.Queue()\nlogger = logging.getLogger('remote_flame')\n"
                "handler = logging.Handler(); handler.emit = lambda record: heard.put(record.getMessage())\n"
                "logger.addHandler(handler); logger.setLevel('INFO')"
            )
        )
        told = ok(
            k.execute(
                "known = heard.get(timeout=30)\nwhile 'known' not in known: known = heard.get(timeout=30)\n"
                "logger.removeHandler(handler); logger.setLevel(0)\nprint(known)"
            )
        ).stdout
        noted = json.loads((tmp_path / "a").read_text().splitlines()[-1])
        assert f"user {noted['user']}, session {noted['session']}, {noted['hash']}: known = heard.get" in told


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
        ("def f(): pass\nf.x = 1", ""),
        ("\n%%bash\nls", "is %%bash"),
    ],
)
def test_what_a_cell_plainly_writes(code: str, found: str) -> None:
    assert rails.writes(code) == found


@pytest.mark.parametrize(
    ("code", "noted"),
    [
        ("\nkey = 'it\\'s s3cret'", "key = …"),
        ("x = 1  # don't tell: s3cret", "x = 1 …"),
        ('f("""s3cret\nmore""")', "f(…"),
        ("!curl -u s3cret", "! …"),
        ("!TOKEN=s3cret run", "! …"),
        ("%env TOKEN=s3cret", "%env …"),
        ("found = !grep s3cret", "found …"),
        ("%%bash\ns3cret", "%%bash"),
        ("total\x1b[31m + 1", "total + 1"),
    ],
)
def test_a_secret_is_not_noted(code: str, noted: str) -> None:
    entry = rails.entry("prod", "s", code)
    assert entry["first"] == noted
    assert "s3cret" not in str(entry)


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
            check_rails(table, "x", tmp_path)
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
    assert load_target("localhost:9").rails == load_target("prod").rails == Rails(read_only=True)
    names = ("prod", "localhost:9", "localhost:8", "nobody")
    assert rails.of_targets(names) == dict.fromkeys(names[:2], Rails(read_only=True))
    with pytest.raises(TargetError, match=r"'rails' stands in the rails of a target in .*; no option changes rails"):
        load_target("prod", overrides={"rails": Rails()})


@pytest.mark.parametrize("colour", COLOURS)
def test_the_line_can_be_read(colour: str) -> None:
    """The contrast of text and background is what WCAG 2 asks of text, 4.5, whatever the theme."""
    _, _, background, _, _, text = map(int, COLOURS[colour].split(";"))

    def luminance(number: int) -> float:
        levels = [(0, 95, 135, 175, 215, 255)[(number - 16) // base % 6] / 255 for base in (36, 6, 1)]
        linear = [level / 12.92 if level <= 0.03928 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(background), luminance(text)))
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
