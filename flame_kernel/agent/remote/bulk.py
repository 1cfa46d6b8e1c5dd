"""The far side of large values: the parts of a value cross the connection of a call, which then returns.

A stock server's function can reach the socket that it was called through.  The request says which way the value goes::

    session, epoch, n   whose it is, and which of its owner's calls
    way                 put: from the client; get: to it
    ticket, sizes, at   the value, the lengths of its parts (of one that is new here), where to begin
    size                bytes that will cross, as ``pieces.length`` has it
    nonce               the client's random bytes, as hex

We answer with GREETING and 32 random bytes; then comes the value as ``pieces`` describes it, and DONE from the side
that has received it.  If something is wrong the connection ends: what has come is kept, and the client asks by a
request how much that is.

A session's child reads and writes the connection itself, so the server touches no byte.  Only of a TLS connection the
server must do it, which has its state: it passes the bytes on.
"""

import os

from .. import sockets
from ..wire import frames, pieces

# Seconds without a byte; a dead client is noticed by keepalive.
PATIENCE = 900.0


def take(request, daemon, carry):
    """Give the connection of the present call to ``carry(request, key, sock)``, until that returns.

    ``daemon`` is Pyro's, which has the HMAC key; the key of the seals is made of that, or None.
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
    except Exception:  # a cut, a value that is gone, a child that has ended: the client asks what has come of it
        sockets.shut(sock)
    finally:
        try:
            sock.settimeout(before)
        except OSError:
            pass


def serve(objects, request, key, sock):
    """Send a value of a session's objects over a connection, or receive one."""
    seal = None if key is None else pieces.Seal(key)
    if request["way"] == "put":
        incoming = objects.incoming(request["ticket"], request["sizes"])
        pieces.receive(incoming, request["at"], lambda view: sockets.fill(sock, view), seal)
        sock.sendall(pieces.DONE)
    else:
        pieces.send(objects.outgoing(request["ticket"]), request["at"], sock.sendall, seal)
        sockets.fill(sock, memoryview(bytearray(len(pieces.DONE))))


def hand_on(request, client, child):
    """In the server: pass the bytes from one socket to the other, and DONE the other way."""
    giver, taker = (client, child) if request["way"] == "put" else (child, client)
    room = memoryview(bytearray(1 << 18))
    for source, target, left in ((giver, taker, request["size"]), (taker, giver, len(pieces.DONE))):
        while left:
            count = source.recv_into(room[: min(left, len(room))])
            if not count:
                raise OSError("one of the two has gone")
            target.sendall(room[:count])
            left -= count
