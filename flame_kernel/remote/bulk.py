"""Bulk: sends and fetches values that are too large for one request.

Each value gets a connection of its own, on which its parts are sent directly from memory (see `agent/remote/bulk.py`).
This is not used if the connection broke twice, if the server has no free thread for it, or if it is a multiplex server,
which could not serve others meanwhile.  Then the value is sent in pieces by ordinary requests, which are repeated after
a lost connection.
"""

from __future__ import annotations

import collections
import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, TimeoutError
from typing import Any

from ..agent.wire import chunks, frames, seals
from ..agent.wire.message import CARRY
from ..connect.connection import Connection
from ..errors import CallTimeout, CannotConnect, CannotTravel, ConnectionLost, ObjectGone, RemoteError
from ..session.call_socket import Wire, taken_over
from ..session.requests import Reply
from ..session.session import Session

# The most pieces that are sent at once; the most parts of a value in one message.
WINDOW = 3
MAX_PARTS = 10_000
# Most bytes and parts of a fetched value: a hostile server could make us allocate that much.
MAX_FETCHED = 64 << 30
MAX_FETCHED_PARTS = 2_000_000
# After so many broken connections without progress, requests are used.
BREAKS = 2


class Bulk:
    """Transfers the large values of ``session``. Any thread may use it.

    ``timeout`` is in seconds for one value; None: no limit. Raises CallTimeout, CannotTravel, ObjectGone (the process
    that had the value has ended), and what a request of the session raises.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._may_take_over = session.server.get("servertype") != "multiplex"

    def __repr__(self) -> str:
        return f"<Bulk of {self._session!r}>"

    def stage(self, parts: Sequence[Any], timeout: float | None) -> str | None:
        """Send the parts of a value and return its ticket; None, without sending, if they fit into one request."""
        if sum(map(len, parts)) <= chunks.PIECE and len(parts) <= MAX_PARTS:
            return None
        value, large = _Value(self._session, uuid.uuid4().hex, timeout), chunks.Outgoing(parts)
        try:
            at = self._carry_there(value, large) if self._may_take_over else 0
            value.put(large, at)
        except BaseException:  # raised again, whatever it is; the parts sent so far are dropped there
            value.drop()
            raise
        return value.ticket

    def fetch(self, ticket: str, sizes: Any, timeout: float | None) -> list[Any]:
        """Fetch the parts of a value, each as writable memory; TypeError if ``sizes`` is invalid."""
        if not isinstance(sizes, list) or len(sizes) > MAX_FETCHED_PARTS:
            raise TypeError("sizes")
        value, large = _Value(self._session, ticket, timeout), chunks.Incoming(sizes)
        if large.size > MAX_FETCHED:
            raise TypeError("sizes")
        try:
            if self._may_take_over:
                self._carry_here(value, large)
            value.get(large)
        except MemoryError:
            what = f"a value of {large.size} bytes, which does not fit into the memory here"
            raise CannotTravel(f"{self._session.location} has {what}; fetch a part of it") from None
        finally:
            value.drop()
        return list(large.parts)

    # -- by a connection of its own

    def _carry_there(self, value: _Value, large: chunks.Outgoing) -> int:
        """Send over a connection of its own; return how many bytes the far side has received."""
        at = breaks = 0
        while at < large.size and breaks < BREAKS:
            try:
                with value.line("put", at, large.size, [] if at else large.sizes) as (wire, seal):
                    chunks.send(large, at, wire.send, seal)
                    wire.receive(memoryview(bytearray(len(chunks.DONE))))
                return int(large.size)
            except (CannotConnect, RemoteError):
                return at
            except ConnectionLost:
                value.check_time()
            come = value.come()
            breaks = breaks + 1 if come <= at else 0
            at = come
        return at

    def _carry_here(self, value: _Value, large: chunks.Incoming) -> None:
        breaks = 0
        while large.come < large.size and breaks < BREAKS:
            at = large.come
            try:
                with value.line("get", at, large.size, []) as (wire, seal):
                    chunks.receive(large, at, wire.receive, seal)
                    wire.send(memoryview(chunks.DONE))
            except (CannotConnect, RemoteError):
                return
            except (ConnectionLost, chunks.Damaged):
                value.check_time()
            if large.come <= at:
                breaks += 1


class _Value:
    """The requests to the far side about one value that is being transferred."""

    def __init__(self, session: Session, ticket: str, timeout: float | None) -> None:
        self.ticket = ticket
        self._session = session
        self._timeout = timeout
        self._until = None if timeout is None else time.monotonic() + timeout

    def check_time(self) -> None:
        """Raise CallTimeout if the time is over."""
        if self._until is not None and time.monotonic() >= self._until:
            raise self._late()

    def _late(self) -> CallTimeout:
        return CallTimeout(self._session.location, "the call", self._timeout or 0.0)

    @contextlib.contextmanager
    def line(self, way: str, at: int, size: int, sizes: list[int]) -> Iterator[tuple[Wire, seals.Seal | None]]:
        """A connection taken over for this value, and the seal for its chunks if there is a key."""
        target = self._session.target
        ours = os.urandom(frames.NONCE)
        request = {"way": way, "ticket": self.ticket, "at": at, "sizes": sizes, "nonce": ours.hex()}
        request["hash"] = self._session.hash
        request["size"] = chunks.length(size - at, target.key is not None)
        message = self._session.wire_message(request)
        connection = Connection(target)
        try:
            connection.pickle_protocol = 4
            wire = taken_over(connection, CARRY, message, self._until)
            theirs = bytearray(frames.NONCE)
            wire.receive(memoryview(theirs))
            seal = None
            if target.key is not None:
                key = frames.connection_key(target.key.reveal(), ours, bytes(theirs))
                seal = seals.Seal(self._session.hash, frames.direction_key(key, way.encode()))
            yield wire, seal
        finally:
            connection.close()

    # -- by requests

    def come(self) -> int:
        """How many bytes the far side has received; if the connection is lost, this waits until it is back."""
        return int(self._outcome(self._ask("staged"))["come"])

    def put(self, large: chunks.Outgoing, start: int) -> None:
        """Send the rest of the value, from ``start`` on."""
        waiting: collections.deque[Future[Reply]] = collections.deque()
        for at in range(start, large.size, chunks.PIECE):
            if len(waiting) >= WINDOW:
                self._outcome(waiting.popleft())
            found = large.piece(at, chunks.PIECE)
            buffers = found if len(found) <= MAX_PARTS else [b"".join(found)]
            waiting.append(self._ask("stage", buffers, at=at, sizes=[] if at else large.sizes))
        while waiting:
            self._outcome(waiting.popleft())

    def get(self, large: chunks.Incoming) -> None:
        """Fetch the rest of the value."""
        waiting: collections.deque[tuple[int, Future[Reply]]] = collections.deque()
        ahead = iter(range(large.come, large.size, chunks.PIECE))
        while True:
            while len(waiting) < WINDOW and (next_one := next(ahead, None)) is not None:
                waiting.append((next_one, self._ask("piece", at=next_one)))
            if not waiting:
                return
            at, future = waiting.popleft()
            (data,) = self._outcome(future)["buffers"]
            if len(data) != min(chunks.PIECE, large.size - at):
                raise TypeError("a piece of the wrong size")
            large.put(at, [data])

    def drop(self) -> None:
        """Tell the far side that the value is no longer needed; does not wait."""
        self._ask("drop")

    def _ask(self, op: str, buffers: Sequence[Any] = (), **fields: Any) -> Future[Reply]:
        return self._session.request("object", buffers=buffers, op=op, ticket=self.ticket, **fields)

    def _outcome(self, future: Future[Reply]) -> Reply:
        try:
            reply = future.result(None if self._until is None else max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            raise self._late() from None
        if reply.get("status") == "gone":
            raise ObjectGone(self._session.location)
        if reply.get("status") != "ok":
            raise CannotTravel(f"{self._session.location} cannot take the value: {str(reply.get('message'))[:2000]}")
        return reply
