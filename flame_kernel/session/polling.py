"""Polling: the events of a session as they come, in order, each once.

The server holds a poll until there are events; here only its socket waits. A turn takes the answer, passes its events
on, and sends the next poll.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ..agent.wire import message as wire
from ..connect.target import Timeouts
from ..errors import FlameError, UnsafeAnswer
from ..security import answers
from .inbox import Event, GapError, Inbox
from .io_threads import LATE, WOKEN, IoThreads, Task, Wait
from .line import Line
from .link import Link
from .poll_size import AHEAD, PollSize
from .requests import CELLS

# Seconds between two batches that have only text: at most 40 a second, with two streams each.
GAP = 0.025
# Seconds: after an empty answer that came sooner, the next poll waits so long. Else we might poll all the time.
EARLY = 0.05
# A multiplex server serves one call at a time, so it must not hold a poll; seconds between short polls.
POLL_BUSY_FIRST, POLL_BUSY_LAST, POLL_IDLE = 0.002, 0.05, 0.5
# Seconds that events which came with an answer wait for those of a poll.
PATIENCE = 0.05
# What a kernel takes with an answer: nothing for which somebody may call the far side, or ask the user.
_PLAIN = ("stream", "display_data", "update_display_data", "execute_result", "error", "clear_output", "execute_reply")


class AtOnce(NamedTuple):
    """What may come with the answer to a request.

    requests  kinds of such requests
    events    the types of events that may come; what is more is left to a poll
    has_room  whether they may be taken on the calls' turns, which must not wait for a front end that takes nothing
    alone     only the reply is taken, and only if nothing else has come
    """

    requests: tuple[str, ...]
    events: tuple[str, ...]
    has_room: Callable[[], bool]
    alone: bool = False

    @classmethod
    def cells(cls, has_room: Callable[[], bool]) -> AtOnce:
        """Cells, with their output."""
        return cls(("execute",), _PLAIN, has_room)

    @classmethod
    def replies(cls) -> AtOnce:
        """Cells and calls that show nothing."""
        return cls(CELLS, tuple(f"{kind}_reply" for kind in CELLS), lambda: True, True)


class Polling:
    """The events of one session.

    message   completes a request of this session
    take      is called with each batch of events that are new
    is_busy   whether a reply is awaited
    """

    def __init__(
        self,
        link: Link,
        line: Line,
        inbox: Inbox,
        timeouts: Timeouts,
        multiplex: bool,
        message: Callable[[dict[str, Any]], dict[str, Any]],
        take: Callable[[list[Event]], None],
        is_busy: Callable[[], bool],
    ) -> None:
        self._link = link
        self._line = line
        self._inbox = inbox
        self._timeouts = timeouts
        self._multiplex = multiplex
        self._message = message
        self._take = take
        self._is_busy = is_busy
        self._wait = 0.0 if multiplex else timeouts.poll
        self._pause = POLL_BUSY_FIRST
        self._amount = PollSize(link.location)
        self._poll = self._next()
        self._is_parked = False
        self._asked, self._received = 0.0, 0  # when the poll was parked, and the bytes that had come by then
        self._task: Task | None = None
        self.shown = inbox.ack  # the number of the last event that was passed on
        self._order = threading.Lock()  # of events: those of polls, and those that came with the answer to a request
        self.at_once: AtOnce | None = None

    def __repr__(self) -> str:
        return f"<Polling {self._link!r}, event {self._inbox.ack}>"

    def start(self, threads: IoThreads) -> None:
        self._task = threads.task(self._turn)
        self._task.wake()

    def wake(self) -> None:
        """Poll now: there is a request, or the link closes."""
        if self._task is not None and (self._multiplex or self._link.closing.is_set()):
            self._task.wake()

    def wait(self, seconds: float) -> None:
        """Wait until the last turn is over, when the link is closing."""
        if self._task is not None:
            self._task.wait(seconds)

    # -- events that come with the answer to a request -----------------------------------------------------------------

    def takes_with(self, kind: str) -> bool:
        """Whether a request of this kind may be answered with its events."""
        at_once = self.at_once
        return at_once is not None and kind in at_once.requests and not self._multiplex and at_once.has_room()

    def place(self) -> dict[str, Any]:
        """Fields for the op: events up to ``ack`` have been passed on, those up to ``after`` have come."""
        return {"ack": self.shown, "after": self._inbox.ack} | ({"alone": True} if self._is_alone else {})

    @property
    def _is_alone(self) -> bool:
        return self.at_once is not None and self.at_once.alone

    def take(self, batch: list[Event]) -> bool:
        """Take events that came with an answer; False if they have to come by a poll."""
        at_once = self.at_once
        if at_once is None or not all(event["type"] in at_once.events for event in batch):
            return False
        if not (at_once.has_room() and self._order.acquire(timeout=PATIENCE)):
            return False
        try:
            events = self._inbox.feed(batch)
            if events:
                self._take(events)
            self.shown = self._inbox.ack
        except GapError:  # what is missing is on its way to a poll
            return False
        finally:
            self._order.release()
        return True

    # -- a turn --------------------------------------------------------------------------------------------------------

    def _turn(self, why: str) -> Wait | None:
        """Take what has come and poll again, until there is something to wait for."""
        if self._is_parked and why == LATE:
            self._link.give_up_prefetched(self._line)
        elif self._is_parked and why == WOKEN and not self._link.closing.is_set():
            left = self._asked + self._timeouts.poll_deadline - time.monotonic()
            parked = self._link.await_prefetched(self._line, left, self._wait)
            if parked is not None:
                return parked
        while not self._link.closing.is_set():
            if not self._is_parked:
                parked = self._ask()
                if parked is not None:
                    return parked
                self._poll["wait"] = 0.0  # this thread waits for it
            pause = self._answered()
            if pause:
                return Wait(seconds=pause)
            if not self._is_parked and not self._is_busy():
                return Wait(is_last=True)  # nobody waits for what comes next, but others may wait for their answers
        return None

    def _ask(self) -> Wait | None:
        """Send the poll if it is not sent yet; returns what to wait for, None if the answer is here."""
        link, line, seconds = self._link, self._line, self._timeouts.poll_deadline
        self._asked, self._received = time.monotonic(), line.connection.bytes_received
        if line.ahead is None or line.ahead[0] is not self._poll:
            link.prefetch(line, self._poll, seconds)
        self._is_parked = True
        return link.await_prefetched(line, seconds, self._wait)

    def _answered(self) -> float:
        """Take the answer to the poll; returns the seconds until the next one."""
        line, poll = self._line, self._poll
        self._is_parked = False
        following = self._following()
        batch = self._batch(following)
        if batch is None:
            return 0.0
        took, received = time.monotonic() - self._asked, line.connection.bytes_received - self._received
        self._amount.suit(took, received)
        with self._order:
            events = self._fresh(batch)
            if events is None:
                return 0.0
            self._send_next(following, received)
            # Where a writer waits for the next acknowledgement, the server answers with nothing, to be told it at once.
            acknowledges = self._inbox.ack > poll["ack"]
            if events:
                self._take(events)
            self.shown = self._inbox.ack
        if self._multiplex:
            self._pause = POLL_BUSY_FIRST if events else min(self._pause * 1.5, POLL_BUSY_LAST)
            return self._pause if self._is_busy() else POLL_IDLE
        return EARLY if not (events or acknowledges or self._amount.is_partial) and took < EARLY else 0.0

    def _batch(self, following: dict[str, Any] | None) -> list[Event] | None:
        """The events in the answer; None if the link has ended. ``following`` is sent when all of it has arrived."""
        link, line, seconds = self._link, self._line, self._timeouts.poll_deadline
        if following is not None:
            line.connection.channel.when_arrived = lambda: link.prefetch(line, following, seconds)
        try:
            result, buffers = link.insist(line, self._poll, seconds, wait=self._wait, on_broken=self._less)
            batch = wire.decode_events(*self._amount.whole(result, buffers))
            return answers.events(batch)
        except wire.WireError as e:
            self._refuse(e)
        except FlameError as e:
            if not link.closing.is_set():
                link.end(e)
        return None

    def _fresh(self, batch: list[Event]) -> list[Event] | None:
        """The events that are new; None if the link has ended, because one is missing."""
        try:
            return self._inbox.feed(batch)
        except GapError as e:
            self._refuse(e)
            return None

    def _refuse(self, error: wire.WireError) -> None:
        self._link.end(UnsafeAnswer(self._link.location, f"events of the wrong shape: {error}"))

    def _send_next(self, following: dict[str, Any] | None, received: int) -> None:
        """Prepare the next poll, and send it now if much more is coming: then the server prepares the next batch while
        this one is shown."""
        line, after = self._line, self._poll["after"]
        if following is not None and line.ahead is not None and line.ahead[0] is following:
            self._poll = following
            return
        self._poll = self._next()
        if received >= AHEAD and not self._multiplex:
            self._poll["ack"] = after
            self._link.prefetch(line, self._poll, self._timeouts.poll_deadline)

    def _next(self) -> dict[str, Any]:
        after = self._inbox.ack
        poll = self._message({"op": "poll", "ack": after, "after": after, "wait": self._timeouts.poll})
        return poll | self._amount.fields(self._link.round_trip) | {"gap": 0.0 if self._multiplex else GAP}

    def _following(self) -> dict[str, Any] | None:
        """The poll after this one, if that is known already: a piece of the same answer. It is sent as soon as this
        one's answer has arrived, before that is checked. Not where an answer may be fetched in parts."""
        fields = None if self._multiplex or self._link.max_message else self._amount.following(self._poll)
        return None if fields is None else self._poll | fields

    def _less(self) -> None:
        """A poll was cut: the next one asks for less, or a line that is cut again and again would never progress. The
        server does not hold it, because a thread waits for it."""
        self._amount.cut(self._poll)
        self._poll["wait"] = 0.0
