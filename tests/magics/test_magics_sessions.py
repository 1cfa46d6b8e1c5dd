"""Sessions that live on, for the magics: taken up, watched, left, handed over, shown again; paths of other servers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from farside import FlameServer, wait_until
from notebook_shell import Shell, ipython, is_one_sentence

import flame
from flame_kernel.errors import FlameError
from flame_kernel.session.agent_client import AgentClient


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """An IPython that is not connected."""
    with ipython(tmp_path) as shell:
        yield shell


def test_a_session_is_left_and_taken_up_again(shell: Shell, server: FlameServer, tmp_path: Path) -> None:
    go = tmp_path / "go"
    shell.ok(f"%flame connect {server.location} --as pi --session kept")
    shell.ok("%flame exec kept = 5")
    left = shell.ok("%flame detach").out
    assert left == f"detached from kept at {server.location}; it keeps running. Come back: %flame attach kept\n"
    is_one_sentence(shell.run("%flame eval kept"), "not connected. Try: %flame connect")
    shell.ok(f"%flame connect {server.location} --as other")
    assert shell.complete("%flame attach ke") == ["%flame attach kept"]
    is_one_sentence(shell.run("%flame attach nothing"), "no session")
    assert "kept: the session at " in shell.ok("%flame attach kept").out
    assert shell.ok("%flame eval kept").value == 5
    assert shell.ok("%flame status").out.splitlines()[-2].startswith("* kept: ")
    # One with a cell that runs: its output goes on here, its value too, and its error is raised.
    shell.ok("%flame detach")
    with flame.connect(server.location, session="kept") as first:
        first.cell(
            "import os, time\nprint('one')\n"
            f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('two')\n1/0",
            lambda event: None,
        )
        first.detach()
    following = shell.when_seen("the current connection", go.touch)
    ran = shell.run("%flame attach kept")
    following.join()
    assert isinstance(ran.error, ZeroDivisionError)
    assert "two\n" in ran.out
    assert "flame_kernel" not in ran.text
    shell.ok("%flame disconnect --all")


def test_output_once_more(shell: Shell, server: FlameServer) -> None:
    shell.ok(f"%flame connect {server.location} --as pi")
    is_one_sentence(shell.run("%flame replay"), "no cell has run")
    shell.ok("%%flame\nprint('first'); 6 * 7")
    shell.run("%%flame\nprint('second')\n1 / 0")
    again = shell.ok("%flame replay")
    assert again.out.startswith("second\n")
    assert "ZeroDivisionError" in again.text
    assert "first\n" in shell.ok("%flame replay 1").out
    everything = shell.ok("%flame replay --all").out
    assert everything.index("--- [1] print('first')") < everything.index("--- [2] print('second')")
    is_one_sentence(shell.run("%flame replay 77"), "cell 77 is not kept; there are 1, 2")
    is_one_sentence(shell.run("%flame replay 1 --all"), "exclude each other")
    is_one_sentence(shell.run("%flame replay --missed"), "is for the Remote Flame kernel")
    shell.ok("%flame disconnect")


def test_two_clients_of_one_session(shell: Shell, server: FlameServer) -> None:
    """The second one is refused, watches, asks, is refused, asks again and has it."""
    shell.ok(f"%flame connect {server.location} --as pi")
    with flame.connect(server.location, session="shared") as owner:
        refused = shell.run("%flame attach shared")
        is_one_sentence(refused, "in use by", "--ask, --force or --watch")

        def speak() -> None:
            owner.cell("print('look'); 6 * 7", lambda event: None).result(20)

        said = shell.when_seen("watching session shared", speak)
        stopping = shell.when_seen("42", shell.ctrl_c)
        watched = shell.ok("%flame attach shared --watch").out
        said.join()
        stopping.join()
        assert "look\n" in watched
        assert watched.endswith("no longer watching shared\n")

        asked: list[str] = []
        answers = iter([False, True])

        def answer(ask_id: str, client: str) -> None:
            asked.append(client)
            owner.session.ask("consent", id=ask_id, allow=next(answers))

        owner.on_takeover = answer
        is_one_sentence_of(shell.run("%flame attach shared --ask").text, "keeps the session shared")
        assert "shared: the session at " in shell.ok("%flame attach shared --ask").out
        assert len(asked) == 2
        with pytest.raises(FlameError, match="another client"):
            owner.evaluate("1")
    shell.ok("%flame disconnect --all")


def is_one_sentence_of(text: str, word: str) -> None:
    assert [line for line in text.splitlines() if "FlameError" in line and word in line], text
    assert "Traceback" not in text


@pytest.mark.parametrize(("word", "state"), [("allow", "granted"), ("refuse", "refused")])
def test_somebody_asks_for_our_session(word: str, state: str, shell: Shell, server: FlameServer) -> None:
    shell.ok(f"%flame connect {server.location} --as pi --session wanted")
    is_one_sentence(shell.run(f"%flame {word}"), "nobody is asking")
    session, cells = shell["pi"].session, shell.ip.magics_manager.registry["FlameMagics"].cells
    with contextlib.closing(AgentClient(session.target)) as client:
        asked = client.ask("ask", session="wanted", client="somebody", client_id="another")["asked"]
        wait_until(lambda: cells.takeovers.get(session), "the request")
        assert shell.ok(f"%flame {word}").out.startswith("somebody ")
        assert client.ask("asked", session="wanted", id=asked)["state"] == state
    shell.run("%flame disconnect --all")


def test_a_path_of_another_server(
    shell: Shell,
    server: FlameServer,
    flame_server: Callable[..., FlameServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab, far = flame_server(), server.cwd / "far"
    (tmp_path / "targets.toml").write_text(f'[targets.lab]\nlocation = "{lab.location}"\n')
    monkeypatch.setenv("FLAME_CONFIG", str(tmp_path / "targets.toml"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "near.txt").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner.txt").write_text("inner")
    shell.ok(f"%flame connect {server.location} --as pi")
    shell.ok(f"%flame put near.txt pi:{far}\n%flame put near.txt lab:there.txt")
    assert (far.read_text(), (lab.cwd / "there.txt").read_text()) == ("text", "text")
    shell.ok("%flame get lab:there.txt back.txt\n%flame get :far")
    assert ((tmp_path / "back.txt").read_text(), (tmp_path / "far").read_text()) == ("text", "text")
    assert "1 file" in shell.ok("%flame sync folder/ lab:copy").out
    assert "would do: 0 files" in shell.ok("%flame sync lab:copy/ folder --dry-run").out
    for line in ("%flame put near.txt typo:x", "%flame get typo:x .", "%flame sync folder typo:x"):
        is_one_sentence(shell.run(line), "there is no target 'typo'", "./typo:x")
    assert not list(server.cwd.glob("*:*")) + list(lab.cwd.glob("*:*"))
    assert shell.complete("%flame put near.txt la") == ["%flame put near.txt lab:"]
    assert shell.complete("%flame put near.txt pi:fa") == ["%flame put near.txt pi:far"]
    assert shell.ok("%flame status").out.count("* ") == 1  # nothing else is connected by it
    assert "no sessions" not in shell.ok("%flame sessions").out
    far.unlink()
    shell.ok("%flame disconnect")
