"""Drops unread output when there is too much of it: the middle goes, the beginning and the newest stay.

A `Gap` stands for what was dropped: a mark for each cell, which says how many bytes are missing, and the events that
must not be lost. ``Journal.settle`` decides when something is dropped.
"""

from .blocks import OVERHEAD, Block, payload

# Event types that are never dropped: someone waits for them, or later events make no sense without them.
_KEPT = ("ready", "died", "error", "input_request", "input_cancelled", "callback_request", "takeover_request")
_KEPT += ("hot_request", "comm_open", "comm_close")

# Why output was dropped, in its mark.
CAP_REACHED = "the journal's cap of %s was reached while nobody read"
FILE_FULL = "the journal's file could not grow (%s) while nobody read"


def is_kept(event):
    """Whether an event is kept when the output around it is dropped."""
    return event["type"].endswith("_reply") or event["type"] in _KEPT


class Gap(Block):
    """Stands for dropped output. ``mark`` in one of its events: how many bytes that event stands for.

    reason      why output was dropped
    on_dropped  called with a request id when some of its output is dropped
    """

    __slots__ = ("marks", "on_dropped", "reason")

    def __init__(self, position, first, reason, on_dropped):
        Block.__init__(self, position, first)
        self.marks = {}  # request id -> its mark
        self.reason = reason
        self.on_dropped = on_dropped

    def drop(self, block, load):
        """Stand for the events of ``block``, too. ``load`` returns them, where they must be looked at one by one."""
        if block.output is not None:
            for request, count in block.output.items():
                self._lose(request, count)
            return
        for event in load(block):
            if is_kept(event):
                self._add(event)
            else:
                self._lose(event["request"], event["mark"] if "mark" in event else payload(event))

    def _add(self, event):
        self.events.append(event)
        self.count += 1
        self.size += event["size"]
        self.left += event["size"]

    def _lose(self, request, count):
        """Record that ``count`` bytes of a request were dropped, in the request's mark."""
        mark = self.marks.get(request)
        if mark is None:
            mark = {"type": "stream", "request": request, "content": {"name": "stderr", "text": ""}}
            mark.update(size=4 * OVERHEAD, mark=0)
            self.marks[request] = mark
            self._add(mark)
        mark["mark"] += count
        mark["content"] = {
            "name": "stderr",
            "text": "[%d bytes of output dropped here: %s]\n" % (mark["mark"], self.reason),
        }
        self.on_dropped(request)


def gap_in(blocks, head, sealed, reason, on_dropped):
    """The gap from which on output is dropped, put among ``blocks`` behind ``head`` unread bytes and behind number
    ``sealed``, the last one that the reader was sent; None if there is nothing behind these."""
    before = 0
    for at, block in enumerate(blocks[:-1]):
        if before >= head and block.first > sealed:
            last = blocks[at - 1] if at else None
            if isinstance(last, Gap) and last.first > sealed and last.events is not None:
                return last  # a reader has reached this gap but was sent nothing of it
            gap = Gap(block.position, block.first, reason, on_dropped)
            blocks.insert(at, gap)
            return gap
        before += block.left
    return None
