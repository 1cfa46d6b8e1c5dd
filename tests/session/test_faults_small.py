"""A link that is cut before even a small message is through: whatever is to cross it gets through, and once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from farside import FlameServer
from flakylink import FlakyLink, How
from rawagent import RawAgent

import flame
from flame_kernel.agent.wire import message as wire
from flame_kernel.errors import AgentError, UnsafeAnswer
from flame_kernel.remote.remote import Remote
from flame_kernel.session.poll_size import SMALL, PollSize

# Seconds: it takes three, and nothing came through for ever before.
PATIENCE = 90


@pytest.fixture
def link(server: FlameServer) -> Iterator[FlakyLink]:
    with FlakyLink(server.location) as one:
        yield one


@pytest.fixture
def far(link: FlakyLink) -> Iterator[Remote]:
    with flame.connect(link.location, shell="mini") as remote:
        remote.execute("runs = []")
        yield remote


def told(remote: Remote, code: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The reply to a cell, and what it showed."""
    shown: list[dict[str, Any]] = []
    return remote.cell(code, shown.append).result(PATIENCE), shown


def text(shown: list[dict[str, Any]]) -> str:
    return "".join(event["content"]["text"] for event in shown if event["type"] == "stream")


@pytest.mark.parametrize(("count", "size", "how"), [(5000, 3000, "rst"), (2000, 3000, "fin"), (800, 1800, "rst")])
def test_five_thousand_lines(far: Remote, link: FlakyLink, count: int, size: int, how: How) -> None:
    link.cut_every(size, how)
    reply, shown = told(far, f"runs.append(1)\nfor i in range({count}): print(i)")
    link.cut_every(None)
    assert reply["status"] == "ok"
    assert text(shown) == "".join(f"{i}\n" for i in range(count))
    assert far["runs"] == [1]
    assert link.cuts > 3


SHOWN: dict[str, tuple[str, Callable[[list[dict[str, Any]]], bool]]] = {
    "a line": ("print('x' * 12_000)", lambda shown: text(shown) == "x" * 12_000 + "\n"),
    "lines of two": (
        "import sys\nfor i in range(15): print('é' * 500, flush=True); print(i, file=sys.stderr)",
        lambda shown: text(shown).count("é") == 7_500,
    ),
    "a result": (
        "list(range(1500))",
        lambda shown: shown[-1]["content"]["data"]["text/plain"].startswith("[0,"),
    ),
    "an error": (
        "raise ValueError('y' * 9_000)",
        lambda shown: shown[-1]["type"] == "error" and shown[-1]["content"]["evalue"] == "y" * 9_000,
    ),
}


@pytest.mark.parametrize(
    ("what", "kind"), [(what, "thread") for what in SHOWN] + [("a line", "multiplex"), ("lines of two", "key")]
)
def test_one_event_larger_than_what_passes(
    what: str, kind: str, flame_server: Callable[..., FlameServer], key_file: Callable[[str], Any]
) -> None:
    key = "k" * 32 if kind == "key" else None
    code, is_right = SHOWN[what]
    server = flame_server(key=key, servertype="multiplex" if kind == "multiplex" else "thread")
    where = {"key_file": str(key_file(key))} if key else {}
    with FlakyLink(server.location) as link, flame.connect(link.location, shell="mini", **where) as remote:
        remote.execute("runs = 0")
        link.cut_every(3000)
        reply, shown = told(remote, f"runs += 1\n{code}")
        link.cut_every(None)
        assert reply["status"] == ("error" if what == "an error" else "ok")
        assert is_right(shown), shown
        assert remote["runs"] == 1
        assert link.cuts > 3


def test_a_large_result_on_a_quick_link(far: Remote, link: FlakyLink) -> None:
    """It comes in pieces, of which the next is always on its way; each cut is somewhere else in them."""
    reply, shown = told(far, "runs.append(1); 'x' * 9_000_000")
    assert shown[-1]["content"]["data"]["text/plain"] == repr("x" * 9_000_000)
    link.cut_every(2_500_000)
    reply, shown = told(far, "runs.append(2); 'y' * 9_000_000")
    link.cut_every(None)
    assert reply["status"] == "ok"
    assert [event["content"]["data"]["text/plain"] for event in shown] == [repr("y" * 9_000_000)]
    assert far["runs"] == [1, 2]
    assert link.cuts > 2


def test_a_long_cell(far: Remote, link: FlakyLink) -> None:
    """It goes there in portions, and runs once."""
    link.cut_every(3000)
    reply, shown = told(far, f"runs.append(1)\nx = '''{'y' * 20_000}'''\nprint(len(x))")
    link.cut_every(None)
    assert reply["status"] == "ok"
    assert text(shown) == "20000\n"
    assert far["runs"] == [1]


def test_cells_that_go_together(far: Remote, link: FlakyLink) -> None:
    """Fifty in one call are more than passes: they go one by one then, in their order, each once."""
    link.cut_every(4000)
    cells = [far.cell(f"runs.append({i})  # {'x' * 300}", lambda event: None) for i in range(50)]
    assert [cell.result(PATIENCE)["status"] for cell in cells] == ["ok"] * 50
    link.cut_every(None)
    assert far["runs"] == list(range(50))


def test_values_both_ways(far: Remote, link: FlakyLink) -> None:
    value = random.Random(1).randbytes(20_000)
    link.cut_every(4000)
    assert far.run(lambda sent: runs.append(1) or sent[::-1], value) == value[::-1]  # type: ignore[name-defined]  # noqa: F821
    link.cut_every(None)
    assert far["runs"] == [1]


# -- the agent's side ----------------------------------------------------------------------------------------------


def test_pieces_of_an_answer(server: FlameServer) -> None:
    """Each piece may be asked for again; another poll takes its place; what nobody knows begins anew."""
    agent = RawAgent(server.location)
    agent.open()
    try:
        agent.op("submit", request={"kind": "execute", "id": "c", "code": "print('x' * 5000)"})
        poll: dict[str, Any] = {"ack": 0, "wait": 30.0, "limit": 200, "most": 200}
        while True:
            first, (data,) = _raw(agent, "poll", **poll)
            if first["piece"]["size"] > 5000:
                break
            poll["ack"] = poll["after"] = poll["ack"] + 1
        mark, size = first["piece"]["mark"], first["piece"]["size"]
        whole = bytearray(data)
        while len(whole) < size:
            for _ in range(2):
                more, (data,) = _raw(agent, "poll", **poll, mark=mark, at=len(whole))
                assert more["piece"] == {"mark": mark, "at": len(whole), "size": size}
            whole += data
        message, buffers = wire.decode(bytes(whole))
        (event,) = wire.decode_events(message["events"], buffers)
        assert event["content"]["text"].startswith("x" * 5000)
        again, _ = _raw(agent, "poll", **poll, mark="another", at=200)
        assert again["piece"]["at"] == 0
        assert again["piece"]["mark"] != mark
        for at in (0, size, -1, 1 << 60):
            assert _raw(agent, "poll", **poll, mark=again["piece"]["mark"], at=at)[0]["piece"]["at"] == 0
    finally:
        agent.op("close")
        agent.close()


def test_portions_of_a_request(server: FlameServer) -> None:
    """One that comes twice, or out of its order, changes nothing; a request of portions that never came is refused."""
    agent = RawAgent(server.location)
    agent.open()
    try:
        whole = wire.encode({"op": "submit", "request": {"kind": "execute", "id": "c", "code": "1"}, "n": "old-1"})
        for at, data, come in ((0, whole[:9], 9), (0, whole[:9], 9), (50, b"x", 9), (5, b"xxx", 9)):
            assert _raw(agent, "portion", [data], id="p", at=at)[0] == {"come": come}
        assert _raw(agent, "portion", [b"x"], id="other", at=3)[0] == {"come": 0}
        assert _raw(agent, "portion", [whole[9:]], id="p", at=9)[0] == {"come": len(whole)}
        for name, code in (("q", "bad_request"), (None, "bad_request"), (["p"], "bad_request")):
            with pytest.raises(AgentError) as refused:
                agent.op("submit", gathered=name)
            assert refused.value.code == code
        assert agent.op("submit", gathered="p") == {"new": True}
        assert agent.op("submit", gathered="p") == {"new": False}
        with pytest.raises(AgentError) as refused:
            agent.op("submit", gathered="p", epoch=agent.epoch - 1)
        assert refused.value.code == "taken_over"
    finally:
        agent.op("close")
        agent.close()


def _raw(agent: RawAgent, op: str, buffers: Any = (), **fields: Any) -> tuple[Any, Any]:
    message = {"session": agent.session, "epoch": agent.epoch, **fields, "op": op, "n": agent.number()}
    answer, got = wire.decode(agent.link.invoke(agent.entry, wire.encode(message, buffers)))
    return answer["result"], got


# -- a hostile server ------------------------------------------------------------------------------------------------


def cut_down(amount: PollSize) -> None:
    while "most" not in amount.fields():
        amount.cut({})


EVENTS = wire.encode({"events": [{"type": "clear_output", "request": "c", "content": {}, "number": 1}]})


def piece(mark: str, at: int, size: int) -> dict[str, Any]:
    return {"piece": {"mark": mark, "at": at, "size": size}}


def test_pieces_make_the_answer() -> None:
    amount = PollSize("pi")
    cut_down(amount)
    at = 0
    while at < len(EVENTS):
        assert amount.fields().get("at", 0) == at
        events, _ = amount.whole(piece("m", at, len(EVENTS)), [EVENTS[at : at + 7]])
        at += 7
    assert events[0]["number"] == 1
    assert not amount.is_partial


@pytest.mark.parametrize(
    ("result", "buffers"),
    [
        (piece("m", 0, 100), []),
        (piece("m", 0, 100), [b""]),
        (piece("m", 0, 100), [b"x", b"y"]),
        (piece("m", 0, 100), [b"x" * 101]),
        (piece("m", 1, 100), [b"x"]),
        (piece("m", 0, 1 << 40), [b"x"]),
        (piece("m", 0, 7), [b"not one"]),
        (piece("m", 0, len(EVENTS) - 1), [EVENTS[:-1]]),
    ],
)
def test_pieces_that_cannot_be(result: dict[str, Any], buffers: list[bytes]) -> None:
    with pytest.raises(wire.WireError):
        PollSize("pi").whole(result, buffers)


@pytest.mark.parametrize(
    "inner", [{}, piece("m", 0, 3), {"events": 3}, {"events": [3]}, {"events": {}}, {"result": {"events": []}}]
)
def test_pieces_of_what_is_no_answer(inner: dict[str, Any]) -> None:
    whole = wire.encode(inner)
    with pytest.raises((wire.WireError, UnsafeAnswer)):
        PollSize("pi").whole(piece("m", 0, len(whole)), [whole])


def test_any_pieces_at_all() -> None:
    """Whatever a server says in place of pieces: nothing but these two errors, and never more than it has sent."""
    chance = random.Random(7)
    for _ in range(3000):
        amount = PollSize("pi")
        sent = 0
        for _ in range(chance.randrange(1, 9)):
            size = chance.choice([0, 1, len(EVENTS), 1 << 26, 1 << 27])
            data = EVENTS[: chance.randrange(len(EVENTS) + 1)] if chance.random() < 0.9 else chance.randbytes(9)
            sent += len(data)
            try:
                amount.whole(piece(chance.choice("ab"), chance.choice([0, 0, 1, sent, len(data)]), size), [data])
            except (wire.WireError, UnsafeAnswer):
                break
            assert len(amount._parts) <= sent


def test_it_asks_for_more_again() -> None:
    amount = PollSize("pi")
    cut_down(amount)
    small = amount.fields()["most"]
    assert small < SMALL
    for _ in range(40):
        amount.suit(0.01, amount.fields()["limit"])
    assert amount.fields() == {"limit": 1 << 21}
