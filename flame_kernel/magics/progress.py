"""What appears while a cell runs on several far sides: text as it comes, and who is done."""

from __future__ import annotations

import sys
import time
import uuid
from typing import Any

from ..group import folding
from ..group.future import GroupFuture
from ..group.group import Group
from ..terminal import coloured_text, plain_text

# Seconds between two renewals of who is done.
RENEWED = 0.5
# Lines of text that are shown of what runs.
_LATEST = 5
# Characters of the bar.
_BAR = 30


class Lines:
    """Text of several hosts as it comes: whole lines, the host before each."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], str] = {}

    def add(self, host: str, name: str, text: str) -> None:
        *whole, rest = (self._open.pop((host, name), "") + text).split("\n")
        for line in whole:
            self._say(host, name, folding.settled(line))
        if rest:
            self._open[host, name] = rest.rpartition("\r")[2] or rest  # of a line that is written again the last form

    def end(self) -> None:
        """Show what no line's end has followed."""
        for (host, name), rest in self._open.items():
            self._say(host, name, folding.settled(rest))
        self._open.clear()

    def _say(self, host: str, name: str, line: str) -> None:
        show_text(f"[{host}] {line}", sys.stderr if name == "stderr" else sys.stdout)


class Live:
    """Who is done, renewed in place while a cell runs on a group."""

    def __init__(self, shell: Any, chosen: Group, future: GroupFuture) -> None:
        self._shell = shell
        self._chosen = chosen
        self._future = future
        self._id: str | None = None
        self._shown = ""
        self._in_notebook = getattr(shell, "kernel", None) is not None
        self._at = 0.0

    def renew(self) -> None:
        """Show it, or show it anew, where something has changed."""
        if time.monotonic() - self._at < RENEWED:
            return
        self._at = time.monotonic()
        self._display(self._words())

    def end(self) -> None:
        """What is shown stays as one line."""
        if self._id is None and not self._shown:
            return
        self._display(_counts(self._chosen, self._future))
        if not self._in_notebook:
            sys.stderr.write("\n")

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

    def _display(self, words: str) -> None:
        if words == self._shown:
            return
        self._shown = words
        if not self._in_notebook:
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\x1b[K{words.splitlines()[0]}")
                sys.stderr.flush()
            return
        update = self._id is not None
        self._id = self._id or uuid.uuid4().hex
        self._shell.display_pub.publish({"text/plain": words}, transient={"display_id": self._id}, update=update)


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


def show_text(text: str, stream: Any = None) -> None:
    if text:
        print(coloured_text(text), file=stream or sys.stdout, flush=True)
