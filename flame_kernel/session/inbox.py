"""Inbox: the state of the reader of an event log. No I/O, no threads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..agent.wire import message as wire

Event = dict[str, Any]


class GapError(wire.WireError):
    """An event number is missing, which an honest server cannot cause."""


class Inbox:
    """Takes batches of events, also repeated ones, and returns each event once, in order.

    ack     the number to send with the next poll: all events up to it have come
    """

    def __init__(self, ack: int = 0) -> None:
        self.ack = ack

    def __repr__(self) -> str:
        return f"<Inbox ack {self.ack}>"

    def feed(self, events: Iterable[Event]) -> list[Event]:
        """The new events, in order. Raises GapError if one is missing; then it takes none of them."""
        fresh: list[Event] = []
        expected = self.ack + 1
        for event in events:
            number = event.get("number")
            if type(number) is not int:
                raise GapError("event without a number")
            if number < expected:
                continue
            if number > expected:
                raise GapError(f"event {number} came where {expected} was due")
            expected += 1
            fresh.append(event)
        self.ack = expected - 1
        return fresh
