"""Streams: the local connections of channels, and the listeners that accept them. All of it runs on the pump's
thread."""

import collections
import os
import selectors
import socket
import struct
import time

from . import channels as wire
from .listeners import UNIX, words

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
# Seconds that connecting a channel may take; seconds that listeners pause if no more sockets can be made.
PATIENCE, REST = 30.0, 0.25
_ABRUPT = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets the connection


class Refused(Exception):
    """A channel cannot be connected; the text is the reason."""


class _Stream:
    """A local connection and its channel."""

    def __init__(self, sock, listener=None):
        self.sock = sock
        self.listener = listener
        self.number = None  # the channel's number, once it has one
        self.front = None
        self.out = collections.deque()  # bytes for the socket
        self.left = None  # addresses that are still to be tried
        self.since = 0.0
        self.mask = 0
        self.ended_here = self.ended_there = False  # no more will come from the socket; from the channel


class Streams:
    """The local connections of all channels.

    channels  where the bytes go to and come from
    selector  the pump's; the data of a socket's key is a function that is called with the mask
    start     starts a thread: ``start(name, work, *args)``
    where     returns where a channel leads that the other side opens: ``(host, port)`` or a path; raises Refused
    call      runs a function on the pump's thread
    """

    def __init__(self, channels, selector, start, where, call):
        self._channels, self._selector = channels, selector
        self._start, self._where, self._call = start, where, call
        self.by_number = {}  # those that have a channel
        self.listeners = {}
        self.on_refused = lambda listener, why: None  # called when a connection of a listener leads nowhere
        self._fronts = set()  # those without a channel yet
        self._touched = set()  # those whose mask may have changed
        self._was_full = False
        self._resting = None  # when listeners accept again

    def __repr__(self):
        return "<Streams %d, of %d listeners>" % (len(self.by_number), len(self.listeners))

    @property
    def is_resting(self):
        return self._resting is not None

    def touch_all(self):
        self._touched.update(self.by_number.values())

    def look_at_the_clock(self, now):
        if self._resting is not None and now >= self._resting:
            self._resting = None
            for listener in self.listeners.values():
                self._selector.register(listener.sock, READ, _bound(self._accept, listener))
        for stream in [one for one in self.by_number.values() if one.left is not None]:
            if now - stream.since > PATIENCE:
                self._try_next(stream, "no answer within %d s" % PATIENCE)

    def set_masks(self, is_up):
        """Set for which events each socket is watched now."""
        full = not is_up or self._channels.is_full
        if full != self._was_full:
            self._was_full = full
            self.touch_all()
        while self._touched:
            stream = self._touched.pop()
            if stream.sock is None:
                continue
            mask = 0
            if stream.left is not None:
                mask = WRITE
            else:
                if stream.out:
                    mask |= WRITE
                reads = not full and not stream.ended_here and self._channels.credit(stream.number)
                if stream.number is None or reads:
                    mask |= READ
            self._watch(stream, mask)

    def _watch(self, stream, mask):
        if mask == stream.mask:
            return
        if not mask:
            self._selector.unregister(stream.sock)
        elif stream.mask:
            self._selector.modify(stream.sock, mask, _bound(self._on_stream, stream))
        else:
            self._selector.register(stream.sock, mask, _bound(self._on_stream, stream))
        stream.mask = mask

    def _unregister(self, sock):
        try:
            self._selector.unregister(sock)
        except (KeyError, ValueError):
            pass

    # -- frames

    def take(self, kind, number, payload):
        """Handle a frame of a channel."""
        stream = self.by_number.get(number)
        if kind == wire.OPEN:
            self._connect(number, payload)
        elif stream is None:
            return
        elif kind == wire.DATA:
            stream.out.append(payload)
            if stream.left is None:
                self._write_stream(stream)
        elif kind == wire.OPENED:
            if stream.front is not None:
                self._answer_front(stream, stream.front.granted())
                stream.front = None
        elif kind in (wire.EOF, wire.RESET):
            self._ended(stream, None if kind == wire.EOF else payload)
        if stream is not None:
            self._touched.add(stream)

    def _ended(self, stream, why):
        if why is None:
            stream.ended_there = True
            if stream.left is None and not stream.out:
                self._shut(stream)
            return
        if why and stream.listener is not None:
            self.on_refused(stream.listener, why)
        if stream.front is not None and why:
            self._answer_front(stream, stream.front.refused(why))
            self._close(stream)
        else:
            self._close(stream, abrupt=True)

    # -- connections that the other side wants

    def _connect(self, number, what):
        stream = self.by_number[number] = _Stream(None)
        stream.number, stream.left = number, []
        stream.since = time.monotonic()
        try:
            where = self._where(what)
        except Refused as e:
            self._fail(stream, str(e))
            return
        if isinstance(where, str):
            self._try(stream, [(UNIX, where)])
        elif where[0] == "localhost":
            self._try(stream, [(socket.AF_INET, ("127.0.0.1", where[1])), (socket.AF_INET6, ("::1", where[1]))])
        else:
            self._start("resolve", self._resolve, stream, where)

    def _resolve(self, stream, where):
        """Runs on its own thread, because the system's resolver may be slow."""
        try:
            found = socket.getaddrinfo(where[0], where[1], type=socket.SOCK_STREAM)
            addresses = [(one[0], one[4]) for one in found]
            why = "the host name %s has no address" % where[0]
        except (OSError, UnicodeError) as e:
            addresses, why = [], "the host name %s is unknown (%s)" % (where[0], words(e))
        self._call(lambda: self._try(stream, addresses, why))

    def _try(self, stream, addresses, why="nowhere to connect to"):
        if self.by_number.get(stream.number) is stream:
            stream.left = list(addresses)
            self._try_next(stream, why)

    def _try_next(self, stream, why):
        """Begin to connect to the next address; ``why`` is the reason why the last one failed."""
        self._drop_socket(stream)
        while stream.left:
            family, address = stream.left.pop(0)
            try:
                sock = socket.socket(family)
            except OSError as e:
                why = words(e)
                continue
            sock.setblocking(False)
            try:
                sock.connect(address)
            except BlockingIOError:
                if family == UNIX:  # its queue is full; the system does not report when there is room
                    sock.close()
                    why = "it takes no more connections for now"
                    continue
            except OSError as e:
                sock.close()
                why = words(e)
                continue
            stream.sock, stream.since = sock, time.monotonic()
            self._touched.add(stream)
            if family == UNIX:
                self._connected(stream)
            return
        self._fail(stream, why)

    def _fail(self, stream, why):
        self._channels.reset(stream.number, why)
        self._close(stream)

    def _connected(self, stream):
        stream.left = None
        _tune(stream.sock)
        self._channels.opened(stream.number)
        self._write_stream(stream)
        self._touched.add(stream)

    # -- local sockets

    def listen(self, number, listener):
        """Begin to accept connections at a listener."""
        listener.sock.setblocking(False)
        self.listeners[number] = listener
        if self._resting is None:
            self._selector.register(listener.sock, READ, _bound(self._accept, listener))

    def unlisten(self, number, abrupt=False):
        """Close a listener; with ``abrupt`` also its connections, which otherwise go on."""
        listener = self.listeners.pop(number, None)
        if listener is None:
            return
        self._unregister(listener.sock)
        listener.close()
        for stream in list(listener.streams) if abrupt else ():
            if stream.number is not None:
                self._channels.reset(stream.number)
            self._close(stream, abrupt=True)

    def _accept(self, listener, mask):
        for _ in range(64):
            try:
                sock, _ = listener.sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor is left: the connections that wait are accepted later
                self._rest()
                return
            sock.setblocking(False)
            _tune(sock)
            stream = _Stream(sock, listener)
            if len(self.by_number) + len(self._fronts) >= wire.MOST:
                self.on_refused(listener, "more than %d connections at once" % wire.MOST)
                self._close(stream, abrupt=True)
                continue
            listener.streams.add(stream)
            self._touched.add(stream)
            if listener.front is None:
                self._open(stream, listener.what)
            else:
                stream.front = listener.front()
                self._fronts.add(stream)

    def _rest(self):
        if self._resting is None:
            self._resting = time.monotonic() + REST
            for listener in self.listeners.values():
                self._unregister(listener.sock)

    def _open(self, stream, what):
        stream.number = self._channels.open(what)
        self.by_number[stream.number] = stream

    def _on_stream(self, stream, mask):
        if stream.left is not None:
            error = stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._try_next(stream, words(OSError(error, os.strerror(error))))
            else:
                self._connected(stream)
            return
        if mask & WRITE:
            self._write_stream(stream)
        if mask & READ and stream.sock is not None:
            if stream.number is None:
                self._read_front(stream)
            else:
                self._read_stream(stream)
        self._touched.add(stream)

    def _read_stream(self, stream):
        room = self._channels.credit(stream.number)
        if not room or stream.ended_here or self._channels.is_full:
            return
        try:
            data = stream.sock.recv(room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._broke(stream)
            return
        if data:
            self._channels.write(stream.number, data)
            return
        stream.ended_here = True
        self._channels.finish(stream.number)
        self._close_if_over(stream)

    def _read_front(self, stream):
        try:
            data = stream.sock.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._close(stream)
            return
        answer, what, rest = stream.front.take(data)
        self._answer_front(stream, answer)
        if stream.front.failed:
            self._close(stream)
        elif what is not None:
            self._fronts.discard(stream)
            self._open(stream, what)
            if rest:
                self._channels.write(stream.number, rest)

    def _answer_front(self, stream, answer):
        """Write the first bytes to a new socket; they are few, so the socket takes them."""
        if answer:
            try:
                stream.sock.send(answer)
            except OSError:
                pass  # the other end is gone, which the next read shows

    def _write_stream(self, stream):
        count = 0
        while stream.out:
            first = stream.out[0]
            try:
                sent = stream.sock.send(first)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._broke(stream)
                return
            count += sent
            if sent == len(first):
                stream.out.popleft()
            else:
                stream.out[0] = first[sent:]
        self._channels.used(stream.number, count)
        if stream.ended_there and not stream.out:
            self._shut(stream)

    def _shut(self, stream):
        try:
            stream.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the connection is over already
        self._close_if_over(stream)

    def _close_if_over(self, stream):
        if stream.ended_here and stream.ended_there and not stream.out:
            self._channels.forget(stream.number)
            self._close(stream)

    def _broke(self, stream):
        self._channels.reset(stream.number)
        self._close(stream)

    def _close(self, stream, abrupt=False):
        self._fronts.discard(stream)
        self._touched.discard(stream)
        if stream.number is not None and self.by_number.get(stream.number) is stream:
            del self.by_number[stream.number]
        if stream.listener is not None:
            stream.listener.streams.discard(stream)
        stream.out.clear()
        if abrupt and stream.sock is not None:
            try:
                stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABRUPT)
            except OSError:
                pass  # it is closed all the same
        self._drop_socket(stream)

    def _drop_socket(self, stream):
        if stream.sock is not None:
            if stream.mask:
                self._unregister(stream.sock)
                stream.mask = 0
            stream.sock.close()
            stream.sock = None

    def close(self):
        """End all of them; resets those who are connected."""
        for number in list(self.listeners):
            self.unlisten(number)
        for stream in list(self.by_number.values()) + list(self._fronts):
            self._close(stream, abrupt=True)


def _bound(function, one):
    return lambda mask: function(one, mask)


def _tune(sock):
    if sock.family in (socket.AF_INET, getattr(socket, "AF_INET6", None)):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # the connection is over already
