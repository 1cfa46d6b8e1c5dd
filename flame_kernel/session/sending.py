"""Sending: makes the calls of a session, one after the other.

Requests that wait together, such as all cells of a notebook, go in one call: on a slow link this saves round trips.
They begin in their order, and the agent knows each by its id, as always.

A short cell or call that is sent alone is answered with its events, up to its reply, if it ends within DO_WAIT: then
no poll has to bring them. In the library this is so only if there is no event but the reply. If anything is wrong with
that answer, the request is repeated as any other, and a poll brings them.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..agent.wire import message as wire
from ..connect.target import Target
from ..errors import AgentError, FlameError, UnsafeAnswer
from .inbox import Event
from .io_threads import LATE, IoThreads, Task, Wait
from .link import Answer, Link
from .polling import Polling
from .requests import Call, Request

# Bytes a second of the slowest line on which a large message still gets through.
SLOWEST = 50_000
# Limits of one call: requests behind the first one, and bytes in all.
TOGETHER, TOGETHER_BYTES = 63, 1 << 16
# If the link was cut CUTS times during a request of more than LONG bytes, it goes in portions: of FIRST bytes, then of
# fewer, down to LEAST.
CUTS, LONG, FIRST, LEAST = 2, 1 << 10, 1 << 13, 1 << 8
# Seconds that the call with a request waits for its end; bytes of such a request, and of events in the answer, at most.
DO_WAIT, DO_REQUEST, DO_LIMIT = 0.02, 1 << 12, 1 << 15
# Seconds after such an answer until the agent is told that it has come, if no other cell tells it before.
READ_AFTER = 0.25


class _TooMuch(Exception):
    """The link was cut several times before this request was through."""


class Sending:
    """The queue of a session's calls; a task makes them in its turns.

    decoded  decodes the events in an answer
    """

    def __init__(self, link: Link, target: Target, decoded: Callable[[list[Any], Sequence[Any]], list[Event]]) -> None:
        self._link = link
        self._target = target
        self._decoded = decoded
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._gathering = threading.Lock()  # held while several calls are put that belong together
        self._is_over = False
        self._out_of_turn: list[Call | None] = []  # what was taken from the queue before its turn
        self._task: Task | None = None
        self.polling: Polling | None = None  # takes events that come with answers
        self._unread: dict[str, Any] | None = None  # the op that acknowledges those

    def __repr__(self) -> str:
        return f"<Sending {self._queue.qsize()} waiting>"

    def start(self, threads: IoThreads) -> None:
        """Begin to make calls."""
        self._task = threads.task(self._turn)
        self._task.wake()

    def wait(self, seconds: float) -> None:
        """After ``end``: wait until the last call is made."""
        if self._task is not None:
            self._task.wait(seconds)

    def _wake(self) -> None:
        if self._task is not None:
            self._task.wake()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A context: calls put in it are sent at its end, in one call if they fit."""
        with self._gathering:
            yield

    @property
    def is_idle(self) -> bool:
        """Whether no call waits."""
        return self._queue.empty()

    def put(self, call: Call) -> bool:
        """Queue a call; False if nothing is sent any more."""
        with self._lock:
            if self._is_over:
                return False
            self._queue.put(call)
        self._wake()
        return True

    def end(self) -> None:
        """Make the calls that are queued, but no later ones: those are refused at once."""
        with self._lock:
            if not self._is_over:
                self._is_over = True
                self._queue.put(None)
        self._wake()

    # -- a turn --------------------------------------------------------------------------------------------------------

    def _next(self) -> Call | None:
        """The call whose turn it is; None at the end. Raises queue.Empty."""
        return self._out_of_turn.pop() if self._out_of_turn else self._queue.get_nowait()

    def _turn(self, why: str) -> Wait | None:
        """Make the queued calls."""
        if why == LATE and self._queue.empty():
            self._acknowledge()
        while True:
            try:
                call = self._next()
            except queue.Empty:
                return Wait(seconds=None if self._unread is None else READ_AFTER)
            if call is None:
                return None
            with self._gathering:
                pass
            if not call.future.set_running_or_notify_cancel():
                continue
            more = self._behind(call)
            if more and self._submit_all([call, *more]):
                continue
            if not more and self._do(call):
                continue
            for one in (call, *more):
                self._perform(one)

    def _do(self, call: Call) -> bool:
        """Begin a request by the op whose answer has its events; False if the call is to be made as usual, too."""
        polling, request, line = self.polling, call.request, self._link.calls
        if polling is None or request is None or _size_of(call) > DO_REQUEST or not polling.takes_with(request.kind):
            return False
        if self._link.is_broken or not line.connection.is_open:
            return False
        request.state = "sent"
        try:
            result, buffers = self._link.exchange(
                line,
                {**call.message, **polling.place(), "op": "do", "wait": DO_WAIT, "limit": DO_LIMIT},
                self._target.timeouts.call,
                call.buffers,
                DO_WAIT,
            )
            events = self._decoded(result["events"], buffers)
        except Exception:  # also a bug of ours: the usual call follows, and tells whoever waits
            request.state = "unknown"
            return False
        request.state = "begun"
        if events and not (polling.take(events) and request.future.done()):
            return False
        self._unread = {key: call.message[key] for key in ("session", "epoch")} if events else None
        call.future.set_result({"new": result["new"]})
        return True

    def _acknowledge(self) -> None:
        """Tell the agent which events have come: a client that comes after us shall not be shown them again."""
        message, self._unread = self._unread, None
        if message is not None and self.polling is not None and self._link.calls.connection.is_open:
            with contextlib.suppress(FlameError):  # the next cell, or a poll, tells it
                self._link.exchange(self._link.calls, {**message, **self.polling.place(), "op": "read"})

    def _perform(self, call: Call) -> None:
        """Send one call, and set its future."""
        request = call.request or Request("")
        request.state = "sent"
        try:
            result, buffers = self._ask(call, request)
            if isinstance(result, dict) and "events" in result:
                result = dict(result, events=self._decoded(result["events"], buffers))
            elif isinstance(result, dict) and buffers:
                result = dict(result, buffers=buffers)
        except Exception as e:  # also a bug of ours: whoever waits sees it, and the thread goes on
            call.future.set_exception(e)
        else:
            request.state = "begun"
            call.future.set_result(result)

    def _ask(self, call: Call, request: Request) -> Answer:
        """The answer to a call. If the link does not let it through as a whole, it goes in portions."""
        cuts = itertools.count(1)

        def cut() -> None:
            request.state = "unknown"
            if next(cuts) >= CUTS and "epoch" in call.message and len(wire.encode(call.message, call.buffers)) > LONG:
                raise _TooMuch

        size = sum(memoryview(b).nbytes for b in call.buffers)
        timeout = self._target.timeouts.call + size / SLOWEST
        try:
            return self._link.insist(self._link.calls, call.message, timeout, call.buffers, on_broken=cut)
        except _TooMuch:
            short = {key: call.message[key] for key in ("op", "session", "epoch")}
            name = self._in_portions(bytes(wire.encode(call.message, call.buffers)), short)
            return self._link.insist(self._link.calls, dict(short, gathered=name), timeout)

    def _in_portions(self, whole: bytes, owner: dict[str, Any]) -> str:
        """Send a request in portions, which become smaller until they come through; returns its name there."""
        name, at, most = uuid.uuid4().hex, 0, FIRST
        while at < len(whole):
            portion = [whole[at : at + most]]

            def cut(portion: list[bytes] = portion) -> None:
                nonlocal most
                most = max(LEAST, most // 2)
                portion[0] = portion[0][:most]

            message = {**owner, "op": "portion", "id": name, "at": at}
            come = self._link.insist(self._link.calls, message, buffers=portion, on_broken=cut)[0]["come"]
            if not at < come <= len(whole):
                raise UnsafeAnswer(self._link.location, "a portion that was not taken")
            at = come
        return name

    def _behind(self, first: Call) -> list[Call]:
        """The requests queued behind this one that fit into one call with it."""
        found: list[Call] = []
        if first.request is None:  # no request: an interrupt, an answer
            return found
        size = _size_of(first)
        while len(found) < TOGETHER and size < TOGETHER_BYTES:
            try:
                call = self._queue.get_nowait()
            except queue.Empty:
                break
            if call is None or call.request is None or size + _size_of(call) > TOGETHER_BYTES:
                self._out_of_turn.append(call)  # its turn comes after these
                break
            if call.future.set_running_or_notify_cancel():
                found.append(call)
                size += _size_of(call)
        return found

    def _submit_all(self, calls: list[Call]) -> bool:
        """Send several requests in one call; False if the agent refuses one, or the link does not let them through.
        Then each is sent alone, and the agent recognizes those that have begun by their ids."""
        requests = [call.request for call in calls if call.request is not None]
        cuts = itertools.count(1)

        def state(word: str) -> None:
            for request in requests:
                request.state = word

        def cut() -> None:
            state("unknown")
            if next(cuts) >= CUTS:
                raise _TooMuch

        state("sent")
        more = [(call.message["request"], len(call.buffers)) for call in calls[1:]]
        message = {**calls[0].message, "op": "submits", "more": more}
        buffers = [buffer for call in calls for buffer in call.buffers]
        try:
            result, _ = self._link.insist(
                self._link.calls,
                message,
                timeout=self._target.timeouts.call + TOGETHER_BYTES / SLOWEST,
                buffers=buffers,
                on_broken=cut,
            )
        except (AgentError, _TooMuch):
            return False
        except Exception as e:  # as in _perform
            for call in calls:
                call.future.set_exception(e)
        else:
            state("begun")
            for call in calls:
                call.future.set_result(result)
        return True


def _size_of(call: Call) -> int:
    """About how many bytes a request takes when it is sent."""
    code = (call.message.get("request") or {}).get("code") or ""
    return sum(memoryview(buffer).nbytes for buffer in call.buffers) + len(code) + 500
