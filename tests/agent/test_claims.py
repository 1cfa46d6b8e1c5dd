"""A cell and its events in one answer (op ``do``): all or nothing, and what the reader gets beside it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from farside import FlameServer, wait_until
from rawagent import RawAgent, raw_agent

from flame_kernel.agent.log import claims
from flame_kernel.agent.log import log as events
from flame_kernel.errors import AgentError
from flame_kernel.session.bootstrap import agent_name


def event(kind: str, request: str = "r", **content: Any) -> dict[str, Any]:
    return {"type": kind, "request": request, "content": content}


def text(words: str, request: str = "r") -> dict[str, Any]:
    return event("stream", request, name="stdout", text=words)


class Reader:
    """A poll that waits, on a thread of its own."""

    def __init__(self, log: events.EventLog, ack: int = 0) -> None:
        self.got: list[int] | None = None
        self._log, self._ack = log, ack
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: log._parked, "a poll that waits")

    def _read(self) -> None:
        self.got = [one["number"] for one in self._log.poll(self._ack, wait=20)]

    def end(self) -> list[int]:
        self._thread.join(30)
        assert self.got is not None
        return self.got


def taken(
    log: events.EventLog, claim: claims.Claim, after: int = 0, wait: float = 5.0, limit: int = 1 << 20
) -> list[int]:
    return [one["number"] for one in claims.take(log, claim, after, wait, limit)]


def test_what_is_claimed_wakes_no_reader_and_stays_until_it_is_acknowledged() -> None:
    log = events.EventLog()
    reader = Reader(log)
    claim = claims.begin(log, "r")
    for one in (text("a"), event("display_data"), event("execute_reply")):
        log.append(one)
    assert taken(log, claim) == [1, 2, 3]
    assert reader.got is None
    log.append(text("later", "another"))
    assert reader.end() == [1, 2, 3, 4]  # nobody has said yet that they have come
    log.acknowledge(3)
    assert [one["number"] for one in log.poll(0)] == [4]


@pytest.mark.parametrize("first", [text("a"), event("display_data"), event("execute_reply", "another")])
def test_output_is_not_held_back_for_a_cell_that_goes_on(first: dict[str, Any]) -> None:
    log = events.EventLog()
    reader, claim = Reader(log), claims.begin(log, "r")
    log.append(first)
    began = time.monotonic()
    assert taken(log, claim) == []
    assert reader.end() == [1]
    assert time.monotonic() - began < 2


def test_a_cell_that_takes_its_time_is_left_to_the_reader() -> None:
    log = events.EventLog()
    reader, claim = Reader(log), claims.begin(log, "r")
    assert taken(log, claim, wait=0.02) == []
    log.append(event("execute_reply"))
    assert reader.end() == [1]


def test_it_takes_all_or_nothing() -> None:
    log = events.EventLog()
    reader, claim = Reader(log), claims.begin(log, "r")
    for _ in range(10):
        log.append(event("display_data", data="x" * 1000))
    log.append(event("execute_reply"))
    assert taken(log, claim, limit=5000) == []
    assert reader.end() == list(range(1, 12))


def test_alone_it_takes_a_small_reply_that_nothing_else_came_with() -> None:
    log = events.EventLog()
    reader, claim = Reader(log), claims.begin(log, "r", alone=True)
    log.append(event("object_reply"))
    assert taken(log, claim) == [1]
    claim = claims.begin(log, "r", alone=True)
    log.append({**event("object_reply"), "buffers": [b"x" * 6000]})
    assert taken(log, claim, after=1, limit=5000) == []
    assert reader.end() == [1, 2]


@pytest.mark.parametrize("first", [text("a"), text("a", "another"), event("callback_request")])
def test_alone_it_ends_with_the_first_event_that_is_no_reply(
    first: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "GRACE", 60.0)
    log = events.EventLog()
    reader, claim = Reader(log), claims.begin(log, "r", alone=True)
    log.append(first)
    began = time.monotonic()
    assert taken(log, claim, wait=30.0) == []
    assert reader.end() == [1]
    assert time.monotonic() - began < 10


def test_a_reader_that_comes_ends_the_claim() -> None:
    log = events.EventLog()
    claim = claims.begin(log, "r")
    reader = Reader(log)
    log.append(event("execute_reply"))
    assert reader.end() == [1]
    assert taken(log, claim) == []


def test_a_claim_ends_one_before_it() -> None:
    log = events.EventLog()
    reader, old = Reader(log), claims.begin(log, "r")
    new = claims.begin(log, "r")
    assert taken(log, old) == []
    log.append(event("execute_reply"))
    assert taken(log, new) == [1]
    claims.remind(log)
    assert reader.end() == [1]


def test_what_comes_as_a_claim_ends_is_the_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has woken only the claim, which has just looked for the last time."""
    log = events.EventLog()
    reader, claim, end = Reader(log), claims.begin(log, "r"), claims.end

    def late(log: events.EventLog) -> None:
        log.append(text("late", "another"))
        end(log)

    monkeypatch.setattr(claims, "end", late)
    monkeypatch.setattr(events, "LOOK_AROUND", 60.0)
    log.append(event("execute_reply"))
    assert taken(log, claim) == [1]
    wait_until(lambda: reader.got is not None, "the reader is woken", 10)
    assert reader.end() == [1, 2]


def test_no_event_is_left_to_nobody() -> None:
    """Threads that print at the moment in which a claim ends: the reader hears of it at once."""
    log, over, late = events.EventLog(), threading.Event(), []
    seen, came = [0], threading.Condition()

    def heard(batch: list[dict[str, Any]]) -> None:
        with came:
            seen[0] = max([seen[0], *(one["number"] for one in batch)])
            came.notify_all()

    def read() -> None:
        while not over.is_set():
            heard(log.poll(seen[0], wait=60))

    def chatter() -> None:
        while not over.is_set():
            log.append(event("display_data", "another"))
            time.sleep(0.0003)

    threads = [threading.Thread(target=work) for work in (read, chatter, chatter)]
    for thread in threads:
        thread.start()
    try:
        for number in range(400):
            claim = claims.begin(log, str(number))
            log.append(event("execute_reply", str(number)))
            heard(claims.take(log, claim, seen[0], 0.02, 1 << 20))
            newest = log.newest
            with came:
                if not came.wait_for(lambda newest=newest: seen[0] >= newest, 2):
                    late.append(number)
    finally:
        over.set()
        log.close()
        for thread in threads:
            thread.join(30)
    assert late == []


WAITS = f"__import__('sys').modules['{agent_name()}.session.registry'].sessions['bench'].log._parked"


# -- the op ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["process", "child"])
def agent(request: pytest.FixtureRequest, flame_server: Callable[..., FlameServer]) -> Any:
    with raw_agent(flame_server().location) as one:
        one.open(place=request.param)
        one.run("n = 0")
        yield one


def do(agent: RawAgent, code: str, name: str, **how: Any) -> dict[str, Any]:
    asked = {
        "request": {"kind": "execute", "id": name, "code": code},
        "ack": agent.inbox.ack,
        "after": agent.inbox.ack,
        "wait": 20,
        "limit": 1 << 16,
    }
    return dict(agent.op("do", **{**asked, **how}))


def test_a_cell_and_its_events(agent: RawAgent) -> None:
    answer: dict[str, Any] = {}
    for number in range(20):  # a busy machine may take longer than the agent waits
        answer = do(agent, "n += 1\nprint('n is', n)\nn", f"c{number}")
        assert answer["new"] is True
        agent.events += agent.inbox.feed(answer["events"])
        agent.wait_for("execute_reply", f"c{number}")
        assert agent.output(f"c{number}") == f"n is {number + 1}\n{number + 1}"
        if answer["events"]:
            break
    assert [one["type"] for one in answer["events"]][-1] == "execute_reply"
    assert agent.listed()["waiting"] > 0  # type: ignore[index]
    agent.op("read", ack=agent.inbox.ack)
    assert agent.listed()["waiting"] == 0  # type: ignore[index]


def test_it_begins_once(agent: RawAgent) -> None:
    """Repeated by either op, the cell runs once, and a poll has its events; an old message does nothing."""
    n = agent.number()
    do(agent, "n += 1", "c", n=n)
    assert do(agent, "n += 1", "c") == {"new": False, "events": []}
    assert agent.op("submit", request={"kind": "execute", "id": "c", "code": "n += 1"}) == {"new": False}
    agent.wait_for("execute_reply", "c")
    for old in (n, "client-9000"):
        with pytest.raises(AgentError) as error:
            do(agent, "n += 1", "d", n=old)
        assert error.value.code == "stale"
    with pytest.raises(AgentError) as error:
        do(agent, "n += 1", "d", epoch=agent.epoch - 1)
    assert error.value.code == "taken_over"
    assert agent.run("n") == "1"


@pytest.mark.parametrize("op", ["do", "submit"])
def test_a_request_that_comes_again_wakes_the_reader(agent: RawAgent, op: str) -> None:
    """The answer with its events was lost; what was claimed is read by the poll that waits there."""
    for number in range(20):
        agent.execute(f"__import__('sys').modules['{agent_name()}.log.log'].LOOK_AROUND = 60.0")
        name = f"c{number}"
        with contextlib.closing(RawAgent(agent.location)) as reader, ThreadPoolExecutor() as pool:
            reader.epoch, reader.inbox = agent.epoch, agent.inbox
            polled = pool.submit(reader.poll, wait=60.0)
            wait_until(lambda: agent.evaluate(WAITS), "a poll that waits")
            claimed = do(agent, "1", name)["events"]
            again = {"kind": "execute", "id": name, "code": "1"}
            place = {"ack": agent.inbox.ack, "after": agent.inbox.ack, "wait": 20, "limit": 1 << 16}
            assert agent.op(op, request=again, **place if op == "do" else {})["new"] is False
            got = polled.result(30)
        if claimed:  # on a busy machine the cell may have taken longer than the agent waits
            assert [one["number"] for one in got] == [one["number"] for one in claimed]
            return
        agent.wait_for("execute_reply", name)
    raise AssertionError("the agent waits for no cell")


def test_nonsense_is_refused_and_holds_nothing(agent: RawAgent) -> None:
    lies: list[dict[str, Any]] = [
        {"wait": "x"},
        {"limit": None},
        {"ack": "x"},
        {"after": None},
        {"request": {"kind": "execute"}},
    ]
    for lie in lies:
        with pytest.raises(AgentError):
            do(agent, "n += 1", "c", **lie)
        assert agent.run("n") == "0"
