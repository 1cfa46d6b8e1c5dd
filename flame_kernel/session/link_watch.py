"""Watch: checks the lines of a link, and reports an outage and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from ..connect.connection import Connection
from ..connect.target import Target
from ..errors import FlameError
from .io_threads import IoThreads, Task, Wait
from .line import SILENT, Line
from .outage import Outage, cause, is_silence

# Seconds between checks of the lines while somebody waits.
TICK = 0.25
# Seconds: a shorter outage is not reported.
WORTH_SAYING = 0.5
# Seconds. While a cell runs, a server that has sent nothing for BEAT is asked for a sign of life; if nothing comes for
# SILENT, it counts as silent. Then a new connection is tried every PROBE: if it is answered, the old one is dead.
BEAT, PROBE = 1.0, 5.0
PROBE_PATIENCE = 2.5


class Watched(Protocol):
    """What Watch needs of a link."""

    target: Target
    closing: threading.Event
    calls: Line

    @property
    def lines(self) -> Sequence[Line]: ...

    @property
    def location(self) -> str: ...

    def broken(self) -> tuple[list[FlameError], float]: ...


class Watch:
    """The arguments are those of `Link`. ``trouble`` is what is wrong, ``heard`` when the server last sent."""

    def __init__(
        self,
        link: Watched,
        on_trouble: Callable[[Outage | None], None],
        is_wanted: Callable[[], bool],
        beat: Callable[[], None],
    ) -> None:
        self.trouble: Outage | None = None
        self.heard = time.monotonic()
        self._link = link
        self._on_trouble = on_trouble
        self._is_wanted = is_wanted
        self._beat = beat
        self._traffic = 0
        self._said = -1e9  # when trouble was last reported
        self._probed = 0.0
        self._ticks = False  # another check is due soon
        self._task: Task | None = None

    def __repr__(self) -> str:
        return f"<Watch over {self._link!r}>"

    def start(self, threads: IoThreads) -> None:
        self._task = threads.task(self._turn)
        self._task.wake()

    def wake(self) -> None:
        """Check now: something has happened."""
        if self._task is not None:
            self._task.wake()

    def expect(self) -> None:
        """Somebody begins to wait for an answer: check soon, and then again and again."""
        if not self._ticks and self._task is not None:
            self._ticks = True
            self._task.wake_in(TICK)

    def wait(self, timeout: float) -> None:
        """Wait until the last check is over, when the link is closing."""
        if self._task is not None:
            self._task.wait(timeout)

    def _turn(self, why: str) -> Wait | None:
        """Report what is wrong, and find out whether a silent connection is dead."""
        if self._link.closing.is_set():
            return None
        self._ticks = False  # before the check: whoever comes meanwhile wakes it
        wanted, now = self._is_wanted(), time.monotonic()
        trouble = self._look(now)
        before, self.trouble = self.trouble, trouble
        broken = bool(self._link.broken()[0])
        if trouble is None:
            if before is not None:
                self._on_trouble(None)
                self._said = -1e9
            if wanted and now - self.heard > BEAT and self._link.calls.asked is None:
                self._beat()
        else:
            if now - self._said >= trouble.every:
                self._said = now
                self._on_trouble(trouble)
            if trouble.silent and not broken and now - max(self._probed, trouble.since + SILENT) > PROBE:
                self._probe()
                self._probed = time.monotonic()
        self._ticks = wanted or broken or trouble is not None
        return Wait(seconds=TICK if self._ticks else None)

    def _look(self, now: float) -> Outage | None:
        """What is wrong now."""
        lines = self._link.lines
        traffic = sum(line.connection.bytes_sent + line.connection.bytes_received for line in lines)
        if traffic != self._traffic:  # a large message takes its time on a slow line
            self._traffic, self.heard = traffic, now
        errors, since = self._link.broken()
        if errors:
            if now - since < WORTH_SAYING:
                return self.trouble
            silent = all(is_silence(e) for e in errors)
            if self.trouble is not None and self.trouble.silent:
                since = min(since, self.trouble.since)
            reason = cause(errors[0])
        else:
            asked = [line.asked for line in lines if line.is_late(now)]
            if not asked or now - self.heard < SILENT or not self._is_wanted():
                return None
            silent, since, reason = True, max(self.heard, min(one for one in asked if one is not None)), ""
        return Outage(self._link.location, silent, since, time.time() - (now - since), reason)

    def owes(self, line: Line, something: bool) -> None:
        """Another line has been answered; its answer says whether ``something`` should come on this one. If nothing
        comes for SILENT, this line is dead although the server is not, and it is closed."""
        now, received, asked = time.monotonic(), line.connection.bytes_received, line.asked
        if not something or asked is None:
            line.owed = None
        elif line.owed is None or line.owed[1] != received or line.owed[0] < asked:
            line.owed = now, received
        elif now - line.owed[0] > SILENT:
            line.owed = None
            line.connection.abort()

    def _probe(self) -> None:
        """Try a new connection. If it is answered and the old ones are not, those are dead, and are closed."""
        target = self._link.target
        patient = replace(target, timeouts=replace(target.timeouts, connect=PROBE_PATIENCE))
        try:
            Connection(patient).close()
        except FlameError:
            return
        time.sleep(TICK)  # a server that was only busy answers the old ones now, too
        now = time.monotonic()
        for line in self._link.lines:
            if line.is_late(now):
                line.connection.abort()
