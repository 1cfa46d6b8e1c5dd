"""The link itself: what it says, whom it asks, what is known of a request when it ends, and what a setting may be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from farside import FlameServer, wait_until
from flakylink import FlakyLink

from flame_kernel.agent.wire import units as far_amounts
from flame_kernel.agent.wire.machine import machine
from flame_kernel.connect import units
from flame_kernel.connect.connection import Connection
from flame_kernel.connect.keys import Secret
from flame_kernel.connect.target import Location, Target, Timeouts, load_target
from flame_kernel.errors import AgentError, ConnectionLost, NotSent, SessionGone, TargetError
from flame_kernel.kernel.clients import Clients
from flame_kernel.session.agent_client import AgentClient
from flame_kernel.session.inbox import Event
from flame_kernel.session.local_process import LocalProcess
from flame_kernel.session.outage import Outage
from flame_kernel.session.session import Session

Start = Callable[..., FlameServer]


class Heard:
    """A session, its events, and what it said of its link."""

    def __init__(self, location: str, **more: Any) -> None:
        self.events: list[Event] = []
        self.said: list[str | None] = []
        target = Target(Location.parse(location), **more)
        self.session = Session(target, self.events.extend, on_link=self.said.append)
        self.session.ready.result(30)

    def run(self, code: str) -> Any:
        return self.session.execute(uuid.uuid4().hex, code)

    def text(self) -> str:
        return "".join(e["content"]["text"] for e in self.events if e["type"] == "stream")


@contextmanager
def heard(location: str, **more: Any) -> Iterator[Heard]:
    one = Heard(location, **more)
    try:
        yield one
    finally:
        one.session.close()


# --- what is known of a cell


def test_a_cell_that_is_stopped_in_an_outage_says_what_is_known(flame_server: Start) -> None:
    """Begun there, or not sent at all; the interrupt goes when the link is back, and meets only its own cell."""
    with FlakyLink(flame_server().location) as link, heard(link.location) as one:
        running = one.run("import time\nprint('in')\nwhile True: time.sleep(0.01)")
        wait_until(lambda: "in" in one.text(), "the cell")
        link.down()
        wait_until(lambda: one.session.trouble is not None, "the link's word")
        queued = one.run("print('never')")
        one.session.interrupt()
        with pytest.raises(ConnectionLost, match="this cell was begun there; it is interrupted when the link is back"):
            running.result(1)
        with pytest.raises((NotSent, ConnectionLost)) as caught:
            queued.result(1)
        was_unknown = "unknown" in str(caught.value)
        after = one.run("print('later'); 6 * 7")
        link.up()
        assert after.result(30)["status"] == "ok"
        assert "later" in one.text()
        assert "KeyboardInterrupt" in str([e["content"] for e in one.events if e["type"] == "error"])
        assert was_unknown or "never" not in one.text()


def test_a_stop_of_a_silent_server_waits_and_the_next_one_does_not(flame_server: Start) -> None:
    server = flame_server()
    with heard(server.location) as one:
        running = one.run("import time\nprint('in')\nwhile True: time.sleep(0.01)")
        wait_until(lambda: "in" in one.text(), "the cell")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: one.said and "not responding since" in str(one.said[-1]), "the link's word", 8)
            one.session.interrupt()
            wait_until(lambda: "Stop again ends the wait" in str(one.said[-1]), "that it waits", 8)
            assert not running.done()
            one.session.interrupt()
            with pytest.raises(ConnectionLost, match="you stopped waiting; this cell was begun there"):
                running.result(1)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert one.run("1").result(30)["status"] == "ok"
        wait_until(lambda: one.said[-1] is None, "the end of it")
        assert sum("KeyboardInterrupt" in str(e["content"]) for e in one.events if e["type"] == "error") <= 1


def test_who_waits_is_told_what_became_of_it_when_the_server_ends(flame_server: Start) -> None:
    server = flame_server()
    with heard(server.location) as one:
        running = one.run("import time\nprint('in')\ntime.sleep(1000)")
        wait_until(lambda: "in" in one.text(), "the cell")
        began = time.monotonic()
        server.kill()
        with pytest.raises(SessionGone, match="the server ended; this cell was begun there"):
            running.result(5)
        assert time.monotonic() - began <= 20
        with pytest.raises(SessionGone):
            one.run("1").result(1)
        with pytest.raises(SessionGone):
            one.session.sessions().result(1)


def test_a_half_open_line_is_found_by_a_new_one(flame_server: Start) -> None:
    """What is in flight is swallowed for ever; a new connection is answered, so the old one is given up at once."""
    with FlakyLink(flame_server().location) as link, heard(link.location) as one:
        running = one.run("import time\nfor n in range(700): print(n); time.sleep(0.01)")
        wait_until(lambda: "50\n" in one.text(), "the cell")
        link.silent()
        wait_until(lambda: one.session.trouble is not None, "the link's word", 8)
        began = time.monotonic()
        link.up()
        assert running.result(30)["status"] == "ok"
        assert time.monotonic() - began < 20
        assert one.text().split() == [str(n) for n in range(700)]


def test_a_poll_stops_nobody_on_a_multiplex_server(flame_server: Start) -> None:
    """One session waits for output, another one's calls have their time: 50 ms at the most, here for 19 of 20."""
    location = flame_server(servertype="multiplex").location
    with heard(location) as one, heard(location) as other:
        running = one.run("import time\ntime.sleep(6)")
        took = []
        for _ in range(100):
            began = time.monotonic()
            other.session.ask("hello").result(10)
            took.append(time.monotonic() - began)
        took.sort()
        print(f"median {took[50] * 1000:.1f} ms, 95 of 100 within {took[95] * 1000:.1f} ms")
        assert took[95] <= 1.0
        assert not running.done()
        one.session.interrupt()
        running.result(10)


def test_an_agent_client_leaves_no_trace(flame_server: Start) -> None:
    location = flame_server().location
    target = Target(Location.parse(location))
    client = AgentClient(target)
    assert client.sessions() == []
    with pytest.raises(AgentError, match="there are no sessions at"):
        client.ask("cells", session="x")
    with heard(location, session="here") as one:
        assert [s["session"] for s in client.sessions()] == ["here"]
        one.run("print('seen')").result(30)
        watching = client.watch("here")
        running = one.run("import time; time.sleep(0.5); print('watched')")
        assert any("watched" in str(e["content"]) for _ in range(5) for e in next(watching))
        running.result(30)
        assert "watched" in one.text()
    client.close()


def test_an_agent_that_another_client_pushes_meanwhile(flame_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the question for the sessions has failed, and before it is asked whether the agent is missing."""
    key = "k" * 32
    target = Target(Location.parse(flame_server(key=key).location), Secret(key.encode()))
    looks = Connection._is_missing

    def late(connection: Connection, *told: Any) -> bool:
        monkeypatch.undo()
        with closing(AgentClient(target)) as other:
            other.begin()
        return looks(connection, *told)

    monkeypatch.setattr(Connection, "_is_missing", late)
    with closing(AgentClient(target)) as client:
        assert client.sessions() == []


# --- words and settings


def test_trouble_in_words() -> None:
    now = time.monotonic()
    lost = Outage("host:9999", False, now - 4, time.time() - 4, "connection refused")
    assert str(lost) == "link to host:9999 lost 4 s ago, retrying; the cell goes on there (connection refused)"
    silent = Outage("host:9999", True, now - 300, time.time() - 300)
    assert str(silent).startswith("host:9999 not responding since ")
    assert "(5 min)" in str(silent)
    assert "2 h 5 min" in str(Outage("host:9999", False, now - 7500, 0.0))


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (units.seconds, "24 h", 86400),
        (units.seconds, "90min", 5400),
        (units.seconds, "2 days", 172800),
        (units.seconds, 7, 7),
        (units.size, "256 MB", 256 << 20),
        (units.size, "1.5k", 1536),
        (units.size, 1000, 1000),
        (units.truth, "yes", True),
        (units.truth, "0", False),
        (units.truth, True, True),
    ],
)
def test_amounts(read: Callable[[object], Any], text: object, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "value", "text"),
    [
        (units.size_in_words, 0, "0 bytes"),
        (units.size_in_words, 1023, "1023 bytes"),
        (units.size_in_words, 1536, "1.5 KiB"),
        (units.size_in_words, 64 << 20, "64 MiB"),
        (units.size_in_words, 3 << 30, "3 GiB"),
        (units.size_in_words, None, "?"),
        (units.size_in_words, float("nan"), "?"),
        (units.time_in_words, 0.04, "0 s"),
        (units.time_in_words, 1.23, "1.2 s"),
        (units.time_in_words, 9.96, "10 s"),
        (units.time_in_words, 59.7, "1 min"),
        (units.time_in_words, 185, "3 min 5 s"),
        (units.time_in_words, 3600, "1 h"),
        (units.time_in_words, 7800, "2 h 10 min"),
        (units.time_in_words, 5 * 86400 + 7200, "5 d 2 h"),
        (units.time_in_words, "long", "?"),
        (units.time_in_words, float("inf"), "?"),
        (units.moment_in_words, 1e12, "?"),
        (units.moment_in_words, None, "?"),
    ],
)
def test_amounts_in_words(read: Callable[[object], str], value: object, text: str) -> None:
    assert read(value) == text


def test_both_sides_have_the_same_words_for_sizes() -> None:
    for size in (1024, 1536, 100 << 10, 81 << 20, 5 << 30, 1234567890):
        assert far_amounts.size_in_words(size) == units.size_in_words(size)


@pytest.mark.parametrize("text", ["", "h", "-1", "1 parsec", "1e9", "nan", float("inf"), -1, True, "1 2"])
def test_what_is_no_amount(text: object) -> None:
    with pytest.raises(ValueError, match=r'a time such as 3600, "90 min" or "24 h"'):
        units.seconds(text)


def test_how_a_session_is_kept_is_a_setting(tmp_path: Any) -> None:
    (tmp_path / "targets.toml").write_text(
        '[targets.a]\nlocation = "localhost:1"\nlinger = "2 h"\njournal = 65536\nwhen_full = "block"\nfast = true\n'
        '[targets.b]\nlocation = "localhost:1"\n'
    )
    (tmp_path / "targets.toml").chmod(0o600)
    kept = load_target("a", environ={}, config_dir=tmp_path)
    assert kept.keeping == {"linger": 7200, "journal": 65536, "when_full": "block"}
    assert kept.timeouts == Timeouts.fast()
    assert load_target("b", environ={}, config_dir=tmp_path).keeping == {}
    told = load_target("b", environ={"FLAME_JOURNAL": "1 MB", "FLAME_FAST": "1"}, config_dir=tmp_path)
    assert told.keeping == {"journal": 1 << 20}
    assert told.fast
    for name, value in (("JOURNAL", "much"), ("WHEN_FULL", "explode"), ("FAST", "perhaps"), ("LINGER", "-5")):
        with pytest.raises(TargetError) as caught:
            load_target("localhost:1", environ={f"FLAME_{name}": value}, config_dir=tmp_path)
        assert value in str(caught.value)


def test_which_cells_a_page_cannot_have_seen() -> None:
    fronts = Clients()
    fronts.heard("one")
    fronts.began("a", "one")
    fronts.ended("a")
    fronts.heard("one")
    fronts.began("b", "one")
    fronts.began("c", "one")
    assert fronts.missed("one") == []
    fronts.heard("two")
    fronts.ended("b")
    assert fronts.missed("two") == ["b", "c"]
    fronts.began("d", "two")
    fronts.heard("three")
    assert fronts.missed("three") == ["b", "c", "d"]


def test_the_end_of_a_process_on_this_machine_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        neighbour = LocalProcess.of({"machine": machine(), "pid": process.pid})
        assert neighbour is not None
        assert neighbour.lives()
        assert LocalProcess.of({"machine": "another", "pid": process.pid}) is None
        assert LocalProcess.of({"pid": process.pid}) is None
        process.kill()
        wait_until(lambda: not neighbour.lives(), "its end, as a zombie")
    assert not neighbour.lives()
    assert LocalProcess.of({"machine": machine(), "pid": process.pid}) is None
