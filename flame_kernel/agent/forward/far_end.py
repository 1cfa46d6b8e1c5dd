"""The far side's end of a tunnel: connects and listens for the client, on the thread of the call that it took over.

The session's owner sends the request::

    tunnel      the tunnel's random name; one that is not known yet begins a new one
    received    bytes of frames that the client has received in it
    nonce       the client's random bytes, as hex
    hash        the name of the hash of the seals

We answer with GREETING, 32 random bytes, and eight bytes: how much we have received.  Frames of ``channels`` follow.
The thread serves until the connection breaks, another connection replaces it, or the client says BYE.  The streams
end with BYE, with the session, and when the session gets another owner or another tunnel.
"""

import os
import socket
import struct
import threading

from .. import sockets, threads
from ..wire import frames
from . import channels, listeners
from .pump import Pump
from .streams import Refused

_COUNT = struct.Struct(">Q")
# Most listeners of one tunnel.
MOST_LISTENERS = 200


class Tunnel:
    """One client's tunnel; at most one thread of the server serves it at a time."""

    def __init__(self):
        self.pump = Pump(channels.FAR, threads.start, _where)
        self.pump.on = {
            channels.LISTEN: self._listen,
            channels.UNLISTEN: lambda number, payload: self.pump.streams.unlisten(number, abrupt=True),
            channels.BYE: lambda number, payload: self.pump.close(),
        }
        self._lock = threading.Lock()  # held by the thread that serves
        self._turn = 0  # the number of the newest connection; threads of earlier ones stop
        self._sock = None

    def __repr__(self):
        return "<Tunnel %r>" % self.pump

    def serve(self, request, daemon, sock):
        """Serve on this connection until it ends."""
        self._turn += 1
        turn, before = self._turn, self._sock
        if before is not None:
            _shut(before)  # the client has left that connection; we may not have noticed
        self.pump.call(lambda: None)
        with self._lock:
            if turn != self._turn or self.pump.closed:
                return
            self._sock = sock
            ours, received = os.urandom(frames.NONCE), self.pump.channels.received
            nonce = bytes.fromhex(request["nonce"])
            secret, had = daemon._pyroHmacKey, request["received"]
            theirs, mine = channels.both_seals(request["hash"], secret, nonce, ours, had, received)
            try:
                self.pump.attach(
                    _sent(sock, frames.GREETING + ours + _COUNT.pack(received)), mine, theirs, request["received"]
                )
                self.pump.run(lambda: turn == self._turn)
            except (OSError, EOFError, channels.Damaged):
                pass  # the client connects again, if it can go on
            finally:
                self._sock = None
                self.pump.drop_link()

    def close(self):
        """End all streams, on any thread."""
        self._turn += 1
        sock = self._sock
        if sock is not None:
            _shut(sock)
        self.pump.call(lambda: None)
        with self._lock:
            self.pump.close()

    def _listen(self, number, what):
        try:
            path = what.get("path")
            address = (what["host"], what["port"]) if path is None else os.path.expanduser(path)
            if len(self.pump.streams.listeners) >= MOST_LISTENERS:
                raise OSError("no more than %d listeners" % MOST_LISTENERS)
            sock = listeners.listening_at(address)
        except (OSError, UnicodeError, OverflowError, TypeError, ValueError, KeyError) as e:
            self.pump.channels.listening(number, {"error": listeners.words(e)})
            return
        self.pump.streams.listen(number, listeners.Listener(sock, {"listener": number}))
        port = None if path is not None else sock.getsockname()[1]
        self.pump.channels.listening(number, {"port": port})


class Tunnels:
    """The tunnel of one session: a new one ends the one before it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._name = self._tunnel = None

    def __repr__(self):
        return "<Tunnels %r>" % (self._tunnel,)

    def take(self, request, daemon):
        """Use the connection of the current call for the requested tunnel, until the connection ends."""
        sock = sockets.current().sock
        sockets.tune()
        with self._lock:
            old = None
            if self._name != request["tunnel"] or self._tunnel.pump.closed:
                old, self._name, self._tunnel = self._tunnel, request["tunnel"], Tunnel()
            tunnel = self._tunnel
        if old is not None:
            old.close()
        before = sock.gettimeout()
        try:
            tunnel.serve(request, daemon, sock)
        finally:
            sockets.shut(sock)
            try:
                sock.settimeout(before)
            except OSError:
                pass  # it is closed

    def close(self):
        """End the tunnel, because the session ends or has another owner."""
        with self._lock:
            tunnel, self._name, self._tunnel = self._tunnel, None, None
        if tunnel is not None:
            tunnel.close()


def _shut(sock):
    """Shut down a connection that another thread reads. A TLS socket's own method would make that thread read plain
    bytes."""
    try:
        (socket.socket.shutdown if hasattr(sock, "pending") else type(sock).shutdown)(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended already


def _sent(sock, data):
    sock.settimeout(30.0)
    sock.sendall(data)
    return sock


def _where(what):
    """Where a channel of the client leads: anywhere, because the client may run code here anyway."""
    if isinstance(what.get("path"), str):
        if not hasattr(socket, "AF_UNIX"):
            raise Refused("there are no unix sockets on that system")
        return os.path.expanduser(what["path"])
    host, port = what.get("host"), what.get("port")
    if not isinstance(host, str) or not isinstance(port, int) or not 0 < port < 65536:
        raise Refused("no address to connect to")
    return host, port
