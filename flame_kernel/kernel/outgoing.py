"""Sends the iopub channel's messages, with a limit on what front ends have not taken yet.

ZeroMQ either keeps all that a slow front end does not take, in memory without end, or drops it, and a cell whose idle
status was dropped never ends.  Here it keeps FEW messages for each front end, and refuses one more; what it refuses
waits in a queue of ours, in its order.  While that is long, cells' output is not even asked for (``wait_for_room``), so
it stays on the far side, in the journal there; statuses and what else is small always find room.

A front end that takes nothing for GIVE_UP seconds, although it is connected, no longer holds up the others: it misses
what comes.  Of that, the idle statuses of cells are sent again later, to all; the others ignore them.
"""

from __future__ import annotations

import collections
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq
from ipykernel.iostream import IOPubThread

# Most messages that ZeroMQ keeps for each front end. One text may have two million characters.
FEW = 50
# If more bytes wait here, no more output is fetched; and what a message counts in addition to its own bytes.
MOST, EACH = 16 << 20, 1 << 10
# Seconds after which a front end that takes nothing is given up; seconds between two tries before that.
GIVE_UP, RETRY = 30.0, 0.002
# Statuses that are sent again to one that was given up; seconds until then, doubling, and how often.
STATUSES, AGAIN, TIMES = 500, 5.0, 10

_IDLE = b'"idle"'
_Message = list[Any]


class Outgoing(IOPubThread):
    """ipykernel's thread for iopub, with that bound. ``send_multipart`` is for any thread, as there."""

    def __init__(self, socket: Any, **kwargs: Any) -> None:
        self._queue: collections.deque[tuple[_Message, int]] = collections.deque()
        self._size = 0  # bytes of the queue, and of what is on its way there
        self._room = threading.Condition()
        self._trying = False  # a next try is scheduled
        self._stuck_since: float | None = None
        self._missed: collections.OrderedDict[bytes, _Message] = collections.OrderedDict()
        self._times = 0
        super().__init__(socket, **kwargs)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return f"<Outgoing {len(self._queue)} messages wait, {self._size} bytes>"

    @property
    def is_full(self) -> bool:
        """Whether output should wait."""
        return self._size > MOST and not self._stopped

    def wait_for_room(self, is_over: Callable[[], bool]) -> None:
        """Wait until output may come, or ``is_over``; only for threads that nobody else waits for."""
        with self._room:
            while self.is_full and not is_over():
                self._room.wait(0.2)

    def send_multipart(self, msg: _Message, *args: Any, **kwargs: Any) -> None:
        """Send a message, after the waiting ones."""
        size = EACH + sum([part.nbytes if isinstance(part, memoryview) else len(part) for part in msg])
        with self._room:
            self._size += size
        self.schedule(functools.partial(self._enqueue, msg, size))  # type: ignore[no-untyped-call]

    # -- on its own thread

    def _send_welcome_message(self, subscription: str) -> None:
        """As ipykernel's, but it does not wait for front ends that take nothing."""
        if self.session:
            header = self.session.msg_header("iopub_welcome")
            msg = {"header": header, "parent_header": {}, "metadata": {}, "content": {"subscription": subscription}}
            topic = [subscription.encode()] if subscription else []
            self._enqueue([*topic, *self.session.serialize(dict(msg, buffers=[]))], 0)

    def _enqueue(self, msg: _Message, size: int) -> None:
        self._queue.append((msg, size))
        if not self._trying:
            self._drain()

    def _drain(self) -> None:
        """Send what can be sent now, and try the rest again soon."""
        self._trying = False
        while self._queue and not self.closed:
            msg, size = self._queue[0]
            try:
                self.socket.send_multipart(msg, zmq.DONTWAIT, copy=False)  # parts of a few KiB are copied
            except zmq.Again:
                if not self._is_given_up():
                    self._trying = True
                    self.io_loop.call_later(RETRY, self._drain)
                    return
                self._send_to_others(msg)
            except zmq.ZMQError as e:
                if e.errno not in (zmq.ENOTSOCK, zmq.ETERM):
                    raise
                self._queue.clear()
                return
            self._stuck_since = None
            self._queue.popleft()
            self._note_status(msg)
            with self._room:
                self._size -= size
                self._room.notify_all()

    def _is_given_up(self) -> bool:
        now = time.monotonic()
        if self._stuck_since is None:
            self._stuck_since = now
        return self._stopped or now - self._stuck_since > GIVE_UP

    def _send_to_others(self, msg: _Message) -> None:
        """Send a message to the front ends that take it. ZeroMQ drops it for the others, and sends those nothing until
        they take something again."""
        self.socket.setsockopt(zmq.XPUB_NODROP, 0)
        try:
            self.socket.send_multipart(msg, zmq.DONTWAIT, copy=False)
        finally:
            self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        if not self._stopped:
            self._times = 0
            if not self._missed:
                self.io_loop.call_later(AGAIN, self._say_again)
            self._missed.setdefault(b"", [])  # from here on, statuses are kept

    def _note_status(self, msg: _Message) -> None:
        if self._missed and _is_idle(msg):
            self._missed[b"".join(map(bytes, msg[-3:]))] = msg
            if len(self._missed) > STATUSES:
                self._missed.popitem(last=False)

    def _say_again(self) -> None:
        """Send the idle statuses again that a front end has missed; it may be back by now."""
        for msg in [msg for msg in self._missed.values() if msg]:
            self._queue.append((msg, 0))
        self._times += 1
        if self._times < TIMES:
            self.io_loop.call_later(AGAIN * 2**self._times, self._say_again)
        else:
            self._missed.clear()
        if not self._trying:
            self._drain()

    def stop(self) -> None:
        """Send what waits, then end."""
        if self.thread.is_alive():
            self._stopped = True
            self.io_loop.add_callback(self._drain)
        super().stop()  # type: ignore[no-untyped-call]
        with self._room:
            self._room.notify_all()


def _is_idle(msg: _Message) -> bool:
    return bytes(msg[0]).endswith(b".status") and _IDLE in bytes(msg[-1])


def prepare(socket: Any) -> None:
    """Set up an XPUB socket for `Outgoing`, before it is bound."""
    socket.setsockopt(zmq.SNDHWM, FEW)
    socket.setsockopt(zmq.XPUB_NODROP, 1)
