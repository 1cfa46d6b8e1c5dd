"""Answers of the wrong shape: each is right, or an UnsafeAnswer; never another error, and no request is left alone."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hostile import HELLO, OK, READY, FakeAgent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels import remote_flame

import flame
from flame_kernel.agent import handle as agent_handle
from flame_kernel.agent.wire import message as wire
from flame_kernel.agent.wire.message import COMMS
from flame_kernel.commands import kept_cells, monitor, sessions
from flame_kernel.connect.target import Target
from flame_kernel.connect.units import moment_in_words, time_in_words
from flame_kernel.errors import FlameError, UnsafeAnswer
from flame_kernel.files.downloads import description
from flame_kernel.kernel import iopub
from flame_kernel.profile import memory
from flame_kernel.profile.profile import Profile
from flame_kernel.security import answers, completions
from flame_kernel.session.agent_client import AgentClient
from flame_kernel.session.session import Session

SHOWN = ("display_data", "update_display_data", "execute_result", "error", "clear_output", *COMMS)
HUGE = int("9" * 4300)

# -- samples: what an honest agent answers -----------------------------------------------------------------------------

EVENT = {"type": "stream", "request": "c", "content": {"name": "stdout", "text": "x"}, "number": 1}
CELL = {"request": "c", "count": 1, "code": "1", "started": 1.5, "ended": None, "status": None, "bytes": 3}
SESSION = {
    "session": "s",
    "life": "ab",
    "place": "child",
    "client": "me",
    "notebook": "",
    "pid": 7,
    "started": 1.5,
    "age": 2.5,
}
SESSION |= {"state": "busy", "code": "1", "running_for": 0.5, "waiting": 0, "attached": True, "alone": 0.0}
HELD = {"id": "ab-1", "kind": "object", "class": "builtins.object", "protocol": ["__len__"]}
HELD["classes"] = [[None, "collections", "OrderedDict"], [None, "builtins", "dict"]]
RESULTS: dict[str, Any] = {
    "hello": {name: HELLO[name] for name in HELLO.keys() - {"epoch", "fresh", "place", "newest", "ready"}},
    "checkup": {
        "python": [3, 11, 7],
        "implementation": "cpython",
        "pyro": "4.82",
        "workers": [1, 40],
        "packages": {"IPython": "9", "debugpy": None},
        "folder": "/tmp",
        "free": 10**9,
        "journal": True,
        "spare": None,
    },
    "open": {
        **HELLO,
        "acknowledged": 0,
        "running": [{"request": "c", "code": "1", "started": 1.5}],
        "inputs": [{"input_id": 1, "prompt": "> ", "password": False, "request": "c"}],
        "ready": READY["content"],
    },
    "submit": {"new": True},
    "submits": {"new": True},
    "do": {"new": True, "events": [EVENT]},
    "read": {},
    "portion": {"come": 3},
    "poll": {"events": [EVENT]},
    "interrupt": {"done": "raised"},
    "answer": {"taken": True},
    "detach": {"detached": True},
    "close": {"closed": True},
    "kill": {"closed": False},
    "sessions": [SESSION],
    "files": {"talk": "ab" * 32},
    "call_files": {},
    "ask": {"asked": "1"},
    "asked": {"state": "waiting"},
    "consent": {"done": True},
    "watch": {"events": [EVENT], "newest": 1, "skipped": 0},
    "cells": [CELL],
    "replay": {"events": [EVENT], "done": True},
}
ERROR = {"status": "error", "ename": "E", "evalue": "x", "traceback": ["x"]}
STACK = {
    "kind": "cell",
    "name": "cell 1",
    "state": "running",
    "since": 1.5,
    "frames": [{"file": "f.py", "line": 1, "name": "f", "source": "x"}, {"left_out": 3}],
}
REPLIES: dict[str, list[dict[str, Any]]] = {
    "execute": [
        {**OK, "payload": [{"source": "page"}], "user_expressions": {"a": {"status": "ok", "data": {}}}},
        {**ERROR, "execution_count": 3, "payload": [], "user_expressions": {}},
    ],
    "comm": [{"status": "ok"}, {"status": "error"}],
    "complete": [
        {"status": "ok", "matches": ["print"], "cursor_start": 0, "cursor_end": 2, "metadata": {"x": [{"text": "y"}]}},
        ERROR,
    ],
    "inspect": [{"status": "ok", "found": True, "data": {"text/plain": "x"}, "metadata": {}}, ERROR],
    "comm_info": [{"status": "ok", "comms": {"a": {"target_name": "jupyter.widget"}}}, ERROR],
    "comm_announce": [{"status": "ok"}],
    "usage": [{"hostname": "h", "pid": 3, "kernel_cpu": 1.5, "host_virtual_memory": {"total": 10**9, "percent": 3.5}}],
    "cwd": [{"status": "ok", "cwd": "/tmp"}],
    "open_lane": [{"status": "ok"}],
    "close_lane": [{"status": "ok"}],
    "send_module": [{"status": "ok"}, ERROR],
    "get_module": [{"status": "ok", "source": "x = 1"}, ERROR],
    "debug": [{"type": "response", "command": "attach", "success": True, "body": {"x": 1}}, ERROR],
    "where": [{"status": "ok", "pid": 3, "place": "child", "stacks": [STACK], "left_out": 0}, ERROR],
    "profile": [
        {
            "status": "ok",
            "pid": 3,
            "scope": "all",
            "mode": "wall",
            "seconds": 1.5,
            "samples": 150,
            "cost": 0.01,
            "note": "",
            "idle": ["t: f, line 1"],
            "threads": ["t"],
            "functions": [["f", "/a.py"]],
            "frames": [[0, 1]],
            "stacks": [[0, 1.5, [0]]],
            "sources": [[0, "x"]],
            "left_out": 0.0,
        },
        ERROR,
    ],
    "memory": [
        {
            "status": "ok",
            "pid": 3,
            "tracing": True,
            "traced": 10,
            "overhead": 10,
            "seconds": 0.1,
            "lines": [["/a.py", 1, 10, 1, 10, "x"]],
            "types": [["dict", 1, 10]],
            "objects": 1,
            "holders": {"nodes": [["object", "dict", 10, ""]], "edges": [[0, 0, "key", "x"]], "note": ""},
        },
        ERROR,
    ],
    "audit": [{"status": "ok"}, ERROR],
    "profile_end": [{"status": "ok"}, ERROR],
    "top": [
        {
            "status": "ok",
            "pid": 3,
            "host": "h",
            "cpus": 2,
            "load": [0.5, 1.0, 2.0],
            "cpu": 3.5,
            "memory": 10**8,
            "machine_memory": [10**9, 10**10],
            "age": 12.5,
            "threads": [{"id": 1, "name": "t", "cpu": 1.5}],
            "busy_count": 1,
            "thread_count": 3,
            "children": [{"pid": 4, "name": "c", "cpu": 0.5, "memory": 10**6}],
            "child_count": 1,
            "files": ["7 /tmp/x"],
            "file_count": 1,
            "others": {"socket": 3},
        },
        ERROR,
    ],
    "watch": [{"status": "ok", "data": {"text/plain": "1"}, "metadata": {}}, ERROR],
    "object": [
        {"status": "ok", "how": "none"},
        {"status": "ok", "how": "value"},
        {"status": "ok", "how": "held", "held": HELD},
        {"status": "ok", "how": "pieces", "ticket": "t", "sizes": [3, 4]},
        {"status": "ok", "how": "items", "done": True, "slow": False, "entries": [1, HELD], "parts": 1},
        {"status": "gone", "message": "x"},
        {"status": "refused", "why": "not plain", "message": "x"},
        {**ERROR, "bases": ["ValueError"]},
    ],
    "object.piece": [{"status": "ok"}, {"status": "gone", "message": "x"}],
    "object.stage": [{"status": "ok"}, {"status": "refused", "why": "unreadable", "message": "x"}],
    "object.staged": [{"status": "ok", "come": 3}],
    "object.drop": [{"status": "ok"}],
    "object.release": [{"status": "ok"}],
}
HOT = {"status": "ok", "modules": [["m", 30, 1]], "own": ["n"], "failed": {"m": "SyntaxError"}}
REPLIES |= {f"hot.{op}": [HOT, ERROR] for op in ("start", "update", "list")}
REPLIES |= {
    "hot.stop": [{"status": "ok", "forgotten": 2}, ERROR],
    "hot.answer": [{"status": "ok", "wanted": True}, ERROR],
    "hot.source": [{"status": "ok", "source": "def f(): pass"}, ERROR],
    "hot.fix": [{"status": "ok", "number": 1, "notes": ["x"]}, ERROR],
    "hot.unfix": [{"status": "ok", "undone": [[1, "m.f"]]}, ERROR],
    "hot.fixes": [{"status": "ok", "fixes": [[1, "m.f", "me", "s", 2.5]]}, ERROR],
}
BUNDLE = {"data": {"text/plain": "x"}, "metadata": {"text/plain": {}}, "transient": {"display_id": "d"}}
EVENTS: dict[str, dict[str, Any]] = {
    "stream": {"name": "stdout", "text": "x"},
    "display_data": BUNDLE,
    "update_display_data": BUNDLE,
    "execute_result": {**BUNDLE, "execution_count": 1},
    "error": {"ename": "E", "evalue": "x", "traceback": ["x"]},
    "clear_output": {"wait": True},
    "input_request": {"input_id": 1, "prompt": "> ", "password": False},
    "callback_request": {"callback_id": 1, "callback": 0, "what": "call"},
    "input_cancelled": {"input_id": 1},
    "hot_request": {"hot_id": 1, "what": "module", "name": "m"},
    "comm_open": {"comm_id": "a", "target_name": "t", "data": {}},
    "comm_msg": {"comm_id": "a", "data": {"x": [1]}},
    "comm_close": {"comm_id": "a", "data": {}},
    "debug_event": {"type": "event", "event": "stopped", "body": {"threadId": 1}, "seq": 3},
    "takeover_request": {"id": "1", "client": "me"},
    "ready": READY["content"],
    "status": {"execution_state": "busy"},
    "died": {"pid": 3, "status": 1, "reason": "x"},
}
WHAT = {"kind": "file", "size": 3, "mode": 0o644, "mtime": 10**18}
FILES: dict[str, dict[str, Any]] = {
    "find": {"found": [{**WHAT, "path": "/a/b", "name": "b", "source": "b"}]},
    "where": {**WHAT, "path": "/a/b", "parent": "folder"},
    "total": {"files": 3, "bytes": 4},
    "list": {"entries": [{**WHAT, "path": ["b"]}, {**WHAT, "kind": "odd", "path": ["c"], "reason": "x"}], "last": True},
    "sums": {"sums": ["ab"], "size": 3},
    "read": {"at": 3, "last": True, "changed": False},
    "look": {**WHAT, "part": 0},
    "done": {"same": False},
    "write": {"same": False},
    "folder": {"made": True},
    "link": {"made": False},
}


def test_there_is_a_sample_and_a_shape_of_each() -> None:
    assert set(RESULTS) == set(answers.RESULTS) == set(agent_handle._OPS)
    assert set(REPLIES) == set(answers.REPLIES)
    assert set(EVENTS) >= set(answers.EVENTS)
    assert set(FILES) == set(answers.FILES)


@pytest.mark.parametrize("op", RESULTS)
def test_honest_answers_pass(op: str) -> None:
    assert answers.result(op, RESULTS[op], "pi") is RESULTS[op]


@pytest.mark.parametrize("shape", REPLIES)
def test_honest_replies_pass(shape: str) -> None:
    for content in REPLIES[shape]:
        assert answers.reply(shape, content, "pi") is content


def test_honest_events_pass() -> None:
    batch = [{"type": kind, "request": "c", "content": content, "number": 1} for kind, content in EVENTS.items()]
    assert answers.events(batch) == batch


@pytest.mark.parametrize("op", FILES)
def test_honest_files_pass(op: str) -> None:
    assert answers.files(op, FILES[op], "pi") is FILES[op]
    assert answers.files(op, {"error": "x", "code": "full"}, "pi")


# -- the same, changed at random ---------------------------------------------------------------------------------------

DEEP: Any = "x"
for _ in range(250):
    DEEP = [DEEP]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([HUGE, -HUGE, 2**53 + 1, -1, 2**63, 2**64]),
    st.sampled_from([math.inf, -math.inf, math.nan, 1e300, -1e300, 0.5]),
    st.text(max_size=10),
    st.sampled_from(["x" * 5000, "\x1b[2J", "\ud800", ""]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.none(), max_size=3),
    st.builds(lambda: copy.deepcopy(DEEP)),
    st.lists(st.dictionaries(st.text(max_size=5), st.integers(), max_size=2), max_size=3),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all parts of a value."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in parts if len(path) < 20 else ():
        yield from places(one, (*path, key))


@st.composite
def changed(draw: Callable[[Any], Any], value: Any) -> Any:
    """A value of JSON with one to three of its parts replaced, left out, doubled, or joined by others."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(value))))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(ODD)
            continue
        above = value
        for key in path[:-1]:
            above = above[key]
        how = draw(st.sampled_from(["replace", "replace", "leave out", "join"]))
        if how == "replace":
            above[path[-1]] = draw(ODD)
        elif how == "leave out":
            del above[path[-1]]
        elif isinstance(above, dict):
            above[draw(st.text(max_size=5))] = draw(ODD)
        else:
            above.append(draw(ODD))
    return value


MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.mark.parametrize("op", RESULTS)
def test_changed_answers_are_right_or_unsafe(op: str) -> None:
    @MANY
    @given(changed(RESULTS[op]))
    def check(value: Any) -> None:
        try:
            answers.result(op, value, "pi")
        except UnsafeAnswer:
            return
        read_result(op, value)

    check()


def read_result(op: str, value: Any) -> None:
    """What is done with an answer that has passed."""
    if op in ("open", "hello"):
        assert tuple(value["python"]) >= ()
        assert value["boot"] + value["host"] + value["servertype"]
    if op == "open":
        assert value["newest"] - value.get("acknowledged", value["newest"]) + value["epoch"] >= -(2**54)
        assert all(cell["request"] is not None for cell in value.get("running", []))
    elif op == "sessions":
        assert all(isinstance(line, str) for line in sessions.lines(value))
    elif op == "cells":
        for one in value:
            assert kept_cells.label(one) + kept_cells.header(one)
            assert moment_in_words(one.get("started"))
        with contextlib.suppress(FlameError):
            kept_cells.choose(value, 1, None, [])
    elif op in ("poll", "watch", "replay"):
        with contextlib.suppress(wire.WireError):
            answers.events(wire.decode_events(value["events"], []))


@pytest.mark.parametrize("shape", REPLIES)
def test_changed_replies_are_right_or_unsafe(shape: str) -> None:
    rendering = Target().rendering(lambda request, sentence: None)

    @MANY
    @given(st.sampled_from(REPLIES[shape]).flatmap(changed))
    def check(content: Any) -> None:
        if not isinstance(content, dict):
            return  # the wire refuses it
        try:
            answers.reply(shape, content, "pi")
        except UnsafeAnswer:
            return
        json.loads(iopub.pack(rendering.reply("c", content)))
        json.loads(iopub.pack(content))
        if shape == "complete":
            json.loads(iopub.pack(completions.offered(content, "pr", 2).reply()))
        elif shape == "where" and content["status"] == "ok":
            assert monitor.where_text(content, True, "pi")
        elif shape == "top" and content["status"] == "ok":
            assert monitor.top_text(content, "pi")
        elif shape == "profile" and content["status"] == "ok":
            with contextlib.suppress(UnsafeAnswer):
                assert json.loads(iopub.pack(Profile.of_reply(content, "pi").bundle()))
        elif shape == "memory" and content["status"] == "ok":
            assert [memory.shown(what, content, "pi") for what in ("start", "stop", "look", "types")]
            with contextlib.suppress(UnsafeAnswer):
                assert json.loads(iopub.pack(memory.shown("holders", content, "pi").bundle()))
        elif shape == "watch":
            assert monitor.watch_bundle("x", content)
        elif shape == "comm_info" and content["status"] == "ok":
            assert all(one["target_name"] is not None for one in content["comms"].values())
        elif shape == "execute":
            assert str((content.get("execution_count") or 0) + 1)

    check()


@pytest.mark.parametrize("kind", EVENTS)
def test_changed_events_are_right_or_a_line_that_says_so(kind: str) -> None:
    rendering = Target().rendering(lambda request, sentence: None)
    session: Any = None

    @MANY
    @given(changed(EVENTS[kind]))
    def check(content: Any) -> None:
        if not isinstance(content, dict):
            return  # the wire refuses it
        (event,) = answers.events([{"type": kind, "request": "c", "content": content, "number": 7}])
        assert (event["request"], event["number"]) == ("c", 7)
        if event["type"] != kind:
            assert event["content"]["name"] == "stderr"
            assert re.match(r"\[refused an event .*\]\n", event["content"]["text"])
        sent: list[Any] = []
        shown = iopub.Publisher(lambda *message, **more: sent.append(message), lambda *result: None, lambda *ask: None)
        shown.remember("c", {"header": {"msg_id": "c"}}, None)
        known = iopub._Known(Target(trust=True).rendering(shown._say))
        for one in (known, iopub._Known(Target().rendering(shown._say))):
            one.requests["c"] = None
            shown._publish(session, one, [event])
        for message in sent:
            json.loads(iopub.pack(message[1]))
        rendering.event(event) if event["type"] in SHOWN else None

    check()


@pytest.mark.parametrize("op", FILES)
def test_changed_files_are_right_or_unsafe(op: str) -> None:
    @MANY
    @given(changed(FILES[op]))
    def check(message: Any) -> None:
        if not isinstance(message, dict):
            return  # a frame is an object
        with contextlib.suppress(UnsafeAnswer):
            answers.files(op, message, "pi")
            if "error" not in message and op == "find":
                for one in message["found"]:
                    description(one, "pi")

    check()


# -- what is read without a check, and by whoever calls it -------------------------------------------------------------

NUMBERS = [math.inf, -math.inf, math.nan, 1e300, -1e300, HUGE, None, "x", [], {}]


@pytest.mark.parametrize("number", NUMBERS, ids=[str(type(one).__name__) + str(n) for n, one in enumerate(NUMBERS)])
def test_times_and_sizes_are_told_or_not(number: Any) -> None:
    assert moment_in_words(number) == time_in_words(number) == "?"
    assert kept_cells.header({"started": number})
    for reply in (
        {"pid": 1, "host": "h", "age": number},
        {"status": "ok", "pid": 1, "host": "h", "memory": number},
        {"status": "ok", "pid": 1, "host": "h", "threads": [{"name": "x", "id": 1, "cpu": number}]},
        {"status": "ok", "pid": number, "host": "h"},
    ):
        with contextlib.suppress(UnsafeAnswer):
            monitor.top_text(reply, "pi")
    stack = {"kind": "cell", "name": "c", "state": "", "since": number, "frames": []}
    with contextlib.suppress(UnsafeAnswer):
        monitor.where_text({"status": "ok", "pid": 1, "place": "child", "stacks": [stack]}, True, "pi")
    with pytest.raises(UnsafeAnswer):
        description({"size": number}, "pi")
    for message in (
        {"name": "x", "text": number},
        {"name": number, "text": "x"},
        {"name": number, "text": "x" * 10**5},
    ):
        if number != HUGE:
            json.loads(iopub.pack(message))


# -- in a session ------------------------------------------------------------------------------------------------------

WRONG: dict[str, Any] = {
    "no status": {},
    "a list of matches that is none": {"status": "ok", "matches": 3, "cursor_start": 0, "cursor_end": 0},
    "no comms": {"status": "ok"},
    "found what is no data": {"status": "ok", "found": True, "data": 3},
    "a count of 4,300 digits": {**OK, "execution_count": HUGE},
    "a count below nothing": {**OK, "execution_count": -1},
    "expressions that are none": {**OK, "user_expressions": [1]},
    "a payload that is none": {**OK, "payload": 7},
    "too deep": {**OK, "user_expressions": {"a": {"x": DEEP}}},
    "buffers in the JSON": {**OK, "buffers": ["x"]},
    "an odd status": {"status": ["ok"]},
}


@contextlib.contextmanager
def answering(content: Any, kind: str = "") -> Iterator[tuple[FakeAgent, Session]]:
    """A session at an agent that replies so to each request, by an event of its kind, or of another one."""

    def submit(agent: FakeAgent, request: dict[str, Any]) -> Any:
        one = request["request"]
        agent.say({"type": (kind or one["kind"]) + "_reply", "request": one["id"], "content": content})
        return {"new": True}

    with (
        contextlib.closing(FakeAgent({"submit": submit})) as agent,
        contextlib.closing(Session(agent.target(connect=5.0, call=5.0, poll=1.0, poll_deadline=5.0), bool)) as session,
    ):
        agent.say(READY)
        yield agent, session


@pytest.mark.parametrize("wrong", WRONG)
def test_each_request_has_its_answer(wrong: str) -> None:
    with answering(WRONG[wrong]) as (_, session):
        asked: dict[str, Future[Any]] = {
            "execute": session.execute("a", "1"),
            "complete": session.complete("b", "pr", 2),
            "inspect": session.inspect("c", "pr", 2),
            "comm_info": session.comm_info(),
            "object": session.request("object", root=["builtins"]),
            "object.staged": session.request("object", op="staged", ticket="x"),
            "where": session.request("where"),
            "top": session.request("top"),
        }
        refused = 0
        for shape, future in asked.items():
            try:
                answers.reply(shape, future.result(15), "pi")
            except UnsafeAnswer:
                refused += 1
        assert refused >= 6  # some is right for one of them
        assert session.gone is None


def test_a_reply_of_another_kind_is_refused() -> None:
    with answering(dict(OK), kind="complete") as (_, session), pytest.raises(UnsafeAnswer, match="another kind"):
        session.execute("a", "1").result(15)


def test_wrong_answers_to_ops_end_the_wait() -> None:
    for op, wrong in (("submit", None), ("submit", {"new": 5}), ("poll", {"events": 5}), ("poll", {"events": [5]})):
        with (
            contextlib.closing(FakeAgent({op: lambda agent, request, wrong=wrong: wrong})) as agent,
            contextlib.closing(Session(agent.target(connect=5.0, call=5.0, poll=1.0), bool)) as session,
            pytest.raises(UnsafeAnswer),
        ):
            session.execute("a", "1").result(20)


@pytest.mark.parametrize("op", ["hello", "checkup", "sessions", "cells", "ask", "asked", "kill"])
def test_an_agent_client_takes_no_wrong_answer(op: str) -> None:
    with (
        contextlib.closing(FakeAgent({op: lambda agent, request: {"python": "x", "closed": 5, "events": 3}})) as agent,
        contextlib.closing(AgentClient(agent.target(connect=5.0, call=5.0))) as client,
        pytest.raises(UnsafeAnswer),
    ):
        client.ask(op, session="s", id="1", client="me", client_id="c")


def test_a_watcher_and_a_replay_take_no_wrong_events() -> None:
    for events in ([{**EVENT, "number": "x"}], [{**EVENT, "number": HUGE}], [{**EVENT, "content": 5}], [7], {"a": 1}):
        lie = {"events": events, "newest": 1, "done": False}
        ops: Any = {"watch": lambda agent, request, lie=lie: lie, "replay": lambda agent, request, lie=lie: lie}
        with contextlib.closing(FakeAgent(ops)) as agent:
            for ask in (lambda client: client.replay("s", "c"), lambda client: client.watch("s")):
                with (
                    contextlib.closing(AgentClient(agent.target(connect=5.0, call=5.0))) as client,
                    pytest.raises(UnsafeAnswer),
                ):
                    next(ask(client))


def test_a_result_is_of_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in where a value is due, nothing where a stand-in is, a text where a number is."""
    content: dict[str, Any] = {"status": "ok", "how": "held", "held": {**HELD, "protocol": ["__len__", "__iter__"]}}
    with answering(content) as (agent, _), flame.connect(agent.location) as pi:
        one = pi.evaluate("x")
        for ask in (
            pi.names,
            lambda: len(one),
            lambda: pi.pull(["a"]),
            one.fetch,
            lambda: "a" in pi,
            lambda: list(one),
        ):
            with pytest.raises(UnsafeAnswer):
                ask()
        with pytest.raises(UnsafeAnswer):
            pi.execute("x = 1")
        content["how"] = "none"
        for ask in (lambda: pi.evaluate("x"), lambda: pi.evaluate("x", ref=True)):
            with pytest.raises(UnsafeAnswer):
                ask()
        for wrong in ("text", HUGE, None, [1], (1, 2)):
            monkeypatch.setattr(pi._calls, "perform", lambda *asked, wrong=wrong, **more: wrong)
            for ask in (lambda: "a" in pi, lambda: pi.pull(["a"]), lambda: pi.names()[0] == 1):
                with contextlib.suppress(UnsafeAnswer, IndexError):
                    assert ask() in (True, False)
            assert isinstance(dir(pi.modules), list)
            assert isinstance(pi.console().banner(), str)
            with contextlib.suppress(UnsafeAnswer):
                assert isinstance(str(one), str)
            with contextlib.suppress(UnsafeAnswer):
                assert isinstance(repr(one), str)
        monkeypatch.undo()


# -- in the kernel -----------------------------------------------------------------------------------------------------


def test_the_kernel_answers_whatever_comes(tmp_path: Path) -> None:
    """A wrong reply to a cell, to an editor, and events of the wrong shape: each request is answered, and it lives."""
    lie: dict[str, Any] = {}

    def submit(agent: FakeAgent, request: dict[str, Any]) -> Any:
        one = request["request"]
        for kind in lie.get("events", ()):
            agent.say({"type": kind, "request": one["id"], "content": {"name": 5, "data": 5, "comm_id": 5, "id": 5}})
        if one["kind"] in lie.get("reply", {}):
            content = lie["reply"][one["kind"]]
            agent.say({"type": one["kind"] + "_reply", "request": one["id"], "content": content})
        elif one["kind"] == "execute":
            agent.reply(one["id"])
        else:
            agent.answer(one)
        return {"new": True}

    with (
        contextlib.closing(FakeAgent({"submit": submit})) as agent,
        remote_flame(env={"FLAME_TARGET": agent.location}) as k,
    ):
        agent.say(READY)
        assert k.execute("1").error is None
        lie["events"] = list(EVENTS)
        run = k.execute("1")
        assert run.reply is not None
        assert run.reply["status"] == "ok"
        assert "refused an event (display_data) of the wrong shape" in run.stderr
        del lie["events"]
        lie["reply"] = {"execute": {**OK, "execution_count": HUGE}}
        for _ in range(2):
            assert k.execute("1").traceback.startswith("\x1b[0;31mUnsafeAnswer")
        assert k.execute("%flame status").error is None
        for content in ({"status": "ok"}, {"status": "ok", "comms": {"a": 1}}, {"status": "ok", "matches": [HUGE]}, {}):
            lie["reply"] = dict.fromkeys(("complete", "inspect", "comm_info", "usage", "debug"), content)
            assert k.complete("pr")["matches"] == []
            assert k.inspect("pr")["found"] is False
            assert k.ask("comm_info_request", {})["comms"] == {}
            assert isinstance(k.usage(), dict)
        lie.clear()
        assert k.execute("1").error is None
