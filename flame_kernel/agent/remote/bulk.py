"""Large values on the far side: the parts of a value cross a call's connection, and then the call returns.

A function on a stock server can use the socket that it was called through.  The request says which way the value goes::

    session, epoch, n   the session, its epoch, and the number of this call of its owner
    way                 put: from the client; get: to it
    ticket, sizes, at   the value, the lengths of its parts (if it is new here), the position to start from
    size                bytes that will cross the connection, as counted by ``chunks.length``
    nonce, hash         the client's random bytes, as hex, and the hash of the seals

We answer with GREETING and 32 random bytes; then the value follows as ``chunks`` describes it, and DONE from the side
that has received it.  If something goes wrong the connection ends.  What has arrived is kept, and the client asks by a
request how much that is.

A session's child reads and writes the connection itself, so no byte passes through the server.  Only for a TLS
connection the server has to pass the bytes on, because it holds the TLS state.
"""

import os

from .. import sockets
from ..wire import chunks, frames, seals

# Seconds without a byte before we give up; keepalive notices a dead client sooner.
PATIENCE = 900.0


def take(request, daemon, carry):
    """Lend the connection of the current call to ``carry(request, key, sock)`` until that returns.

    ``daemon`` is Pyro's and has the HMAC key; the key of the seals is made from it, or None without one.
    """
    sock = sockets.current().sock
    sockets.tune()
    before = sock.gettimeout()
    sock.settimeout(PATIENCE)
    ours, key = os.urandom(frames.NONCE), None
    if daemon._pyroHmacKey is not None:
        key = frames.connection_key(daemon._pyroHmacKey, bytes.fromhex(request["nonce"]), ours)
        key = frames.direction_key(key, request["way"].encode("ascii"))
    try:
        sock.sendall(frames.GREETING + ours)
        carry(request, key, sock)
    except Exception:  # a cut, a value that is gone, a child that has ended: the client asks what has arrived
        sockets.shut(sock)
    finally:
        try:
            sock.settimeout(before)
        except OSError:
            pass


def serve(objects, request, key, sock):
    """Send a value of a session's objects over a connection, or receive one."""
    seal = None if key is None else seals.Seal(request["hash"], key)
    if request["way"] == "put":
        incoming = objects.incoming(request["ticket"], request["sizes"])
        chunks.receive(incoming, request["at"], lambda view: sockets.fill(sock, view), seal)
        sock.sendall(chunks.DONE)
    else:
        chunks.send(objects.outgoing(request["ticket"]), request["at"], sock.sendall, seal)
        sockets.fill(sock, memoryview(bytearray(len(chunks.DONE))))


def hand_on(request, client, child):
    """In the server: pass the bytes from one socket to the other, and DONE the other way."""
    giver, taker = (client, child) if request["way"] == "put" else (child, client)
    room = memoryview(bytearray(1 << 18))
    for source, target, left in ((giver, taker, request["size"]), (taker, giver, len(chunks.DONE))):
        while left:
            count = source.recv_into(room[: min(left, len(room))])
            if not count:
                raise OSError("one of the two has gone")
            target.sendall(room[:count])
            left -= count
