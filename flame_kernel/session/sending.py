"""Sending: the calls of a session: one after the other, those that wait together.

Requests that wait, such as the cells of a notebook that is run as a whole, go in one call: on a slow link that is one
round trip in place of one for each. They begin in their order, and each is known there by its id, as ever.
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
from ..errors import AgentError, UnsafeAnswer
from .inbox import Event
from .io_threads import IoThreads, Task, Wait
from .link import Answer, Link
from .requests import Call, Request

# Bytes a second of the slowest line on which a large message still gets through.
SLOWEST = 50_000
# Requests that wait go in one call, up to so many behind the first, and bytes in all.
TOGETHER, TOGETHER_BYTES = 63, 1 << 16
# Where the link was cut so often under a request of more bytes than LONG, it goes in portions: of FIRST bytes, and then
# of fewer, down to LEAST.
CUTS, LONG, FIRST, LEAST = 2, 1 << 10, 1 << 13, 1 << 8


class _TooMuch(Exception):
    """The link was cut several times before this request was through."""


class Sending:
    """The queue of a session's calls, which are made in turns of a task.

    decoded  makes events of those that an answer brings
    """

    def __init__(self, link: Link, target: Target, decoded: Callable[[list[Any], Sequence[Any]], list[Event]]) -> None:
        self._link = link
        self._target = target
        self._decoded = decoded
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._gathering = threading.Lock()  # held while calls are put that go together
        self._is_over = False
        self._out_of_turn: list[Call | None] = []  # what was taken from the queue before its turn
        self._task: Task | None = None

    def __repr__(self) -> str:
        return f"<Sending {self._queue.qsize()} waiting>"

    def start(self, threads: IoThreads) -> None:
        """Make the calls from now on."""
        self._task = threads.task(self._turn)
        self._task.wake()

    def wait(self, seconds: float) -> None:
        """Wait until the last call is made, after ``end``."""
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
        """It is over behind what there is; calls that come later are refused at once."""
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
        """Make the calls that there are."""
        while True:
            try:
                call = self._next()
            except queue.Empty:
                return Wait()
            if call is None:
                return None
            with self._gathering:
                pass
            if not call.future.set_running_or_notify_cancel():
                continue
            more = self._behind(call)
            if more and self._submit_all([call, *more]):
                continue
            for one in (call, *more):
                self._perform(one)

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
        except Exception as e:  # a defect of ours too: the one who waits shall see it, and the thread goes on
            call.future.set_exception(e)
        else:
            request.state = "begun"
            call.future.set_result(result)

    def _ask(self, call: Call, request: Request) -> Answer:
        """The answer to a call, which goes in portions where the link does not let the whole of it through."""
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
        """Have the agent gather a request, in portions that become smaller until they pass; its name there."""
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
                self._out_of_turn.append(call)  # its turn is behind these
                break
            if call.future.set_running_or_notify_cancel():
                found.append(call)
                size += _size_of(call)
        return found

    def _submit_all(self, calls: list[Call]) -> bool:
        """Send several requests in one call; False where the agent refuses one of them, or they are more than the link
        lets through: then each goes by itself, and those that have begun are known by their ids."""
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
        except Exception as e:  # as for one call
            for call in calls:
                call.future.set_exception(e)
        else:
            state("begun")
            for call in calls:
                call.future.set_result(result)
        return True


def _size_of(call: Call) -> int:
    """About how many bytes a request is on its way."""
    code = (call.message.get("request") or {}).get("code") or ""
    return sum(memoryview(buffer).nbytes for buffer in call.buffers) + len(code) + 500
