"""The answers to the readers of a log: ``poll`` of the session's owner, ``watch`` of others, and ``replay``.

A link may break so often that no answer gets through whole. So the client says how many bytes do (``most``), and a
larger answer comes in pieces. Each piece has the answer's name (``mark``) and size (``size``), and its own position in
it (``at``). The answer is kept here until the next one is asked for.
"""

import os
import time

from .. import sockets
from ..wire import chunks
from ..wire import message as wire

# Bytes of the smallest piece.
LEAST = 128
# Readers that ask for larger pieces want batches of half as many bytes: only buffers make an answer larger than that.
EXACT = 1 << 13
# The event types that ``replay`` gives. Comm messages are left out: the state of their widgets has changed since.
OUTPUT = ("stream", "display_data", "update_display_data", "execute_result", "error", "clear_output")


class Kept:
    """An answer that is sent in pieces, with a name of its own."""

    def __init__(self, parts):
        self.whole = chunks.Outgoing(parts)
        self.mark = os.urandom(8).hex()

    def piece(self, at, most):
        """The result of an op: at most ``most`` bytes of the answer, from ``at`` on."""
        piece = b"".join(self.whole.piece(at, max(most, LEAST)))
        return {"piece": {"mark": self.mark, "at": at, "size": self.whole.size}}, [piece]


def poll(log, request, wait):
    """The events after those that the owner has: see ``EventLog.poll``."""
    most, kept = request.get("most"), log.kept
    if kept is not None and most and request.get("mark") == kept.mark and 0 < request["at"] < kept.whole.size:
        log.acted_on = time.monotonic()
        return kept.piece(request["at"], most)
    connection = sockets.current()
    batch = log.poll(
        request["ack"],
        wait,
        request.get("gap", 0.0),
        request.get("limit", 1 << 20),
        lambda: sockets.is_over(connection),
        request.get("after"),
    )
    plain, buffers = wire.encode_events(batch)
    if most and batch and (most <= EXACT or sum(map(len, buffers)) > most):
        kept = Kept(wire.parts({"events": plain}, buffers))
        if kept.whole.size > max(most, LEAST):
            log.kept = kept
            return kept.piece(0, most)
    return {"events": plain}, buffers


def watch(log, request, wait):
    """The events for a client that only watches: see ``EventLog.watch``."""
    connection = sockets.current()
    batch, newest, skipped = log.watch(
        request.get("after"), request.get("limit", 1 << 20), wait, lambda: sockets.is_over(connection)
    )
    plain, buffers = wire.encode_events(batch)
    return {"events": plain, "newest": newest, "skipped": skipped}, buffers


def replay(log, request):
    """One cell's output, as the owner was sent it: see ``EventLog.replay``."""
    batch, done = log.replay(request["request"], OUTPUT, request.get("after") or 0, request.get("limit", 1 << 20))
    plain, buffers = wire.encode_events(batch)
    return {"events": plain, "done": done}, buffers
