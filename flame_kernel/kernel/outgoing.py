"""Sends the iopub channel's messages, with a limit on what front ends have not taken yet.

ZeroMQ either keeps all that a slow front end does not take, in memory without end, or drops it, and a cell whose idle
status was dropped never ends.  Here it keeps FEW messages for each front end, and refuses one more; what it refuses
waits in a queue of ours, in its order.  While that is long, cells' output is not even asked for (``wait_for_room``), so
it stays on the far side, in the journal there; statuses and what else is small always find room.

All this happens on the kernel's own loop: ipykernel has a thread for it because its cells block that loop, and ours
never do.  Whoever sends a message puts it into the queue, and the loop sends it soon.

A front end that takes nothing for GIVE_UP seconds, although it is connected, no longer holds up the others: it misses
what comes.  Of that, the idle statuses of cells are sent again later, to all; the others ignore them.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq
from ipykernel.iostream import BackgroundSocket
from tornado.ioloop import IOLoop

# Most messages that ZeroMQ keeps for each front end. One text may have two million characters.
FEW = 50
# If more bytes wait here, no more output is fetched; and what a message counts in addition to its own bytes.
MOST, EACH = 16 << 20, 1 << 10
# Seconds after which a front end that takes nothing is given up; seconds between two tries before that.
GIVE_UP, RETRY = 30.0, 0.002
# Most messages that are sent before the loop looks at other things.
TURN = 200
# Statuses that are sent again to one that was given up; seconds until then, doubling, and how often.
STATUSES, AGAIN, TIMES = 500, 5.0, 10

_IDLE = b'"idle"'
_Message = list[Any]


class Outgoing:
    """Stands in for ipykernel's thread for iopub, with that bound. ``send_multipart`` is for any thread, as there; the
    rest belongs to the thread of ``io_loop``.

    socket   an XPUB socket that was set up by `prepare`
    session  the ``jupyter_client.session.Session`` that makes the greetings of new front ends; None: there are none
    """

    def __init__(self, socket: Any, io_loop: IOLoop, session: Any = None) -> None:
        self.socket = socket
        self.background_socket = BackgroundSocket(self)
        self._session = session
        self._io_loop = io_loop
        self._loop: asyncio.AbstractEventLoop = io_loop.asyncio_loop  # type: ignore[attr-defined]
        self._descriptor = socket.FD
        self._thread = 0  # the loop's, once it runs
        self._queue: collections.deque[tuple[_Message, int]] = collections.deque()
        self._size = 0  # bytes of the queue
        self._room = threading.Condition()
        self._is_called = False  # the loop is to drain the queue
        self._trying = False  # a next try is scheduled
        self._stopped = False
        self._stuck_since: float | None = None
        self._missed: collections.OrderedDict[bytes, _Message] = collections.OrderedDict()
        self._times = 0

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
            if self.closed:
                return
            self._size += size
            self._queue.append((msg, size))
            calls, self._is_called = not self._is_called, True
        if calls:  # also from the loop: what it is just doing, such as sending a cell to the far side, goes first
            self._call()

    def _call(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: `stop` sends what waits
            if self._thread == threading.get_ident():
                self._loop.call_soon(self._called)
            else:
                self._loop.call_soon_threadsafe(self._called)

    # -- on the loop

    def start(self) -> None:
        """Begin to greet front ends."""
        self._io_loop.add_handler(self._descriptor, self._look, IOLoop.READ)

    def _look(self, *ready: Any) -> None:
        """Greet those that have subscribed, as ipykernel does."""
        while not self.closed and self.socket.EVENTS & zmq.POLLIN:
            for frame in self.socket.recv_multipart(zmq.DONTWAIT):
                if frame[:1] == b"\x01" and self._session is not None:
                    self._greet(frame[1:])
        if not (self._trying or self.closed):
            self._drain()

    def _greet(self, topic: bytes) -> None:
        try:
            content = {"subscription": topic.decode()}
        except UnicodeDecodeError:
            return
        header = self._session.msg_header("iopub_welcome")
        msg = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "buffers": []}
        with self._room:
            self._queue.append(([topic, *self._session.serialize(msg)] if topic else self._session.serialize(msg), 0))

    def _called(self) -> None:
        """Send what was put into the queue."""
        self._thread = threading.get_ident()
        self._is_called = False  # first: what comes from here on calls again
        if not self._trying:
            self._drain()

    def _retry(self) -> None:
        self._trying = False
        self._drain()

    def _drain(self) -> None:
        """Send what can be sent now, and try the rest again soon."""
        for _ in range(len(self._queue) if self._stopped else TURN):
            if not self._queue or self.closed:
                break
            msg, size = self._queue[0]
            try:
                self.socket.send_multipart(msg, zmq.DONTWAIT, copy=False)  # parts of a few KiB are copied
            except zmq.Again:
                if not self._is_given_up():
                    self._trying = True
                    self._io_loop.call_later(RETRY, self._retry)
                    break
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
        if self._queue and not self._trying:
            self._trying = True
            self._io_loop.add_callback(self._retry)
        # The descriptor tells of a subscription once, and sending may have taken that news.
        if not self.closed and self.socket.EVENTS & zmq.POLLIN:
            self._io_loop.add_callback(self._look)

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
                self._io_loop.call_later(AGAIN, self._say_again)
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
            self._io_loop.call_later(AGAIN * 2**self._times, self._say_again)
        else:
            self._missed.clear()
        if not self._trying:
            self._drain()

    def stop(self) -> None:
        """Send what waits; called when the loop has ended."""
        self._stopped = True
        self._drain()
        with self._room:
            self._room.notify_all()

    def close(self) -> None:
        """Close the socket; what comes later is dropped."""
        with self._room:
            socket, self.socket = self.socket, None
            self._queue.clear()
        if socket is not None:
            self._io_loop.remove_handler(self._descriptor)
            socket.close()

    @property
    def closed(self) -> bool:
        return self.socket is None


def _is_idle(msg: _Message) -> bool:
    return bytes(msg[0]).endswith(b".status") and _IDLE in bytes(msg[-1])


def prepare(socket: Any) -> None:
    """Set up an XPUB socket for `Outgoing`, before it is bound."""
    socket.setsockopt(zmq.SNDHWM, FEW)
    socket.setsockopt(zmq.XPUB_NODROP, 1)
