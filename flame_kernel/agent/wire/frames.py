"""Frames: how two sides talk over a connection that a function has taken over; both sides import this file.

::

    1   kind: CONTROL (a JSON object), DATA (bytes of a file) or HOLE (so many zeros, eight bytes big endian)
    4   length of the payload, big endian
    …   the payload
    32  BLAKE2b of the frame's number, its head and its payload, keyed for this connection and this direction

The key is made of random numbers of both sides and of the server's HMAC key.  With an HMAC key nobody else can write,
change, drop, repeat or reflect a frame unnoticed; without one, and inside TLS, the sum only finds damage.  Pyro's own
signature does not reach here: what runs on the connection now is no Pyro message.
"""

import hashlib
import hmac
import json
import struct

from . import message as wire

GREETING = b"FLX1"  # the far side's first bytes; Pyro's messages begin otherwise
NONCE = 32
CHUNK = 1 << 20  # bytes of the longest payload

CONTROL, DATA, HOLE = ord("J"), ord("D"), ord("Z")

_HEAD = struct.Struct(">BI")
_NUMBER = struct.Struct(">Q")
_SUM = 32
_ZEROS = bytes(CHUNK)
_encoder = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))


class Damaged(Exception):
    """A frame that the other side cannot have sent."""


def connection_key(secret, ours, theirs):
    """The key of one connection: of the HMAC key (None for none), the client's and the server's random bytes."""
    secret = hashlib.blake2b(secret or b"").digest()
    return hashlib.blake2b(GREETING + ours + theirs, key=secret).digest()


def call_key(talk, number):
    """The key of one call of a conversation (its random name, as text), where files go by calls that Pyro signs."""
    return connection_key(None, talk.encode("ascii", "replace"), _NUMBER.pack(number))


def direction_key(key, sender):
    """The key of what ``sender`` sends on the connection of this key."""
    return hashlib.blake2b(sender, key=key).digest()


class Frames:
    """One side's frames.

    send        takes a bytes-like object whole
    receive     fills a memoryview, or raises
    key         of ``connection_key``;  side  b"client" or b"server"
    """

    def __init__(self, send, receive, key, side):
        self._send, self._receive = send, receive
        self._side, self._other = side, b"client" if side == b"server" else b"server"
        self._out_key = direction_key(key, self._side)
        self._in_key = direction_key(key, self._other)
        self._sent = self._received = 0
        self._out = bytearray(_HEAD.size + CHUNK + _SUM)
        self._in = bytearray(CHUNK + _SUM)
        self._head = bytearray(_HEAD.size)
        self.room = memoryview(self._out)[_HEAD.size : _HEAD.size + CHUNK]  # where to put data before ``send_room``

    def __repr__(self):
        return "<Frames %d sent, %d received>" % (self._sent, self._received)

    def restart(self, key, next_key):
        """Begin again at frame 0, both ways, where each call has frames and a key of its own: what comes now has this
        call's key, what is sent from now on that of the next."""
        self._sent = self._received = 0
        self._in_key = direction_key(key, self._other)
        self._out_key = direction_key(next_key, self._side)

    # -- out

    def send_control(self, message):
        """One JSON object; ValueError if it is longer than a frame."""
        text = _encoder.encode(message).encode("ascii")
        if len(text) > CHUNK:
            raise ValueError("a message of %d bytes, the limit is %d" % (len(text), CHUNK))
        self.room[: len(text)] = text
        self._send_frame(CONTROL, len(text))

    def send_room(self, size):
        """The first ``size`` bytes of ``room`` as a file's data; zeros alone travel as their number."""
        room = self.room[:size]
        if room[:16] == _ZEROS[: min(size, 16)] and room.tobytes() == _ZEROS[:size]:
            self.send_hole(size)
        else:
            self._send_frame(DATA, size)

    def send_hole(self, size):
        """So many zeros, any number of them."""
        self.room[: _NUMBER.size] = _NUMBER.pack(size)
        self._send_frame(HOLE, _NUMBER.size)

    def _send_frame(self, kind, size):
        view = memoryview(self._out)
        _HEAD.pack_into(self._out, 0, kind, size)
        end = _HEAD.size + size
        total = hashlib.blake2b(_NUMBER.pack(self._sent), key=self._out_key, digest_size=_SUM)
        total.update(view[:end])
        view[end : end + _SUM] = total.digest()
        self._sent += 1
        self._send(view[: end + _SUM])

    # -- in

    def receive(self):
        """``(kind, payload)`` of the next frame: a dict, a number of zeros, or a view that is good until the next.

        Raises Damaged, and what ``receive`` raises.
        """
        self._receive(memoryview(self._head))
        kind, size = _HEAD.unpack(self._head)
        if kind not in (CONTROL, DATA, HOLE) or size > CHUNK or (kind == HOLE and size != _NUMBER.size):
            raise Damaged("a frame of kind %d and %d bytes" % (kind, size))
        view = memoryview(self._in)[: size + _SUM]
        self._receive(view)
        total = hashlib.blake2b(_NUMBER.pack(self._received), key=self._in_key, digest_size=_SUM)
        total.update(self._head)
        payload = view[:size]
        total.update(payload)
        if not hmac.compare_digest(total.digest(), bytes(view[size:])):
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
            raise Damaged("a message that is no object")
        return kind, message


class Box:
    """Bytes in place of a connection: what is sent is kept, what is received comes from ``arrived``."""

    def __init__(self, arrived=b""):
        self.sent = bytearray()
        self._arrived = memoryview(arrived)

    def __repr__(self):
        return "<Box %d out, %d left>" % (len(self.sent), len(self._arrived))

    @property
    def empty(self):
        return not self._arrived

    def refill(self, arrived):
        """The next bytes to receive; the last ones must have been."""
        self._arrived = memoryview(arrived)

    def send(self, data):
        self.sent += data

    def receive(self, view):
        if len(view) > len(self._arrived):
            raise Damaged("frames that end too early")
        view[:] = self._arrived[: len(view)]
        self._arrived = self._arrived[len(view) :]
