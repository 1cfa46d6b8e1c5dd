"""Channels: many byte streams over one connection, as frames in and out. No sockets and no clock. Both sides run it.

A frame::

    1   kind
    4   channel, big endian; 0 where the frame is about the connection
    4   length of the payload, big endian
    …   the payload
    32  with a key: the seal of all of the above, for this connection and this direction

    OPEN      JSON     a new channel; the number is one that its opener has not used yet (even: client, odd: far side)
    OPENED             it is connected
    DATA      bytes    at most as many as the other side has given credit for
    CREDIT    4 bytes  so many more bytes may come
    EOF                no more data will come; the other direction goes on
    RESET     text     the channel is over, and why; empty if the peer there has reset its connection
    LISTEN    JSON     the client asks for a listener there, with a number of its own
    LISTENING JSON     the answer: its address, or an error
    UNLISTEN           the listener is to be closed
    BYE                all is over
    ACK       8 bytes  so many bytes of frames have arrived

Every frame except ACK is counted and kept until the other side acknowledges it. When a connection breaks, both sides
say how much they have received, and the rest is sent again over the next one. So channels outlive connections.

The other side may be hostile: a frame that makes no sense raises Damaged, and there is a limit for all that it can make
us keep.
"""

import collections
import hmac
import json
import struct

from ..wire import frames, seals

OPEN, OPENED, DATA, CREDIT, EOF, RESET, LISTEN, LISTENING, UNLISTEN, BYE, ACK = range(1, 12)

CLIENT, FAR = 0, 1
# Bytes of one payload, and of one that is text.
CHUNK = 1 << 18
MAX_TEXT = 4096
# Bytes that a channel may have under way before its reader has to give more credit.
WINDOW = 2 << 20
# Channels at once. More are refused.
MOST = 1024
# Bytes and frames after which we acknowledge; and those that may be unacknowledged while more is read locally.
ACK_EVERY = 1 << 18, 1000
ROOM = 8 << 20, 16_000
# The limit of what is kept for the other side: an honest one acknowledges long before.
MOST_KEPT = 64 << 20, 128_000

_HEAD = struct.Struct(">BII")
_COUNT = struct.Struct(">Q")
_CREDIT = struct.Struct(">I")
# Beyond this size a payload is not copied to stand in one piece with its head.
_SMALL = 8192
_INPUT = 1 << 16
_LENGTHS = {OPENED: 0, CREDIT: _CREDIT.size, EOF: 0, UNLISTEN: 0, BYE: 0, ACK: _COUNT.size}
_LONGEST = {OPEN: MAX_TEXT, DATA: CHUNK, RESET: MAX_TEXT, LISTEN: MAX_TEXT, LISTENING: MAX_TEXT}
# Frames that only the client, or only the far side, may send.
_OF_ONE = {LISTEN: CLIENT, UNLISTEN: CLIENT, LISTENING: FAR}


class Damaged(Exception):
    """The other side sent what no honest one sends."""


class Tampered(Damaged):
    """What was sent was changed on its way. The channels continue over the next connection."""


def both_seals(name, secret, client, far, client_received, far_received):
    """The two seals of a connection, the client's and the far side's, by the hash ``name``: made from the server's key
    ``secret``, both sides' random bytes, and what both say they have received. None, None without a key."""
    if secret is None:
        return None, None
    ours, theirs = client + _COUNT.pack(client_received), far + _COUNT.pack(far_received)
    key = frames.connection_key(secret, b"forward" + ours, theirs)
    return tuple(seals.Seal(name, frames.direction_key(key, side)) for side in (b"client", b"server"))


class _Channel:
    __slots__ = ("allowed", "credit", "eof_in", "eof_out", "opened", "ours", "owed")

    def __init__(self, ours):
        self.ours = ours  # we opened it
        self.opened = not ours
        self.credit = WINDOW  # bytes that we may send
        self.allowed = WINDOW  # bytes that we may be sent
        self.owed = 0  # bytes that were used here, and not given as credit yet
        self.eof_in = self.eof_out = False


class Channels:
    """One side's channels. Calls make frames; ``frames`` gives what is to be sent, and ``take`` what has come.

    side  CLIENT or FAR
    """

    def __init__(self, side):
        self._side = side
        self._next = 2 + side
        self._highest = 1 - side  # the other side's highest number so far
        self._asked = set()  # listeners that we asked for, and have no answer to
        self._channels = {}
        self._log = collections.deque()  # (end, kind, channel, payload), not acknowledged
        self._unsent = collections.deque()  # those of the log that were not sent on this connection yet
        self._end = self._acked = 0  # bytes of frames that were made, and acknowledged
        self._told = 0
        self._untold = 0  # frames that have come since we last acknowledged
        self._ack_due = False
        self._out = self._reader = None
        self.received = 0  # bytes of frames that have come

    def __repr__(self):
        return "<Channels %d open, %d bytes out, %d in, %d kept>" % (
            len(self._channels),
            self._end,
            self.received,
            self.kept,
        )

    def __len__(self):
        return len(self._channels)

    @property
    def made(self):
        """Bytes of frames that were made for the other side."""
        return self._end

    @property
    def kept(self):
        """Bytes of frames that the other side has not acknowledged."""
        return self._end - self._acked

    @property
    def is_full(self):
        """Whether nothing more should be read locally for now."""
        return self._keeps_more_than(ROOM)

    def _keeps_more_than(self, most):
        return self.kept > most[0] or len(self._log) > most[1]

    # -- a connection

    def connect(self, seal_out, seal_in, peer_received):
        """Go on over a new connection; raises Damaged if the other side cannot have received ``peer_received``."""
        self._out = seal_out
        self._reader = _Reader(seal_in)
        self._acknowledged(peer_received)
        if self._log and self._log[0][0] - _size(self._log[0]) != self._acked:
            raise Damaged("it says that it has received half a frame")
        self._unsent = collections.deque(self._log)
        self._told, self._untold, self._ack_due = self.received, 0, False

    def frames(self, most=1 << 20):
        """Buffers to send next on the connection, about ``most`` bytes; empty if there are none."""
        found, size = [], 0
        if self._ack_due or self.received - self._told >= ACK_EVERY[0] or self._untold >= ACK_EVERY[1]:
            self._told, self._untold, self._ack_due = self.received, 0, False
            size += self._add(found, ACK, 0, _COUNT.pack(self.received))
        while self._unsent and size < most:
            _, kind, number, payload = self._unsent.popleft()
            size += self._add(found, kind, number, payload)
        return found

    def _add(self, found, kind, number, payload):
        head = _HEAD.pack(kind, number, len(payload))
        seal = self._out(head, payload) if self._out is not None else b""
        if len(payload) <= _SMALL:
            found.append(b"".join((head, payload, seal)))
        else:
            found.extend((head, payload, seal) if seal else (head, payload))
        return len(head) + len(payload) + len(seal)

    def beat(self):
        """Acknowledge at the next chance, so that the other side hears of us."""
        self._ack_due = True

    def room(self):
        """The memory that the next bytes of the connection go into."""
        return self._reader.room()

    def filled(self, count):
        """``count`` bytes have come: yields ``(kind, channel, payload)`` of each frame that concerns the caller.

        Payloads are views of DATA, dicts, text, or None. Raises Damaged.
        """
        for kind, number, payload in self._reader.filled(count):
            if kind == ACK:
                self._acknowledged(_COUNT.unpack(payload)[0])
                continue
            self.received += _HEAD.size + len(payload)
            self._untold += 1
            if self._concerns(kind, number, payload):
                yield kind, number, _read(kind, payload)
        if self._keeps_more_than(MOST_KEPT):
            raise Damaged("it does not acknowledge what it is sent")

    def _acknowledged(self, received):
        if not self._acked <= received <= self._end:
            raise Damaged("it says that it has received what was not sent")
        while self._log and self._log[0][0] <= received:
            self._log.popleft()
        self._acked = received

    def _concerns(self, kind, number, payload):
        """Check a frame against the state of its channel; returns whether the caller is to hear of it."""
        if _OF_ONE.get(kind, 1 - self._side) == self._side:
            raise Damaged("a frame that only we may send")
        check = _CHECKS.get(kind)
        if check is not None:
            return check(self, number, payload)
        channel = self._channels.get(number)
        if channel is None:
            mine = number % 2 == self._side
            if not 2 <= number < self._next if mine else number > self._highest:
                raise Damaged("a frame of channel %d, which was never opened" % number)
            return False  # it was closed here meanwhile
        return _OF_CHANNEL[kind](self, number, channel, payload)

    def _check_open(self, number, payload):
        if number % 2 == self._side or number <= self._highest or number < 2:
            raise Damaged("channel %d is opened again" % number)
        self._highest = number
        if len(self._channels) >= MOST:
            self._frame(RESET, number, b"too many streams at once")
            return False
        self._channels[number] = _Channel(ours=False)
        return True

    def _check_listening(self, number, payload):
        if number not in self._asked:
            raise Damaged("a listener that nobody asked for")
        self._asked.discard(number)
        return True

    def _take_opened(self, number, channel, payload):
        if channel.opened:
            raise Damaged("channel %d is connected twice" % number)
        channel.opened = True
        return True

    def _take_data(self, number, channel, payload):
        if channel.eof_in or len(payload) > channel.allowed:
            raise Damaged("more data of channel %d than it may send" % number)
        channel.allowed -= len(payload)
        return len(payload) > 0

    def _take_credit(self, number, channel, payload):
        channel.credit += _CREDIT.unpack(payload)[0]
        if channel.credit > WINDOW:
            raise Damaged("credit for more than was sent")
        return True

    def _take_eof(self, number, channel, payload):
        if channel.eof_in:
            raise Damaged("channel %d ends twice" % number)
        channel.eof_in = True
        return True

    def _take_reset(self, number, channel, payload):
        del self._channels[number]
        return True

    # -- what this side does

    def open(self, what):
        """Open a channel to ``what``, a dict; returns its number."""
        number, self._next = self._next, self._next + 2
        self._channels[number] = _Channel(ours=True)
        self._frame(OPEN, number, _json(what))
        return number

    def opened(self, number):
        """Say that a channel which the other side has opened is connected."""
        self._frame(OPENED, number)

    def credit(self, number):
        """How many bytes may be written to a channel now."""
        channel = self._channels.get(number)
        return 0 if channel is None or channel.eof_out else min(channel.credit, CHUNK)

    def write(self, number, data):
        """Send bytes, at most ``credit`` of them."""
        self._channels[number].credit -= len(data)
        self._frame(DATA, number, data)

    def used(self, number, count):
        """``count`` bytes of a channel have been used here, so the other side may send more."""
        channel = self._channels.get(number)
        if channel is None or channel.eof_in:
            return
        channel.owed += count
        if channel.owed >= WINDOW // 4:
            self._frame(CREDIT, number, _CREDIT.pack(channel.owed))
            channel.allowed += channel.owed
            channel.owed = 0

    def finish(self, number):
        """End this direction of a channel."""
        self._channels[number].eof_out = True
        self._frame(EOF, number)

    def forget(self, number):
        """Forget a channel that has ended in both directions, and whose data has all been used."""
        self._channels.pop(number, None)

    def reset(self, number, why=""):
        """End a channel at once, and say why; nothing if it has ended already."""
        if self._channels.pop(number, None) is not None:
            self._frame(RESET, number, why.encode("utf-8", "replace")[:MAX_TEXT])

    def listen(self, what):
        """Ask the far side for a listener at ``what``, a dict; returns its number."""
        number, self._next = self._next, self._next + 2
        self._asked.add(number)
        self._frame(LISTEN, number, _json(what))
        return number

    def listening(self, number, answer):
        """Answer LISTEN."""
        self._frame(LISTENING, number, _json(answer))

    def unlisten(self, number):
        """Ask the far side to close a listener."""
        self._frame(UNLISTEN, number)

    def bye(self):
        """Say that all is over."""
        self._frame(BYE, 0)

    def _frame(self, kind, number, payload=b""):
        self._end += _HEAD.size + len(payload)
        entry = (self._end, kind, number, payload)
        self._log.append(entry)
        self._unsent.append(entry)


_CHECKS = {
    OPEN: Channels._check_open,
    LISTEN: lambda self, number, payload: True,
    LISTENING: Channels._check_listening,
    UNLISTEN: lambda self, number, payload: True,
    BYE: lambda self, number, payload: True,
}
_OF_CHANNEL = {
    OPENED: Channels._take_opened,
    DATA: Channels._take_data,
    CREDIT: Channels._take_credit,
    EOF: Channels._take_eof,
    RESET: Channels._take_reset,
}


class _Reader:
    """Finds the frames in the bytes of one connection."""

    def __init__(self, seal):
        self._seal = seal
        self._after = 0 if seal is None else seals.SIZE  # bytes behind a payload
        self._input = bytearray(_INPUT)
        self._start = self._stop = 0  # of what was read and not used
        self._head = self._body = self._rest = None

    def room(self):
        if self._body is not None:
            return self._rest
        if self._start:
            left = self._stop - self._start
            self._input[:left] = self._input[self._start : self._stop]
            self._start, self._stop = 0, left
        return memoryview(self._input)[self._stop :]

    def filled(self, count):
        if self._body is not None:
            self._rest = self._rest[count:]
        else:
            self._stop += count
        while True:
            if self._body is None and not self._begin():
                return
            if len(self._rest):
                return
            kind, number, size = _HEAD.unpack(self._head)
            payload = memoryview(self._body)[:size]
            if self._seal is not None:
                made = self._seal(self._head, payload)
                if not hmac.compare_digest(made, bytes(memoryview(self._body)[size:])):
                    raise Tampered("a frame whose seal is not that of its content")
            self._head = self._body = self._rest = None
            yield kind, number, payload

    def _begin(self):
        """Read the head of a frame, and what has come of its body."""
        if self._stop - self._start < _HEAD.size:
            return False
        head = bytes(self._input[self._start : self._start + _HEAD.size])
        kind, _, size = _HEAD.unpack(head)
        if size != _LENGTHS.get(kind, size) or size > _LONGEST.get(kind, _LENGTHS.get(kind, -1)):
            raise (Damaged if self._seal is None else Tampered)("a frame of kind %d and %d bytes" % (kind, size))
        self._start += _HEAD.size
        self._head, self._body = head, bytearray(size + self._after)
        count = min(len(self._body), self._stop - self._start)
        self._body[:count] = self._input[self._start : self._start + count]
        self._start += count
        self._rest = memoryview(self._body)[count:]
        return True


def _size(entry):
    return _HEAD.size + len(entry[3])


def _json(what):
    text = json.dumps(what).encode("ascii")
    if len(text) > MAX_TEXT:
        raise ValueError("%d bytes of JSON, the limit is %d" % (len(text), MAX_TEXT))
    return text


def _read(kind, payload):
    """The payload of a frame as its receiver is given it."""
    if kind == DATA:
        return payload
    if kind == RESET:
        return bytes(payload).decode("utf-8", "replace")
    if kind not in (OPEN, LISTEN, LISTENING):
        return None
    try:
        what = json.loads(bytes(payload).decode("utf-8"))
    except (ValueError, RecursionError):
        what = None
    if not isinstance(what, dict):
        raise Damaged("a message that is not a JSON object")
    return what
