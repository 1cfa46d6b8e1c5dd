"""``%flame connect`` and what becomes of connections: names, keys, links that break, servers that go."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from farside import FlameServer, LiveApp, wait_until
from flakylink import FlakyLink
from notebook_shell import Shell, ipython, is_one_sentence

KEY = "the-key-of-the-server-0123456789"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """An IPython that is not connected."""
    with ipython(tmp_path) as shell:
        yield shell


def test_several_connections_one_of_them_current(
    shell: Shell, server: FlameServer, live_app: Callable[..., LiveApp]
) -> None:
    app = live_app()
    assert "pi: cells run at" in shell.ok(f"%flame connect {server.location} --as pi").out
    assert "inside the server's own process" in shell.ok(f"%flame connect {app.location} --as app").out
    assert shell.ok("%flame eval __import__('os').getpid()").value == app.pid
    shell.ok("%%flame -t pi\nwhere = 'pi'")
    shell.ok("%%flame -t app\nwhere = 'app'")
    assert shell.ok("%flame eval -t pi where").value == "pi"
    assert shell.ok(f"%flame eval --target={app.location} where").value == "app"
    shell.ok("%flame use pi")
    assert shell.ok("%flame eval where").value == "pi"
    assert shell.ok("pi['where'], app['where']").value == ("pi", "app")
    status = shell.ok("%flame").out
    assert status.splitlines()[0].startswith("* pi: ")
    assert status.splitlines()[2].startswith("  app: ")
    assert max(map(len, status.splitlines())) <= 100
    own = shell["pi"].session.session_id
    is_one_sentence(shell.run(f"%flame sessions -t pi --kill {own}"), "%flame disconnect")
    is_one_sentence(shell.run("%flame sessions --kill nobodys"), "no session nobodys there")
    shell.ok(f"%flame connect {server.location} --as other --session another-one")
    assert f"{own} (this one)" in shell.ok("%flame sessions -t pi").out
    assert "ended session another-one" in shell.ok("%flame sessions -t pi --kill another-one").out
    assert "another-one" not in shell.ok("%flame sessions -t pi").out
    shell.ok("%flame disconnect other")
    shell.ok("%flame disconnect pi")
    assert shell.ok("%flame eval where").value == "app"
    shell.ok("%flame disconnect --all")
    is_one_sentence(shell.run("%flame eval where"), "not connected", "%flame connect")


def test_to_connect_again_keeps_what_is_there(shell: Shell, server: FlameServer) -> None:
    shell.ok(f"%flame connect {server.location} --as pi")
    shell.ok("%flame push x=5")
    assert "connected already" in shell.ok(f"%flame connect {server.location} --as pi").out
    assert "connected already" in shell.ok("%flame connect pi").out
    assert shell.ok("%flame eval x").value == 5
    assert shell.run("%flame connect localhost:1 --as pi").error is not None
    assert shell.ok("%flame eval x").value == 5
    shell.ok(f"%flame connect {server.location} --as pi --session another")
    is_gone = shell.run("%flame eval x")
    assert isinstance(is_gone.error, NameError)


@pytest.mark.parametrize("variable", ["name", "word", "line", "rest", "self", "other"])
def test_variables_in_a_line_are_those_of_the_notebook(variable: str, shell: Shell, server: FlameServer) -> None:
    shell[variable] = "pi"
    shell.ok(f"%flame connect {server.location} --as {{{variable}}}")
    assert f"* pi: cells run at {server.location}" in shell.ok("%flame status").out
    shell.ok(f"%flame disconnect ${variable}")


def test_a_server_of_its_own(shell: Shell) -> None:
    shell.ok("%flame connect")
    assert shell.ok("%flame eval 6 * 7").value == 42
    assert "local: " in shell.ok("%flame status").out


def test_what_is_gone_is_said_and_made_again(shell: Shell, flame_server: Callable[..., FlameServer]) -> None:
    server = flame_server()
    shell.ok(f"%flame connect {server.location} --as pi")
    ran = shell.run("%%flame\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    is_one_sentence(ran, "session", "variables are lost")
    job = shell.ok("%%flame --bg\nimport time\nwhile True: time.sleep(0.01)").value
    shell.run("%flame exec import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert job.wait(20)
    assert job.state == "lost"
    assert "lost" in shell.ok("%flame jobs").out
    shell.ok("%flame connect pi")
    assert shell.ok("%flame eval 3").value == 3
    server.stop()
    is_one_sentence(shell.run("%%flame\nprint('never')"), "is gone: the server ended", "%flame connect")
    is_one_sentence(shell.run("%flame eval 3"), "is gone: the server ended", "%flame connect pi")
    assert "the server ended" in shell.ok("%flame status").out
    shell.ok("%flame disconnect")


def test_the_link_breaks_and_comes_back(shell: Shell, server: FlameServer, tmp_path: Path) -> None:
    with FlakyLink(server.location) as link:
        shell.ok(f"%flame connect {link.location} --as pi")

        def come_back() -> None:
            (tmp_path / "go on").touch()
            link.up()

        job = shell.ok(
            "%%flame --bg\nimport os, time\nprint('begun')\n"
            f"while not os.path.exists({str(tmp_path / 'go on')!r}): time.sleep(0.01)\nprint('done')"
        ).value
        wait_until(lambda: job.output == "begun\n", "the job's first line")
        link.down()
        watching = shell.when_seen("lost", come_back)
        ran = shell.ok("%%flame\nprint('printed once')")
        watching.join()
        assert ran.out.count("printed once") == 1
        assert "the link is back" in ran.err
        assert job.wait(20)
        assert job.output == "begun\ndone\n"
        link.down()
        watching = shell.when_seen("lost", shell.ctrl_c)
        ran = shell.run("%%flame\nprint('later')")
        watching.join()
        assert ran.error is not None
        assert ran.seconds < 20
        assert "flame_kernel" not in ran.text
        link.up()
        assert shell.ok("%flame eval 3").value == 3
        shell.ok("%flame disconnect")


def test_a_key_is_asked_for(shell: Shell, flame_server: Callable[..., FlameServer], monkeypatch: Any) -> None:
    server = flame_server(key=KEY)
    asked: list[str] = []
    answers = iter(["a wrong one, 16 bytes and more", KEY, ""])

    def typed(prompt: str = "") -> str:
        asked.append(prompt)
        return next(answers)

    monkeypatch.setattr(getpass, "getpass", typed)
    ran = shell.ok(f"%flame connect {server.location} --as pi")
    assert len(asked) == 2
    assert asked[0] == f"Key of the flame server at {server.location}: "
    assert asked[1] == f"Wrong key. {asked[0]}"
    assert shell.ok("%flame eval 3").value == 3
    shell.ok("%flame disconnect")
    is_one_sentence(shell.run(f"%flame connect {server.location}"), "needs a key")
    assert KEY not in ran.text


def test_a_key_from_a_file(
    shell: Shell, flame_server: Callable[..., FlameServer], key_file: Callable[[str], Path]
) -> None:
    server = flame_server(key=KEY)
    path = key_file(KEY)
    shell.ok(f"%flame connect {server.location} --key-file {path}")
    shell["file"] = str(path)
    shell.ok(f"%flame connect {server.location} --as again --key-file {{file}}")
    path.chmod(0o644)
    is_one_sentence(shell.run(f"%flame connect {server.location} --as third --key-file {path}"), "chmod 600")
    shell.ok("%flame disconnect --all")


def test_a_key_in_the_line_leaves_no_trace(
    shell: Shell, flame_server: Callable[..., FlameServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = flame_server(key=KEY)
    ran = shell.run(f"%flame connect {server.location} --as pi --key {KEY}")
    assert "sees the key in this cell" in ran.err
    assert "contains the key itself" in ran.text
    monkeypatch.setenv("LAB_KEY", KEY)
    shell.ok(f"%flame connect {server.location} --as pi --key env:LAB_KEY")
    assert "--key env:LAB_KEY" in shell.ip.history_manager.input_hist_raw[-1]
    assert shell.ok("%flame eval 3").value == 3
    failed = shell.run(f"%flame connect {server.location} --key={KEY}0 --as other")
    unknown = shell.run(f"%flame connect {server.location} --key '{KEY}' --bogus")
    everything = [
        ran.text,
        failed.text,
        unknown.text,
        repr(shell["pi"]),
        repr(shell.names),
    ]
    manager = shell.ip.history_manager
    everything += [*manager.input_hist_raw, *manager.input_hist_parsed, manager._i, manager._i00]
    manager.writeout_cache()
    everything += [raw for _, _, raw in manager.get_range(raw=True)]
    for path in tmp_path.rglob("history*"):
        everything.append(path.read_bytes().decode("latin-1"))
    assert len(everything) > 12
    assert not [text for text in everything if KEY in text]
    shell.ok("%flame disconnect")
