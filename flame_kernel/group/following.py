"""Follows a cell on many hosts to its end: shows text and progress as they come, and passes on Stop."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import signal
import time
import uuid
from collections.abc import Mapping
from typing import Any

from ..errors import FlameError, NotSent
from ..session.user import catch_interrupts, next_of
from ..terminal import plain_text
from . import folding
from .cell import CellResults
from .future import GroupFuture
from .group import Group
from .results import WHOLE, told_errors
from .telling import CellOptions, Screen, say, tell

# Seconds that hosts have to stop after Stop; a second Stop ends the wait at once.
STOP_PATIENCE = 2.0
# Seconds between two updates of the progress.
RENEWED = 0.5
# Lines of the running cells' output that the progress shows.
_LATEST = 5
# Characters of the progress bar.
_BAR = 30

_PRESSED = object()


class Following:
    """One cell on a group: ``begin`` sends it, ``wait`` shows its output on the calling thread until it ends."""

    def __init__(self, chosen: Group, wanted: CellOptions, screen: Screen) -> None:
        self._chosen = chosen
        self._wanted = wanted
        self._screen = screen
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def begin(self, code: str, values: Mapping[str, Any], **options: Any) -> GroupFuture:
        """Send the cell to all hosts; ``options`` are those of ``Group.cell``."""
        on_text = (lambda *one: self._told.put(one)) if self._wanted.stream else None
        future: GroupFuture = self._chosen.noblock.cell(code, values=values, on_text=on_text, **options)
        self.future = future
        future.add_done_callback(lambda done: self._told.put(None))
        return future

    def press(self) -> None:
        """Stop was pressed; may be called on any thread, and by a signal."""
        self._told.put(_PRESSED)

    def wait(self) -> CellResults:
        """Wait for the hosts and show their output; text and progress appear meanwhile.

        If Stop was pressed, raises KeyboardInterrupt when the hosts have stopped, or after 2 s.
        """
        wanted, future = self._wanted, self.future
        live, lines = Live(self._screen, self._chosen, future), Lines(self._screen, wanted.single)
        deadline = float("inf") if wanted.seconds is None else time.monotonic() + wanted.seconds
        pressed = left_at = float("inf")
        if wanted.progress_after == 0:
            live.renew()
        with catch_interrupts(self.press):
            while time.monotonic() < left_at:
                event = self._next()
                if event is None:
                    break
                if event is _PRESSED:
                    left_at = 0.0 if pressed < left_at or not wanted.stop else time.monotonic() + STOP_PATIENCE
                    pressed = time.monotonic()
                    stop(self._chosen, future, wanted.stop, self._screen)
                elif event:
                    lines.add(*event)
                if future.elapsed >= wanted.progress_after:
                    live.renew()
                if time.monotonic() > deadline:
                    deadline = float("inf")
                    late = folding.names(future.pending)
                    say(self._screen, f"[did not end within {wanted.seconds:g} s, so interrupted: {late}]", "stderr")
                    future.interrupt()
        lines.end()
        live.end()
        if pressed < float("inf"):
            self._stopped()
        results = future.results
        assert isinstance(results, CellResults)
        tell(self._screen, results, wanted)
        return results

    def _next(self) -> Any:
        """The next text or signal from the hosts; an empty tuple if none comes for a while."""
        try:
            return next_of(self._told, time.monotonic() + RENEWED)
        except queue.Empty:
            return ()

    def _stopped(self) -> None:
        """Show what there is after a Stop, and raise KeyboardInterrupt."""
        results, wanted = self.future.results, self._wanted
        assert isinstance(results, CellResults)
        left = list(dict.fromkeys([*self.future.pending, *results.unreachable]))
        if left:
            say(self._screen, f"[not stopped yet: {folding.names(left)}]", "stderr")
        if not wanted.stop:
            raise FlameError("no longer waiting; it keeps running there: %flame result")
        tell(self._screen, results, dataclasses.replace(wanted, raise_error=True))
        failed = {host: error for host, error in results.failed.items() if not _is_stop(error)}
        say(self._screen, "\n".join(told_errors(failed, len(results), WHOLE, wanted.mask)), "stderr")
        raise KeyboardInterrupt


def _is_stop(error: Exception) -> bool:
    """Whether the error is only the result of Stop."""
    return isinstance(error, NotSent) or getattr(error, "ename", "") == "KeyboardInterrupt"


def stop(chosen: Group, future: GroupFuture, number: int, screen: Screen) -> None:
    """Send a signal to the hosts that are not done: SIGINT is Stop, any other goes to the children of the servers."""
    if number == signal.SIGINT:
        future.interrupt()
        return
    pending = set(future.pending)
    for member in chosen.members:
        remote = member.known
        if number and member.label in pending and remote is not None:
            ready = remote.session.ready
            if not ready.done() or ready.result().get("place") != "child":
                say(screen, f"[{member.label} runs in its server's own process, which is sent no signal]", "stderr")
                continue
            with contextlib.suppress(FlameError):  # the cell's own end shows whether it worked
                code = f"import os as _os\n_os.kill(_os.getpid(), {number})"
                lane = f"signal-{uuid.uuid4().hex[:8]}"
                remote.cell(code, lambda event: None, silent=True, store_history=False, lane=lane, held=True)


class Lines:
    """Shows text of hosts as it comes, in whole lines, with the host before each unless there is a ``single`` one."""

    def __init__(self, screen: Screen, single: bool = False) -> None:
        self._screen = screen
        self._single = single
        self._open: dict[tuple[str, str], str] = {}

    def add(self, host: str, name: str, text: str) -> None:
        *whole, rest = (self._open.pop((host, name), "") + text).split("\n")
        for line in whole:
            self._say(host, name, line)
        if rest:
            self._open[host, name] = rest.rpartition("\r")[2] or rest  # of an overwritten line, only the last form

    def end(self) -> None:
        """Show the last lines, which have no line end."""
        for (host, name), rest in self._open.items():
            self._say(host, name, rest)
        self._open.clear()

    def _say(self, host: str, name: str, line: str) -> None:
        settled = folding.settled(line)
        say(self._screen, settled or " " if self._single else f"[{host}] {settled}", name)


class Live:
    """The progress of a cell on a group, updated in place."""

    def __init__(self, screen: Screen, chosen: Group, future: GroupFuture) -> None:
        self._screen = screen
        self._chosen = chosen
        self._future = future
        self._shown = ""
        self._at = 0.0

    def renew(self) -> None:
        """Show the progress if it has changed."""
        if time.monotonic() - self._at < RENEWED:
            return
        self._at = time.monotonic()
        words = self._words()
        if words != self._shown:
            self._shown = words
            self._screen.live(words, over=False)

    def end(self) -> None:
        """Replace the progress by one line that stays."""
        if self._shown:
            self._screen.live(_counts(self._chosen, self._future), over=True)

    def _words(self) -> str:
        done, total = self._future.progress, len(self._future)
        full = _BAR * done // total
        lines = [f"{_counts(self._chosen, self._future)}", f"{'█' * full}{'░' * (_BAR - full)} {done}/{total}"]
        results = self._future.results
        outputs = getattr(results, "outputs", {})
        latest = {host: _last_line(one.text) for host, one in outputs.items() if one.text.strip()}
        for block in folding.fold(latest)[:_LATEST]:
            lines.append(f"{folding.names(block.hosts, 4)}: {plain_text(block.text)}")
        return "\n".join(lines)


def _counts(chosen: Group, future: GroupFuture) -> str:
    """``38 done · 10 running · 1 failed · 1 not reachable · 3.2 s``."""
    results = future.results
    pending = set(future.pending)
    states = [member.state for member in chosen.members if member.label in pending]
    counts = {
        "done": len(results.ok),
        "running": sum(state in ("busy", "idle") for state in states),
        "connecting": sum(state in ("connecting", "not connected") for state in states),
        "silent": sum(state in ("silent", "lost") for state in states),
        "failed": len(results.failed),
        "not reachable": len(results.unreachable),
    }
    told = [f"{count} {state}" for state, count in counts.items() if count]
    return " · ".join([*told, f"{future.elapsed:.1f} s"])


def _last_line(text: str) -> str:
    return folding.settled(text.rstrip().rpartition("\n")[2])[:100]
