"""GroupFuture: a future for the answers of many hosts."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, TimeoutError
from typing import Any

from ..errors import GroupError
from ..remote.kept_text import KeptText
from .output import KEPT
from .results import Results

# Seconds between two updates of the progress bar.
LOOK = 0.1

Make = Callable[[tuple[str, ...], Mapping[str, Any], Mapping[str, Exception], float], Results]


class GroupFuture(Future[Results]):
    """A future of `Results` that gives each answer as soon as it comes.

    ``for host, answer in future`` yields the answers as they come, and raises GroupError at the end if hosts failed.
    ``result()`` raises it, too. ``future.results`` has all answers so far and does not raise.
    """

    def __init__(self, hosts: tuple[str, ...], stop: Callable[[str], None], make: Make = Results) -> None:
        super().__init__()
        self.hosts = hosts
        self._stop = stop
        self._make = make
        self._ok: dict[str, Any] = {}
        self._errors: dict[str, Exception] = {}
        self._order: list[str] = []  # hosts in the order of their answers
        self._text: dict[str, KeptText] = {}
        self._news = threading.Condition()
        self._begun = time.monotonic()
        self._ended: float | None = None
        self._is_held = False

    def __repr__(self) -> str:
        state = "done" if self.done() else f"{self.progress} of {len(self.hosts)} hosts are done"
        return f"<GroupFuture {state}, {self.elapsed:.1f} s>"

    # -- for callers ---------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> int:
        """How many hosts are done, whether they answered or failed."""
        return len(self._order)

    def __len__(self) -> int:
        return len(self.hosts)

    @property
    def elapsed(self) -> float:
        """Seconds since the call began; once it is done, how long it took."""
        return (time.monotonic() if self._ended is None else self._ended) - self._begun

    @property
    def pending(self) -> tuple[str, ...]:
        """The hosts that have not answered yet."""
        with self._news:
            return tuple(host for host in self.hosts if host not in self._ok and host not in self._errors)

    @property
    def results(self) -> Results:
        """The results so far; hosts that have not answered yet are missing."""
        with self._news:
            made = self._make(self.hosts, dict(self._ok), dict(self._errors), self.elapsed)
            made.text = {host: str(self._text[host]) for host in self.hosts if host in self._text}
            return made

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all hosts are done, or for ``timeout`` seconds; True if they are. Does not raise their errors."""
        try:
            self.exception(timeout)
        except TimeoutError:
            return False
        return True

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for number in range(len(self.hosts)):
            with self._news:
                self._news.wait_for(lambda number=number: len(self._order) > number)  # type: ignore[misc]
                host = self._order[number]
                if host not in self._ok:
                    continue
                answer = self._ok[host]
            yield host, answer
        self.results.raise_failed()

    def wait_interactive(self, timeout: float | None = None) -> bool:
        """As ``wait``, with a progress bar."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tqdm warns if a notebook has no widgets; the bar is then text
            from tqdm.auto import tqdm
        tqdm.monitor_interval = 0
        end = None if timeout is None else time.monotonic() + timeout
        with tqdm(total=len(self.hosts), unit="host") as bar:
            while True:
                done = self.wait(LOOK if end is None else max(0.0, min(LOOK, end - time.monotonic())))
                bar.update(self.progress - bar.n)
                if done or (end is not None and time.monotonic() >= end):
                    return done

    def interrupt(self) -> None:
        """Interrupt the hosts that are not done, as Ctrl-C would; calls that wait there are not started."""
        for host in self.pending:
            self._stop(host)

    def cancel(self) -> bool:
        """As ``interrupt``; False if all hosts are done. The future is done when the hosts have stopped."""
        if self.done():
            return False
        self.interrupt()
        return True

    # -- for the group -------------------------------------------------------------------------------------------------

    def answered(self, host: str, answer: Any) -> None:
        """Store the answer of ``host``; anything after its first answer is ignored."""
        self._settle(host, lambda: self._ok.update({host: answer}))

    def failed(self, host: str, error: Exception) -> None:
        """Store the error of ``host`` in place of an answer."""
        self._settle(host, lambda: self._errors.update({host: error}))

    def printed(self, host: str, text: str) -> None:
        """Store text that a call on ``host`` has printed."""
        with self._news:
            if host not in self._text:
                self._text[host] = KeptText(KEPT, "a group")
            self._text[host].add(text)

    def _settle(self, host: str, note: Callable[[], None]) -> None:
        with self._news:
            if host in self._ok or host in self._errors:
                return
            note()
            if len(self._order) + 1 == len(self.hosts):
                self._ended = time.monotonic()
            self._order.append(host)
            self._news.notify_all()
            if self._ended is None or self._is_held:
                return
        self.complete()

    def settled(self, timeout: float) -> bool:
        """As ``wait``, but True as soon as all hosts are done, even if the future is held and not yet completed."""
        with self._news:
            return self._news.wait_for(lambda: len(self._order) == len(self.hosts), timeout)

    def hold(self) -> None:
        """Leave the end to `complete`: answers come on threads that must not wait for a user's callbacks."""
        self._is_held = True

    def complete(self) -> None:
        """All hosts are done: set the result, and call the callbacks."""
        results = self.results
        try:
            results.raise_failed()
        except GroupError as error:
            self.set_exception(error)
        else:
            self.set_result(results)
