"""Messages larger than the server allows (Pyro's MAX_MESSAGE_SIZE), sent in parts that are kept with their connection.

Pyro closes a connection that brings a larger message, and does not send larger answers.  So a client sends such a
request in parts; the answer to the last part is the answer to the whole request.  If an answer is too large, the client
is told its size, ``{"large": bytes}``, and fetches it in parts as well.

If the link is cut before a request is through, the client sends the request in portions.  They are kept with the
session, over as many connections as it takes, until a request names them.
"""

import sys

from .. import sockets
from ..wire import message as wire

# Most bytes of a request in parts, because memory is allocated before anybody knows what it is.
LARGEST = 1 << 30

_COMING, _GOING = "_flame_coming", "_flame_going"


def most():
    """The largest message that this server accepts, in bytes; 0 means no limit."""
    config = getattr(sys.modules.get("Pyro4.configuration"), "config", None)
    size = getattr(config, "MAX_MESSAGE_SIZE", 0)
    return size if isinstance(size, int) and size > 0 else 0


def take(request, data):
    """Take one more part of a request; returns the whole request with the last part, None before. Raises ValueError."""
    kept = sockets.current().__dict__
    whole = kept.pop(_COMING, None) if request["at"] else bytearray()
    if whole is None or len(whole) != request["at"] or len(whole) + len(data) > LARGEST:
        raise ValueError("a part that is out of order, or too large")
    whole += data
    if request["last"]:
        return bytes(whole)
    kept[_COMING] = whole
    return None


def fitting(answer):
    """The answer, or its size if the server cannot send it at once: then ``give`` returns it in parts."""
    size = most()
    if not size or len(answer) + wire.SPARE <= size or sockets.current() is None:
        return answer
    sockets.current().__dict__[_GOING] = answer
    return wire.encode({"large": len(answer)})


def give(at):
    """The bytes from ``at`` on of an answer that was too large; it is forgotten after the last of them."""
    kept = sockets.current().__dict__
    answer = kept.get(_GOING, b"")
    end = at + max(most() - wire.SPARE, wire.SPARE)
    if end >= len(answer):
        kept.pop(_GOING, None)
    return answer[at:end]


class Portions:
    """A request that a session's owner sends in portions, under one name; one such request at a time."""

    def __init__(self):
        self.clear()

    def clear(self):
        self._name, self._come = None, bytearray()

    def take(self, name, at, data):
        """Store a portion; returns how many bytes have come. A repeated portion changes nothing."""
        if name != self._name and at == 0:
            self._name, self._come = name, bytearray()
        if name != self._name:
            return 0
        if at == len(self._come) and at + len(data) <= LARGEST:
            self._come += data
        return len(self._come)

    def whole(self, name):
        """``(message, buffers)`` that have come under this name; KeyError for another."""
        if name != self._name:
            raise KeyError(name)
        return wire.decode(bytes(self._come))
