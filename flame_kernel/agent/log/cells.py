"""What a session knows of its cells, for as long as the journal has events of them.

No I/O, no locks. It sees each event once, in order; positions are those of the journal.
"""

import collections
import time

# How many characters of a cell's code are kept, for lists.
CODE = 200
# How many cells are remembered at most.
MOST = 1000


class _Cell:
    __slots__ = ("bytes", "code", "complete", "count", "ended", "first", "lane", "last", "silent", "started", "status")

    def __init__(self, code, lane, silent):
        self.code = code[:CODE]
        self.lane = lane
        self.silent = silent
        self.started = None  # seconds since the epoch; None while it is queued
        self.ended = None
        self.status = None
        self.count = None
        self.first = None  # position of its first event; ``last``: of its latest
        self.last = None
        self.bytes = 0
        self.complete = True


class Cells:
    """The latest cells of a session, in the order in which they were submitted."""

    def __init__(self):
        self._cells = collections.OrderedDict()  # request id -> _Cell, in order of submission
        self._open = collections.OrderedDict()  # those that have not ended
        self._inputs = (
            collections.OrderedDict()
        )  # input id -> [event, the number it was sent under or None], until it is answered

    def begin(self, request):
        """Record that an execute request was submitted."""
        cell = _Cell(request.get("code") or "", request.get("lane") or "", bool(request.get("silent")))
        if not any(other.lane == cell.lane for other in self._open.values()):
            cell.started = time.time()
        self._cells[request["id"]] = self._open[request["id"]] = cell
        if len(self._cells) > MOST:
            for request_id, old in self._cells.items():
                if old.ended is not None:
                    del self._cells[request_id]
                    break

    def saw(self, event, position, size):
        """Record an event with ``size`` bytes of content at ``position`` of the journal."""
        kind = event["type"]
        if kind == "input_request":
            self._inputs[event["content"].get("input_id")] = [event, None]
        elif kind == "input_cancelled":
            self._inputs.pop(event["content"].get("input_id"), None)
        cell = self._cells.get(event["request"])
        if cell is None:
            return
        if cell.first is None:
            cell.first = position
        cell.last = position
        if kind == "execute_reply":
            self._end(event["request"], cell, event["content"])
        else:
            cell.bytes += size

    def _end(self, request_id, cell, reply):
        cell.ended = time.time()
        cell.status = reply.get("status")
        cell.count = reply.get("execution_count")
        for input_id, (event, _) in list(self._inputs.items()):
            if event["request"] == request_id:
                del self._inputs[input_id]
        self._open.pop(request_id, None)
        for other in self._open.values():
            if other.lane == cell.lane:
                other.started = other.started or cell.ended
                break

    def answered(self, input_id):
        """Record that the code that asked has received the user's line."""
        self._inputs.pop(input_id, None)

    def dropped(self, request_id):
        """Record that output of a cell was dropped."""
        cell = self._cells.get(request_id)
        if cell is not None:
            cell.complete = False

    def evicted(self, oldest):
        """Record that the journal has nothing before position ``oldest`` any more."""
        gone = []
        for request_id, cell in self._cells.items():
            if cell.ended is not None and cell.last is not None and cell.last < oldest:
                gone.append(request_id)
            elif cell.first is not None and cell.first < oldest:
                cell.complete = False
        for request_id in gone:
            del self._cells[request_id]

    def running(self):
        """``[{request, code, started}]`` of the cells that run (or are queued: ``started`` None), oldest first."""
        return [
            {"request": request_id, "code": cell.code, "started": cell.started}
            for request_id, cell in self._open.items()
        ]

    def sent(self, events):
        """Record that a reader was sent these events, with their numbers."""
        for event in events:
            if event["type"] == "input_request" and event["content"].get("input_id") in self._inputs:
                self._inputs[event["content"]["input_id"]][1] = event["number"]

    def inputs(self, acknowledged):
        """The open questions to the user that a reader has acknowledged: contents of input_request."""
        return [
            dict(event["content"], request=event["request"])
            for event, number in self._inputs.values()
            if number is not None and number <= acknowledged
        ]

    def span(self, request_id):
        """``(first, last)`` position of a cell's events, both None if it has none; None for an unknown cell."""
        cell = self._cells.get(request_id)
        return None if cell is None else (cell.first, cell.last)

    def listed(self):
        """The cells that a user has run, oldest first, as op ``cells`` returns them."""
        return [
            {
                "request": request_id,
                "count": cell.count,
                "code": cell.code,
                "started": cell.started,
                "ended": cell.ended,
                "status": cell.status,
                "bytes": cell.bytes,
                "complete": cell.complete,
            }
            for request_id, cell in self._cells.items()
            if not cell.silent
        ]
