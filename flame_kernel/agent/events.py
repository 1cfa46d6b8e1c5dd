"""EventLog: what a session has to tell, numbered 1, 2, 3 …, kept until the reader acknowledges it.

Producers are cells, their threads, ``__del__`` methods and threads into which an exception may be thrown at any
bytecode: they only ever append to a deque and release a raw lock, so none of them can tear the log or block in it.
Numbering, merging and forgetting are the reader's work, under a lock that is the reader's.

An event is a dict ``{"type", "request", "content"}`` with ``"metadata"`` and ``"buffers"`` where there are any, and
``"number"`` once it has one.
"""

import _thread
import collections
import threading
import time

# Text of one stream event; longer text becomes several, so that a batch can be cut between them.
PIECE = 1 << 16
# Producers number for the reader when so many events wait: nobody may be reading.
DRAIN_AT = 256
# A batch of stream text that is smaller than this may wait for more (see ``gap`` of poll).
WORTH_SENDING = 1 << 18
# Seconds that text waits for the end of its cell, so that both go in one answer: one round trip a cell.
GRACE = 0.002
# Without a reader for so long (seconds) a session counts as detached.
DETACHED_AFTER = 30.0


def _size_of(event):
    """About how many bytes an event takes: what the bounds are counted in."""
    if event["type"] == "stream":
        return 64 + len(event["content"]["text"])
    size = 256 + sum(len(b) for b in event.get("buffers") or ())
    data = event["content"].get("data")
    if isinstance(data, dict):
        size += sum(len(v) for v in data.values() if isinstance(v, str))
    return size


def _signal():
    """A raw lock used as an event, not set."""
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


def _wake(lock):
    """Signal a raw lock that is used as an event: harmless in any thread, at any moment, as often as you like."""
    if lock.locked():
        try:
            lock.release()
        except RuntimeError:  # another producer was quicker
            pass


class EventLog:
    """Numbered events between ``first unacknowledged`` and ``newest``.

    bound       bytes that producers of text may be ahead of an attached reader, before they wait
    far_bound   the same while nobody reads
    """

    def __init__(self, bound=8 << 20, far_bound=64 << 20):
        self.bound = bound
        self.far_bound = far_bound
        self.last_contact = time.monotonic()
        self._incoming = collections.deque()
        self._kept = collections.deque()  # events with a number; their text is a list of pieces until sealed
        self._open = {}  # (request, stream name) -> event at the end of _kept that may still grow
        self._size = 0
        self._number = 0
        self._sealed = 0  # what has been sent under a number is never changed again
        self._acknowledged = 0
        self._last_sent = -1e9
        self._lock = threading.Lock()
        self._owner = None
        self._news = _signal()
        self._urgent = _signal()
        self._readers = 0
        self._closed = False

    def __repr__(self):
        return "<EventLog %d kept, newest %d, acknowledged %d>" % (len(self._kept), self._number, self._acknowledged)

    # -- producers ---------------------------------------------------------------------------------------------------

    def append(self, event):
        """Add one event; any thread, any moment; never blocks."""
        self._incoming.append(event)
        if event["type"] != "stream":
            _wake(self._urgent)
        _wake(self._news)
        if len(self._incoming) > DRAIN_AT and self._owner != _thread.get_ident():
            with self._lock:
                self._drain()

    def write(self, request, name, text):
        """Stream text of a cell: cut into pieces, and the writer waits while the reader is too far behind."""
        for at in range(0, len(text), PIECE):
            piece = text[at : at + PIECE] if len(text) > PIECE else text
            self.append({"type": "stream", "request": request, "content": {"name": name, "text": piece}})
            if self._size > self.bound:
                self.wait_for_room()

    def wait_for_room(self):
        """Block until the reader has caught up: in short sleeps, so that an interrupt gets through."""
        _wake(self._urgent)
        while not self._closed:
            near = time.monotonic() - self.last_contact < DETACHED_AFTER
            if self._size <= (self.bound if near else self.far_bound):
                return
            time.sleep(0.005)

    # -- the reader --------------------------------------------------------------------------------------------------

    def poll(self, ack, wait=0.0, gap=0.0, limit=1 << 20):
        """The events after number ``ack``, at most about ``limit`` bytes (but always one); ``ack`` frees the rest.

        wait   seconds to wait for the first one; ``None`` waits until there is one or the log is closed
        gap    seconds between two batches that hold stream text only: output is gathered, and never delayed longer

        Safe to repeat: what was sent under a number is sent again the same.  A second reader wakes the first, which
        returns with nothing: the answer that it waits for goes to a dead connection.
        """
        with self._lock:
            # Locks of its own for each reader: a signal for this one cannot be taken by the one before it.
            before = self._news, self._urgent
            news, urgent = self._news, self._urgent = _signal(), _signal()
            self._readers += 1
            mine = self._readers
            self.last_contact = time.monotonic()
            self._forget(ack)
        for lock in before:
            _wake(lock)
        deadline = None if wait is None else time.monotonic() + wait
        noticed = None
        while True:
            with self._lock:
                if mine != self._readers:
                    return []
                self._drain()
                now = time.monotonic()
                held = 0
                if gap and self._is_mere_text(ack):
                    noticed = noticed or now
                    held = max(self._last_sent + gap, noticed + GRACE) - now
                if held <= 0:
                    batch = self._take(ack, limit)
                    if batch or self._closed:
                        self._last_sent = self.last_contact = now
                        return batch
            if held > 0:
                urgent.acquire(timeout=held)
                continue
            left = 3600.0 if deadline is None else deadline - now
            if left <= 0:
                self.last_contact = now
                return []
            news.acquire(timeout=left)

    def close(self):
        """No more waiting for anyone; what is kept can still be read."""
        self._closed = True
        _wake(self._news)
        _wake(self._urgent)

    @property
    def newest(self):
        """The number of the newest event."""
        with self._lock:
            self._drain()
            return self._number

    @property
    def waiting(self):
        """Bytes that no reader has acknowledged yet."""
        with self._lock:
            self._drain()
            return self._size

    def _is_mere_text(self, ack):
        """Whether what comes after ``ack`` is text, and not much of it: it may be gathered for a moment."""
        size = 0
        for event in reversed(self._kept):
            if event["number"] <= ack:
                break
            size += event["size"]
            if event["type"] != "stream" or size > WORTH_SENDING:
                return False
        return size > 0 and not self._closed

    def _drain(self):
        """Number what has come in; text joins the newest text of its cell and stream, if nothing else came between."""
        self._owner = _thread.get_ident()
        try:
            while True:
                try:
                    event = self._incoming.popleft()
                except IndexError:
                    return
                size = _size_of(event)
                self._size += size
                if event["type"] == "stream":
                    key = (event["request"], event["content"]["name"])
                    text = event["content"]["text"]
                    last = self._open.get(key)
                    if last is not None and last["number"] > self._sealed and last["size"] + size < PIECE * 16:
                        last["text"].append(text)
                        last["size"] += size
                        continue
                    event["text"] = [text]
                    self._open[key] = event
                else:
                    self._open.clear()
                self._number += 1
                event["number"] = self._number
                event["size"] = size
                self._kept.append(event)
        finally:
            self._owner = None

    def _take(self, ack, limit):
        batch, size = [], 0
        for event in self._kept:
            if event["number"] <= ack:
                continue
            if batch and size + event["size"] > limit:
                break
            size += event["size"]
            sent = {
                key: event[key]
                for key in ("number", "type", "request", "content", "metadata", "buffers")
                if key in event
            }
            if "text" in event:
                event["text"] = ["".join(event["text"])]
                sent["content"] = {"name": event["content"]["name"], "text": event["text"][0]}
            batch.append(sent)
        if batch:
            self._sealed = max(self._sealed, batch[-1]["number"])
        return batch

    def _forget(self, ack):
        if ack > self._acknowledged:
            self._acknowledged = ack
            while self._kept and self._kept[0]["number"] <= ack:
                self._size -= self._kept.popleft()["size"]
