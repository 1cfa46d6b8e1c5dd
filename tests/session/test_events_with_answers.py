"""Events that come with the answer to a cell: each once, whatever that answer says, and whoever takes none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from farside import FlameServer, wait_until
from flakylink import FlakyLink
from hostile import OK, READY, FakeAgent
from rawagent import RawAgent
from trips import ops

import flame
from flame_kernel.connect.target import Location, Target, Timeouts
from flame_kernel.errors import CallTimeout
from flame_kernel.session.bootstrap import agent_name
from flame_kernel.session.inbox import Event
from flame_kernel.session.session import Session


@contextlib.contextmanager
def session_at(
    location: str, has_room: Callable[[], bool] = lambda: True, **more: Any
) -> Iterator[tuple[Session, list[Event]]]:
    seen: list[Event] = []
    target = Target(Location.parse(location), place="process", shell="mini", timeouts=Timeouts(poll=60), **more)
    with contextlib.closing(Session(target, seen.extend)) as session:
        session.take_at_once(has_room)
        session.ready.result(30)
        yield session, seen


@pytest.fixture
def server(flame_server: Callable[..., FlameServer]) -> FlameServer:
    """One whose polls do not look by themselves whether there is something: they have to be woken."""
    made = flame_server()
    with contextlib.closing(RawAgent(made.location)) as agent:
        agent.execute(f"__import__('sys').modules['{agent_name()}.log.log'].LOOK_AROUND = 60.0")
    return made


def text_of(seen: list[Event], request: str) -> str:
    return "".join(e["content"]["text"] for e in seen if e["type"] == "stream" and e["request"] == request)


def run(session: Session, seen: list[Event], name: str) -> None:
    assert session.execute(name, f"print({name!r})").result(30)["status"] == "ok"
    assert text_of(seen, name) == name + "\n"


def is_whole(seen: list[Event]) -> bool:
    return [one["number"] for one in seen] == list(range(1, len(seen) + 1))


def test_who_has_no_room_has_them_by_polls(server: FlameServer) -> None:
    """Before the cell is sent, or when its answer is here."""
    for answers, wanted in (([False], "submit"), ([True, False], "do submit"), ([True, True], "do")):
        with FlakyLink(server.location) as link:
            room = iter(answers)
            with session_at(link.location, lambda: next(room, True)) as (session, seen):  # noqa: B023
                before = len(link.messages)
                run(session, seen, "a")
                said = [op for op in ops(link.messages[before:]) if op in ("do", "submit")]
                # A busy machine may take longer for the cell than the agent waits: then there is nothing to take.
                assert " ".join(said) in (wanted, wanted.split()[0])
                assert is_whole(seen)


def test_a_server_of_one_thread_and_other_requests_get_no_such_op(
    server: FlameServer, flame_server: Callable[..., FlameServer]
) -> None:
    for location, requests in (
        (flame_server(servertype="multiplex").location, [("execute", {"code": "1"})]),
        (server.location, [("complete", {"code": "pri", "cursor_pos": 3}), ("execute", {"code": "#" * 10_000})]),
    ):
        with FlakyLink(location) as link, session_at(link.location) as (session, seen):
            for kind, fields in requests:
                assert session.request(kind, **fields).result(30)["status"] == "ok"
            assert "do" not in ops(link.messages)
            assert is_whole(seen)


def test_a_stop_reaches_a_cell_that_has_just_begun(server: FlameServer) -> None:
    with session_at(server.location) as (session, _):
        for number in range(10):
            cell = session.execute(f"c{number}", "while True: pass")
            wait_until(lambda: session._pending[f"c{number}"].state != "queued", "it is sent")  # noqa: B023
            session.interrupt(f"c{number}").result(10)
            assert cell.result(10)["ename"] == "KeyboardInterrupt"


def test_what_has_come_is_acknowledged_when_nothing_follows(server: FlameServer) -> None:
    """Who takes the session up later is not shown it again."""
    with session_at(server.location, session="read") as (session, seen):
        run(session, seen, "a")
        with contextlib.closing(RawAgent(server.location, "read")) as other:
            wait_until(lambda: other.listed()["waiting"] == 0, "it is acknowledged")  # type: ignore[index]


def test_output_beside_cells_comes_once_and_in_order(server: FlameServer) -> None:
    """A thread prints all the time, to the polls, while cells have their events with their answers."""
    with session_at(server.location) as (session, seen):
        beside = (
            "import threading, time\nover = threading.Event()\ndef chat():\n    n = 0\n"
            "    while not over.is_set():\n        print('beside', n); n += 1; time.sleep(0.001)\n"
            "t = threading.Thread(target=chat); t.start()"
        )
        assert session.execute("chat", beside).result(30)["status"] == "ok"
        for number in range(300):
            run(session, seen, f"c{number}")
        end = "over.set(); t.join(); print('end')"
        assert session.execute("end", end).result(30)["status"] == "ok"
        lines = [line for line in text_of(seen, "chat").splitlines() if line]
        assert lines == [f"beside {n}" for n in range(len(lines))]
        assert len(lines) > 10
        assert is_whole(seen)


def test_calls_of_the_library_have_their_replies_with_the_answer(
    server: FlameServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those with output, a callback or a large value have them by polls, as all have in a group."""
    told: list[int] = []
    with FlakyLink(server.location) as link, flame.connect(link.location, place="process", shell="mini") as pi:
        for call, value in (
            (lambda: pi.modules.os.getpid(), server.pid),
            (lambda: pi.execute("print('a')\nprint('b')"), None),
            (lambda: pi.evaluate("b'x' * 1_000_000"), b"x" * 1_000_000),
            (lambda: pi.run(lambda tell: [tell(number) for number in range(3)], told.append), [None] * 3),
        ):
            before = len(link.messages)
            for _ in range(3):
                assert call() == value
            said = ops(link.messages[before:])
            assert said.count("do") >= 3
            assert "submit" not in said
        assert told == [0, 1, 2] * 3
        assert "a\nb\n" * 3 in capsys.readouterr().out
        with pytest.raises(CallTimeout):
            pi.evaluate("__import__('time').sleep(30)", timeout=0.2)
        assert pi.evaluate("1 + 1") == 2


# -- what a server may say ---------------------------------------------------------------------------------------------


def lies(request: str) -> dict[str, Any]:
    """Answers to a cell; the honest events come by the poll."""
    reply = {"type": "execute_reply", "request": request, "content": dict(OK), "number": 3}
    said = {"type": "stream", "request": request, "content": {"name": "stdout", "text": "x"}, "number": 1}
    return {
        "no events": {"new": True},
        "events that are none": {"new": True, "events": 5},
        "an event that is none": {"new": True, "events": [5]},
        "no numbers": {"new": True, "events": [{**said, "number": None}]},
        "numbers that are none": {"new": True, "events": [{**said, "number": "1"}]},
        "a number of 4,300 digits": {"new": True, "events": [{**said, "number": int("9" * 4300)}]},
        "a gap": {"new": True, "events": [{**said, "number": 1000}]},
        "events of before": {"new": True, "events": [{**said, "number": 1}]},
        "backwards": {"new": True, "events": [reply, {**said, "number": 2}]},
        "buffers that are not there": {"new": True, "events": [{**said, "text_buffer": 7}]},
        "new that is none": {"new": [1], "events": []},
        "nothing": None,
        "bytes": b"",
        "no answer of ours": b"\x00\x01\x02",
    }


@pytest.mark.parametrize("lie", list(lies("")))
def test_a_lie_in_the_answer_changes_nothing(lie: str) -> None:
    told = threading.Event()

    def do(agent: FakeAgent, request: dict[str, Any]) -> Any:
        told.set()
        return lies(request["request"]["id"])[lie]

    with contextlib.closing(FakeAgent({"do": do})) as agent:
        agent.say(READY)
        with session_at(agent.location) as (session, seen):
            wait_until(lambda: len(seen) == 1, "its first event")
            for number in range(3):
                assert session.execute(f"c{number}", "1").result(20) == OK
            assert told.is_set()
            assert is_whole(seen)
            assert len(seen) == 7
            assert session.gone is None
