"""A restart of the kernel: the process that comes goes back to where the one before it ran its cells, or says so."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from farside import FlameServer, random_key
from jupyter_core.paths import jupyter_runtime_dir
from kernels import Run, remote_flame
from mini import plain
from places import ok

from flame_kernel.kernel.restart import FOLDER, Connection, Memory

Start = Callable[..., FlameServer]

WHERE = "import os\nprint(os.getppid())"


def remembered() -> list[Path]:
    """The files that hold connections."""
    return sorted((Path(jupyter_runtime_dir()) / FOLDER).glob("*"))


def server_of(run: Run) -> int:
    """The process whose child has run a cell with ``WHERE``."""
    above = psutil.Process(int(ok(run).stdout.splitlines()[-1]))
    return above.ppid() if "child.main" in " ".join(above.cmdline()) else above.pid  # it may be the fork server


def error_of(run: Run) -> str:
    assert run.error is not None, run
    assert run.stdout == "", run
    return str(run.error["evalue"])


@pytest.mark.parametrize("killed", [False, True], ids=["button", "crash"])
def test_cells_run_where_they_ran_before(flame_server: Start, killed: bool) -> None:
    """With a line that says so, once; by fresh names; and by a second restart too."""
    server = flame_server()
    with remote_flame() as k:
        ok(k.execute(f"%flame connect {server.location}"))
        ok(k.execute("x = 1"))
        for _ in range(2):
            k.restart(now=killed)
            first, second = k.execute(WHERE), k.execute(WHERE)
            assert server_of(first) == server_of(second) == server.pid
            assert first.stdout.startswith("[restarted; back where cells ran before]\ncells run at ")
            assert len(second.stdout.splitlines()) == 1
            assert k.execute("x").error is not None
    assert remembered() == []


def test_options_come_back_as_they_were_given(
    flame_server: Start, key_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """And nothing else: the file is its owner's alone, holds no key, and goes with the kernel."""
    key = random_key()
    server = flame_server(key=key)
    file = key_file(key)
    line = f"%flame connect {server.location} --place process --key-file {file} --trust --session kept"
    with remote_flame() as k:
        ok(k.execute(line))
        (path,) = remembered()
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert key not in path.read_text()
        k.restart()
        back = k.execute("import os\nprint(os.getpid())")
        assert int(ok(back).stdout.splitlines()[-1]) == server.pid
        assert "session kept" in back.stdout
        # A pickle is what only trust lets through.
        ok(k.execute("%%local\nimport fractions\nf = fractions.Fraction(1, 3)"))
        ok(k.execute("%flame push f"))
        assert k.execute("f").result == "Fraction(1, 3)"
        # Where one was asked for by nobody, none comes back.
        ok(k.execute("%flame connect"))
        assert remembered() == []
        k.restart()
        assert server_of(k.execute(WHERE)) != server.pid
        ok(k.execute(line))
    assert remembered() == []


def test_a_typed_key_is_asked_for_again(flame_server: Start) -> None:
    key = random_key()
    server = flame_server(key=key)
    with remote_flame() as k:
        ok(k.execute(f"%flame connect {server.location}", answers=(key,)))
        k.restart()
        assert server_of(k.execute(WHERE, answers=(key,))) == server.pid
        k.restart()
        unasked = error_of(k.execute(WHERE, allow_stdin=False))
        assert "this cell has not run" in unasked
        assert "a key" in unasked


def test_where_there_is_no_way_back_the_first_cell_does_not_run(flame_server: Start, tmp_path: Path) -> None:
    server = flame_server()
    mark = tmp_path / "mark"
    with remote_flame() as k:
        ok(k.execute(f"%flame connect {server.location} --shell mini"))
        server.stop()
        for _ in range(2):  # until a cell has run elsewhere, a restart tries again
            k.restart()
            # What an editor sends by itself is refused too, and uses up nothing.
            k.execute(f"open({str(mark)!r}, 'w')", silent=True)
            refused = k.execute(f"open({str(mark)!r}, 'w')")
            words = error_of(refused)
            assert words.startswith(f"this cell has not run. Before the restart cells ran at {server.location}, and")
            assert "connection refused" in words
            assert "The next cell runs on this machine, on a server of the kernel's own." in words
            assert words.endswith(f"To go back: %flame connect {server.location} --shell mini")
            assert not mark.exists()
        assert remembered()
        assert server_of(k.execute(WHERE)) != server.pid
        assert remembered() == []
        k.restart()
        assert len(ok(k.execute(WHERE)).stdout.splitlines()) == 1


def test_a_connect_line_is_enough_where_there_is_no_way_back(flame_server: Start) -> None:
    gone, server = flame_server(), flame_server()
    with remote_flame() as k:
        ok(k.execute(f"%flame connect {gone.location}"))
        gone.stop()
        k.restart()
        assert "not connected to" in k.execute("%flame status").stdout
        assert server_of(k.execute(f"%flame connect {server.location}\n{WHERE}")) == server.pid


def test_only_what_this_kernel_has_written_is_believed(tmp_path: Path) -> None:
    file = tmp_path / "kernel.json"
    file.touch()
    memory = Memory(str(file), b"key")
    one = Connection("lab:9999", {"place": "child", "trust": True, "timeout": 2.5, "tls_name": "a b"}, "lab")
    assert str(one) == '%flame connect lab:9999 --place child --trust --timeout 2.5 --tls-name "a b"'
    try:
        memory.write(one)
        assert memory.read() == one
        assert Memory(str(file), b"another key").read() is None
        assert Memory("", b"key").read() is None
        (path,) = remembered()
        good = json.loads(path.read_text())
        other = good["connection"].replace("lab:9999", "evil:999")
        for bad in (json.dumps({**good, "connection": other}), "{", "[]", '{"seal": 1}', "[" * 100_000):
            memory.write(one)
            path.write_text(bad)
            assert memory.read() is None
        memory.write(one)
        # What a kernel has left that was killed for good goes with the next one that begins.
        os.unlink(file)
        assert Memory(str(tmp_path / "other.json"), b"key").read() is None
        assert remembered() == []
    finally:
        memory.forget()


# -- attach looks further ------------------------------------------------------------------------------------------


def test_attach_searches_where_the_kernel_was_and_at_all_targets(flame_server: Start, tmp_path: Path) -> None:
    first, second, dead = flame_server(), flame_server(), flame_server()
    targets = tmp_path / "targets.toml"
    targets.write_text(
        f'[targets.lab]\nlocation = "{second.location}"\n\n[targets.dead]\nlocation = "{dead.location}"\n'
    )
    targets.chmod(0o600)
    dead.stop()
    environ: dict[str, str | None] = {"FLAME_CONFIG": str(targets)}
    with remote_flame(env=environ) as k, remote_flame() as other:
        ok(other.execute(f"%flame connect {second.location} --session there"))
        ok(other.execute("y = 5"))
        ok(other.execute("%flame detach"))
        ok(k.execute(f"%flame connect {first.location} --session here"))
        ok(k.execute("x = 3"))
        ok(k.execute("%flame connect"))  # the kernel's own server
        ok(k.execute("%flame attach here"))
        assert k.execute("x").result == "3"
        ok(k.execute("%flame attach there"))
        assert k.execute("y").result == "5"
        assert f"nor is it at {first.location}" in error_of(k.execute("%flame attach nowhere"))
        k.restart(now=True)
        back = k.execute("y")
        assert back.result == "5"
        assert "session there" in back.stdout
        assert "dead was not asked: " in error_of(k.execute("%flame attach nowhere"))
        # The same name on both servers: which one is meant?
        ok(k.execute(f"%flame connect {first.location} --session there"))
        ok(k.execute("%flame connect"))
        double = error_of(k.execute("%flame attach there"))
        assert "several servers have a session there" in double
        ok(k.execute(f"%flame connect {first.location}"))
        ok(k.execute("%flame sessions --kill here"))
        ok(k.execute("%flame sessions --kill there"))
        ok(k.execute("%flame sessions --kill there --target lab"))


# -- a page that is opened again -------------------------------------------------------------------------------------


def test_a_page_that_is_opened_again_hears_of_output(flame_server: Start, tmp_path: Path) -> None:
    """While the cell of the page before it still runs; and a replay that is sent first answers meanwhile."""
    go = tmp_path / "go"
    with remote_flame() as k:
        ok(k.execute("import os, time"))
        running = k.submit(f"print('one', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)")
        k.wait_for_output(running, "one")
        k.client.session.session = "another-" + k.client.session.session
        replayed = ok(k.execute("%flame replay --missed"))
        assert replayed.stdout.startswith("one\n---")
        assert not running.done
        k.client.session.session = "a-third-" + k.client.session.session
        waiting = k.submit("print('mine')")
        k.wait_for_output(waiting, "%flame replay --missed")
        assert not running.done
        go.touch()
        k.wait(running)
        k.wait(waiting)
        lines = plain(waiting.stdout).splitlines()
        assert lines == [
            "[1 cell was not finished when this notebook was last open; show their output: %flame replay --missed]",
            "mine",
        ]
        assert ok(k.execute("print('next')")).stdout == "next\n"


def test_nothing_is_said_of_cells_that_ended_in_time(flame_server: Start) -> None:
    with remote_flame() as k:
        ok(k.execute("connected = True"))
        ok(k.execute("print('one')"))
        k.client.session.session = "another-" + k.client.session.session  # a program's next client
        assert ok(k.execute("print('two')")).stdout == "two\n"
        ok(k.execute("import time; time.sleep(3)"))
        k.kernel_info()
        k.client.session.session = "a-third-" + k.client.session.session
        assert ok(k.execute("print('three')")).stdout == "three\n"


@pytest.mark.parametrize("killed", [False, True], ids=["button", "crash"])
def test_after_detach(flame_server: Start, killed: bool) -> None:
    """Cells go back to the server, in a session of their own; the one that was left goes on, and can be taken up."""
    server = flame_server()
    with remote_flame() as k:
        ok(k.execute(f"%flame connect {server.location}"))
        ok(k.execute("x = 5"))
        name = ok(k.execute("%flame detach")).stdout.split()[-1]
        k.restart(now=killed)
        first = k.execute(WHERE)
        assert server_of(first) == server.pid
        assert first.stdout.startswith("[restarted; back where cells ran before]\n")
        assert k.execute("x").error is not None
        ok(k.execute(f"%flame attach {name}"))
        assert k.execute("x").result == "5"
