"""``%flame`` lines in cells of the kernel: what crosses to the far side and back, Tab and Shift-Tab, and their turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from farside import FlameServer
from kernels import Kernel, Run, remote_flame
from mini import plain
from places import ok

Start = Callable[..., FlameServer]


def wrong(run: Run) -> str:
    """The sentence of a cell that fails."""
    assert run.error is not None, run
    assert len(run.error["traceback"]) == 1
    return str(run.error["evalue"])


def target_file(folder: Path, **locations: str) -> dict[str, str | None]:
    """The environment of a kernel that knows targets of these names."""
    path = folder / "targets.toml"
    path.write_text("".join(f'[targets.{name}]\nlocation = "{where}"\n' for name, where in locations.items()))
    return {"FLAME_CONFIG": str(path)}


# -- what crosses ----------------------------------------------------------------------------------------------------


def test_what_crosses_to_the_far_side_and_back(tmp_path: Path) -> None:
    """Files, variables of ``%%local`` cells, modules and scripts of this machine; and what cannot be."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "pkg").mkdir(parents=True)
    there.mkdir()
    (here / "a b.txt").write_text("text")
    (here / "pkg" / "__init__.py").write_text("answer = 42\n")
    (here / "mod.py").write_text("answer = 6\n")
    (here / "script.py").write_text("import sys\nprint(__name__, sys.argv)\nif len(sys.argv) > 2: 1 / 0\n")
    with remote_flame(cwd=here) as k:
        ok(k.execute(f"import os\nos.chdir({str(there)!r})"))
        assert ok(k.execute("%flame put 'a b.txt' new.txt")).stdout.startswith("1 file, 4 bytes in ")
        assert (there / "new.txt").read_text() == "text"
        ok(k.execute("%flame put mod.py :sub.py\n%flame get new.txt back.txt"))
        assert ((there / "sub.py").exists(), (here / "back.txt").read_text()) == (True, "text")
        ok(k.execute("%flame get new.txt"))
        assert (here / "new.txt").read_text() == "text"
        dry = ok(k.execute("%flame sync pkg/ :copy --dry-run"))
        assert "copy   __init__.py\nwould do: 1 file" in dry.stdout
        assert not (there / "copy").exists()
        ok(k.execute("%flame sync pkg/ :copy\n%flame sync :copy/ again"))
        assert (here / "again" / "__init__.py").exists()

        assert "just" not in wrong(k.execute("%flame push a"))
        assert "no %%local cell has run" in wrong(k.execute("%flame push a"))
        ok(k.execute("%%local\na = {'k': (1, 2.5)}"))
        ok(k.execute("%flame push a b=len(a) + 1"))
        assert k.execute("a, b").result == "({'k': (1, 2.5)}, 2)"
        ok(k.execute("c = [a]"))
        ok(k.execute("%flame pull c"))
        assert k.execute("%%local\nc").result == "[{'k': (1, 2.5)}]"
        assert "no variable 'nothing'" in wrong(k.execute("%flame pull nothing"))
        assert "'1x' is not a variable name" in wrong(k.execute("%flame push 1x"))

        assert ok(k.execute("%flame sendmodule pkg/\nimport pkg; pkg.answer")).result == "42"
        assert ok(k.execute("%flame sendmodule mod.py\nimport mod; mod.answer")).result == "6"
        assert "answer = 6" in ok(k.execute("%flame getmodule mod")).stdout
        ok(k.execute("%flame getmodule mod got.py"))
        assert (here / "got.py").read_text() == "answer = 6\n"
        assert "no module nosuch here" in wrong(k.execute("%flame sendmodule nosuch"))

        ran = ok(k.execute("%flame run script.py x\nafter = 1"))
        assert ran.stdout == "__main__ ['script.py', 'x']\n"
        failed = k.execute("%flame run script.py x y")
        assert failed.error is not None
        assert failed.error["ename"] == "ZeroDivisionError"
        assert "if len(sys.argv) > 2: 1 / 0" in plain(failed.traceback)
        assert "exec(compile" not in plain(failed.traceback)
        for line, said in (
            ("%flame run f(1)", "write f(1) as it is"),
            ("%flame run nosuch.py", "cannot read nosuch.py"),
            ("%flame run script.py\n%flame status", "must be the last %flame line"),
            ("%flame put nosuch x", "'nosuch' not found here"),
            ("%flame put mod.py typo:x", "there is no target 'typo'"),
            ("%flame get typo:x .", "there is no target 'typo'"),
            ("%flame get :new.txt typo:x", "there is no target 'typo'"),
            ("%flame put :new.txt x", "put copies from this machine"),
        ):
            assert said in wrong(k.execute(line)), line
        assert k.execute("after").result == "1"
        assert not list(there.glob("*:*"))


def test_a_path_of_another_server(flame_server: Start, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("text")
    lab = flame_server()
    with remote_flame(env=target_file(tmp_path, lab=lab.location), cwd=tmp_path) as k:
        ok(k.execute("%flame put x lab:y"))
        assert (lab.cwd / "y").read_text() == "text"
        ok(k.execute("%flame get lab:y back\n%flame put -t lab x z"))
        assert ((tmp_path / "back").read_text(), (lab.cwd / "z").exists()) == ("text", True)
        assert "two servers" in wrong(k.execute("%flame put -t other x lab:y"))
        ok(k.execute("1"))
        assert ok(k.execute("%flame sessions -t lab")).stdout == "no sessions on this server\n"
        # Its own server is meant by its name too, once cells run there.
        ok(k.execute("%flame connect lab\nimport os\nos.mkdir('down'); os.chdir('down')"))
        ok(k.execute("%flame put x lab:here"))
        assert (lab.cwd / "down" / "here").exists()
        for name in ("y", "z", "down/here"):
            (lab.cwd / name).unlink()
        (lab.cwd / "down").rmdir()


def test_a_stop_ends_a_copy(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        for _ in range(32):
            file.write(bytes(range(256)) * 4096 * 16)
    with remote_flame(cwd=tmp_path) as k:
        ok(k.execute("1"))
        copying = k.submit(f"%flame put large {tmp_path}/there")
        k.wait_for(lambda: list(tmp_path.glob(".flame-*.part")) or copying.done, "the beginning of the copy")
        k.interrupt()
        k.wait(copying)
        assert copying.error is not None
        assert copying.error["ename"] == "KeyboardInterrupt"
        assert k.execute("6 * 7").result == "42"
        assert not (tmp_path / "there").exists()
        # What is there of it is gone on with.
        ok(k.execute(f"%flame put large {tmp_path}/there"))
        assert (tmp_path / "there").stat().st_size == (tmp_path / "large").stat().st_size


# -- Tab and Shift-Tab -----------------------------------------------------------------------------------------------


def offered(k: Kernel, text: str) -> list[str]:
    """The lines that Tab makes of ``text``."""
    reply = k.complete(text)
    assert reply["status"] == "ok"
    types = reply["metadata"].get("_jupyter_types_experimental", [])
    assert {entry["text"] for entry in types} == set(reply["matches"])
    return [text[: reply["cursor_start"]] + match + text[reply["cursor_end"] :] for match in reply["matches"]]


def check_tab(k: Kernel, session: str) -> None:
    assert offered(k, "%fl")[0] == "%flame"
    assert offered(k, "%%lo")[0] == "%%local"
    assert offered(k, "x = 1\n%flame whe") == ["x = 1\n%flame where"]
    assert offered(k, "%flame conn") == ["%flame connect"]
    assert "%flame connect --key-file" in offered(k, "%flame connect --")
    assert offered(k, "%flame connect --place ch") == ["%flame connect --place child"]
    assert offered(k, "%flame connect la") == ["%flame connect lab"]
    assert offered(k, "%flame help con") == ["%flame help connect"]
    assert offered(k, "%flame put near") == ["%flame put near.txt", "%flame put nearby/"]
    assert offered(k, "%flame put near.txt far") == ["%flame put near.txt far.txt", "%flame put near.txt faraway/"]
    assert offered(k, "%flame get faraway/d") == ["%flame get faraway/deep.txt"]
    assert offered(k, "%flame put near.txt la") == ["%flame put near.txt lab:"]
    assert offered(k, "%flame watch far_na") == ["%flame watch far_name"]
    assert offered(k, "%flame watch len(far_name.up") == ["%flame watch len(far_name.upper"]
    assert offered(k, "%flame pull far_na") == ["%flame pull far_name"]
    assert offered(k, f"%flame attach {session[:3]}") == [f"%flame attach {session}"]
    assert offered(k, "%flame getmodule textwr") == ["%flame getmodule textwrap"]
    assert offered(k, "%flame eval far_na") == []


def check_shift_tab(k: Kernel) -> None:
    def page(text: str, at: int) -> str:
        reply = k.inspect(text, at)
        assert (reply["status"], reply["found"]) == ("ok", True), text
        return str(reply["data"]["text/plain"])

    assert "%flame connect  " in page("%flame connect x", 3)
    assert page("%flame connect x", 10).startswith("%flame connect [WHERE] [options]\n")
    assert page("y = 1\n  %flame where --all", 25).startswith("%flame where [options]\n")
    assert "first line of a cell" in page("%%local\n1", 4)
    assert "write it as it is" in page("%flame eval x", 9)
    assert page("%flame conect", 9) == "there is no %flame conect; did you mean %flame connect?"


def test_tab_and_shift_tab(tmp_path: Path) -> None:
    """In lines of ours as in Python; while a cell runs too."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "nearby").mkdir(parents=True)
    (here / "near.txt").touch()
    (there / "faraway").mkdir(parents=True)
    (there / "far.txt").touch()
    (there / "faraway" / "deep.txt").touch()
    with remote_flame(env=target_file(tmp_path, lab="localhost:1"), cwd=here) as k:
        ok(k.execute(f"import os\nos.chdir({str(there)!r})\nfar_name = 'text'"))
        session = ok(k.execute("%flame status")).stdout.partition("session ")[2].partition(";")[0]
        check_tab(k, session)
        check_shift_tab(k)
        ok(k.execute("%%local\nlocal_name = 'here'"))
        assert offered(k, "%flame push local_na") == ["%flame push local_name"]
        assert offered(k, "%%local\nlocal_name.up") in (["%%local\nlocal_name.upper"], ["%%local\nlocal_name.upper()"])
        busy = k.submit("import time\nprint('go', flush=True)\nwhile True: time.sleep(0.01)")
        k.wait_for_output(busy, "go")
        check_tab(k, session)
        check_shift_tab(k)
        assert not busy.done
        k.interrupt()
        k.wait(busy)


# -- their turn ------------------------------------------------------------------------------------------------------


def run_all(k: Kernel, *cells: str) -> list[Run]:
    """All cells at once, as a front end's Run All sends them."""
    runs = [k.submit(cell) for cell in cells]
    for run in runs:
        k.wait(run)
    return runs


def order(runs: list[Run]) -> list[int]:
    """Which was begun when: the runs by the time of their execute_input."""
    begun = [run.of_type("execute_input")[0].at + run.sent for run in runs]
    return sorted(range(len(runs)), key=begun.__getitem__)


def test_run_all_runs_orders_in_their_turn(server: FlameServer) -> None:
    with remote_flame() as k:
        for _ in range(2):
            runs = run_all(
                k,
                f"%flame connect {server.location}",
                "x = 1",
                "%flame status",
                "%flame sessions",
                "%flame watch x",
                "%flame watch --end",
                "%flame where",
                "%flame top",
                "%flame help",
                "print('last', x)",
            )
            assert order(runs) == list(range(len(runs)))
            assert [run.reply["status"] for run in runs if run.reply] == ["ok"] * len(runs)
            assert f" at {server.location} (" in runs[2].stdout
            assert "(this one)" in runs[3].stdout
            assert runs[4].displays == [{"text/plain": "x = 1"}]
            assert runs[-1].stdout == "last 1\n"
        # Right behind one that goes elsewhere, with nothing in between; and behind a cell that takes its time.
        runs = run_all(k, "%flame connect", "%flame status")
        assert order(runs) == [0, 1]
        assert "(the kernel's own server)" in runs[1].stdout
        runs = run_all(k, "import time\ntime.sleep(0.6)\ny = 5", "%flame watch y", "%flame watch --end", "y")
        assert order(runs) == [0, 1, 2, 3]
        assert runs[1].displays == [{"text/plain": "y = 5"}]
        # An error stops what was sent behind it, as any cell's does.
        runs = run_all(k, "time.sleep(0.5)", "%flame conect", "x = 2", "%flame status")
        assert [run.reply["status"] for run in runs if run.reply] == ["ok", "error", "aborted", "aborted"]


def test_an_order_by_itself_passes_the_cell_that_runs(tmp_path: Path) -> None:
    """And none that waits, but from another page; its error ends nothing that it has passed."""
    go = tmp_path / "go"
    with remote_flame() as k:
        ok(k.execute("import os, time"))
        busy = k.submit(f"print('go', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)")
        k.wait_for_output(busy, "go")
        assert "cell: pid" in ok(k.execute("%flame where")).stdout
        assert ok(k.execute("%flame replay")).stdout.startswith("go\n--- [*] print('go'")
        assert "did you mean %flame where?" in wrong(k.execute("%flame wher"))
        waiting = [k.submit("'first'"), k.submit("%flame where"), k.submit("'second'")]
        front = k.client.session.session
        k.client.session.session = "another-" + front
        assert "cell: pid" in ok(k.execute("%flame where")).stdout
        assert "takes no arguments" in wrong(k.execute("%flame where x"))
        k.client.session.session = front
        assert not any(run.done for run in [busy, *waiting])
        go.touch()
        for run in [busy, *waiting]:
            ok(k.wait(run))
        assert order(waiting) == [0, 1, 2]
        assert [run.result for run in waiting] == ["'first'", None, "'second'"]


def test_an_order_does_not_pass_one_that_goes_elsewhere(flame_server: Start, key_file: Callable[[str], Path]) -> None:
    """However long that takes: here it waits for a key that is typed."""
    key = "the-key-of-the-server-0123456789"
    server = flame_server(key=key)
    with remote_flame() as k:
        ok(k.execute("1"))
        connecting = k.submit(f"%flame connect {server.location}")
        k.wait_for(lambda: connecting.prompts, "the question for the key")
        time.sleep(0.5)  # longer than what counts as sent together
        status = k.submit("%flame status")
        k.client.session.session = "another-" + k.client.session.session
        ok(k.execute("%flame sessions"))  # from elsewhere it does
        assert not status.done
        k.answer_input(key)
        ok(k.wait(connecting))
        assert f" at {server.location} (" in ok(k.wait(status)).stdout


def test_lines_where_they_can_stand() -> None:
    with remote_flame() as k:
        told = ok(k.execute("# where is it?\n\n%flame status\n# and again\n%flame status\n\n6 * 7"))
        assert (told.stdout.count("cells run at"), told.result) == (2, "42")
        assert ok(k.execute("%flame status\n# that is all\n")).stdout.count("cells run at") == 1
        run = ok(k.execute("%load_ext flame\n1 + 1"))
        assert "cells run on the far side already" in run.stdout
        assert run.result == "2"
        assert "leave out the %%flame line" in wrong(k.execute("%%flame\n1"))
        assert "there is no %flamestatus" in wrong(k.execute("%flamestatus"))
        assert "without %flame" in wrong(k.execute("x = %flame eval 1"))
        # What stands in a string is text.
        assert k.execute("text = '''\n%flame status\nx = %flame eval 1\n'''\nlen(text)").result == "33"
        ended = ok(k.execute("x = 1\n")), ok(k.execute("%flame disconnect"))
        assert "ended session" in ended[1].stdout
        assert k.execute("x").error is not None
