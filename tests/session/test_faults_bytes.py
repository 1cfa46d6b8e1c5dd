"""The link is cut at every byte of a conversation, of either way; each cell runs once, and its output is whole."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from farside import FlameServer, LiveApp, wait_until
from faultcases import FULL
from flakylink import FlakyLink, How, Way
from kernels import remote_flame

from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import Location, Target
from flame_kernel.errors import FlameError
from flame_kernel.session.inbox import Event
from flame_kernel.session.session import Session

Case = tuple[Way, int, How]

# Conversations at once: most of each is waiting for a connection to be made again.
LANES = 6
CODE = "runs = globals().get('runs', 0) + 1\nprint('run', runs, 'äöü')\nruns"


class Lane:
    """A session over a link of its own, and what its cells must give."""

    def __init__(self, location: str, at_once: bool) -> None:
        self.link = FlakyLink(location, seed=1)
        self.events: list[Event] = []
        self.runs = 0
        try:
            target = Target(Location.parse(self.link.location), place="process", shell="mini")
            self.session = Session(target, self.events.extend)
            self.session.take_at_once(lambda: at_once)
            self.session.ready.result(30)
        except BaseException:
            self.link.close()
            raise

    def close(self) -> None:
        self.session.close()
        self.link.close()

    def converse(self, what: str) -> None:
        """One cell; AssertionError where it did not run once, with all of its output before its reply."""
        self.runs += 1
        request = uuid.uuid4().hex
        del self.events[:]
        reply = self.session.execute(request, CODE).result(30)
        assert reply["status"] == "ok", f"{what}: {reply}"
        mine = [event for event in self.events if event.get("request") == request]
        text = "".join(e["content"]["text"] for e in mine if e["type"] == "stream")
        assert text == f"run {self.runs} äöü\n", f"{what}: {text!r} in run {self.runs}"
        results = [e["content"]["data"]["text/plain"] for e in mine if e["type"] == "execute_result"]
        assert results == [str(self.runs)], f"{what}: {results} in run {self.runs}"

    def settle(self) -> None:
        """Until a poll waits there: where one conversation ends and the next begins."""
        wait_until(lambda: self.link.waits(b'"op":"poll"'), "a poll that waits")


def length(lane: Lane) -> dict[Way, int]:
    """The bytes of one undisturbed conversation, each way."""
    lane.converse("undisturbed")
    lane.settle()
    before = dict(lane.link.passed)
    lane.converse("undisturbed")
    lane.settle()
    return {way: lane.link.passed[way] - before[way] for way in before}


@pytest.mark.parametrize("at_once", [True, False], ids=["events with the answer", "events by a poll"])
def test_a_cut_at_every_byte(at_once: bool, live_app: Callable[..., LiveApp]) -> None:
    began = time.monotonic()
    lanes: list[Lane] = []
    taken = threading.Lock()
    try:
        app = live_app()
        lanes.extend(Lane(app.location, at_once) for _ in range(LANES))
        sizes = length(lanes[0])
        hows: Iterator[How] = itertools.cycle(("rst", "fin"))
        cases = iter([(way, at, next(hows)) for way in sizes for at in range(1, sizes[way] + 1)])

        def work(lane: Lane) -> int:
            number = 0
            while True:
                with taken:
                    case = next(cases, None)
                if case is None:
                    return number
                way, offset, how = case
                lane.link.cut_at(way, offset, how)
                lane.converse(f"{way} cut at {offset} ({how})")
                lane.link.cut_at(way, None)
                number += 1

        with ThreadPoolExecutor(LANES) as pool:
            done = sum(pool.map(work, lanes))
        cuts = sum(lane.link.cuts for lane in lanes)
    finally:
        for lane in lanes:
            lane.close()
    seconds = time.monotonic() - began
    print(f"{done} conversations of {sizes} bytes, {cuts} cuts, {seconds:.1f} s")
    assert done == sum(sizes.values())
    assert cuts >= done * 0.9
    assert seconds <= 60


@pytest.mark.parametrize("place", ["process", "child"])
def test_a_cut_while_a_session_is_opened(
    place: str, flame_server: Callable[..., FlameServer], live_app: Callable[..., LiveApp]
) -> None:
    """It is there, or there is a clear error and nothing is left on the far side."""
    server = flame_server() if place == "child" else live_app()

    def target(location: str) -> Target:
        return Target(Location.parse(location), place=place, shell="mini")

    Session(target(server.location), lambda events: None).close()  # the agent is there from now on
    with FlakyLink(server.location, seed=1) as link:
        before = dict(link.passed)
        session = Session(target(link.location), lambda events: None)
        session.ready.result(30)
        session.close()
        sizes = {way: link.passed[way] - before[way] for way in before}
        opened = refused = 0
        sentences = set()
        for way in sizes:
            for offset in range(1, sizes[way], sizes[way] // (200 if FULL else 12)):
                link.cut_at(way, offset)
                try:
                    session = Session(target(link.location), lambda events: None)
                except FlameError as e:
                    refused += 1
                    sentences.add(str(e).partition(": ")[0])
                else:
                    opened += 1
                    assert session.ready.result(30)["place"] == place
                    session.close()
                link.cut_at(way, None)
        print(f"{opened} opened, {refused} refused")
        assert refused + opened >= 20
        assert all(link.location in sentence for sentence in sentences), sentences
    wait_until(lambda: not server.children(), "no process is left", 30)
    left = Connection(target(server.location))
    try:
        modules = "[n for n in __import__('sys').modules if n.startswith('flame_session')]"
        assert left.call("evaluate", modules) == []
    finally:
        left.close()


def test_a_cut_at_any_byte_under_a_kernel(flame_server: Callable[..., FlameServer]) -> None:
    """The same as a notebook sees it, at some of the bytes."""
    with (
        FlakyLink(flame_server().location) as link,
        remote_flame(env={"FLAME_TARGET": link.location}) as k,
    ):
        k.execute("pass", silent=True)
        for run in range(1, 31):
            way: Way = link.random.choice(("up", "down"))
            offset = link.random.randint(1, 900)
            link.cut_at(way, offset, link.random.choice(("rst", "fin")))
            done = k.execute(CODE)
            link.cut_at(way, None)
            assert done.stdout == f"run {run} äöü\n", f"{way} cut at {offset}\n{done}"
            assert done.result == str(run), f"{way} cut at {offset}\n{done}"
