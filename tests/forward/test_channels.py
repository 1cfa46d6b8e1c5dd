"""The protocol of forwarded streams by itself: two sides, no sockets, links that break anywhere, and liars."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flame_kernel.agent.forward import channels
from flame_kernel.agent.forward.channels import CLIENT, FAR, WINDOW, Channels, Damaged, Tampered

KEY = b"a key for the tests of channels"
_HEAD = struct.Struct(">BII")


def joined(ours: Channels, theirs: Channels, key: bytes | None = KEY) -> None:
    """Connect both sides anew; each link has random bytes of its own."""
    nonces = random.randbytes(32), random.randbytes(32)
    two = [channels.both_seals("blake2b", key, *nonces, ours.received, theirs.received) for _ in range(2)]
    (out, back), (heard, said) = two
    got, had = ours.received, theirs.received
    ours.connect(out, back, had)
    theirs.connect(said, heard, got)


def fed(side: Channels, data: bytes) -> list[tuple[int, int, Any]]:
    found = []
    while data:
        room = side.room()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        data = data[count:]
        found += [(kind, number, bytes(p) if kind == channels.DATA else p) for kind, number, p in side.filled(count)]
    return found


def moved(source: Channels, sink: Channels, most: int | None = None) -> list[tuple[int, int, Any]]:
    """What one side has to send, or its first bytes, given to the other one."""
    data = b"".join(bytes(one) for one in source.frames())
    return fed(sink, data if most is None else data[:most])


def frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    return _HEAD.pack(kind, number, len(payload)) + payload


@pytest.mark.parametrize("key", [KEY, None], ids=["sealed", "plain"])
def test_a_stream_from_its_opening_to_its_end(key: bytes | None) -> None:
    here, there = Channels(CLIENT), Channels(FAR)
    joined(here, there, key)
    number = here.open({"host": "localhost", "port": 80})
    here.write(number, b"GET /")
    assert moved(here, there) == [
        (channels.OPEN, number, {"host": "localhost", "port": 80}),
        (channels.DATA, number, b"GET /"),
    ]
    there.opened(number)
    there.write(number, b"x" * 100_000)
    there.finish(number)
    answers = moved(there, here)
    assert [kind for kind, _, _ in answers] == [channels.OPENED, channels.DATA, channels.EOF]
    assert answers[1][2] == b"x" * 100_000
    here.finish(number)
    assert moved(here, there) == [(channels.EOF, number, None)]
    here.forget(number)
    there.forget(number)
    assert len(here) == len(there) == 0


def test_nobody_sends_more_than_its_reader_allows() -> None:
    here, there = Channels(CLIENT), Channels(FAR)
    joined(here, there)
    number, sent = here.open({}), 0
    while here.credit(number):
        sent += here.credit(number)
        here.write(number, bytes(here.credit(number)))
    assert sent == WINDOW
    other = here.open({})
    assert here.credit(other) > 0  # one that is not read stops no other
    while moved(here, there):
        pass
    there.used(number, WINDOW)
    assert [kind for kind, _, _ in moved(there, here)] == [channels.CREDIT]
    assert here.credit(number) > 0


def test_what_is_not_acknowledged_is_sent_again_and_arrives_once() -> None:
    here, there = Channels(CLIENT), Channels(FAR)
    joined(here, there)
    number = here.open({})
    here.write(number, b"a" * 50_000)
    here.write(number, b"b" * 50_000)
    first = moved(here, there, 60_000)  # the link breaks in the middle of the second
    assert [kind for kind, _, _ in first] == [channels.OPEN, channels.DATA]
    joined(here, there)
    assert moved(here, there) == [(channels.DATA, number, b"b" * 50_000)]
    assert moved(here, there) == []
    there.beat()
    moved(there, here)
    assert here.kept == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_bytes_are_the_same_over_links_that_break_anywhere(seed: int, sealed: bool) -> None:
    """Streams both ways, opened by both sides, cut at random: each side reads what the other one wrote, in order."""
    rng = random.Random(seed)
    sides = Channels(CLIENT), Channels(FAR)
    key = KEY if sealed else None
    wrote: dict[tuple[int, int], bytes] = {}
    read: dict[tuple[int, int], bytes] = {}
    numbers: list[int] = []
    joined(*sides, key)
    for _ in range(80):
        who = rng.randrange(2)
        me = sides[who]
        for _ in range(rng.randrange(4)):
            if rng.random() < 0.2 or not numbers:
                numbers.append(sides[CLIENT].open({}))
            number = rng.choice(numbers)
            room = me.credit(number)
            if number in me._channels and room:
                data = rng.randbytes(min(room, rng.choice((1, 100, 20_000))))
                me.write(number, data)
                wrote[who, number] = wrote.get((who, number), b"") + data
        cut = rng.random() < 0.2
        data = b"".join(bytes(one) for one in me.frames())
        for kind, number, payload in fed(sides[1 - who], data[: rng.randrange(len(data) + 1)] if cut else data):
            if kind == channels.DATA:
                read[who, number] = read.get((who, number), b"") + payload
                sides[1 - who].used(number, len(payload))
        if cut:
            joined(*sides, key)
    for _ in range(3):
        for who in (0, 1):
            for kind, number, payload in moved(sides[who], sides[1 - who]):
                if kind == channels.DATA:
                    read[who, number] = read.get((who, number), b"") + payload
    assert read == wrote


LIES: dict[str, tuple[bytes, str]] = {
    "data of a stream that was never opened": (frame(channels.DATA, 40, b"x"), "never opened"),
    "an odd stream that it has not opened": (frame(channels.DATA, 7, b"x"), "never opened"),
    "credit for more than was sent": (frame(channels.CREDIT, 2, struct.pack(">I", WINDOW)), "credit"),
    "more data than it may send": (frame(channels.DATA, 2, bytes(1 << 18)) * 9, "more data"),
    "data after the end": (frame(channels.EOF, 2) + frame(channels.DATA, 2, b"x"), "more data"),
    "two ends": (frame(channels.EOF, 2) * 2, "twice"),
    "connected twice": (frame(channels.OPENED, 2) * 2, "twice"),
    "a stream of our numbers": (frame(channels.OPEN, 2, b"{}"), "again"),
    "a number that was used": (frame(channels.OPEN, 9, b"{}") + frame(channels.OPEN, 9, b"{}"), "again"),
    "acknowledges what was not sent": (frame(channels.ACK, 0, struct.pack(">Q", 1 << 40)), "not sent"),
    "an answer to nothing": (frame(channels.LISTENING, 4, b"{}"), "nobody asked"),
    "asks us to listen": (frame(channels.LISTEN, 3, b"{}"), "only we"),
    "an unknown kind": (frame(77, 2), "kind 77"),
    "a frame of 4 GiB": (_HEAD.pack(channels.DATA, 2, 0xFFFFFFFF), "bytes"),
    "JSON that is not an object": (frame(channels.OPEN, 9, b"[]"), "JSON"),
    "JSON that is too deep": (frame(channels.OPEN, 9, b"[" * 4000), "JSON"),
    "a reason without end": (frame(channels.RESET, 2, bytes(5000)), "bytes"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_no_honest_server_sends_is_refused(lie: str) -> None:
    here = Channels(CLIENT)
    here.connect(None, None, 0)
    here.open({})
    data, words = LIES[lie]
    with pytest.raises(Damaged, match=words):
        fed(here, data)


def test_streams_opened_without_end_are_refused_and_then_it_is_over() -> None:
    here = Channels(CLIENT)
    here.connect(None, None, 0)
    opened = fed(here, b"".join(frame(channels.OPEN, 3 + 2 * n, b"{}") for n in range(channels.MOST + 50)))
    assert len(opened) == channels.MOST
    assert len(here) == channels.MOST

    def go_on() -> None:  # it never reads what we answer
        for n in range(channels.MOST + 50, 10**7):
            fed(here, frame(channels.OPEN, 3 + 2 * n, b"{}"))

    with pytest.raises(Damaged, match="acknowledge"):
        go_on()


def test_what_it_says_to_have_received_must_be_possible() -> None:
    for received in (5, 10**9):
        here = Channels(CLIENT)
        here.connect(None, None, 0)
        here.open({"host": "x", "port": 1})
        list(here.frames())
        with pytest.raises(Damaged):
            here.connect(None, None, received)


@pytest.mark.parametrize("change", [0, 4, 8, 20, -1], ids=["kind", "channel", "length", "payload", "seal"])
def test_a_sealed_frame_that_was_changed_ends_the_link_only(change: int) -> None:
    here, there = Channels(CLIENT), Channels(FAR)
    joined(here, there)
    number = here.open({})
    here.write(number, b"a word")
    data = bytearray(b"".join(bytes(one) for one in here.frames()))
    data[change] ^= 1
    with pytest.raises(Tampered):
        fed(there, bytes(data) + bytes(1 << 19))
    joined(here, there)
    assert (channels.DATA, number, b"a word") in moved(here, there)


def test_a_frame_that_is_repeated_or_sent_back_is_refused() -> None:
    here, there = Channels(CLIENT), Channels(FAR)
    joined(here, there)
    here.open({})
    data = b"".join(bytes(one) for one in here.frames())
    fed(there, data)
    with pytest.raises(Tampered):
        fed(there, data)
    with pytest.raises(Tampered):
        fed(here, data)


def mutated(rng: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made) or 1)
        change = rng.randrange(4)
        if change == 0 and made:
            made[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            made[at:at] = rng.randbytes(rng.randint(1, 12))
        elif change == 2:
            del made[at : at + rng.randint(1, 30)]
        else:
            made[at:at] = made[: rng.randint(0, 60)]
    return bytes(made)


@pytest.mark.parametrize("side", [CLIENT, FAR])
def test_mutants_of_a_conversation_end_in_one_error_and_little_memory(side: int) -> None:
    rng = random.Random(7)
    there = Channels(1 - side)
    there.connect(None, None, 0)
    numbers = [there.open({"listener": 2}) for _ in range(4)]
    for number in numbers:
        there.write(number, rng.randbytes(300))
        there.finish(number)
    there.bye()
    honest = b"".join(bytes(one) for one in there.frames()) + frame(channels.ACK, 0, struct.pack(">Q", 0))
    ended: dict[Callable[..., Any] | str, int] = {}
    for _ in range(3000):
        here = Channels(side)
        here.connect(None, None, 0)
        here.open({})
        try:
            for _, number, _ in fed(here, mutated(rng, honest)):
                here.reset(number, "no")
            ended["read"] = ended.get("read", 0) + 1
        except Damaged:
            ended["refused"] = ended.get("refused", 0) + 1
        assert here.kept < 1 << 20
    assert ended["read"] > 100
    assert ended["refused"] > 100
