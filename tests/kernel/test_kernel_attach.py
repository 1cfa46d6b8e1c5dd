"""Leaving a session and coming back: nothing of what it said is lost or shown twice, and nothing runs twice."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from farside import FlameServer, random_key, wait_until
from kernels import Kernel, Run, remote_flame
from places import ok

Start = Callable[..., FlameServer]

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cfc0f01f0005"
        "0001ff4d9f0f180000000049454e44ae426082"
    )
).decode()


@pytest.fixture
def environ(flame_server: Start, key_file: Callable[[str], Path]) -> dict[str, str | None]:
    """A server with a key: what it shows is shown in full."""
    key = random_key()
    return {"FLAME_TARGET": flame_server(key=key).location, "FLAME_KEY_FILE": str(key_file(key))}


@contextmanager
def killed(environ: dict[str, str | None], **more: str) -> Iterator[Kernel]:
    """A kernel that is killed at the end, as by a machine that is switched off."""
    with remote_flame(env={**environ, **more}) as k:
        yield k
        os.kill(k.pid, signal.SIGKILL)
        k.kill()


def name_of(k: Kernel) -> str:
    """The name of a kernel's session."""
    return k.execute("%flame status").stdout.partition("; session ")[2].partition(";")[0]


def gate(path: Path, before: str = "", after: str = "") -> str:
    """A cell that says ``before``, waits until the file ``path`` is there, and says ``after``."""
    return f"import os, time\n{before}\nwhile not os.path.exists({str(path)!r}): time.sleep(0.01)\n{after}"


def lines_of(run: Run) -> list[str]:
    return run.stdout.splitlines()


def test_a_cell_outlives_its_kernel(environ: dict[str, str | None], tmp_path: Path) -> None:
    """What came meanwhile, what comes after, and the result; and the cell has run once."""
    go, more = tmp_path / "go", tmp_path / "more"
    with killed(environ) as k:
        ok(k.execute("runs = 0"))
        name = name_of(k)
        run = k.submit(
            gate(go, "runs += 1\nprint('first')", "print('while nobody looked')\n")
            + gate(more, "", "print('last')\nruns * 100")
        )
        k.wait_for_output(run, "first")
    go.touch()
    with remote_flame(env=environ) as k:
        listed = k.execute("%flame sessions")
        assert name in listed.stdout
        assert "busy" in listed.stdout
        attached = k.submit(f"%flame attach {name}")
        k.wait_for_output(attached, "while nobody looked")
        assert lines_of(attached)[0].startswith("[missed output of session") or "cells run at" in attached.stdout
        more.touch()
        k.wait(attached)
        assert attached.reply is not None
        assert attached.reply["status"] == "ok"
        assert attached.result == "100"
        # What the killed kernel has shown and not yet acknowledged is shown again.
        seen = [line for line in lines_of(attached) if line in ("first", "while nobody looked", "last")]
        assert seen[seen[0] == "first" :] == [
            "while nobody looked",
            "last",
        ]
        after = ok(k.execute("runs"))
        assert after.result == "1"
        assert after.reply is not None
        assert after.reply["execution_count"] == 4  # behind those of the first kernel, with its %flame line


def test_stop_reaches_the_cell_that_is_followed(environ: dict[str, str | None]) -> None:
    with killed(environ) as k:
        name = name_of(k)
        run = k.submit("print('on')\nimport time\nwhile True: time.sleep(0.01)")
        k.wait_for_output(run, "on")
    with remote_flame(env=environ) as k:
        attached = k.submit(f"%flame attach {name}")
        k.wait_for_output(attached, "following")
        k.interrupt()
        k.wait(attached)
        assert attached.reply is not None
        assert attached.reply["ename"] == "KeyboardInterrupt"
        assert ok(k.execute("6 * 7")).result == "42"


def test_a_named_session_is_found_again_and_shows_what_was_missed(
    environ: dict[str, str | None], tmp_path: Path
) -> None:
    """The first cell of the new kernel has it, under one line, and then its own output."""
    go, done = tmp_path / "go", tmp_path / "done"
    with killed(environ, FLAME_SESSION="nightly") as k:
        run = k.submit("x = 5\n" + gate(go, "print('seen')", f"print('missed')\nopen({str(done)!r}, 'w').close()\nx"))
        k.wait_for_output(run, "seen")
    go.touch()
    wait_until(done.exists, "the end of the cell")
    with remote_flame(env={**environ, "FLAME_SESSION": "nightly"}) as k:
        first = ok(k.execute("print(x)"))
        assert lines_of(first)[0].startswith("[missed output of session nightly")
        lines = lines_of(first)[1:]
        # What the killed kernel has shown and not yet acknowledged is shown again.
        assert lines[lines[0] == "seen" :] == ["missed", "5"]
        assert [m.content["data"]["text/plain"] for m in first.of_type("execute_result")] == ["5"]
        second = ok(k.execute("print(x + 1)"))
        assert second.stdout == "6\n"


def test_what_ends_a_session_and_what_does_not(environ: dict[str, str | None]) -> None:
    """A shutdown ends what nobody has named; a name, or detach, keeps it; a restart always begins anew."""
    with remote_flame(env=environ) as k:
        anonymous = name_of(k)
    with remote_flame(env={**environ, "FLAME_SESSION": "kept"}) as k:
        ok(k.execute("x = 1"))
        k.restart()
        assert k.execute("x").error is not None
        ok(k.execute("y = 2"))
    with remote_flame(env=environ) as k:
        left = name_of(k)
        ok(k.execute("z = 3"))
        gone = ok(k.execute("%flame detach"))
        assert f"%flame attach {left}" in gone.stdout
        listed = k.execute("%flame sessions").stdout
        assert anonymous not in listed
        assert "kept" in listed
        assert left in listed
        ok(k.execute("%flame attach kept"))
        assert k.execute("y").result == "2"
        ok(k.execute(f"%flame attach {left}"))
        assert k.execute("z").result == "3"
        killed_one = ok(k.execute("%flame sessions --kill kept"))
        assert "kept" in killed_one.stdout
        assert "kept" not in k.execute("%flame sessions").stdout
        unknown = k.execute("%flame attach kept")
        assert unknown.error is not None
        assert "there is no session kept" in unknown.error["evalue"]
        assert k.execute("z").result == "3"


def test_two_clients_of_one_session(environ: dict[str, str | None]) -> None:
    """The second one is refused, watches, asks and is refused, asks and is allowed; the first one is told."""
    with remote_flame(env=environ) as one, remote_flame(env=environ) as two:
        name = name_of(one)
        ok(one.execute("x = 'of one'"))
        refused = two.execute(f"%flame attach {name}")
        assert refused.error is not None
        assert "in use by" in refused.error["evalue"]
        assert "--watch" in refused.error["evalue"]

        watching = two.submit(f"%flame attach {name} --watch")
        two.wait_for_output(watching, "watching session")
        ok(one.execute("print('look'); x"))
        two.wait_for_output(watching, "look")
        two.wait_for(lambda: watching.result == "'of one'", "the result, too")
        two.interrupt()
        two.wait(watching)

        for answer, words in (("refuse", "keeps the session"), ("allow", "")):
            asking = two.submit(f"%flame attach {name} --ask")
            two.wait_for_output(asking, "waiting for an answer")
            one.wait_for(lambda: "%flame allow" in said(one), "the request", 10)
            forget(one)
            ok(one.execute(f"%flame {answer}"))
            two.wait(asking)
            if words:
                assert asking.error is not None
                assert words in asking.error["evalue"]
            else:
                ok(asking)
        assert ok(two.execute("x")).result == "'of one'"
        told = one.execute("x")
        assert told.error is not None
        assert "another client" in told.error["evalue"]
        assert one.execute("x").error is not None  # a new session has no x


def test_consent_while_a_cell_runs(environ: dict[str, str | None]) -> None:
    """The owner need not stop its cell to give it away, and the one who takes it follows it."""
    with remote_flame(env=environ) as one, remote_flame(env=environ) as two:
        name = name_of(one)
        busy = one.submit("print('on')\nimport time\nwhile True: time.sleep(0.01)")
        one.wait_for_output(busy, "on")
        asking = two.submit(f"%flame attach {name} --ask")
        one.wait_for(lambda: "%flame allow" in busy.stderr, "the request", 10)
        ok(one.execute("%flame allow"))
        two.wait_for_output(asking, "following")
        one.wait(busy)
        assert busy.error is not None
        two.interrupt()
        two.wait(asking)
        assert ok(two.execute("1")).result == "1"


def said(k: Kernel) -> str:
    """All that appeared on stderr in any cell."""
    return "".join(run.stderr for run in k.runs.values())


def forget(k: Kernel) -> None:
    for run in k.runs.values():
        run.messages = [m for m in run.messages if m.type != "stream"]


def test_force_takes_a_session_that_is_used(environ: dict[str, str | None]) -> None:
    with remote_flame(env=environ) as one, remote_flame(env=environ) as two:
        name = name_of(one)
        busy = one.submit("print('on')\nimport time\nwhile True: time.sleep(0.01)")
        one.wait_for_output(busy, "on")
        attached = two.submit(f"%flame attach {name} --force")
        two.wait_for_output(attached, "following")
        one.wait(busy)
        assert busy.error is not None
        assert "another client" in busy.error["evalue"]
        assert "was begun there" in busy.error["evalue"]
        two.interrupt()
        two.wait(attached)
        assert ok(two.execute("1")).result == "1"


def test_replay(environ: dict[str, str | None]) -> None:
    """A cell's output once more: text, errors, pictures, displays in order, and by the number of the cell."""
    with remote_flame(env=environ) as k:
        rich = (
            "import sys\nfrom IPython.display import display, Image, HTML\nimport base64\n"
            f"print('before')\ndisplay(Image(base64.b64decode({PNG!r})))\nprint('err', file=sys.stderr)\n"
            "display(HTML('<b>x</b>'))\nprint('after')\n'value'"
        )
        first = ok(k.execute(rich))
        failed = k.execute("print('then')\n1 / 0")
        assert failed.error is not None
        again = ok(k.execute("%flame replay 1"))
        shown = [(m.type, m.content.get("text") or m.content.get("data")) for m in again.output]
        assert shown == [(m.type, m.content.get("text") or m.content.get("data")) for m in first.output]
        assert any("image/png" in m.content["data"] for m in again.of_type("display_data"))
        last = k.execute("%flame replay")
        assert last.stdout == "then\n"
        assert last.error is not None
        assert last.error["ename"] == "ZeroDivisionError"
        assert last.reply is not None
        assert last.reply["status"] == "ok"
        everything = ok(k.execute("%flame replay --all"))
        assert everything.stdout.count("before") == 1
        assert everything.stdout.count("then\n") == 1
        unknown = k.execute("%flame replay 77")
        assert unknown.error is not None
        assert "cell 77 is not kept; there are 1, 2" in unknown.error["evalue"]


def test_what_was_printed_while_the_browser_was_closed(environ: dict[str, str | None], tmp_path: Path) -> None:
    """A new page asks for what the one before it cannot have seen: the cell that ended meanwhile, and one that runs."""
    go, more = tmp_path / "go", tmp_path / "more"
    with remote_flame(env=environ) as k:
        ok(k.execute("print('seen')"))
        ok(k.execute("1"))
        closed = k.submit(gate(go, "print('one')", "print('two')"))
        running = k.submit(gate(more, "print('three')", "print('four')"))
        k.wait_for_output(closed, "one")
        new_page(k)
        go.touch()
        more.touch()
        k.wait(running)
        replayed = ok(k.execute("%flame replay --missed"))
        text = [line for line in lines_of(replayed) if not line.startswith("---") and line]
        assert text == ["one", "two", "three", "four"]


def new_page(k: Kernel) -> None:
    """From now on, messages come from another front end."""
    k.client.session.session = "another-" + k.client.session.session


def test_words_for_what_is_wrong(environ: dict[str, str | None]) -> None:
    with remote_flame(env=environ) as k:
        for line, words in (
            ("%flame attach", "%flame attach needs NAME: %flame attach NAME"),
            ("%flame attach a --ask --force", "exclude each other"),
            ("%flame attach nothing", "there is no session nothing"),
            ("%flame sessions --kill nothing", "there is no session nothing"),
            ("%flame sessions more", "takes no arguments"),
            ("%flame detach now", "takes no arguments"),
            ("%flame allow", "nobody is asking"),
            ("%flame replay x", "N is a whole number"),
            ("%flame replay", "no cell has run"),
        ):
            run = k.execute(line)
            assert run.error is not None, line
            assert words in run.error["evalue"], line
            assert len(run.error["traceback"]) == 1
    with remote_flame() as k:  # its own server
        ok(k.execute("1"))
        assert "cannot be detached" in str(k.execute("%flame detach").error)
