"""A Flame server that means harm, against the session and the kernel: nothing runs here, memory stays, each wait ends.

What a single connection makes of such a server is in test_security and test_transport; here it is met in the middle of
a session, where connections are made again, and by an agent that keeps to Pyro's protocol and lies in ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import evil
import pytest
from farside import FlameServer, wait_until
from hostile import HELLO, OK, READY, FakeAgent
from kernels import remote_flame
from mini import plain

from flame_kernel.agent.wire import message as wire
from flame_kernel.errors import AgentError, RemoteError, UnsafeAnswer
from flame_kernel.session import polling
from flame_kernel.session.session import Session

ROOT = Path(__file__).parents[2]
PLACES = ("open", "submit", "poll")
MODES = sorted(name for name in evil.modes("true") if not name.startswith("handshake-"))
# What is read is read by the same code in each place; the costly ones are read once a session and once in it.
AT = {at: [name for name in MODES if at != "poll" or "bomb" not in name] for at in PLACES}

# The server holds the client up: the link is made again as long as somebody waits, and a Stop ends that.
SLOW = ("silence", "drip", "half", "half-header", "header-60mb")
OURS = ("UnsafeAnswer", "RemoteError", "CannotConnect", "CallTimeout", "ConnectionLost", "SessionGone", "AgentError")


@pytest.fixture(scope="module")
def watched() -> Iterator[tuple[dict[str, dict[str, Any]], Path]]:
    """What the watched client reported of each mode at each place, and the canary."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as agents:
        canary = Path(folder, "owned")
        found = {}
        with subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "support" / "hostile.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            lines = []
            for number in range(2):
                honest = agents.enter_context(contextlib.closing(FakeAgent()))
                lines.append(f"honest{number} {honest.location}")
            modes = evil.modes(f"touch {canary}")
            # The ones that take their time go first, to be done beside the others.
            for name in sorted(MODES, key=lambda name: name not in SLOW):
                for at in (at for at in PLACES if name in AT[at]):
                    agent = agents.enter_context(contextlib.closing(FakeAgent(harm=modes[name], at=at)))
                    lines.append(f"{at}:{name} {agent.location}")
            client.stdin.write("\n".join(lines) + "\n")
            client.stdin.close()
            for line in client.stdout:
                one = json.loads(line)
                found[one.pop("name")] = one
            assert client.wait(10) == 0
        yield found, canary


@pytest.mark.timeout(120)
def test_no_server_gets_anything_executed(watched: tuple[dict[str, dict[str, Any]], Path]) -> None:
    found, canary = watched
    assert set(found) == {"", "honest1", *(f"{at}:{name}" for at in PLACES for name in AT[at])}
    assert not canary.exists()
    assert found[""]["events"] == []
    assert found[""]["threads"] == []
    assert found[""]["grown"] < 500 * 2**20  # by ten sessions at once; the limit of one answer is 64 MB
    assert found["honest1"]["outcome"] == "value"


@pytest.mark.parametrize("at", PLACES)
def test_each_ends_with_an_error_of_ours(at: str, watched: tuple[dict[str, dict[str, Any]], Path]) -> None:
    found, _ = watched
    for name in AT[at]:
        seen = found[f"{at}:{name}"]
        if at != "open" and name in SLOW:
            assert seen["outcome"] in ("waiting", *OURS), (name, seen)
            assert seen["seconds"] < 12, (name, seen)
        else:
            assert seen["outcome"] in OURS, (name, seen)
            assert seen["seconds"] < 10, (name, seen)  # ten at once, each told three times


# --- an agent that speaks Pyro well


@contextlib.contextmanager
def session_at(agent: FakeAgent, **timeouts: float) -> Iterator[tuple[Session, list[dict[str, Any]]]]:
    """A session at an agent, and the events that reach it."""
    seen: list[dict[str, Any]] = []
    limits = {"connect": 2.0, "call": 2.0, "poll": 1.0, "poll_deadline": 2.0, **timeouts}
    with contextlib.closing(Session(agent.target(**limits), seen.extend)) as session:
        yield session, seen


def test_the_fake_agent_is_honest_by_default() -> None:
    with contextlib.closing(FakeAgent()) as agent, session_at(agent) as (session, seen):
        agent.say(READY)
        assert session.execute("cell", "1").result(5) == OK
        assert session.ready.result(5)["host"] == "fake"
        assert [event["type"] for event in seen] == ["ready", "stream", "execute_reply"]


LIES: dict[str, Any] = {
    "nothing": None,
    "a list": [1],
    "text": "hello",
    "empty": {},
    "boot": {**HELLO, "boot": None},
    "python": {**HELLO, "python": "3.11"},
    "hashes": {**HELLO, "hashes": ["sha256"]},
    "speeds": {**HELLO, "hashes": {"sha256": "fast"}},
    "python-text": {**HELLO, "python": ["3", "11", "7"]},
    "python-long": {**HELLO, "python": [3] * 1000},
    "python-bool": {**HELLO, "python": [True, True, True]},
    "epoch": {**HELLO, "epoch": {}},
    "newest": {**HELLO, "newest": "9"},
    "fresh": {**HELLO, "fresh": 1},
    "host": {**HELLO, "host": "x" * 1000},
    "ready": {**HELLO, "ready": [1]},
}


@pytest.mark.parametrize("lie", LIES)
def test_an_agent_that_does_not_say_what_it_is(lie: str) -> None:
    with (
        contextlib.closing(FakeAgent({"open": lambda agent, request: LIES[lie]})) as agent,
        pytest.raises(UnsafeAnswer, match="does not say what it is"),
    ):
        Session(agent.target(), lambda events: None)


def _raw(text: bytes, buffers: int = 0) -> bytes:
    return struct.pack(">4sII", wire.MAGIC, len(text), buffers) + struct.pack(">Q", 0) * buffers + text


NO_ANSWERS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "empty": lambda request: b"",
    "short": lambda request: b"FLM1",
    "other-protocol": lambda request: wire.encode({"n": request["n"], "result": dict(HELLO)}).replace(b"FLM1", b"FLM9"),
    "other-call": lambda request: wire.encode({"n": "0-1", "result": dict(HELLO)}),
    "no-number": lambda request: wire.encode({"result": dict(HELLO)}),
    "number-of-another-type": lambda request: wire.encode({"n": [request["n"]], "result": dict(HELLO)}),
    "a-list": lambda request: _raw(b"[]"),
    "no-json": lambda request: _raw(b"{'a': 1}"),
    "python": lambda request: _raw(b"__import__('os').system('true')"),
    "deep": lambda request: _raw(b"[" * 100_000 + b"]" * 100_000),
    "long": lambda request: wire.encode({"n": request["n"]}) + b"more",
    "sizes": lambda request: struct.pack(">4sII", wire.MAGIC, 2**31, 2**31) + b"{}",
    "lists": lambda request: _raw(b'{"n":["' + request["n"].encode() + b'",' + b"[]," * 15_000_000 + b"1]}"),
    "strings": lambda request: _raw(b'{"a":[' + b'"",' * 15_000_000 + b"1]}"),
    "buffers": lambda request: _raw(b"{}", 4_000_000),
    "number": lambda request: _raw(b'{"a":' + b"9" * 5_000_000 + b"}"),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_answers_that_are_none(name: str) -> None:
    with contextlib.closing(FakeAgent({"open": lambda agent, request: NO_ANSWERS[name](request)})) as agent:
        began = time.monotonic()
        with pytest.raises(UnsafeAnswer):
            Session(agent.target(), lambda events: None)
        assert time.monotonic() - began < 60


def test_an_error_that_is_none_is_told_in_short() -> None:
    for error in (["x"], "text", 3, {"code": "x" * 10**6, "message": "y" * 10**6}, {}):
        answer = lambda agent, request, error=error: wire.encode({"n": request["n"], "error": error})  # noqa: E731
        with contextlib.closing(FakeAgent({"open": answer})) as agent, pytest.raises(AgentError) as caught:
            Session(agent.target(), lambda events: None)
        assert len(str(caught.value)) < 20_000


def _text(text: str, **more: Any) -> dict[str, Any]:
    return {"content": {"name": "stdout", "text": text}, **more}


# Name -> what the log holds in place of a cell's end; each ends the session, and the cell with it.
BAD_EVENTS: dict[str, list[Any]] = {
    "gap": [_text("a"), _text("b", number=3)],
    "later": [_text("a", number=7)],
    "no-number": [{**_text("a"), "number": None}],
    "number-text": [_text("a", number="1")],
    "number-huge": [_text("a", number=10**30)],
    "type-missing": [{"type": None, "content": {}}],
    "type-list": [{"type": ["stream"], "content": {}}],
    "content-list": [{"type": "stream", "content": ["text"]}],
    "content-none": [{"type": "display_data", "content": None}],
    "request-list": [{"type": "execute_reply", "request": ["cell"], "content": OK}],
    "request-dict": [{"type": "stream", "request": {}, "content": {}}],
    "request-number": [{"type": "execute_reply", "request": 1, "content": OK}],
    "metadata-text": [{"type": "display_data", "content": {"data": {}}, "metadata": "x"}],
    "buffer-unknown": [{"type": "comm_msg", "content": {}, "buffers": [0]}],
    "buffer-list": [{"type": "comm_msg", "content": {}, "buffers": [[]]}],
    "buffers-number": [{"type": "comm_msg", "content": {}, "buffers": 3}],
    "text-buffer-unknown": [_text("a", text_buffer=3)],
    "text-buffer-text": [_text("a", text_buffer="0")],
}


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_events_that_cannot_be(name: str) -> None:
    submit = lambda agent, request: agent.say(*BAD_EVENTS[name])  # noqa: E731
    with contextlib.closing(FakeAgent({"submit": submit})) as agent, session_at(agent) as (session, _):
        with pytest.raises(UnsafeAnswer):
            session.execute("cell", "1").result(5)
        assert isinstance(session.gone, UnsafeAnswer)
        with pytest.raises(UnsafeAnswer):
            session.execute("next", "1").result(5)


@pytest.mark.parametrize("result", [None, 3, "events", [], {}, {"events": 3}, {"events": "abc"}, {"events": [3]}])
def test_polls_that_bring_no_events(result: Any) -> None:
    poll = lambda agent, request: result  # noqa: E731
    with (
        contextlib.closing(FakeAgent({"poll": poll})) as agent,
        session_at(agent) as (session, _),
        pytest.raises(UnsafeAnswer),
    ):
        session.execute("cell", "1").result(5)


def test_a_buffer_named_many_times_is_refused() -> None:
    """A megabyte that a million events share would be a terabyte."""
    shared = [{"type": "stream", "content": {"name": "stdout"}, "number": n, "text_buffer": 0} for n in range(1, 5000)]
    others = [{"type": "comm_msg", "content": {}, "number": n, "buffers": [0] * 100} for n in range(1, 5000)]
    for events in (shared, others):
        poll = lambda agent, request, events=events: ({"events": events}, [bytes(2**20)])  # noqa: E731
        with contextlib.closing(FakeAgent({"poll": poll})) as agent, session_at(agent) as (session, seen):
            with pytest.raises(UnsafeAnswer, match="share their buffers"):
                session.execute("cell", "1").result(5)
            assert seen == []


def test_replies_to_what_was_not_asked_change_nothing() -> None:
    def submit(agent: FakeAgent, request: dict[str, Any]) -> Any:
        agent.say(
            {"type": "execute_reply", "request": "somebody's", "content": {"status": "error"}},
            {"type": "execute_reply", "request": None, "content": {}},
            {"type": "unheard_of"},
            {"type": "ready", "content": {"host": "again"}},
            {"type": "ready", "content": {"host": "and again"}},
        )
        agent.reply(request["request"]["id"])
        agent.reply(request["request"]["id"])
        return {"new": True, "more": "than is asked for"}

    with contextlib.closing(FakeAgent({"submit": submit})) as agent, session_at(agent) as (session, _):
        for number in range(3):
            assert session.execute(f"cell {number}", "1").result(5) == OK
        assert session.gone is None


def test_repeated_events_come_once() -> None:
    def poll(agent: FakeAgent, request: dict[str, Any]) -> Any:
        with agent.news:
            agent.news.wait_for(lambda: len(agent.events) > request["ack"] or agent.over.is_set(), request["wait"])
            return {"events": agent.events}  # all of them, each time

    with contextlib.closing(FakeAgent({"poll": poll})) as agent, session_at(agent) as (session, seen):
        for number in range(5):
            assert session.execute(f"cell {number}", "1").result(5) == OK
        assert [event["number"] for event in seen] == list(range(1, 11))


def test_a_poll_that_never_waits_does_not_keep_us_busy() -> None:
    polls = []
    poll = lambda agent, request: polls.append(1) or {"events": []}  # type: ignore[func-returns-value]  # noqa: E731
    with contextlib.closing(FakeAgent({"poll": poll})) as agent, session_at(agent):
        began = time.monotonic()
        wait_until(lambda: len(polls) > 20, "some polls")
        assert time.monotonic() - began > 15 * polling.EARLY


def test_a_hundred_thousand_events() -> None:
    texts = [_text("x", request="cell") for _ in range(100_000)]

    def submit(agent: FakeAgent, request: dict[str, Any]) -> Any:
        agent.say(*texts)
        agent.reply("cell")
        return {"new": True}

    with (
        contextlib.closing(FakeAgent({"submit": submit})) as agent,
        # a busy machine takes longer than two seconds for it; a request that is sent again would say it all again
        session_at(agent, call=60, poll_deadline=60) as (session, seen),
    ):
        assert session.execute("cell", "1").result(60) == OK
        assert len(seen) == 100_002


def test_a_callback_that_cannot_show_an_event_ends_the_session_not_the_wait() -> None:
    def on_events(events: list[dict[str, Any]]) -> None:
        raise ZeroDivisionError

    with (
        contextlib.closing(FakeAgent()) as agent,
        contextlib.closing(Session(agent.target(), on_events)) as session,
        pytest.raises(UnsafeAnswer, match="ZeroDivisionError"),
    ):
        session.execute("cell", "1").result(5)


def test_a_remote_error_for_an_answer_is_only_told() -> None:
    answer = evil._send(
        lambda seq: evil.message(evil.RESULT, pickle.dumps(SystemExit(3), 4), seq, flags=evil.EXCEPTION)
    )
    with contextlib.closing(FakeAgent(harm=answer, at="submit")) as agent, session_at(agent) as (session, _):
        with pytest.raises(RemoteError, match="SystemExit"):
            session.execute("cell", "1").result(5)
        assert session.gone is None


# --- the kernel before such an agent


REFUSED = "UnsafeAnswer: "

KERNEL_CASES: dict[str, tuple[list[Any], str | None]] = {
    "foreign": ([_text("foreign\n", request="somebody's"), _text("nobody's\n", request=None)], None),
    "unheard-of": ([{"type": "unheard_of", "content": {"x": 1}}, {"type": "", "content": {}}], None),
    "stream-odd": (
        [{"type": "stream", "content": {"name": ["x"], "text": 7}}, {"type": "stream", "content": {}}],
        None,
    ),
    "display-odd": ([{"type": "display_data", "content": {"data": 5, "metadata": [], "transient": "x"}}], None),
    "display-empty": ([{"type": "display_data", "content": {}}, {"type": "execute_result", "content": {}}], None),
    "not-a-number": ([{"type": "display_data", "content": {"data": {"text/plain": float("nan")}}}], None),
    "error-odd": ([{"type": "error", "content": {"traceback": 3}}], None),
    "comm-odd": ([{"type": "comm_open", "content": {"comm_id": {"a": 1}}}, {"type": "comm_msg", "content": {}}], None),
    "clear-odd": ([{"type": "clear_output", "content": {"wait": "maybe"}}], None),
    "huge-mime": ([{"type": "display_data", "content": {"data": {"text/html": "x" * 20_000_000}}}], None),
    "many": ([_text("x") for _ in range(20_000)], None),
    "prompt-odd": ([{"type": "input_request", "content": {}}, {"type": "input_cancelled", "content": {}}], None),
    "gap": ([_text("a", number=99)], "UnsafeAnswer: "),
    "request-odd": ([{"type": "stream", "request": [], "content": {}}], "UnsafeAnswer: "),
    "reply-empty": ([{"type": "execute_reply", "request": "*", "content": {}}], "UnsafeAnswer: "),
    "reply-odd": ([{"type": "execute_reply", "request": "*", "content": {"status": 5}}], "UnsafeAnswer: "),
    "reply-count": (
        [{"type": "execute_reply", "request": "*", "content": {**OK, "execution_count": "x"}}],
        "UnsafeAnswer: ",
    ),
    "reply-count-huge": (
        [{"type": "execute_reply", "request": "*", "content": {**OK, "execution_count": -5}}],
        "UnsafeAnswer: ",
    ),
}


def test_the_kernel_outlives_a_hostile_agent(flame_server: Callable[..., FlameServer]) -> None:
    """One after the other by ``%flame connect``: each cell has its reply, and a good server works afterwards."""
    with contextlib.ExitStack() as agents, remote_flame() as k:
        for name, (events, error) in KERNEL_CASES.items():

            def submit(agent: FakeAgent, request: dict[str, Any], events: list[Any] = events) -> Any:
                one = request["request"]
                if one["kind"] == "execute":
                    agent.say(*[{"request": one["id"], **event} for event in events if event.get("request") != "*"])
                    agent.say(*[{**event, "request": one["id"]} for event in events if event.get("request") == "*"])
                    agent.reply(one["id"])
                else:
                    agent.answer(one)
                return {"new": True}

            agent = agents.enter_context(contextlib.closing(FakeAgent({"submit": submit})))
            agent.say(READY)
            connected = k.execute(f"%flame connect {agent.location}")
            assert connected.error is None, (name, connected)
            run = k.execute("1")
            if error is None:
                assert run.error is None or name == "error-odd", (name, run)
                assert run.reply is not None
                assert run.reply["status"] == "ok", (name, run)
            else:
                assert plain(run.traceback).startswith(error), (name, run)
            assert k.manager.is_alive()
            assert k.complete("x")["status"] == "ok", name
        run = k.execute(f"%flame connect {flame_server().location}\nprint('good')\n6 * 7")
        assert (run.stdout.splitlines()[-1], run.result) == ("good", "42")


def test_the_kernels_words_about_a_lying_agent() -> None:
    ready = {
        "type": "ready",
        "content": {"host": ["x"], "pid": "y" * 100, "python": None, "shell": 5, "shell_reason": {}},
    }
    with contextlib.closing(FakeAgent()) as agent, remote_flame(env={"FLAME_TARGET": agent.location}) as k:
        agent.say(ready)
        assert k.execute("1").reply is not None
        assert k.execute("%flame status").error is None
        assert k.kernel_info()["status"] == "ok"
        assert isinstance(k.usage(), dict)
