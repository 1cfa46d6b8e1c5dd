"""Claims: the call that begins a request takes the events up to its reply itself, if they come at once.

While it waits, producers wake it in place of the reader, whose poll stays parked. It takes all or nothing: where the
reply does not come at once, or more has come than fits into the answer, it takes nothing and the reader wakes, as if
there had been no claim. What it takes stays in the log until it is acknowledged, so a reader that polls gets it, too:
the client drops what it has.
"""

import time

from .locks import signal, wake

# Seconds that output waits for the end of its cell, to go in one answer.
GRACE = 0.002


class Claim:
    """One claim.

    alone    only a reply is taken that nothing else came with, and that is not larger than the limit
    signal   is woken for each event, in place of the reader's signals ``before``
    replied  the number of the reply once it is there
    """

    def __init__(self, request, before, alone=False):
        self.request = request
        self.before = before
        self.alone = alone
        self.signal = signal()
        self.replied = 0

    def __repr__(self):
        return "<Claim of %r>" % (self.request,)

    def saw(self, event, number):
        """A new event has its number."""
        if event["request"] == self.request and event["type"].endswith("_reply"):
            self.replied = number

    def is_complete(self, batch, limit):
        """Whether a batch has the reply, and no more than may be taken."""
        if not batch or batch[-1]["number"] < self.replied:
            return False
        return not self.alone or (len(batch) == 1 and _size(batch[0]) <= limit)


def _size(event):
    """The bytes of an event that is not small."""
    return len(event.get("json") or b"") + sum(map(len, event.get("buffers") or ()))


def begin(log, request, alone=False):
    """What comes from now on up to the reply of ``request`` is for the calling thread: it calls `take`, or `end`."""
    with log.lock:
        end(log)
        log.claim = Claim(request, log.signals, alone)
        log.signals = (log.claim.signal, log.claim.signal)
        return log.claim


def end(log):
    """The reader is woken again; called with the lock."""
    claim, log.claim = log.claim, None
    if claim is not None:
        log.signals = claim.before
        wake(claim.signal)


def remind(log):
    """The reader has to look, because the answer with what was claimed is lost."""
    with log.lock:
        end(log)
        wake_reader(log)


def wake_reader(log):
    for one in log.signals:
        wake(one)


def take(log, claim, after, wait, limit):
    """The events behind number ``after``, with the reply; or none, and the reader has to take them."""
    deadline, noticed = time.monotonic() + wait, None
    while True:
        with log.lock:
            newest = log.drain()
            if log.claim is not claim:  # a reader has come, or the client has given this call up
                return []
            now = time.monotonic()
            noticed = noticed or (now if newest > after else None)
            until = deadline if noticed is None else min(deadline, noticed + (0.0 if claim.alone else GRACE))
            if claim.replied or now >= until:
                batch = log.read(after, limit, now) if claim.replied else []
                if not claim.is_complete(batch, limit):
                    batch = []
                end(log)
                # After the end of the claim: an event that came meanwhile has woken this thread, and not the reader.
                if not batch or log.drain() > batch[-1]["number"]:
                    wake_reader(log)
                return batch
        claim.signal.acquire(timeout=max(0.0, until - now))
