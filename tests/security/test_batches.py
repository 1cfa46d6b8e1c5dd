"""Requests that go together, attacked: lost answers, ids twice, cuts, Stops in the middle, a server that lies."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from farside import FlameServer, wait_until
from flakylink import FlakyLink
from rawagent import RawAgent

import flame
from flame_kernel.agent.wire import message as wire
from flame_kernel.errors import AgentError, NotSent
from flame_kernel.remote.remote import Remote


@pytest.fixture
def far(flame_server: Callable[..., FlameServer]) -> Iterator[tuple[Remote, FlakyLink]]:
    with (
        FlakyLink(flame_server().location) as link,
        flame.connect(link.location, place="process", shell="mini") as remote,
    ):
        remote.execute("ran = []")
        yield remote, link


@pytest.mark.parametrize("at", range(7))
def test_a_cut_at_any_byte_of_it(at: int, far: tuple[Remote, FlakyLink]) -> None:
    """There and back: each call is done once, in order, with its own value."""
    remote, link = far
    for way in ("up", "down"):
        link.cut_at(way, 1 + at * 1500)  # type: ignore[arg-type]
        with remote.batch() as b:
            told = [b.evaluate(f"ran.append({number}) or {number} * 3") for number in range(40)]
        link.cut_at("up", None)
        assert [one.result(0) for one in told] == [number * 3 for number in range(40)]
    assert remote["ran"] == [*range(40), *range(40)]


def test_many_lost_answers(far: tuple[Remote, FlakyLink]) -> None:
    """Lost more often than it is tried as a whole: the calls go one by one then, and none of them twice."""
    remote, link = far
    for op in (b'"op":"submits"', b'"op":"submit"'):
        link.swallow(op, times=5)
        with remote.batch() as b:
            told = [b.evaluate(f"ran.append({number}) or {number}") for number in range(150)]
        assert [one.result(0) for one in told] == list(range(150))
    assert remote["ran"] == [*range(150), *range(150)]


def test_ids_that_come_twice(flame_server: Callable[..., FlameServer]) -> None:
    """In one call, in two, and in another order: each request is begun once; and what is no request harms no other."""
    agent = RawAgent(flame_server().location)
    agent.open(place="process", shell="mini")
    try:

        def cell(name: str) -> dict[str, Any]:
            return {"kind": "execute", "id": name, "code": f"print({name!r})"}

        agent.op("submits", request=cell("a"), more=[[cell("b"), 0], [cell("a"), 0], [cell("b"), 0]])
        agent.op("submits", request=cell("b"), more=[[cell("c"), 0], [cell("a"), 0]])
        for more in ([[cell("d"), 0], [{"kind": "execute"}, 0]], [[cell("e"), 0], 3], [[cell("f"), 0], [cell("g")]]):
            with pytest.raises(AgentError):
                agent.op("submits", request=cell("c"), more=more)
        agent.op("submit", request=cell("end"))
        wait_until(lambda: agent.poll(1.0) is None or "end\n" in said(agent), "the last one")
        lines = said(agent).split()
        assert len(lines) == len(set(lines)), lines
        assert lines[:3] == ["a", "b", "c"]
        assert lines[-1] == "end"
        n = agent.number()
        agent.op("submits", n=n, request=cell("x"), more=[])
        with pytest.raises(AgentError) as stale:
            agent.op("submits", n=n, request=cell("y"), more=[])
        assert stale.value.code == "stale"
    finally:
        agent.op("close")
        agent.close()


def said(agent: RawAgent) -> str:
    return "".join(event["content"]["text"] for event in agent.events if event["type"] == "stream")


def test_a_stop_between(far: tuple[Remote, FlakyLink], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a batch waits: what runs there is interrupted, what waits behind it never begins, and nobody who has
    one of its futures waits for ever."""
    remote, _ = far
    from flame_kernel.remote import batch

    def stop(told: Any) -> None:
        wait_until(lambda: remote.session._pending and not remote.session._sending._queue.qsize(), "it is there")
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "next_of", stop)
    b = remote.batch()
    b.evaluate("ran.append('first')")
    told: list[Future[Any]] = [
        b.execute("import time\nwhile True:\n    time.sleep(0.01)"),
        *(b.evaluate("ran.append('never')") for _ in range(20)),
    ]
    with pytest.raises(KeyboardInterrupt):
        b.__exit__(None)
    assert all(one.done() for one in told)
    wait_until(lambda: not remote.session._pending, "the end of all of it", 60)
    assert "never" not in remote["ran"]


def test_a_stop_while_it_is_put_together(far: tuple[Remote, FlakyLink], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before all of it is in line: nothing of it is sent."""
    remote, _ = far
    request, count = remote.session.request, 0

    def interrupted(*args: Any, **fields: Any) -> Future[Any]:
        nonlocal count
        count += 1
        if count == 10:
            raise KeyboardInterrupt
        return request(*args, **fields)

    monkeypatch.setattr(remote.session, "request", interrupted)
    b = remote.batch()
    told = [b.evaluate(f"ran.append({number})") for number in range(20)]
    with pytest.raises(KeyboardInterrupt):
        b.__exit__(None)
    monkeypatch.undo()
    assert all(one.done() for one in told)
    assert remote["ran"] == []


def test_what_was_cancelled_is_left_out(far: tuple[Remote, FlakyLink]) -> None:
    remote, _ = far
    with remote.batch() as b:
        kept, dropped, also = (b.evaluate(f"ran.append({number}) or {number}") for number in range(3))
        assert dropped.cancel()
    assert (kept.result(0), also.result(0)) == (0, 2)
    assert dropped.cancelled()
    assert remote["ran"] == [0, 2]


def test_a_huge_batch(far: tuple[Remote, FlakyLink]) -> None:
    """More calls than the far side remembers by their ids, over a link that breaks."""
    remote, link = far
    link.cut_every(100_000)
    with remote.batch() as b:
        told = [b.evaluate(f"ran.append({number})") for number in range(5000)]
    link.cut_every(None)
    assert all(one.done() and one.exception(0) is None for one in told)
    assert remote["ran"] == list(range(5000))


def test_batches_of_several_threads(far: tuple[Remote, FlakyLink]) -> None:
    remote, link = far
    link.cut_every(50_000)
    wrong: list[Any] = []

    def many(name: str) -> None:
        for _ in range(5):
            with remote.batch() as b:
                told = [b.evaluate(f"({name!r}, {number})") for number in range(30)]
            wrong.extend(one for number, one in enumerate(told) if one.result(0) != (name, number))

    threads = [threading.Thread(target=many, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    link.cut_every(None)
    assert not wrong


LIES: dict[str, Callable[[dict[str, Any], random.Random], None]] = {
    "of another id": lambda event, chance: event.update(request="f" * 32),
    "of no id": lambda event, chance: event.update(request=None),
    "of an id of a number": lambda event, chance: event.update(request=7),
    "of another kind": lambda event, chance: event.update(type="execute_reply"),
    "with no value": lambda event, chance: event["content"].pop("how", None),
    "of buffers that are not there": lambda event, chance: event.update(buffers=[0, 1, 2]),
    "with a status of none": lambda event, chance: event["content"].update(status=chance.choice([None, 3, "odd"])),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_answers_with_others_ids(
    lie: str, far: tuple[Remote, FlakyLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call ends: with its own value or with an error, never with the value of another, and the session goes on
    or says that it is over."""
    remote, _ = far
    real, chance = wire.decode_events, random.Random(1)
    replies = 0

    def lying(plain: list[Any], buffers: Any, keep: bool = False) -> list[dict[str, Any]]:
        nonlocal replies
        for event in plain:
            if event.get("type") == "object_reply":
                replies += 1
                if replies == 5:
                    LIES[lie](event, chance)
        return real(plain, buffers, keep)

    monkeypatch.setattr(wire, "decode_events", lying)
    b = remote.batch()
    told = [b.evaluate(f"{number} + 100") for number in range(12)]
    ended = threading.Event()

    def leave() -> None:
        try:
            b.__exit__(None)
        except flame.FlameError:
            pass
        finally:
            ended.set()

    thread = threading.Thread(target=leave)
    thread.start()
    if lie in (
        "of another id",
        "of no id",
    ):  # an answer that never comes is waited for, as for any server; Stop ends it
        wait_until(lambda: replies >= 12, "the others")
        for request_id in list(remote.session._pending):
            remote.session._settle(request_id, NotSent(remote.session.location))
    assert ended.wait(60)
    thread.join()
    monkeypatch.undo()
    for number, one in enumerate(told):
        assert one.done()
        if one.exception(0) is None:
            assert one.result(0) == number + 100
    if remote.session.gone is None:
        assert sum(one.exception(0) is None for one in told) == 11
        assert remote.evaluate("1") == 1
