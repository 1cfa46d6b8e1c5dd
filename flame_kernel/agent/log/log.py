"""EventLog: what a session has to tell, numbered 1, 2, 3 …, kept until the reader acknowledges it.

Producers are cells, their threads, ``__del__`` methods and threads into which an exception may be thrown at any
bytecode: they only ever append to a deque and release raw locks, so none of them can tear the log or block in it.
Numbering, merging, spilling and forgetting are the work of the threads that read or keep the log, under a lock of
theirs; what is numbered lies in the ``journal``.

An event is a dict ``{"type", "request", "content"}`` with ``"metadata"`` and ``"buffers"`` where there are any, and
``"number"`` when it is read.
"""

import _thread
import collections
import threading
import time

from . import cells, journal

# Bytes of text in one stream event, about: on a link that breaks again and again a whole one must get through.
PIECE = 1 << 14
# A keeper is woken when so many events wait to be numbered: nobody may be reading.
DRAIN_AT = 1024
# Writers wait for that work when so many events wait; or so many of them, if theirs is large.
CROWD, LARGE_CROWD, LARGE = 4096, 64, 1 << 10
# A batch of stream text that is larger than this waits for half as long for more (see ``gap`` of poll).
WORTH_SENDING = 1 << 18
# Seconds that text and a value wait for the end of their cell, so that all go in one answer: one round trip a cell.
GRACE = 0.002
GATHERED = ("stream", "execute_result")
# Without a word of its reader for so long (seconds) a log counts as left alone.
ATTACHED = 10.0
# Seconds between looks of a reader that waits, whether its answer will still find somebody.
LOOK_AROUND = 5.0
# Seconds between looks of a writer that waits: an interrupt gets through in between.
LOOK_FIRST, LOOK_LAST = 0.0005, 0.005
# Seconds that a flush waits for the reader at most: on a busy machine its thread may have to wait for its turn.
HAND_OVER_PATIENCE = 1.0
# The part of the time in which flushes may wait, and of how many seconds of that they can make use later.
HAND_OVER_SHARE, HAND_OVER_SAVED = 0.1, 0.05


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


class _Lock:
    """A lock that knows which thread has it."""

    def __init__(self):
        self._lock = threading.Lock()
        self.owner = None

    def __enter__(self):
        self._lock.acquire()
        self.owner = _thread.get_ident()

    def __exit__(self, *exc_info):
        self.owner = None
        self._lock.release()


class EventLog:
    """Numbered events between ``acknowledged`` and ``newest``, and the latest of those before.

    bound       bytes that producers of text may be ahead of a reader that is attached, before they wait; and what is
                held in memory of the rest
    cap         bytes that are kept while no reader is attached; None: there always is one, in this process
    when_full   what happens then: "drop" the middle, or "block" the producers of text until a reader comes
    history     bytes of acknowledged events that are kept for ``watch``
    """

    def __init__(self, bound=8 << 20, cap=None, when_full="drop", history=0):
        self.bound = bound
        self.when_full = when_full
        self._room = self._room_below(cap)
        self.cells = cells.Cells()
        self.acted_on = time.monotonic()  # the last word of the reader
        self._journal = journal.Journal(
            cap, None if cap is None else min(bound, cap), history, on_dropped=self.cells.dropped
        )
        self._incoming = collections.deque()
        self._growing = {}  # (request, stream name) -> (position, event) whose text may still grow
        self._shown = 0  # what has been given to anyone, up to this position, is never changed again
        self._newest_word = 0  # number of the newest event that waits for no other
        self._last_sent = -1e9
        self._sent = 0  # bytes that the reader has and has not acknowledged
        self._hand_over_left = HAND_OVER_SAVED  # seconds that flushes may wait, as of the moment ``_handed_over``
        self._handed_over = time.monotonic()
        self._lock = _Lock()
        self._news = _signal()
        self._urgent = _signal()
        self._listeners = ()  # signals of watchers
        self._keeper = _signal()
        self._readers = 0
        self._parked = False
        self._held_up = False  # a writer waits until the reader has acknowledged more
        self._left = False
        self._closed = False

    def __repr__(self):
        return "<EventLog %r>" % (self._journal,)

    # -- producers ---------------------------------------------------------------------------------------------------

    def append(self, event):
        """Add one event; any thread, any moment; never blocks."""
        if event["type"] == "stream":
            content = event["content"]
            self._incoming.append(((event["request"], content["name"]), content["text"]))
        else:
            self._incoming.append(event)
            if event["type"] not in GATHERED:
                _wake(self._urgent)
        self._announce()

    def _announce(self):
        _wake(self._news)
        for listener in self._listeners:
            _wake(listener)
        if len(self._incoming) > DRAIN_AT:
            _wake(self._keeper)

    def write(self, request, name, text):
        """Stream text of a cell: cut into pieces, and the writer waits while it is too far ahead."""
        key, incoming = (request, name), self._incoming
        if len(text) <= LARGE:  # a word or a line, and mostly there is room, and a reader who knows that there is text
            incoming.append((key, text))
            if self._news.locked() or self._listeners or len(incoming) > DRAIN_AT:
                self._announce()
            if len(incoming) > CROWD or self._journal.waiting >= self._room:
                self._hold_up(text)
            return
        for at in range(0, len(text), PIECE):
            piece = text[at : at + PIECE] if len(text) > PIECE else text
            incoming.append((key, piece))
            self._announce()
            self._hold_up(piece)

    def _hold_up(self, piece):
        """Make a writer that has just added ``piece`` wait if it is too far ahead."""
        crowd, large = len(self._incoming), len(piece) > LARGE
        # At the end of a line, if that comes soon: other threads print while this one waits.
        may_wait = large or piece.endswith("\n") or crowd > 2 * CROWD
        if may_wait and (crowd > (LARGE_CROWD if large else CROWD) or self._is_ahead()):
            self.wait_for_room(LARGE_CROWD)

    def wait_for_room(self, crowd=CROWD):
        """Block until there is room for more: in short sleeps, so that an interrupt gets through."""
        if self._lock.owner == _thread.get_ident():
            return  # a __del__ that prints, in the middle of the log's own work
        pause = LOOK_FIRST
        try:
            while not self._closed and (len(self._incoming) > crowd or self._is_ahead()):
                self._held_up = True
                _wake(self._urgent)
                _wake(self._news)
                _wake(self._keeper)
                time.sleep(pause)
                pause = min(pause * 2, LOOK_LAST)
        finally:
            self._held_up = False

    def hand_over(self, in_any_case):
        """Wait a moment until the reader has all that is here: text that was flushed must outlive a crash.

        Code that flushes after each word must not become slow: at most a tenth of its time is spent here, unless
        ``in_any_case``.
        """
        began = time.monotonic()
        left = min(HAND_OVER_SAVED, self._hand_over_left + HAND_OVER_SHARE * (began - self._handed_over))
        if (left <= 0 and not in_any_case) or self._lock.owner == _thread.get_ident():
            return
        pause = LOOK_FIRST
        # In this order: what has left the one and is not yet in the other is in the hands of the lock's owner.
        while not self._closed and (self._incoming or self._lock.owner is not None or self._journal.waiting):
            if time.monotonic() - began > HAND_OVER_PATIENCE:
                break
            _wake(self._urgent)
            time.sleep(pause)
            pause = min(pause * 2, LOOK_LAST)
        self._handed_over = time.monotonic()
        if not in_any_case:
            self._hand_over_left = left - (self._handed_over - began)

    def _room_below(self, cap):
        """The bytes that may wait before a writer is too far ahead."""
        return self.bound if cap is None else min(self.bound, cap)

    def _is_ahead(self):
        waiting, cap = self._journal.waiting, self._journal.cap
        if waiting <= self.bound and (cap is None or waiting < cap):
            return False
        if cap is None or self.attached:
            return True
        return self.when_full == "block" and self._journal.is_full

    # -- the keeper --------------------------------------------------------------------------------------------------

    def keep(self):
        """Number what has come, and put away what memory shall not hold: for a thread of ours that produces."""
        with self._lock:
            self._drain()

    def keep_for_ever(self):
        """The same whenever much has come: the life of a thread, needed where users' threads produce and nobody may be
        reading."""
        while not self._closed:
            self._keeper.acquire()
            self.keep()

    # -- the reader --------------------------------------------------------------------------------------------------

    @property
    def attached(self):
        """Whether a reader waits here, or has just been here."""
        return not self._left and (self._parked or time.monotonic() - self.acted_on < ATTACHED)

    @property
    def seconds_alone(self):
        """Seconds since the last word of the reader."""
        return 0.0 if self._parked else time.monotonic() - self.acted_on

    def attach(self):
        """A new reader is about to come: the one before returns with nothing."""
        with self._lock:
            self._change_reader()
            self._left = False

    def detach(self, ack=0):
        """The reader says that it leaves for now, and has what is up to ``ack``: nobody waits for it."""
        with self._lock:
            self._journal.acknowledge(ack)
            self._change_reader()
            self._left = True

    def set_bounds(self, cap=None, when_full=None):
        """Change the cap, or what happens when it is reached."""
        with self._lock:
            if cap is not None:
                self._journal.set_cap(cap)
                self._room = self._room_below(cap)
            if when_full is not None:
                self.when_full = when_full

    def poll(self, ack, wait=0.0, gap=0.0, limit=1 << 20, is_over=lambda: False, after=None):
        """The events after number ``ack``, at most about ``limit`` bytes (but always one); ``ack`` frees the rest.

        after  begin behind this number, where the reader has what is before it and is still at work on that

        wait   seconds to wait for the first one; ``None`` waits until there is one or the log is closed
        gap    seconds between two batches of text and values only: output is gathered, and never delayed longer
        is_over  asked now and then whether there is nobody any more whom the answer would reach

        Safe to repeat: what was sent under a number is sent again the same.  A second reader wakes the first, which
        returns with nothing: the answer that it waits for goes to a dead connection.
        """
        with self._lock:
            mine = self._change_reader()
            news, urgent = self._news, self._urgent
            self._left = False
            self._parked = True
            self._journal.acknowledge(ack)
            after = ack if after is None else max(ack, after)
            self._sent = self._journal.sent(after)
        try:
            return self._wait(mine, news, urgent, after, wait, gap, limit, is_over)
        finally:
            with self._lock:
                if mine == self._readers:
                    self._parked = False
                    self.acted_on = time.monotonic()

    def _change_reader(self):
        """Locks of its own for each reader: a signal for this one cannot be taken by the one before it."""
        before = self._news, self._urgent
        self._news, self._urgent = _signal(), _signal()
        self._readers += 1
        self._parked = False
        self.acted_on = time.monotonic()
        for lock in before:
            _wake(lock)
        return self._readers

    def _wait(self, mine, news, urgent, ack, wait, gap, limit, is_over):
        deadline = None if wait is None else time.monotonic() + wait
        noticed = None
        while True:
            with self._lock:
                if mine != self._readers:
                    return []
                self._drain()
                now = time.monotonic()
                held = 0
                pause = self._pause(ack, gap, limit)
                if pause:
                    noticed = noticed or now
                    held = max(self._last_sent + pause, noticed + GRACE) - now
                if held <= 0:
                    batch = [_sent(event, number) for number, event in self._journal.take(ack, limit)]
                    if batch or self._is_to_answer():
                        self.cells.sent(batch)
                        self._shown = self._journal.position
                        self._last_sent = now
                        return batch
            if held > 0:
                urgent.acquire(timeout=held)
                continue
            left = 3600.0 if deadline is None else deadline - now
            if left <= 0 or is_over():
                return []
            news.acquire(timeout=left if deadline is None else min(left, LOOK_AROUND))

    def _is_to_answer(self):
        """Whether a poll ends with nothing: a reader that has all and has not said so yet would wait here for the
        writer that waits for it."""
        return self._closed or (self._held_up and self._sent > 0)

    def _pause(self, ack, gap, limit):
        """How long after the latest batch what comes after ``ack`` may wait for more: not at all if somebody waits for
        it, or a batch is full."""
        if ack >= self._journal.newest or self._newest_word > ack or self._closed:
            return 0.0
        size = self._journal.waiting - self._sent
        return gap if size <= WORTH_SENDING else gap / 2 if size < limit else 0.0

    # -- others who watch -------------------------------------------------------------------------------------------

    def watch(self, after, limit=1 << 20, wait=0.0, is_over=lambda: False):
        """``(events, newest position, skipped)`` behind position ``after``, for one who watches and touches nothing.

        Their ``number`` is their position.  ``skipped`` counts those that were forgotten before they were seen here.
        ``after`` None: from the beginning of the cell that runs, or from now.
        """
        deadline = time.monotonic() + wait
        news = _signal()
        try:
            while True:
                with self._lock:
                    if news not in self._listeners:
                        self._listeners += (news,)
                    self._drain()
                    if after is None:
                        after = self._begun()
                    found = self._journal.read(after, limit)
                    newest, oldest = self._journal.position, self._journal.oldest
                    if found:
                        self._shown = max(self._shown, newest)
                    events = [_sent(event, position) for position, _, event in found]
                left = deadline - time.monotonic()
                if events or left <= 0 or self._closed or is_over():
                    return events, newest, max(0, oldest - 1 - after)
                news.acquire(timeout=min(left, LOOK_AROUND))
        finally:
            with self._lock:
                self._listeners = tuple(one for one in self._listeners if one is not news)

    def _begun(self):
        """The position before the first event of what runs, or the newest one."""
        begun = [self.cells.span(cell["request"])[0] for cell in self.cells.running()]
        return min([position - 1 for position in begun if position is not None] or [self._journal.position])

    def replay(self, request, kinds, after, limit=1 << 20):
        """``(events, done)``: what the reader was sent of one request behind number ``after``, by types."""
        with self._lock:
            self._drain()
            first, last = self.cells.span(request) or (None, None)
            events = []
            at = (first or 1) - 1
            while last is not None and at < last:
                found = self._journal.read(at, max(limit, 1), request, last)
                for _, number, event in found:
                    if number is None:
                        return events, True
                    if number > after and event["type"] in kinds:
                        if events and limit < event["size"]:
                            return events, False
                        limit -= event["size"]
                        events.append(_sent(event, number))
                if not found:
                    break
                at = found[-1][0]
            return events, True

    def begin(self, request):
        """A cell has been submitted."""
        with self._lock:
            self.cells.begin(request)

    def answered(self, input_id):
        """Code that asked for a line has it."""
        with self._lock:
            self.cells.answered(input_id)

    def state(self):
        """How it is: numbers, bytes, what runs, and the input requests that a reader was sent and that
        nobody has answered."""
        with self._lock:
            self._drain()
            return {
                "newest": self._journal.newest,
                "acknowledged": self._journal.acknowledged,
                "waiting": self._journal.waiting,
                "running": self.cells.running(),
                "cells": self.cells.listed(),
                "inputs": self.cells.inputs(self._journal.acknowledged),
            }

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self):
        """No more waiting for anyone; what is kept can still be read."""
        self._closed = True
        for lock in (self._news, self._urgent, self._keeper) + self._listeners:
            _wake(lock)

    def forget(self):
        """Give up all that is kept, and the file. After ``close``."""
        with self._lock:
            self._incoming.clear()
            self._growing.clear()
            self._journal.close()

    @property
    def newest(self):
        """The number of the newest event."""
        with self._lock:
            self._drain()
            return self._journal.newest

    @property
    def waiting(self):
        """Bytes that no reader has acknowledged yet."""
        with self._lock:
            self._drain()
            return self._journal.waiting

    def _drain(self):
        """Number what has come in; text joins the newest text of its cell and stream, if nothing else came between."""
        run, key, length = [], None, 0  # text of one stream, not numbered yet
        while True:
            try:
                event = self._incoming.popleft()
            except IndexError:
                break
            if type(event) is tuple:
                stream, text = event
                if stream != key or length + len(text) > PIECE:
                    if run:
                        self._take_text(key, "".join(run))
                    run, key, length = [], stream, 0
                run.append(text)
                length += len(text)
                continue
            if run:
                self._take_text(key, "".join(run))
                run, key = [], None
            self._growing.clear()
            position = self._journal.add(event)
            if event["type"] not in GATHERED:
                self._newest_word = self._journal.newest
            self.cells.saw(event, position, journal.payload(event))
        if run:
            self._take_text(key, "".join(run))
        # What a reader is about to take needs no file: writers wait for it.
        if self._journal.settle(not self.attached, self.when_full == "drop"):
            self.cells.evicted(self._journal.oldest)

    def _take_text(self, key, text):
        size = journal.measure(text)
        position, event = self._growing.get(key, (0, None))
        if position > self._shown and position >= self._journal.open_from and event["size"] + size <= PIECE:
            self._journal.grow(event, text, size)
        else:
            event = {"type": "stream", "request": key[0], "content": {"name": key[1], "text": text}}
            position = self._journal.add(event)
            self._growing[key] = position, event
        self.cells.saw(event, position, size)


def _sent(event, number):
    """An event as a reader gets it."""
    sent = {key: event[key] for key in ("type", "request", "content", "json", "metadata", "buffers") if key in event}
    sent["number"] = number
    return sent
