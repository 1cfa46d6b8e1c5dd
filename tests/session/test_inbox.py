"""The inbox alone: what the reader of an event log remembers."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flame_kernel.session.inbox import GapError, Inbox


def events(*numbers: int) -> list[dict[str, Any]]:
    return [{"number": n, "type": "stream", "content": {}} for n in numbers]


def test_events_come_once_and_in_order() -> None:
    inbox = Inbox()
    assert [e["number"] for e in inbox.feed(events(1, 2, 3))] == [1, 2, 3]
    assert inbox.ack == 3
    assert [e["number"] for e in inbox.feed(events(2, 3, 4))] == [4]
    assert inbox.feed(events(1, 2, 3, 4)) == []
    assert inbox.ack == 4


def test_a_gap_is_refused_and_nothing_of_its_batch_is_taken() -> None:
    inbox = Inbox(7)
    with pytest.raises(GapError, match="event 10 came where 9 was due"):
        inbox.feed(events(8, 10))
    assert inbox.ack == 7


@pytest.mark.parametrize("number", [None, "1", 1.0, []])
def test_an_event_without_a_number_is_refused(number: object) -> None:
    with pytest.raises(GapError):
        Inbox().feed([{"number": number, "type": "stream", "content": {}}])


@given(st.integers(0, 40), st.randoms(use_true_random=False))
def test_whatever_is_repeated_each_event_arrives_exactly_once(count: int, rng: random.Random) -> None:
    inbox, got = Inbox(), []
    while inbox.ack < count:
        first = rng.randint(max(1, inbox.ack - 3), inbox.ack + 1)
        last = min(count, first + rng.randint(0, 6))
        got += [e["number"] for e in inbox.feed(events(*range(first, last + 1)))]
    assert got == list(range(1, count + 1))
