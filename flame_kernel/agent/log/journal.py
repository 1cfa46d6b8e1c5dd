"""Journal: numbered events until they are acknowledged, and the latest acknowledged ones for a while longer.

It has no threads and no locks.  Events lie in blocks, each in memory or in the spill file.  The blocks, in order::

    history          acknowledged; kept for replays up to a limit, then the oldest are forgotten
    head             the oldest events that are not acknowledged
    gap              stands for dropped output, see ``dropping``
    tail             the newest events; its last block is open and grows

Each of these may be empty.  An event has a *position*, which never changes, and a *number*, which shows the reader that
no event is missing.  Dropping output lowers the numbers behind the gap.  That is safe because nobody has been sent
them: an event that was sent under a number (``sealed``) is never changed, and never dropped before it is acknowledged.

Sizes are the bytes of output that go over the link, plus a little for each event.
"""

import marshal

from ..wire.units import size_in_words
from . import dropping, spill
from .blocks import Block, payload, size_of

# Bytes in a block; blocks are smaller if the cap is small.
BLOCK = 1 << 18
# A block of up to this many bytes stays in memory for a moment after it was read from the file.
CACHED = 1 << 22


class Journal:
    """The events of a log, in blocks.

    cap             bytes that may be unacknowledged before the middle of them is dropped; None: no limit
    memory          how many of these bytes stay in memory; None: all
    history         bytes that are kept after they are acknowledged, ``history_memory`` of them in memory
    on_dropped      called with a request id when some of its output is dropped
    """

    def __init__(self, cap=None, memory=None, history=0, history_memory=2 << 20, on_dropped=lambda request: None):
        self.memory = memory
        self.history = history
        self.history_memory = history_memory
        self.newest = 0  # number of the newest event
        self.position = 0  # position of the newest event
        self.acknowledged = 0
        self.sealed = 0  # the highest number that a reader was sent
        self.waiting = 0  # bytes that are not acknowledged
        self.stuck = None  # why nothing more can be written to the file; None if it can
        self._on_dropped = on_dropped
        self._blocks = [Block(1, 1)]
        self._gap = None
        self._spill = spill.Spill()
        self._cached = None, None
        self._acknowledged_more = self._closed_more = False  # changes that ``settle`` has not handled yet
        self.set_cap(cap)

    def __repr__(self):
        return "<Journal newest %d, acknowledged %d, %d bytes wait, %r>" % (
            self.newest,
            self.acknowledged,
            self.waiting,
            self._spill,
        )

    def set_cap(self, cap):
        """Set another cap."""
        self.cap = cap
        self._block_size = BLOCK if cap is None else max(1 << 12, min(BLOCK, cap // 32))
        self._closed_more = True

    # -- adding ------------------------------------------------------------------------------------------------------

    @property
    def open_from(self):
        """The first position whose event may still grow."""
        return self._blocks[-1].position

    @property
    def oldest(self):
        """The position of the oldest event that is kept."""
        return self._blocks[0].position

    def add(self, event):
        """Add an event, a dict that the journal owns from now on; returns its position."""
        size = event["size"] = size_of(event)
        self.newest += 1
        self.position += 1
        block = self._blocks[-1]
        block.events.append(event)
        block.count += 1
        self._grew(block, size)
        return self.position

    def grow(self, event, text, size):
        """Append ``text``, of ``size`` bytes, to an event in the open block."""
        pieces = event.get("pieces")
        if pieces is None:
            pieces = event["pieces"] = [event["content"]["text"]]
        elif len(pieces) > 255:
            pieces[:] = ["".join(pieces)]
        pieces.append(text)
        event["size"] += size
        self._grew(self._blocks[-1], size)

    def _grew(self, block, size):
        block.size += size
        block.left += size
        self.waiting += size
        if block.size >= self._block_size:
            self._close_block(block)

    def _close_block(self, block):
        block.output = {}
        for event in block.events:
            _finish(event)
            if block.output is not None:
                if dropping.is_kept(event):
                    block.output = None
                else:
                    request = event["request"]
                    block.output[request] = block.output.get(request, 0) + payload(event)
        self._blocks.append(Block(self.position + 1, self.newest + 1))
        self._closed_more = True

    # -- reading -----------------------------------------------------------------------------------------------------

    def acknowledge(self, number):
        """The reader has received everything up to ``number``."""
        number = min(number, self.newest)
        if number <= self.acknowledged:
            return
        if self._gap is not None and number >= self._gap.first:
            self._seal_gap()
        for block in self._blocks:
            if block.first > number:
                break
            if not block.left:
                continue
            done = self._unread(block, number)
            block.left -= done
            self.waiting -= done
        self.acknowledged = number
        self.sealed = max(self.sealed, number)
        self._acknowledged_more = True

    def sent(self, number):
        """How many unacknowledged bytes there are up to ``number``."""
        return sum(self._unread(block, number) for block in self._blocks if block.left and block.first <= number)

    def _unread(self, block, number):
        """How many unacknowledged bytes of one block there are up to ``number``."""
        if block.first + block.count - 1 <= number:
            return block.left
        events, since = self._load(block), max(self.acknowledged + 1, block.first)
        return sum(event["size"] for event in events[since - block.first : number + 1 - block.first])

    def take(self, after, limit):
        """``[(number, event)]`` behind number ``after``: about ``limit`` bytes but at least one event. Seals them.

        Starts behind ``acknowledged`` at the earliest: older events are history.
        """
        after = max(after, self.acknowledged)
        batch, size = [], 0
        for block in self._blocks:
            if block is self._gap and (not batch or size < limit):
                self._seal_gap()
            if self._gap is not None and block.position >= self._gap.position:
                break
            if block.first + block.count - 1 <= after:
                continue
            events = self._load(block)
            for number in range(max(after + 1, block.first), block.first + block.count):
                event = events[number - block.first]
                if batch and size + event["size"] > limit:
                    break
                size += event["size"]
                _finish(event)
                batch.append((number, event))
            else:
                continue
            break
        if batch:
            self.sealed = max(self.sealed, batch[-1][0])
        return batch

    def read(self, after, limit, request=None, until=None):
        """``[(position, number, event)]`` behind position ``after``, optionally of one request only. Seals nothing.

        The number is None for an event that nobody has been sent. Returns at least one event if there is one, and none
        behind position ``until``.
        """
        found, size = [], 0
        sealed = self.sealed
        for block in self._blocks:
            if block.position + block.count - 1 <= after:
                continue
            if size >= limit or (until is not None and block.position > until):
                break
            numbered = self._gap is None or block.position < self._gap.position
            for at, event in enumerate(self._load(block)):
                position = block.position + at
                if position <= after or (request is not None and event["request"] != request):
                    continue
                if found and size + event["size"] > limit:
                    return found
                size += event["size"]
                _finish(event)
                number = block.first + at
                found.append((position, number if numbered and number <= sealed else None, event))
        return found

    def _load(self, block):
        """The events of a block, from memory or from the file."""
        if block.events is not None:
            return block.events
        if self._cached[0] is block:
            return self._cached[1]
        try:
            events = marshal.loads(self._spill.load(block.pages, block.length))
        except (OSError, ValueError, EOFError) as e:
            events = _substitutes(block, e)
        if block.size <= CACHED:
            self._cached = block, events
        return events

    def _seal_gap(self):
        """The reader has reached the gap: from now on it cannot change, so number the events behind it."""
        gap, self._gap = self._gap, None
        number = gap.first
        for block in self._blocks[self._blocks.index(gap) :]:
            block.first = number
            number += block.count

    # -- limits ------------------------------------------------------------------------------------------------------

    @property
    def is_full(self):
        """Whether the next output would have to be dropped."""
        return (self.cap is not None and self.waiting >= self.cap) or self.stuck is not None

    def settle(self, may_spill=True, may_drop=True):
        """Spill, drop and forget events until all limits are kept; returns whether the oldest event has changed."""
        oldest = self.oldest
        if self._acknowledged_more:
            self._acknowledged_more = False
            self._forget()
        if self._closed_more and self.cap is not None and may_spill:
            self._closed_more = False
            self._spill_waiting(may_drop)
        if self.cap is not None and self.waiting > self.cap and may_drop:
            reason = dropping.CAP_REACHED % size_in_words(self.cap)
            while self.waiting > self.cap and self._drop(self.cap // 2, reason):
                pass
        return self.oldest != oldest

    def _forget(self):
        """Forget acknowledged events that exceed the history."""
        old = []
        for block in self._blocks[:-1]:
            if block.left:
                break
            old.append(block)
        kept = held = 0
        for at in reversed(range(len(old))):
            block = old[at]
            kept += block.size
            if block.events is not None:
                held += block.size
            if kept > self.history or (held > self.history_memory and block.events and not self._put_away(block)):
                for gone in old[: at + 1]:
                    self._free(gone)
                del self._blocks[: at + 1]
                return

    def _spill_waiting(self, may_drop):
        self.stuck = None
        while True:
            blocks = [b for b in self._blocks[:-1] if b.left and b.events is not None and b is not self._gap]
            held = sum(block.size for block in blocks) + self._blocks[-1].size
            if held <= self.memory or not blocks:
                return
            if self._put_away(blocks[0]):
                continue
            # There is no room in the file: drop output, so that its pages can be used again.
            reason = dropping.FILE_FULL % self.stuck
            if not may_drop or not self._drop(self.waiting // 2, reason):
                self._closed_more = True  # try again later, when there may be room
                return

    def _put_away(self, block):
        """Move a block's events into the file; returns whether that worked."""
        try:
            data = marshal.dumps(block.events)
            pages = self._spill.store(data)
        except (OSError, ValueError) as e:
            self.stuck = getattr(e, "strerror", None) or str(e)
            return False
        block.events, block.pages, block.length = None, pages, len(data)
        return True

    def _drop(self, head, reason):
        """Drop the block behind the gap, which is made behind ``head`` bytes if needed. False if nothing can be
        dropped."""
        if self._gap is None:
            self._gap = dropping.gap_in(self._blocks, head, self.sealed, reason, self._on_dropped)
            if self._gap is None:
                return False
        at = self._blocks.index(self._gap) + 1
        victim, gap = self._blocks[at], self._gap
        if victim is self._blocks[-1]:
            return False
        count, size = gap.count, gap.size
        gap.drop(victim, self._load)
        del self._blocks[at]
        self.newest += gap.count - count - victim.count
        self.waiting += gap.size - size - victim.left
        victim.left = 0
        self._free(victim)
        return True

    def _free(self, block):
        if self._cached[0] is block:
            self._cached = None, None
        self._spill.free(block.pages)
        block.pages = ()
        block.events = block.events or []

    def close(self):
        """Drop everything, and delete the file."""
        self._blocks = [Block(self.position + 1, self.newest + 1)]
        self._gap = None
        self._cached = None, None
        self.acknowledged = self.newest
        self.waiting = 0
        self._spill.close()


def _finish(event):
    """Join the pieces of an event's text."""
    pieces = event.pop("pieces", None)
    if pieces is not None:
        event["content"] = {"name": event["content"]["name"], "text": "".join(pieces)}


def _substitutes(block, error):
    """Events in place of a block that cannot be read: as many as it had, the first of which says so."""
    text = "[%d bytes of output lost here: the journal's file could not be read: %s]\n" % (block.size, error)
    made = []
    for n in range(block.count):
        content = {"name": "stderr", "text": "" if n else text}
        made.append({"type": "stream", "request": None, "content": content, "size": 0})
    return made
