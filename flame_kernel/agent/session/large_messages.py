"""Messages that are larger than the server takes (Pyro's MAX_MESSAGE_SIZE), in parts that are kept at their connection.

Pyro ends a connection on which more comes, and does not answer with more. So a client sends such a request in parts,
and the last one is answered as the whole would be; of an answer that is too large it is told the size, ``{"large":
bytes}``, and it fetches that in parts as well.
"""

import sys

from .. import sockets
from ..wire import message as wire

# Bytes of a request in parts: memory that is taken before anybody knows what it is.
LARGEST = 1 << 30

_COMING, _GOING = "_flame_coming", "_flame_going"


def most():
    """Bytes of a message that this server takes; 0 without a limit."""
    config = getattr(sys.modules.get("Pyro4.configuration"), "config", None)
    size = getattr(config, "MAX_MESSAGE_SIZE", 0)
    return size if isinstance(size, int) and size > 0 else 0


def take(request, data):
    """One more part of a request: the whole of it with the last part, None before."""
    kept = sockets.current().__dict__
    whole = kept.pop(_COMING, None) if request["at"] else bytearray()
    if whole is None or len(whole) != request["at"] or len(whole) + len(data) > LARGEST:
        raise ValueError("a part that does not follow the one before, or is too much")
    whole += data
    if request["last"]:
        return bytes(whole)
    kept[_COMING] = whole
    return None


def fitting(answer):
    """The answer, or how large it is where the server cannot give it at once: ``give`` has it then."""
    size = most()
    if not size or len(answer) + wire.SPARE <= size or sockets.current() is None:
        return answer
    sockets.current().__dict__[_GOING] = answer
    return wire.encode({"large": len(answer)})


def give(at):
    """The bytes from ``at`` on of the answer that did not fit; it is forgotten with the last of them."""
    kept = sockets.current().__dict__
    answer = kept.get(_GOING, b"")
    end = at + max(most() - wire.SPARE, wire.SPARE)
    if end >= len(answer):
        kept.pop(_GOING, None)
    return answer[at:end]
