"""``jupyter flame status``, ``sessions`` and ``logs``, and the console, against one stock server."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from farside import FlameServer, wait_until
from shell import flame, tab, typed

from flame_kernel.connect.target import Location, Target
from flame_kernel.session.inbox import Event
from flame_kernel.session.session import Session

pytestmark = pytest.mark.usefixtures("warm_commands")

PATIENCE = 30.0


@contextlib.contextmanager
def session(server: FlameServer, name: str) -> Iterator[Session]:
    """A session there of another client; what is named so is ended afterwards, whoever has it."""
    target = Target(Location.parse(server.location), session=name, shell="mini")
    one = Session(target, lambda events: None)
    try:
        one.ready.result(PATIENCE)
        yield one
    finally:
        one.close()


def ran(one: Session, code: str) -> None:
    one.execute(uuid.uuid4().hex, code).result(PATIENCE)


def test_a_server_before_and_after_its_first_session(flame_server: type[FlameServer], server: FlameServer) -> None:
    fresh = flame_server()
    done = flame("status", fresh.location)
    assert (done.code, done.out.splitlines()[1]) == (0, "no session was ever opened there, so nothing more is known"), (
        done
    )
    assert flame("sessions", fresh.location).out == "no sessions on this server\n"
    with session(server, "one"):
        done = flame("status", server.location)
        assert "a bare flame server (thread)" in done.out
        assert done.out.endswith("\n1 session: jupyter flame sessions\n")
        found = json.loads(flame("status", server.location, "--json").out)
        assert (found["location"], found["pid"], found["bare"]) == (server.location, server.process.pid, True)


def test_all_targets(server: FlameServer, tmp_path: Path) -> None:
    config = {"FLAME_CONFIG": str(tmp_path / "targets.toml")}
    assert flame("status", "--all", **config).code == 1
    for name, where in (("here", server.location), ("down", "localhost:1")):
        assert flame("targets", "add", name, where, **config).code == 0
    done = flame("status", "--all", **config)
    assert done.code == 1
    assert "  here" in done.out
    assert "connection refused" in done.out
    listed = json.loads(flame("status", "--all", "--json", **config).out)
    assert [one["name"] for one in listed if "error" in one] == ["down"]


def test_sessions_listed_and_ended(server: FlameServer) -> None:
    with session(server, "idle") as idle, session(server, "busy") as busy:
        busy.execute("b", "import threading\nthreading.Event().wait()")
        wait_until(lambda: [one["state"] for one in busy.sessions().result(PATIENCE)].count("busy"), "a busy session")
        done = flame("sessions", server.location)
        rows = {line.split()[0]: line for line in done.out.splitlines()}
        assert "import threading" in rows["busy"]
        assert rows["session"].split() == ["session", "place", "started", "state", "runs", "client"]
        listed = json.loads(flame("sessions", "list", "-t", server.location, "--json").out)
        assert {one["session"]: one["state"] for one in listed} == {"idle": "idle", "busy": "busy"}

        # What is in use, or at work, is not culled.
        assert (
            flame("sessions", "cull", server.location, "--idle", "0").out
            == "no session has been unused for that long\n"
        )
        idle.detach()
        done = flame("sessions", "cull", server.location, "--idle", "0s", "--dry-run")
        assert done.out == "would end session idle\n"
        assert (
            flame("sessions", "cull", server.location, "--idle", "1h").out
            == "no session has been unused for that long\n"
        )
        assert flame("sessions", "cull", server.location, "--idle", "0s").out == "ended session idle\n"

        done = flame("sessions", "kill", "busy", "-t", server.location)
        assert (done.code, "There is no terminal to ask in; add -y" in done.err) == (1, True)
        done = flame("sessions", "kill", "busy", "-t", server.location, "-y")
        assert (done.code, done.out) == (0, "ended session busy\n")
        done = flame("sessions", "kill", "busy", "-t", server.location)
        assert (done.code, "there is no session busy; there are: none" in done.err) == (1, True)


def test_logs(server: FlameServer) -> None:
    with session(server, "talks") as talks:
        for code in ("print('first')", "1 / 0", "print('third'); 6 * 7"):
            ran(talks, code)
        done = flame("logs", server.location)
        assert done.code == 0
        lines = done.out.splitlines()
        assert lines[0].startswith("--- [1] print('first') (20")
        assert lines[1] == "first"
        assert "ZeroDivisionError: division by zero" in lines
        assert lines[-2:] == ["third", "42"]
        assert "\x1b" not in done.out
        done = flame("logs", server.location, "--session", "talks", "-n", "1")
        assert done.out.splitlines()[1:] == ["third", "42"]
        with typed("logs", server.location, "--follow", "-n", "0") as c:
            # Asked again until it is heard: nobody can tell when a watcher has begun to watch.
            def heard() -> bool:
                ran(talks, "print('said ' + 'now')")
                return c.expect_exact(["said now", pexpect.TIMEOUT], timeout=1) == 0

            wait_until(heard, "what is said is shown", PATIENCE)
            c.sendintr()
            c.expect_exact(pexpect.EOF)
            c.close()
            assert c.exitstatus == 130
        with session(server, "other"):
            done = flame("logs", server.location)
            assert (done.code, "name a --session; there are: talks, other" in done.err) == (1, True)
    done = flame("logs", server.location, "--session", "nobody")
    assert (done.code, "there is no session nobody" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("status", 1, "no server is named, and there is no default"),
        ("status localhost:1 -t localhost:2", 1, "are two servers; name one"),
        ("sessions nonsense", 1, "there is no target 'nonsense'"),
        ("sessions kill", 2, "required: NAME"),
        ("run", 2, "required: FILE;"),
        ("sessions cull localhost:1", 2, "required: --idle"),
        ("sessions cull localhost:1 --idle often", 2, "'often' is not a time; give a time such as"),
        ("logs localhost:1 -n -1", 1, "-n is a number of cells"),
        ("sessions attach", 2, "required: NAME"),
    ],
)
def test_what_cannot_be(words: str, code: int, says: str) -> None:
    done = flame(*words.split())
    assert (done.code, says in done.err) == (code, True), done


def prompt(c: pexpect.spawn[str], number: int) -> None:
    c.expect(rf"In \[\S*m{number}\S*\]: ")


def test_the_console(server: FlameServer, tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    with typed("console", server.location, "--shell", "mini", JUPYTER_DATA_DIR=folder) as c:
        c.expect_exact("Ctrl-D leaves")
        prompt(c, 1)
        c.send("'remember' + 'ed'\r")
        c.expect(r"Out\[1\]: [^\r\n]*'remembered'")
        prompt(c, 2)
        # Tab: the far side's names.
        c.send("globals()['tele' + 'scope'] = 5\r")
        prompt(c, 3)
        c.send("tele")
        tab(c, "scope")
        c.send(" + 1\r")
        c.expect(r"Out\[3\]: [^\r\n]*6")
        prompt(c, 4)
        # Several lines, ended by an empty one.
        c.send("def double(x):\r")
        c.expect_exact("...:")
        c.send("return 2 * x\r\r")
        prompt(c, 5)
        c.send("double(21)\r")
        c.expect(r"Out\[5\]: [^\r\n]*42")
        prompt(c, 6)
        # Ctrl-C: the far side, and at the prompt the line.
        c.send("import time; print('work' + 'ing', flush=True); time.sleep(100)\r")
        c.expect_exact("working\r\n")
        c.sendintr()
        c.expect_exact("KeyboardInterrupt")
        prompt(c, 7)
        c.send("never sent")
        c.sendintr()
        prompt(c, 7)
        # Questions.
        c.send("len(input('who' + '? '))\r")
        c.expect(r"\[\S+\] who\? ")
        c.send("Ada\r")
        c.expect(r"Out\[7\]: [^\r\n]*3")
        prompt(c, 8)
        c.sendeof()
        c.expect_exact(pexpect.EOF)
        c.close()
        assert c.exitstatus == 0
    history = Path(folder) / "flame_console_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "+'remember' + 'ed'" in history.read_text()
    with typed("console", server.location, "--shell", "mini", JUPYTER_DATA_DIR=folder) as c:
        prompt(c, 1)
        c.send("\x1b[A")
        c.expect_exact("who")
        c.send("\x03exit\r")
        c.expect_exact(pexpect.EOF)


def test_a_console_that_is_no_terminal(server: FlameServer) -> None:
    done = flame("console", server.location, "--shell", "mini", stdin="for i in range(2):\n    print(i)\n")
    assert (done.code, done.out) == (0, "0\n1\n"), done


def test_a_session_taken_up(server: FlameServer, tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    told: list[Event] = []
    target = Target(Location.parse(server.location), session="train", shell="mini")
    one = Session(target, told.extend)
    try:
        ran(one, "x = 40")
        one.execute("long", "print('begun', flush=True); y = input('and? '); print('got', y)", allow_stdin=True)
        wait_until(lambda: any(event["type"] == "input_request" for event in told), "the cell asks", PATIENCE)
        done = flame("sessions", "attach", "train", "-t", server.location)
        assert (done.code, "--force takes over, --watch follows its output" in done.err) == (1, True)
        one.detach()
        with typed("sessions", "attach", "train", "-t", server.location, JUPYTER_DATA_DIR=folder) as c:
            c.expect_exact("[running: print('begun'")
            c.expect(r"\[\S+\] and\? ")
            c.send("more\r")
            c.expect_exact("got more")
            prompt(c, 3)
            c.send("x + 2\r")
            c.expect(r"Out\[3\]: [^\r\n]*42")
            prompt(c, 4)
            c.sendeof()
            c.expect_exact(pexpect.EOF)
        assert flame("eval", "-t", server.location, "--session", "train", "x, y").out == "(40, 'more')\n"
        assert flame("sessions", "kill", "train", "-t", server.location).code == 0
    finally:
        one.close()
