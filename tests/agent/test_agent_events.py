"""The event log and the codec alone, in this process."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flame_kernel.agent.log import claims
from flame_kernel.agent.log import log as events
from flame_kernel.agent.wire import message as wire


def stream(text: str, request: str = "r", name: str = "stdout") -> dict[str, Any]:
    return {"type": "stream", "request": request, "content": {"name": name, "text": text}}


def result(request: str = "r") -> dict[str, Any]:
    return {"type": "execute_result", "request": request, "content": {"data": {}}}


def reply(request: str = "r") -> dict[str, Any]:
    return {"type": "execute_reply", "request": request, "content": {"status": "ok"}}


def read_all(log: events.EventLog, limit: int = 1 << 20) -> list[dict[str, Any]]:
    found, ack = [], 0
    while True:
        batch = log.poll(ack, limit=limit)
        if not batch:
            return found
        found += batch
        ack = batch[-1]["number"]


def test_text_of_a_stream_is_merged_until_something_else_comes() -> None:
    log = events.EventLog()
    for event in (stream("a"), stream("b"), stream("x", name="stderr"), stream("c"), result(), stream("d")):
        log.append(event)
    batch = log.poll(0)
    assert [(e["number"], e["type"], e["content"].get("text")) for e in batch] == [
        (1, "stream", "ab"),
        (2, "stream", "x"),
        (3, "stream", "c"),
        (4, "execute_result", None),
        (5, "stream", "d"),
    ]


def test_what_was_sent_is_sealed() -> None:
    log = events.EventLog()
    log.append(stream("a"))
    assert log.poll(0)[0]["content"]["text"] == "a"
    log.append(stream("b"))
    assert [e["content"]["text"] for e in log.poll(0)] == ["a", "b"]
    assert [e["content"]["text"] for e in log.poll(1)] == ["b"]


def test_acknowledged_events_are_forgotten_and_free_their_memory() -> None:
    log = events.EventLog()
    log.append(stream("a" * 1000))
    log.append(result())
    batch = log.poll(0)
    assert log.waiting > 1000
    assert log.poll(batch[-1]["number"]) == []
    assert log.waiting == 0


def test_a_reader_may_read_on_before_it_acknowledges() -> None:
    """What it has and is still at work on is kept, until it says otherwise; a cut may have it ask again for that."""
    log = events.EventLog()
    log.write("r", "stdout", "x" * (10 * events.PIECE))
    first = log.poll(0, limit=4 * events.PIECE)
    newest = first[-1]["number"]
    second = log.poll(0, after=newest, limit=4 * events.PIECE)
    assert second[0]["number"] == newest + 1
    assert log.poll(0, limit=4 * events.PIECE) == first
    assert log.poll(newest, limit=4 * events.PIECE) == second
    log.poll(second[-1]["number"])
    assert "".join(event["content"]["text"] for event in first + second + read_all(log)) == "x" * (10 * events.PIECE)


def test_what_the_reader_has_already_makes_no_hurry_for_the_rest() -> None:
    """A few lines behind a large batch wait for more of them, though that batch is not acknowledged yet."""
    log = events.EventLog()
    log.write("r", "stdout", "x" * (2 * events.WORTH_SENDING))
    first = log.poll(0, gap=30.0)
    assert sum(len(event["content"]["text"]) for event in first) == 2 * events.WORTH_SENDING
    log.write("r", "stdout", "a line\n")
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.extend(log.poll(0, wait=30, gap=30.0, after=first[-1]["number"])))
    thread.start()
    log.write("r", "stdout", "another\n")
    log.append(reply())
    thread.join(10)
    assert [event["content"].get("text") for event in got] == ["a line\nanother\n", None]


def test_cells_are_not_merged_with_each_other() -> None:
    log = events.EventLog()
    for request in ("r1", "r2", "r1"):
        log.append(stream(request, request))
    assert [e["content"]["text"] for e in log.poll(0)] == ["r1r1", "r2"]


def test_a_batch_ends_at_its_limit_but_has_one_event() -> None:
    log = events.EventLog()
    log.write("r", "stdout", "x" * (10 * events.PIECE))
    for n in range(3):
        log.append(result(f"q{n}"))
        log.append(stream("y" * events.PIECE, f"q{n}"))
    sizes = []
    ack = 0
    while True:
        batch = log.poll(ack, limit=100)
        if not batch:
            break
        sizes.append(len(batch))
        ack = batch[-1]["number"]
    assert max(sizes) == 1
    assert ack == log.newest


def test_a_poll_waits_for_news_and_is_woken_by_it() -> None:
    log = events.EventLog()
    started = threading.Event()

    def produce() -> None:
        started.wait()
        log.append(result())

    thread = threading.Thread(target=produce)
    thread.start()
    started.set()
    assert log.poll(0, wait=30)[0]["type"] == "execute_result"
    thread.join()


def test_a_poll_without_news_ends_after_its_wait() -> None:
    began = time.monotonic()
    assert events.EventLog().poll(0, wait=0.05) == []
    assert time.monotonic() - began >= 0.05


def test_text_is_gathered_for_a_gap_and_anything_else_goes_at_once() -> None:
    log = events.EventLog()
    log.append(stream("first"))
    assert log.poll(0, wait=5, gap=0.2)[0]["content"]["text"] == "first"  # the first text goes at once
    log.append(stream("a"))
    began = time.monotonic()
    batch = log.poll(1, wait=5, gap=0.2)
    assert time.monotonic() - began >= 0.15
    assert batch[0]["content"]["text"] == "a"
    log.append(stream("b"))
    log.append(reply())
    began = time.monotonic()
    assert len(log.poll(2, wait=5, gap=10)) == 2
    assert time.monotonic() - began < 5


def test_a_value_waits_for_the_reply_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "GRACE", 30)
    log = events.EventLog()
    log.append(result())
    batches: list[Any] = []
    thread = threading.Thread(target=lambda: batches.append(log.poll(0, wait=30, gap=0.01)))
    thread.start()
    while not log.newest:
        time.sleep(0.001)
    log.append(reply())
    thread.join(20)
    assert [event["type"] for event in batches[0]] == ["execute_result", "execute_reply"]


def test_that_the_far_side_is_ready_goes_with_the_first_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow link the first cell takes one round trip, since its poll is not spent before its reply is there."""
    monkeypatch.setattr(claims, "GRACE", 30)
    log = events.EventLog()
    log.append({"type": "ready", "request": None, "content": {}})
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(log.poll(0, 30, 0.025)))
    reader.start()
    reader.join(0.2)
    log.append(reply())
    reader.join(10)
    assert [event["type"] for event in got] == ["ready", "execute_reply"]
    monkeypatch.setattr(claims, "GRACE", 0.002)
    log.append({"type": "ready", "request": None, "content": {}})
    assert [event["type"] for event in log.poll(2, 30, 0.025)] == ["ready"]  # if none comes, by itself


def test_a_second_reader_sends_the_first_away() -> None:
    log = events.EventLog()
    first: list[Any] = []
    thread = threading.Thread(target=lambda: first.append(log.poll(0, wait=30)))
    thread.start()
    while not log._readers:
        time.sleep(0.001)
    second: list[Any] = []
    other = threading.Thread(target=lambda: second.append(log.poll(0, wait=30)))
    other.start()
    thread.join(5)
    assert first == [[]]
    log.append(result())
    other.join(5)
    assert second[0][0]["number"] == 1


def test_a_writer_far_ahead_of_an_attached_reader_waits_and_loses_nothing() -> None:
    log = events.EventLog(bound=1 << 16)
    text = "".join(f"{n}\n" for n in range(200_000))
    writer = threading.Thread(target=log.write, args=("r", "stdout", text))
    writer.start()
    got, ack = [], 0
    while len("".join(got)) < len(text):
        batch = log.poll(ack, wait=5, limit=1 << 15)
        assert log._journal.waiting < 4 << 20
        got += [e["content"]["text"] for e in batch]
        ack = batch[-1]["number"]
    writer.join(5)
    assert "".join(got) == text


def test_producers_of_many_threads_lose_nothing() -> None:
    log = events.EventLog()

    def produce(name: str) -> None:
        for n in range(2000):
            log.append(stream(f"{n} ", name))

    threads = [threading.Thread(target=produce, args=(f"r{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    texts: dict[str, str] = {}
    ack = 0
    done = False
    while not done or log.newest > ack:
        done = not any(thread.is_alive() for thread in threads)
        for event in log.poll(ack, wait=0.05):
            assert event["number"] == ack + 1
            ack = event["number"]
            texts[event["request"]] = texts.get(event["request"], "") + event["content"]["text"]
    for thread in threads:
        thread.join()
    assert texts == {f"r{i}": "".join(f"{n} " for n in range(2000)) for i in range(4)}


def test_a_closed_log_wakes_its_reader() -> None:
    log = events.EventLog()
    thread = threading.Thread(target=log.poll, args=(0, None))
    thread.start()
    log.close()
    thread.join(5)
    assert not thread.is_alive()


# -- the codec -------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.lists(st.binary(max_size=50), max_size=4))
def test_a_message_arrives_as_it_was(message: dict[str, Any], buffers: list[bytes]) -> None:
    got, views = wire.decode(wire.encode(message, buffers))
    assert got == message
    assert [bytes(view) for view in views] == buffers


@given(
    st.lists(
        st.tuples(st.text(st.characters(), max_size=3000), st.lists(st.binary(max_size=20), max_size=2)), max_size=5
    )
)
def test_events_arrive_as_they_were(raw: list[tuple[str, list[bytes]]]) -> None:
    sent = [dict(stream(text), number=n) for n, (text, _) in enumerate(raw)]
    for event, (_, buffers) in zip(sent, raw, strict=True):
        if buffers:
            event["buffers"] = buffers
    plain, buffers = wire.encode_events(sent)
    message, views = wire.decode(wire.encode({"events": plain}, buffers))
    got = wire.decode_events(message["events"], views)
    assert [e["content"] for e in got] == [e["content"] for e in sent]
    assert [[bytes(b) for b in e.get("buffers", [])] for e in got] == [e.get("buffers", []) for e in sent]


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, wire.MAGIC + noise):
        try:
            message, _ = wire.decode(data)
        except wire.WireError:
            continue
        assert isinstance(message, dict)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"FLM1",
        b"FLM0" + b"\0" * 8,
        wire.encode({"a": 1})[:-1],
        wire.encode({"a": 1}) + b"x",
        b"FLM1" + b"\xff" * 8 + b"{}",
        b"FLM1" + (2).to_bytes(4, "big") + b"\0\0\0\0[]",
        b"FLM1" + (2).to_bytes(4, "big") + b"\0\0\0\0\xff\xff",
        b"FLM1" + (100_000).to_bytes(4, "big") + b"\0\0\0\0" + b"[" * 100_000,
    ],
)
def test_what_encode_cannot_have_written_is_refused(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(data)


@pytest.mark.parametrize(
    "event",
    [{}, {"type": 1, "content": {}}, {"type": "stream", "content": []}, {"type": "x", "content": {}, "buffers": [9]}],
)
def test_events_of_the_wrong_shape_are_refused(event: dict[str, Any]) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_events([event], [])


def test_a_message_over_the_limit_is_refused() -> None:
    with pytest.raises(wire.WireError, match="the limit is 10"):
        wire.decode(wire.encode({"a": 1}), limit=10)


def large(kind: str, content: Any) -> dict[str, Any]:
    return {"type": kind, "request": "r", "content": {}, "json": json.dumps(content).encode(), "number": 1}


def test_large_content_travels_as_it_was_written() -> None:
    content = {"data": {"text/plain": "é" * 10_000, "application/json": [1.5, None, {"a": []}]}, "metadata": {}}
    plain, buffers = wire.encode_events([large("display_data", content)])
    assert plain[0]["content"] == {}
    (kept,) = wire.decode_events(plain, buffers, keep=True)
    assert bytes(kept["json"]) == buffers[0]
    (got,) = wire.decode_events(plain, buffers)
    assert got["content"] == content
    assert "json" not in got


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"nothing",
        b"[" * 100_000,
        b'{"data": ' + b"9" * 5000 + b"}",
        b'{"data": [' + b"[]," * wire.MAX_VALUES + b"0]}",
        b'{"data": [' + b"1," * (wire.MAX_NUMBERS + 1) + b"0]}",
    ],
)
def test_large_content_that_cannot_be_read_is_a_line_that_says_so(text: bytes) -> None:
    event = {"type": "display_data", "request": "r", "number": 7, "content": {}, "json_buffer": 0, "metadata": {}}
    (got,) = wire.decode_events([event], [text])
    assert got["content"]["text"].startswith("[display_data left out: it ")
    assert got["content"]["name"] == "stderr"
    assert (got["type"], got["request"], got["number"]) == ("stream", "r", 7)


def test_many_numbers_are_read() -> None:
    event = {"type": "comm_msg", "request": "r", "content": {}, "json_buffer": 0}
    (got,) = wire.decode_events([event], [b'{"data": [' + b"1," * wire.MAX_VALUES + b"0]}"])
    assert len(got["content"]["data"]) == wire.MAX_VALUES + 1


@pytest.mark.parametrize(
    "event",
    [
        {"type": "execute_reply", "request": "r", "content": {}, "json_buffer": 0},
        {"type": "ready", "request": None, "content": {}, "json_buffer": 0},
        {"type": "display_data", "request": "r", "content": {}, "json_buffer": 1},
        {"type": "display_data", "request": "r", "content": {}, "json_buffer": "0"},
        {"type": "comm_msg", "request": "r", "content": {}, "json_buffer": 0, "buffers": [0]},
        {"type": [], "request": "r", "content": {}, "json_buffer": 0},
    ],
)
def test_large_content_where_there_is_none_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_events([event], [b"{}"])
    with pytest.raises(wire.WireError):
        wire.decode_events([event], [b"{}"], keep=True)


def test_a_reader_who_has_all_does_not_wait_for_a_writer_who_waits_for_it() -> None:
    """It has asked ahead, with what it has shown: the answer comes at once, and the next question frees the writer."""
    log = events.EventLog(bound=1000)
    log.append({"type": "display_data", "request": "r", "content": {"data": "x" * 5000}})
    assert [event["number"] for event in log.poll(0)] == [1]
    writer = threading.Thread(target=log.wait_for_room)
    writer.start()
    began = time.monotonic()
    assert log.poll(0, wait=30.0, after=1) == []
    assert time.monotonic() - began < 20
    assert log.poll(1) == []
    writer.join(20)
    assert not writer.is_alive()
