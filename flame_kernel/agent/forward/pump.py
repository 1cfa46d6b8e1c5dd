"""Pump: moves bytes between local sockets and the channels of one connection. One thread runs it; both sides have it.

The connection, the *link*, may break; ``attach`` sets a new one.  While there is none, nothing is read from local
sockets; the channels keep what was read before.  ``call`` runs a function on the pump's thread.
"""

import collections
import selectors
import socket
import threading
import time

from . import channels as wire
from .streams import READ, REST, WRITE, Streams

# If we sent nothing for so many seconds, we send an ACK; if nothing came for so many, the link is given up.
BEAT, SILENCE = 10.0, 35.0
# Bytes that are read from the link at once, before the local sockets' turn.
TURN = 1 << 20
# Most buffers that are passed to the system in one call.
_PARTS = 32
# What a TLS socket raises if it would have to wait. We do not import ``ssl``: whoever made such a socket has.
_TLS_WAITS = ("SSLWantReadError", "SSLWantWriteError")


class Pump:
    """Moves bytes between the link and the local sockets of its channels.

    side    channels.CLIENT or FAR
    start   starts a thread: ``start(name, work, *args)``
    where   see ``Streams``
    """

    def __init__(self, side, start, where):
        self.channels = wire.Channels(side)
        self.closed = False
        # By kind: functions ``(number, payload)`` for the frames about listeners and the end.
        self.on = {}
        self._todo = collections.deque()  # buffers for the link
        self._link = None
        self._link_mask = 0
        self._heard = self._said = 0.0
        self._jobs = collections.deque()
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        for one in (self._woken, self._wake):
            one.setblocking(False)
        self._selector.register(self._woken, READ, self._wake_up)
        self.streams = Streams(self.channels, self._selector, start, where, self.call)

    def __repr__(self):
        state = "closed" if self.closed else "cut" if self._link is None else "up"
        return "<Pump %s, %r, %r>" % (state, self.streams, self.channels)

    def call(self, job):
        """Run ``job()`` on the pump's thread soon. Any thread may call this; False if the pump is closed."""
        with self._lock:
            if self.closed:
                return False
            self._jobs.append(job)
            try:
                self._wake.send(b"x")
            except BlockingIOError:
                pass  # it will wake anyway
            return True

    # -- the link

    def attach(self, link, seal_out, seal_in, peer_received):
        """Go on over this connection. Raises channels.Damaged if that is impossible."""
        self.drop_link()
        self.channels.connect(seal_out, seal_in, peer_received)
        link.setblocking(False)
        self._link, self._link_mask = link, READ
        self._selector.register(link, READ, self._on_link)
        self._heard = self._said = time.monotonic()
        self.streams.touch_all()

    def drop_link(self):
        """Stop using the link, without closing anything."""
        if self._link is not None:
            try:
                self._selector.unregister(self._link)
            except (KeyError, ValueError):
                pass  # it was closed already
            self._link = None
            self._todo.clear()

    @property
    def is_up(self):
        return self._link is not None

    def _on_link(self, mask):
        if mask & READ:
            self._read()

    def _read(self):
        got = 0
        while got < TURN and self._link is not None:
            try:
                count = self._link.recv_into(self.channels.room())
            except OSError as e:
                if _has_to_wait(e):
                    return
                raise
            if not count:
                raise EOFError("the other side closed it")
            got += count
            self._heard = time.monotonic()
            for kind, number, payload in self.channels.filled(count):
                self.on.get(kind, lambda number, payload, kind=kind: self.streams.take(kind, number, payload))(
                    number, payload
                )
                if self._link is None:
                    return

    def _write(self):
        while self._link is not None:
            if not self._todo:
                self._todo.extend(map(memoryview, self.channels.frames()))
                if not self._todo:
                    break
            try:
                count = self._send()
            except OSError as e:
                if _has_to_wait(e):
                    break
                raise
            self._said = time.monotonic()
            while count:
                first = self._todo[0]
                if count < len(first):
                    self._todo[0] = first[count:]
                    break
                count -= len(first)
                self._todo.popleft()
        mask = READ | WRITE if self._todo else READ
        if self._link is not None and mask != self._link_mask:
            self._selector.modify(self._link, mask, self._on_link)
            self._link_mask = mask

    def _send(self):
        if len(self._todo) == 1 or hasattr(self._link, "pending") or not hasattr(self._link, "sendmsg"):
            return self._link.send(self._todo[0])
        return self._link.sendmsg([view for view, _ in zip(self._todo, range(_PARTS))])

    # -- the loop

    def run(self, goes_on):
        """Serve until ``goes_on()`` is false or the pump is closed. Raises OSError, EOFError or channels.Damaged when
        the link ends; then the link is dropped, and ``run`` may be called again."""
        try:
            while not self.closed and goes_on():
                for key, mask in self._selector.select(self._wait()):
                    # An earlier event of this round may have closed it.
                    if key.fileobj.fileno() >= 0 and key.fd in self._selector.get_map():
                        key.data(mask)
                while self._jobs and not self.closed:
                    self._jobs.popleft()()
                if self.closed:
                    return
                self._look_at_the_clock()
                self._write()
                self.streams.set_masks(self.is_up)
        except (OSError, EOFError, wire.Damaged):
            self.drop_link()
            self.streams.set_masks(False)
            raise

    def _has_pending(self):
        """Whether TLS has taken bytes from the link that we have not read yet: the selector does not see them."""
        return hasattr(self._link, "pending") and self._link.pending() > 0

    def _wait(self):
        if self._has_pending():
            return 0
        return REST if self.streams.is_resting else BEAT / 4 if self._link is not None else None

    def _look_at_the_clock(self):
        now = time.monotonic()
        self.streams.look_at_the_clock(now)
        if self._link is None:
            return
        if self._has_pending():
            self._read()
        if now - self._heard > SILENCE:
            raise EOFError("nothing came for %d s" % SILENCE)
        if now - self._said > BEAT:
            self._said = now
            self.channels.beat()

    def _wake_up(self, mask):
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            pass

    # -- the end

    def flush(self):
        """Send as much as the link takes at once. Never raises."""
        try:
            self._write()
        except (OSError, EOFError):
            pass  # the link has ended, and so does what was to be sent

    def close(self):
        """End all streams and listeners. Call it on the pump's thread, or when the pump does not run. Idempotent."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self.drop_link()
        self.streams.close()
        self._selector.close()
        self._woken.close()
        self._wake.close()


def _has_to_wait(error):
    return isinstance(error, (BlockingIOError, InterruptedError)) or type(error).__name__ in _TLS_WAITS
