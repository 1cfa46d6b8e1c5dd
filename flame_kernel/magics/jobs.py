"""Job: a cell on a far side, running or finished: its state, output and value, and how to stop it.

Every ``%%flame`` cell is a job; ``%flame jobs`` lists those in the background (``--bg``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from typing import Any

from ..commands.tables import aligned
from ..errors import FlameError, RemoteError, SessionGone
from ..remote.exceptions import raised_there
from ..remote.kept_text import HasStreams, KeptStreams
from ..remote.remote import Remote
from ..session.inbox import Event

# Most characters of text, and of rich output, that a job keeps; more is shown but not kept.
KEPT = 8_000_000
# Seconds to wait for the end of a background job's lane.
LANE_PATIENCE = 5.0

_RICH = ("display_data", "update_display_data", "execute_result")


def cell_error(content: dict[str, Any]) -> RemoteError:
    """The exception for an ``error`` event, with the class name and traceback of the far side. Its text is that of a
    local exception, without the class name, because front ends write that name themselves."""
    error = raised_there({**content, "bases": [content.get("ename")]}, {})
    kind = type(error)
    looks = {"__str__": lambda self: self.evalue, "__module__": kind.__module__}
    error.__class__ = type(error.ename or kind.__name__, (kind,), looks)
    return error


@dataclasses.dataclass(frozen=True)
class Listed:
    """What ``%flame jobs`` says of a job."""

    number: int
    target: str
    state: str
    seconds: float
    code: str


class Job(HasStreams):
    """One cell for ``remote``; made by ``%%flame``, and sent by ``start``.

    shown  returns what of an event may be shown, or None; called on the session's events thread
    show   called on that thread with each event that may be shown
    keep   whether its output is kept
    request_id  names it to the far side

    ``state`` is one of: waiting (not begun), running, stopping (cancelled, and not over), done, failed, stopped,
    lost (its session is gone).
    """

    def __init__(
        self,
        number: int,
        remote: Remote,
        target: str,
        code: str,
        shown: Callable[[Event], Event | None],
        show: Callable[[Event], None],
        keep: bool,
        request_id: str,
    ) -> None:
        self.number = number
        self.target = target
        self.code = code
        self.request_id = request_id
        self.started = time.time()
        self.ended: float | None = None
        self.reply: Future[dict[str, Any]] = Future()
        self._remote = remote
        self._shown = shown
        self._show = show
        self._keep = keep
        self._text = KeptStreams(KEPT, "a job")
        self._rich: list[dict[str, Any]] = []
        self._rich_size = 0
        self._error: dict[str, Any] | None = None
        self._cancelled = False
        self._begun = False
        self.is_tried = False
        self._value_number: int | None = None  # its number in the far side's Out
        self._over = threading.Event()
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        words = " ".join(self.code.split())
        code = words if len(words) <= 40 else words[:39] + "…"
        return f"<Job {self.number} on {self.target}: {self.state}, {self.seconds:.1f} s: {code!r}>"

    # -- what it is doing --------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The state in one word: see the class."""
        if not self._over.is_set():
            return "stopping" if self._cancelled else "running" if self._begun else "waiting"
        ename = None if self._error is None else self._error.get("ename")
        if isinstance(self._failure, SessionGone) or ename == "SessionDied":
            return "lost"
        if ename == "KeyboardInterrupt":
            return "stopped"
        return "failed" if self._failure is not None or self._error is not None else "done"

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return (self.ended or time.time()) - self.started

    @property
    def listed(self) -> Listed:
        line = next((line for line in self.code.splitlines() if line.strip()), "")
        return Listed(self.number, self.target, self.state, self.seconds, line[:60])

    def done(self) -> bool:
        """Whether it is over, for any reason."""
        return self._over.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over, or ``timeout`` seconds; returns whether it is. Ctrl-C ends the wait, not the job."""
        return self._over.wait(timeout)

    def cancel(self, gently: bool = False) -> bool:
        """Interrupt it, as Ctrl-C would; False if it is over already. What it prints then still comes.

        If the job hangs in a call that Python cannot stop, it says so. The second ``cancel`` abandons that call or, in
        a child, ends the child with all variables; with ``gently`` it does not.
        """
        if self._over.is_set():
            return False
        self._cancelled = True
        with contextlib.suppress(FlameError):  # the reply fails too, and gives the reason
            self._remote.session.interrupt(self.request_id, gently)
        return True

    # -- what it has given -------------------------------------------------------------------------------------------

    @property
    def output(self) -> str:
        """The text that it has printed so far, stdout and stderr in their order."""
        return self._text.both

    @property
    def displays(self) -> list[dict[str, Any]]:
        """The MIME bundles that it has shown so far, also that of its value."""
        return list(self._rich)

    @property
    def error(self) -> BaseException | None:
        """The exception that it raised, or None; None also while it runs."""
        if not self._over.is_set():
            return None
        if self._error is not None:
            return cell_error(self._error)
        return self._failure

    @property
    def result(self) -> Any:
        """The value of its last expression, None if it has none; waits for the end, and raises what the cell raised."""
        self.wait()
        error = self.error
        if error is not None:
            raise error
        return self.value() if self.has_value else None

    def get(self, timeout: float | None = None) -> Any:
        """As ``result``, but raises TimeoutError after ``timeout`` seconds."""
        if not self.wait(timeout):
            raise TimeoutError(f"job {self.number} is still running; wait longer, or cancel() it")
        return self.result

    def value(self) -> Any:
        """The cell's value: a copy if it can be sent, else a stand-in."""
        return self._remote[f"_{self._value_number}"]

    @property
    def has_value(self) -> bool:
        """Whether it has shown a value, as Out does."""
        return self._value_number is not None

    # -- for the magics ----------------------------------------------------------------------------------------------

    def start(self, *, allow_stdin: bool, lane: str = "", trial: dict[str, float] | None = None) -> None:
        """Send the cell; ``reply`` is done when the cell is done there. ``lane`` is the subshell that it runs on;
        ``trial``: see ``Session.execute``."""
        self._begun = True
        self.is_tried = trial is not None  # its value is gone when it is done
        more: dict[str, Any] = {"allow_stdin": allow_stdin, "lane": lane or None, "trial": trial, "held": True}
        reply = self._remote.cell(self.code, self._event, request_id=self.request_id, **more)
        reply.add_done_callback(self._replied)

    def _replied(self, reply: Future[dict[str, Any]]) -> None:
        self._failure = reply.exception()
        if self._failure is None:
            content = reply.result()
            if content.get("status") != "ok" and self._error is None:
                self._error = content
            self.reply.set_result(content)
        else:
            self.reply.set_exception(self._failure)

    def finish(self, failure: BaseException | None = None) -> None:
        """The job is over, and so is what follows it (pull, bind); ``failure`` is the reason if that failed."""
        self._failure = self._failure or failure
        self.ended = time.time()
        self._over.set()

    def fail(self, failure: BaseException) -> None:
        """The cell could not be sent."""
        self.reply.set_exception(failure)
        self.finish(failure)

    def close_lane(self, lane: str) -> None:
        """End the thread there on which it ran."""
        with contextlib.suppress(FlameError, futures.TimeoutError):
            self._remote.session.close_lane(lane).result(LANE_PATIENCE)

    def _event(self, event: Event) -> None:
        """The sink of the cell's events."""
        if event["type"] == "execute_result":
            number = event["content"].get("execution_count")
            self._value_number = number if isinstance(number, int) else None
        allowed = self._shown(event)
        if allowed is None:
            return
        event = allowed
        kind, content = event["type"], event["content"]
        if kind == "stream" and self._keep:
            self._text.add(str(content.get("name")), str(content.get("text")))
        elif kind in _RICH and self._keep:
            size = len(str(content))
            if self._rich_size + size <= KEPT:
                self._rich_size += size
                self._rich.append(content.get("data") or {})
        elif kind == "error":
            self._error = content
        self._show(event)


def table(jobs: list[Job]) -> str:
    """``jobs`` as lines of text."""
    if not jobs:
        return "no jobs; %%flame --bg begins one"
    rows = [("job", "target", "state", "seconds", "code")]
    for job in jobs:
        it = job.listed
        rows.append((str(it.number), it.target, it.state, f"{it.seconds:.1f}", it.code))
    return "\n".join(aligned(rows))
