"""EventLog: the events of a session, numbered 1, 2, 3 …, kept until the reader acknowledges them.

Producers are cells, their threads, ``__del__`` methods, and threads in which an exception may be raised at any
bytecode. So they only append to a deque and release raw locks: none of them can corrupt the log or block in it.
Numbering, merging, spilling and forgetting happen on the threads that read or keep the log, under a lock. Numbered
events are stored in the ``journal``.

An event is a dict ``{"type", "request", "content"}``, with ``"metadata"`` and ``"buffers"`` if there are any, and with
``"number"`` when it is read.
"""

import _thread
import collections
import time

from . import blocks, cells, claims, journal, texts
from .locks import Lock, signal, wake

# Text in one stream event, in bytes, roughly: even a link that breaks often must get a whole event through.
PIECE = 1 << 14
# The keeper is woken when this many events wait to be numbered, since there may be no reader to do it.
DRAIN_AT = 1024
# Writers wait when this many events are not numbered yet; or LARGE_CROWD, if their text is longer than LARGE
# characters.
CROWD, LARGE_CROWD, LARGE = 4096, 64, 1 << 10
# A batch with more bytes of text than this waits only half as long for more (see ``gap`` of poll).
WORTH_SENDING = 1 << 18
# Events that wait a moment for the end of their cell, to go in one answer; ``ready`` waits for a first cell.
GATHERED = ("stream", "execute_result", "ready")
# A log counts as left alone when its reader has sent nothing for this many seconds.
ATTACHED = 10.0
# How often a waiting reader checks whether its client is still there, in seconds.
LOOK_AROUND = 5.0
# How often a waiting writer looks again, in seconds; interrupts get through in between.
LOOK_FIRST, LOOK_LAST = 0.0005, 0.005
# The longest that a flush waits for the reader, in seconds: on a busy machine the reader's thread may have to wait.
HAND_OVER_PATIENCE = 1.0
# The share of time that flushes may spend waiting, and how many unused seconds of it they can save up.
HAND_OVER_SHARE, HAND_OVER_SAVED = 0.1, 0.05


class EventLog:
    """Numbered events from ``acknowledged`` to ``newest``, and some of those before.

    bound      bytes that producers of text may be ahead of an attached reader before they have to wait; also how much
               of the unacknowledged events stays in memory
    cap        bytes kept while no reader is attached; None: a reader is always attached, in this process
    when_full  what happens at the cap: "drop" the middle, or "block" the producers of text until a reader comes
    history    bytes of acknowledged events kept for ``watch`` and ``replay``
    """

    def __init__(self, bound=8 << 20, cap=None, when_full="drop", history=0):
        self.bound = bound
        self.when_full = when_full
        self._room = self._room_below(cap)
        self.cells = cells.Cells()
        self.acted_on = time.monotonic()  # when the reader last sent anything
        self._journal = journal.Journal(
            cap, None if cap is None else min(bound, cap), history, on_dropped=self.cells.dropped
        )
        self._incoming = collections.deque()
        self._texts = texts.Texts()
        self._shown = 0  # up to this position, events were given to someone and must not change any more
        self._newest_word = 0  # number of the newest event that must be sent without delay
        self._last_sent = -1e9
        self._sent = 0  # bytes that the reader was sent and has not acknowledged
        self.kept = None  # an answer that the reader fetches in pieces
        self._hand_over_left = HAND_OVER_SAVED  # seconds that flushes may still wait, as of ``_handed_over``
        self._handed_over = time.monotonic()
        self.lock = Lock()
        self.signals = (signal(), signal())  # of the reader: there is news, and it is urgent
        self.claim = None  # a call that is woken in place of the reader, see ``claims``
        self._listeners = ()  # signals of watchers
        self._keeper = signal()
        self._readers = 0
        self._parked = False
        self._held_up = False  # a writer waits for the reader to acknowledge more
        self._left = False
        self._closed = False

    def __repr__(self):
        return "<EventLog %r>" % (self._journal,)

    # -- producers ---------------------------------------------------------------------------------------------------

    def append(self, event):
        """Add one event. Never blocks; safe on any thread at any moment."""
        if self._add(event):
            wake(self.signals[1])
        self._announce()

    def _add(self, event):
        """Add an event without telling anybody; returns whether a reader who gathers text shall have it at once."""
        if event["type"] == "stream":
            content = event["content"]
            self._incoming.append(((event["request"], content["name"]), content["text"]))
            return False
        self._incoming.append(event)
        return event["type"] not in GATHERED

    def _announce(self):
        wake(self.signals[0])
        for listener in self._listeners:
            wake(listener)
        if len(self._incoming) > DRAIN_AT:
            wake(self._keeper)

    def write(self, request, name, text):
        """Add stream text of a cell, cut into pieces; the writer waits here while it is too far ahead."""
        key, incoming = (request, name), self._incoming
        if len(text) <= LARGE:  # a word or a line: mostly there is room, and the reader has been woken already
            incoming.append((key, text))
            if self.signals[0].locked() or self._listeners or len(incoming) > DRAIN_AT:
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
        """Make the writer, which has just added ``piece``, wait if it is too far ahead."""
        crowd, large = len(self._incoming), len(piece) > LARGE
        # Preferably at the end of a line: other threads print while this one waits.
        may_wait = large or piece.endswith("\n") or crowd > 2 * CROWD
        if may_wait and (crowd > (LARGE_CROWD if large else CROWD) or self._must_wait()):
            self.wait_for_room(LARGE_CROWD)

    def wait_for_room(self, crowd=CROWD):
        """Block until there is room for more, in short sleeps so that an interrupt gets through."""
        if self.lock.owner == _thread.get_ident():
            return  # a __del__ method that prints while the log itself is working on this thread
        pause = LOOK_FIRST
        try:
            while not self._closed and (len(self._incoming) > crowd or self._must_wait()):
                self._held_up = True
                self._wake_all()
                time.sleep(pause)
                pause = min(pause * 2, LOOK_LAST)
        finally:
            self._held_up = False

    def hand_over(self, in_any_case):
        """Wait a moment until the reader has everything: flushed text must survive a crash.

        Code that flushes after each word must not become slow: at most a tenth of its time is spent here, unless
        ``in_any_case``.
        """
        began = time.monotonic()
        left = min(HAND_OVER_SAVED, self._hand_over_left + HAND_OVER_SHARE * (began - self._handed_over))
        if (left <= 0 and not in_any_case) or self.lock.owner == _thread.get_ident():
            return
        pause = LOOK_FIRST
        # This order matters: the lock's owner may hold events that have left ``_incoming`` and not reached the journal.
        while not self._closed and (self._incoming or self.lock.owner is not None or self._journal.waiting):
            if time.monotonic() - began > HAND_OVER_PATIENCE:
                break
            wake(self.signals[1])
            time.sleep(pause)
            pause = min(pause * 2, LOOK_LAST)
        self._handed_over = time.monotonic()
        if not in_any_case:
            self._hand_over_left = left - (self._handed_over - began)

    def _room_below(self, cap):
        """How many bytes may wait before a writer is too far ahead."""
        return self.bound if cap is None else min(self.bound, cap)

    def _must_wait(self):
        waiting, cap = self._journal.waiting, self._journal.cap
        if waiting <= self.bound and (cap is None or waiting < cap):
            return False
        if cap is None or self.attached:
            return True
        return self.when_full == "block" and self._journal.is_full

    # -- the keeper --------------------------------------------------------------------------------------------------

    def take_in(self, events):
        """Add events and keep them; for a producing thread of our own. Readers wake when that is done: earlier, they
        and this thread would wait for each other."""
        urgent = False
        for event in events:
            urgent = self._add(event) or urgent
        self.keep()
        if urgent:
            wake(self.signals[1])
        self._announce()

    def keep(self):
        """Number what has arrived, and spill what should not stay in memory; called on producing threads of our own."""
        with self.lock:
            self.drain()

    def keep_for_ever(self):
        """Do the same whenever much has arrived: the main loop of a thread, needed where users' threads produce events
        and there may be no reader."""
        while not self._closed:
            self._keeper.acquire()
            self.keep()

    # -- the reader --------------------------------------------------------------------------------------------------

    @property
    def attached(self):
        """Whether a reader is waiting here or was a moment ago."""
        return not self._left and (self._parked or time.monotonic() - self.acted_on < ATTACHED)

    @property
    def seconds_alone(self):
        """Seconds since the reader last sent anything."""
        return 0.0 if self._parked else time.monotonic() - self.acted_on

    def attach(self):
        """A new reader is about to come: let the previous one return with nothing."""
        with self.lock:
            self._change_reader()
            self._left = False

    def detach(self, ack=0):
        """The reader, which has read up to ``ack``, leaves for now; its poll returns."""
        with self.lock:
            self._journal.acknowledge(ack)
            self._change_reader()
            self._left = True

    def set_bounds(self, cap=None, when_full=None):
        """Change the cap, or what happens when it is reached."""
        with self.lock:
            if cap is not None:
                self._journal.set_cap(cap)
                self._room = self._room_below(cap)
            if when_full is not None:
                self.when_full = when_full

    def poll(self, ack, wait=0.0, gap=0.0, limit=1 << 20, is_over=lambda: False, after=None):
        """The events after number ``ack``, about ``limit`` bytes at most (but at least one event); ``ack`` frees older
        ones.

        after    start behind this number instead: the reader has the events before it but has not processed them all
        wait     seconds to wait for the first event; ``None`` waits until there is one or the log is closed
        gap      seconds between two batches that hold only text and values: such output is gathered for so long
        is_over  called now and then: whether the client that would get the answer is gone

        Safe to repeat: an event sent under a number is sent again unchanged.  A second reader makes the first return
        with nothing, because the first one's answer would go to a dead connection.
        """
        with self.lock:
            mine = self._change_reader()
            news, urgent = self.signals
            self._left = False
            self._parked = True
            self._journal.acknowledge(ack)
            after = ack if after is None else max(ack, after)
            self._sent = self._journal.sent(after)
        try:
            return self._wait(mine, news, urgent, after, wait, gap, limit, is_over)
        finally:
            with self.lock:
                if mine == self._readers:
                    self._parked = False
                    self.acted_on = time.monotonic()

    def _change_reader(self):
        """Give each reader its own locks, so that the previous reader cannot take a signal meant for this one."""
        claims.end(self)
        before, self.signals = self.signals, (signal(), signal())
        self._readers += 1
        self._parked = False
        self.kept = None
        self.acted_on = time.monotonic()
        for lock in before:
            wake(lock)
        return self._readers

    def _wait(self, mine, news, urgent, ack, wait, gap, limit, is_over):
        deadline = None if wait is None else time.monotonic() + wait
        noticed, looked = None, False
        while True:
            with self.lock:
                if mine != self._readers:
                    return []
                self.drain()
                now = time.monotonic()
                held = 0
                pause = self._pause(ack, gap, limit)
                if pause:
                    noticed = noticed or now
                    held = max(self._last_sent + pause, noticed + claims.GRACE) - now
                batch = self._batch(ack, limit, now) if held <= 0 else None
            if batch is not None:
                return batch
            if held > 0:
                urgent.acquire(timeout=held)
                continue
            left = 3600.0 if deadline is None else deadline - now
            if left <= 0 or (looked and is_over()):
                return []
            looked = True  # who has just asked is there
            news.acquire(timeout=left if deadline is None else min(left, LOOK_AROUND))

    def _batch(self, ack, limit, now):
        """What to answer with; None if there is nothing to answer with yet."""
        batch = self.read(ack, limit, now)
        return batch if batch or self._is_to_answer() else None

    def read(self, after, limit, now):
        """A batch for the reader, perhaps an empty one; called with the lock."""
        batch = [_sent(event, number) for number, event in self._journal.take(after, limit)]
        if batch:
            self.cells.sent(batch)
            self._shown = self._journal.position
            self._last_sent = now
        return batch

    def acknowledge(self, number):
        with self.lock:
            self._journal.acknowledge(number)
            self.acted_on = time.monotonic()

    def _is_to_answer(self):
        """Whether poll should return with nothing: because the log is closed, or because a writer waits for this reader
        to acknowledge what it has, which only its next poll does."""
        return self._closed or (self._held_up and self._sent > 0)

    def _pause(self, ack, gap, limit):
        """How many seconds after the latest batch the events after ``ack`` should wait for more: 0 if someone waits for
        them, or a batch is full."""
        if ack >= self._journal.newest or self._newest_word > ack or self._closed:
            return 0.0
        size = self._journal.waiting - self._sent
        return gap if size <= WORTH_SENDING else gap / 2 if size < limit else 0.0

    # -- other watchers ---------------------------------------------------------------------------------------------

    def watch(self, after, limit=1 << 20, wait=0.0, is_over=lambda: False):
        """``(events, newest position, skipped)`` behind position ``after``, for a watcher that changes nothing.

        The events' ``number`` is their position.  ``skipped`` counts events that were forgotten before this watcher saw
        them. ``after`` None: from the beginning of the running cell, or from now.
        """
        deadline = time.monotonic() + wait
        news = signal()
        try:
            while True:
                with self.lock:
                    if news not in self._listeners:
                        self._listeners += (news,)
                    self.drain()
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
            with self.lock:
                self._listeners = tuple(one for one in self._listeners if one is not news)

    def _begun(self):
        """The position before the first event of the running cells, or the newest position if none runs."""
        begun = [self.cells.span(cell["request"])[0] for cell in self.cells.running()]
        return min([position - 1 for position in begun if position is not None] or [self._journal.position])

    def replay(self, request, kinds, after, limit=1 << 20):
        """``(events, done)``: events of one request and these types that the reader was sent after number ``after``."""
        with self.lock:
            self.drain()
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
        """Record that a cell has been submitted."""
        with self.lock:
            self.cells.begin(request)

    def answered(self, input_id):
        """Record that the code that asked for a line has received it."""
        with self.lock:
            self.cells.answered(input_id)

    def state(self):
        """Numbers, bytes, the running cells, and the input requests that a reader was sent and nobody has answered."""
        with self.lock:
            self.drain()
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
        """End all waiting; events that are kept can still be read."""
        self._closed = True
        self._wake_all(self._listeners)

    def _wake_all(self, more=()):
        for one in self.signals + (self._keeper,) + more:
            wake(one)

    def forget(self):
        """Drop all events and the spill file. Call it after ``close``."""
        with self.lock:
            self._incoming.clear()
            self._texts.clear()
            self._journal.close()

    @property
    def newest(self):
        """The number of the newest event."""
        with self.lock:
            return self.drain()

    @property
    def waiting(self):
        """Bytes that no reader has acknowledged yet."""
        with self.lock:
            self.drain()
            return self._journal.waiting

    def drain(self):
        """Number incoming events; text joins the newest text of its cell and stream if no event came between. Called
        with the lock; returns the newest number."""
        run, key, length = [], None, 0  # the text of one stream, not numbered yet
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
            self._texts.clear()
            position = self._journal.add(event)
            if event["type"] not in GATHERED:
                self._newest_word = self._journal.newest
                if self.claim is not None:
                    self.claim.saw(event, self._newest_word)
            self.cells.saw(event, position, blocks.payload(event))
        if run:
            self._take_text(key, "".join(run))
        # With a reader attached nothing goes to the file: it would be read at once, and writers wait for that.
        if self._journal.settle(not self.attached, self.when_full == "drop"):
            self.cells.evicted(self._journal.oldest)
        return self._journal.newest

    def _take_text(self, key, text):
        size = blocks.measure(text)
        position, event = self._texts.growing(key)
        if position > self._shown and position >= self._journal.open_from and event["size"] + size <= PIECE:
            self._journal.grow(event, text, size)
        else:
            event = {"type": "stream", "request": key[0], "content": {"name": key[1], "text": text}}
            position = self._journal.add(event)
            self._texts.began(key, position, event)
        self.cells.saw(event, position, size)


def _sent(event, number):
    """An event in the form that readers get."""
    sent = {key: event[key] for key in ("type", "request", "content", "json", "metadata", "buffers") if key in event}
    sent["number"] = number
    return sent
