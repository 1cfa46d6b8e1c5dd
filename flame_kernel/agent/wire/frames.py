"""Frames: how both sides talk over a connection that a function has taken over. Both sides import it.

::

    1   kind: CONTROL (a JSON object), DATA (bytes of a file) or HOLE (so many zeros, eight bytes big endian)
    4   length of the payload, big endian
    …   the payload
    32  the seal of the frame's head and its payload, for this connection and this direction: see ``seals``

The key is made from random numbers of both sides and the server's HMAC key.  With an HMAC key, nobody else can
write, change, drop, repeat or reflect a frame unnoticed.  Without one, and inside TLS, the checksum only detects
damage. Pyro's own signature does not cover these bytes, because they are not Pyro messages.
"""

import hashlib
import hmac
import json
import struct

from . import message as wire
from . import seals

GREETING = b"FLX1"  # the far side's first bytes; a Pyro message starts with others
NONCE = 32
CHUNK = 1 << 20  # bytes of the longest payload

CONTROL, DATA, HOLE = ord("J"), ord("D"), ord("Z")

_HEAD = struct.Struct(">BI")
_NUMBER = struct.Struct(">Q")
_SUM = seals.SIZE
_ZEROS = bytes(CHUNK)
_encoder = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))


class Damaged(Exception):
    """A frame arrived that the other side cannot have sent."""


def connection_key(secret, ours, theirs):
    """The key of one connection, made from the HMAC key (or None) and the random bytes of client and server."""
    secret = hashlib.blake2b(secret or b"").digest()
    return hashlib.blake2b(GREETING + ours + theirs, key=secret).digest()


def call_key(talk, number):
    """The key of one call in a conversation (``talk``, its random name as text), when each Pyro call carries files."""
    return connection_key(None, talk.encode("ascii", "replace"), _NUMBER.pack(number))


def direction_key(key, sender):
    """The key for what ``sender`` sends, derived from the connection's key."""
    return hashlib.blake2b(sender, key=key).digest()


class Frames:
    """One side's frames.

    send        takes a bytes-like object whole
    receive     fills a memoryview, or raises
    key         of ``connection_key``;  side  b"client" or b"server"
    name        the hash of the seals
    """

    def __init__(self, send, receive, key, side, name=seals.USUAL):
        self._send, self._receive, self.hash = send, receive, name
        self._side, self._other = side, b"client" if side == b"server" else b"server"
        self._sent = self._received = 0
        self.restart(key, key)
        self._out = bytearray(_HEAD.size + CHUNK + _SUM)
        self._in = bytearray(CHUNK + _SUM)
        self._head = bytearray(_HEAD.size)
        self.room = memoryview(self._out)[_HEAD.size : _HEAD.size + CHUNK]  # where to put data before ``send_room``

    def __repr__(self):
        return "<Frames %d sent, %d received>" % (self._sent, self._received)

    def restart(self, key, next_key):
        """Begin again at frame 0 in both directions, for conversations where each call has its own frames and key:
        frames that arrive use this call's key, frames sent from now on use the next call's."""
        self._in_seal = seals.Seal(self.hash, direction_key(key, self._other))
        self._out_seal = seals.Seal(self.hash, direction_key(next_key, self._side))

    # -- out

    def send_control(self, message):
        """One JSON object; ValueError if it is longer than a frame."""
        text = _encoder.encode(message).encode("ascii")
        if len(text) > CHUNK:
            raise ValueError("a message of %d bytes, the limit is %d" % (len(text), CHUNK))
        self.room[: len(text)] = text
        self._send_frame(CONTROL, len(text))

    def send_room(self, size):
        """Send the first ``size`` bytes of ``room`` as file data; if all are zeros, only their number is sent."""
        room = self.room[:size]
        if room[:16] == _ZEROS[: min(size, 16)] and room.tobytes() == _ZEROS[:size]:
            self.send_hole(size)
        else:
            self._send_frame(DATA, size)

    def send_hole(self, size):
        """Send ``size`` zeros as a hole; any number is allowed."""
        self.room[: _NUMBER.size] = _NUMBER.pack(size)
        self._send_frame(HOLE, _NUMBER.size)

    def _send_frame(self, kind, size):
        view = memoryview(self._out)
        _HEAD.pack_into(self._out, 0, kind, size)
        end = _HEAD.size + size
        view[end : end + _SUM] = self._out_seal(view[:end])
        self._sent += 1
        self._send(view[: end + _SUM])

    # -- in

    def receive(self):
        """``(kind, payload)`` of the next frame; payload: a dict, a number of zeros, or a view valid until the next
        call.

        Raises Damaged, and what ``receive`` raises.
        """
        self._receive(memoryview(self._head))
        kind, size = _HEAD.unpack(self._head)
        if kind not in (CONTROL, DATA, HOLE) or size > CHUNK or (kind == HOLE and size != _NUMBER.size):
            raise Damaged("a frame of kind %d and %d bytes" % (kind, size))
        view = memoryview(self._in)[: size + _SUM]
        self._receive(view)
        payload = view[:size]
        if not hmac.compare_digest(self._in_seal(self._head, payload), bytes(view[size:])):
            raise Damaged("a frame whose checksum is not that of its content")
        self._received += 1
        if kind == DATA:
            return kind, payload
        if kind == HOLE:
            return kind, _NUMBER.unpack(payload)[0]
        try:
            message = wire.read_json(bytes(payload))
        except (ValueError, RecursionError):
            raise Damaged("a message that is not JSON")
        if not isinstance(message, dict):
            raise Damaged("a message that is not an object")
        return kind, message


class Box:
    """Stands in for a connection: keeps what is sent, and gives out ``arrived`` as what is received."""

    def __init__(self, arrived=b""):
        self.sent = bytearray()
        self._arrived = memoryview(arrived)

    def __repr__(self):
        return "<Box %d out, %d left>" % (len(self.sent), len(self._arrived))

    @property
    def empty(self):
        return not self._arrived

    def refill(self, arrived):
        """Set the next bytes to receive; the previous ones must all have been read."""
        self._arrived = memoryview(arrived)

    def send(self, data):
        self.sent += data

    def receive(self, view):
        if len(view) > len(self._arrived):
            raise Damaged("frames that end too early")
        view[:] = self._arrived[: len(view)]
        self._arrived = self._arrived[len(view) :]
